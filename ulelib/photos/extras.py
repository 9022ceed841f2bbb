"""What a picture's file holds besides the picture: what of it is lost is told, and a mark."""

from __future__ import annotations

import re
from typing import Any

from PIL import Image

from ulelib.picture_files import (
    APP11,
    JPEG_START,
    PNG_START,
    Part,
    parts,
    webp_chunks,
)

# Written into every JPEG, PNG and WebP, so that a picture that is protected again is recognised.
# A BMP has no place for it; and who removes the metadata removes it, too.
MARK = "protected with ulelib"
MARK_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    f'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="{MARK}"/></rdf:RDF></x:xmpmeta>'
).encode()
EXIF_TEXT = "Raw profile type exif"  # of a PNG, as ImageMagick writes it
COLOUR_CHUNKS = (b"cICP", b"mDCV", b"cLLI")  # of a PNG: colours that need no profile, HDR
VIDEO = re.compile(rb"\0\0\0[\x08-\x60]ftyp(?:mp4|iso|qt|M4V|avc|3gp|MSNV|hvc|hev)")
PNG_HEADER_END = 33  # where the chunks after the first begin
GAIN_MAPS = (  # names in a JPEG that holds a second picture for screens with more brightness
    b"http://ns.adobe.com/hdr-gain-map/",
    b"urn:iso:std:iso:ts:21496:-1",
    b"urn:com:apple:photo:2020:aux:hdrgainmap",
)
# Notes: what is lost.
NO_TEXTS = "XMP or IPTC data, comments or texts were left out"
NO_VIDEO = "the video of this motion photo was left out"
NO_GAIN_MAP = "its gain map was left out: bright parts are no brighter on an HDR screen"
NO_CREDENTIALS = "its content credentials (C2PA) were left out"
NO_REST = "what its file holds behind the picture was left out"
NO_COLOURS = "its HDR or wide colours (cICP) were left out: it may look paler or darker"
FIRST_ONLY = "only the first of its several pictures was kept"
DAMAGED_PARTS = (
    "parts of its file that are damaged or too long were left out, and texts, comments, XMP data"
)


def lost_of(data: bytes, opened: Image.Image) -> list[str]:
    """Notes on what a file holds that no written picture keeps.

    Args:
        data: the file.
        opened: the same file, as Pillow opened it.
    """
    found = parts(data)
    notes = []
    if _has_texts(opened):
        notes.append(NO_TEXTS)
    gain_map = data.startswith(JPEG_START) and any(name in data for name in GAIN_MAPS)
    if gain_map:
        notes.append(NO_GAIN_MAP)
    if getattr(opened, "n_frames", 1) > 1 + gain_map:
        notes.append(FIRST_ONLY)
    end = found[-1].end if found and opened.format != "BMP" else len(data)
    if VIDEO.search(data, end):
        notes.append(NO_VIDEO)
    elif opened.format == "JPEG" and not gain_map and data[end:].strip(b"\0\n\r \xff"):
        notes.append(NO_REST)
    if any(map(_is_credentials, found)):
        notes.append(NO_CREDENTIALS)
    return notes


def _has_texts(opened: Image.Image) -> bool:
    """Whether the picture has texts of any kind, except for the mark."""
    texts = [text for name, text in getattr(opened, "text", {}).items() if name != EXIF_TEXT]
    texts += [opened.info.get(key) for key in ("xmp", "photoshop", "comment")]
    return any(text and text not in (MARK, MARK.encode(), MARK_XMP) for text in texts)


def _is_credentials(part: Part) -> bool:
    jpeg = part.kind == bytes([APP11]) and part.body.startswith(b"JP")
    return jpeg or part.kind in (b"caBX", b"C2PA")


def is_marked(opened: Image.Image) -> bool:
    """Whether this tool wrote the picture: its file has the mark."""
    texts = [*getattr(opened, "text", {}).values()]
    texts += [opened.info.get(key) for key in ("xmp", "comment")]
    return any(text in (MARK, MARK.encode(), MARK_XMP) for text in texts)


def mark(target: str) -> dict[str, Any]:
    """Pillow's options for saving that write the mark. A PNG gets it as a text."""
    return {"JPEG": {"comment": MARK.encode()}, "WEBP": {"xmp": MARK_XMP}}.get(target, {})


def colour_chunks(data: bytes) -> bytes:
    """The chunks of a PNG that give its colours without a profile, as they are in the file."""
    chunks = parts(data) if data.startswith(PNG_START) else []
    kept = [one for one in chunks if one.kind in COLOUR_CHUNKS and one.intact]
    return b"".join(data[one.start : one.end] for one in kept)


def is_lossless_webp(data: bytes) -> bool:
    """Whether a WebP file stores its pixels losslessly: in a chunk named VP8L, also in a frame."""
    for part in parts(data):
        inner = [*webp_chunks(part.body, 16)] if part.kind == b"ANMF" else [part]
        for one in inner:
            if one.kind in (b"VP8L", b"VP8 "):
                return one.kind == b"VP8L"
    return False
