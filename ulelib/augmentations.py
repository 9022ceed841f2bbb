"""Countermeasures of later work on the images of a batch: cut, blurred, moved, coloured anew.

Each is a function of `images` `(B, 3, H, W)`, uint8 in [0, 255] or float in [0, 1], to images of
equal shape, dtype and range; what is random is drawn for each image from the generator. Written
from the papers. `views.py` gives them their names and options.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F
from torchvision.transforms import TrivialAugmentWide
from torchvision.transforms.autoaugment import _apply_op

AT_ONCE = 1000  # images, where each needs several float32 copies of itself


def low_pass(images: torch.Tensor, keep: float) -> torch.Tensor:
    """The lowest frequencies alone: that share of the rows and columns of each channel's discrete
    cosine transform (DCT-II), rounded up.

    The frequency filter of Kim and Sandoval-Segura ("Learning from Convolution-based Unlearnable
    Datasets", 2024), which keeps 0.3; without their sharpening.
    """
    down, across = (_kept(side, keep).to(images.device) for side in images.shape[2:])

    def filtered(some: torch.Tensor) -> torch.Tensor:
        return down @ some @ across

    return _as_floats(images, filtered)


def cutout(images: torch.Tensor, generator: torch.Generator, size: int) -> torch.Tensor:
    """A black square of `size` pixels in each image (DeVries and Taylor, 2017).

    Its middle is any pixel, so it may reach beyond the border. For an even size the middle is the
    pixel right and below of it.
    """
    count, _, height, width = images.shape
    top = torch.randint(height, (count, 1, 1), generator=generator) - size // 2
    left = torch.randint(width, (count, 1, 1), generator=generator) - size // 2
    row, column = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    inside = (row >= top) & (row < top + size) & (column >= left) & (column < left + size)
    return images.masked_fill(inside[:, None].to(images.device), 0)


def trivial_augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """TrivialAugment, torchvision's `TrivialAugmentWide` (Müller and Hutter, ICCV 2021): each image
    is changed by one of 14 operations with one of 31 strengths.

    Images that draw the same are changed together. Float images pass through 8 bits.
    """
    levels = images if images.dtype == torch.uint8 else (255 * images).round().to(torch.uint8)
    policy = TrivialAugmentWide()
    space = [*policy._augmentation_space(policy.num_magnitude_bins).items()]
    strengths, sides = policy.num_magnitude_bins, 2
    most = len(space) * strengths * sides
    choice = torch.randint(most, (len(images),), generator=generator)
    seen = torch.empty_like(levels)
    order = choice.argsort(stable=True)
    for code, rows in enumerate(order.split(torch.bincount(choice, minlength=most).tolist())):
        if len(rows):
            which, rest = divmod(code, strengths * sides)
            name, (magnitudes, signed) = space[which]
            strength = float(magnitudes[rest // sides]) if magnitudes.ndim else 0.0
            strength = -strength if signed and rest % sides else strength
            members = rows.to(images.device)
            seen[members] = _apply_op(
                levels[members], name, strength, policy.interpolation, policy.fill
            )
    return seen if images.dtype == torch.uint8 else (seen / 255).to(images.dtype)


def coin(images: torch.Tensor, generator: torch.Generator, reach: float) -> torch.Tensor:
    """COIN: each pixel is read, bilinearly, from a place of its own, up to `reach` pixels away in
    each direction; beyond a border is the other side (Li et al., "Detecting and Corrupting
    Convolution-based Unlearnable Examples", AAAI 2025, where it is 2).
    """
    height, width = images.shape[2:]
    border = math.ceil(reach) + 1
    rows, columns = (torch.arange(-border, side + border) % side for side in (height, width))
    places = torch.stack(  # of each pixel in the enlarged image, across first
        torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), dim=-1
    )
    last = torch.tensor([width, height]) + 2 * border - 1

    def moved(some: torch.Tensor) -> torch.Tensor:
        drawn = torch.rand(len(some), height, width, 2, generator=generator)
        grid = 2 * (places + border + reach * (2 * drawn - 1)) / last - 1
        wrapped = some[:, :, rows][..., columns]
        return F.grid_sample(wrapped, grid.to(some), align_corners=True)

    return _as_floats(images, moved)


def ueraser(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """UEraser-Lite (Qin et al., "Learning the Unlearnable", 2023): each with chance 1/2, brightness
    and contrast changed by a plasma, and the channels shuffled; then TrivialAugment.

    The plasma is `plasma`, with a roughness of 0.3 to 0.7. Brightness moves by up to 0.5 to 1.0,
    contrast by a factor of 0 to 4 around the middle gray, as the released code has it from kornia,
    whose plasma and TrivialAugment differ in detail.
    """

    def coloured(some: torch.Tensor) -> torch.Tensor:
        count, _, height, width = some.shape
        drawn = torch.rand(count, 6, 1, 1, 1, generator=generator).to(some.device)
        maps = [
            plasma(height, width, 0.3 + 0.4 * drawn[:, place, 0], generator)[:, None]
            for place in (0, 1)
        ]
        brighter = some + (0.5 + 0.5 * drawn[:, 2]) * (2 * maps[0] - 1)
        some = torch.where(drawn[:, 3] < 0.5, brighter.clamp(0, 1), some)
        clearer = (some - 0.5) * 4 * maps[1] + 0.5
        some = torch.where(drawn[:, 4] < 0.5, clearer.clamp(0, 1), some)
        order = torch.rand(count, 3, generator=generator).argsort(1).to(some.device)
        shuffled = some.gather(1, order.view(-1, 3, 1, 1).expand_as(some))
        return torch.where(drawn[:, 5] < 0.5, shuffled, some)

    return trivial_augment(_as_floats(images, coloured), generator)


def plasma(
    height: int, width: int, roughness: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Clouds by the diamond-square algorithm (Fournier et al., 1982).

    Args:
        roughness: `(B, 1, 1)` float: from one halving of the grid to the next, what is added to the
            mean of a point's neighbours becomes smaller by this factor.

    Returns:
        `(B, H, W)` float32, from 0 to 1 in every cloud.
    """
    steps = max(1, math.ceil(math.log2(max(height, width, 2) - 1)))
    count, where = len(roughness), roughness.device

    def draw(rows: int, columns: int) -> torch.Tensor:
        return 2 * torch.rand(count, rows, columns, generator=generator).to(where) - 1

    grid, scale = draw(2, 2), torch.ones_like(roughness)
    for _ in range(steps):
        size = grid.shape[1] - 1
        scale = scale * roughness
        corners = grid[:, :-1, :-1] + grid[:, :-1, 1:] + grid[:, 1:, :-1] + grid[:, 1:, 1:]
        centres = corners / 4 + scale * draw(size, size)
        above = _between(grid, centres) + scale * draw(size + 1, size)
        beside = _between(grid.mT, centres.mT).mT + scale * draw(size, size + 1)
        finer = grid.new_empty(count, 2 * size + 1, 2 * size + 1)
        finer[:, ::2, ::2], finer[:, 1::2, 1::2] = grid, centres
        finer[:, ::2, 1::2], finer[:, 1::2, ::2] = above, beside
        grid = finer
    grid = grid[:, :height, :width]
    low, high = grid.amin((1, 2), keepdim=True), grid.amax((1, 2), keepdim=True)
    return (grid - low) / (high - low).clamp(min=1e-6)


def _between(grid: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Means of the neighbours of the points between two of a row: these two, and the centres above
    and below, of which there is one at the border. `(B, n + 1, n + 1)`, `(B, n, n)` ->
    `(B, n + 1, n)`."""
    padded = F.pad(centres, (0, 0, 1, 1))
    neighbours = torch.full((grid.shape[1], 1), 4.0, device=grid.device)
    neighbours[0] = neighbours[-1] = 3
    return (grid[..., :-1] + grid[..., 1:] + padded[:, :-1] + padded[:, 1:]) / neighbours


def _kept(side: int, keep: float) -> torch.Tensor:
    """`(side, side)` float32: to a signal's lowest frequencies, and back."""
    kept = min(side, math.ceil(keep * side - 1e-9))
    frequency, place = torch.arange(kept, dtype=torch.float64), torch.arange(side)
    waves = torch.cos(math.pi / side * (place + 0.5) * frequency[:, None]) * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    return (waves.T @ waves).float()


def _as_floats(
    images: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """A change of float images in [0, 1], of images of any kind; in parts."""
    if images.requires_grad:  # a gradient passes through no part of an empty tensor
        return torch.cat([change(part).clamp(0, 1) for part in images.split(AT_ONCE)])
    seen = torch.empty_like(images)
    for into, part in zip(seen.split(AT_ONCE), images.split(AT_ONCE), strict=True):
        if images.dtype == torch.uint8:
            into.copy_((255 * change(part / 255).clamp(0, 1)).round())
        else:
            into.copy_(change(part).clamp(0, 1))
    return seen
