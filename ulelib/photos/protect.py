"""Protect a folder of pictures of any size.

    report = protect("pictures", "protected", Job(strength=16))

The noise is made at a small working size, for the middle square of each picture, which is what an
exploiter usually crops. It is then enlarged to the picture's own size, so that it is still there
when the exploiter scales the picture down. The originals are only read. A picture that cannot be
protected is left out and named in the report; the others are protected all the same. Each written
file is compared with its original: if its noise is gone, the report says so. A run that was
interrupted resumes.

A written JPEG, PNG or WebP says in its metadata that it was protected (`extras.MARK`), so that a
second protection is noticed. Whoever gets the file can read that, too.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ulelib import pictures
from ulelib.bilevel import Bilevel
from ulelib.csd import Separation
from ulelib.data import ImageSet, check_classes
from ulelib.defenders import DEFENDERS, Setting
from ulelib.files import write_bytes
from ulelib.machine import fastest_precision
from ulelib.perturbation import Perturbation
from ulelib.pgd import Pgd
from ulelib.photos.encode import About, protected_file
from ulelib.photos.folders import (
    Label,
    Photo,
    Refused,
    check_folders,
    find_pictures,
    image_set,
    name_of_others,
    too_small,
)
from ulelib.photos.job import Job
from ulelib.photos.names import NAME_ERRORS, confused_names, output_names, printable
from ulelib.photos.unfinished import Unfinished, disk_errors_explained, seal_of
from ulelib.profiles import CPU
from ulelib.settings import described
from ulelib.specs import Data, Method

# With few pictures, Algorithm 1's stop test would end it as soon as the source model has memorised
# them. So it runs for a fixed number of rounds, each with part of an epoch in small batches.
ROUNDS = 20
EPOCH_PART = 0.25
LARGEST_BATCH = 64

TWICE = "it was protected before, and the noise of both adds up: protect the original instead"
UNSEEN = (
    "Others may be, too: a BMP does not show it, nor does a file from which metadata were removed."
)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """What `protect` did.

    Attributes:
        written: number of pictures in the output folder.
        left_out: printable names of pictures that are not there, and the reasons.
        changed: printable names of written pictures, and what else was changed in them.
        rounds: see `Perturbation.rounds`.
        seconds: duration of the run.
        unread_others: printable names of pictures of other people that could not be used, and the
            reasons.
        unprotected: printable names of pictures that were written, but are not protected, and why.
        twice: printable names of pictures that this tool had written before.
        placed: number of written pictures that say where they were taken.
    """

    written: int
    left_out: dict[str, str]
    changed: dict[str, str]
    rounds: tuple[float, ...]
    seconds: float
    unread_others: dict[str, str] = field(default_factory=dict)
    unprotected: dict[str, str] = field(default_factory=dict)
    twice: tuple[str, ...] = ()
    placed: int = 0

    def lines(self) -> list[str]:
        """The report as lines of text."""
        left_out = [*self.left_out.items(), *_as_others(self.unread_others)]
        twice = [(name, TWICE) for name in self.twice]
        lines = []
        for head, pairs in (
            ("Also changed", [*self.changed.items()]),
            ("Left out", left_out),
            ("Protected once more", twice),
            ("Written, but NOT PROTECTED", [*self.unprotected.items()]),
        ):
            if pairs:
                lines.append(f"{head}, {len(pairs)}:")
                lines += [f"  {name}: {text}" for name, text in sorted(pairs)]
            if head == "Protected once more" and pairs:
                lines.append(UNSEEN)
        if self.placed:
            lines.append(
                f"{self.placed} written pictures say where they were taken (GPS). To leave it out, "
                "protect them with --drop-location, in the app with its box."
            )
        protected = self.written - len(self.unprotected)
        lines.append(f"{protected} pictures protected in {pictures.duration(self.seconds)}.")
        return lines


def protect(
    folder: Path | str,
    out: Path | str,
    job: Job | None = None,
    others: Path | str | None = None,
    report: Progress = lambda line: None,
) -> Report:
    """Protect `folder/CLASS/FILE` and write the result to `out/CLASS/FILE`.

    Args:
        folder: one folder for each class; with `others`, its pictures may be one class themselves.
        out: a new or empty folder, or one in which a run with the same arguments was interrupted.
        job: method, strength and format; None: the defaults.
        others: pictures of other people, which are only read: `folder` is made unlearnable among
            them. None: there are no others, and `folder` needs two classes.
        report: callback, called with lines of text about the progress.

    Raises:
        Refused: there are no pictures to protect, or one class and no others; or the output folder
            holds something else or overlaps with the pictures.
        OSError: the disk is full or cannot be written; names the file. The same call resumes.
    """
    started = time.perf_counter()
    job = job or Job()
    folder, out = Path(folder).expanduser(), Path(out).expanduser()
    others = None if others is None else Path(others).expanduser()
    check_folders(folder, out, others)
    sources = read_all(folder, others, job.pixels, report)
    images, photos = sources.images, sources.photos
    work = {
        "job": described(job),
        "pictures": images.fingerprint,
        "names": [str(photo.name) for photo in photos],
    }
    with Unfinished(out, work) as unfinished:
        noise = unfinished.load_noise(images)
        if noise is None:
            noise = noise_for(sources, job, report)
            unfinished.save_noise(noise)
        report(f"writing {len(photos)} pictures")
        told, failed = _write_all(sources, noise, out, job, unfinished, report)
        unfinished.finish()
    return Report(
        written=len(photos) - len(failed),
        left_out=sources.left_out | failed,
        changed={name: "; ".join(about.notes) for name, about in told.items() if about.notes},
        rounds=noise.rounds,
        seconds=time.perf_counter() - started,
        unread_others=sources.unread_others,
        unprotected={name: about.unprotected for name, about in told.items() if about.unprotected},
        twice=tuple(name for name, about in told.items() if about.twice),
        placed=sum(about.placed for about in told.values()),
    )


# --- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sources:
    """All pictures at the working size.

    Attributes:
        images: one's own pictures first, in the order of `photos`, then those of others.
        own: labels of one's own classes; None: there are no others.
        photos: one's own pictures.
        left_out, unread_others: see `Report`.
    """

    images: ImageSet
    own: tuple[int, ...] | None
    photos: list[Photo]
    left_out: dict[str, str]
    unread_others: dict[str, str]


def read_all(
    folder: Path,
    others: Path | None,
    size: int,
    report: Progress,
    some: Callable[[list[Photo]], list[Photo]] = lambda found: found,
) -> Sources:
    """Read one's own pictures and those of others.

    Args:
        folder, others, report: see `protect`.
        size: working size in pixels.
        some: chooses some of the pictures found in a folder.

    Raises:
        Refused: none of either can be used, or all are of one class.
    """
    left_out: dict[str, str] = {}
    unread_others: dict[str, str] = {}
    own = some(find_pictures(folder, left_out, flat=others is not None))
    theirs = [] if others is None else some(find_pictures(others, unread_others, flat=True))
    photos = [*own, *theirs]
    pixels, problems = pictures.read_each([photo.file for photo in photos], size, report)
    for index, photo in enumerate(own):
        if index not in problems and (problem := too_small(photo.file)):
            problems[index] = problem
    for index, problem in sorted(problems.items()):
        photo = photos[index]
        reason = problem.removeprefix(f"{photo.file.parent.name}/{photo.file.name}: ")
        (left_out if index < len(own) else unread_others)[printable(photo.name)] = reason
    kept = [index for index in range(len(photos)) if index not in problems]
    labels = [Label(photos[index].label, own=index < len(own)) for index in kept]
    if not any(label.own for label in labels):
        raise Refused(f"there is no picture that can be protected{_examples(left_out)}")
    if others is not None and all(label.own for label in labels):
        raise Refused(f"no picture in {others} can be read{_examples(_as_others(unread_others))}")
    images, own_labels = image_set(pixels[kept], labels, "these pictures")
    try:
        check_classes(images)
    except ValueError as error:
        raise Refused(f"{error}; or name a folder of other people's pictures (others)") from error
    readable = [photo for index, photo in enumerate(own) if index not in problems]
    among_others = None if others is None else own_labels
    return Sources(images, among_others, readable, left_out, unread_others)


def _as_others(problems: dict[str, str]) -> list[tuple[str, str]]:
    """Names of pictures of others as they are printed, and what is wrong with them."""
    return [(name_of_others(name), reason) for name, reason in problems.items()]


def _examples(problems: dict[str, str] | list[tuple[str, str]]) -> str:
    """The first five problems in brackets; "" if there are none."""
    first = list(dict(problems).items())[:5]
    return f" ({'; '.join(f'{name}: {reason}' for name, reason in first)})" if first else ""


# --- noise ---------------------------------------------------------------------------------------


def noise_for(sources: Sources, job: Job, report: Progress) -> Perturbation:
    """The noise of all pictures, made as the job says."""
    method = method_of(job, len(sources.images), sources.own)
    return method.make(
        sources.images,
        job.seed,
        fastest_precision(),
        network=_no_network,
        report=_with_time_left(report),
    )


def method_of(job: Job, count: int, only: tuple[int, ...] | None = None) -> Method:
    """How the noise is made: with the settings of the `cpu` profile, at the job's strength.

    Args:
        job: names method, strength and seed.
        count: number of pictures, those of others included.
        only: labels of one's own classes among those of others; None: there are no others.
    """
    epsilon = job.strength / 255

    def scaled(inner: Pgd) -> Pgd:
        return replace(inner, epsilon=epsilon, step=inner.step * epsilon / inner.epsilon)

    batch = min(LARGEST_BATCH, count)
    loop = replace(
        CPU.loop,
        inner=scaled(CPU.loop.inner),
        outer_batch_size=batch,
        outer_batches=math.ceil(EPOCH_PART * count / batch),
        rounds=ROUNDS,
    )
    separation = replace(CPU.separation, inner=scaled(CPU.separation.inner))
    profile = replace(CPU, loop=loop, separation=separation)
    precision: Any = fastest_precision()
    method = DEFENDERS[job.method](Setting(Data("pictures"), profile, job.seed, precision))
    assert isinstance(method, Bilevel | Separation)
    return replace(method, only=only)


def _no_network(run: object) -> Any:
    raise AssertionError("the methods for pictures attack no trained network")


def _with_time_left(report: Progress) -> Progress:
    """The same callback; lines such as "round 3 of 20" get the time that the rest will take."""
    began = time.monotonic()

    def extended(line: str) -> None:
        found = re.match(r"(?:round|pass) (\d+) of (\d+)", line)
        report(line + pictures.time_left(began, *map(int, found.groups())) if found else line)

    return extended


# --- writing -------------------------------------------------------------------------------------


def _write_all(
    sources: Sources,
    noise: Perturbation,
    out: Path,
    job: Job,
    unfinished: Unfinished,
    report: Progress,
) -> tuple[dict[str, About], dict[str, str]]:
    """Write the protected pictures, in threads.

    Returns:
        printable names and what is told of the pictures; and those that could not be written, and
        why.
    """
    photos = sources.photos
    outputs = output_names([photo.name for photo in photos], job.format)
    written_before = unfinished.written()
    told: dict[str, About] = {}
    failed: dict[str, str] = {}
    with disk_errors_explained(unfinished.folder):
        confused = confused_names(outputs, unfinished.folder)

    def write_one(index: int) -> None:
        photo, output = photos[index], outputs[index]
        if index in confused:
            other = printable(outputs[confused[index]])
            failed[printable(photo.name)] = (
                f"the disk does not distinguish its name from {other}: rename one of them"
            )
            return
        seal_before, about = written_before.get(str(output), (None, About()))
        seal = seal_of(photo.file)
        if seal != seal_before or not (out / output).exists():
            (delta,) = noise.of(sources.images, torch.tensor([index]))
            try:
                content, about = protected_file(photo.file, delta, job)
            except Exception as error:  # an encoder may refuse what could be read
                failed[printable(photo.name)] = (
                    f"it could not be written: {str(error) or repr(error)}"
                )
                return
            if not _write(out / output, content):
                failed[printable(photo.name)] = (
                    f"no file here can be named {printable(output)}: rename it"
                )
                return
            unfinished.note(output, seal, about)
        told[printable(photo.name)] = about

    with pictures.quiet():
        pictures.in_threads(write_one, len(photos), "written", report)
    return dict(sorted(told.items())), failed


def _write(file: Path, content: bytes) -> bool:
    """Write a file; False: the disk does not accept its name.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    with disk_errors_explained(file):
        try:
            write_bytes(file, content)
        except OSError as error:
            if error.errno not in NAME_ERRORS:
                raise
            return False
    return True
