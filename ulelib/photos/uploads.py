"""Uploaded files and zip files, written into a folder of pictures."""

from __future__ import annotations

import contextlib
import io
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ulelib.cifar import ZIP_ERRORS
from ulelib.photos.folders import Refused
from ulelib.photos.names import NAME_ERRORS

MOST_BYTES = 4 * 2**30  # unpacked size of all zip files of an upload
MOST_FILES = 50_000


def unpack(files: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write uploaded files into a new folder, and unpack zip files.

    Args:
        files: value of `ipywidgets.FileUpload`: mappings with "name" and "content" (bytes).
        folder: does not exist yet.

    Returns:
        the folder with the pictures: `folder`, or the only folder in it if a whole folder was
        packed.

    Raises:
        Refused: two files have the same name; a zip file is damaged, encrypted or too large, or
            has a name that leads out of the folder.
    """
    folder.mkdir(parents=True)
    room = [MOST_FILES, MOST_BYTES]
    for file in files:
        name, content = PurePosixPath(file["name"].replace("\\", "/")).name, file["content"]
        with _name_errors_explained(name):
            if name.lower().endswith(".zip"):
                _unzip(name, content, folder, room)
            elif (folder / name).exists():
                raise Refused(
                    f"two files are named {name}: rename one, or upload a zip with folders"
                )
            else:
                (folder / name).write_bytes(content)
    while len(inside := [one for one in folder.iterdir() if not _hidden(one.name)]) == 1:
        only = inside[0]
        if not only.is_dir() or not any(one.is_dir() for one in only.iterdir()):
            break
        folder = only
    return folder


@contextlib.contextmanager
def _name_errors_explained(name: str) -> Iterator[None]:
    """Name the uploaded file in the error if the disk does not accept a file's name."""
    try:
        yield
    except OSError as error:
        if error.errno not in NAME_ERRORS:
            raise
        raise Refused(f"{name}, or a file in it, has a name that no file here can have") from error


def _unzip(name: str, content: Any, folder: Path, room: list[int]) -> None:
    """Unpack a zip file.

    Args:
        name, content: of the zip file.
        folder: where its files are written.
        room: number of files and bytes that may still be unpacked; this file's are subtracted.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            for one in packed.infolist():
                one.filename = _name_of(one)
            if any(one.flag_bits & 1 for one in packed.infolist()):
                raise Refused(f"{name} is encrypted: unpack it with its password, and upload that")
            wanted = [one for one in packed.infolist() if not one.filename.endswith("/")]
            size = sum(one.file_size for one in wanted)
            room[:] = room[0] - len(wanted), room[1] - size
            if min(room) < 0:
                raise Refused(
                    f"{name} unpacks to {len(wanted):,} files and {size / 2**30:.1f} GiB; all that "
                    f"is uploaded may be {MOST_FILES:,} files and {MOST_BYTES / 2**30:.0f} GiB: "
                    "unpack it, and name the folder"
                )
            for one in wanted:
                parts = PurePosixPath(one.filename).parts
                if ".." in parts or PurePosixPath(one.filename).is_absolute():
                    raise Refused(f"{name} has a file {one.filename!r}, outside of the folder")
                linked = stat.S_ISLNK(one.external_attr >> 16)
                if linked or any(map(_hidden, parts)):
                    continue
                if folder.joinpath(*parts).exists():
                    raise Refused(f"two files are named {one.filename}: rename one")
                packed.extract(one, folder)
    except (*ZIP_ERRORS, EOFError, NotADirectoryError, FileExistsError) as error:  # or encrypted
        raise Refused(f"{name} cannot be unpacked: {error}") from error


def _name_of(packed: zipfile.ZipInfo) -> str:
    """The name of a packed file: macOS does not mark UTF-8, some Windows programs write
    backslashes."""
    name = packed.filename
    if not packed.flag_bits & 0x800:  # Python decoded the bytes as code page 437
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/") if packed.create_system == 0 else name


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
