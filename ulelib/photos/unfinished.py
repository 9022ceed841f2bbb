"""What the output folder holds until all pictures are written, so that an interrupted run resumes.

The hidden folder `.ulelib-work` holds a lock, the job, the noise, and a journal of written files.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ulelib.data import ImageSet
from ulelib.files import PART, PARTLY, write_bytes
from ulelib.perturbation import Perturbation
from ulelib.photos.encode import About
from ulelib.photos.folders import Refused

WORK_FOLDER = ".ulelib-work"  # in the output folder


class Unfinished:
    """An output folder while it is being filled, as a context manager.

    Args:
        out: the output folder; it need not exist.
        work: JSON that identifies the work, with "names": the paths within `out` of what is
            written. A run resumes only what has the same.

    Raises:
        Refused: on entering, if the folder contains something else or the files of other work, or
            if another process is writing to it.
        OSError: on entering, if the folder cannot be written.
    """

    def __init__(self, out: Path, work: dict[str, Any]) -> None:
        self.out, self.folder = out, out / WORK_FOLDER
        self.work, self.names = json.dumps(work, sort_keys=True), work["names"]
        self.noise_file = self.folder / "delta.safetensors"
        self.journal = self.folder / "written.jsonl"
        self.lock = FileLock(self.folder / "lock", timeout=0)
        self.journal_lock = threading.Lock()

    def __enter__(self) -> Unfinished:
        job = self.folder / "job.json"
        if self._has_files() and not job.is_file():
            raise Refused(
                f"{self.out} is not empty and holds no unfinished work: name a new folder for the "
                "protected pictures"
            )
        with disk_errors_explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self.lock.acquire()
            except Timeout:
                raise Refused(f"another process is writing to {self.out}") from None
        try:
            self._resume_or_begin(job)
        except BaseException:  # `__exit__` is not called then
            self.lock.release()
            raise
        return self

    def _resume_or_begin(self, job: Path) -> None:
        if not job.is_file() or job.read_text(encoding="utf-8") != self.work:
            if self._has_files():  # checked again: the last owner of the lock may have written
                raise Refused(
                    f"{self.out} holds unfinished work with other pictures or settings: repeat the "
                    "same pictures and settings to continue it, or name a new folder"
                )
            for stale in (self.noise_file, self.journal):  # of work that wrote no picture
                stale.unlink(missing_ok=True)
            with disk_errors_explained(job):
                write_bytes(job, self.work.encode())
        for folder in {self.folder, *((self.out / name).parent for name in self.names)}:
            for part in folder.glob(f".*{PART}"):  # of a run that was killed
                if PARTLY.fullmatch(part.name):
                    part.unlink()

    def __exit__(self, *error: object) -> None:
        self.lock.release()

    def _has_files(self) -> bool:
        """Whether the output folder contains anything except hidden files: this class's own, or
        those that file managers leave in every folder they show."""
        return self.out.exists() and any(
            not entry.name.startswith(".") for entry in self.out.iterdir()
        )

    def load_noise(self, images: ImageSet) -> Perturbation | None:
        """The noise that an interrupted run saved; None: there is none.

        Raises:
            ValueError: the file holds no noise for these pictures; names the file to remove.
        """
        if not self.noise_file.is_file():
            return None
        try:
            noise = Perturbation.load(self.noise_file)
            noise.check(images)
        except ValueError as error:
            raise ValueError(
                f"{error}; remove {self.noise_file} to make the noise again"
            ) from error
        return noise

    def save_noise(self, noise: Perturbation) -> None:
        """Keep the noise until the work is finished."""
        part = self.folder / "delta"
        with disk_errors_explained(self.noise_file):
            noise.save(part)
            part.replace(self.noise_file)

    def note(self, name: Path, seal: list[int], about: About) -> None:
        """Add a written picture to the journal.

        Args:
            name: of the written picture, within the output folder.
            seal: of its original, see `seal_of`.
            about: what is told of it.
        """
        line = json.dumps({"picture": str(name), "original": seal, "about": asdict(about)})
        with (
            disk_errors_explained(self.journal),
            self.journal_lock,
            self.journal.open("a", encoding="utf-8") as opened,
        ):
            opened.write(f"\n{line}\n")  # a kill may have cut off the line before

    def written(self) -> dict[str, tuple[list[int], About]]:
        """Each picture in the journal, by name: its seal, and what is told of it. Incomplete lines
        are skipped: those pictures are written again."""
        found: dict[str, tuple[list[int], About]] = {}
        if self.journal.is_file():
            for line in self.journal.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    found[entry["picture"]] = (
                        [*map(int, entry["original"])],
                        About(**entry["about"]),
                    )
                except (ValueError, TypeError, KeyError):
                    continue
        return found

    def finish(self) -> None:
        """Remove the hidden folder: only pictures are left."""
        self.lock.release()
        shutil.rmtree(self.folder)


def seal_of(file: Path) -> list[int]:
    """Size and time of change, by which a changed file is recognised; [] if it does not exist."""
    try:
        about = file.stat()
    except OSError:
        return []
    return [about.st_size, about.st_mtime_ns]


NO_LOCKS = "name a folder on another disk, since this one cannot lock files"
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room"),
    **dict.fromkeys((errno.ENOLCK, errno.EOPNOTSUPP), NO_LOCKS),
}


@contextlib.contextmanager
def disk_errors_explained(file: Path) -> Iterator[None]:
    """Turn an error of the disk into one that names the file and says what to do."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "make it writable")
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(
            f"{file} cannot be written: {reason}. Finished pictures stay: {remedy}, then repeat "
            "the same command, which continues from there"
        ) from error
