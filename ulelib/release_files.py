"""Files in which authors publish poisons: read without running anything that stands in them.

    folder or zip of PNG    0.png, 00001.png, ...; also in one folder a class
    .npy                    pictures or noise
    .npz                    `data`, and perhaps `targets`
    .pt, .pth               a tensor, or a dictionary with `data` and perhaps `labels`

Nothing is unpickled: numpy reads with `allow_pickle=False`, torch with `weights_only=True` and only
where the file names nothing but tensors. Pickles are refused. What a header declares is compared
with what is expected before memory is asked for.
"""

from __future__ import annotations

import errno
import io
import itertools
import math
import pickletools
import re
import stat
import tokenize
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image

from ulelib import pictures
from ulelib.cifar import ZIP_ERRORS

DATA = ("data", "images", "x_train", "noise", "delta", "perturbation")  # names of the array
LABELS = ("targets", "labels", "y_train")  # and of its labels
PICKLES = {".pkl", ".pickle", ".p", ".joblib"}
NPY, ZIP, PICKLED = b"\x93NUMPY", b"PK\x03\x04", b"\x80"
MOST_PNG = 1 << 20  # bytes of one picture's file
MOST_PICKLE = 1 << 22  # bytes of the part of a .pt file that says what its tensors are
MOST_CONTENTS = 1 << 25  # bytes of a zip file's table of contents
MOST_BYTES = 8  # of a value
AT_ONCE = 1 << 24  # bytes read at a time
END, END_64, LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"  # of a zip file
MOST_COMMENT = 1 << 16
# What may stand in a .pt file, and a file of tensors alone needs no more.
TENSORS = re.compile(
    r"collections OrderedDict|torch Size|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (Float|Double|Half|BFloat16|Byte|Char|Short|Int|Long)Storage"
)
PARTS = re.compile(
    r"[^/]+/(data\.pkl|data/\d+|byteorder|version|\.data/serialization_id|\.format_version"
    r"|\.storage_alignment)"
)
# What numpy, zipfile and torch raise of a damaged file.
DAMAGE = (
    ValueError, TypeError, KeyError, IndexError, EOFError, MemoryError, OverflowError,
    RecursionError, tokenize.TokenError, *ZIP_ERRORS,
)  # fmt: skip
INDEX = re.compile(r"(?<!\d)\d{1,7}$")
SAVE = "np.savez(FILE, data=..., targets=...) of pictures as uint8, or np.save(FILE, noise)"
UNPICKLED = (
    "a pickle runs whatever code stands in it, so it was not opened. If you trust it, open it "
    f"yourself and save what it holds: {SAVE}"
)


class Wanted(NamedTuple):
    """What a file is expected to hold.

    Attributes:
        counts: possible numbers of pictures or noises.
        size: their height and width.
    """

    counts: tuple[int, ...]
    size: tuple[int, int]

    def __str__(self) -> str:
        counts = " or ".join(f"{count:,}" for count in self.counts)
        return f"{counts} rows of 3x{self.size[0]}x{self.size[1]}"


@dataclass(frozen=True, eq=False)
class Content:
    """What a file holds, as it stands there.

    Attributes:
        values: `(N, 3, H, W)` numbers of any kind; may be mapped from the disk.
        labels: `(N,)` int64; None: the file has none.
        form: the format, in words.
        ordered: whether the rows have an order; pictures that are numbered class by class do not.
    """

    values: torch.Tensor
    labels: torch.Tensor | None
    form: str
    ordered: bool = True


def read(path: Path, wanted: Wanted) -> Content:
    """What an author's file holds; fit for a stranger's file, which can run no code.

    Raises:
        ValueError: it is in no such format, or a pickle, damaged, or holds something else; names
            the file and what was expected.
        OSError: there is no such file, or it cannot be opened.
    """
    path = Path(path).expanduser()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return _reader_of(path)(path, wanted)
    except (OSError, *DAMAGE) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # of a place in a zip file
            raise
        said = f"{str(error) or type(error).__name__:.600}"
        raise ValueError(f"{path.name} cannot be taken: {said}") from error


