"""Within some minutes: the most wanted stages that fit (`make reproduce MINUTES=15`).

`wanted.toml` lists the stages of a profile, most wanted first; without a list, the headline page's
are taken; `make arena` takes the arena's. What is finished is kept and recorded, and the next call
goes on. No page is executed.
"""

from __future__ import annotations

import math
import os
import statistics
import time
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from collect import executor, report, to_compute, warn_of_emulation
from pages import relative
from ulelib.book import arena
from ulelib.defenders import CLEAN
from ulelib.jobs import execute, plan, records
from ulelib.jobs.cells import Cell
from ulelib.jobs.lab import Lab
from ulelib.settings import key_of
from ulelib.specs import Noise, Pretrained, Run, Seen, Stage, noises_of, seen, stages_of

LIST = Path(__file__).with_suffix(".toml")
NAMED = 20  # stages that are listed at the end; of the others, how many
CHECKPOINTS = "60"  # seconds between two checkpoints: a stage under way at the end is killed


@dataclass
class Wanted:
    """What is wanted of a profile.

    Attributes:
        stages: perturbations and trainings, most wanted first.
        cells: the measurements among them.
    """

    lab: Lab
    stages: list[Stage]
    cells: list[Cell]


def of_list(profile: str) -> Wanted | None:
    """What `wanted.toml` lists for a profile; None if it has no list."""
    entries = tomllib.loads(LIST.read_text(encoding="utf-8")).get(profile)
    if entries is None:
        return None
    # Kept records: what an earlier session measured on another machine need not be measured again.
    lab = Lab(profile, sorted({seed for entry in entries for seed in entry["seeds"]}), keep=True)
    stages, cells = list[Stage](), list[Cell]()
    for entry in entries:
        recipe = replace(lab.profile.recipe, epochs=entry["epochs"])
        found = [
            lab.cell(
                entry["defender"],
                exploiter,
                export,
                seed,
                recipe=recipe,
                setting=f"{recipe.epochs} epochs",
            )
            for seed in entry["seeds"]
            for export in entry["exports"]
            for exploiter in entry["exploiters"]
        ]
        if entry["defender"] != CLEAN:
            stages += [lab.noise(entry["defender"], seed) for seed in entry["seeds"]]
        stages += [cell.stage for cell in found]
        cells += found
    return Wanted(lab, stages, cells)


def of_arena(profile: str, seed: int | list[int], n_seeds: int) -> Wanted:
    """What the arena wants of a profile, see `arena.plan`: every row's noise right before its first
    training, and how visible it is."""
    lab = Lab(profile, arena.seeds(seed), n_seeds, keep=True)
    stages, cells = dict[Stage, None](), list[Cell]()
    for place in arena.plan(lab):
        if place.row != CLEAN:
            stages[seen(lab.noise(place.row, place.cell.seed))] = None
        stages[place.cell.stage] = None
        cells.append(place.cell)
    return Wanted(lab, [*stages], cells)


def compute(
    wanted: Wanted, minutes: float | None, scheduler: str | None = None, workers: int | None = None
) -> bool:
    """Compute the most wanted stages that fit into some minutes, and record what is finished.

    Args:
        minutes: None: as many as it takes.
        scheduler, workers: see `collect.compute`.

    Returns:
        whether no stage failed.
    """
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    os.environ.setdefault("ULELIB_CHECKPOINT_SECONDS", CHECKPOINTS)
    lab, failed = wanted.lab, list[Exception]()
    at_first = to_compute(wanted.stages, lab.store)
    warn_of_emulation(at_first)
    # Asked again after computing: see `Lab.missing`.
    while (missing := lab.missing(wanted.stages)) and time.monotonic() < deadline:
        try:
            with executor(lab.store, scheduler, workers) as work:
                in_time = InTime(work, estimate(wanted), deadline)
                plan.run(missing, lab.store, in_time, seconds=deadline - time.monotonic())
        except plan.PlanFailed as error:
            failed = [one for one in error.exceptions if not isinstance(one, NoTimeLeft)]
            report(failed)
            break
    finished = [stage for stage in at_first if lab.store.find(stage)]
    for word, stages in (("finished", finished), ("left", lab.missing(wanted.stages))):
        lines = [f"{word}: {plan.title(stage)}" for stage in stages[:NAMED]]
        more = [f"{word}: {len(stages) - NAMED} more"] if len(stages) > NAMED else []
        print("\n".join([*lines, *more]) or f"{word}: nothing")
    if path := _save(wanted):
        print(f"What is finished so far is recorded in {relative(str(path))}")
    return not failed


