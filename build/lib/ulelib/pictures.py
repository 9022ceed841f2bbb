"""Picture files: find them, read them as a person sees them, and write pictures.

`find` and `read_all` read a data set completely or raise one error that lists all problems.
`read_each` returns what can be read, and the problems of the rest.
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

# The only decoders used. Pillow has dozens, and its EPS decoder starts Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp"}
# Files that are often in picture folders but no pictures. All others are reported as problems.
NO_PICTURES = {".csv", ".db", ".ini", ".json", ".md", ".txt", ".xml", ".xmp", ".yaml", ".yml"}
MOST_UNEQUAL = 20  # longer side to shorter: beyond it, the middle square is too small a part
DRAFTED = 8  # a JPEG with more than this many times the wanted pixels a side is decoded smaller
MOST_PROBLEMS = 10  # listed in one error
REPORT_EVERY = 10.0  # seconds between two lines of progress
NOT_PLAIN = "has a character that some systems do not allow in names, such as : or ?: rename it"


def find(root: Path) -> list[tuple[str, list[Path]]]:
    """The pictures of each class, `root/CLASS/FILE`; classes and files in alphabetical order.

    Names that start with a dot are skipped, and so are texts (`NO_PICTURES`).

    Raises:
        ValueError: `root` is no folder or has no class, or a class has no pictures; or a file would
            be left out that may be a picture: in another format, in a subfolder, beside the
            classes, or not a plain file.
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
    _raise_for(problems, f"the pictures of {root}")
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
    """Why a file that might be a picture cannot be opened; None: it can be tried."""
    if file.suffix.lower() not in SUFFIXES:
        return "its format is not supported: if it is a picture, save it as PNG or JPEG"
    if not file.is_file():  # opening a pipe would block forever
        return "it is not a file, or a broken link"
    return None


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _raise_for(problems: list[str], what: str) -> None:
    if problems:
        rest = len(problems) - MOST_PROBLEMS
        more = f"; and {rest} more" if rest > 0 else ""
        raise ValueError(f"{what} cannot be read: {'; '.join(problems[:MOST_PROBLEMS])}{more}")


def read_all(files: Sequence[Path], size: int) -> torch.Tensor:
    """Pictures as `(N, 3, size, size)` uint8 in [0, 255], see `read`.

    Raises:
        ValueError: pictures cannot be read; names them and the reasons.
    """
    pixels, problems = read_each(files, size)
    _raise_for(sorted(problems.values()), f"{len(problems)} of {len(files)} pictures")
    return pixels


