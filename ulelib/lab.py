"""The lab: what a notebook talks to. Names in, tidy pandas frames out.

    lab = Lab("auto", seed=0, n_seeds=3)
    cells = lab.cells(["clean", "ULEO"], ["standard", "gray"], exports=["exact"])
    frame = lab.table(cells)                   # one row a training
    noise = lab.perturbation("ULEO")

A cell is a training, with labels or without, or an attack on its network, with its names. Products
are explicit; means and pivots are pandas' work.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ulelib import machine, plan, results, stages
from ulelib.data import DataUnavailable, ImageSet, is_available
from ulelib.defenders import DEFENDERS, Setting
from ulelib.exploiters import EXPLOITERS, Recipe
from ulelib.perturbation import EXPORTS, Perturbation
from ulelib.pgd import ATTACKS
from ulelib.profiles import PROFILES, Profile
from ulelib.published import CLEAN
from ulelib.settings import Op, key_of
from ulelib.stages import Attacked, Data, Noise, Part, Precision, Pretrained, Run, Stage
from ulelib.store import Store

SUBSET_SEED = 0  # which images a profile takes is part of the profile, not of a run


@dataclass(frozen=True)
class Cell:
    """One number of a table: a measurement, and the names under which a page shows it.

    Attributes:
        setting: what else tells the numbers of a table apart, as in `published.csv`: the mixture,
            the source network, the test.
    """

    stage: Run | Pretrained | Attacked
    data: str
    defender: str
    export: str
    source: str
    exploiter: str
    net: str
    seed: int
    setting: str = "-"

    @property
    def names(self) -> dict[str, Any]:
        """The columns under which it stands in a table."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "stage"}


@dataclass(frozen=True)
class Mixture:
    """What an exploiter trains on, as shares of each class's training images (paper, section 5.4).

    Attributes:
        clean: from where to where they are clean; None: none are.
        added: from where to where they are protected, by the noise of the whole set; for the
            defender "clean" these are clean, too. None: none are added.
    """

    clean: tuple[float, float] | None = None
    added: tuple[float, float] | None = stages.WHOLE

    def __post_init__(self) -> None:
        if self.clean is None and self.added is None:
            raise ValueError("Mixture: neither clean nor added images")
        if self.clean and self.added:
            (low, high), (first, last) = self.clean, self.added
            if low < last and first < high:
                raise ValueError(
                    f"Mixture: {self.clean} and {self.added} overlap; an image is clean or added"
                )

    @property
    def share(self) -> float:
        """How much of the images is trained on."""
        return sum(high - low for low, high in filter(None, (self.clean, self.added)))

    def parts(self, data: Data, noise: Noise | None, **published: Any) -> tuple[Part, ...]:
        """The parts, clean ones first."""
        parts = [] if self.clean is None else [Part(data, self.clean)]
        if self.added is not None:
            more = {} if noise is None else {"noise": noise, **published}
            parts.append(Part(data, self.added, **more))
        return tuple(parts)


