"""One plan, any machine: the stages that some results need, run by any executor.

    run(wanted, store)              in this process, one after the other
    run(wanted, store, pool())      in a pool of processes (`executors.py`), or on a cluster

A stage that another process has under way is skipped and looked at again later, so processes that
were started by hand on one store share the work. A worker that dies loses its stage and no other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ulelib.jobs.execute import compute, find
from ulelib.jobs.executors import InProcess
from ulelib.jobs.store import Store, unpack
from ulelib.settings import key_of
from ulelib.specs import (
    Attacked,
    Noise,
    Part,
    Pretrained,
    Refitted,
    Run,
    Seen,
    Stage,
    needs,
    stages_of,
)

LOOK_AGAIN = 5.0  # seconds until a stage that is under way elsewhere is looked at again
TRIES = 3  # of a stage whose worker died


class PlanFailed(ExceptionGroup):
    """Stages that failed; what needs them was not computed, everything else was."""


def run(
    wanted: Iterable[Stage],
    store: Store,
    executor: Executor | None = None,
    *,
    at_once: int | None = None,
    seconds: float | None = None,
) -> None:
    """Compute these stages and all that they need; what the store holds is left alone.

    Args:
        wanted: the most wanted first: of what can begin, they begin in this order.
        executor: any of `concurrent.futures`' kind; None: this process.
        at_once: stages handed to the executor at a time; None: as many as it has workers.
        seconds: then the plan ends: nothing more begins, and a pool's processes are killed. What
            is finished stays, and so do checkpoints. None: it ends when all is done.

    Raises:
        ValueError: `at_once` is less than 1.
        PlanFailed: with the exceptions of all stages that failed.
    """
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once is {at_once}: at least 1")
    todo = [stage for stage in stages_of(wanted) if not find(stage, store)]
    if not todo:
        return
    deadline = None if seconds is None else time.monotonic() + seconds
    plan = _Plan(todo, store, executor or InProcess(), at_once, deadline)
    with tqdm(total=len(todo), desc="stages", mininterval=1, disable=None) as bar:
        plan.finish(bar)
    if plan.failed:
        raise PlanFailed(f"{len(plan.failed)} of {len(todo)} stages failed", plan.failed)


def title(stage: Stage) -> str:
    """A stage in words, e.g. "training: gray mixup, convnet, seed 0, on exact noise: Random for
    cifar10, seed 0"."""
    match stage:
        case Noise():
            method = getattr(stage.method, "method", stage.method)  # of a masked one
            view, masked = getattr(method, "view", None), "masked " * (method != stage.method)
            named = f"{masked}{type(method).__name__}{f' ({view})' if view else ''}"
            return f"noise: {named} for {stage.data.name}, seed {stage.seed}"
        case Run():
            does = stage.exploiter
            names = [op.name for op in (*does.prepare, does.mix) if op]
            names += ["projection"] * bool(does.project) + ["adversarial"] * bool(does.attack)
            names += [f"restored by {stage.restore.pairs:,} pairs"] if stage.restore else []
            named = " ".join(names) or "standard"
            parts = ", ".join(_part(part) for part in stage.train)
            stop, epochs = stage.recipe.stop_after, stage.recipe.epochs
            net = stage.net.name + ", pretrained" * (stage.start is not None)
            until = "" if stop is None else f"{stop} of {epochs} epochs, "
            return f"training: {named}, {net}, {until}seed {stage.seed}, on {parts}"
        case Pretrained():
            parts = ", ".join(_part(part) for part in stage.train)
            method = stage.contrastive.method
            return f"training without labels: {method}, seed {stage.seed}, on {parts}"
        case Attacked():
            return f"attack on the network of {title(stage.run)}"
        case Refitted():
            return f"last layer anew of {title(stage.run)}"
        case Seen():
            return f"visibility of {_part(stage.part)}"


def _part(part: Part) -> str:
    if part.noise is None:
        return f"clean {part.data.name}"
    return f"{part.export} {title(part.noise)}"


# --- the loop of a plan ---------------------------------------------------------------------------


@dataclass
class _Waiting:
    """A stage that can begin, from some time on."""

    key: str
    since: float = 0.0


@dataclass
class _UnderWay:
    """A stage that a worker has."""

    key: str
    started: float


