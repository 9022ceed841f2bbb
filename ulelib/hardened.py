"""REM and SEM: error-minimising noise against exploiters that train adversarially.

    REM    the noise minimises the loss that an adversary leaves (Fu et al., *Robust Unlearnable
           Examples: Protecting Data Privacy Against Adversarial Learning*, ICLR 2022)
    SEM    the noise minimises the loss under a random change in the adversary's place (Liu et al.,
           *Stable Unlearnable Example: Enhancing the Robustness of Unlearnable Examples via Stable
           Error-Minimizing Noise*, AAAI 2024)

In Algorithm 1's loop (`bilevel.py`), with `Hardened` for its `learning`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F

from ulelib.data import ImageSet
from ulelib.learners import Classifier, Learner
from ulelib.machine import logits
from ulelib.models import untrained
from ulelib.pgd import Clamp, Pgd, PixelRange, adversarial, random_start
from ulelib.settings import Op, op, settings
from ulelib.views import View, smooth_view


@settings
class Hardened:
    """L is the cross-entropy of the labels under a change of the image, behind a crop and a flip of
    image and noise together: L(F'(aug(x + delta) + change), y).

    The source model trains on adversaries (Madry et al., 2018): its change maximises L. So does the
    change in REM's noise step, found anew in each of its steps and then held while the gradient
    passes to delta. SEM's noise step draws it uniformly from the same ball, which costs a fraction.
    L-infinity, sample-wise.

    Both were published with adversaries of ten steps of a fifth of their radius, and five crops in
    each noise step; the noise of a batch was moved, and then the network learned from that batch.
    Here there are three steps and one crop, and Algorithm 1's order: batches for the network first,
    then the noise of all images.

    Attributes:
        meets: what the noise step meets: an "adversary" (REM), or "uniform" noise (SEM).
        attack: the adversary; its radius is also that of uniform noise.
        augment: the view of image and noise together, drawn anew in each step: a key of
            `views.VIEWS` that a gradient passes through.
    """

    together: ClassVar[bool] = True

    meets: Literal["adversary", "uniform"]
    attack: Pgd = Pgd(4 / 255, 2 / 255, 3, random_start=True)
    augment: Op = op("crop_flip", padding=4)

    def __post_init__(self) -> None:
        smooth_view(self.augment, "Hardened.augment")

    def start(self, net: Op, images: ImageSet, seed: int, precision: str) -> Learner:
        """See `learners.Learning`."""
        model = untrained(net, len(images.classes), images.images, seed)
        augment = smooth_view(self.augment, "augment")
        return HardenedClassifier(model, precision, augment, self.attack, self.meets)


class HardenedClassifier(Classifier):
    """A source model that learns labels from adversaries (see `Hardened`)."""

    capturable: ClassVar[bool] = False  # its views are drawn

    def __init__(
        self, model: nn.Module, precision: str, augment: View, attack: Pgd, meets: str
    ) -> None:
        super().__init__(model, precision)
        self.augment, self.attack, self.meets = augment, attack, meets

    def loss(
        self, x: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Cross-entropy of adversaries, which are made against the network in eval mode."""
        seen = self.augment(x, generator)
        self.model.eval().requires_grad_(False)
        change = self._adversary(self.model, seen, labels, generator)
        self.model.train().requires_grad_(True)
        return super().loss(seen + change, labels, generator)

    def objective(
        self, added: Clamp, labels: torch.Tensor, generator: torch.Generator
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """L(F'(aug(x + delta) + change; theta), y), summed; all is drawn anew in every step."""

        def loss_of(delta: torch.Tensor) -> torch.Tensor:
            seen = self.augment(added.image(delta), generator)
            still = seen.detach()
            if self.meets == "uniform":
                drawn = random_start(still, self.attack.epsilon, generator)
                change = PixelRange(still, self.attack.epsilon).add(torch.zeros_like(still), drawn)
            else:
                change = self._adversary(self.frozen, still, labels, generator)
            predicted = logits(self.frozen, seen + change, self.precision)
            return F.cross_entropy(predicted, labels, reduction="sum")

        return loss_of

    def _adversary(
        self,
        model: nn.Module,
        seen: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
    ) -> torch.Tensor:
        return adversarial(model, seen, labels, self.attack, generator, precision=self.precision)
