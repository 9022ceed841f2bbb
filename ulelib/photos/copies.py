"""Pictures and their protected copies: which belong together, and how similar they look."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ulelib import pictures, visibility
from ulelib.photos.folders import SHORTEST, Photo, Refused, find_pictures, too_small
from ulelib.photos.job import FORMATS
from ulelib.photos.names import composed, folded, output_names, printable
from ulelib.visibility import SSIM_WINDOW

EXAMPLES = 3  # pairs that are displayed
COMPARED = 50  # pairs whose PSNR and SSIM are measured
WIDEST = 1024  # pixels a side of the middle that is compared: SSIM of a whole photograph takes GB


class Pair(NamedTuple):
    """A picture and its protected copy.

    Attributes:
        picture, copy: their files.
        label: their class.
    """

    picture: Path
    copy: Path
    label: str


def copies_of(clean: Path, protected: Path, flat: bool = False) -> tuple[list[Pair], list[str]]:
    """Find the protected copy of each picture.

    A copy has the name that `protect` gives it, in any format; or, if someone converted the copies,
    the picture's name with another suffix.

    Args:
        clean, protected: folders `CLASS/FILE`.
        flat: whether pictures that lie directly in the folders are a class.

    Returns:
        the pairs, and the printable names of pictures without a copy, in alphabetical order.

    Raises:
        Refused: a folder does not exist, or there is no pair.
    """
    for folder in (clean, protected):
        if not folder.is_dir():
            raise Refused(f"{folder} is not a folder")
    left_out: dict[str, str] = {}  # what cannot be protected has no copy, even if it is published
    own, copies = find_pictures(clean, left_out, flat), find_pictures(protected, flat=flat)
    by_name = {photo.name: photo for photo in copies}
    by_composed = {composed(name): photo for name, photo in by_name.items()}
    by_stem = {composed(photo.name.with_suffix("")): photo for photo in copies}
    # `protect` gives a name that two pictures could get to the one that can be protected.
    stems = {photo: folded(photo.name.with_suffix("")) for photo in own}
    sharing = Counter(stems.values())
    unprotected = _unprotected([photo for photo in own if sharing[stems[photo]] > 1])
    own = [photo for photo in own if photo not in unprotected]
    sharing = Counter(stems[photo] for photo in own)
    names = [photo.name for photo in own]
    pairs, missing, used = [], [printable(photo.name) for photo in unprotected], set()
    for photo, *outputs in zip(own, *(output_names(names, one) for one in FORMATS), strict=True):
        found = [*map(by_name.get, outputs), *map(by_composed.get, map(composed, outputs))]
        found.append(by_stem.get(composed(photo.name)))
        if sharing[stems[photo]] == 1:
            found.append(by_stem.get(composed(photo.name.with_suffix(""))))
        copy = next((one for one in found if one is not None and one.file not in used), None)
        if copy is None:
            missing.append(printable(photo.name))
        else:
            used.add(copy.file)
            pairs.append(Pair(photo.file, copy.file, photo.label))
    if not pairs:
        raise Refused(f"{protected} has no copy of a picture of {clean}")
    unread = [name for name, why in left_out.items() if pictures.NOT_YOURS not in why]
    return pairs, sorted([*missing, *unread])


def _unprotected(photos: list[Photo]) -> set[Photo]:
    """The pictures that `protect` leaves out, because they cannot be read or are too small."""
    _, unread = pictures.read_each([photo.file for photo in photos], SHORTEST)
    return {photo for index, photo in enumerate(photos) if index in unread or too_small(photo.file)}


def examples_of(pairs: list[Pair]) -> tuple[Pair, ...]:
    """A few pairs to be displayed, at equal distances."""
    return tuple(pairs[:: max(1, len(pairs) // EXAMPLES)][:EXAMPLES])


def similarity(pairs: list[Pair]) -> tuple[float, float]:
    """Mean PSNR (decibels) and SSIM (at most 1) of pictures and copies, measured on the middle
    `WIDEST` pixels of some `COMPARED` pairs at their own size; NaN if no pair of equal size
    differs."""
    measured = []
    for pair in pairs[:: math.ceil(len(pairs) / COMPARED)]:
        picture, copy = upright(pair.picture), upright(pair.copy)
        if picture.size != copy.size or min(picture.size) < SSIM_WINDOW:
            continue
        psnr, ssim = likeness(picture, copy)
        if math.isfinite(psnr):
            measured.append([psnr, ssim])
    if not measured:
        return math.nan, math.nan
    means = torch.tensor(measured).mean(0)
    return float(means[0]), float(means[1])


def likeness(picture: Image.Image, copy: Image.Image) -> tuple[float, float]:
    """PSNR in decibels, infinite if both are equal, and SSIM of the middle `WIDEST` pixels.

    Args:
        picture, copy: RGB, of equal size, with `SSIM_WINDOW` pixels a side at least.
    """
    first, second = (
        torch.from_numpy(np.array(middle(one, WIDEST)))[None].permute(0, 3, 1, 2).float()
        for one in (picture, copy)
    )
    psnr, ssim = visibility.similarity(first, second)
    return float(psnr), float(ssim)


def upright(file: Path) -> Image.Image:
    """A picture as a person sees it: RGB, turned as its EXIF data say."""
    with pictures.quiet(), pictures.decoded(file, enough=None) as (stored, _):
        seen = pictures.upright(pictures.as_seen(stored), pictures.orientation_of(stored))
        return seen.copy() if seen is stored else seen


def middle(picture: Image.Image, most: int) -> Image.Image:
    """The middle of a picture, at most `most` pixels wide and high."""
    width, height = (min(most, side) for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))
