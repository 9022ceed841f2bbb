"""Executors: who computes stages. This process, or a pool of processes, each with its own threads.

Any executor of `concurrent.futures`' kind will do for `plan.run`; `cluster.py` has Dask's.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any

import torch

from ulelib import machine

PER_GPU = 3  # workers: to launch a training's many small kernels keeps a core busy


class InProcess(Executor):
    """An executor that runs what it is given at once, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


def pool(workers: int | None = None, threads: int | None = None) -> Executor:
    """A pool of processes that compute stages; this process where it cannot share any with others.

    Args:
        workers: None: on a processor one for each core: two trainings on a thread each are faster
            than one after the other on two. With GPUs three for each: to launch a training's many
            small kernels keeps a core busy and most of a GPU idle (see `benchmarks/README.md`).
        threads: of each worker; None: the cores, shared out, but no more than OMP_NUM_THREADS says.
    """
    for name, number in (("workers", workers), ("threads", threads)):
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}: at least 1")
    if workers is None:
        workers = PER_GPU * torch.cuda.device_count() or machine.cores()
    if threads is None:
        said, threads = os.environ.get("OMP_NUM_THREADS", ""), max(1, machine.cores() // workers)
        threads = min(threads, int(said)) if said.isdecimal() and int(said) else threads
    try:
        return Processes(workers, threads)
    except (OSError, NotImplementedError) as error:  # they share semaphores, in /dev/shm
        warnings.warn(
            f"no processes can work together here ({error}; is there a /dev/shm?): everything is "
            "computed in this process, one after the other",
            stacklevel=2,
        )
        machine.use_threads(threads)
        return InProcess()


class Processes(Executor):
    """A pool of `concurrent.futures` for each worker: a process that dies takes no other along.

    Workers take the GPUs in turn.

    Attributes:
        died: what a future raises whose process is gone, rather than its stage failed.
    """

    died = (BrokenProcessPool, CancelledError)

    def __init__(self, workers: int, threads: int) -> None:
        self._max_workers, self._threads = workers, threads
        self._pools = [self._new(place) for place in range(workers)]
        self._pending: list[set[Future[Any]]] = [set() for _ in range(workers)]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        pending = [sum(not future.done() for future in mine) for mine in self._pending]
        place = pending.index(min(pending))
        try:
            future = self._pools[place].submit(fn, *args, **kwargs)
        except BrokenProcessPool:  # its process died
            self._pools[place].shutdown(wait=False)
            self._pools[place] = self._new(place)
            future = self._pools[place].submit(fn, *args, **kwargs)
        self._pending[place] = {one for one in self._pending[place] if not one.done()} | {future}
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for one in self._pools:
            one.shutdown(wait, cancel_futures=cancel_futures)

    def kill(self) -> None:
        """End all processes at once; what they were at is lost, but for its checkpoints."""
        for one in self._pools:
            for process in list((one._processes or {}).values()):
                process.kill()

    def _new(self, place: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # CUDA and OpenMP do not survive a fork
        return ProcessPoolExecutor(1, context, _initialise, (self._threads, place))


def _initialise(threads: int, place: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Of the code that was imported now, whatever is edited or committed later:
    machine.commit(), machine.code_and_machine()
    machine.prepare()
    machine.use_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())
    os.environ["TQDM_DISABLE"] = "1"  # the one progress display is the plan's


def _end_with_parent() -> None:
    """A worker whose plan was killed would hold its stage, and then memory, for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
