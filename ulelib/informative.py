"""MI-UE: noise that draws the features of a class together, and apart from all others (*Why Do
Unlearnable Examples Work: A Novel Perspective of Mutual Information*, ICLR 2026)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ulelib.data import ImageSet
from ulelib.learners import Classifier, Learner
from ulelib.machine import logits, seeded_model
from ulelib.models import build_model, check_size, headless
from ulelib.pgd import Clamp
from ulelib.settings import Op, Positive, settings


@settings
class Informative:
    """The source model learns labels. The noise of a batch moves the model's features f, the input
    of its last layer, so that each image i becomes more like the other images of its class than
    like the rest of the batch:

        L_i = -log( sum_{j: y_j = y_i} exp(cos(f_i, f_j) / t)  /  sum_j exp(cos(f_i, f_j) / t) )

    with j != i in both sums. An image that is alone in its class in a batch has no L. L-infinity,
    sample-wise. Left out: a small loss of distances (weight 0.1 in the paper, 0 in the released
    command), and the augmentation of image and noise together that the released command asks for.

    Attributes:
        temperature: t.
    """

    together: ClassVar[bool] = True

    temperature: Positive = 0.1

    def start(self, net: Op, images: ImageSet, seed: int, precision: str) -> Learner:
        """See `learners.Learning`.

        Raises:
            ValueError: the network does not end in a linear layer, or takes no images of this size.
        """

        def parted() -> nn.Module:
            whole = build_model(net, len(images.classes))
            last = [*whole.modules()][-1]
            return nn.Sequential(headless(whole)[0], last)

        model = seeded_model(parted, seed)
        check_size(model, net, images.images)
        return FeatureClassifier(model, precision, self.temperature)


class FeatureClassifier(Classifier):
    """A source model that learns labels, and whose features guide the noise (see `Informative`).

    Args:
        model: a sequence of two, from images to features and from there to logits.
    """

    def __init__(self, model: nn.Module, precision: str, temperature: float) -> None:
        super().__init__(model, precision)
        self.temperature = temperature

    def objective(
        self, added: Clamp, labels: torch.Tensor, generator: torch.Generator
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """L of the features of a batch, summed."""
        backbone = next(iter(self.frozen.children()))

        def loss_of(delta: torch.Tensor) -> torch.Tensor:
            features = logits(backbone, added.image(delta), self.precision)
            return likeness_loss(features, labels, self.temperature)

        return loss_of


def likeness_loss(features: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """The sum of L over a batch, see `Informative`.

    Args:
        features: `(B, F)` float.
        labels: `(B,)` int64.

    Returns:
        a scalar; 0 (with a gradient of 0) where no class has two images.
    """
    unit = F.normalize(features)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same = (labels[:, None] == labels) & ~itself
    accompanied = same.any(1)
    if not accompanied.any():
        return 0 * features.sum()
    like = (unit @ unit.T / temperature)[accompanied]
    every = like.masked_fill(itself[accompanied], -torch.inf).logsumexp(1)
    own = like.masked_fill(~same[accompanied], -torch.inf).logsumexp(1)
    return (every - own).sum()
