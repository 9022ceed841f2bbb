"""Cells: what a page measures, under the names of its tables. Nothing is computed here.

A cell is a training, with labels or without, or an attack on its network, with its names. A
`Design` turns the names of defenders, exports and exploiters into cells, by a profile's settings.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ulelib import machine
from ulelib.data import DataUnavailable, ImageSet, is_available
from ulelib.defenders import CLEAN, DEFENDERS, Setting
from ulelib.exploiters import EXPLOITERS
from ulelib.jobs.inputs import data_set, images
from ulelib.perturbation import EXPORTS
from ulelib.pgd import ATTACKS
from ulelib.profiles import PROFILES, Profile
from ulelib.recipe import Recipe
from ulelib.restoration import Restoration
from ulelib.settings import Op
from ulelib.specs import WHOLE, Attacked, Data, Noise, Part, Precision, Pretrained, Refitted, Run

SUBSET_SEED = 0  # which images a profile takes is part of the profile, not of a run


@dataclass(frozen=True)
class Cell:
    """One number of a table: a measurement, and the names under which a page shows it.

    Attributes:
        setting: what else tells the numbers of a table apart, as in `book/printed.csv`: the
            mixture, the source network, the test.
    """

    stage: Run | Pretrained | Attacked | Refitted
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
    added: tuple[float, float] | None = WHOLE

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


class Design:
    """One profile's settings and seeds, and the cells that names stand for.

    Args:
        profile: "smoke", "cpu", "quarter", "paper", or "auto": "paper" with CUDA, else "cpu"; and
            "smoke" where CIFAR-10 is neither on this machine nor to be downloaded (`fell_back` is
            then True).
        seed: the first seed; or a list of all of them, with `n_seeds` left at 1.
        n_seeds: how many seeds, from `seed` on; 0 takes the profile's own number.

    Raises:
        ValueError: unknown profile, or seeds that are not whole numbers in 0..10,000, each once.
        DataUnavailable: a profile asked for by name whose data cannot be had.
    """

    def __init__(self, profile: str = "auto", seed: int | list[int] = 0, n_seeds: int = 1) -> None:
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

    def at(self, size: str) -> Design:
        """The same seeds at another size of the profile's ladder; the first of them at a size that
        takes so long that it has fewer (`Profile.seeds`).

        Raises:
            ValueError: its ladder has no such size.
        """
        if size not in self.profile.ladder:
            raise ValueError(f"size {size!r}; choose from {[*self.profile.ladder]}")
        there = self.profile.ladder[size]
        fewer = there.seeds < self.profile.seeds
        other = Design(self.profile.name, self.seeds[: there.seeds] if fewer else self.seeds)
        other.profile = there
        return other

    @functools.cached_property
    def precision(self) -> Any:
        """ "float32" or "bfloat16", as the profile and the machine have it."""
        wanted = self.profile.precision
        return machine.fastest_precision() if wanted == "fastest" else wanted

    @functools.cached_property
    def data(self) -> Data:
        """The profile's data set."""
        profile = self.profile
        try:
            return data_set(profile.data, profile.n_train, seed=SUBSET_SEED)
        except DataUnavailable as error:
            raise DataUnavailable(
                f"profile {profile.name!r} needs {profile.data}: {error}"
            ) from error

    @property
    def train_set(self) -> ImageSet:
        """The clean training images of the profile."""
        return images(self.data, "train")

    @property
    def test_set(self) -> ImageSet:
        """The clean test images: all of them; they only measure."""
        return images(self.data, "test")

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
        start: Run | None = None,
        restore: Restoration | None = None,
        precision: Precision | None = None,
    ) -> Cell:
        """One training, with its names.

        Args:
            defender: a key of `DEFENDERS`, or "clean"; with `noise`, any name for it.
            exploiter: a key of `EXPLOITERS`; or of `Profile.contrastive`, without labels.
            export: a key of `perturbation.EXPORTS`; of no effect on clean images.
            seed: of defender and exploiter; the first one if None.
            noise: made in a way that has no name in `DEFENDERS`.
            data, source, net, recipe, precision: the profile's if None; `source` is the defender's.
            mixture: which images are clean and which protected.
            setting: the cell's name for what else is different.
            index, noise_after, start, restore: see `specs.Part`, `specs.Run`, `_called`.

        Raises:
            ValueError: an unknown name.
        """
        self._check_names(defender, exploiter, export, noise, noise_after or bool(start or restore))
        seed, data, net = self._seed(seed), data or self.data, net or self.profile.loop.net
        if defender != CLEAN and noise is None:
            noise = self.noise(defender, seed, data=data, source=source, precision=precision)
        train = mixture.parts(data, noise, export=export, index=index)
        share, precision = mixture.share * self._share(data), precision or self.precision
        if exploiter in self.profile.contrastive:
            how = self.profile.contrastive[exploiter]
            recipe = recipe or self.profile.pretraining_for(exploiter, share)
            stage: Run | Pretrained = Pretrained(train, data, how, net, recipe, seed, precision)
        else:
            who, recipe = EXPLOITERS[exploiter], recipe or self.profile.recipe_for(share, net)
            stage = Run(train, data, who, net, recipe, seed, precision, noise_after, start, restore)
        return Cell(
            stage=stage,
            data=data.name,
            defender=defender,
            export="-" if defender == CLEAN else export,
            source="-" if noise is None else _source(noise),
            exploiter=_called(exploiter, start, restore),
            net=str(net),
            seed=seed,
            setting=setting,
        )

    def _check_names(
        self,
        defender: str,
        exploiter: str,
        export: str,
        noise: Noise | None,
        with_labels: bool,
    ) -> None:
        unsupervised = self.profile.contrastive
        known = [*sorted(EXPLOITERS), *unsupervised]
        if exploiter not in known:
            raise ValueError(f"exploiter {exploiter!r}; choose from {known}")
        if exploiter in unsupervised and with_labels:
            raise ValueError("late noise, a start and the way back are for trainings with labels")
        if export not in EXPORTS:
            raise ValueError(f"export {export!r}; choose from {[*EXPORTS]}")
        if defender == CLEAN and noise is not None:
            raise ValueError('"clean" images have no noise: give the cell another name')

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

    def refitted(self, cell: Cell, images: int = 2000) -> Cell:
        """The network of a cell, its last layer learned anew from clean images of the cell's seed;
        its exploiter is then called "last layer anew".

        Raises:
            ValueError: a cell that is no training with labels.
        """
        if not isinstance(cell.stage, Run):
            raise ValueError("only the network of a training with labels has a last layer")
        stage = Refitted(cell.stage, images, cell.seed)
        return replace(cell, stage=stage, exploiter="last layer anew")

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

    def _share(self, data: Data) -> float:
        """How many images a data set has, of the profile's; which need not be on this machine."""
        if not self.profile.steps_at_least:
            return 1.0
        whole = self.profile.n_train or len(self.train_set)
        return len(images(data, "train")) / whole

    def _seed(self, seed: int | None) -> int:
        if seed is None:
            return self.seeds[0]
        _check_whole("seed", seed, 10_000)
        return seed


def _called(exploiter: str, start: Run | None, restore: Restoration | None) -> str:
    """An exploiter's name in a table: one that restores by pairs is the "way back (500 pairs)", one
    that begins with a trained network has ", pretrained" behind it."""
    if restore is not None:
        way_back = f"way back ({restore.pairs:,} pairs)"
        exploiter = way_back if exploiter == "standard" else f"{exploiter}, {way_back}"
    return exploiter if start is None else f"{exploiter}, pretrained"


def _source(noise: Noise) -> str:
    """The network that noise was made with; "-" for noise that was made without one."""
    method: Any = noise.method
    method = getattr(method, "method", method)  # of a masked one
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
