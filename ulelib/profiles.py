"""Profiles: how much of the paper a machine computes.

    smoke   the embedded `shapes`, a tiny network, minutes: tests, continuous integration, the demo
    cpu     real CIFAR-10, 20,000 images, a small convolutional network: two cores of a laptop
    paper   CIFAR-10 whole, ResNet-18, 60 epochs, the papers' own settings: one GPU

Settings of the papers: section 5.1 and their released code. The `cpu` recipe was tuned on clean
data alone, against 5,000 training images held out for it; `benchmarks/README.md` says what was
tried. Its rate of 0.6 is the fast network's: of the narrow ones, trained for 240 steps on 10,000
images, VGG-11 reached 36 % on held-out images with it, 61 with 0.25 and 67 with 0.1; ResNet 62 with
0.6 and 61 with 0.15; the MLP without sigmoid 15, and 34 with 0.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ulelib.bilevel import Bilevel
from ulelib.exploiters import Recipe
from ulelib.pgd import Pgd
from ulelib.settings import Op, Share, op

OWN = "convnet"  # the name of a profile's own network, where it is none of the papers'


@dataclass(frozen=True)
class Profile:
    """Everything that a notebook's numbers depend on, but for the seed and what the page chooses.

    Attributes:
        name: "smoke", "cpu" or "paper".
        data: name of the data set.
        n_train: size of its stratified training subset, None for all.
        loop: Algorithm 1, its source network among it; the exploiter has the same network.
        poison: the steps of an attack on a trained network (AdvPois).
        nets: the papers' networks, by their names in tables, as this profile has them; the fast
            one of `loop.net` stands for ResNet-18 wherever a page names no network.
        recipe: the exploiter's training.
        nets_rate: peak learning rate of the same for the networks of `nets`.
        steps_at_least: a training on a part of the images gets more epochs, until it has this share
            of the steps of a training on all of them; 0 leaves the epochs as they are.
        precision: "float32", or "fastest": bfloat16 where the processor has it.
        seeds: how many seeds `make reproduce` runs for a page; for `05_grayaug` as many as the
            paper, five, but in `smoke`.
    """

    name: str
    data: str
    n_train: int | None
    loop: Bilevel
    poison: Pgd
    nets: Mapping[str, Op]
    recipe: Recipe
    nets_rate: float
    steps_at_least: Share = 0.0
    precision: str = "float32"
    seeds: int = 3

    @property
    def names(self) -> dict[str, str]:
        """Each network's name in tables, by its text in `Cell.net` and `Cell.source`."""
        return {str(self.loop.net): OWN} | {str(net): name for name, net in self.nets.items()}

    def recipe_for(self, share: float = 1.0, net: Op | None = None) -> Recipe:
        """The training of a network (`loop.net` if None) on a share of the images."""
        longer = max(1.0, self.steps_at_least / share)
        own = net in self.nets.values() and net != self.loop.net
        return replace(
            self.recipe,
            epochs=math.ceil(self.recipe.epochs * longer - 1e-9),
            learning_rate=self.nets_rate if own else self.recipe.learning_rate,
        )


# Small enough for every profile.
MLPS = {"mlp": op("mlp"), "mlp without sigmoid": op("mlp", sigmoid=False)}

SMOKE = Profile(
    name="smoke",
    data="shapes",
    n_train=None,
    loop=Bilevel(
        net=op("convnet", widths=(16, 32, 64), stride=2),
        inner=Pgd(step=2.4 / 255, steps=4),
        outer_batches=8,
        outer_batch_size=125,
        inner_batch_size=500,
        stop_error=0.002,
    ),
    poison=Pgd(step=1 / 255, steps=20, random_start=True),
    nets={
        "resnet18": op("resnet18", width=0.125, blocks=1),
        "densenet121": op("densenet121", width=0.25, blocks=(1, 1, 1, 1)),
        "vgg11": op("vgg11", width=0.125),
        **MLPS,
    },
    recipe=Recipe(
        epochs=8,
        batch_size=100,
        learning_rate=0.15,
        schedule="one_cycle",
        nesterov=True,
        label_smoothing=0.1,
        curve_images=1000,
    ),
    nets_rate=0.1,
    steps_at_least=0.5,
    precision="fastest",
    seeds=1,
)

CPU = Profile(
    name="cpu",
    data="cifar10",
    n_train=20_000,
    loop=Bilevel(
        net=op("convnet", widths=(32, 64, 128)),
        # A quarter of the paper's steps, twice as long. What the paper's twenty change is measured
        # on the page 05b.
        inner=Pgd(step=1.6 / 255, steps=5),
        outer_batches=20,
        outer_batch_size=250,
        inner_batch_size=250,
    ),
    poison=Pgd(step=0.8 / 255, steps=60, random_start=True),
    nets={
        "resnet18": op("resnet18", width=0.25, blocks=1),
        "densenet121": op("densenet121", width=0.375, blocks=(1, 2, 4, 3)),
        "vgg11": op("vgg11", width=0.25),
        **MLPS,
    },
    recipe=Recipe(
        epochs=10,
        batch_size=250,
        learning_rate=0.6,
        schedule="one_cycle",
        nesterov=True,
        label_smoothing=0.1,
        clip=None,
        flip_at_test=True,
    ),
    nets_rate=0.1,
    steps_at_least=0.5,
    precision="fastest",
)

PAPER = Profile(
    name="paper",
    data="cifar10",
    n_train=None,
    loop=Bilevel(),
    poison=Pgd(step=0.4 / 255, steps=250, random_start=True),
    nets={
        "resnet18": op("resnet18"),
        "densenet121": op("densenet121"),
        "vgg11": op("vgg11"),
        **MLPS,
    },
    recipe=Recipe(),
    nets_rate=0.1,
)

PROFILES = {profile.name: profile for profile in (SMOKE, CPU, PAPER)}
