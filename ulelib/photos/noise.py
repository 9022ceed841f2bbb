"""Noise at a picture's own size: added to its pixels, and looked for in the written file."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ulelib.photos.contrast import TURNED, Shares, strips_of
from ulelib.views import LUMA

SAMPLE = 2_000_000  # pixels, about, in which the noise is looked for
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class Noise:
    """The noise of the middle square, enlarged to a picture's size and mirrored beyond the square.

    Args:
        delta: `(C, S, S)` float in units of the pixel range, for the upright picture.
        size: width and height of the stored picture, in pixels.
        strength: bound in gray levels, at most 127.
        orientation: how the stored picture lies, 1 to 8 as in EXIF.
        shares: of its strength that the noise gets at each pixel; None: all.
    """

    def __init__(
        self,
        delta: torch.Tensor,
        size: tuple[int, int],
        strength: int,
        orientation: int = 1,
        shares: Shares | None = None,
    ) -> None:
        swapped, rows_back, columns_back = TURNED[orientation]
        width, height = size
        # The noise is ROWS delta COLUMNS^T. Both matrices are made as the upright picture needs
        # them, since its middle need not be the middle of the turned one, by a pixel.
        side = min(size)
        rows, columns = (_enlarging(delta.shape[-1], side, n) for n in (height, width))
        if rows_back:
            rows = rows.flip(0)
        if columns_back:
            columns = columns.flip(0)
        square = delta.transpose(1, 2) if swapped else delta
        self.strength, self.rows, self.shares = strength, rows, shares
        self.wide = square.float() @ columns.T  # (C, S, width)

    def strip(self, top: int, bottom: int) -> torch.Tensor:
        """Rows of the noise, `(C, bottom - top, width)` int8 in gray levels."""
        rows = self.rows[top:bottom]
        needed = rows.any(0)  # few, in a large picture
        levels = rows[:, needed] @ self.wide[:, needed]
        levels.mul_(255).clamp_(-self.strength, self.strength)
        if self.shares is not None:
            levels *= self.shares.strip(top, bottom)
        return levels.round_().to(torch.int8)


def _enlarging(small: int, side: int, length: int) -> torch.Tensor:
    """The matrix `(length, small)` that scales `small` pixels to `side` and mirrors them beyond."""
    unit = torch.eye(small)[None, None]
    scaled = F.interpolate(unit, [side, small], mode="bilinear", antialias=True)[0, 0]
    before = (length - side) // 2
    places = np.pad(np.arange(side), (before, length - side - before), mode="symmetric")
    return scaled[torch.from_numpy(places)]


def spread(delta: torch.Tensor, height: int, width: int, strength: int) -> torch.Tensor:
    """Scale the noise of the middle square to a picture's size, and mirror it beyond the square.

    Args:
        delta: `(C, S, S)` float in units of the pixel range.
        height, width: of the picture, in pixels.
        strength: bound of the result in gray levels, at most 127.

    Returns:
        `(C, height, width)` int8 in gray levels.
    """
    return Noise(delta, (width, height), strength).strip(0, height)


class Sample(NamedTuple):
    """Some rows of a picture before it got its noise.

    Attributes:
        top: the first row.
        before: `(rows, width, C)` uint8.
        noise: `(rows, width, C)` int8, what was to be added.
        opaque: `(rows, width, 1)`, 0 where the picture is transparent to 1.
    """

    top: int
    before: Pixels
    noise: np.ndarray[Any, np.dtype[np.int8]]
    opaque: Any


def add_noise(
    picture: Image.Image,
    delta: torch.Tensor,
    strength: int,
    orientation: int = 1,
    shares: Shares | None = None,
) -> list[Sample]:
    """Add noise to every channel of a picture except transparency, in place.

    Args:
        picture: in mode L, LA, RGB or RGBA.
        delta, strength, orientation, shares: see `Noise`.

    Returns:
        samples for `share_left`.
    """
    gray = picture.mode in ("L", "LA")
    if gray and len(delta) == 3:
        delta = (torch.tensor(LUMA).view(3, 1, 1) * delta).sum(0, keepdim=True)
    colours = 1 if gray else 3
    noise = Noise(delta, picture.size, strength, orientation, shares)
    width, height = picture.size
    strips = [*strips_of(height)]
    rows = max(1, SAMPLE // (width * len(strips)))  # sampled from each strip
    samples = []
    for top, bottom in strips:
        box = (0, top, width, bottom)
        pixels = np.array(picture.crop(box)).reshape(bottom - top, width, -1)
        levels = noise.strip(top, bottom).expand(colours, -1, -1).permute(1, 2, 0).numpy()
        opaque = pixels[:rows, :, colours:] / np.float32(255) if "A" in picture.mode else 1.0
        # Copies: views would hold the whole strip.
        before, sought = pixels[:rows, :, :colours].copy(), levels[:rows].copy()
        samples.append(Sample(top, before, sought, opaque))
        moved = pixels[..., :colours] + levels.astype(np.int16)
        pixels[..., :colours] = moved.clip(0, 255, out=moved)
        only_gray = picture.mode == "L"
        picture.paste(Image.fromarray(pixels[..., 0] if only_gray else pixels, picture.mode), box)
    return samples


def share_left(written: Image.Image, samples: list[Sample]) -> float:
    """The share of the noise that is seen in a written picture, where anything is: 1 is all.

    It is the noise's factor in the difference that fits best: what lossy coding adds by itself does
    not count. Where the picture is half transparent, half of the noise is seen.

    Args:
        written: the decoded file, as it is stored, in the mode of the original.
        samples: of `add_noise`.
    """
    found = wanted = 0.0
    for top, before, noise, opaque in samples:
        box = (0, top, written.width, top + len(before))
        after = np.array(written.crop(box)).reshape(len(before), written.width, -1)
        weighted = noise * opaque
        difference = after[..., : before.shape[2]].astype(np.int16) - before
        found += float((weighted * opaque * difference).sum(dtype=np.float64))
        wanted += float((weighted * noise.astype(np.int16)).sum(dtype=np.float64))
    return found / wanted if wanted else 0.0
