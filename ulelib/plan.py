"""One plan, any machine: the stages that some results need, run by any executor.

    stages_of(wanted)               every stage once, needed ones first
    run(wanted, store)              in this process, one after the other
    run(wanted, store, pool())      in a pool of processes
    with dask_executor(address, store) as executor:
        run(wanted, store, executor)

A stage that another process has under way is skipped and looked at again later, so processes that
were started by hand on one store share the work. A worker that dies loses its stage and no other.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ulelib import machine
from ulelib.settings import key_of
from ulelib.stages import Attacked, Noise, Part, Pretrained, Run, Stage, compute, needs
from ulelib.store import Store, pack, unpack

LOOK_AGAIN = 5.0  # seconds until a stage that is under way elsewhere is looked at again
TRIES = 3  # of a stage whose worker died
PATIENCE = 20  # seconds for a scheduler to answer
QUEUE = 600  # seconds for its first worker to come; a batch system may have to find a place for it


class PlanFailed(ExceptionGroup):
    """Stages that failed; what needs them was not computed, everything else was."""


def stages_of(wanted: Iterable[Stage]) -> list[Stage]:
    """These stages and all that they need, each once, needed ones first."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        key = key_of(stage)
        if key not in found:
            for needed in needs(stage):
                visit(needed)
            found[key] = stage

    for stage in wanted:
        visit(stage)
    return list(found.values())


def run(
    wanted: Iterable[Stage],
    store: Store,
    executor: Executor | None = None,
    *,
    at_once: int | None = None,
) -> None:
    """Compute these stages and all that they need; what the store holds is left alone.

    Args:
        executor: any of `concurrent.futures`' kind; None: this process.
        at_once: stages handed to the executor at a time; None: as many as it has workers.

    Raises:
        ValueError: `at_once` is less than 1.
        PlanFailed: with the exceptions of all stages that failed.
    """
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once is {at_once}: at least 1")
    todo = [stage for stage in stages_of(wanted) if not store.find(stage)]
    if not todo:
        return
    work = executor or InProcess()
    plan = _Plan({key_of(stage): stage for stage in todo}, store, work, at_once)
    with tqdm(total=len(todo), desc="stages", mininterval=1, disable=None) as bar:
        plan.finish(bar)
    if plan.failed:
        raise PlanFailed(f"{len(plan.failed)} of {len(todo)} stages failed", plan.failed)


class InProcess(Executor):
    """An executor that runs what it is given at once, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


def pool(workers: int | None = None, threads: int | None = None) -> Processes:
    """A pool of processes that compute stages.

    Args:
        workers: None: on a processor one for each core: two trainings on a thread each are faster
            than one after the other on two. On a GPU three: to launch a training's many small
            kernels keeps a core busy and most of the GPU idle (see `benchmarks/README.md`).
        threads: of each worker; None: the cores, shared out.
    """
    for name, number in (("workers", workers), ("threads", threads)):
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}: at least 1")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if workers is None:
        workers = 3 if torch.cuda.is_available() else cores or 1
    return Processes(workers, threads or max(1, (cores or 1) // workers))


class Processes(Executor):
    """A pool of `concurrent.futures` for each worker: a process that dies takes no other along."""

    def __init__(self, workers: int, threads: int) -> None:
        self._max_workers, self._threads = workers, threads
        self._pools = [self._new() for _ in range(workers)]
        self._pending: list[set[Future[Any]]] = [set() for _ in range(workers)]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        pending = [sum(not future.done() for future in mine) for mine in self._pending]
        place = pending.index(min(pending))
        try:
            future = self._pools[place].submit(fn, *args, **kwargs)
        except BrokenProcessPool:  # its process died
            self._pools[place].shutdown(wait=False)
            self._pools[place] = self._new()
            future = self._pools[place].submit(fn, *args, **kwargs)
        self._pending[place] = {one for one in self._pending[place] if not one.done()} | {future}
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for one in self._pools:
            one.shutdown(wait, cancel_futures=cancel_futures)

    def _new(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # CUDA and OpenMP do not survive a fork
        return ProcessPoolExecutor(1, context, _initialise, (self._threads,))


def _initialise(threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    machine.commit()  # of the code that was imported now, whatever is edited or committed later
    machine.keep_freed_memory()
    torch.set_num_threads(threads)
    os.environ["TQDM_DISABLE"] = "1"  # the one progress display is the plan's


def _end_with_parent() -> None:
    """A worker whose plan was killed would hold its stage, and then memory, for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def title(stage: Stage) -> str:
    """A stage in words, e.g. "training: gray mixup, convnet, seed 0, on exact noise: Random for
    cifar10, seed 0"."""
    match stage:
        case Noise():
            view = getattr(stage.method, "view", None)
            named = f"{type(stage.method).__name__}{f' ({view})' if view else ''}"
            return f"noise: {named} for {stage.data.name}, seed {stage.seed}"
        case Run():
            does = stage.exploiter
            names = [op.name for op in (*does.prepare, does.mix) if op]
            names += ["projection"] * bool(does.project) + ["adversarial"] * bool(does.attack)
            named = " ".join(names) or "standard"
            parts = ", ".join(_part(part) for part in stage.train)
            return f"training: {named}, {stage.net.name}, seed {stage.seed}, on {parts}"
        case Pretrained():
            parts = ", ".join(_part(part) for part in stage.train)
            method = stage.contrastive.method
            return f"training without labels: {method}, seed {stage.seed}, on {parts}"
        case Attacked():
            return f"attack on the network of {title(stage.run)}"