class Lab:
    """One profile's data, settings and store.

    Args:
        profile: "smoke", "cpu", "paper", or "auto": "paper" with CUDA, else "cpu"; and "smoke"
            where CIFAR-10 is neither at hand nor to be downloaded (`fell_back` then says so).
        seed: the first seed; or a list of all of them, with `n_seeds` left at 1.
        n_seeds: how many seeds, from `seed` on; 0 takes the profile's own number.
        store: folder of the store; else `$ULELIB_STORE`, else `.ulelib` in the project.
        keep: take the numbers that the profile's records hold (`results.known`) instead of
            computing them again (see `unknown`); True where `$ULELIB_KEEP` is 1. Noise itself is in
            no record.

    Raises:
        ValueError: unknown profile, or seeds that are not whole numbers in 0..10,000, each once.
        DataUnavailable: a profile asked for by name whose data cannot be had.
    """

    def __init__(
        self,
        profile: str = "auto",
        seed: int | list[int] = 0,
        n_seeds: int = 1,
        store: Path | None = None,
        keep: bool | None = None,
    ) -> None:
        _check_whole("n_seeds", n_seeds, 100)
        if profile != "auto" and profile not in PROFILES:
            raise ValueError(f"profile {profile!r}; choose from {['auto', *PROFILES]}")
        self.fell_back = False
        if profile == "auto":
            profile = "paper" if machine.device().type == "cuda" else "cpu"
            if not is_available(PROFILES[profile].data):
                self.fell_back, profile = True, "smoke"
        self.profile: Profile = PROFILES[profile]
        self.seeds = _seeds(seed, n_seeds, self.profile.seeds)
        self.store = Store(store or machine.folder("ULELIB_STORE", ".ulelib"))
        keep = os.environ.get("ULELIB_KEEP") == "1" if keep is None else keep
        self.known = results.known(self.profile.name) if keep else {}
        self.shown: dict[Cell, None] = {}  # the cells that the page has asked for, in order
        self.made: dict[Stage, None] = {}  # and all stages behind it

    @functools.cached_property
    def precision(self) -> Any:
        """ "float32" or "bfloat16", as the profile and the machine have it.

        Records that are kept are gone on with in the precision that they were measured in: bfloat16
        where they have both, whatever this machine has (see `machine.is_native`).
        """
        wanted = self.profile.precision
        recorded = {record["spec"].get("precision") for record in self.known.values()}
        if wanted == "fastest":
            kept = [one for one in ("bfloat16", "float32") if one in recorded]
            return kept[0] if kept else machine.fastest_precision()
        return wanted

    @functools.cached_property
    def data(self) -> Data:
        """The profile's data set."""
        profile = self.profile
        try:
            return stages.data_set(profile.data, profile.n_train, seed=SUBSET_SEED)
        except DataUnavailable as error:
            raise DataUnavailable(
                f"profile {profile.name!r} needs {profile.data}: {error}"
            ) from error

    @property
    def train_set(self) -> ImageSet:
        """The clean training images of the profile."""
        return stages.images(self.data, "train")

    @property
    def test_set(self) -> ImageSet:
        """The clean test images: all of them; they only measure."""
        return stages.images(self.data, "test")

    # --- what a page needs -------------------------------------------------------------------

    def noise(
        self,
        defender: str,
        seed: int | None = None,
        *,
        data: Data | None = None,
        source: Op | None = None,
        precision: Precision | None = None,
        **changes: Any,
    ) -> Noise:
        """The stage that makes a defender's noise.

        Args:
            defender: a key of `DEFENDERS`.
            seed: the lab's first if None.
            data: the profile's if None.
            source: the network it is made with; the profile's if None.
            precision: the lab's if None.
            changes: settings of its method that differ, e.g. `stop_error=0.05`.

        Raises:
            ValueError: an unknown name or setting.
        """
        if defender not in DEFENDERS:
            raise ValueError(f"defender {defender!r}; choose from {[CLEAN, *DEFENDERS]}")
        profile, seed = self.profile, self._seed(seed)
        data = data or self.data
        # A network that is attacked is the source network, trained on these images.
        recipe = profile.recipe_for(self._share(data), source)
        loop = profile.loop if source is None else replace(profile.loop, net=source)
        profile = replace(profile, loop=loop, recipe=recipe)
        setting = Setting(data, profile, seed, precision or self.precision)
        method = replace(DEFENDERS[defender](setting), **changes)  # type: ignore[type-var]
        return Noise(setting.data, method, seed, setting.precision)

    def cell(
        self,
        defender: str,
        exploiter: str = "standard",
        export: str = "exact",
        seed: int | None = None,
        *,
        noise: Noise | None = None,
        data: Data | None = None,
        source: Op | None = None,
        net: Op | None = None,
        recipe: Recipe | None = None,
        mixture: Mixture = Mixture(),
        setting: str = "-",
        index: str = "own",
        noise_after: bool = False,
        precision: Precision | None = None,
    ) -> Cell:
        """One training, with its names.

        Args:
            defender: a key of `DEFENDERS`, or "clean"; with `noise`, any name for it.
            exploiter: a key of `EXPLOITERS`, or of `Profile.contrastive`: then it learns without
                labels, and its accuracy is that of a linear probe (see `pretraining`).
            export: a key of `perturbation.EXPORTS`; of no effect on clean images.
            seed: of defender and exploiter; the lab's first if None.
            noise: made in a way that has no name in `DEFENDERS`.
            data, source, net, recipe: data set, the defender's network, the exploiter's and its
                training, if they are not the profile's (which has more epochs on fewer images, see
                `Profile.recipe_for`).
            mixture: which images are clean and which protected.
            setting: the cell's name for what else is different.
            index, noise_after: see `stages.Part` and `stages.Run`.
            precision: of the training, and of noise that is made for it; the lab's if None.

        Raises:
            ValueError: an unknown name.
        """
        unsupervised = self.profile.contrastive
        known = [*sorted(EXPLOITERS), *unsupervised]
        if exploiter not in known:
            raise ValueError(f"exploiter {exploiter!r}; choose from {known}")
        if exploiter in unsupervised and noise_after:
            raise ValueError("noise after the augmentation is for trainings with labels")
        if export not in EXPORTS:
            raise ValueError(f"export {export!r}; choose from {[*EXPORTS]}")
        profile, seed, data = self.profile, self._seed(seed), data or self.data
        clean = defender == CLEAN
        if clean and noise is not None:
            raise ValueError('"clean" images have no noise: give the cell another name')
        if not clean and noise is None:
            noise = self.noise(defender, seed, data=data, source=source, precision=precision)
        net = net or profile.loop.net
        share = mixture.share * self._share(data)
        common: dict[str, Any] = {
            "train": mixture.parts(data, noise, export=export, index=index),
            "test": data,
            "net": net,
            "seed": seed,
            "precision": precision or self.precision,
        }
        stage: Run | Pretrained
        if exploiter in unsupervised:
            training = recipe or profile.pretraining_for(exploiter, share)
            stage = Pretrained(**common, contrastive=unsupervised[exploiter], recipe=training)
        else:
            stage = Run(
                **common,
                exploiter=EXPLOITERS[exploiter],
                recipe=recipe or profile.recipe_for(share, net),
                noise_after=noise_after,
            )
        return Cell(
            stage=stage,
            data=data.name,
            defender=defender,
            export="-" if clean else export,
            source="-" if noise is None else _source(noise),
            exploiter=exploiter,
            net=str(net),
            seed=seed,
            setting=setting,
        )

    def attacked(self, cell: Cell, attack: str, setting: str | None = None) -> Cell:
        """The network of a cell, measured on test images that were moved against it.

        Args:
            attack: a key of `pgd.ATTACKS`.
            setting: the cell's name for it; "test ATTACK" if None, as in Table 7.

        Raises:
            ValueError: an unknown attack, or a cell that is one already.
        """
        if attack not in ATTACKS:
            raise ValueError(f"attack {attack!r}; choose from {sorted(ATTACKS)}")
        if not isinstance(cell.stage, Run):
            raise ValueError("only the network of a training can be attacked")
        stage = Attacked(cell.stage, ATTACKS[attack], cell.seed)
        return replace(cell, stage=stage, setting=setting or f"test {attack}")

    def cells(
        self,
        defenders: Sequence[str],
        exploiters: Sequence[str] = ("standard",),
        exports: Sequence[str] = ("exact",),
        *,
        sources: Sequence[Op | None] = (None,),
        nets: Sequence[Op | None] = (None,),
        data: Sequence[Data | None] = (None,),
    ) -> list[Cell]:
        """Every defender with each export and source network against every exploiter and network,
        for each seed; clean images once for all exports and source networks."""
        product = itertools.product(self.seeds, data, defenders, sources, exports, exploiters, nets)
        found = [
            self.cell(defender, exploiter, export, seed, data=own, source=source, net=net)
            for seed, own, defender, source, export, exploiter, net in product
            if defender != CLEAN or (export, source) == (exports[0], sources[0])
        ]
        return list(dict.fromkeys(found))

    # --- what a page shows -------------------------------------------------------------------

    def table(self, cells: Iterable[Cell]) -> pd.DataFrame:
        """The measured cells, one a row; what is not in the store is computed first.

        Returns:
            columns data, defender, export, source, exploiter, net, seed, setting (the names);
            accuracy, train_accuracy, curve, seconds (see `exploiters.Training`; an attack has
            neither train_accuracy nor curve); knn, untrained and spread (of a training without
            labels, see `pretraining.Pretraining`, whose accuracy is the linear probe's); chance, in
            percent;
            key, commit, device and threads (who computed it).
        """
        wanted = list(cells)
        plan.run(self.unknown(cell.stage for cell in wanted), self.store)
        self.shown |= dict.fromkeys(wanted)
        self.made |= {stage: None for cell in wanted for stage in plan.stages_of([cell.stage])}
        return pd.DataFrame(
            [
                results.row(cell.names, key_of(cell.stage), self._record(cell.stage))
                for cell in wanted
            ]
        )

    def unknown(self, wanted: Iterable[Stage], noises: Iterable[Noise] = ()) -> list[Stage]:
        """Those whose numbers no record holds that is to be kept.

        Two kinds of processor make different noise of the same seed, and so do two numbers of
        threads. So a record is not kept beside noise that another kind made than measured it, or
        that did not come out as it was recorded; and a page shows one noise alone.

        Args:
            noises: what the page loads, and what else is made, on this machine where the store
                lacks it.
        """
        every, made = list(wanted), set(noises)
        here = machine.describe()["device"]

        @functools.cache  # to look into the store is to check the whole file
        def stored(noise: Noise) -> dict[str, Any] | None:
            try:
                return stages.record(noise, self.store)
            except KeyError:  # it is not there
                return None

        def beside(noise: Noise, device: str) -> bool:
            """Whether it is, as far as is known, what was measured on that device."""
            found, recorded = stored(noise), self.known.get(key_of(noise))
            if found is None:
                return noise not in made or here == device
            same = recorded is None or results.alike(found, recorded)
            return same and found["made"]["machine"]["device"] == device

        def kept(stage: Stage) -> bool:
            if (record := self.known.get(key_of(stage))) is None:
                return False
            device = record["made"]["machine"]["device"]
            return all(beside(noise, device) for noise in noises_of([stage]))

        while True:  # what is not kept makes noise, beside which others may not be kept
            unknown = [stage for stage in every if not kept(stage)]
            if noises_of(unknown) <= made:
                return unknown
            made |= noises_of(unknown)

    def perturbation(self, defender: str | Noise, seed: int | None = None) -> Perturbation:
        """The noise of a defender; made, or loaded from the store.

        Raises:
            ValueError: unknown defender.
            PlanFailed: with what went wrong in `exceptions`, such as `bilevel.NotConverged`, whose
                partial noise is kept in the store's folder `partial`.
        """
        stage = defender if isinstance(defender, Noise) else self.noise(defender, seed)
        try:
            found: Perturbation = stages.load(stage, self.store)
        except KeyError:  # it is not there; and what is there needs nothing that it was made with
            plan.run([stage], self.store)
            found = stages.load(stage, self.store)
        self.made[stage] = None
        return found

    def rounds(self, noise: Noise) -> list[float]:
        """The source model's error after each round of a loop, in [0, 1].

        A record tells it, too: who shows no more of a noise need not make it again.
        """
        plan.run(self.unknown([noise]), self.store)
        self.made[noise] = None
        found: list[float] = self._record(noise)["result"]["rounds"]
        return found

    def save(self, page: str) -> Path:
        """Write the record of a page: its cells, and all stages behind it (`results.save`)."""
        told = {
            "page": page,
            "profile": self.profile.name,
            "seeds": self.seeds,
            "precision": self.precision,
            "train": [self.train_set.name, len(self.train_set)],
            "test": [self.test_set.name, len(self.test_set)],
            "cells": [{**cell.names, "key": key_of(cell.stage)} for cell in self.shown],
        }
        return results.save(told, self.records())

    def records(self) -> dict[str, dict[str, Any]]:
        """`stages.record` of all stages behind the page, by key."""
        return {key_of(stage): self._record(stage) for stage in self.made}

    def _record(self, stage: Stage) -> dict[str, Any]:
        """Of the store where it holds the stage: it is what this page used. What was made again, to
        be looked at, and came out the same keeps the record that it has."""
        kept = self.known.get(key_of(stage))
        try:
            found = stages.record(stage, self.store)
        except KeyError:  # it is not there
            if kept is None:
                raise
            return kept
        return found if kept is None or not results.alike(found, kept) else kept

    def _share(self, data: Data) -> float:
        """How many images a data set has, of the profile's; which need not be at hand for it."""
        if not self.profile.steps_at_least:
            return 1.0
        whole = self.profile.n_train or len(self.train_set)
        return len(stages.images(data, "train")) / whole

    def _seed(self, seed: int | None) -> int:
        if seed is None:
            return self.seeds[0]
        _check_whole("seed", seed, 10_000)
        return seed


