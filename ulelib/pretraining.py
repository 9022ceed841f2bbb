"""Exploiters without labels: contrastive learning on the published images, then a probe.

Whether protected images still teach good features is asked with clean images: their features are
given to a linear classifier and to k nearest neighbours, both of which learn from clean training
images and are measured on clean test images. Ren et al. promise this test of *Transferable
Unlearnable Examples*; their repository never had its code.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ulelib.checkpoints import NO_CHECKPOINT, Checkpoint, put_back, states_of
from ulelib.contrastive import Contrastive, spread_of, warn_if_collapsed
from ulelib.data import ImageSet
from ulelib.exploiters import SEED_OFFSET, Recipe
from ulelib.machine import device, logits, to_float
from ulelib.perturbation import Perturbation
from ulelib.pgd import Diverged
from ulelib.settings import Op
from ulelib.step import Schedule, Step
from ulelib.views import View, view

NEIGHBOURS = 200  # of Wu et al., CVPR 2018, and of nearly every evaluation since
BANK = 5000  # clean images, drawn, that the curve's neighbours are sought among


@dataclass(frozen=True)
class Pretraining:
    """What a training without labels shows.

    Attributes:
        accuracy: of a linear classifier on the features, clean test images, in percent.
        knn: of 200 nearest neighbours on the same, in percent.
        untrained: the accuracy that the same network's features had before it learned, but for the
            means and variances of its batch norms: what is beyond that is what the images taught.
        curve: of the neighbours after each epoch, on the first `Recipe.curve_images` test images,
            among 5,000 clean training images.
        spread: of what the head returns for the test images; see `contrastive.spread_of`.
        chance: what guessing reaches, in percent.
        seconds: of the whole, measurements included.
    """

    accuracy: float
    knn: float
    untrained: float
    curve: tuple[float, ...]
    spread: float
    chance: float
    seconds: float


def pretrain(
    train_set: ImageSet,
    clean_set: ImageSet,
    test_set: ImageSet,
    contrastive: Contrastive,
    net: Op,
    recipe: Recipe,
    *,
    seed: int = 0,
    precision: str = "float32",
    report: Callable[[str], None] = lambda line: None,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> tuple[Pretraining, nn.Module]:
    """Train a network without labels on published images; probe its features with clean ones.

    Args:
        train_set: what the defender published; its labels are not looked at.
        clean_set, test_set: clean images: the probes learn from the one and are measured on the
            other, which selects nothing.
        contrastive: how it learns.
        net, recipe: the network, a key of `models.MODELS` that ends in a linear layer, and how it
            is trained; label smoothing and mirror images at the test are no part of it.
        seed, precision, report, checkpoint: as of `exploiters.exploit`.

    Returns:
        what was measured, and the trained backbone in eval mode: images to features.

    Raises:
        ValueError: fewer images than a batch, or than the queue holds (`Contrastive.build`).
        Diverged: the loss, or a feature, is not finite.

    Warns:
        Collapsed: SimSiam shows nearly one point.
    """
    started, seed = time.perf_counter(), seed + SEED_OFFSET
    trainer = _Trainer(train_set, contrastive, net, recipe, seed, precision)
    model, probes = trainer.model, _Probes(clean_set, test_set, precision)
    if saved := checkpoint.restore():
        put_back(saved["parts"], trainer.parts)
        curve, untrained, started = saved["curve"], saved["untrained"], started - saved["seconds"]
    else:
        curve, untrained = [], probes.linear(trainer.untrained(clean_set, seed))

    def state() -> dict[str, Any]:
        saved = {"parts": states_of(trainer.parts), "curve": curve, "untrained": untrained}
        return saved | {"seconds": time.perf_counter() - started}

    for epoch in range(len(curve) + 1, recipe.last_epoch + 1):
        trainer.epoch(epoch)
        curve.append(probes.neighbours_of_some(model.backbone, recipe.curve_images))
        report(f"epoch {epoch} of {recipe.epochs}: {curve[-1]:.1f} %")
        if epoch < recipe.last_epoch:
            checkpoint.offer(state)
    spread = spread_of(features(model.project, test_set, precision))
    warn_if_collapsed(contrastive, spread)
    accuracy, knn = probes.both(model.backbone)
    chance, seconds = 100 / len(test_set.classes), time.perf_counter() - started
    measured = Pretraining(accuracy, knn, untrained, tuple(curve), spread, chance, seconds)
    return measured, model.backbone


class _Trainer:
    """A network that is trained without labels."""

    def __init__(
        self,
        train_set: ImageSet,
        contrastive: Contrastive,
        net: Op,
        recipe: Recipe,
        seed: int,
        precision: str,
    ) -> None:
        self.recipe, self.precision = recipe, precision
        self.steps = recipe.steps_per_epoch(train_set)
        self.generator = torch.Generator().manual_seed(seed)
        self.pixels, self.augment = train_set.images.to(device()), view(contrastive.augment)
        model = self.model = contrastive.build(net, train_set, seed)
        optimizer = recipe.optimizer(self.model)
        changes = recipe.epochs * self.steps
        schedule = Schedule(optimizer, lambda own: recipe.scheduler(own, changes))
        self.step = Step(
            self.model,
            optimizer,
            lambda first, second: (model(first, second, precision),),
            clip=recipe.clip,
            schedule=schedule,
        )
        self.parts = {"model": self.model, "optimizer": optimizer}
        self.parts |= {"schedule": schedule, "generator": self.generator}

    def untrained(self, images: ImageSet, seed: int) -> nn.Module:
        """The backbone before training, see `normed`."""
        batch_size = self.recipe.batch_size
        return normed(self.model.backbone, images, self.augment, batch_size, seed, self.precision)

    def epoch(self, number: int) -> None:
        """Train on every image once."""
        self.model.train().requires_grad_(True)
        order = torch.randperm(len(self.pixels), generator=self.generator).to(device())
        size = self.recipe.batch_size
        for batch in order[: self.steps * size].split(size):
            x = to_float(self.pixels[batch])
            (loss,) = self.step(self.augment(x, self.generator), self.augment(x, self.generator))
            self.model.stepped()
        if not torch.isfinite(loss):
            raise Diverged(f"the loss is {loss.item()} in epoch {number}; lower learning_rate")


class _Probes:
    """Probes of a backbone's features: taught by clean images, measured on clean images."""

    def __init__(self, clean_set: ImageSet, test_set: ImageSet, precision: str) -> None:
        self.clean_set, self.test_set, self.precision = clean_set, test_set, precision
        # Drawn, since a folder's images stand class by class; the same for all seeds.
        drawn = torch.randperm(len(clean_set), generator=torch.Generator().manual_seed(0))
        self.bank = clean_set.select(drawn[:BANK])

    def linear(self, backbone: nn.Module) -> float:
        """`linear_probe`, on all test images."""
        return linear_probe(*self._features(backbone, self.clean_set, self.test_set))

    def both(self, backbone: nn.Module) -> tuple[float, float]:
        """`linear_probe` and `neighbours`, on all test images."""
        found = self._features(backbone, self.clean_set, self.test_set)
        return linear_probe(*found), neighbours(*found)

    def neighbours_of_some(self, backbone: nn.Module, count: int) -> float:
        """`neighbours`, of the first `count` test images among the bank."""
        return neighbours(*self._features(backbone, self.bank, self.test_set.first(count)))

    def _features(
        self, backbone: nn.Module, known: ImageSet, seen: ImageSet
    ) -> tuple[torch.Tensor, ImageSet, torch.Tensor, ImageSet]:
        return (
            features(backbone, known, self.precision),
            known,
            features(backbone, seen, self.precision),
            seen,
        )


