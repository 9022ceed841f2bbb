"""Files: written whole or not at all, and their checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PART = ".part"  # ends the hidden name of a file that is being written,
PARTLY = re.compile(rf"\.[0-9a-f]{{16}}{re.escape(PART)}")  # which is this
# A file that was just written may be written again without a change of its time.
SETTLED = 2.0  # seconds after which an unchanged time means an unchanged file
_digests: dict[tuple[int, int, int, int], str] = {}  # by device, inode, size and time of change


def write_text(path: Path, text: str) -> None:
    """`write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary name, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(8)}{PART}")
    try:
        with part.open("xb") as file:  # who may read it, the process's own mask decides
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_writable(folder: Path, remedy: str) -> None:
    """Check that files can be written in a folder, which is made if missing: before hours of work.

    Raises:
        OSError: they cannot; says why, and the remedy.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"nothing can be written in {folder} ({reason}): {remedy}"
        raise OSError(error.errno, message) from error


@contextlib.contextmanager
def lock_errors_explained(folder: Path, remedy: str) -> Iterator[None]:
    """Say what to do where the disk of a folder has no locks, as some network disks."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        message = f"the disk of {folder} cannot lock files ({error.strerror}): {remedy}"
        raise OSError(error.errno, message) from error


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hex digits.

    A process reads a file once: as long as inode, size and time of change stay the same, the digest
    is remembered.
    """
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        identity = (about.st_dev, about.st_ino, about.st_size, about.st_ctime_ns)
        if identity not in _digests:
            settled = time.time() - about.st_ctime > SETTLED
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if not settled:
                return digest
            _digests[identity] = digest
    return _digests[identity]
