"""Profiles: how much of the paper a machine computes.

    smoke   the embedded `shapes`, a tiny network, minutes: tests, continuous integration, the demo
    cpu     real CIFAR-10, 20,000 images, a small convolutional network: two cores of a laptop
    quarter CIFAR-10 whole, ResNet-18 at a quarter of its width, four epochs: some two hours a seed
            of one page on a core that has bfloat16
    paper   CIFAR-10 whole, ResNet-18, 60 epochs, the papers' own settings but for the precision:
            one GPU

Settings of the papers: section 5.1 and their released code. The `cpu` recipe was tuned on clean
data alone, against 5,000 training images held out for it; `benchmarks/README.md` says what was
tried. Its rate of 0.6 is the fast network's: of the narrow ones, trained for 240 steps on 10,000
images, VGG-11 reached 36 % on held-out images with it, 61 with 0.25 and 67 with 0.1; ResNet 62 with
0.6 and 61 with 0.15; the MLP without sigmoid 15, and 34 with 0.1. Without labels, after 160 steps
on 10,000 images, neighbours name 26 % of held-out images rightly with an untrained network, 36 with
SimCLR at a rate of 0.1; with MoCo 29 at 0.1, 33 at 0.01 and 30 at 0.003.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ulelib.bilevel import Bilevel
from ulelib.contrastive import Contrastive, Transferable
from ulelib.csd import Separation
from ulelib.exploiters import Recipe
from ulelib.pgd import Pgd
from ulelib.settings import Op, Share, op

OWN = "convnet"  # the name of a profile's own network, where it is none of the papers'


@dataclass(frozen=True)
class Profile:
    """Everything that a notebook's numbers depend on, but for the seed and what the page chooses.

    Attributes:
        name: "smoke", "cpu", "quarter" or "paper".
        scale: where its verdicts hold, in words, e.g. "on a small network".
        data: name of the data set.
        n_train: size of its stratified training subset, None for all.
        loop: Algorithm 1, its source network among it; the exploiter has the same network.
        poison: the steps of an attack on a trained network (AdvPois).
        nets: the papers' networks, by their names in tables, as this profile has them; the fast
            one of `loop.net` stands for ResNet-18 wherever a page names no network.
        recipe: the exploiter's training.
        nets_rate: its peak learning rate for the networks of `nets`.
        contrastive: how a network learns without labels, by the method's name in tables.
        transferable: Algorithm 1 with such a source model (Ren et al.), by the same names.
        separation: CSD noise, the steps of a pass over all images, and the passes.
        pretraining: the training of an exploiter without labels.
        pretraining_rates: its peak learning rate for the methods that need another.
        steps_at_least: a training on a part of the images gets more epochs, until it has this share
            of the steps of a training on all of them; 0 leaves the epochs as they are.
        precision: "float32", or "fastest": bfloat16 where the processor has it.
        ladder: the same at other sizes, by name; each but the first differs from an earlier one in
            one thing. Defender and exploiter have the network of `loop`.
        seeds: how many seeds `make reproduce` runs for a page that has no number of its own.
    """

    name: str
    scale: str
    data: str
    n_train: int | None
    loop: Bilevel
    poison: Pgd
    nets: Mapping[str, Op]
    recipe: Recipe
    contrastive: Mapping[str, Contrastive]
    transferable: Mapping[str, Bilevel]
    separation: Separation
    pretraining: Recipe
    nets_rate: float
    pretraining_rates: Mapping[str, float] = field(default_factory=dict)
    steps_at_least: Share = 0.0
    precision: str = "float32"
    ladder: Mapping[str, Profile] = field(default_factory=dict)
    seeds: int = 3

    @property
    def names(self) -> dict[str, str]:
        """Each network's name in tables, by its text in `Cell.net` and `Cell.source`."""
        return {str(self.loop.net): OWN} | {str(net): name for name, net in self.nets.items()}

    def recipe_for(self, share: float = 1.0, net: Op | None = None) -> Recipe:
        """The training of a network (`loop.net` if None) on a share of the images."""
        own = net in self.nets.values() and net != self.loop.net
        rate = self.nets_rate if own else self.recipe.learning_rate
        return replace(self.longer(self.recipe, share), learning_rate=rate)

    def pretraining_for(self, method: str, share: float = 1.0) -> Recipe:
        """The training without labels by a method of `contrastive`, on a share of the images."""
        rate = self.pretraining_rates.get(method, self.pretraining.learning_rate)
        return replace(self.longer(self.pretraining, share), learning_rate=rate)

    def longer(self, recipe: Recipe, share: float) -> Recipe:
        """A training on a share of the images, with as many epochs as `steps_at_least` asks for."""
        times = max(1.0, self.steps_at_least / share)
        return replace(recipe, epochs=math.ceil(recipe.epochs * times - 1e-9))