def noises_of(wanted: Iterable[Stage]) -> set[Noise]:
    """All noise among these stages and what they need."""
    return {stage for stage in plan.stages_of(wanted) if isinstance(stage, Noise)}


def _source(noise: Noise) -> str:
    """The network that noise was made with; "-" for noise that was made without one."""
    method: Any = noise.method
    victim = getattr(method, "victim", None)
    net = getattr(method, "net", None) or getattr(victim, "net", None)
    return str(net) if net else "-"


def _seeds(seed: int | list[int], number: int, profiles: int) -> list[int]:
    """The seeds that a page was asked for, see `Lab`; the profile's number of them is the last."""
    if not isinstance(seed, list):
        _check_whole("seed", seed, 10_000)
        seeds = list(range(seed, seed + (number or profiles)))
        _check_whole("the last seed", seeds[-1], 10_000)
        return seeds
    for one in seed:
        _check_whole("seed", one, 10_000)
    if not seed or len(set(seed)) < len(seed):
        raise ValueError(f"seed is {seed}: a list of seeds names at least one, each once")
    if number != 1:
        raise ValueError(f"seed {seed} names all seeds: leave n_seeds at 1, it is {number}")
    return list(seed)


def _check_whole(name: str, number: int, most: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= most:
        raise ValueError(f"{name} is {number!r}: it must be a whole number, 0 to {most:,}")
