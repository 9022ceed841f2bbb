"""Specs: what can be computed, as plain data. The spec of a stage is the job, and all that it
depends on.

    Noise       a perturbation: data, method, seed
    Run         a training and what is measured on it: published parts, exploiter, network, seed
    Pretrained  a training without labels, and what clean probes make of its features
    Attacked    a stored network measured under an attack
    Refitted    a stored network whose last layer is learned anew from clean images
    Seen        how visible noise is in published pictures

A spec is made of frozen settings (`settings.py`) and of other specs. The stages inside a spec are
what it needs (`needs`), so the graph of the work is there without being described. Nothing is
computed here: that is for `jobs/execute.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import Field
from torch import nn

from ulelib.checkpoints import NO_CHECKPOINT, Checkpoint
from ulelib.contrastive import Contrastive
from ulelib.data import ImageSet
from ulelib.exploiters import Exploiter, Recipe
from ulelib.models import check_net
from ulelib.perturbation import Perturbation
from ulelib.pgd import Pgd
from ulelib.restoration import Restoration
from ulelib.settings import Count, Op, Seed, Share, at_default, key_of, op, settings

Precision = Literal["float32", "bfloat16"]
WHOLE = (0.0, 1.0)


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
        checkpoint: Checkpoint = NO_CHECKPOINT,
    ) -> Perturbation:
        """A perturbation for `images`.

        Args:
            network: gives the trained network of a `Run` that these settings hold.
            report: callback, called with one line of text now and then.
            checkpoint: saves the state of a long computation, and restores it. A method that takes
                seconds may ignore it.

        A method that needs none of the three may take them together, as `**_`.
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
    index: Literal["own", "class", "class mean", "resized"] = "own"

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

    def not_in_key(self) -> frozenset[str]:
        """See `settings.key_of`."""
        return at_default(self, "index")


@settings
class Run:
    """A stage: a training on published images, measured on the test images of `test`.

    Attributes:
        noise_after: the noise is added after the exploiter's augmentation, always in the same
            place, instead of being published in the images. No exploiter can do that; an experiment
            that keeps pictures and noise apart can (asked of Huang et al.'s notebook, issue 6).
        start: a training with whose weights this one begins, all but those of the last layer: a
            network pretrained on other images. None: it begins with random ones.
        restore: the way back: before the training, a network learns from pairs (published, clean)
            of these images to take the noise out of all of them. The pairs are drawn by `seed`. On
            clean images it is a control: it measures what restoration itself costs. None: the
            images stay as they were published.
    """

    train: tuple[Part, ...]
    test: Data
    exploiter: Exploiter = Exploiter()
    net: Op = op("resnet18")
    recipe: Recipe = Recipe()
    seed: Seed = 0
    precision: Precision = "float32"
    noise_after: bool = False
    start: Run | None = None
    restore: Restoration | None = None

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("Run.train is empty: a training needs images")
        if self.noise_after and self.restore is not None:
            raise ValueError("Run.restore: noise that is added last cannot be taken out first")
        if self.noise_after and self.exploiter.filters:
            raise ValueError("Run.noise_after: noise that is added last cannot be filtered first")
        if self.start is not None and self.start.net != self.net:
            raise ValueError(f"Run.start is of {self.start.net}, but this network is {self.net}")
        check_net(self.net)

    def not_in_key(self) -> frozenset[str]:
        """See `settings.key_of`."""
        return at_default(self, "noise_after", "start", "restore")


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


@settings
class Refitted:
    """A stage: the accuracy of a stored network whose last layer is learned anew from clean images.

    Last-layer retraining (DFR: Kirichenko et al., *Last Layer Re-Training is Sufficient for
    Robustness to Spurious Correlations*, ICLR 2023). Sandoval-Segura et al. (*What Can We Learn
    from Unlearnable Datasets?*, NeurIPS 2023) show by it that networks learn useful features from
    protected images all the same. They take 5,000 of CIFAR-10's 50,000 images, a tenth.

    Attributes:
        images: how many clean training images there are, of those of `run.test`.
        seed: which ones.
    """

    run: Run
    images: Count = 2000
    seed: Seed = 0


@settings
class Seen:
    """A stage: how visible noise is in the pictures as they are published, see `visibility`."""

    part: Part

    def __post_init__(self) -> None:
        if self.part.noise is None:
            raise ValueError("Seen.part has no noise: clean pictures show none")


Stage = Noise | Run | Pretrained | Attacked | Refitted | Seen


def seen(noise: Noise) -> Seen:
    """Noise in all pictures that it was made for, both signs, rounded."""
    return Seen(Part(noise.data, noise.take, noise))


def needs(stage: Stage) -> tuple[Stage, ...]:
    """The stages right inside a stage, each once: what must be there before it is computed."""
    return tuple(dict.fromkeys(_inside(stage)))


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


def noises_of(stage: Stage) -> set[Noise]:
    """All noise that a stage needs, itself not among it."""
    return {one for one in stages_of([stage]) if isinstance(one, Noise) and one != stage}


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
