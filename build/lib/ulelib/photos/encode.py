"""The file of one protected picture: the original's format and metadata, with noise in the pixels.

`protected_file` reads the original, adds the noise and encodes the result.
"""

from __future__ import annotations

import bisect
import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, PngImagePlugin
from torch.nn import functional as F

from ulelib import pictures
from ulelib.photos.job import SIZE, Job
from ulelib.views import LUMA

STRIP = 256  # rows of a picture that get their noise at once
ORIENTATION, GPS = 0x0112, 0x8825  # EXIF tags: how the camera was held, and where
# What turns an upright picture back to the way its file stores it, by EXIF orientation.
TURN_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
MOST_EXIF = 65_000  # bytes that fit into a JPEG
EXIF_HEADER = b"Exif\0\0"
JPEG_START = b"\xff\xd8\xff"  # in EXIF data it begins a preview: the picture without noise
GRAY_ALPHA = 4  # colour type in a PNG header: one channel and transparency
USUAL_GAMMA = 0.45455  # 1/2.2 as PNG files store it; programs assume it where a file has none
DEFAULT_QUALITY = 95
WEBP_QUALITIES = range(50, 100, 5)
# Notes: what else is different in a protected picture.
SIXTEEN_BITS = "16 bits became 8"
FULL_COLOUR = "its palette became full colour"
GRAY_LEVELS = "black and white became gray"
ON_WHITE = "what was transparent is white"
FIRST_ONLY = "only the first of its several pictures was kept"
NO_PLACE = "the place was left out"
NO_PROFILE = "its colour profile was left out"
NO_GAMMA = "its gamma was left out"
NO_TEXTS = "XMP or IPTC data, comments or texts were left out"
NO_PREVIEW = "the preview in its EXIF data was left out"
ONLY_ORIENTATION = "its EXIF data could not be written, except for the orientation"
# Page 14b: CSD of 8 and 16 pixels does nothing against a network that sees the pictures gray.
GRAY = (
    "it is gray, where CSD of few pixels does not protect: protect gray pictures by themselves, "
    f"with ULEO-GrayAugs, or with CSD at a size of {SIZE}"
)


@dataclass
class _Original:
    """What the file of a picture holds.

    Attributes:
        kind: of the file: "JPEG", "PNG", "BMP" or "WEBP".
        picture: upright, in mode L, LA, RGB or RGBA.
        exif: its EXIF data.
        coded_exif: the same as the file has them; b"" if it has none.
        kept: colour profile and resolution, as Pillow's options for saving.
        brightness: PNG chunks about gamma and colours.
        jpeg: options for saving as JPEG.
        notes: what the conversion to this picture changed.
    """

    kind: str
    picture: Image.Image
    exif: Image.Exif
    coded_exif: bytes
    kept: dict[str, Any]
    brightness: PngImagePlugin.PngInfo
    jpeg: dict[str, Any]
    notes: list[str]


def protected_file(file: Path, delta: torch.Tensor, job: Job) -> tuple[bytes, list[str]]:
    """The file of a protected picture.

    Size, orientation, colour profile, transparency, gray mode and EXIF data stay as far as the
    format can keep them; the place is removed if the job says so.

    Args:
        file: the original.
        delta: `(3 or 1, S, S)` float in units of the pixel range, noise for the upright picture's
            middle square.
        job: strength, format and quality.

    Returns:
        the content of the new file, and notes on what else is different in it.

    Raises:
        OSError, ValueError, TypeError: Pillow cannot read the original or encode the result.
    """
    original = _read(file, job)
    notes, kept = original.notes, original.kept
    if location_removed := job.drop_location and GPS in original.exif:
        del original.exif[GPS]
        notes.append(NO_PLACE)
    target = {"keep": original.kind, "png": "PNG", "jpg": "JPEG"}[job.format]
    picture = original.picture
    if target in ("JPEG", "BMP") and picture.mode in ("LA", "RGBA"):
        picture = _on_white(picture)
        notes.append(ON_WHITE)
    noisy = _add_noise(picture, delta, job.strength)
    turned = TURN_BACK.get(original.exif.get(ORIENTATION, 1))
    if turned is not None:
        noisy = noisy.transpose(turned)
    if len(original.exif):
        kept["exif"], lost = _exif_bytes(original.exif, original.coded_exif, location_removed)
        notes += lost
    options: dict[str, Any] = {}
    if target == "PNG":
        options = {"pnginfo": original.brightness}
    elif original.brightness.chunks:
        notes.append(NO_GAMMA)
    if target == "JPEG":
        options = original.jpeg
    elif target == "WEBP":
        options = _webp_options(file, picture, job)
    elif target == "BMP":
        kept = {}
    encoded = io.BytesIO()
    noisy.save(encoded, target, **kept, **options)
    return encoded.getvalue(), notes