class _Plan:
    """What is left of a plan, what is under way, and what failed."""

    def __init__(
        self,
        todo: list[Stage],
        store: Store,
        work: Executor,
        at_once: int | None,
        deadline: float | None,
    ) -> None:
        self.stages = {key_of(stage): stage for stage in todo}
        self.store, self.work, self.at_once, self.deadline = store, work, at_once, deadline
        self.failed: list[Exception] = []
        self.waiting: list[_Waiting] = []
        self.under_way: dict[Future[Any], _UnderWay] = {}
        self.tries: dict[str, int] = {}
        self.left = dict.fromkeys(self.stages)  # neither made nor failed
        self.seconds: dict[type, list[float]] = {}
        self.order = TopologicalSorter(
            {
                key: [one for one in map(key_of, needs(stage)) if one in self.stages]
                for key, stage in self.stages.items()
            }
        )
        self.order.prepare()

    def finish(self, bar: Any) -> None:
        """Until all is made that can be, or the deadline."""
        place = {key: number for number, key in enumerate(self.stages)}
        try:
            while not self._late():
                self.waiting += [_Waiting(key) for key in self.order.get_ready()]
                self.waiting.sort(key=lambda one: place[one.key])
                self._submit(bar)
                if self.under_way:
                    self._show(bar)
                    done, _ = wait(self.under_way, LOOK_AGAIN, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._settle(self.under_way.pop(future), future, bar)
                elif self.waiting:  # all that can begin is under way elsewhere
                    soonest = min(one.since for one in self.waiting) - time.monotonic()
                    time.sleep(min(LOOK_AGAIN, 0.2 + max(0.0, soonest)))
                else:
                    return
        finally:
            for future in self.under_way:
                future.cancel()
            if self._late() and hasattr(self.work, "kill"):
                self.work.kill()

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _submit(self, bar: Any) -> None:
        """Hand out what can begin, as much as there are workers."""
        for one in list(self.waiting):
            if len(self.under_way) >= self._width() or self._late():
                return
            if one.since <= time.monotonic():
                self.waiting.remove(one)
                self._show(bar, self.stages[one.key])  # before: in this process it is then done
                started = time.monotonic()
                future = self.work.submit(
                    compute_here, self.stages[one.key], str(self.store.folder)
                )
                self.under_way[future] = _UnderWay(one.key, started)
                if isinstance(self.work, InProcess):
                    return

    def _settle(self, one: _UnderWay, future: Future[Any], bar: Any) -> None:
        """Take in what became of a stage."""
        key, stage, died = one.key, self.stages[one.key], getattr(self.work, "died", ())
        try:
            made = future.result()
            if isinstance(made, dict):  # computed where this store is not
                unpack(stage, self.store, made)
        except BaseException as error:
            gone = isinstance(error, died)
            if not isinstance(error, Exception) and not gone:
                raise
            self.tries[key] = self.tries.get(key, 0) + 1
            if gone and self.tries[key] < TRIES:
                self.waiting.append(_Waiting(key))  # its work is lost, and nothing else
                return
            error.add_note(f"stage {key}, {title(stage)}")
            self.failed.append(error if isinstance(error, Exception) else RuntimeError(str(error)))
            self._lose(key)
            return
        if made is False:
            self.waiting.append(_Waiting(key, time.monotonic() + LOOK_AGAIN))
            return
        self.seconds.setdefault(type(stage), []).append(time.monotonic() - one.started)
        self.order.done(key)
        self.left.pop(key, None)
        bar.update()

    def _lose(self, failed: str) -> None:
        """What needs a failed stage never becomes ready."""
        lost = {failed}
        for key, stage in self.stages.items():  # needed ones first
            lost |= {key} if lost & {key_of(one) for one in needs(stage)} else set()
        self.left = {key: None for key in self.left if key not in lost}

    def _width(self) -> int:
        """Stages at a time: asked anew, since a cluster may have got more workers."""
        return self.at_once or max(1, int(getattr(self.work, "_max_workers", 1)))

    def _show(self, bar: Any, *begun: Stage) -> None:
        """What is under way, and how long the rest takes at the pace of its own kind."""
        now = [title(self.stages[one.key]) for one in self.under_way.values()]
        now += [title(stage) for stage in begun]
        means = {kind: statistics.fmean(times) for kind, times in self.seconds.items()}
        kinds = [type(self.stages[key]) for key in self.left]
        left = ""
        if means and all(kind in means for kind in kinds):
            minutes = sum(means[kind] for kind in kinds) / self._width() / 60
            left = f"about {minutes:.0f} min left; "
        bar.set_postfix_str(left + "; ".join(now)[:150])


def compute_here(stage: Stage, folder: str) -> bool:
    """What a worker runs where it can reach the store."""
    return compute(stage, Store(Path(folder)), wait=False)
