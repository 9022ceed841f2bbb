"""Recipes: how a network is trained, by an exploiter with labels or without."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from ulelib.data import ImageSet
from ulelib.settings import BelowOne, Count, NotNegative, Positive, at_default, settings
from ulelib.step import sgd


@settings
class Recipe:
    """How a classifier is trained; the defaults are the papers' for CIFAR-10 (section 5.1).

    Attributes:
        epochs, batch_size: passes over the training set, images a step (the last, smaller batch of
            an epoch is left out).
        learning_rate: the peak.
        schedule: torch's. "cosine" falls from the peak to 0; "one_cycle" rises
            linearly over `warmup` of all steps, then falls linearly to 0.
        warmup: share of the steps in which "one_cycle" rises.
        schedule_by: whether the rate changes after every "batch", or as released (`main.py:86` of
            ULE-GrayAug) after every "epoch".
        momentum, nesterov, weight_decay: of SGD.
        label_smoothing: of the training loss.
        clip: largest norm of the gradient; None does not clip.
        flip_at_test: at the end, measure on the image and its mirror image, adding both logits.
        curve_images: test images that the curve is measured on after each epoch, without mirror
            images; the last epoch is measured on all of them as well.
        stop_after: end after so many of the epochs, the rate as if the training went on: a network
            on the way. None: after all.
        points: of the curve, an epoch: 1, at its end; or more, evenly spaced.
    """

    epochs: Count = 60
    batch_size: Count = 128
    learning_rate: Positive = 0.1
    schedule: Literal["cosine", "one_cycle"] = "cosine"
    warmup: Annotated[float, Field(gt=0, lt=1)] = 0.25
    momentum: BelowOne = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 5e-4
    label_smoothing: BelowOne = 0.0
    clip: Positive | None = 5.0
    flip_at_test: bool = False
    curve_images: Count = 2000
    schedule_by: Literal["batch", "epoch"] = "batch"
    stop_after: Count | None = None
    points: Annotated[int, Field(ge=1, le=1000)] = 1

    def __post_init__(self) -> None:
        if self.stop_after is not None and self.stop_after >= self.epochs:
            raise ValueError(
                f"Recipe.stop_after is {self.stop_after}: less than epochs, {self.epochs}, or None"
            )
        if self.nesterov and not self.momentum:
            raise ValueError("Recipe.nesterov needs a momentum above 0")

    def not_in_key(self) -> frozenset[str]:
        """See `settings.key_of`."""
        return at_default(self, "schedule_by", "stop_after", "points")

    @property
    def last_epoch(self) -> int:
        """The number of the epoch after which the training ends."""
        return self.epochs if self.stop_after is None else self.stop_after

    def steps_per_epoch(self, images: ImageSet) -> int:
        """Whole batches of a training set.

        Raises:
            ValueError: there is none.
        """
        if len(images) < self.batch_size:
            raise ValueError(f"{len(images)} images do not fill a batch of {self.batch_size}")
        return len(images) // self.batch_size

    def moments(self, steps: int) -> frozenset[int]:
        """After which of an epoch's steps the curve has a point, but for the last.

        Raises:
            ValueError: there are more points than steps.
        """
        if steps < self.points:
            raise ValueError(f"Recipe.points is {self.points}, but an epoch has {steps} steps")
        return frozenset(round(steps * point / self.points) for point in range(1, self.points))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD of all parameters, at the peak rate."""
        return sgd(
            model,
            self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        """The learning rate over all `steps` of a training."""
        if self.schedule == "cosine":
            return CosineAnnealingLR(optimizer, steps)
        # torch divides by the length of the rise, which must not be 0.
        nudge = 1e-6 if self.warmup * (steps + 1) == 1 else 0.0
        return OneCycleLR(
            optimizer,
            self.learning_rate,
            total_steps=steps + 1,
            pct_start=self.warmup * (1 + nudge),
            anneal_strategy="linear",
            cycle_momentum=False,
            div_factor=11,  # the first step has a rate, too
            final_div_factor=1e6,
        )
