"""Mixes: how an exploiter mixes the images and labels of a batch.

A mix is a function of images `(B, 3, H, W)` float32, targets `(B, C)` float32 whose rows add up to
1, and a generator; it returns both, mixed. A new one is a function that returns it, and a line in
`MIXES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field

from ulelib.settings import checked

Mixed = tuple[torch.Tensor, torch.Tensor]
Mix = Callable[[torch.Tensor, torch.Tensor, torch.Generator], Mixed]
Alpha = Annotated[float, Field(gt=0, le=1000)]


@checked
def mixup(alpha: Alpha = 1.0) -> Mix:
    """Mixup (Zhang et al., ICLR 2018): one weight from Beta(alpha, alpha) for each batch."""
    draw = _beta(alpha)

    def mix(images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Mixed:
        share = float(draw(1, generator))
        other = torch.randperm(len(images), generator=generator).to(images.device)
        return (
            share * images + (1 - share) * images[other],
            share * targets + (1 - share) * targets[other],
        )

    return mix


@checked
def mixup_wrapper(
    times: Annotated[int, Field(ge=1, le=10)] = 2,
    chance: Annotated[float, Field(gt=0, le=1)] = 0.5,
    alpha: Alpha = 1.0,
) -> Mix:
    """The Mixup of the released code (`dataset.py:755` of Unlearnable-Examples).

    There it wraps the data set: `times` times, each image is mixed with probability `chance` with
    another image, by a weight of its own from Beta(alpha, alpha). So a quarter of the images stays
    as it is. The others come from the same batch here, which is itself drawn from the whole set.
    """
    draw = _beta(alpha)

    def mix(images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Mixed:
        count = len(images)
        mixed, soft = images, targets
        for _ in range(times):
            kept = draw(count, generator)  # the weight of an image itself
            kept[torch.rand(count, generator=generator) >= chance] = 1
            kept = kept.to(images.device)
            other = torch.randint(count, (count,), generator=generator).to(images.device)
            weight = kept.view(-1, 1, 1, 1)
            mixed = weight * mixed + (1 - weight) * images[other]
            soft = kept.view(-1, 1) * soft + (1 - kept.view(-1, 1)) * targets[other]
        return mixed, soft

    return mix


@checked
def cutmix(alpha: Alpha = 1.0) -> Mix:
    """CutMix (Yun et al., ICCV 2019): a rectangle of each image shows another one.

    One rectangle a batch: its middle is any pixel, its share of the area one less a weight from
    Beta(alpha, alpha). What lies beyond the border is cut off, and the labels weigh as the areas
    then do.
    """
    draw = _beta(alpha)

    def mix(images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Mixed:
        part = (1 - float(draw(1, generator))) ** 0.5  # of height and width
        edges = []  # of rows, then of columns: from where to where
        for side in images.shape[2:]:
            middle, long = int(torch.randint(side, (), generator=generator)), int(side * part)
            edges.append((max(0, middle - long // 2), min(side, middle - long // 2 + long)))
        (top, bottom), (left, right) = edges
        other = torch.randperm(len(images), generator=generator).to(images.device)
        mixed = images.clone()
        mixed[..., top:bottom, left:right] = images[other, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / images[0, 0].numel()
        return mixed, share * targets + (1 - share) * targets[other]

    return mix


def _beta(alpha: float) -> Callable[[int, torch.Generator], torch.Tensor]:
    """Draws `(count,)` float32 from Beta(alpha, alpha)."""

    def draw(count: int, generator: torch.Generator) -> torch.Tensor:
        # Beta(a, a) as a ratio of two gamma variables, drawn by the given generator.
        pairs = torch.full((2, count), alpha)
        first, second = torch._standard_gamma(pairs, generator=generator)
        return first / (first + second)

    return draw


MIXES: dict[str, Callable[..., Mix]] = {
    "mixup": mixup,
    "mixup_wrapper": mixup_wrapper,
    "cutmix": cutmix,
}