def _read(file: Path, job: Job) -> _Original:
    """What a picture's file holds, and what cannot be kept of it."""
    with Image.open(file, formats=pictures.FORMATS) as opened:
        opened.load()  # also converts colours of 16 bits to 8
        kind = "JPEG" if opened.format == "MPO" else str(opened.format)
        exif, coded_exif = opened.getexif(), opened.info.get("exif", b"")
        picture, notes = _in_plain_mode(ImageOps.exif_transpose(opened))
        if kind == "PNG":
            bits, colour_type = _png_header(file)
            if colour_type == GRAY_ALPHA:  # with 16 bits, Pillow opens it in colour
                picture = picture.convert("LA")
            if bits == 16 and SIXTEEN_BITS not in notes:
                notes.append(SIXTEEN_BITS)
        if picture.mode in ("L", "LA") and job.method == "CSD" and job.pixels < SIZE:
            notes.append(GRAY)
        if opened.format == "MPO":
            notes.append(FIRST_ONLY)
        kept = {key: opened.info[key] for key in ("icc_profile", "dpi") if opened.info.get(key)}
        # A profile of CMYK or LAB does not describe RGB channels.
        if opened.mode in ("CMYK", "LAB") and kept.pop("icc_profile", None):
            notes.append(NO_PROFILE)
        texts = [opened.info.get(key) for key in ("xmp", "photoshop", "comment")]
        if any([*texts, getattr(opened, "text", None)]):
            notes.append(NO_TEXTS)
        brightness, jpeg = _png_brightness(opened.info), _jpeg_options(opened, job)
    return _Original(kind, picture, exif, coded_exif, kept, brightness, jpeg, notes)


