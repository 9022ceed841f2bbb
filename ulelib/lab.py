"""The lab: what a notebook talks to. It runs a stage, or loads it from the store.

lab = Lab("auto", seed=0)
noise = lab.perturbation("ULEO-GrayAugs")
result = lab.exploit("ULEO-GrayAugs", exploiter="gray")
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from ulelib import machine
from ulelib.bilevel import NotConverged
from ulelib.data import DataUnavailable, ImageSet, is_available, load, stratified_subset
from ulelib.defenders import DEFENDERS, Defender
from ulelib.exploiters import EXPLOITERS, Training, exploit
from ulelib.models import build_model
from ulelib.perturbation import EXPORTS, Perturbation
from ulelib.profiles import PROFILES, Profile
from ulelib.store import Store, canonical, key_of, write_text

CLEAN = "clean"
SUBSET_SEED = 0  # which images a profile takes is part of the profile, not of a run


@dataclass(frozen=True)
class GenerationSpec:
    """All that a perturbation depends on. `version` rises when the same settings mean another
    computation."""

    images: str  # fingerprint
    defender: dict[str, Any]
    loop: dict[str, Any]
    model: str
    model_options: dict[str, Any]
    precision: str
    seed: int
    version: int = 2  # 1: other stop test and clipping under random views


@dataclass(frozen=True)
class TrainingSpec:
    """All that an exploiter's result depends on; `perturbation` is a key of the store, or None."""

    images: str
    test_images: str
    perturbation: str | None
    export: str
    exploiter: str
    recipe: dict[str, Any]
    model: str
    model_options: dict[str, Any]
    precision: str
    seed: int
    version: int = 2  # 1: exploiters of a seed began with the defender's initial weights


@dataclass(frozen=True)
class Result:
    """One exploiter, trained and measured.

    Attributes:
        defender: "clean" or a key of `DEFENDERS`.
        exploiter: a key of `EXPLOITERS`.
        export: "exact" or "as_released"; "-" for clean images.
        seed: of the defender and of the exploiter.
        accuracy: clean test accuracy at the last epoch, percent.
        curve: the same after each epoch.
        train_accuracy: percent, during the last epoch, on what it was trained on.
        seconds: of the training.
        key: of the training in the store.
        machine: where it ran, see `machine.describe`.
        commit: of the code that trained it, "+" behind it where the tree differed; None without git
            or for a stage stored before commits were.
    """

    defender: str
    exploiter: str
    export: str
    seed: int
    accuracy: float
    curve: tuple[float, ...]
    train_accuracy: float
    seconds: float
    key: str
    machine: dict[str, Any]
    commit: str | None = None


