"""Picture files: find them, read them as a person sees them, and write pictures.

`find` and `read_all` read a data set completely or raise one error that lists all problems.
`read_each` returns what can be read, and the problems of the rest.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2
from tqdm import tqdm

from ulelib import budget, picture_files

T = TypeVar("T")
# The only decoders used. Pillow has dozens, and its EPS decoder starts Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp"}
# Files that are often in picture folders but no pictures. All others are reported as problems.
NO_PICTURES = {".csv", ".db", ".ini", ".json", ".md", ".txt", ".xml", ".xmp", ".yaml", ".yml"}
# Folders that a NAS, a system or a program makes: thumbnails, deleted files, parts of archives. The
# pictures in them are copies of others, or were thrown away. In lower case.
SYSTEM_FOLDERS = {
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", ".@__thumb",
    ".thumbnails", ".thumbs", ".trash", ".trashes", "$recycle.bin", "recycler",
    "system volume information", "lost+found", "__macosx",
}  # fmt: skip
NOT_YOURS = "a folder of thumbnails or deleted files that a NAS, a system or a program made"
MOST_UNEQUAL = 20  # longer side to shorter: beyond it, the middle square is too small a part
DRAFTED = 8  # a JPEG with more than this many times the wanted pixels a side is decoded smaller
MOST_PROBLEMS = 10  # listed in one error
MOST_HEADER = 1 << 20  # bytes in which a file's header lies
MOST_BYTES = 1 << 30  # of a file that is read at once
MOST_THREADS = 8  # `budget.PICTURES` may let fewer pictures be open at a time
STRIP = 256  # rows of a picture that are converted at once
ORIENTATION = 0x0112  # EXIF tag: how the camera was held
UPRIGHT = {  # what turns a stored picture upright, by orientation
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
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
        if is_system_folder(entry.name) and entry.is_dir():
            problems.append(f"{entry.name} is {NOT_YOURS}: remove it")
        elif not _is_plain(entry.name):
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
            system = f"{NOT_YOURS}: remove it"
            nested = "a folder in a class: move its pictures up, or it away"
            problems.append(f"{name} is {system if is_system_folder(entry.name) else nested}")
        elif entry.suffix.lower() in NO_PICTURES:
            continue
        elif wrong := unreadable(entry):
            problems.append(f"{name}: {wrong}")
        else:
            found.append(entry)
    if not found and not any(problem.startswith(f"{folder.name}/") for problem in problems):
        problems.append(f"the class {folder.name} holds no pictures: remove it or fill it")
    return found


def is_system_folder(name: str) -> bool:
    """Whether a folder of this name is made by a NAS, a system or a program, not by a person."""
    return name.lower() in SYSTEM_FOLDERS or name.lower().startswith(".trash-")


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

    # Set here and not in the threads: Python's warning filters belong to the whole process.
    with quiet():
        in_threads(read_one, len(files), "read", report)
    return pixels, problems


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it, Pillow does not print warnings about damaged metadata, and refuses giant
    pictures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def in_threads(
    work: Callable[[int], None],
    count: int,
    done: str,
    report: Callable[[str], None],
) -> None:
    """Call `work` with the index of each picture, in threads: Pillow computes without the
    interpreter's lock.

    Args:
        work: called with 0, ..., `count` - 1.
        count: number of pictures.
        done: past participle of the work, for the lines of progress: "read", "written".
        report: callback, called now and then with a line: how many are done, and the time left.
    """
    began = reported = time.monotonic()
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
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


class NotUsable(ValueError):
    """A picture that can be decoded, but not used."""


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
        with decoded(file, DRAFTED * size) as (stored, _):
            picture = upright(as_seen(stored), orientation_of(stored))
            return np.array(v2.Compose([v2.Resize(size), v2.CenterCrop(size)])(picture))
    except Exception as error:  # Pillow's decoders raise anything on a damaged file
        raise ValueError(f"{file.parent.name}/{file.name}: {_reason(error, file)}") from error


@contextlib.contextmanager
def decoded(file: Path, enough: int | None) -> Iterator[tuple[Image.Image, bool]]:
    """A picture as it is stored in its file, while its memory is reserved.

    If Pillow refuses a file, its texts and other parts that the pixels do not need are left out.

    Args:
        enough: pixels a side; a JPEG that has far more is scaled down while it is decoded. None:
            the whole picture is needed, and a protected copy of it is written.

    Yields:
        the picture, which is closed at the end; and whether parts of the file had to be left out.

    Raises:
        NotUsable: it has several frames, or is far longer than wide.
        Exception: Pillow cannot read it; any of its own.
    """

    def load(source: Path | io.BytesIO) -> tuple[Image.Image, bool, contextlib.ExitStack]:
        with contextlib.ExitStack() as held:
            picture = _decode(source, enough, held)
            if isinstance(source, io.BytesIO) and (exif := picture_files.exif_of(_whole(file))):
                picture.info.setdefault("exif", _with_header(exif))
            return picture, source is not file, held.pop_all()

    picture, damaged, held = _first(file, load)
    with held:
        try:
            yield picture, damaged
        finally:
            picture.close()  # before others get its memory


def size_of(file: Path) -> tuple[int, int]:
    """Width and height of a picture as it is stored, from its header.

    Raises:
        Exception: Pillow cannot read it; any of its own.
    """

    def measure(source: Path | io.BytesIO) -> tuple[int, int]:
        with quiet(), Image.open(source, formats=FORMATS) as opened:
            return opened.size

    return _first(file, measure)


def _first(file: Path, work: Callable[[Path | io.BytesIO], T]) -> T:
    """What `work` makes of a file or, if it fails, of a copy without parts that may be damaged.

    Raises:
        NotUsable: `work` says so of any of them.
        Exception: it fails on all; the error of the file itself.
    """
    failed: Exception | None = None
    for source in _sources(file):
        try:
            return work(source)
        except (NotUsable, *BOMBS):
            raise
        except Exception as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _sources(file: Path) -> Iterator[Path | io.BytesIO]:
    """A file; then copies of it without parts that may be damaged."""
    yield file
    for also_shown in (True, False):
        if bare := picture_files.without_extras(_whole(file), also_shown):
            yield io.BytesIO(bare)


def _whole(file: Path) -> bytes:
    """The content of a file; b"" if it is longer than any picture that is read."""
    return file.read_bytes() if file.stat().st_size < MOST_BYTES else b""


def _with_header(exif: bytes) -> bytes:
    header = picture_files.EXIF_HEADER
    return exif if exif.startswith(header) else header + exif


def _decode(
    source: Path | io.BytesIO, enough: int | None, held: contextlib.ExitStack
) -> Image.Image:
    with Image.open(source, formats=FORMATS) as opened:
        width, height = opened.size
        if max(width, height) > MOST_UNEQUAL * min(width, height):
            raise NotUsable(f"{width:,} x {height:,} pixels are a strip; crop it")
        # A JPEG of a phone may contain several pictures; the first is the photograph.
        if getattr(opened, "is_animated", False) and opened.format != "MPO":
            raise NotUsable("it is animated: save the frame that you want to protect")
        if enough is not None:
            opened.draft(None, (enough, enough))  # no effect except on JPEG
        size = source.stat().st_size if isinstance(source, Path) else len(source.getbuffer())
        pixels = opened.width * opened.height
        needed = budget.needed(opened.format, pixels, size, writing=enough is None)
        held.enter_context(budget.PICTURES.reserve(needed))
        opened.load()
    if opened.format == "BMP" and opened.mode == "RGBA" and not opened.getchannel("A").getbbox():
        opaque: Image.Image = opened.convert("RGB")  # a BMP's fourth channel is often unused
        opaque.format = "BMP"
        return opaque
    return opened


def orientation_of(picture: Image.Image) -> int:
    """How the camera was held, 1 to 8 as in EXIF data, which XMP data may replace."""
    try:
        found = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data raise anything
        return 1
    return found if isinstance(found, int) and found in UPRIGHT else 1


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """A picture as it is stored, turned as a person sees it."""
    turn = UPRIGHT[orientation]
    return picture if turn is None else picture.transpose(turn)


def as_seen(picture: Image.Image) -> Image.Image:
    """A picture in mode RGB, 8 bits a channel, transparent parts on white; perhaps the same object.

    Raises:
        ValueError: its pixels are fractions or have more than 16 bits; or 16-bit colours of which
            one is transparent.
    """
    picture.load()
    if picture.mode == "F":
        raise NotUsable("pixels that are fractions")
    key = picture.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # Pillow compares it with 8 bits, in vain
        raise NotUsable("16-bit colours of which one is transparent: save it with 8 bits")
    if not (picture.mode.startswith("I") or picture.has_transparency_data):
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    flat = Image.new("RGB", picture.size)
    for top in range(0, picture.height, STRIP):  # a strip at a time to save memory
        box = (0, top, picture.width, min(top + STRIP, picture.height))
        flat.paste(_strip_as_seen(picture.crop(box)), box)
    return flat


def _strip_as_seen(strip: Image.Image) -> Image.Image:
    """Part of a picture with 16 bits or transparency, in mode RGB."""
    if strip.mode.startswith("I"):  # 16 bits, which Pillow may store in 32
        levels = np.asarray(strip)
        if levels.min() < 0 or levels.max() > 65535:
            raise NotUsable("more than 16 bits a pixel")
        eight = ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        if (transparent := strip.info.get("transparency")) is not None:
            eight[levels == transparent] = 255
        return Image.fromarray(eight).convert("RGB")
    strip = strip.convert("RGBA")
    white = Image.new("RGBA", strip.size, "white")
    return Image.alpha_composite(white, strip).convert("RGB")


def _reason(error: Exception, file: Path) -> str:
    """Why a file could not be read, as a person can understand it."""
    if isinstance(error, Image.UnidentifiedImageError):
        with file.open("rb") as opened:
            known = picture_files.unsupported(opened.read(MOST_HEADER))
        return known or f"it is not a picture in one of the formats {', '.join(FORMATS)}"
    if isinstance(error, BOMBS):
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
