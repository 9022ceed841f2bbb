"""Contrast masking: less noise where a picture is flat.

The eye overlooks noise in texture and sees it in a flat area, such as sky or skin. `shares` says
how much of its strength noise gets at each pixel: all of it where the local contrast is high, and
the share `FLOOR` where the picture is flat. `Masked` scales the noise of any method so.
`ulelib.photos.contrast` does it at a photograph's own size, in strips.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.functional import InterpolationMode, resize

from ulelib.checkpoints import NO_CHECKPOINT, Checkpoint
from ulelib.data import ImageSet
from ulelib.perturbation import CHUNK, Perturbation, energy_shares, sample_of
from ulelib.settings import Count, Positive, Share, settings
from ulelib.specs import Method
from ulelib.views import gray

CELLS = 32  # along the shorter side of a picture: the contrast is measured in each
SMALLEST = 3.0  # pixels a side of a cell, at least: fewer have no contrast of their own
CONTRAST = 16.0  # gray levels: standard deviation at which noise gets all of its strength
FLOOR = 0.25  # share of its strength that noise gets where a picture is flat

Sums = np.ndarray[Any, np.dtype[np.int64]]


def edges(length: int, shorter: int) -> Sums:
    """Where the cells along one side of a picture begin, and its end: `(cells + 1,)` pixels.

    Args:
        length: of this side, in pixels.
        shorter: of the two sides.
    """
    cells = max(1, round(length / max(SMALLEST, shorter / CELLS)))
    return np.arange(cells + 1) * length // cells


def sums(values: np.ndarray[Any, Any], bounds: Sums, axis: int) -> Sums:
    """Sums along an axis, of the pixels of each cell."""
    found: Sums = np.add.reduceat(values, bounds[:-1], axis=axis, dtype=np.int64)
    return found


def local_contrast(total: Sums, squares: Sums, rows: Sums, columns: Sums) -> torch.Tensor:
    """The standard deviation of luma in each cell, averaged with the cells around it.

    Args:
        total, squares: `(N, R, C)`, sums over the pixels of each cell: of luma, and of its square.
        rows, columns: of `edges`.

    Returns:
        `(N, R, C)` float64, in gray levels.
    """
    pixels = np.diff(rows)[:, None] * np.diff(columns)
    variance = (pixels * squares - total * total) / (pixels * pixels)  # whole numbers: exact
    deviation = torch.from_numpy(np.sqrt(variance))[:, None]
    padded = F.pad(deviation, (1, 1, 1, 1), mode="replicate")
    once = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    return F.conv2d(padded, (once[:, None] * once)[None, None])[:, 0]


def share_of(
    contrast: torch.Tensor, floor: float = FLOOR, enough: float = CONTRAST
) -> torch.Tensor:
    """The share of its strength that noise gets at a local contrast: float32 in [floor, 1].

    Args:
        contrast: any shape, in gray levels.
        floor, enough: see `Masked`.
    """
    return (contrast / enough).clamp(floor, 1).float()


def enlarging(cells: int, length: int) -> torch.Tensor:
    """The matrix `(length, cells)` that interpolates between the middles of the cells."""
    return F.interpolate(torch.eye(cells)[None, None], [length, cells], mode="bilinear")[0, 0]


def shares(images: torch.Tensor, floor: float = FLOOR, enough: float = CONTRAST) -> torch.Tensor:
    """The share of its strength that noise gets at each pixel.

    Args:
        images: `(N, 3, H, W)` uint8.
        floor, enough: see `Masked`.

    Returns:
        `(N, 1, H, W)` float32 in [floor, 1].
    """
    height, width = images.shape[2:]
    rows, columns = (edges(side, min(height, width)) for side in (height, width))
    luma = gray(images)[:, 0].numpy().astype(np.uint32)
    total, squares = (sums(sums(one, columns, 2), rows, 1) for one in (luma, luma * luma))
    grid = share_of(local_contrast(total, squares, rows, columns), floor, enough)
    down, across = enlarging(len(rows) - 1, height), enlarging(len(columns) - 1, width)
    return (down @ (grid @ across.T))[:, None].clamp(floor, 1)


def masked(
    delta: torch.Tensor, images: torch.Tensor, floor: float = FLOOR, enough: float = CONTRAST
) -> torch.Tensor:
    """Noise with less strength where its image is flat; nowhere more than it had.

    Args:
        delta: `(N, 3 or 1, H, W)` float32.
        images: `(N, 3, H, W)` uint8, the clean images.
        floor, enough: see `Masked`.
    """
    parts = zip(delta.split(CHUNK), images.split(CHUNK), strict=True)
    return torch.cat([noise * shares(clean, floor, enough) for noise, clean in parts])


@settings
class Masked:
    """The noise of a method, with less strength where an image is flat.

    The noise is made at a working size, enlarged, and scaled by `shares` of each image at its own
    size, as `ulelib protect --masking` does; so it is sample-wise, even of a class-wise method.

    Attributes:
        method: how the noise is made; its radius bounds the masked noise, too.
        size: working size in pixels; None: the images' own.
        floor: share of its strength that noise gets where an image is flat.
        enough: local contrast in gray levels at which noise gets all of its strength.
    """

    method: Method
    size: Count | None = None
    floor: Share = FLOOR
    enough: Positive = CONTRAST

    def __post_init__(self) -> None:
        if isinstance(self.method, type):
            raise ValueError(f"Masked.method is {self.method}: settings, not their class")

    def make(
        self,
        images: ImageSet,
        seed: int,
        precision: str,
        *,
        network: Callable[..., Any],
        report: Callable[[str], None],
        checkpoint: Checkpoint = NO_CHECKPOINT,
    ) -> Perturbation:
        """See `specs.Method`."""
        started = time.perf_counter()
        small = images
        if self.size is not None:
            side = [self.size, self.size]
            parts = [
                resize(part, side, InterpolationMode.BILINEAR)
                for part in images.images.split(CHUNK)
            ]
            small = replace(images, images=torch.cat(parts))
        made = self.method.make(
            small, seed, precision, network=network, report=report, checkpoint=checkpoint
        )
        rows = torch.arange(len(images))
        noise = made if self.size is None else made.resized(images)
        delta = masked(noise.of(images, rows), images.images, self.floor, self.enough)
        return replace(
            made,
            delta=delta,
            kind="sample_wise",
            defender=f"masked {made.defender}",
            fingerprint=images.fingerprint,
            made_of=(energy_shares(sample_of(delta, rows)),),
            seconds=time.perf_counter() - started,
        )