@torch.no_grad()
def normed(
    backbone: nn.Module,
    images: ImageSet,
    augment: View,
    batch_size: int,
    seed: int,
    precision: str,
) -> nn.Module:
    """A copy whose batch norms have seen one view of each image, and whose weights are as drawn.

    With the mean 0 and variance 1 that batch norms start with, an untrained network is another one
    than any that was trained: its features are several points better.
    """
    fresh, generator = copy.deepcopy(backbone).train(), torch.Generator().manual_seed(seed)
    for part in images.images.to(device()).split(batch_size):
        logits(fresh, augment(to_float(part), generator), precision)
    return fresh


@torch.no_grad()
def features(backbone: nn.Module, images: ImageSet, precision: str = "float32") -> torch.Tensor:
    """Features `(N, F)` float32 of images, in eval mode.

    Raises:
        Diverged: they are not finite. No probe could tell them from those of a network that has
            learned nothing.
    """
    backbone.eval()
    found = torch.cat(
        [
            logits(backbone, to_float(part.to(device())), precision)
            for part in images.images.split(500)
        ]
    )
    if not found.isfinite().all():
        raise Diverged("the features are not finite: the network has diverged; lower learning_rate")
    return found


def neighbours(
    known: torch.Tensor, known_set: ImageSet, seen: torch.Tensor, seen_set: ImageSet
) -> float:
    """Percent of `seen_set` that its nearest neighbours in `known_set` name rightly.

    Args:
        known, seen: features `(N, F)` and `(M, F)` of the two sets.
    """
    # Lightning comes with it, which takes seconds to import.
    from lightly.utils.benchmarking.knn import knn_predict

    bank, labels = F.normalize(known).T, known_set.labels.to(known.device)
    right = 0
    for part, truth in zip(F.normalize(seen).split(500), seen_set.labels.split(500), strict=True):
        k = min(NEIGHBOURS, len(known))
        ranked = knn_predict(part, bank, labels, len(known_set.classes), knn_k=k)
        right += int((ranked[:, 0].cpu() == truth).sum())
    return 100 * right / len(seen_set)


def linear_probe(
    known: torch.Tensor, known_set: ImageSet, seen: torch.Tensor, seen_set: ImageSet
) -> float:
    """Percent of `seen_set` that a linear classifier of the features of `known_set` names rightly.

    Logistic regression on standardised features, weights decayed by 1e-4, to its optimum (L-BFGS):
    nothing is left to a learning rate.

    Args:
        known, seen: features `(N, F)` and `(M, F)` of the two sets.
    """
    mean, std = known.mean(0), known.std(0).clamp(min=1e-6)
    x, y = (known - mean) / std, known_set.labels.to(known.device)
    layer = nn.Linear(x.shape[1], len(known_set.classes)).to(x.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(x), y) + 1e-4 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        guessed = layer((seen - mean) / std).argmax(1).cpu()
    return 100 * float((guessed == seen_set.labels).float().mean())


def separability(noise: Perturbation, images: ImageSet) -> float:
    """How well a linear classifier of noise alone names the class of noise that it has not seen.

    It learns from every other image's noise and is measured on the rest: what Ren et al. enhance,
    and what lets a network learn noise before it learns pictures.

    Args:
        images: those that the noise was made for.

    Returns:
        percent.
    """
    noise.check(images)
    rows = torch.arange(len(images))
    halves = [
        (noise.of(images, some).flatten(1), images.select(some)) for some in (rows[::2], rows[1::2])
    ]
    return linear_probe(*halves[0], *halves[1])