def _in_plain_mode(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """A picture in mode L, LA, RGB or RGBA, and notes on what the conversion changed."""
    if picture.mode in ("LA", "RGBA"):
        return picture, []
    transparent = picture.has_transparency_data
    white = [ON_WHITE] if transparent else []
    if picture.mode.startswith("I") or picture.mode == "F":
        return pictures.as_seen(picture).convert("L"), [SIXTEEN_BITS, *white]
    if picture.mode == "1":
        return pictures.as_seen(picture).convert("L"), [GRAY_LEVELS, *white]
    if transparent:
        return picture.convert("LA" if picture.mode == "L" else "RGBA"), []
    if picture.mode in ("L", "RGB"):
        return picture, []
    notes = {"P": [FULL_COLOUR], "CMYK": ["CMYK became RGB"]}
    return picture.convert("RGB"), notes.get(picture.mode, [f"{picture.mode} became RGB"])


def _on_white(picture: Image.Image) -> Image.Image:
    """A picture with transparency, on white: LA as L, RGBA as RGB."""
    white = Image.new("RGBA", picture.size, "white")
    flat = Image.alpha_composite(white, picture.convert("RGBA"))
    return flat.convert("RGB" if picture.mode == "RGBA" else "L")


# --- noise ---------------------------------------------------------------------------------------


def spread(delta: torch.Tensor, height: int, width: int, strength: int) -> torch.Tensor:
    """Scale the noise of the middle square to a picture's size, and mirror it beyond the square.

    Args:
        delta: `(C, S, S)` float in units of the pixel range.
        height, width: of the picture, in pixels.
        strength: bound of the result in gray levels, at most 127.

    Returns:
        `(C, height, width)` int8 in gray levels.
    """
    side = min(height, width)
    square = torch.empty(len(delta), side, side, dtype=torch.int8)
    for channel, one in zip(square, delta, strict=True):  # one at a time to save memory
        whole = F.interpolate(one[None, None], [side, side], mode="bilinear", antialias=True)[0, 0]
        channel.copy_(whole.mul_(255).round_().clamp_(-strength, strength))
    around = [((n - side) // 2, n - side - (n - side) // 2) for n in (height, width)]
    return torch.from_numpy(np.pad(square.numpy(), [(0, 0), *around], mode="symmetric"))


def _add_noise(picture: Image.Image, delta: torch.Tensor, strength: int) -> Image.Image:
    """Add noise of at most `strength` gray levels to every channel except transparency."""
    pixels = np.array(picture)
    height, width = pixels.shape[:2]
    shaped = pixels.reshape(height, width, -1)
    gray = picture.mode in ("L", "LA")
    if gray and len(delta) == 3:
        delta = (torch.tensor(LUMA).view(3, 1, 1) * delta).sum(0, keepdim=True)
    colours = 1 if gray else 3
    levels = spread(delta, height, width, strength).expand(colours, -1, -1).numpy()
    for top in range(0, height, STRIP):
        strip = shaped[top : top + STRIP, :, :colours]
        moved = strip.astype(np.int16)
        for channel, noise in enumerate(levels[:, top : top + STRIP]):  # row by row in memory
            moved[..., channel] += noise
        strip[:] = moved.clip(0, 255, out=moved)
    return Image.fromarray(pixels, picture.mode)


# --- EXIF ----------------------------------------------------------------------------------------


def _exif_bytes(exif: Image.Exif, coded: bytes, changed: bool) -> tuple[bytes, list[str]]:
    """EXIF data for the new file, and notes.

    Previews are removed, since they show the picture without noise. If the data cannot be encoded,
    only the orientation is kept.

    Args:
        exif: the data.
        coded: the same as the original file has them; b"" if it has none.
        changed: whether `exif` was changed since it was read.
    """
    if coded and not coded.startswith(EXIF_HEADER):
        coded = EXIF_HEADER + coded  # WebP files omit the header, JPEG files need it
    try:
        as_coded = Image.Exif()
        as_coded.load(coded)
        previewed = JPEG_START in coded or bool(as_coded.get_ifd(ExifTags.IFD.IFD1))
        # Pillow also takes the orientation from XMP data, which are not written.
        same = as_coded.get(ORIENTATION) == exif.get(ORIENTATION)
        unchanged = coded and same and not (changed or previewed)
        whole = coded if unchanged else exif.tobytes()  # Pillow's encoding, without preview
        if len(whole) <= MOST_EXIF and JPEG_START not in whole:
            return whole, [NO_PREVIEW] * previewed
    except (struct.error, TypeError, ValueError, OverflowError):
        pass
    kept = Image.Exif()
    if (orientation := exif.get(ORIENTATION)) is not None:
        kept[ORIENTATION] = orientation
    return kept.tobytes(), [ONLY_ORIENTATION]


# --- file formats --------------------------------------------------------------------------------


def _png_header(file: Path) -> tuple[int, int]:
    """Bits per channel and colour type of a PNG file."""
    with file.open("rb") as opened:
        bits, colour_type = opened.read(26)[24:]
    return bits, colour_type


def _png_brightness(info: dict[str | tuple[int, int], Any]) -> PngImagePlugin.PngInfo:
    """PNG chunks for gamma and primary colours, if they are unusual and no colour profile, which
    is more exact, takes their place."""
    chunks = PngImagePlugin.PngInfo()
    if "icc_profile" in info or "srgb" in info:
        return chunks
    gamma, colours = info.get("gamma", USUAL_GAMMA), info.get("chromaticity")
    if abs(gamma - USUAL_GAMMA) > 0.001:
        chunks.add(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
        if colours is not None and len(colours) == 8:  # a malformed file may have another number
            chunks.add(b"cHRM", struct.pack(">8I", *(round(one * 100_000) for one in colours)))
    return chunks


def _jpeg_options(opened: Image.Image, job: Job) -> dict[str, Any]:
    """Options for saving as JPEG. A JPEG keeps its own tables, so that its file stays as large."""
    is_jpeg = isinstance(opened, JpegImagePlugin.JpegImageFile)
    if is_jpeg and opened.mode in ("L", "RGB") and job.quality is None:
        sampling = JpegImagePlugin.get_sampling(opened)
        known = {"subsampling": sampling} if sampling >= 0 else {}
        return {"qtables": opened.quantization, **known}  # type: ignore[attr-defined]
    # Noise in colours needs their full resolution.
    return {"quality": job.quality or DEFAULT_QUALITY, "subsampling": 0}


def _webp_options(file: Path, picture: Image.Image, job: Job) -> dict[str, Any]:
    """Options for saving as WebP the original of which `file` is the WebP file."""
    if job.quality is None and is_lossless_webp(file):
        return {"lossless": True}
    return {"quality": job.quality or _webp_quality(picture, file.stat().st_size)}


def is_lossless_webp(file: Path) -> bool:
    """Whether a WebP file stores its pixels losslessly: in a chunk named VP8L."""
    with file.open("rb") as opened:
        opened.seek(12)
        while len(head := opened.read(8)) == 8:
            if head[:4] in (b"VP8L", b"VP8 "):
                return head[:4] == b"VP8L"
            size = int.from_bytes(head[4:], "little")
            opened.seek(size + size % 2, os.SEEK_CUR)
    return False


def _webp_quality(picture: Image.Image, size: int) -> int:
    """The quality at which a picture takes about `size` bytes. WebP files do not store theirs."""

    def bytes_at(quality: int) -> int:
        picture.save(file := io.BytesIO(), "WEBP", quality=quality)
        return file.tell()

    found = bisect.bisect_left(WEBP_QUALITIES, size, key=bytes_at)
    return WEBP_QUALITIES[min(found, len(WEBP_QUALITIES) - 1)]
