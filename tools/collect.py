"""The stages that notebooks need, collected without repetition and computed as one plan."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from typing import Any

import sources
from sources import Needs
from ulelib import machine
from ulelib.jobs import cluster, execute, executors, plan, records
from ulelib.jobs.store import Store
from ulelib.specs import Attacked, Refitted, Seen, Stage, stages_of


def compute(
    jobs: dict[str, dict[str, Any]], scheduler: str | None = None, workers: int | None = None
) -> list[str]:
    """Run the stages that notebooks state, before any of them is executed.

    Args:
        jobs: the parameters of each notebook.
        scheduler: of a Dask cluster; None: processes on this machine.
        workers: how many processes; None: see `executors.pool`.

    Returns:
        the notebooks that lack stages, since some failed. The others can be made.
    """
    store, failed = Store(machine.folder("ULELIB_STORE", ".ulelib")), list[str]()
    needs = _stated(jobs)
    every = stages_of(stage for one in needs.values() for stage in one.stages)
    print(f"{len(jobs)} notebooks need {len(every)} stages")
    why = "neither in the store nor recorded"
    # Asked again after computing: noise that was made for one page may differ from what another
    # page's records were measured with.
    while missing := [stage for one in needs.values() for stage in one.missing()]:
        todo = to_compute(missing, store)
        print(f"{len(todo)} stage{'s' * (len(todo) > 1)} to compute, {why}")
        warn_of_emulation(todo)
        try:
            with executor(store, scheduler, workers) as work:
                plan.run(todo, store, work)
        except plan.PlanFailed as error:
            report(error.exceptions)
            lost = set(to_compute(todo, store))
            lacking = [name for name, one in needs.items() if lost & set(one.closure())]
            failed += lacking
            needs = {name: one for name, one in needs.items() if name not in lacking}
        why = "recorded with other noise than was made now"
    return failed


def _stated(jobs: dict[str, dict[str, Any]]) -> dict[str, Needs]:
    """What each notebook states; says why one cannot: its page will fail, the others need not."""
    found = {}
    for name, parameters in jobs.items():
        try:
            needs = sources.stated(name, parameters)
        except Exception as error:  # whatever data and cells raise
            print(f"{name}: {error}", file=sys.stderr)
        else:
            if needs is not None:
                found[name] = needs
    return found


def to_compute(wanted: Iterable[Stage], store: Store) -> list[Stage]:
    """These stages and all that they need, as far as the store lacks them."""
    return [stage for stage in stages_of(wanted) if not execute.find(stage, store)]


def executor(
    store: Store, scheduler: str | None, workers: int | None
) -> AbstractContextManager[Executor]:
    """Processes on this machine, or a Dask cluster."""
    if scheduler:
        return cluster.dask_executor(scheduler, store)
    return executors.pool(workers)


def warn_of_emulation(todo: Iterable[Stage]) -> None:
    """Say how many stages are in a precision that this processor only emulates."""
    if emulated := [stage for stage in todo if not machine.is_native(_precision(stage))]:
        print(
            f"{len(emulated)} of them in bfloat16, as the records that are kept: this processor "
            "only emulates it, and takes ten times as long as in float32"
        )


def _precision(stage: Stage) -> str:
    if isinstance(stage, Attacked | Refitted):
        return _precision(stage.run)
    if isinstance(stage, Seen):
        assert stage.part.noise is not None
        return stage.part.noise.precision
    return stage.precision


def report(errors: Iterable[Exception]) -> None:
    """Print what went wrong, a line for each stage."""
    for error in errors:
        print("; ".join([str(error), *getattr(error, "__notes__", [])]), file=sys.stderr)


def others_that_changed(
    profile: str, before: dict[str, dict[str, Any]], made: Sequence[str]
) -> list[str]:
    """Recorded pages that were not made now, of whose stages the record now has other numbers.

    Args:
        before: `records.known`, as it was.
        made: the pages that were.
    """
    now = records.known(profile)
    changed = {key for key in before.keys() & now.keys() if before[key] != now[key]}
    if not changed:  # as always where records are kept: no page need be read
        return []
    return [
        name
        for name in records.pages(profile)
        if name not in made and changed & records.read(name, profile)[1]["stages"].keys()
    ]
