"""The file of one protected picture: the original's format and metadata, with noise in the pixels.

`protected_file` reads the original, adds the noise, encodes the result, and looks whether the noise
is still there.
"""

from __future__ import annotations

import bisect
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from ulelib import pictures
from ulelib.photos import extras
from ulelib.photos.contrast import Shares
from ulelib.photos.exif import Broken, Exif
from ulelib.photos.job import SIZE, Job
from ulelib.photos.noise import Sample, add_noise, share_left
from ulelib.photos.original import Original, on_white, original_of

MOST_EXIF = 65_533  # bytes that fit into a JPEG
DEFAULT_QUALITY = 95
WEBP_QUALITIES = range(50, 100, 5)
# A picture that keeps less of its noise counts as not protected: at half the strength, exploiters
# learn half of what clean pictures teach (page 14b), and more at less. Smallest and largest share,
# measured with CSD on 36 drawn pictures that were JPEG of the same quality. Strength 16: quality 1
# to 3: 0.00 to 0.06 (12 files unchanged); 5: 0.32 to 0.84; 8: 0.76 to 0.99; 20 and better: 0.93 to
# 1. Strength 4: up to 10: 0.00 to 0.01; 15: 0.07 to 0.39; 20: 0.33 to 0.85; 30: 0.73 to 1; 75 and
# better: 0.95 to 1. WebP of quality 1 to 75: 0.84 to 1.05.
LEAST_SHARE = 0.5  # of the noise that was to be written, with masking of what masking left
# Notes: what else is different in a protected picture.
NO_PLACE = "the place was left out"
NO_GAMMA = "its gamma was left out"
NO_PREVIEW = "the preview in its EXIF data was left out"
NO_EXIF = "its EXIF data are damaged or too long and were left out"
ONLY_ORIENTATION = "its EXIF data could not be written, except for the orientation"
MOSTLY_FLAT = "it is mostly flat: masking left {:.0f} % of its noise, so it is protected less"
ODD_EXIF = "its EXIF data have a value that many programs cannot read; it was kept as it is"
# Page 14b: CSD of 8 and 16 pixels does nothing against a network that sees the pictures gray.
GRAY = (
    "it is gray, where CSD of few pixels does not protect: protect gray pictures by themselves, "
    f"with ULEO-GrayAugs, or with CSD at a size of {SIZE}"
)


@dataclass(frozen=True)
class About:
    """What a person is told of a protected picture.

    Attributes:
        notes: what else is different in it.
        unprotected: why it is not protected after all; "" if it is.
        twice: whether this tool wrote the original, so that the noise of both adds up.
        placed: whether the new file says where the picture was taken.
    """

    notes: list[str] = field(default_factory=list)
    unprotected: str = ""
    twice: bool = False
    placed: bool = False


class Protected(NamedTuple):
    """The content of a new file, and what is told of it."""

    content: bytes
    about: About


def protected_file(file: Path, delta: torch.Tensor, job: Job) -> Protected:
    """The file of a protected picture.

    Size, orientation, colour profile, transparency, gray mode and EXIF data stay as far as the
    format can keep them; the place is removed if the job says so.

    Args:
        file: the original.
        delta: `(3 or 1, S, S)` float in units of the pixel range, noise for the upright picture's
            middle square.
        job: strength, masking, format and quality.

    Raises:
        OSError, ValueError, TypeError: Pillow cannot read the original or encode the result.
    """
    with pictures.decoded(file, enough=None) as (opened, damaged):
        original = original_of(file, opened, damaged)
        del opened
        target = {"keep": original.kind, "png": "PNG", "jpg": "JPEG"}[job.format]
        coded, placed = _exif_for(original, target, job)
        if target in ("JPEG", "BMP") and original.picture.mode in ("LA", "RGBA"):
            transparent = original.picture
            original.picture, white = on_white(transparent)
            original.notes += white
            transparent.close()  # it is large
        options = _options(original, target, job)
        picture = original.picture
        shares = Shares(picture, original.orientation) if job.masking else None
        if shares and shares.mean < LEAST_SHARE:
            original.notes.append(MOSTLY_FLAT.format(100 * shares.mean))
        samples = add_noise(picture, delta, job.strength, original.orientation, shares)
        encoded = io.BytesIO()
        picture.save(encoded, target, **({"exif": coded} if coded else {}), **options)
        content, mode = encoded.getvalue(), picture.mode
        if target == "PNG" and original.colours:  # Pillow would not write all of them
            head = extras.PNG_HEADER_END
            content = content[:head] + original.colours + content[head:]
        picture.close()
        original.picture = Image.new("L", (1, 1))  # its memory is needed for what follows
        del picture
        unprotected = _why_unprotected(content, mode, samples, job)
        return Protected(content, About(original.notes, unprotected, original.marked, placed))


