"""The lab: what a notebook talks to. Names in, tidy pandas frames out.

    lab = Lab("auto", seed=0, n_seeds=3)
    cells = lab.cells(["clean", "ULEO"], ["standard", "gray"], exports=["exact"])
    frame = lab.table(cells)                   # one row a training
    noise = lab.perturbation("ULEO")

`cells.Design` says which cells names stand for; the lab measures them, or takes what is recorded.
Products are explicit; means and pivots are pandas' work.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ulelib import machine
from ulelib.jobs import execute, plan, records, replicates
from ulelib.jobs.cells import Cell, Design
from ulelib.jobs.store import Store
from ulelib.perturbation import Perturbation
from ulelib.settings import key_of
from ulelib.specs import Noise, Stage, noises_of, seen, stages_of
from ulelib.visibility import Visibility


class Lab(Design):
    """One profile's design and its store, and what a page has shown so far.

    Args:
        profile, seed, n_seeds: see `Design`.
        store: folder of the store; else `$ULELIB_STORE`, else `.ulelib` in the project.
        keep: reuse the numbers that the profile's records hold (`records.known`) instead of
            computing them again (see `unknown`); True where `$ULELIB_KEEP` is 1. A perturbation
            itself is in no record.

    Attributes:
        cells_shown: the cells that the page has asked for, in order.
        stages_used: all stages behind them, and those whose perturbation it has loaded.

    Raises:
        ValueError, DataUnavailable: see `Design`.
    """

    def __init__(
        self,
        profile: str = "auto",
        seed: int | list[int] = 0,
        n_seeds: int = 1,
        store: Path | None = None,
        keep: bool | None = None,
    ) -> None:
        super().__init__(profile, seed, n_seeds)
        self.store = Store(store or machine.folder("ULELIB_STORE", ".ulelib"))
        keep = os.environ.get("ULELIB_KEEP") == "1" if keep is None else keep
        self.known = records.known(self.profile.name) if keep else {}
        self.cells_shown: dict[Cell, None] = {}
        self.stages_used: dict[Stage, None] = {}

    @functools.cached_property
    def precision(self) -> Any:
        """ "float32" or "bfloat16", as the profile and the machine have it.

        Where records are reused, new stages are computed in their precision: bfloat16 where they
        have both, whatever this machine has (see `machine.is_native`).
        """
        recorded = {record["spec"].get("precision") for record in self.known.values()}
        reused = [one for one in ("bfloat16", "float32") if one in recorded]
        return reused[0] if reused and self.profile.precision == "fastest" else super().precision

    def table(self, cells: Iterable[Cell]) -> pd.DataFrame:
        """`rows`, and where records are reused, the replicates that they have of these cells: the
        same with other seeds, whichever page measured them (`replicates.extended`)."""
        frame = self.rows(cells)
        return replicates.extended(frame, self.profile.name) if self.known else frame

    def rows(self, cells: Iterable[Cell]) -> pd.DataFrame:
        """The measured cells, one a row, in their order; what is not in the store is computed
        first.

        Returns:
            columns data, defender, export, source, exploiter, net, seed, setting (the names);
            accuracy, train_accuracy, curve, seconds (see `exploiters.Training`; an attack has
            neither train_accuracy nor curve); knn, untrained and spread (of a training without
            labels, see `pretraining.Pretraining`, whose accuracy is the linear probe's); chance, in
            percent;
            key, commit, device and threads (who computed it).
        """
        wanted = list(cells)
        self._compute(cell.stage for cell in wanted)
        self.cells_shown |= dict.fromkeys(wanted)
        self.stages_used |= dict.fromkeys(stages_of(cell.stage for cell in wanted))
        return pd.DataFrame(
            [
                records.row(cell.names, key_of(cell.stage), self._record(cell.stage))
                for cell in wanted
            ]
        )

    def unknown(self, wanted: Iterable[Stage]) -> list[Stage]:
        """Stages that must be computed because no record can be reused.

        A record is reused where it was measured with the noise that the page has: its digests are
        those of the noise in the store or, where the store lacks it, of that noise's own record.
        Two kinds of processor make different noise of the same seed, and so do two numbers of
        threads. Records of version 0.4 have no digests: they are reused until their noise is made
        again.
        """
        digest = functools.cache(self._digest)
        unknown = []
        for stage in dict.fromkeys(wanted):
            record = self.known.get(key_of(stage))
            used = {} if record is None else record["result"].get("noise", {})
            if record is None or any(
                made is not None and used.get(key_of(noise)) != made
                for noise in noises_of(stage)
                for made in (digest(noise),)
            ):
                unknown.append(stage)
        return unknown

    def missing(self, wanted: Iterable[Stage]) -> list[Stage]:
        """Stages that are neither in the store nor in a record that can be reused.

        To be asked again once they are computed: noise that was made for one of them may differ
        from what another one's record was measured with.
        """
        return [stage for stage in self.unknown(wanted) if not execute.find(stage, self.store)]

    def perturbation(self, defender: str | Noise, seed: int | None = None) -> Perturbation:
        """The noise of a defender; made, or loaded from the store.

        Raises:
            ValueError: unknown defender.
            PlanFailed: with what went wrong in `exceptions`, such as `bilevel.NotConverged`, whose
                partial noise is kept in the store's folder `partial`.
        """
        stage = defender if isinstance(defender, Noise) else self.noise(defender, seed)
        try:
            found: Perturbation = execute.load(stage, self.store)
        except KeyError:  # what is in the store needs nothing that it was made with
            plan.run([stage], self.store)
            found = execute.load(stage, self.store)
        self.stages_used[stage] = None
        return found

    def noted(self, noise: Noise) -> dict[str, Any]:
        """What is recorded of a noise: its rounds, what it is made of after each of them, its
        strip (see `execute.record`). Who shows no more of it need not make it again."""
        self._compute([noise])
        self.stages_used[noise] = None
        found: dict[str, Any] = self._record(noise)["result"]
        return found

    def seen(self, noise: Noise) -> Visibility:
        """How visible a noise is, in all pictures that it was made for; export "exact"."""
        stage = seen(noise)
        self._compute([stage])
        self.stages_used |= dict.fromkeys(stages_of([stage]))
        return Visibility.of(self._record(stage)["result"])

    def rounds(self, noise: Noise) -> list[float]:
        """The source model's error after each round of a loop, in [0, 1]."""
        found: list[float] = self.noted(noise)["rounds"]
        return found

    def save(self, page: str) -> Path:
        """Write the record of a page: its cells, and all stages behind it (`records.save`).

        Raises:
            ValueError: a number was measured with other noise than the page shows.
        """
        self._check_noise(page)
        return records.save(self.page(page), self.records())

    def page(self, name: str) -> dict[str, Any]:
        """What a page's record says, beside its stages."""
        return {
            "page": name,
            "profile": self.profile.name,
            "seeds": self.seeds,
            "precision": self.precision,
            "train": [self.train_set.name, len(self.train_set)],
            "test": [self.test_set.name, len(self.test_set)],
            "cells": [{**cell.names, "key": key_of(cell.stage)} for cell in self.cells_shown],
        }

    def records(self) -> dict[str, dict[str, Any]]:
        """`execute.record` of all stages behind the page, by key."""
        return {key_of(stage): self._record(stage) for stage in self.stages_used}

    def _check_noise(self, page: str) -> None:
        """Whether all stages were measured with the noise that the page has.

        Raises:
            ValueError: one was not; names it.
        """
        recorded = {stage: self._record(stage)["result"] for stage in self.stages_used}
        for stage, result in recorded.items():
            for noise in noises_of(stage):
                made = recorded.get(noise, {}).get("sha256")
                if made is not None and result.get("noise", {}).get(key_of(noise)) != made:
                    raise ValueError(
                        f"{page}: stage {key_of(stage)} was measured with other noise than the "
                        f"page has ({key_of(noise)}), as another processor or another number of "
                        "threads makes it: run the page again"
                    )

    def _compute(self, wanted: Iterable[Stage]) -> None:
        every = list(wanted)
        while missing := self.missing(every):
            records.check_writable(self.profile.name)
            plan.run(missing, self.store)

    def _record(self, stage: Stage) -> dict[str, Any]:
        """The store's, which is what this page used; but what was made again and came out the same
        keeps the record that it has."""
        kept = self.known.get(key_of(stage))
        try:
            found = execute.record(stage, self.store)
        except KeyError:  # it is not in the store
            if kept is None:
                raise
            return kept
        return found if kept is None or not records.alike(found, kept) else kept

    def _digest(self, noise: Noise) -> str | None:
        """SHA-256 of a noise as this page has it; None where no one has noted it."""
        try:
            result = execute.record(noise, self.store)["result"]
        except KeyError:  # it is not in the store
            result = self.known.get(key_of(noise), {}).get("result", {})
        digest: str | None = result.get("sha256")
        return digest
