"""Signed-gradient steps on the input: one routine, minimising or maximising any loss.

The inner step of Algorithm 1 minimises; an adversarial attack is the same loop, sign turned. What
tells one use from another is the loss, and how noise and picture may be added: the three clamps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from ulelib import views
from ulelib.machine import logits
from ulelib.settings import Count, Radius, settings


class Diverged(RuntimeError):
    """Diverged: loss, gradient or logits are not finite."""


@settings
class Pgd:
    """A budget of signed-gradient steps; the defaults are the papers' for CIFAR-10, sample-wise.

    Attributes:
        epsilon: L-infinity radius, in units of the pixel range [0, 1].
        step: length of a step, same unit; at most twice the radius.
        steps: their number.
        random_start: begin anywhere in the ball, as Algorithm 1 says; else where delta is, which
            is 0 at first, as the released code does.
    """

    epsilon: Radius = 8 / 255
    step: Radius = 0.8 / 255
    steps: Count = 20
    random_start: bool = False

    def __post_init__(self) -> None:
        if self.step > 2 * self.epsilon + 1e-9:
            raise ValueError(
                f"{type(self).__name__}.step is {self.step}: at most twice epsilon, {self.epsilon}"
            )


def signed_gradient_steps(
    loss: Callable[[torch.Tensor], torch.Tensor],
    delta: torch.Tensor,
    *,
    step: float,
    steps: int,
    add: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    direction: int = -1,
) -> torch.Tensor:
    """Move `delta` by `steps` signed-gradient steps of `loss`.

    Args:
        loss: of a delta, a scalar; sum over the images, so that none scales another's gradient.
        delta: `(B, 3, H, W)`, or `(B, 1, H, W)` for one value in all three channels.
        step: in units of the pixel range [0, 1].
        add: what delta becomes by a move: `add(delta, move)`, e.g. `PixelRange.add`.
        direction: -1 minimises the loss (error-minimising noise, equation 3), +1 maximises it.

    Returns:
        the new delta; the argument is left as it was.

    Raises:
        Diverged: the last step's gradient is not finite. Its sign would be 0 on a CPU, and noise of
            a lost network look as if there were nothing left to do.
    """
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(delta), delta)
        delta = add(delta.detach(), direction * step * gradient.sign())
    if not gradient.isfinite().all():
        raise Diverged(
            "the gradient of the noise is not finite: its network has diverged; lower the "
            "learning_rate that it was trained with"
        )
    return delta.detach()


# --- how noise and picture may be added ----------------------------------------------------------


class Clamp(Protocol):
    """Noise of a batch, and the pictures that it is added to.

    `picture` is `(B, 3, H, W)` float32 in [0, 1].
    """

    def __init__(self, picture: torch.Tensor, epsilon: float) -> None: ...

    def image(self, delta: torch.Tensor) -> torch.Tensor:
        """What the network sees: `(B, 3, H, W)`."""

    def add(self, delta: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
        """Delta after a move, within its bounds."""


class Ball:
    """Only epsilon bounds the noise, whatever picture it meets ("none").

    For noise that will be added to other pictures than these: under a random crop, the pixel range
    of the crop's black border would erase its negative half.
    """

    def __init__(self, picture: torch.Tensor, epsilon: float) -> None:
        self.picture, self.epsilon = picture, epsilon

    def image(self, delta: torch.Tensor) -> torch.Tensor:
        return self.picture + delta

    def add(self, delta: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
        return (delta + move).clamp(-self.epsilon, self.epsilon)


class PixelRange(Ball):
    """Picture and noise together stay in [0, 1], too ("view")."""

    def add(self, delta: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
        pixels = self.picture[:, : delta.shape[1]]  # gray pictures: all three channels are equal
        # Bounds instead of (x + delta).clamp(0, 1) - x: that difference is inexact, and a delta a
        # hair below epsilon would lose a gray level where the released export truncates.
        inside = super().add(delta, move)
        return torch.maximum(torch.minimum(inside, 1 - pixels), -pixels)


class ReleasedGray(Ball):
    """The gray loop as released ("released"; ULE-GrayAug `toolbox.py:27-63`).

    `picture` is the colour crop. The network sees the gray of crop plus noise, clamped to [0, 1];
    the noise of a step is read from the clamped picture, channel by channel, clipped to epsilon,
    then averaged by the gray weights. Where a crop is black or a pixel dark, the negative half of
    the noise is thus erased step after step. The released step adds the gradient's signs of three
    channels, which agree, so it is three times as long: that is `step`, not done here.
    """

    def image(self, delta: torch.Tensor) -> torch.Tensor:
        sum_ = self.picture + delta
        # The released gradient is that of the clamped picture itself: clamping stops none of it.
        clamped = sum_ + (sum_.clamp(0, 1) - sum_).detach()
        return views.gray(clamped)

    def add(self, delta: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
        moved = (self.picture + delta).clamp(0, 1) + move
        noise = (moved - self.picture).clamp(-self.epsilon, self.epsilon)
        return views.gray(noise)[:, :1]


CLAMPS: dict[str, type[Clamp]] = {"none": Ball, "view": PixelRange, "released": ReleasedGray}


# --- attacks on a trained network ----------------------------------------------------------------

# Table 7's attacks on test images. The paper gives no step; the released evaluator has an uncalled
# PGD of 20 steps of 0.003 (`evaluator.py:73`). Madry et al. take 2/255, which is a little stronger.
ATTACKS = {
    "clean": None,
    "FGSM": Pgd(step=8 / 255, steps=1),
    "PGD-20": Pgd(step=2 / 255, steps=20, random_start=True),
}


def random_start(delta: torch.Tensor, epsilon: float, generator: torch.Generator) -> torch.Tensor:
    """Uniform noise in [-epsilon, epsilon], of the shape and on the device of `delta`."""
    return ((2 * torch.rand(delta.shape, generator=generator) - 1) * epsilon).to(delta.device)


def adversarial(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    attack: Pgd,
    generator: torch.Generator,
    *,
    start: torch.Tensor | None = None,
    direction: int = 1,
    precision: str = "float32",
) -> torch.Tensor:
    """Noise that maximises (`direction` -1: minimises) the cross-entropy of `labels`.

    FGSM is `Pgd(steps=1, step=epsilon)`; PGD has a random start (Madry et al., 2018).

    Args:
        model: in eval mode, its parameters with `requires_grad=False`: then a backward pass costs
            only the gradient of the input.
        images: `(B, 3, H, W)` float32 in [0, 1].
        labels: `(B,)` int64.
        start: `(B, 3, H, W)`, noise to begin with; None: 0. A random start is added to it.

    Returns:
        `(B, 3, H, W)`, within epsilon, images plus noise in [0, 1].

    Raises:
        Diverged: see `signed_gradient_steps`.
    """

    def loss(seen: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits(model, seen, precision), labels, reduction="sum")

    return attacked(loss, images, attack, generator, start=start, direction=direction)


def attacked(
    loss: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    attack: Pgd,
    generator: torch.Generator,
    *,
    start: torch.Tensor | None = None,
    direction: int = 1,
) -> torch.Tensor:
    """`adversarial` for any loss.

    Args:
        loss: of images with their noise `(B, 3, H, W)`, a scalar, summed over them.

    Raises:
        Diverged: see `signed_gradient_steps`.
    """
    clamp = PixelRange(images, attack.epsilon)
    delta = torch.zeros_like(images) if start is None else start
    if attack.random_start:
        delta = clamp.add(delta, random_start(delta, attack.epsilon, generator))
    return signed_gradient_steps(
        lambda d: loss(clamp.image(d)),
        delta,
        step=attack.step,
        steps=attack.steps,
        add=clamp.add,
        direction=direction,
    )
