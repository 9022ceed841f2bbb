"""Pictures of anybody's: found, read as a person expects or refused by name, and written back.

A data set is read whole or not at all (`find`, `read_all`): every problem is an error, and all of
them are told at once. `read_each` tells them beside what can be read, for who protects the rest.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2
from tqdm import tqdm

# The only decoders that are tried. Pillow has dozens, and its EPS one starts Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp"}
# What lies about in picture folders and is none. Everything else is told, since it may be one.
NO_PICTURES = {".csv", ".db", ".ini", ".json", ".md", ".txt", ".xml", ".xmp", ".yaml", ".yml"}
MOST_UNEQUAL = 20  # longer side to shorter: beyond it, the middle square says nothing
DRAFTED = 8  # a JPEG of more than so many times the pixels that are wanted is decoded smaller
TOLD = 10  # problems told in one error
TELL_EACH = 10.0  # seconds after which it is told how many pictures are done
NOT_PLAIN = "has a character that no name may have on some systems, such as : or ?: rename it"


def find(root: Path) -> list[tuple[str, list[Path]]]:
    """The pictures of each class, `root/CLASS/FILE`, both in alphabetical order.

    Names that start with a dot are left out, and so are texts (`NO_PICTURES`).

    Raises:
        ValueError: no folder, no class, a class without pictures; or pictures that would be left
            out: in another format, in a subfolder, beside the classes; or what is no plain file.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    problems: list[str] = []
    classes = []
    for entry in _visible(root):
        if not _is_plain(entry.name):
            problems.append(f"{entry.name!r} {NOT_PLAIN}")
        elif entry.is_dir():
            classes.append((entry.name, _members(entry, problems)))
        elif entry.suffix.lower() not in NO_PICTURES:
            problems.append(f"{entry.name} lies beside the class folders: move it into one")
    _tell(problems, f"the pictures of {root}")
    if not classes:
        raise ValueError(f"{root} holds no classes: expected one folder of pictures for each")
    return classes


def _members(folder: Path, problems: list[str]) -> list[Path]:
    found = []
    for entry in _visible(folder):
        name = f"{folder.name}/{entry.name}"
        if not _is_plain(entry.name):
            problems.append(f"{name!r} {NOT_PLAIN}")
        elif entry.is_dir():
            problems.append(f"{name} is a folder in a class: move its pictures up, or it away")
        elif entry.suffix.lower() in NO_PICTURES:
            continue
        elif wrong := unreadable(entry):
            problems.append(f"{name}: {wrong}")
        else:
            found.append(entry)
    if not found and not any(problem.startswith(f"{folder.name}/") for problem in problems):
        problems.append(f"the class {folder.name} holds no pictures: remove it or fill it")
    return found


def unreadable(file: Path) -> str | None:
    """What is wrong with a file that might be a picture, before it is opened; None: nothing."""
    if file.suffix.lower() not in SUFFIXES:
        return "it has no format that is read: if it is a picture, save it as PNG or JPEG"
    if not file.is_file():  # a pipe would be waited for without end
        return "it is no file, or a link to none"
    return None


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _tell(problems: list[str], what: str) -> None:
    if problems:
        more = f"; and {len(problems) - TOLD} more" if len(problems) > TOLD else ""
        raise ValueError(f"{what} cannot be read: {'; '.join(problems[:TOLD])}{more}")


def read_all(files: Sequence[Path], size: int) -> torch.Tensor:
    """Pictures as `(N, 3, size, size)` uint8, see `read`.

    Raises:
        ValueError: names every picture that cannot be read, and why.
    """
    pixels, problems = read_each(files, size)
    _tell(sorted(problems.values()), f"{len(problems)} of {len(files)} pictures")
    return pixels


