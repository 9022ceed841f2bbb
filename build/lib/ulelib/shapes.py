"""Shapes: ten classes drawn by code, for tests, demonstrations and machines without photographs.

Classes differ in shape and texture and not in colour. Position, size, angle, both colours and the
clutter are drawn without regard to the class. The two colours always differ in luminance, so that
a gray filter removes nothing that tells classes apart. Clutter of three sizes and figures that are
turned, shifted and scaled make the task hard enough for noise of 8/255 to matter: on plain figures
a network learns the shapes beside the noise, and nothing is protected.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

CLASSES = (
    "disc", "ring", "square", "frame", "triangle", "cross", "stripes", "checker", "dots", "ripples",
)  # fmt: skip
SIZE = 32
SHIFT = 0.25  # of a figure's centre, up to this share of half the image
TURN = 0.5  # up to this angle, radians
RADIUS = (0.45, 0.85)  # of half the image
CONTRAST = 0.8  # of the difference between the two colours
CLUTTER = 0.08  # amplitude of the coarsest octave, in the pixel range [0, 1]
OCTAVES = (4, 8, 16)  # cells of the clutter across the image; the amplitude falls with their size
CLUTTER_COLOUR = 0.6  # amplitude of its colour beside that of its luminance


def draw(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` figures in random order, the classes in equal numbers.

    Returns:
        images `(count, 3, 32, 32)` uint8, labels `(count,)` int64 in 0..9.

    Raises:
        ValueError: `count` below 1.
    """
    if count < 1:
        raise ValueError(f"{count} images of shapes; at least 1 is needed")
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    labels = torch.arange(count) % len(CLASSES)
    labels = labels[torch.randperm(count, generator=generator)]
    # Every image has its own coordinates u, v: shifted, turned and scaled, a shape's radius is 1.
    axis = torch.linspace(-1, 1, SIZE)
    y = axis.view(1, SIZE, 1) - uniform(-SHIFT, SHIFT, 1, 1)
    x = axis.view(1, 1, SIZE) - uniform(-SHIFT, SHIFT, 1, 1)
    angle, size = uniform(-TURN, TURN, 1, 1), uniform(*RADIUS, 1, 1)
    u = (x * angle.cos() + y * angle.sin()) / size
    v = (y * angle.cos() - x * angle.sin()) / size
    figure = torch.sigmoid(8 * _depth(labels, u, v, uniform(1.1, 1.4, 1, 1)))[:, None]
    # Of eight pairs of colours the one that differs most in luminance.
    pairs = uniform(0.33, 0.67, 8, 2, 3)  # (N, pair, fore- and background, RGB)
    luma = pairs @ torch.tensor([0.299, 0.587, 0.114])
    best = (luma[..., 0] - luma[..., 1]).abs().argmax(1)
    front, back = pairs[torch.arange(count), best].view(count, 2, 3, 1, 1).unbind(1)
    pixels = (front + back) / 2 + (figure - 0.5) * CONTRAST * (front - back)
    for cells in OCTAVES:
        gray, colour = uniform(-1, 1, 1, cells, cells), uniform(-1, 1, 3, cells, cells)
        octave = F.interpolate(gray + CLUTTER_COLOUR * colour, (SIZE, SIZE), mode="bicubic")
        pixels += CLUTTER * OCTAVES[0] / cells * octave
    return (255 * pixels).round().clamp(0, 255).to(torch.uint8), labels


def _depth(
    labels: torch.Tensor, u: torch.Tensor, v: torch.Tensor, frequency: torch.Tensor
) -> torch.Tensor:
    """Signed distance `(N, 32, 32)` to the edge of each image's figure, positive inside."""
    radius, box = (u.square() + v.square()).sqrt(), torch.maximum(u.abs(), v.abs())
    wave = 2 * torch.pi * frequency
    figures = (
        0.9 - radius,
        0.25 - (radius - 0.7).abs(),
        0.8 - box,
        0.22 - (box - 0.68).abs(),
        torch.minimum(0.6 - v, 0.5 * v + 0.45 - 0.9 * u.abs()),
        torch.minimum(0.95 - box, 0.27 - torch.minimum(u.abs(), v.abs())),
        torch.sin(wave * v) / 4,
        torch.sin(wave * u) * torch.sin(wave * v) / 3,
        (torch.cos(wave * u) + torch.cos(wave * v) - 0.6) / 5,
        torch.sin(wave * radius) / 4,
    )
    depth = torch.empty_like(figures[0])
    for label, figure in enumerate(figures):
        depth = torch.where((labels == label)[:, None, None], figure, depth)
    return depth