# Small enough for every profile.
MLPS = {"mlp": op("mlp"), "mlp without sigmoid": op("mlp", sigmoid=False)}


def _contrastive(**common: Any) -> dict[str, Contrastive]:
    """The three methods; MoCo's temperature is that of the released command."""
    return {
        "SimCLR": Contrastive("simclr", **common),
        "MoCo": Contrastive("moco", temperature=0.2, **common),
        "SimSiam": Contrastive("simsiam", **common),
    }


def _small_transferable(
    loop: Bilevel, learners: Mapping[str, Contrastive], inner: Pgd, rounds: int
) -> dict[str, Bilevel]:
    """That for each learner, all with the same settings: both losses weigh alike."""
    return {
        name: _transferable(loop, learner, csd_weight=1.0, inner=inner, rounds=rounds)
        for name, learner in learners.items()
    }


def _transferable(
    loop: Bilevel,
    learner: Contrastive,
    csd_weight: float,
    spread: Literal["moving", "fixed"] = "moving",
    **own: Any,
) -> Bilevel:
    """Algorithm 1 with a source model that learns without labels."""
    learning = Transferable(learner, csd_weight=csd_weight, spread=spread)
    return replace(loop, learning=learning, **own)


SMOKE_LOOP = Bilevel(
    net=op("convnet", widths=(16, 32, 64), stride=2),
    inner=Pgd(step=2.4 / 255, steps=4),
    outer_batches=8,
    outer_batch_size=125,
    inner_batch_size=500,
    stop_error=0.002,
)
SMOKE_CONTRASTIVE = _contrastive(hidden=64, dim=32, queue=200)

SMOKE = Profile(
    name="smoke",
    scale="on a tiny network and drawn images",
    data="shapes",
    n_train=None,
    loop=SMOKE_LOOP,
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
    contrastive=SMOKE_CONTRASTIVE,
    transferable=_small_transferable(
        SMOKE_LOOP, SMOKE_CONTRASTIVE, Pgd(step=2.4 / 255, steps=2, random_start=True), rounds=2
    ),
    separation=Separation(Pgd(step=1.6 / 255, steps=5, random_start=True), passes=2),
    pretraining=Recipe(epochs=2, batch_size=100, learning_rate=0.06, curve_images=500),
    nets_rate=0.1,
    steps_at_least=0.5,
    precision="fastest",
    seeds=1,
)
SMOKE = replace(
    SMOKE,
    ladder={
        "small network": SMOKE,
        "4 batches a round": replace(SMOKE, loop=replace(SMOKE_LOOP, outer_batches=4)),
    },
)

WIDTHS = (32, 64, 128)
# The network of the cpu profile with the first layer that version 0.1.0 had: it protects less, and
# pages that ask whether the network is the reason take it for defender and exploiter.
LEARNED_STEM = op("convnet", stem="learned", widths=WIDTHS)

CPU_LOOP = Bilevel(
    net=op("convnet", widths=WIDTHS),
    # A quarter of the paper's steps, twice as long. What the paper's twenty change is measured on
    # the page 05b.
    inner=Pgd(step=1.6 / 255, steps=5),
    outer_batches=20,
    outer_batch_size=250,
    inner_batch_size=250,
)
CPU_CONTRASTIVE = _contrastive(queue=2000)
MOCO_RATE = 0.01  # of the exploiter and of the source model
CPU_TRANSFERABLE = _small_transferable(
    CPU_LOOP, CPU_CONTRASTIVE, Pgd(step=1.6 / 255, steps=2, random_start=True), rounds=12
)
CPU_TRANSFERABLE["MoCo"] = replace(CPU_TRANSFERABLE["MoCo"], learning_rate=MOCO_RATE)

