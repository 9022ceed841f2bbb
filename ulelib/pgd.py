"""Signed-gradient steps on the input: one routine, minimising or maximising.

The inner loop of Algorithm 1 minimises; an adversarial attack is the same loop, sign turned.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ulelib.machine import autocast


def project(delta: torch.Tensor, images: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Clip `delta` to the L-infinity ball, and so that `images + delta` stays in [0, 1].

    A one-channel `delta` `(B, 1, H, W)` on gray images `(B, 3, H, W)` keeps its one channel.
    """
    pixels = images[:, : delta.shape[1]]  # gray images: all three channels are equal
    # Bounds instead of (x + delta).clamp(0, 1) - x: that difference is inexact, and a delta a hair
    # below epsilon would lose a gray level where the released export truncates.
    return torch.maximum(torch.minimum(delta.clamp(-epsilon, epsilon), 1 - pixels), -pixels)


def signed_gradient_steps(
    model: nn.Module,
    images: torch.Tensor,
    delta: torch.Tensor,
    labels: torch.Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    direction: int = -1,
    in_range: bool = True,
    precision: str = "float32",
) -> torch.Tensor:
    """Move `delta` by `steps` signed-gradient steps of the loss at `images + delta`.

    Args:
        model: in eval mode, its parameters with `requires_grad=False`: then a backward pass costs
            only the gradient of the input.
        images: `(B, 3, H, W)` float32 in [0, 1].
        delta: `(B, 3, H, W)`, or `(B, 1, H, W)` for one value in all three channels (gray images).
        labels: `(B,)` int64.
        epsilon, step: in units of the pixel range [0, 1].
        direction: -1 minimises the loss (error-minimising noise, equation 3), +1 maximises it.
        in_range: keep `images + delta` in [0, 1] too. Not for noise that will be added to other
            images than these: under a random crop, the black border would erase its negative half.
        precision: of the forward and backward pass.

    Returns:
        the new delta, projected after every step; the argument is left as it was.
    """
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        with autocast(precision):
            logits = model(images + delta)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, delta)
        delta = delta.detach() + direction * step * gradient.sign()
        delta = project(delta, images, epsilon) if in_range else delta.clamp(-epsilon, epsilon)
    return delta.detach()
