"""Stages: what is computed and kept. The spec of a stage is the job, and all that it depends on.

    Noise       a perturbation: data, method, seed
    Run         a training and what is measured on it: published parts, exploiter, network, seed
    Pretrained  a training without labels, and what clean probes make of its features
    Attacked    a stored network measured under an attack

A spec is made of frozen settings (`ulelib.settings`) and of other specs; the stages inside a spec
are what it needs. So the graph of the work is there without being described:

    needs(stage)            the stages inside it
    compute(stage, store)   make its artifact, unless it is there
    load(stage, store)      what it holds

All three are plain functions of plain data: any process on any machine can run them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ulelib import data, machine
from ulelib.bilevel import NotConverged
from ulelib.contrastive import Contrastive
from ulelib.data import ImageSet
from ulelib.exploiters import Exploiter, Recipe, Training, accuracy, exploit, prepared_test
from ulelib.models import build_model, check_net
from ulelib.perturbation import Perturbation
from ulelib.pgd import Pgd
from ulelib.pretraining import Pretraining, pretrain
from ulelib.settings import LATER, Count, Op, Seed, Share, key_of, op, settings
from ulelib.store import Store, manifest

T = TypeVar("T")
Precision = Literal["float32", "bfloat16"]
WHOLE = (0.0, 1.0)
RECORD = "record.json"  # of every stage: its numbers


@settings
class Data:
    """A data set: its training and its test images.

    Attributes:
        name: as `data.load` takes it: "cifar10", "shapes", or a folder of pictures.
        n: size of a stratified training subset; None: all.
        size: height and width to which pictures are brought, CIFAR's by `data.resized`; None:
            their own (32 for a folder).
        seed: which subset.
        content: fingerprints of training and test images, as `data_set` fills them in. A stage
            that finds other images under the same name refuses to compute; "" asks for no proof.
    """

    name: str
    n: Count | None = None
    size: Annotated[int, Field(ge=1, le=4096)] | None = None
    seed: Seed = 0
    content: str = ""

    @property
    def pictures(self) -> tuple[Any, ...]:
        """Which they are, at whatever size."""
        return self.name, self.n, self.seed


@runtime_checkable
class Method(Protocol):
    """How a perturbation is made: settings with this one function. See `defenders.py`."""

    def make(
        self,
        images: ImageSet,
        seed: int,
        precision: str,
        *,
        network: Callable[[Run], nn.Module],
        report: Callable[[str], None],
    ) -> Perturbation:
        """Noise for `images`.

        Args:
            network: gives the trained network of a `Run` that these settings hold.
            report: is told what goes on, in words.
        """


@settings
class Noise:
    """A stage: the perturbation that a method makes for the images of `take`.

    Attributes:
        take: the share of each class's training images, from where to where.
    """

    data: Data
    method: Method
    seed: Seed = 0
    precision: Precision = "float32"
    take: tuple[Share, Share] = WHOLE

    def __post_init__(self) -> None:
        if isinstance(self.method, type):
            raise ValueError(f"Noise.method is {self.method}: settings, not their class")
        _check_take(self)


@settings
class Part:
    """Published images: those of `take`, clean or protected.

    Attributes:
        noise: made for these images, or for more of the same data set; or class-wise, of another
            data set.
        export: how noise becomes uint8, see `perturbation.apply_delta`.
        index: whose sample-wise noise an image gets: its "own", or, by the slip of the released
            ImageNet code (`dataset.py:634` of Unlearnable-Examples), that of the image whose number
            is its "class": the noise becomes class-wise, made for ten images of any class. "class
            mean": the mean noise of its class, brought to the images' size; so noise can be moved
            to another data set, whose class number c takes that of class number c. "resized": its
            own, made for the same pictures at another size.
    """

    data: Data
    take: tuple[Share, Share] = WHOLE
    noise: Noise | None = None
    export: Literal["exact", "as_released", "positive", "truncated"] = "exact"
    index: Literal["own", "class", "class mean", "resized"] = field(default="own", metadata=LATER)

    def __post_init__(self) -> None:
        _check_take(self)
        noise = self.noise
        if noise is None and self.export != "exact":
            raise ValueError("Part.export is for noise; clean images are published as they are")
        if noise is None and self.index != "own":
            raise ValueError("Part.index is for noise")
        same = noise is not None and noise.data.pictures == self.data.pictures
        if self.index == "resized" and noise and not same:
            raise ValueError(
                f'Part.index "resized" is for noise of the same pictures at another size: made for '
                f"{noise.data}, these are {self.data}"
            )
        if noise and same and not _within(self.take, noise.take):
            raise ValueError(f"Part.take is {self.take}, but the noise was made for {noise.take}")


@settings
class Run:
    """A stage: a training on published images, measured on the test images of `test`.

    Attributes:
        noise_after: the noise is added after the exploiter's augmentation, always in the same
            place, instead of being published in the images. No exploiter can do that; an experiment
            that keeps pictures and noise apart can (asked of Huang et al.'s notebook, issue 6).
    """

    train: tuple[Part, ...]
    test: Data
    exploiter: Exploiter = Exploiter()
    net: Op = op("resnet18")
    recipe: Recipe = Recipe()
    seed: Seed = 0
    precision: Precision = "float32"
    noise_after: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("Run.train is empty: a training needs images")
        if self.noise_after and self.exploiter.filters:
            raise ValueError("Run.noise_after: noise that is added last cannot be filtered first")
        check_net(self.net)


@settings
class Pretrained:
    """A stage: a training without labels on published images, probed with clean ones.

    Attributes:
        test: the data set whose clean training images teach the probes, and whose test images
            measure them.
    """

    train: tuple[Part, ...]
    test: Data
    contrastive: Contrastive
    net: Op = op("resnet18")
    recipe: Recipe = Recipe()
    seed: Seed = 0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("Pretrained.train is empty: a training needs images")
        recipe = self.recipe
        if recipe.label_smoothing or recipe.flip_at_test or recipe.schedule_by != "batch":
            raise ValueError(
                "Pretrained.recipe: there are no labels to smooth and no logits of mirror images, "
                "and the rate changes by batch"
            )
        check_net(self.net)


@settings
class Attacked:
    """A stage: the accuracy of a stored network on test images that were moved against it.

    FGSM is `Pgd(epsilon, step=epsilon, steps=1)`, PGD-20 `Pgd(epsilon, step, 20, True)`; None moves
    nothing: the clean accuracy in the way that attacks are measured, in float32 and without mirror
    images.
    """

    run: Run
    attack: Pgd | None
    seed: Seed = 0


Stage = Noise | Run | Pretrained | Attacked


def needs(stage: Stage) -> tuple[Stage, ...]:
    """The stages right inside a stage, each once: what must be there before it is computed."""
    return tuple(dict.fromkeys(_inside(stage)))


def compute(stage: Stage, store: Store, *, wait: bool = True) -> bool:
    """Make a stage's artifact, and before it all that it needs; nothing where it is there.

    Args:
        wait: for another process that is at work on it.

    Returns:
        whether it is there now: False if another process is at work and `wait` is False.

    Raises:
        what the stage raises; see `bilevel.minimise_error`, `exploiters.exploit`.
    """
    if store.find(stage):
        return True
    for needed in needs(stage):
        if not compute(needed, store, wait=wait):
            return False
    with store.claim(stage, wait) as mine:
        if not mine:
            return False
        if not store.find(stage):  # made while this process waited
            write = _WRITE[type(stage)]
            store.put(stage, lambda folder: write(stage, folder, store), machine.made_by())
    return True


def load(stage: Stage, store: Store) -> Any:
    """What a stage holds: a `Perturbation`, `Training`, `Pretraining`, or an accuracy in percent.

    Raises:
        KeyError: it has not been computed.
        Uninterpretable: it is whole, but another version of the code wrote it.
    """
    return _interpreted(_found(stage, store), _READ[type(stage)])


# What reading may raise of a file that another version wrote; the last two of a network's weights.
NOT_UNDERSTOOD = (ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)


def _interpreted(place: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(place)
    except NOT_UNDERSTOOD as error:
        raise Uninterpretable(
            f"{place} is whole, but this version of ulelib cannot interpret it ({error!r:.300}). "
            "It stays as it is: read it with the version that wrote it, commit "
            f"{manifest(place)['made'].get('commit')}, or remove the folder"
        ) from error


class Uninterpretable(RuntimeError):
    """An artifact that is whole and that this code does not understand."""


def record(stage: Stage, store: Store) -> dict[str, Any]:
    """What is told of a computed stage, as plain JSON data.

    Returns:
        "spec", all of it; "result": the numbers that it gave (of a `Training`; of a perturbation,
        its rounds and seconds); "made": who computed it, see `machine.made_by`.
    """
    place = _found(stage, store)
    if not isinstance(stage, Noise):  # who shows its numbers must be able to read them
        _interpreted(place, _READ[type(stage)])
    told, result = manifest(place), _interpreted(place, _read_record)
    return {"spec": told["spec"], "result": result, "made": told["made"]}


def _found(stage: Stage, store: Store) -> Path:
    place = store.find(stage)
    if place is None:
        raise KeyError(f"{type(stage).__name__} {key_of(stage)} is not in {store.folder}")
    return place


def network(run: Run, store: Store) -> nn.Module:
    """The trained network of a stored run, in eval mode, on the device.

    Raises:
        KeyError, Uninterpretable: see `load`.
    """
    place = _found(run, store)
    classes = len(images(run.test, "test").classes)
    model = machine.seeded_model(lambda: build_model(run.net, classes), seed=0)
    _interpreted(
        place, lambda folder: model.load_state_dict(load_file(folder / "network.safetensors"))
    )
    return model.eval().requires_grad_(False)


# --- images --------------------------------------------------------------------------------------


def images(wanted: Data, split: str) -> ImageSet:
    """The training images of a data set (its subset), or its test images.

    Raises:
        ValueError: other images than `wanted.content` says.
        data.DataUnavailable: see `data.load`.
    """
    found = _loaded(dataclasses.replace(wanted, content=""), split)
    if wanted.content and found.fingerprint not in wanted.content.split():
        raise ValueError(
            f"the {split} images of {wanted.name} are not those that this was planned for "
            f"(fingerprint {found.fingerprint}, not of {wanted.content}): is ULELIB_DATA the same?"
        )
    return found


@functools.lru_cache(maxsize=8)
def _loaded(wanted: Data, split: str) -> ImageSet:
    """`images`, whatever they are: those that are to be proved and those that are, once."""
    enlarged = wanted.name in data.OF_ONE_SIZE and wanted.size not in (None, 32)
    found = data.load(wanted.name, split, size=None if enlarged else wanted.size)
    if split == "train" and wanted.n is not None:
        found = data.stratified_subset(found, wanted.n, wanted.seed)
    if enlarged and wanted.size:
        found = data.resized(found, wanted.size)
    return found


def data_set(
    name: str, n: int | None = None, size: int | None = None, seed: int = 0, test: bool = True
) -> Data:
    """`Data` with its content proved: loads the images and notes their fingerprints.

    Args:
        test: False for pictures without test images.
    """
    wanted = Data(name, n, size, seed)
    splits = ("train", "test") if test else ("train",)
    content = " ".join(images(wanted, split).fingerprint for split in splits)
    return dataclasses.replace(wanted, content=content)


def rows_of(whole: ImageSet, take: tuple[float, float]) -> torch.Tensor:
    """Indices `(M,)` int64 of a share of each class, in the order of the set.

    Shares that meet, such as (0, 0.05) and (0.05, 0.35), have no image in common.
    """
    counts = torch.bincount(whole.labels, minlength=len(whole.classes))
    by_class = whole.labels.argsort(stable=True)
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(whole.labels)  # the how-manieth of its class an image is
    rank[by_class] = torch.arange(len(whole)) - first[whole.labels[by_class]]
    low, high = ((edge * counts).round()[whole.labels] for edge in take)
    return ((rank >= low) & (rank < high)).nonzero()[:, 0]


def published(part: Part, store: Store) -> ImageSet:
    """The images of a part as their owner publishes them, uint8.

    Raises:
        ValueError: the noise does not fit these images.
    """
    whole = images(part.data, "train")
    rows = rows_of(whole, part.take)
    if part.noise is None:
        return whole if part.take == WHOLE else whole.select(rows)
    noise: Perturbation = load(part.noise, store)
    same = part.noise.data.pictures == part.data.pictures
    made_for = rows_of(whole, part.noise.take) if same else rows
    protected = whole if len(made_for) == len(whole) else whole.select(made_for)
    if part.index == "class":
        noise = noise.indexed_by_class(protected)
    if part.index == "class mean":
        source = images(part.noise.data, "train")
        made_on = source.select(rows_of(source, part.noise.take))
        noise = noise.class_means(made_on).fitted_to(protected)
    if part.index == "resized":
        noise = noise.resized(protected)
    return noise.apply(protected, part.export, torch.searchsorted(made_for, rows))


# --- what each kind of stage writes and reads -----------------------------------------------------


def _write_noise(stage: Noise, folder: Path, store: Store) -> None:
    whole = images(stage.data, "train")
    chosen = whole if stage.take == WHOLE else whole.select(rows_of(whole, stage.take))
    try:
        made = stage.method.make(
            chosen,
            stage.seed,
            stage.precision,
            network=lambda run: network(run, store),
            report=lambda line: None,
        )
    except NotConverged as error:
        _keep_partial(error, store.folder / "partial" / f"{key_of(stage)}.safetensors")
        raise
    made.save(folder / "delta.safetensors")
    _write_record(folder, {"rounds": made.rounds, "seconds": made.seconds})


def _keep_partial(error: NotConverged, path: Path) -> None:
    """What the loop had by then; it is in the exception too, but a process may be at its end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        error.perturbation.save(path)
        error.add_note(f"It is kept in {path}, too.")
    except OSError as trouble:
        path.unlink(missing_ok=True)
        error.add_note(f"It could not be kept in {path}: {trouble}")


def _write_run(stage: Run, folder: Path, store: Store) -> None:
    train, noise = _mixed(stage.train, store), None
    if stage.noise_after:
        clean = _mixed([Part(part.data, part.take) for part in stage.train], store)
        noise, train = train.images.to(torch.int16) - clean.images, clean
    training, model = exploit(
        train,
        images(stage.test, "test"),
        stage.exploiter,
        stage.net,
        stage.recipe,
        seed=stage.seed,
        precision=stage.precision,
        noise=noise,
    )
    _write_trained(folder, model, training)


def _write_pretrained(stage: Pretrained, folder: Path, store: Store) -> None:
    shows, backbone = pretrain(
        _mixed(stage.train, store),
        images(stage.test, "train"),
        images(stage.test, "test"),
        stage.contrastive,
        stage.net,
        stage.recipe,
        seed=stage.seed,
        precision=stage.precision,
    )
    _write_trained(folder, backbone, shows)


def _mixed(parts: Iterable[Part], store: Store) -> ImageSet:
    """The published images of all parts, one behind the other."""
    return functools.reduce(data.mix, (published(part, store) for part in parts))


def _write_trained(folder: Path, model: nn.Module, shows: Training | Pretraining) -> None:
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "network.safetensors")
    _write_record(folder, dataclasses.asdict(shows))