def read_each(
    files: Sequence[Path], size: int, report: Callable[[str], None] = lambda line: None
) -> tuple[torch.Tensor, dict[int, str]]:
    """The same, and what is wrong with those that cannot be read, by their places.

    Args:
        report: is told now and then how many have been read.

    Returns:
        pixels `(N, 3, size, size)` uint8, undefined where there is a problem; and the problems.
    """
    pixels = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    problems: dict[int, str] = {}

    def one(place: int) -> None:
        try:
            pixels[place] = torch.from_numpy(read(files[place], size)).permute(2, 0, 1)
        except ValueError as error:
            problems[place] = str(error)

    # Around the threads and not in them: Python's warning filters belong to the whole process.
    # Eight at most: each may hold a picture of some hundred megabytes.
    threads = min(8, os.cpu_count() or 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        in_threads(one, len(files), "read", threads, report)
    return pixels, problems


def in_threads(
    work: Callable[[int], None],
    count: int,
    done: str,
    threads: int,
    report: Callable[[str], None],
) -> None:
    """Call `work` with the place of each picture, some at once: Pillow computes without the
    interpreter's lock.

    Args:
        done: what a picture then is, in a word.
        report: is told now and then how many are done, and how long the others will take.
    """
    began = told = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        places = tqdm(pool.map(work, range(count)), "pictures", count, delay=2, disable=None)
        try:
            for number, _ in enumerate(places, 1):
                if time.monotonic() - told >= TELL_EACH:
                    told = time.monotonic()
                    left = time_left(began, number, count)
                    report(f"{number:,} of {count:,} pictures are {done}{left}")
        except BaseException:
            pool.shutdown(cancel_futures=True)  # the others would be done first
            raise


def time_left(began: float, done: int, count: int) -> str:
    """The end of a line that tells how far something is: how long it will still take, if the rest
    takes as long as what is done; "" where all is.

    Args:
        began: when, of `time.monotonic`.
    """
    if done == count:
        return ""
    return f", some {duration((time.monotonic() - began) * (count - done) / done)} left"


def duration(seconds: float) -> str:
    """A time in words."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def read(file: Path, size: int) -> np.ndarray[Any, Any]:
    """A picture's middle square, `(size, size, 3)` uint8: torchvision's Resize and CenterCrop.

    As a person sees it: turned as its EXIF data say, what is transparent shown on white, 16-bit
    gray brought to 8 bits. Colour profiles are not applied. A JPEG that is much larger is scaled
    down in part while it is decoded, which saves most of the time; what it shows may then lie an
    eighth of a pixel beside where torchvision would have it.

    Raises:
        ValueError: it cannot be read, has several frames, or has a shape or size that is no
            picture's; names the file.
    """
    try:
        with Image.open(file, formats=FORMATS) as opened:
            width, height = opened.size
            if max(width, height) > MOST_UNEQUAL * min(width, height):
                raise ValueError(f"{width:,} x {height:,} pixels are a strip; crop it")
            # A JPEG of a phone may hold several pictures, the first of which is the one to see.
            if getattr(opened, "is_animated", False) and opened.format != "MPO":
                raise ValueError("it is animated: save the frame that you want to protect")
            opened.draft(None, (DRAFTED * size, DRAFTED * size))  # of a JPEG alone
            picture = as_seen(ImageOps.exif_transpose(opened))
    except Exception as error:  # a damaged file can raise anything in one of Pillow's decoders
        raise ValueError(f"{file.parent.name}/{file.name}: {_reason(error)}") from error
    return np.array(v2.Compose([v2.Resize(size), v2.CenterCrop(size)])(picture))


def as_seen(picture: Image.Image) -> Image.Image:
    """RGB, 8 bits a channel."""
    if picture.mode.startswith("I"):  # 16 bits, also where Pillow keeps them in 32
        levels = np.asarray(picture)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("more than 16 bits a pixel")
        eight = ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        if (unseen := picture.info.get("transparency")) is not None:
            eight[levels == unseen] = 255
        return Image.fromarray(eight).convert("RGB")
    if picture.mode == "F":
        raise ValueError("pixels that are fractions")
    key = picture.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # Pillow compares 8 bits with it, in vain
        raise ValueError("16-bit colours of which one is transparent: save it with 8 bits")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"it is not a picture in one of the formats {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        most = Image.MAX_IMAGE_PIXELS or 0
        return f"it has more than {most:,} pixels, as a decompression bomb would: scale it down"
    return str(error) or type(error).__name__


def write_all(
    images: torch.Tensor, names: Sequence[Path], root: Path, report: Callable[[int], None]
) -> None:
    """Write `(N, 3, H, W)` uint8 as PNG files `root/NAME`, which must not leave `root`.

    PNG, because a lossy format would change what a perturbation depends on.

    Raises:
        FileExistsError: the folder is there and not empty.
        ValueError: a name that leads out of the folder, or that two pictures have.
        OSError: it cannot be written.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} is not empty: name a new folder for the pictures")
    for name in names:
        if name.is_absolute() or len(name.parts) != 2 or not all(map(_is_plain, name.parts)):
            raise ValueError(f"{str(name)!r} is not the name of a class and a picture")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two pictures would be written to {twice}")
    for folder in {name.parent for name in names}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(images[number].permute(1, 2, 0).contiguous().numpy()).save(root / name)
        report(number + 1)


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file or folder on any system, and leads nowhere else."""
    return name not in ("", ".", "..") and not any(c in name for c in '/\\:\0*?"<>|')
