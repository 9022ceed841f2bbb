"""Profiles: how much of the paper a machine computes.

    smoke   the embedded `shapes`, a tiny network, a minute: tests, continuous integration, the demo
    cpu     real CIFAR-10, 20,000 images, a small convolutional network: two cores of a laptop
    paper   CIFAR-10 whole, ResNet-18, 60 epochs, the papers' own settings: one GPU

Settings of the papers: section 5.1 and their released code. The `cpu` recipe was tuned once, on
clean data alone, against 5,000 training images held out for it; `benchmarks/README.md` says what
was tried.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ulelib.bilevel import BilevelConfig
from ulelib.exploiters import Recipe


@dataclass(frozen=True)
class Profile:
    """Everything that a notebook's numbers depend on, but for the seed.

    Attributes:
        name: "smoke", "cpu" or "paper".
        data: name of the data set.
        n_train: size of its stratified training subset, None for all.
        model, model_options: network of both the defender and the exploiter.
        loop: Algorithm 1.
        recipe: the exploiter's training.
        precision: "float32", or "fastest": bfloat16 where the processor has it.
        seeds: how many seeds `make reproduce` runs for a table.
    """

    name: str
    data: str
    n_train: int | None
    model: str
    loop: BilevelConfig
    recipe: Recipe
    model_options: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    seeds: int = 1


SMOKE = Profile(
    name="smoke",
    data="shapes",
    n_train=1500,
    model="convnet",
    model_options={"stem": 8, "widths": (16, 24, 32), "zero_bias": True},
    loop=BilevelConfig(
        step=2.4 / 255,
        inner_steps=4,
        outer_batches=8,
        outer_batch_size=125,
        inner_batch_size=500,
        stop_error=0.01,
        learning_rate=0.1,
    ),
    recipe=Recipe(
        epochs=12,
        batch_size=50,
        learning_rate=0.1,
        schedule="one_cycle",
        momentum=0.8,  # with 0.9 one seed in six or so never leaves chance
        nesterov=True,
        label_smoothing=0.1,
    ),
    precision="fastest",
)

CPU = Profile(
    name="cpu",
    data="cifar10",
    n_train=20_000,
    model="convnet",
    model_options={"stem": 16, "widths": (32, 64, 128)},
    loop=BilevelConfig(
        step=1.6 / 255,
        inner_steps=5,
        outer_batches=20,
        outer_batch_size=250,
        inner_batch_size=250,
    ),
    recipe=Recipe(
        epochs=14,
        batch_size=250,
        learning_rate=0.4,
        schedule="one_cycle",
        nesterov=True,
        label_smoothing=0.1,
        clip=None,
        flip_at_test=True,
    ),
    precision="fastest",
    seeds=2,
)

PAPER = Profile(
    name="paper",
    data="cifar10",
    n_train=None,
    model="resnet18",
    loop=BilevelConfig(),
    recipe=Recipe(),
    seeds=5,
)

PROFILES = {profile.name: profile for profile in (SMOKE, CPU, PAPER)}
