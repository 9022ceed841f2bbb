"""The files of pictures as bytes: their parts, what they are if Pillow cannot read them, and a copy
without the parts that the pixels do not need.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

PNG_START, JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
EXIF_HEADER = b"Exif\0\0"
MOST_TEXT = 1 << 20  # bytes: Pillow refuses a PNG with a longer text
# PNG chunks that decide on the pixels; and those that tell how to show them.
PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}
PNG_SHOWN = {b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"eXIf", b"cICP", b"mDCV", b"cLLI"}
XMP_TEXT = b"XML:com.adobe.xmp\0\0"  # begins an uncompressed PNG text
SOI, EOI, SOS, COM, APP1, APP11 = 0xD8, 0xD9, 0xDA, 0xFE, 0xE1, 0xEB  # JPEG markers
SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a JPEG's size and precision
ALONE = {0x01, SOI, *range(0xD0, 0xD8)}  # markers without a body
IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # the marker that ends a scan


class Part(NamedTuple):
    """A chunk of a PNG or WebP, or a segment of a JPEG.

    Attributes:
        kind: name of the chunk, or the marker as one byte.
        start, end: where the whole part lies in the file.
        body: its content; of a scan of a JPEG, only the header.
        intact: whether its checksum is right; PNG's image data are not tested.
    """

    kind: bytes
    start: int
    end: int
    body: bytes
    intact: bool = True


def parts(data: bytes) -> list[Part]:
    """The parts of a PNG, JPEG or WebP, as far as they can be followed; [] of other files."""
    if data.startswith(PNG_START):
        return [*_png_chunks(data)]
    if data.startswith(JPEG_START):
        return [*jpeg_segments(data)]
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return [*webp_chunks(data, 12)]
    return []


def _png_chunks(data: bytes) -> Iterator[Part]:
    at = len(PNG_START)
    while at + 12 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + size
        if end > len(data):
            return
        body, intact = b"", True
        if kind != b"IDAT":
            body = data[at + 8 : end - 4]
            intact = zlib.crc32(body, zlib.crc32(kind)) == int.from_bytes(data[end - 4 : end])
        yield Part(kind, at, end, body, intact)
        if kind == b"IEND":
            return
        at = end


def jpeg_segments(data: bytes | bytearray, at: int = 0) -> Iterator[Part]:
    """The segments of the JPEG that begins at `at`, up to its end; a scan is one segment."""
    yield Part(bytes([SOI]), at, at + 2, b"")
    at += 2
    while at + 2 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        kind = bytes([marker])
        if marker == EOI or marker in ALONE:
            yield Part(kind, at, at + 2, b"")
            if marker == EOI:
                return
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end < at + 4 or end > len(data):
            return
        body = bytes(data[at + 4 : end])
        if marker == SOS:
            found = IN_SCAN.search(data, end)
            end = found.start() if found else len(data)
        yield Part(kind, at, end, body)
        at = end


def webp_chunks(data: bytes, at: int) -> Iterator[Part]:
    """The chunks of a WebP from `at` on."""
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        yield Part(data[at : at + 4], at, min(end, len(data)), data[at + 8 : at + 8 + size])
        at = end


def without_extras(data: bytes, also_shown: bool) -> bytes | None:
    """A copy of a PNG or JPEG without texts and other parts that the pixels do not need.

    Args:
        also_shown: whether to keep what tells how to show the picture, if it is intact: colour
            profile, resolution, EXIF data.

    Returns:
        the copy; None: there is nothing to leave out, or the format is another.
    """
    found = parts(data)
    if data.startswith(PNG_START):
        kept = [part for part in found if _png_needs(part, also_shown)]
        start, tail = PNG_START, b""
    elif data.startswith(JPEG_START):
        kept = [part for part in found if _jpeg_needs(part, also_shown)]
        start, tail = b"", data[found[-1].end :]
    else:
        return None
    if len(kept) == len(found):
        return None
    return b"".join([start, *(data[part.start : part.end] for part in kept), tail])


def _png_needs(part: Part, also_shown: bool) -> bool:
    if part.kind in PNG_PIXELS:
        return True
    shown = part.kind in PNG_SHOWN or part.body.startswith(XMP_TEXT)
    return also_shown and shown and part.intact and len(part.body) < MOST_TEXT


def _jpeg_needs(part: Part, also_shown: bool) -> bool:
    marker = part.kind[0]
    if not (0xE0 <= marker <= 0xEF or marker == COM):
        return True
    shown = part.body.startswith((EXIF_HEADER, b"ICC_PROFILE\0", b"http://ns.adobe.com/xap/1.0/"))
    return part.body.startswith((b"JFIF\0", b"Adobe")) or (also_shown and shown)


def exif_of(data: bytes) -> bytes:
    """The EXIF data of a PNG or JPEG as its file has them; b"" if there are none."""
    for part in parts(data):
        in_jpeg = part.kind == bytes([APP1]) and part.body.startswith(EXIF_HEADER)
        if in_jpeg or (part.kind == b"eXIf" and part.intact):
            return part.body
    return b""


# --- what Pillow cannot read ---------------------------------------------------------------------

SAVE_AS = "save it as PNG, or as JPEG with 8 bits"
OTHERS = {  # what files begin with that are often called .jpg or .png, and what they are
    b"GIF8": "a GIF",
    b"II*\0": "a TIFF or a camera's raw file",
    b"MM\0*": "a TIFF or a camera's raw file",
    b"\xff\x0a": "a JPEG XL",
    b"\0\0\0\x0cJXL ": "a JPEG XL",
    b"\0\0\0\x0cjP  ": "a JPEG 2000",
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF",
    b"<html": "a web page",
    b"<!DOC": "a web page",
}
BRANDS = {b"heic": "a HEIC", b"heix": "a HEIC", b"mif1": "a HEIC or AVIF", b"avif": "an AVIF"}


def unsupported(data: bytes) -> str | None:
    """What a file is that Pillow or `pictures.FORMATS` cannot read, and what to do; None: unknown.

    Args:
        data: the file, or as much of it as holds the header.
    """
    if not data:
        return "it is empty and not a picture"
    kind = next((name for start, name in OTHERS.items() if data.startswith(start)), None)
    if data[4:8] == b"ftyp":
        kind = BRANDS.get(data[8:12], "a video, or a picture in a video's format")
    if kind:
        return f"it is {kind}, whatever its name says: save it as PNG or JPEG"
    if data.startswith(JPEG_START):
        for part in jpeg_segments(data):
            if part.kind[0] in SIZES and part.body:
                if part.body[0] != 8:
                    bits = part.body[0]
                    return f"it is a JPEG with {bits} bits a colour, where 8 are usual: {SAVE_AS}"
                if part.kind[0] in (0xC3, 0xC7, 0xCB, 0xCF):
                    return f"it is a lossless JPEG of a rare kind: {SAVE_AS}"
    return None
