"""The store: what was computed once is found again, whatever was killed when.

An artifact is a folder `KIND/KEY/` whose key is the hash of the frozen spec that made it. It holds
one or more files and `artifact.json` with the spec and each file's SHA-256. Folders are filled
under a temporary name and then renamed, so a key exists whole or not at all; a lock for each key
lets two processes that want the same artifact compute it once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

T = TypeVar("T")

MANIFEST = "artifact.json"
# What reading a damaged artifact raises, whatever stands in its files.
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError)


def canonical(spec: Any) -> str:
    """A spec (dataclass, dict, list, str, number, None) as one canonical JSON text."""
    plain = dataclasses.asdict(spec) if dataclasses.is_dataclass(spec) else spec  # type: ignore[arg-type]
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(spec: Any) -> str:
    """The first 16 hex digits of SHA-256 of the canonical spec."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()[:16]


class Store:
    """Artifacts by content, below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, kind: str, spec: Any) -> Path:
        """The folder of an artifact, whether it is there or not."""
        return self.folder / kind / key_of(spec)

    def get(
        self,
        kind: str,
        spec: Any,
        compute: Callable[[Path], None],
        load: Callable[[Path], T],
    ) -> T:
        """The artifact of `spec`: loaded if it is there and sound, else computed.

        Args:
            kind: subfolder, e.g. "perturbation".
            spec: what determines the artifact; see `canonical`.
            compute: fills a given empty folder with files.
            load: reads such a folder; a ValueError means that it is damaged.

        Where another process is at work on the same artifact, this one says so and waits.

        Raises:
            OSError: no space is left, or the folder cannot be written; what was finished stays.
        """
        key = key_of(spec)
        place = self.place(kind, spec)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with _locked(place.with_suffix(".lock"), f"{kind} {key}"):
                if place.exists():
                    try:
                        _verify(place)
                        return load(place)
                    except DAMAGE as error:
                        aside = _set_aside(place)
                        warnings.warn(
                            f"{kind} {key} is damaged ({error}); set aside as {aside.name} and "
                            "computed again",
                            stacklevel=2,
                        )
                self._write(place, spec, compute)
                return load(place)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OSError(
                    errno.ENOSPC,
                    f"no space is left for {kind} {key}. What was finished before is kept: free "
                    "some space, or set ULELIB_STORE to a folder on another disk, and run again",
                ) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and str(
                error.filename
            ).startswith(str(self.folder)):
                raise OSError(
                    error.errno,
                    f"the store {self.folder} cannot be written ({error}). Set ULELIB_STORE to a "
                    "folder that can",
                ) from error
            raise

    def _write(self, place: Path, spec: Any, compute: Callable[[Path], None]) -> None:
        self._sweep(place)
        temporary = Path(tempfile.mkdtemp(prefix=f"{place.name}.tmp-", dir=place.parent))
        try:
            compute(temporary)
            manifest = {
                "spec": json.loads(canonical(spec)),
                "sha256": {path.name: _sha256(path) for path in sorted(temporary.iterdir())},
            }
            write_text(temporary / MANIFEST, json.dumps(manifest, indent=1))
            os.replace(temporary, place)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    @staticmethod
    def _sweep(place: Path) -> None:
        """Remove what a killed process left; its lock is ours now, so nobody writes there."""
        for leftover in place.parent.glob(f"{place.name}.tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def _locked(lock: Path, what: str) -> Iterator[None]:
    held = FileLock(lock)
    try:
        held.acquire(timeout=2)
    except Timeout:
        print(f"another process computes {what}; waiting for it", file=sys.stderr, flush=True)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: to a temporary name, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _verify(place: Path) -> None:
    manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    for name, digest in manifest["sha256"].items():
        if not (place / name).exists():
            raise ValueError(f"{name} is missing")
        if _sha256(place / name) != digest:
            raise ValueError(f"{name} does not have the checksum that was written with it")


def _set_aside(place: Path) -> Path:
    number = 0
    while (aside := place.with_name(f"{place.name}.damaged-{number}")).exists():
        number += 1
    os.replace(place, aside)
    return aside


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