def _reader_of(path: Path) -> Callable[[Path, Wanted], Content]:
    if path.is_dir():
        return _read_folder
    if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe is to wait without end
        raise ValueError("it is no file and no folder")
    with path.open("rb") as file:
        start = file.read(len(NPY))
    if start.startswith(NPY):
        return _read_npy
    if start.startswith(ZIP):
        return _read_zip
    if path.suffix.lower() in PICKLES or start.startswith(PICKLED):
        raise ValueError(UNPICKLED)
    raise ValueError(
        "it is neither a folder or zip of PNG files, nor .npy, .npz, or a .pt of torch 1.6 or "
        f"later; save it as one of them: {SAVE}"
    )


# --- numpy ---------------------------------------------------------------------------------------


def _read_npy(path: Path, wanted: Wanted) -> Content:
    with path.open("rb") as file:
        values = _array(file, wanted, path.stat().st_size)
    return Content(_rows(values, wanted), None, f"npy, {values.dtype}")


def _read_zip(path: Path, wanted: Wanted) -> Content:
    """A zip file by what it contains: arrays, a torch file, or pictures."""
    with path.open("rb") as file:
        _check_contents(file, path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        names = [one.filename for one in archive.infolist() if not one.is_dir()]
        if any(name.endswith("data.pkl") for name in names):
            return _read_torch(path, archive, wanted)
        if any(name.endswith(".npy") for name in names):
            return _read_npz(archive, wanted)
        names = [name for name in names if _is_picture(name)]

        def content_of(number: int) -> bytes:
            with archive.open(names[number]) as member:
                return member.read(MOST_PNG + 1)

        return _read_pictures(names, content_of, wanted, "zip of PNG files")


def _check_contents(file: BinaryIO, size: int) -> None:
    """Refuse a zip file with a giant table of contents, which would be read whole."""
    start = max(0, size - MOST_COMMENT - 22 - 20 - 56)
    file.seek(start)
    tail = file.read()
    end = tail.rfind(END)
    if end < 0 or len(tail) < end + 22:
        raise ValueError("its end is missing: the file was cut off")
    length = int.from_bytes(tail[end + 12 : end + 16], "little")
    if tail[max(0, end - 20) : end].startswith(LOCATOR_64):
        large = tail[max(0, end - 76) : end - 20]
        if large.startswith(END_64):
            length = int.from_bytes(large[40:48], "little")
    if length > MOST_CONTENTS:
        raise ValueError(f"its table of contents takes {length:,} bytes")


def _read_npz(archive: zipfile.ZipFile, wanted: Wanted) -> Content:
    found = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
    name, labelled = _names(list(found))

    def member(key: str, what: Wanted | None) -> np.ndarray[Any, Any]:
        with archive.open(found[key]) as file:
            return _array(file, what, found[key].file_size, wanted.counts)  # type: ignore[arg-type]

    values = member(name, wanted)
    labels = None if labelled is None else _labels(member(labelled, None), len(values))
    return Content(_rows(values, wanted), labels, f"npz, {values.dtype} under {name!r}")


def _names(known: Sequence[str]) -> tuple[str, str | None]:
    """Under which names data and labels stand in a file.

    Raises:
        ValueError: there are no data, or more than one array that could be it.
    """
    labelled = next((name for name in LABELS if name in known), None)
    rest = [name for name in known if name != labelled]
    data = next((name for name in DATA if name in known), rest[0] if len(rest) == 1 else None)
    if data is None:
        raise ValueError(f"it holds {', '.join(known)[:200] or 'nothing'}; expected `data`")
    return data, labelled


def _array(
    file: BinaryIO, wanted: Wanted | None, size: int, counts: tuple[int, ...] = ()
) -> np.ndarray[Any, Any]:
    """An array of an npy file, whose header is judged before memory is asked for.

    Args:
        wanted: what it may be; None: labels, one for each of `counts`.
        size: of the whole file, in bytes.

    Raises:
        ValueError: it holds objects, which are pickles, or something else, or ends too early.
    """
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # later headers may have 4 GB; numpy reads them whole
        raise ValueError(f"npy format {version}; expected (1, 0), which numpy writes of numbers")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError(f"it holds Python objects, which are pickles: {UNPICKLED}")
    if dtype.kind not in "iuf" or dtype.itemsize > MOST_BYTES:
        raise ValueError(f"its values are {dtype}; expected whole or floating numbers")
    _check_shape(shape, wanted, counts)
    length = math.prod(shape) * dtype.itemsize
    if length > size:
        raise ValueError(f"it declares {length:,} bytes and has {size:,}: the file was cut off")
    content, at = np.empty(length, np.uint8), 0
    while at < length:
        part = file.read(min(AT_ONCE, length - at))
        if not part:
            raise ValueError(f"it ends after {at:,} of {length:,} bytes: the file was cut off")
        content[at : at + len(part)] = np.frombuffer(part, np.uint8)
        at += len(part)
    values = content.view(dtype).reshape(shape, order="F" if by_columns else "C")
    return values.astype(dtype.newbyteorder("="), copy=False)


def _check_shape(
    shape: tuple[int, ...], wanted: Wanted | None, counts: tuple[int, ...] = ()
) -> None:
    """Raises ValueError where an array is of no shape that is expected."""
    if wanted is None:
        if math.prod(shape) not in counts:
            raise ValueError(f"labels of shape {shape}; expected one for each row")
        return
    if len(shape) < 2 or shape[0] not in wanted.counts or shape[1:] not in _layouts(wanted):
        raise ValueError(f"its shape is {shape}; expected {wanted}")


def _layouts(wanted: Wanted) -> tuple[tuple[int, ...], ...]:
    """The shapes that a row may have: by channels, flat like CIFAR's, by pixels."""
    height, width = wanted.size
    return (3, height, width), (3 * height * width,), (height, width, 3)


def _rows(values: np.ndarray[Any, Any] | torch.Tensor, wanted: Wanted) -> torch.Tensor:
    """Values of a shape that is expected, as `(N, 3, H, W)`; not copied."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "u" and values.itemsize > 1:
        values = values.astype(np.int64)  # torch computes with few unsigned kinds
    rows = torch.as_tensor(values)
    by_channels, _, by_pixels = _layouts(wanted)
    if tuple(rows.shape[1:]) == by_pixels and by_pixels != by_channels:
        return rows.permute(0, 3, 1, 2)
    return rows.reshape(len(rows), *by_channels)


def _labels(values: Any, count: int) -> torch.Tensor:
    """Labels `(N,)` int64 of an array, a tensor or a list.

    Raises:
        ValueError: they are another number, or no whole numbers.
    """
    if isinstance(values, list | tuple) and not all(type(one) is int for one in values):
        raise ValueError("its labels are a list of something else than whole numbers")
    labels = np.asarray(values)  # an expanded tensor's is no copy yet
    if labels.size != count or labels.dtype.kind not in "iu":
        raise ValueError(
            f"it has {labels.size:,} labels, {labels.dtype}; expected {count:,} whole numbers"
        )
    return torch.from_numpy(labels.ravel().astype(np.int64))


# --- torch ---------------------------------------------------------------------------------------


def _read_torch(path: Path, archive: zipfile.ZipFile, wanted: Wanted) -> Content:
    _check_torch(archive)
    # Mapped from the disk, so that no number in the file decides how much memory is taken.
    try:
        found = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch has errors of many kinds for a damaged file
        raise ValueError(f"torch cannot read it ({error!r:.200})") from error
    labels, within = None, ""
    if isinstance(found, dict):
        name, labelled = _names([key for key in found if isinstance(key, str)])
        labels, within = found.get(labelled), f" under {name!r}"
        found = found.get(name)
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"it holds a {type(found).__name__}; expected a tensor, {wanted}")
    _check_shape(tuple(found.shape), wanted)
    if found.is_complex() or found.dtype == torch.bool or found.layout != torch.strided:
        raise ValueError(f"its values are {found.dtype}; expected whole or floating numbers")
    values = _rows(found.detach(), wanted)
    known = None if labels is None else _labels(labels, len(values))
    return Content(values, known, f"torch, {str(found.dtype).removeprefix('torch.')}{within}")


def _check_torch(archive: zipfile.ZipFile) -> None:
    """Raises ValueError where a torch file has more in it than tensors."""
    for one in archive.infolist():
        if not PARTS.fullmatch(one.filename):
            raise ValueError(f"it has a part {one.filename!r:.100}: save the tensor alone")
        if one.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"its part {one.filename!r} is compressed, which torch never does")
    (pickled,) = [one for one in archive.infolist() if one.filename.endswith("/data.pkl")]
    if pickled.file_size > MOST_PICKLE:
        raise ValueError(f"what it says of its tensors takes {pickled.file_size:,} bytes")
    with archive.open(pickled) as file:
        for opcode, argument, _ in pickletools.genops(file.read(MOST_PICKLE)):
            named = opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST")
            if named and not TENSORS.fullmatch(str(argument)):
                raise ValueError(
                    f"it names {str(argument).replace(' ', '.'):.100}, which only unpickling could "
                    f"read: {UNPICKLED}; or torch.save of a tensor alone"
                )


# --- pictures ------------------------------------------------------------------------------------


def _read_folder(path: Path, wanted: Wanted) -> Content:
    files: list[Path] = []
    most = 2 * max(wanted.counts)  # texts and hidden files among them
    for entry in path.iterdir():
        files += itertools.islice(entry.iterdir(), most + 1) if entry.is_dir() else [entry]
        if len(files) > most:
            raise ValueError(f"it holds more than {most:,} files; expected {wanted}")
    files = [file for file in files if _is_picture(file.relative_to(path).as_posix())]

    def content_of(number: int) -> bytes:
        if not files[number].is_file():
            raise ValueError("it is not a file, or a broken link")
        with files[number].open("rb") as file:
            return file.read(MOST_PNG + 1)

    names = [file.relative_to(path).as_posix() for file in files]
    return _read_pictures(names, content_of, wanted, "folder of PNG files")


def _is_picture(name: str) -> bool:
    """Whether a file of this name is read; hidden ones, texts and a system's folders are not."""
    *outer, last = Path(name).parts
    if last.startswith(".") or any(map(pictures.is_system_folder, outer)):
        return False
    return Path(last).suffix.lower() not in pictures.NO_PICTURES


def _read_pictures(
    names: list[str], content_of: Callable[[int], bytes], wanted: Wanted, form: str
) -> Content:
    """PNG files by their numbers.

    Args:
        names: of the files, with their folders.
        content_of: gives the content of a file, at most `MOST_PNG` bytes and one.
    """
    if len(names) not in wanted.counts:
        raise ValueError(f"it holds {len(names):,} files; expected {wanted}")
    for name in names:
        if Path(name).suffix.lower() != ".png":
            raise ValueError(f"{name!r:.100} is no PNG file; a lossy format changes the noise")
    order, ordered = _numbered(names)
    height, width = wanted.size
    rows = torch.empty(len(names), 3, height, width, dtype=torch.uint8)
    problems: dict[int, str] = {}

    def read_one(row: int) -> None:
        try:
            seen = _picture(content_of(order[row]), wanted.size)
            rows[row] = torch.from_numpy(seen).permute(2, 0, 1)
        except Exception as error:  # Pillow's decoders raise anything on a damaged file
            problems[row] = f"{names[order[row]]}: {str(error) or type(error).__name__:.200}"

    with pictures.quiet():
        pictures.in_threads(read_one, len(names), "read", lambda line: None)
    if problems:
        first = problems[min(problems)]
        raise ValueError(f"{len(problems):,} of {len(names):,} pictures cannot be read: {first}")
    return Content(rows, None, form, ordered)


def _numbered(names: Sequence[str]) -> tuple[list[int], bool]:
    """The order of files by their numbers, and whether there is one: the numbers are 0, 1, ... or
    1, 2, ... throughout, and do not begin again in each folder.

    Raises:
        ValueError: a name ends with no number, or there are gaps.
    """
    found = [INDEX.search(Path(name).stem) for name in names]
    for name, match in zip(names, found, strict=True):
        if match is None:
            raise ValueError(f"{name!r:.100} has no number; expected 0.png, 1.png, ...")
    numbers = [int(match[0]) for match in found if match]
    order = sorted(range(len(names)), key=lambda place: (numbers[place], names[place]))
    first, last = numbers[order[0]], numbers[order[-1]]
    if len(set(numbers)) == len(numbers):
        if first not in (0, 1) or last - first + 1 != len(numbers):
            raise ValueError(
                f"its {len(numbers):,} files are numbered {first} to {last}: expected 0 to "
                f"{len(numbers) - 1}, without gaps"
            )
        return order, True
    if len({Path(name).parent for name in names}) == 1:
        raise ValueError("two files have the same number")
    return order, False


def _picture(content: bytes, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """The pixels of a PNG, `(H, W, 3)` uint8; its size is judged before it is decoded."""
    if len(content) > MOST_PNG:
        raise ValueError(f"its file has more than {MOST_PNG:,} bytes")
    with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
        if opened.size != size[::-1]:
            width, height = opened.size
            raise ValueError(f"it has {height}x{width} pixels; expected {size[0]}x{size[1]}")
        if getattr(opened, "is_animated", False):
            raise ValueError("it is animated")
        return np.array(pictures.as_seen(opened))