class Lab:
    """One profile's data, settings and store.

    Args:
        profile: "smoke", "cpu", "paper", or "auto": "paper" with CUDA, else "cpu"; and "smoke"
            where CIFAR-10 is neither at hand nor to be downloaded (`fell_back` then says so).
        seed: the first seed.
        n_seeds: how many seeds, from `seed` on; 0 takes the profile's own number.
        store: folder of the store; else `$ULELIB_STORE`, else `.ulelib` in the project.

    Raises:
        ValueError: unknown profile, or a seed that is not a whole number of 0 or more.
        DataUnavailable: a profile asked for by name whose data cannot be had.
    """

    def __init__(
        self,
        profile: str = "auto",
        seed: int = 0,
        n_seeds: int = 1,
        store: Path | None = None,
    ) -> None:
        _check_whole("seed", seed)
        _check_whole("n_seeds", n_seeds)
        if profile != "auto" and profile not in PROFILES:
            raise ValueError(f"profile {profile!r}; choose from {['auto', *PROFILES]}")
        self.fell_back = False
        if profile == "auto":
            profile = "paper" if machine.device().type == "cuda" else "cpu"
            if not is_available(PROFILES[profile].data):
                self.fell_back, profile = True, "smoke"
        self.profile: Profile = PROFILES[profile]
        self.seeds = list(range(seed, seed + (n_seeds or self.profile.seeds)))
        self.store = Store(store or _default_folder("ULELIB_STORE", ".ulelib"))
        self.results: dict[str, Result] = {}
        self.generations: dict[str, dict[str, Any]] = {}

    @functools.cached_property
    def precision(self) -> str:
        """ "float32" or "bfloat16", as the profile and the machine have it."""
        wanted = self.profile.precision
        return machine.fastest_precision() if wanted == "fastest" else wanted

    @functools.cached_property
    def train_set(self) -> ImageSet:
        """The clean training images of the profile."""
        whole = self._load("train")
        count = self.profile.n_train
        return whole if count is None else stratified_subset(whole, count, SUBSET_SEED)

    @functools.cached_property
    def test_set(self) -> ImageSet:
        """The clean test images: all of them; they only measure."""
        return self._load("test")

    def perturbation(self, defender: str, seed: int | None = None) -> Perturbation:
        """The noise of `defender` for the training images; made, or loaded from the store.

        Raises:
            ValueError: unknown defender.
            NotConverged: see `bilevel.minimise_error`; the partial noise is kept in the store's
                folder `partial`.
        """
        chosen, seed = self._defender(defender), self._seed(seed)
        spec = self._generation_spec(chosen, seed)

        def compute(folder: Path) -> None:
            made = self._generate(chosen, seed)
            made.save(folder / "delta.safetensors")
            record = {"rounds": made.rounds, "seconds": made.seconds, **_made_by()}
            (folder / "record.json").write_text(json.dumps(record))

        def read(folder: Path) -> Perturbation:
            self._note_generation(spec, defender, folder)
            return Perturbation.load(folder / "delta.safetensors")

        return self.store.get("perturbation", spec, compute, read)

    def exploit(
        self,
        defender: str = CLEAN,
        exploiter: str = "standard",
        export: str = "exact",
        seed: int | None = None,
    ) -> Result:
        """Train an exploiter on what `defender` publishes; or load what it reached.

        Args:
            defender: a key of `DEFENDERS`, or "clean".
            exploiter: a key of `EXPLOITERS`.
            export: "exact" or "as_released"; of no effect on clean images.
            seed: of defender and exploiter; the lab's first if None.

        Raises:
            ValueError: an unknown name.
        """
        if exploiter not in EXPLOITERS:
            raise ValueError(f"exploiter {exploiter!r}; choose from {sorted(EXPLOITERS)}")
        if export not in EXPORTS:
            raise ValueError(f"export {export!r}; choose from {EXPORTS}")
        seed = self._seed(seed)
        clean = defender == CLEAN
        export = "-" if clean else export
        generation = None if clean else self._generation_spec(self._defender(defender), seed)
        spec = TrainingSpec(
            images=self.train_set.fingerprint,
            test_images=self.test_set.fingerprint,
            perturbation=None if generation is None else key_of(generation),
            export=export,
            exploiter=exploiter,
            recipe=dataclasses.asdict(self.profile.recipe),
            model=self.profile.model,
            model_options=self.profile.model_options,
            precision=self.precision,
            seed=seed,
        )

        def compute(folder: Path) -> None:
            published = self.train_set
            if not clean:
                published = self.perturbation(defender, seed).apply(published, export)
            training = exploit(
                published,
                self.test_set,
                self._make_model,
                self.profile.recipe,
                exploiter=exploiter,
                seed=seed,
                precision=self.precision,
            )
            record = {"training": dataclasses.asdict(training), **_made_by()}
            (folder / "record.json").write_text(json.dumps(record))

        def read(folder: Path) -> Result:
            record = json.loads((folder / "record.json").read_text())
            training = Training(**record["training"])
            return Result(
                defender=defender,
                exploiter=exploiter,
                export=export,
                seed=seed,
                accuracy=training.accuracy,
                curve=tuple(training.curve),
                train_accuracy=training.train_accuracy,
                seconds=training.seconds,
                key=key_of(spec),
                machine=record["machine"],
                commit=record.get("commit"),
            )

        result = self.store.get("training", spec, compute, read)
        if generation is not None:  # a stored training does not read its perturbation
            self._note_generation(
                generation, defender, self.store.place("perturbation", generation)
            )
        self.results[result.key] = result
        return result

    def table(
        self,
        defenders: Sequence[str],
        exploiters: Sequence[str] = tuple(EXPLOITERS),
        exports: Sequence[str] = EXPORTS,
    ) -> list[Result]:
        """Every defender against every exploiter, with each export and seed; clean images once."""
        cells = [
            (defender, exploiter, export, seed)
            for seed in self.seeds
            for defender in defenders
            for export in (exports if defender != CLEAN else exports[:1])
            for exploiter in exploiters
        ]
        progress = tqdm(cells, desc="trainings", mininterval=1)
        return [self.exploit(*cell) for cell in progress]

    def save(self, name: str) -> Path:
        """Write `PROFILE/NAME.json`: settings, per-seed values, curves, machine, seconds.

        Every stage has the commit of the code that computed it, the record that of the code which
        put them together.

        It goes to the folder `$ULELIB_RESULTS`, else `_build/results` in the project: only
        `make reproduce` replaces the book's own records, in `results`.
        """
        folder = _default_folder("ULELIB_RESULTS", "_build/results")
        path = folder / self.profile.name / f"{name}.json"
        record = {
            "name": name,
            "profile": json.loads(canonical(self.profile)),
            "precision": self.precision,
            "seeds": self.seeds,
            "images": {
                "train": [self.train_set.name, len(self.train_set), self.train_set.fingerprint],
                "test": [self.test_set.name, len(self.test_set), self.test_set.fingerprint],
            },
            "generations": self.generations,
            "results": [dataclasses.asdict(result) for result in self.results.values()],
            **_made_by(),
        }
        write_text(path, json.dumps(record, indent=1) + "\n")
        return path

    def _load(self, split: str) -> ImageSet:
        try:
            return load(self.profile.data, split)
        except DataUnavailable as error:
            raise DataUnavailable(
                f"profile {self.profile.name!r} needs {self.profile.data}: {error}"
            ) from error

    def _defender(self, name: str) -> Defender:
        if name not in DEFENDERS:
            raise ValueError(f"defender {name!r}; choose from {[CLEAN, *DEFENDERS]}")
        return DEFENDERS[name]

    def _seed(self, seed: int | None) -> int:
        if seed is None:
            return self.seeds[0]
        _check_whole("seed", seed)
        return seed

    def _make_model(self) -> nn.Module:
        classes = len(self.train_set.classes)
        return build_model(self.profile.model, classes, **self.profile.model_options)

    def _generation_spec(self, defender: Defender, seed: int) -> GenerationSpec:
        described = {
            item.name: getattr(value, "__name__", value)  # a view is named, not hashed
            for item in dataclasses.fields(defender)
            for value in (getattr(defender, item.name),)
        }
        return GenerationSpec(
            images=self.train_set.fingerprint,
            defender=described,
            loop=dataclasses.asdict(self.profile.loop),
            model=self.profile.model,
            model_options=self.profile.model_options,
            precision=self.precision,
            seed=seed,
        )

    def _note_generation(self, spec: GenerationSpec, defender: str, folder: Path) -> None:
        path = folder / "record.json"
        if not path.exists():  # a perturbation may have been removed since; its trainings stay
            return
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            self.generations[key_of(spec)] = {"defender": defender, "seed": spec.seed, **record}
        except (OSError, ValueError, TypeError) as error:  # the training does not depend on it
            warnings.warn(
                f"how {defender} was made cannot be read ({error}); the record leaves it out. "
                "Asking for the perturbation itself computes it again",
                stacklevel=3,
            )

    def _generate(self, defender: Defender, seed: int) -> Perturbation:
        try:
            return defender.protect(
                self.train_set,
                self._make_model,
                self.profile.loop,
                seed=seed,
                precision=self.precision,
            )
        except NotConverged as error:
            key = key_of(self._generation_spec(defender, seed))
            path = self.store.folder / "partial" / f"{key}.safetensors"
            part = path.with_suffix(".part")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                error.perturbation.save(part)
                os.replace(part, path)
                error.add_note(f"It is kept in {path}, too.")
            except OSError as trouble:  # what the loop made is still in the exception
                part.unlink(missing_ok=True)
                error.add_note(f"It could not be kept in {path}: {trouble}")
            raise


