"""Contrast masking at a picture's own size: how much of its strength noise gets, strip by strip."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from ulelib.masking import edges, enlarging, local_contrast, share_of, sums

STRIP = 256  # rows of a picture that are handled at once
# How a stored picture is made from the upright one, by EXIF orientation: whether rows and columns
# change places, and whether the new rows and the new columns are then reversed.
TURNED = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def strips_of(height: int) -> Iterator[tuple[int, int]]:
    """First row, and the row after the last, of each strip of a picture."""
    for top in range(0, height, STRIP):
        yield top, min(top + STRIP, height)


def contrast_of(picture: Image.Image, orientation: int = 1) -> torch.Tensor:
    """The local contrast of a picture in cells, see `masking.local_contrast`.

    Args:
        picture: as stored, in mode L, LA, RGB or RGBA; the colours of what is transparent count.
        orientation: how it lies, 1 to 8 as in EXIF.

    Returns:
        `(R, C)` float64 in gray levels, of the upright picture.
    """
    swapped, rows_back, columns_back = TURNED[orientation]
    width, height = picture.size
    # The cells are those of the upright picture, which need not be symmetrical by a pixel.
    rows, columns = (edges(side, min(picture.size)) for side in (height, width))
    rows = height - rows[::-1] if rows_back else rows
    columns = width - columns[::-1] if columns_back else columns
    found = np.zeros((2, len(rows) - 1, len(columns) - 1), np.int64)
    row_of = np.repeat(np.arange(len(rows) - 1), np.diff(rows))
    for top, bottom in strips_of(height):
        luma = np.array(picture.crop((0, top, width, bottom)).convert("L"), np.uint32)
        for into, values in zip(found, (luma, luma * luma), strict=True):
            np.add.at(into, row_of[top:bottom], sums(values, columns, 1))
    if rows_back:
        found, rows = found[:, ::-1], height - rows[::-1]
    if columns_back:
        found, columns = found[:, :, ::-1], width - columns[::-1]
    if swapped:
        found, rows, columns = found.transpose(0, 2, 1), columns, rows
    total, squares = found[:, None]
    return local_contrast(total, squares, rows, columns)[0]


class Shares:
    """The share of its strength that noise gets at each pixel of a picture, see `masking.shares`.

    Args:
        picture, orientation: see `contrast_of`; the picture before it gets its noise.

    Attributes:
        mean: over the picture, in (0, 1].
    """

    def __init__(self, picture: Image.Image, orientation: int = 1) -> None:
        swapped, rows_back, columns_back = TURNED[orientation]
        grid = share_of(contrast_of(picture, orientation))
        self.mean = float(grid.mean())
        grid = grid.T if swapped else grid
        width, height = picture.size
        self.rows = enlarging(grid.shape[0], height)
        columns = enlarging(grid.shape[1], width)
        if rows_back:
            self.rows = self.rows.flip(0)
        if columns_back:
            columns = columns.flip(0)
        self.wide = grid @ columns.T  # (R, width)

    def strip(self, top: int, bottom: int) -> torch.Tensor:
        """Rows of the shares, `(bottom - top, width)` float32."""
        rows = self.rows[top:bottom]
        needed = rows.any(0)  # few, in a large picture
        return (rows[:, needed] @ self.wide[needed]).clamp_(max=1)