def _part(part: Part) -> str:
    if part.noise is None:
        return f"clean {part.data.name}"
    return f"{part.export} {title(part.noise)}"


# --- the loop of a plan ---------------------------------------------------------------------------


@dataclass
class _Plan:
    """What is left of a plan, what is under way, and what failed."""

    todo: dict[str, Stage]
    store: Store
    work: Executor
    at_once: int | None
    failed: list[Exception] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)  # failed, or in need of what failed
    under_way: dict[Future[Any], tuple[str, float]] = field(default_factory=dict)
    look_again: dict[str, float] = field(default_factory=dict)  # when, for stages elsewhere
    tries: dict[str, int] = field(default_factory=dict)
    seconds: dict[type, list[float]] = field(default_factory=dict)

    def finish(self, bar: Any) -> None:
        try:
            while self.todo:
                self._submit(bar)
                if not self.under_way:  # all that is left is under way elsewhere
                    time.sleep(min(LOOK_AGAIN, 0.2 + max(0.0, self._soonest())))
                    continue
                self._show(bar)
                done, _ = wait(self.under_way, LOOK_AGAIN, return_when=FIRST_COMPLETED)
                for future in done:
                    key, started = self.under_way.pop(future)
                    self._settle(key, started, future, bar)
        finally:
            for future in self.under_way:
                future.cancel()

    def _submit(self, bar: Any) -> None:
        now = time.monotonic()
        busy = {key for key, _ in self.under_way.values()}
        for key, stage in list(self.todo.items()):
            if len(self.under_way) >= self._width():
                return
            needed = {key_of(one) for one in needs(stage)}
            if needed & self.lost:
                self.lost.add(key)
                del self.todo[key]
            elif (
                key not in busy
                and needed.isdisjoint(self.todo)
                and self.look_again.get(key, 0) <= now
            ):
                self.look_again.pop(key, None)
                now = time.monotonic()
                self._show(bar, stage)  # before it begins: in this process it is at its end then
                future = self.work.submit(_compute_here, stage, str(self.store.folder))
                self.under_way[future] = (key, now)
                if isinstance(self.work, InProcess):
                    return

    def _settle(self, key: str, started: float, future: Future[Any], bar: Any) -> None:
        stage = self.todo[key]
        try:
            made = future.result()
            if isinstance(made, dict):  # computed where this store is not
                unpack(stage, self.store, made)
        except BaseException as error:
            if not isinstance(error, Exception) and not _died(error):
                raise
            self.tries[key] = self.tries.get(key, 0) + 1
            if _died(error) and self.tries[key] < TRIES:
                return  # its work is lost, and nothing else: it is handed out again
            error.add_note(f"stage {key}, {title(stage)}")
            self.failed.append(error if isinstance(error, Exception) else RuntimeError(str(error)))
            self.lost.add(key)
            del self.todo[key]
            return
        if made is False:
            self.look_again[key] = time.monotonic() + LOOK_AGAIN
            return
        self.seconds.setdefault(type(stage), []).append(time.monotonic() - started)
        del self.todo[key]
        bar.update()

    def _width(self) -> int:
        """Stages at a time: asked anew, since a cluster may have got more workers."""
        return self.at_once or max(1, int(getattr(self.work, "_max_workers", 1)))

    def _soonest(self) -> float:
        return min(self.look_again.values(), default=0.0) - time.monotonic()

    def _show(self, bar: Any, *begun: Stage) -> None:
        """What is under way, and how long the rest takes at the pace of its own kind."""
        now = [title(self.todo[key]) for key, _ in self.under_way.values()]
        now += [title(stage) for stage in begun]
        means = {kind: statistics.fmean(times) for kind, times in self.seconds.items()}
        kinds = [type(stage) for stage in self.todo.values()]
        left = ""
        if means and all(kind in means for kind in kinds):
            minutes = sum(means[kind] for kind in kinds) / self._width() / 60
            left = f"about {minutes:.0f} min left; "
        bar.set_postfix_str(left + "; ".join(now)[:150])