def _read_trained(kind: Callable[..., T]) -> Callable[[Path], T]:
    """Reads what a training shows, of its kind."""

    def read(place: Path) -> T:
        told = _read_record(place)
        return kind(**{**told, "curve": tuple(told["curve"])})

    return read


def _write_attacked(stage: Attacked, folder: Path, store: Store) -> None:
    started = time.perf_counter()
    reached = accuracy(
        network(stage.run, store),
        prepared_test(images(stage.run.test, "test"), stage.run.exploiter),
        attack=stage.attack,
        seed=stage.seed,
    )
    _write_record(
        folder,
        {
            "accuracy": reached,
            "chance": 100 / len(images(stage.run.test, "test").classes),
            "seconds": time.perf_counter() - started,
        },
    )


def _write_record(folder: Path, result: dict[str, Any]) -> None:
    (folder / RECORD).write_text(json.dumps(result))


def _read_record(place: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((place / RECORD).read_text(encoding="utf-8"))
    return told


_WRITE: dict[type, Callable[..., None]] = {
    Noise: _write_noise,
    Run: _write_run,
    Pretrained: _write_pretrained,
    Attacked: _write_attacked,
}
_READ: dict[type, Callable[[Path], Any]] = {
    Noise: lambda place: Perturbation.load(place / "delta.safetensors"),
    Run: _read_trained(Training),
    Pretrained: _read_trained(Pretraining),
    Attacked: lambda place: float(_read_record(place)["accuracy"]),
}


def _inside(spec: Any) -> Iterator[Stage]:
    """The stages inside a spec, not those inside of these."""
    for item in dataclasses.fields(spec):
        value = getattr(spec, item.name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Stage):
                yield one
            elif dataclasses.is_dataclass(one):
                yield from _inside(one)


def _check_take(stage: Noise | Part) -> None:
    if not stage.take[0] < stage.take[1]:
        name = type(stage).__name__
        raise ValueError(f"{name}.take is {stage.take}: from where to where, as shares in [0, 1]")


def _within(inner: tuple[float, float], outer: tuple[float, float]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]
