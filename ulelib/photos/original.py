"""A picture's file as it was: its pixels, and what else of it the written file is to keep."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, JpegImagePlugin, PngImagePlugin

from ulelib import pictures
from ulelib.photos import extras

MOST_DPI = 65_535  # pixels per inch that a JPEG can say
GRAY_ALPHA = 4  # colour type in a PNG header: one channel and transparency
USUAL_GAMMA = 0.45455  # 1/2.2 as PNG files store it; programs assume it where a file has none
# Notes: what the conversion changed.
SIXTEEN_BITS = "16 bits became 8"
FULL_COLOUR = "its palette became full colour"
GRAY_LEVELS = "black and white became gray"
ON_WHITE = "what was transparent is white"
NO_PROFILE = "its colour profile was left out"


@dataclass
class Original:
    """What the file of a picture holds.

    Attributes:
        kind: of the file: "JPEG", "PNG", "BMP" or "WEBP".
        picture: as stored, in mode L, LA, RGB or RGBA; it has no metadata and may be changed.
        orientation: how it lies, 1 to 8 as in EXIF data.
        exif: its EXIF data; b"" if it has none.
        kept: colour profile and resolution, as Pillow's options for saving.
        gamma: PNG chunks about gamma and primary colours.
        colours: PNG chunks that give the colours without a profile, as the file has them.
        tables: quality of a JPEG as Pillow's options for saving; {} of other files.
        lossless: whether a WebP is.
        size: of the file, in bytes.
        marked: whether this tool wrote it.
        notes: what of it is lost.
    """

    kind: str
    picture: Image.Image
    orientation: int
    exif: bytes
    kept: dict[str, Any]
    gamma: PngImagePlugin.PngInfo
    colours: bytes
    tables: dict[str, Any]
    lossless: bool
    size: int
    marked: bool
    notes: list[str] = field(default_factory=list)


def original_of(file: Path, opened: Image.Image, damaged: bool) -> Original:
    """What a file holds, and notes on what of it is lost.

    Args:
        file: its path.
        opened: its picture, see `pictures.decoded`; its pixels are taken over.
        damaged: whether parts of the file had to be left out.
    """
    data = file.read_bytes()
    kind = "JPEG" if opened.format == "MPO" else str(opened.format)
    orientation = pictures.orientation_of(opened)
    picture, notes = _in_plain_mode(opened)
    if kind == "PNG":
        bits, colour_type = data[24:26]
        if colour_type == GRAY_ALPHA:  # with 16 bits, Pillow opens it in colour
            picture = picture.convert("LA")
        if bits == 16 and SIXTEEN_BITS not in notes:
            notes.append(SIXTEEN_BITS)
    info = opened.info
    kept: dict[str, Any] = {key: info[key] for key in ("icc_profile", "dpi") if info.get(key)}
    if not all(0 < one < MOST_DPI for one in kept.get("dpi", ())):  # also if one is NaN
        del kept["dpi"]
    # A profile of CMYK or LAB does not describe RGB channels.
    if opened.mode in ("CMYK", "LAB") and kept.pop("icc_profile", None):
        notes.append(NO_PROFILE)
    notes += extras.lost_of(data, opened)
    if damaged:
        notes.append(extras.DAMAGED_PARTS)
    tables, marked, exif = _jpeg_tables(opened), extras.is_marked(opened), _exif_of(info)
    gamma = _gamma_of(info)
    if picture is not opened:
        opened.close()  # it is large
    picture.info = {}  # Pillow would write some of it unasked
    lossless = kind == "WEBP" and extras.is_lossless_webp(data)
    return Original(
        kind, picture, orientation, exif, kept, gamma, extras.colour_chunks(data), tables, lossless,
        len(data), marked, notes,
    )  # fmt: skip


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


def on_white(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """A picture with transparency, on white: LA as L, RGBA as RGB; with a note if any was used."""
    notes = [ON_WHITE] if any(picture.getchannel("A").histogram()[:255]) else []
    seen = pictures.as_seen(picture)
    return seen if picture.mode == "RGBA" else seen.convert("L"), notes


def _exif_of(info: dict[Any, Any]) -> bytes:
    """EXIF data as the file has them. ImageMagick writes them into a PNG's text."""
    if coded := info.get("exif"):
        return bytes(coded)
    try:
        return bytes.fromhex("".join(info[extras.EXIF_TEXT].split("\n")[3:]))
    except (KeyError, AttributeError, ValueError):
        return b""


def _gamma_of(info: dict[Any, Any]) -> PngImagePlugin.PngInfo:
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


def _jpeg_tables(opened: Image.Image) -> dict[str, Any]:
    """A JPEG's own tables, with which a new file stays as large."""
    if not isinstance(opened, JpegImagePlugin.JpegImageFile) or opened.mode not in ("L", "RGB"):
        return {}
    sampling = JpegImagePlugin.get_sampling(opened)
    return {"qtables": opened.quantization} | ({"subsampling": sampling} if sampling >= 0 else {})