CPU = Profile(
    name="cpu",
    scale="on a small network",
    data="cifar10",
    n_train=20_000,
    loop=CPU_LOOP,
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
    contrastive=CPU_CONTRASTIVE,
    transferable=CPU_TRANSFERABLE,
    separation=Separation(Pgd(step=1.6 / 255, steps=5, random_start=True), passes=4),
    pretraining=Recipe(epochs=10, batch_size=250, learning_rate=0.1),
    pretraining_rates={"MoCo": MOCO_RATE},
    nets_rate=0.1,
    steps_at_least=0.5,
    precision="fastest",
)


def _quarter_width(n_train: int, epochs: int, updates: int = 20, **net: Any) -> Profile:
    """The paper's network at a quarter of its width (page 05e). float32, which every processor has:
    runs of one page may come from several.

    Args:
        updates: the source network's batches in each round.
    """
    loop = Bilevel(
        net=op("resnet18", width=0.25, **net),
        inner=Pgd(step=1.6 / 255, steps=5),
        outer_batches=updates,
        outer_batch_size=125,
        inner_batch_size=250,
        fold_norms=True,
    )
    recipe = replace(CPU.recipe, epochs=epochs, batch_size=125, learning_rate=CPU.nets_rate)
    return replace(CPU, n_train=n_train, loop=loop, recipe=recipe, precision="float32")


# Four epochs, of as many batches as twenty of 10,000 images. bfloat16: in float32 it takes a night.
QUARTER = replace(
    _quarter_width(50_000, 4),
    name="quarter",
    scale="on the paper's network at a quarter of its width",
    nets={**CPU.nets, "resnet18": op("resnet18", width=0.25)},
    precision="bfloat16",
)
CPU = replace(
    CPU,
    ladder={
        "ResNet-10, width 1/4": _quarter_width(10_000, 8, blocks=1),
        "ResNet-18, width 1/4": _quarter_width(10_000, 8),
        "ResNet-10, twice the updates": _quarter_width(10_000, 8, updates=40, blocks=1),
        # As many batches as the others, in half of the epochs.
        "ResNet-10, twice the images": _quarter_width(20_000, 4, blocks=1),
        "ResNet-18, all the images": QUARTER,
    },
)

# Views and SimSiam's widths as released; what else differs there, `Contrastive` says.
PAPER_CONTRASTIVE = _contrastive(augment=op("contrastive", smallest=0.08))
PAPER_CONTRASTIVE["SimSiam"] = replace(PAPER_CONTRASTIVE["SimSiam"], hidden=2048, dim=512)
# MoCo is the released command. Those of SimCLR and SimSiam give the contrastive loss a weight of 0;
# here it has 1, beside the 0.1 that CSD has in them, where it does not matter: no source says how
# the paper weighed them. Rounds: 40, 200 and 50 epochs of 98 or 97 batches, with a pass over the
# noise after 20, 100 and 25 of them and at the end of an epoch: 200 in each.
PAPER_INNER = Pgd(step=0.8 / 255, steps=20, random_start=True)
PAPER_ROUNDS = 200
PAPER_TRANSFERABLE = {
    "SimCLR": _transferable(
        Bilevel(),
        PAPER_CONTRASTIVE["SimCLR"],
        csd_weight=0.1,
        inner=PAPER_INNER,
        rounds=PAPER_ROUNDS,
        outer_batches=20,
        clip=None,
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=1e-6,
    ),
    "MoCo": _transferable(
        Bilevel(),
        PAPER_CONTRASTIVE["MoCo"],
        csd_weight=1.0,
        spread="fixed",
        inner=replace(PAPER_INNER, steps=5, random_start=False),
        rounds=PAPER_ROUNDS,
        outer_batches=97,
        clip=None,
        learning_rate=0.3,
        weight_decay=1e-4,
    ),
    "SimSiam": _transferable(
        Bilevel(),
        PAPER_CONTRASTIVE["SimSiam"],
        csd_weight=0.1,
        inner=PAPER_INNER,
        rounds=PAPER_ROUNDS,
        outer_batches=25,
        clip=None,
        learning_rate=0.06,
    ),
}

PAPER = Profile(
    name="paper",
    scale="at the paper's size",
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
    contrastive=PAPER_CONTRASTIVE,
    transferable=PAPER_TRANSFERABLE,
    separation=Separation(PAPER_INNER, passes=PAPER_ROUNDS),
    pretraining=Recipe(epochs=200, batch_size=512, learning_rate=0.06),
    nets_rate=0.1,
    precision="fastest",  # the papers have float32; page 05c asks whether that decides anything
)

PROFILES = {profile.name: profile for profile in (SMOKE, CPU, QUARTER, PAPER)}