def _save(wanted: Wanted) -> Path | None:
    """Record the cells that are finished and the perturbations that were made; what an earlier
    session recorded stays until it is measured again. A training's record notes the digest of its
    noise: this record may hold trainings on noise that another machine made otherwise."""
    lab = wanted.lab
    missing = {key_of(stage) for stage in lab.missing(wanted.stages)}
    cells = [cell for cell in wanted.cells if key_of(cell.stage) not in missing]
    made = [
        one for one in wanted.stages if isinstance(one, Noise | Seen) and key_of(one) not in missing
    ]
    if not cells and not made:
        return None
    lab.table(cells)  # nothing is computed: the lab notes which stages it used
    lab.stages_used |= dict.fromkeys(stages_of(made))
    stages = lab.records()
    rows = [{**cell.names, "key": key_of(cell.stage)} for cell in cells]
    try:
        _, before = records.read(records.WANTED, lab.profile.name)
    except FileNotFoundError:
        pass
    else:
        rows += [row for row in before["cells"] if row["key"] not in stages]
        stages = before["stages"] | stages
    noises = {noise for one in made for noise in (*noises_of(one), one) if isinstance(noise, Noise)}
    seeds = {row["seed"] for row in rows} | {noise.seed for noise in noises}
    page = lab.page(records.WANTED) | {"cells": rows, "seeds": sorted(seeds)}
    return records.save(page, stages)


class NoTimeLeft(Exception):
    """A stage was not begun, since it would not have been finished in time."""


class InTime(Executor):
    """An executor that begins only what will be finished before a deadline.

    Args:
        inner: the executor that does the work.
        seconds_of: how long a stage takes.
        deadline: of `time.monotonic`.
    """

    def __init__(
        self, inner: Executor, seconds_of: Callable[[Stage], float], deadline: float
    ) -> None:
        self._inner, self._seconds_of, self._deadline = inner, seconds_of, deadline

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        seconds, left = self._seconds_of(args[0]), self._deadline - time.monotonic()
        if seconds <= left:
            return self._inner.submit(fn, *args, **kwargs)
        refused: Future[Any] = Future()
        refused.set_exception(NoTimeLeft(f"it takes {seconds:.0f} s, and {left:.0f} s are left"))
        return refused

    def __getattr__(self, name: str) -> Any:  # `died`, `kill`, and how many workers there are
        return getattr(self._inner, name)


def estimate(wanted: Wanted) -> Callable[[Stage], float]:
    """How long stages take: the median of those of the same type that are in this store or else
    recorded. Trainings take as long as epochs times images.

    Returns:
        a function from a stage to seconds: 0 where nothing is known, and for what has a checkpoint.
    """
    store = wanted.lab.store
    recorded = records.known(wanted.lab.profile.name).values()
    here = [(one, execute.record(one, store)) for one in wanted.stages if store.find(one)]
    paces = _paces(here, wanted.lab)
    known = [(records.spec_of(one), one) for one in recorded if records.is_known(one)]
    paces = _paces(known, wanted.lab) | paces

    def seconds(stage: Stage) -> float:
        unfinished = (store.folder / execute.UNFINISHED).glob(f"{key_of(stage)}.*")
        work = _work(stage, wanted.lab)
        if work is None or any(unfinished):
            return 0.0
        return paces.get(type(stage), 0.0) * work

    return seconds


def _paces(measured: Iterable[tuple[Stage, dict[str, Any]]], lab: Lab) -> dict[type[Stage], float]:
    """Seconds for one unit of work, by the type of stage."""
    found: dict[type[Stage], list[float]] = {}
    for stage, record in measured:
        if work := _work(stage, lab):
            found.setdefault(type(stage), []).append(record["result"]["seconds"] / work)
    return {kind: statistics.median(paces) for kind, paces in found.items()}


def _work(stage: Stage, lab: Lab) -> float | None:
    """What the time of a stage grows with; None: not known, for images that are not the lab's."""
    if not isinstance(stage, Run | Pretrained):
        return 1.0
    images = 0.0
    for part in stage.train:
        own = part.data.pictures == lab.data.pictures
        if not own and part.data.n is None:
            return None
        images += (part.take[1] - part.take[0]) * (part.data.n or len(lab.train_set))
    return stage.recipe.epochs * images
