"""Orthogonal projection: what a linear classifier learns is taken out of the images."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from ulelib.data import ImageSet
from ulelib.machine import device, seeded_model, to_float
from ulelib.perturbation import CHUNK
from ulelib.pgd import Diverged
from ulelib.settings import Count, Positive, settings
from ulelib.step import Step

SEED = 1_000_003  # of the linear classifier; the same in every run


@settings
class Projection:
    """Orthogonal projection (Sandoval-Segura et al., "What Can We Learn from Unlearnable
    Datasets?", NeurIPS 2023): a linear classifier learns the published images; what they hold in
    the directions of its weights is taken out of them.

    It removes noise that a linear classifier can tell apart, class-wise noise before all. The test
    images stay as they are. The original takes batches of 1,024 and no momentum, and does not round
    the projected images to 8 bits again.

    Attributes:
        epochs, batch_size, learning_rate: of the linear classifier's SGD (momentum 0.9).
    """

    epochs: Count = 20
    batch_size: Count = 250
    learning_rate: Positive = 0.1


def projected(images: ImageSet, projection: Projection) -> ImageSet:
    """`images` without what a linear classifier of them looks at; uint8. See `Projection`.

    Raises:
        ValueError: the images have fewer values than there are classes.
        Diverged: the linear classifier's weights are not finite.
    """
    classes, values = len(images.classes), images.images[0].numel()
    if classes >= values:
        raise ValueError(f"{classes} directions cannot be taken out of images of {values} values")
    labels = images.labels.to(device())
    generator = torch.Generator().manual_seed(SEED)

    def rows(batch: torch.Tensor) -> torch.Tensor:  # (B, 3 H W) float32 in [0, 1]
        return to_float(images.images[batch].to(device())).flatten(1)

    linear = seeded_model(lambda: nn.Linear(values, classes, bias=False), SEED)
    optimizer = torch.optim.SGD(linear.parameters(), lr=projection.learning_rate, momentum=0.9)
    step = Step(linear, optimizer, lambda x, y: (F.cross_entropy(linear(x), y),))
    for _ in range(projection.epochs):
        order = torch.randperm(len(images), generator=generator)
        for batch in order.split(projection.batch_size):
            step(rows(batch), labels[batch.to(device())])
    if not all(torch.isfinite(value).all() for value in linear.parameters()):
        raise Diverged("the projection's linear classifier diverged; lower its learning_rate")
    directions, _ = torch.linalg.qr(
        linear.get_parameter("weight").detach().T
    )  # (3 H W, C), orthonormal
    pixels = torch.empty_like(images.images)
    for batch in torch.arange(len(images)).split(CHUNK):
        x = rows(batch)
        left = x - x @ directions @ directions.T
        pixels[batch] = (255 * left).round().clamp(0, 255).to(torch.uint8).view_as(
            pixels[batch]
        ).cpu()  # fmt: skip
    return replace(images, images=pixels)
