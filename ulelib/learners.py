"""Learners: the source model F' of Algorithm 1, and what it minimises.

`Supervised`, here, learns the labels, as the algorithm says; `Augmented` does so from augmented
images. Others: `hardened.Hardened` from adversaries, `informative.Informative` with noise that
moves features; `contrastive.Transferable` without labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn import functional as F

from ulelib.data import ImageSet
from ulelib.deltas import SampleWise
from ulelib.machine import logits
from ulelib.models import fused, untrained
from ulelib.pgd import Clamp
from ulelib.settings import Op, op, settings
from ulelib.views import View, smooth_view


class Learner(Protocol):
    """The source model F', and what it minimises.

    Attributes:
        capturable: whether a CUDA graph can hold a training step: `loss` draws no random number and
            looks at no value.
    """

    capturable: ClassVar[bool]

    @property
    def model(self) -> nn.Module:
        """All its parameters, and in its buffers all else that changes: a checkpoint holds no more
        of a learner. The loop switches its modes and steps its optimizer."""

    def loss(
        self, x: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """L of the outer step: of protected images `(B, 3, H, W)`, a mean over the batch."""

    def stepped(self) -> None:
        """Called after each step of the optimizer."""

    def freeze(self, fold: bool) -> None:
        """Called before the inner step: theta stays as it is until the next outer step.

        Args:
            fold: see `Bilevel.fold_norms`.
        """

    def objective(
        self, added: Clamp, labels: torch.Tensor, generator: torch.Generator
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """L of the inner step, as a function of delta `(B, 3 or 1, H, W)`, a scalar."""

    def error(
        self, protected: Iterable[tuple[torch.Tensor, torch.Tensor]], delta: SampleWise
    ) -> float:
        """What the stop test compares with lambda: a share, in [0, 1].

        Args:
            protected: all protected images in batches `(B, 3, H, W)`, with their labels.
            delta: of all images.
        """


@runtime_checkable
class Learning(Protocol):
    """What the source model learns: settings with this one function.

    Attributes:
        together: whether an image's loss depends on the others of its batch, or on what is drawn
            with them. Then batches are drawn anew for each pass, and have the same size to one
            image.
    """

    together: ClassVar[bool]

    def start(self, net: Op, images: ImageSet, seed: int, precision: str) -> Learner:
        """An untrained source model for these images."""


@settings
class Supervised:
    """L is the cross-entropy of the labels, as in Algorithm 1."""

    together: ClassVar[bool] = False

    def start(self, net: Op, images: ImageSet, seed: int, precision: str) -> Learner:
        """See `Learning`."""
        model = untrained(net, len(images.classes), images.images, seed)
        return Classifier(model, precision)


@settings
class Augmented:
    """L is the cross-entropy of the labels behind an augmentation of image and noise together:
    L(F'(aug(x + delta)), y), in both steps of Algorithm 1.

    AUE, augmented unlearnable examples (Wang et al., *Efficient Availability Attacks against
    Supervised and Contrastive Learning Simultaneously*, NeurIPS 2024): a supervised source model
    that sees what a contrastive learner would see makes noise against both. Each step of the noise
    draws one augmentation of each image, through which the gradient passes. L-infinity,
    sample-wise.

    Attributes:
        augment: the view, a key of `views.VIEWS` that a gradient passes through.
    """

    together: ClassVar[bool] = True

    augment: Op = op("contrastive")

    def __post_init__(self) -> None:
        smooth_view(self.augment, "Augmented.augment")

    def start(self, net: Op, images: ImageSet, seed: int, precision: str) -> Learner:
        """See `Learning`."""
        model = untrained(net, len(images.classes), images.images, seed)
        return AugmentedClassifier(model, precision, smooth_view(self.augment, "augment"))


class Classifier:
    """The source model of Algorithm 1: it learns labels."""

    capturable: ClassVar[bool] = True

    def __init__(self, model: nn.Module, precision: str) -> None:
        self.model, self.precision = model, precision
        self.frozen = model

    def loss(
        self, x: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Cross-entropy."""
        return F.cross_entropy(logits(self.model, x, self.precision), labels)

    def stepped(self) -> None:
        """Nothing more to do."""

    def freeze(self, fold: bool) -> None:
        """See `Learner`."""
        self.model.eval().requires_grad_(False)
        self.frozen = fused(self.model) if fold else self.model

    def objective(
        self, added: Clamp, labels: torch.Tensor, generator: torch.Generator
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """L(F'(view(x) + delta; theta), y), summed: no image scales another's gradient."""

        def loss_of(delta: torch.Tensor) -> torch.Tensor:
            predicted = logits(self.frozen, added.image(delta), self.precision)
            return F.cross_entropy(predicted, labels, reduction="sum")

        return loss_of

    @torch.no_grad()
    def error(
        self, protected: Iterable[tuple[torch.Tensor, torch.Tensor]], delta: SampleWise
    ) -> float:
        """The share of the protected images that it classifies wrongly."""
        wrong = torch.zeros((), dtype=torch.int64, device=delta.rows.device)
        for x, labels in protected:
            wrong += (logits(self.frozen, x, self.precision).argmax(1) != labels).sum()
        return int(wrong) / len(delta.rows)


class AugmentedClassifier(Classifier):
    """A source model that learns labels from augmented images (see `Augmented`)."""

    capturable: ClassVar[bool] = False  # its views are drawn

    def __init__(self, model: nn.Module, precision: str, augment: View) -> None:
        super().__init__(model, precision)
        self.augment = augment

    def loss(
        self, x: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Cross-entropy of augmented images."""
        return super().loss(self.augment(x, generator), labels, generator)

    def objective(
        self, added: Clamp, labels: torch.Tensor, generator: torch.Generator
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """L(F'(aug(x + delta); theta), y), summed, with an augmentation drawn in every step."""

        def loss_of(delta: torch.Tensor) -> torch.Tensor:
            seen = self.augment(added.image(delta), generator)
            predicted = logits(self.frozen, seen, self.precision)
            return F.cross_entropy(predicted, labels, reduction="sum")

        return loss_of