def _why_unprotected(content: bytes, mode: str, samples: list[Sample], job: Job) -> str:
    """Why the picture in a written file is not protected; "" if it is."""
    if mode in ("L", "LA") and job.method == "CSD" and job.pixels < SIZE:
        return GRAY
    with Image.open(io.BytesIO(content), formats=pictures.FORMATS) as written:
        written.load()
        share = share_left(written if written.mode == mode else written.convert(mode), samples)
    if share >= LEAST_SHARE:
        return ""
    return (
        f"{max(0, round(100 * share))} % of its noise is left: the quality or the strength is too "
        "low, or it is nearly all black, white or transparent"
    )


# --- EXIF ----------------------------------------------------------------------------------------


def _exif_for(original: Original, target: str, job: Job) -> tuple[bytes, bool]:
    """EXIF data for the new file, and whether they say where the picture was taken.

    Previews are removed, since they show the picture without noise. If that is not possible, only
    the orientation is kept. What is lost is added to the notes; and an orientation that the EXIF
    data do not have, for instance one from XMP data, which are not written, is applied to the
    picture.
    """
    coded, placed, notes = b"", False, original.notes
    if target == "BMP":
        if original.exif:
            notes.append(NO_EXIF)
    elif original.exif:
        try:
            exif = Exif(original.exif)
            if exif.drop_previews():
                notes.append(NO_PREVIEW)
            if exif.has_place and job.drop_location:
                exif.drop_place()
                notes.append(NO_PLACE)
            if (exif.orientation or 1) != original.orientation:
                _turn(original)
                exif.set_upright()
            coded, placed = exif.coded(), exif.has_place
            if target == "JPEG" and len(coded) > MOST_EXIF:
                raise Broken("too long for a JPEG")
            if not _is_common(coded):
                notes.append(ODD_EXIF)
            return coded, placed
        except Broken:
            notes[:] = [one for one in notes if one not in (NO_PREVIEW, NO_PLACE)]
            notes.append(ONLY_ORIENTATION if original.orientation != 1 else NO_EXIF)
    if original.orientation == 1:
        return b"", False
    only = Image.Exif()
    only[pictures.ORIENTATION] = original.orientation
    return only.tobytes(), False


def _turn(original: Original) -> None:
    """Store a picture upright."""
    original.picture = pictures.upright(original.picture, original.orientation)
    original.orientation = 1


def _is_common(coded: bytes) -> bool:
    """Whether Pillow can encode EXIF data again, as other programs do."""
    exif = Image.Exif()
    try:
        exif.load(coded)
        exif.tobytes()
    except Exception:  # odd values raise anything
        return False
    return True


# --- file formats --------------------------------------------------------------------------------


def _options(original: Original, target: str, job: Job) -> dict[str, Any]:
    """Pillow's options for saving. What the format cannot keep is added to the notes."""
    if target == "PNG":
        original.gamma.add_text("Software", extras.MARK)
        return original.kept | {"pnginfo": original.gamma}
    if original.colours:
        original.notes.append(extras.NO_COLOURS)
    if original.gamma.chunks:
        original.notes.append(NO_GAMMA)
    if target == "BMP":
        return {}
    options = original.kept | extras.mark(target)
    if target == "WEBP":
        return options | _webp_options(original, job)
    if original.tables and job.quality is None:
        return options | original.tables
    # Noise in colours needs their full resolution.
    return options | {"quality": job.quality or DEFAULT_QUALITY, "subsampling": 0}


def _webp_options(original: Original, job: Job) -> dict[str, Any]:
    if job.quality is None and original.lossless:
        return {"lossless": True}
    return {"quality": job.quality or _webp_quality(original.picture, original.size)}


def _webp_quality(picture: Image.Image, size: int) -> int:
    """The quality at which a picture takes about `size` bytes. WebP files do not store theirs."""

    def bytes_at(quality: int) -> int:
        picture.save(file := io.BytesIO(), "WEBP", quality=quality)
        return file.tell()

    found = bisect.bisect_left(WEBP_QUALITIES, size, key=bytes_at)
    return WEBP_QUALITIES[min(found, len(WEBP_QUALITIES) - 1)]