def _compute_here(stage: Stage, folder: str) -> bool:
    """What a worker runs where it can reach the store."""
    return compute(stage, Store(Path(folder)), wait=False)


def _died(error: BaseException) -> bool:
    """Whether the worker is gone, rather than the stage failed."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"BrokenProcessPool", "KilledWorker", "CancelledError", "CommClosedError"})


# --- Dask -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def dask_executor(address: str, store: Store) -> Iterator[Executor]:
    """An executor on a Dask cluster, e.g. of `dask scheduler` and `dask worker`, or dask-jobqueue.

    Workers that reach the store's folder write into it. Others compute in a folder of their own:
    what a stage needs is sent to them, and what it made comes back and is verified here. Which it
    is, the workers that are there at the start are asked; later ones must be like them.

    Args:
        address: of the scheduler, `tcp://HOST:PORT`.

    Raises:
        ImportError: Dask is missing; says how to install it.
        OSError: no scheduler answers there, or it has no worker.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError('Dask is missing: pip install ".[cluster]"') from error
    try:
        client = Client(address, set_as_default=False, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise OSError(
            f"no Dask scheduler answers at {address} ({error}): start one with `dask scheduler`, "
            f"and workers with `dask worker {address} --nthreads 1`"
        ) from error
    with client, _token(store) as token:
        try:
            client.wait_for_workers(1, timeout=QUEUE)
        except TimeoutError as error:
            raise OSError(
                f"the Dask scheduler at {address} had no worker for {QUEUE} seconds: start some "
                f"with `dask worker {address} --nthreads 1`"
            ) from error
        shared = all(client.run(_reaches, str(store.folder), token).values())
        inner = client.get_executor(retries=0, pure=False)
        yield DaskExecutor(inner, store, token, shared, lambda: len(client.nthreads()))


class DaskExecutor(Executor):
    """Dask's own executor, and what is sent to and fro where workers do not reach the store."""

    def __init__(
        self, inner: Executor, store: Store, token: str, shared: bool, workers: Callable[[], int]
    ) -> None:
        self._inner, self._store, self._token = inner, store, token
        self._shared, self._workers = shared, workers

    @property
    def _max_workers(self) -> int:
        return self._workers()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if fn is not _compute_here:
            return self._inner.submit(fn, *args, **kwargs)
        stage, folder = args
        if self._shared:
            return self._inner.submit(_compute_shared, stage, folder, self._token)
        try:
            needed = [(one, pack(one, self._store)) for one in needs(stage)]
        except (OSError, KeyError) as error:  # found damaged just now: it costs this stage alone
            lost: Future[Any] = Future()
            lost.set_exception(error)
            return lost
        return self._inner.submit(_compute_away, stage, needed)


def _reaches(folder: str, token: str) -> bool:
    return (Path(folder) / token).exists()


def _compute_shared(stage: Stage, folder: str, token: str) -> bool:
    """`_compute_here`, on a worker that must reach the store, also if it joined later."""
    if not _reaches(folder, token):
        raise OSError(f"a worker that joined later does not reach the store {folder}")
    return _compute_here(stage, folder)


@contextlib.contextmanager
def _token(store: Store) -> Iterator[str]:
    """The name of a file in the store, by which a worker knows that the folder is the same."""
    store.folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".shared-", dir=store.folder)
    os.close(handle)
    try:
        yield Path(name).name
    finally:
        Path(name).unlink(missing_ok=True)


def _compute_away(stage: Stage, needed: list[tuple[Stage, dict[str, bytes]]]) -> dict[str, bytes]:
    """What a worker runs that has no part in the store."""
    own = _own_store()
    for one, files in needed:
        unpack(one, own, files)
    compute(stage, own)
    return pack(stage, own)


def _own_store() -> Store:
    """A worker's own store, for as long as it lives."""
    return Store(Path(_own_folder().name))


@cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ulelib-worker-")