def read_each(
    files: Sequence[Path], size: int, report: Callable[[str], None] = lambda line: None
) -> tuple[torch.Tensor, dict[int, str]]:
    """Pictures that can be read, and the problems of the others.

    Args:
        files: N pictures.
        size: pixels a side, see `read`.
        report: callback, called now and then with a line of text about the progress.

    Returns:
        pixels `(N, 3, size, size)` uint8, undefined where there is a problem; and the problems by
        index.
    """
    pixels = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    problems: dict[int, str] = {}

    def read_one(index: int) -> None:
        try:
            pixels[index] = torch.from_numpy(read(files[index], size)).permute(2, 0, 1)
        except ValueError as error:
            problems[index] = str(error)

    # Set here and not in the threads: Python's warning filters belong to the whole process. Eight
    # threads at most, since each may need some hundred megabytes for a picture.
    threads = min(8, os.cpu_count() or 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        in_threads(read_one, len(files), "read", threads, report)
    return pixels, problems


def in_threads(
    work: Callable[[int], None],
    count: int,
    done: str,
    threads: int,
    report: Callable[[str], None],
) -> None:
    """Call `work` with the index of each picture, in threads: Pillow computes without the
    interpreter's lock.

    Args:
        work: called with 0, ..., `count` - 1.
        count: number of pictures.
        done: past participle of the work, for the lines of progress: "read", "written".
        threads: number of threads.
        report: callback, called now and then with a line: how many are done, and the time left.
    """
    began = reported = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        results = tqdm(pool.map(work, range(count)), "pictures", count, delay=2, disable=None)
        try:
            for number, _ in enumerate(results, 1):
                if time.monotonic() - reported >= REPORT_EVERY:
                    reported = time.monotonic()
                    left = time_left(began, number, count)
                    report(f"{number:,} of {count:,} pictures are {done}{left}")
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else it would finish the others first
            raise


def time_left(began: float, done: int, count: int) -> str:
    """The end of a line of progress: the time that the rest will take at the same speed; "" if
    everything is done.

    Args:
        began: `time.monotonic()` at the start.
        done, count: how many of how many are done.
    """
    if done == count:
        return ""
    return f", some {duration((time.monotonic() - began) * (count - done) / done)} left"


def duration(seconds: float) -> str:
    """A duration as text, e.g. "90 s" or "5 minutes"."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def read(file: Path, size: int) -> np.ndarray[Any, Any]:
    """The middle square of a picture, scaled like torchvision's Resize and CenterCrop.

    The picture is read as a person sees it: turned as its EXIF data say, transparent parts on
    white, 16-bit gray converted to 8 bits. Colour profiles are not applied. A much larger JPEG is
    partly scaled down while it is decoded, which saves most of the time; its content may then be
    shifted by an eighth of a pixel from torchvision's result.

    Returns:
        `(size, size, 3)` uint8 in [0, 255].

    Raises:
        ValueError: the file cannot be read, has several frames, is far longer than wide or larger
            than Pillow allows; names the file.
    """
    try:
        with Image.open(file, formats=FORMATS) as opened:
            width, height = opened.size
            if max(width, height) > MOST_UNEQUAL * min(width, height):
                raise ValueError(f"{width:,} x {height:,} pixels are a strip; crop it")
            # A JPEG of a phone may contain several pictures; the first is the photograph.
            if getattr(opened, "is_animated", False) and opened.format != "MPO":
                raise ValueError("it is animated: save the frame that you want to protect")
            opened.draft(None, (DRAFTED * size, DRAFTED * size))  # no effect except on JPEG
            picture = as_seen(ImageOps.exif_transpose(opened))
    except Exception as error:  # Pillow's decoders raise anything on a damaged file
        raise ValueError(f"{file.parent.name}/{file.name}: {_reason(error)}") from error
    return np.array(v2.Compose([v2.Resize(size), v2.CenterCrop(size)])(picture))


def as_seen(picture: Image.Image) -> Image.Image:
    """A picture in mode RGB, 8 bits a channel, transparent parts on white.

    Raises:
        ValueError: its pixels are fractions or have more than 16 bits; or 16-bit colours of which
            one is transparent.
    """
    if picture.mode.startswith("I"):  # 16 bits, which Pillow may store in 32
        levels = np.asarray(picture)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("more than 16 bits a pixel")
        eight = ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        if (transparent := picture.info.get("transparency")) is not None:
            eight[levels == transparent] = 255
        return Image.fromarray(eight).convert("RGB")
    if picture.mode == "F":
        raise ValueError("pixels that are fractions")
    key = picture.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # Pillow compares it with 8 bits, in vain
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
    """Write pictures as PNG files `root/NAME`. A lossy format would change the perturbation.

    Args:
        images: `(N, 3, H, W)` uint8.
        names: `CLASS/FILE.png` of each.
        root: a new or empty folder.
        report: callback, called with the number of pictures written so far.

    Raises:
        FileExistsError: the folder is not empty.
        ValueError: a name leads out of the folder, or two pictures have the same name.
        OSError: the folder cannot be written.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} is not empty: name a new folder for the pictures")
    for name in names:
        if name.is_absolute() or len(name.parts) != 2 or not all(map(_is_plain, name.parts)):
            raise ValueError(f"{str(name)!r} is not the name of a class and a picture")
    if len(set(names)) != len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two pictures would be written to {duplicate}")
    for folder in {name.parent for name in names}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(images[number].permute(1, 2, 0).contiguous().numpy()).save(root / name)
        report(number + 1)


def _is_plain(name: str) -> bool:
    """Whether a name is valid on every system and leads to no other folder."""
    return name not in ("", ".", "..") and not any(c in name for c in '/\\:\0*?"<>|')
