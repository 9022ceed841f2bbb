"""PIL: noise that a linear model reads as the label (Liu et al., *Perturbation-Induced
Linearization: Constructing Unlearnable Data with Solely Linear Classifiers*, ICLR 2026)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from ulelib.checkpoints import NO_CHECKPOINT, Checkpoint
from ulelib.data import ImageSet, check_classes
from ulelib.machine import device, seeded_model
from ulelib.patterns import perturbation
from ulelib.perturbation import CHUNK, Perturbation
from ulelib.pgd import Ball, Diverged, Pgd, random_start, signed_gradient_steps
from ulelib.settings import BelowOne, Count, Positive, Share, settings
from ulelib.step import Step


@settings
class Linearized:
    """PIL: a bias-free linear model f learns the clean images; then the noise d of each image takes
    signed steps down

        (1 - confusion) CE(f(d), y)  +  confusion KL(uniform || f(x - d))

    and x - d is published: the noise alone has the label, the rest of the image none. Sample-wise,
    bounded by epsilon in L-infinity. The model is the released one, two layers without anything
    between them, the first as wide as there are classes; no augmentation, pixels in [0, 1].

    Attributes:
        inner: the steps on every image, from a random start.
        confusion: weight of the second loss.
        epochs, batch_size, learning_rate, momentum: of the linear model's SGD; its rate falls along
            a cosine, epoch by epoch.
    """

    inner: Pgd = Pgd(step=0.8 / 255, steps=30, random_start=True)
    confusion: Share = 0.1
    epochs: Count = 30
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 512
    learning_rate: Positive = 0.003
    momentum: BelowOne = 0.9

    def make(
        self,
        images: ImageSet,
        seed: int,
        precision: str,
        *,
        network: Callable[..., Any],
        report: Callable[[str], None],
        checkpoint: Checkpoint = NO_CHECKPOINT,
    ) -> Perturbation:
        """See `specs.Method`.

        Raises:
            Diverged: the linear model's weights are not finite.
        """
        check_classes(images)
        started, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
        linear = self.learned(images, seed, generator)
        report("the linear model is trained")
        delta, epsilon = torch.empty(images.images.shape), self.inner.epsilon
        for rows in torch.arange(len(images)).split(CHUNK):
            x, y = _flat(images, rows), images.labels[rows].to(device())
            noise = torch.zeros_like(x)
            if self.inner.random_start:
                noise = random_start(noise, epsilon, generator)
            moved = signed_gradient_steps(
                self.loss_of(linear, x, y),
                noise,
                step=self.inner.step,
                steps=self.inner.steps,
                add=Ball(x, epsilon).add,
            )
            delta[rows] = -moved.view(-1, *delta.shape[1:]).cpu()
            report(f"{int(rows[-1]) + 1} of {len(images)} images moved")
        return perturbation(delta, images, "sample_wise", "PIL", started, epsilon)

    def learned(self, images: ImageSet, seed: int, generator: torch.Generator) -> nn.Module:
        """The linear model, trained on the clean images."""
        values, classes = images.images[0].numel(), len(images.classes)
        linear = seeded_model(
            lambda: nn.Sequential(
                nn.Linear(values, classes, bias=False), nn.Linear(classes, classes, bias=False)
            ),
            seed,
        )
        optimizer = torch.optim.SGD(
            linear.parameters(), lr=self.learning_rate, momentum=self.momentum
        )
        step = Step(linear, optimizer, lambda x, y: (F.cross_entropy(linear(x), y),))
        schedule, labels = CosineAnnealingLR(optimizer, self.epochs), images.labels.to(device())
        for _ in range(self.epochs):
            order = torch.randperm(len(images), generator=generator)
            for rows in order.split(self.batch_size):
                step(_flat(images, rows), labels[rows.to(device())])
            schedule.step()
        if not all(torch.isfinite(value).all() for value in linear.parameters()):
            raise Diverged("the linear model of PIL diverged; lower its learning_rate")
        return linear.requires_grad_(False)

    def loss_of(
        self, linear: nn.Module, x: torch.Tensor, y: torch.Tensor
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """The loss of noise `(B, 3 H W)`, added over the images."""

        def loss(noise: torch.Tensor) -> torch.Tensor:
            label = F.cross_entropy(linear(noise), y, reduction="sum")
            left = F.log_softmax(linear(x - noise), 1)
            divergence = (-math.log(left.shape[1]) - left.mean(1)).sum()
            return (1 - self.confusion) * label + self.confusion * divergence

        return loss


def _flat(images: ImageSet, rows: torch.Tensor) -> torch.Tensor:
    """`(B, 3 H W)` float32 in [0, 1], on the device."""
    return images.images[rows].to(device()).flatten(1).float().div_(255)
