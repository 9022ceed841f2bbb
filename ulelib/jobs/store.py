"""The store: what was computed once is found again, whatever was killed when.

An artifact is a folder `TYPE/KEY/`, whose key is the hash of the spec that it was computed from. It
holds one or more files and `artifact.json`: the spec, each file's SHA-256, and who made it. Folders
are filled under a temporary name and then renamed, so a key exists whole or not at all; a lock for
each key lets processes that share a store share the work.

Damage is what fails its manifest: bytes, the list of files, the spec. It is set aside with a
warning and computed again. What is whole and cannot be interpreted stays, and is an error.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ulelib.files import lock_errors_explained, sha256, write_text
from ulelib.jobs.schema import check_made_by
from ulelib.settings import described, key_of

MANIFEST = "artifact.json"
NO_LOCKS = "set ULELIB_STORE to a folder on a disk of this machine"


class Store:
    """Artifacts by content, below `folder`.

    Raises:
        OSError: of every method: no space is left, the folder cannot be written, or something that
            is no folder stands in its place. The message names path and remedy.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).expanduser()

    def place(self, spec: Any) -> Path:
        """The folder of an artifact, whether it is there or not."""
        return self.folder / type(spec).__name__.lower() / key_of(spec)

    def find(self, spec: Any) -> Path | None:
        """The folder of a whole artifact; None if there is none. Damage is set aside."""
        place = self.place(spec)
        with self._explained():
            try:
                _verify(place, spec)
            except FileNotFoundError as error:
                if not os.path.lexists(place):
                    return None
                self.set_aside(place, error)
                return None
            except ValueError as error:
                self.set_aside(place, error)
                return None
        return place

    @contextlib.contextmanager
    def claim(self, spec: Any, wait: bool = True) -> Iterator[bool]:
        """The right to compute this artifact, while the context lasts.

        Yields False, at once, where another process has it and `wait` is False.
        """
        place = self.place(spec)
        with self._explained():
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(place.with_suffix(".lock"))
            try:
                with lock_errors_explained(self.folder, NO_LOCKS):
                    lock.acquire(timeout=-1 if wait else 0)
            except Timeout:
                yield False
                return
        try:
            yield True
        finally:
            lock.release()

    def put(self, spec: Any, fill: Callable[[Path], None], made: dict[str, Any]) -> Path:
        """Write an artifact; to be called with its claim.

        Args:
            fill: fills a given empty folder with files.
            made: who computed it, plain JSON data.
        """
        place = self.place(spec)
        with self._explained():
            place.parent.mkdir(parents=True, exist_ok=True)
            for leftover in place.parent.glob(f"{place.name}.tmp-*"):  # of a killed process
                shutil.rmtree(leftover, ignore_errors=True)
            temporary = _new_folder(place)
            try:
                fill(temporary)
                manifest = {
                    "spec": described(spec),
                    "keyed": described(spec, keyed=True),
                    "sha256": {path.name: sha256(path) for path in sorted(temporary.iterdir())},
                    "made": made,
                }
                write_text(temporary / MANIFEST, json.dumps(manifest, indent=1))
                for file in temporary.iterdir():  # safetensors' are their writer's alone
                    file.chmod(temporary.stat().st_mode & 0o666)
                os.replace(temporary, place)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        return place

    def set_aside(self, place: Path, error: Exception) -> None:
        """Rename an artifact that must not be used, and warn of it."""
        number = 0
        while os.path.lexists(aside := place.with_name(f"{place.name}.damaged-{number}")):
            number += 1
        try:
            os.replace(place, aside)
        except FileNotFoundError:  # another process that found it damaged was faster
            return
        warnings.warn(
            f"{place.parent.name} {place.name} is damaged ({error}); set aside as {aside.name}, to "
            "be computed again",
            stacklevel=3,
        )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What to do about an error of the store's folder."""
        try:
            yield
        except OSError as error:
            if "ULELIB" in str(error):  # of another folder, and explained
                raise
            if error.errno == errno.ENOSPC:
                raise OSError(
                    errno.ENOSPC,
                    f"no space is left for the store {self.folder}. What was finished before is "
                    "kept: free some space, or set ULELIB_STORE to a folder on another disk, and "
                    "run again",
                ) from error
            if str(error.filename or "").startswith(str(self.folder)):
                raise OSError(
                    error.errno,
                    f"the store {self.folder} cannot be used ({error}). Set ULELIB_STORE to a "
                    "folder that can",
                ) from error
            raise


def pack(spec: Any, store: Store) -> dict[str, bytes]:
    """All files of a whole artifact, to be sent to a machine that does not reach the store."""
    place = store.find(spec)
    if place is None:
        raise KeyError(f"{type(spec).__name__} {key_of(spec)} is not in {store.folder}")
    return {e.name: Path(e).read_bytes() for e in os.scandir(place) if not e.name.startswith(".")}


def unpack(spec: Any, store: Store, files: dict[str, bytes]) -> None:
    """Put a packed artifact into another store, unless it is there.

    Raises:
        ValueError: it is not whole, or not of this spec.
    """
    with store.claim(spec):
        if store.find(spec):
            return
        place = store.place(spec)
        temporary = _new_folder(place)
        try:
            for name, content in files.items():
                if name != Path(name).name or name in ("", ".", ".."):
                    raise ValueError(f"{name!r} is not the name of a file")
                (temporary / name).write_bytes(content)
            _verify(temporary, spec)
            os.replace(temporary, place)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _new_folder(place: Path) -> Path:
    """An empty folder beside `place`, which whoever may enter the store may enter."""
    while True:
        folder = place.with_name(f"{place.name}.tmp-{secrets.token_hex(4)}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder


def manifest(place: Path) -> dict[str, Any]:
    """The manifest of a whole artifact."""
    found: dict[str, Any] = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    return found


def _verify(place: Path, spec: Any) -> None:
    """Raises ValueError or FileNotFoundError where an artifact is not what its manifest says."""
    if not stat.S_ISDIR(place.lstat().st_mode):
        raise ValueError("it is not a folder")
    # A file manager leaves its own in any folder that it shows, such as .DS_Store.
    entries = {e.name: e for e in os.scandir(place) if not e.name.startswith(".")}
    for entry in entries.values():
        if not entry.is_file(follow_symlinks=False):
            raise ValueError(f"{entry.name} is not a file")
    try:
        found = manifest(place)
        digests, keyed = dict(found["sha256"]), found["keyed"]
        check_made_by(found["made"])
        if not isinstance(found["spec"], dict):
            raise ValueError("it has no spec")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"its {MANIFEST} cannot be read: {error!r:.200}") from error
    if keyed != described(spec, keyed=True):
        raise ValueError("it was computed from another spec")
    if set(entries) != {*digests, MANIFEST}:
        raise ValueError(f"it holds {sorted(entries)}, not what its {MANIFEST} lists")
    for name, digest in digests.items():
        if sha256(place / name) != digest:
            raise ValueError(f"{name} does not have the checksum that was written with it")