def _check_whole(name: str, number: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"{name} is {number!r}: it must be a whole number, 0 or more")


def read_results(name: str, profile: str) -> tuple[list[Result], dict[str, Any]]:
    """A record of the book, from `$ULELIB_RESULTS` or else `results`: its results, and all of it.

    Raises:
        FileNotFoundError: nothing was saved under that name in that profile; says what to run.
    """
    path = _default_folder("ULELIB_RESULTS", "results") / profile / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no record {path}; make it with `make reproduce PROFILE={profile}`"
        )
    record = json.loads(path.read_text(encoding="utf-8"))
    results = [Result(**{**row, "curve": tuple(row["curve"])}) for row in record["results"]]
    return results, record


def curves(
    results: Iterable[Result], exploiter: str, export: str | None = None
) -> dict[str, list[tuple[float, ...]]]:
    """Learning curves by defender, one a seed, as `ulelib.figures` takes them.

    Args:
        results: of `Lab.table` or `Lab.exploit`.
        exploiter: whose curves.
        export: only this one's (and the clean ones'); None takes all and names the export.
    """
    chosen: dict[str, list[tuple[float, ...]]] = {}
    for result in results:
        if result.exploiter == exploiter and (export is None or result.export in (export, "-")):
            suffix = f" ({result.export.replace('_', ' ')})" if export is None else ""
            label = result.defender + (suffix if result.export != "-" else "")
            chosen.setdefault(label, []).append(result.curve)
    return chosen


def _default_folder(variable: str, name: str) -> Path:
    """`$variable`, else `name` in the project this package belongs to, else in the working folder.

    A notebook's working folder differs between papermill and JupyterLab, so it is the last choice.
    """
    if variable in os.environ:
        return Path(os.environ[variable])
    project = Path(__file__).resolve().parent.parent
    return (project if (project / "pyproject.toml").exists() else Path.cwd()) / name


def _made_by() -> dict[str, Any]:
    return {"machine": machine.describe(), "commit": _commit()}


def _commit() -> str | None:
    """The code's git commit, with "+" behind it where the tree differs; None without git."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "."],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")
