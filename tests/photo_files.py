"""Picture files of every kind, for the tests of `ulelib.photos`."""

from __future__ import annotations

import datetime
import hashlib
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from PIL import Image, ImageCms

from ulelib.photos.job import Job

QUICK = Job(method="CSD", size=16, strength=8)
DELTA = (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 8 / 255
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PROTECTABLE = 19  # pictures of `mixed_folder`, 8 PNG and 11 of other kinds
GRAY = {"deep.png", "scan.png", "gray.jpeg", "smoke.png"}  # are not protected with `QUICK`
LEFT_OUT = {
    "broken.jpg", "empty.png", "tiny.png", "strip.png", "moves.webp", "moves.gif", "stray.png",
}  # fmt: skip


def picture(size: tuple[int, int] = (40, 30), mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A smooth picture whose levels are so far from 0 and 255 that noise is not clipped."""
    width, height = size
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 190, (4, 5, 4), dtype=np.uint8), "RGBA")
    return coarse.resize((width, height), Image.Resampling.BILINEAR).convert(mode)


def half_flat(size: tuple[int, int] = (61, 47), mode: str = "RGB") -> Image.Image:
    """A picture that is flat at its left and rough at its right."""
    width, height = size
    pixels = np.full((height, width, 3), 120, np.uint8)
    rough = np.random.default_rng(0).integers(60, 180, (height, width - width // 2, 3))
    pixels[:, width // 2 :] = rough
    return Image.fromarray(pixels).convert(mode)


def tagged(orientation: int) -> Image.Exif:
    """EXIF data with an orientation, a camera and a place."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "A camera"
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 0.0)}
    return exif


def levels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.array(image).astype(int)


def saved(image: Image.Image, folder: Path, name: str, **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def save_each(folder: Path, names: list[str]) -> None:
    """Save a different picture under each name."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed=seed).save(folder / name)


def mixed_folder(root: Path) -> Path:
    """Make two classes with pictures of every kind, and files that cannot be protected."""
    for label in ("Änne and Bo", "others"):
        save_each(root / label, [f"{number}.png" for number in range(4)])
    a = root / "Änne and Bo"
    picture().save(a / "phöto 1.JPG", "JPEG", exif=tagged(6), icc_profile=PROFILE, quality=80)
    picture(mode="L").save(a / "gray.jpeg", "JPEG")
    picture(mode="CMYK").save(a / "print.jpg", "JPEG")
    picture(mode="RGBA").save(a / "glass.png")
    picture(mode="LA").save(a / "smoke.png")
    picture().quantize(16).save(a / "palette.png")
    picture(mode="1").save(a / "scan.png")
    deep = (levels(picture(mode="L")) * 257).astype(np.uint16)
    Image.fromarray(deep).save(a / "deep.png")
    picture().save(a / "web.webp", lossless=True)
    picture().save(a / "old.bmp")
    (a / "summer").mkdir()
    picture(size=(300, 20)).save(a / "summer" / "wide.png")
    (a / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (a / "empty.png").write_bytes(b"")
    picture((8, 8)).save(a / "tiny.png")
    picture((900, 20)).save(a / "strip.png")
    frames = [picture(seed=seed) for seed in range(2)]
    frames[0].save(a / "moves.webp", save_all=True, append_images=frames[1:])
    frames[0].save(a / "moves.gif", save_all=True, append_images=frames[1:])
    (a / "notes.txt").write_text("no picture")
    (root / "stray.png").write_bytes((a / "0.png").read_bytes())
    return root


def contents(root: Path) -> dict[str, str]:
    """The digest of each file in a folder, by name."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def file_names(folder: Path) -> set[str]:
    return set(contents(folder))


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip file with these names and contents."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return file.getvalue()


def uploaded(name: str, content: bytes) -> dict[str, Any]:
    """A file in the value of `ipywidgets.FileUpload`."""
    return {"name": name, "type": "", "size": len(content), "content": content,
            "last_modified": datetime.datetime.now(datetime.UTC)}  # fmt: skip


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc32(kind + body))


def with_chunk(file: Path, new: bytes) -> Path:
    """Insert a chunk into a PNG file, behind its header."""
    content = file.read_bytes()
    file.write_bytes(content[:33] + new + content[33:])
    return file


def four_channel_bmp(file: Path, alpha: Callable[[int, int], int]) -> Image.Image:
    """Save a BMP with a fourth channel, by row and column, and return its colours."""
    colours = picture()
    width, height = colours.size
    pixels = np.array(colours)[::-1, :, ::-1]  # rows from the bottom up, blue first
    fourth = np.array([[alpha(row, column) for column in range(width)] for row in range(height)])
    body = np.dstack([pixels, fourth[::-1]]).astype(np.uint8).tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(body), 2835, 2835, 0, 0)
    head += masks + b"BGRs" + bytes(48)
    size = 14 + len(head) + len(body)
    file.write_bytes(b"BM" + struct.pack("<IHHI", size, 0, 0, 14 + len(head)) + head + body)
    return colours
