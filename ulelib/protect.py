"""Protect a folder of pictures of any sizes: the defender for people who are no researchers.

    report = protect("pictures", "protected", Job(strength=16))

Noise is made at a working size, for the middle square of each picture as an exploiter would cut it
out, and carried to the picture's own size, so that it comes back when the exploiter scales the
picture down. The originals are only read. What cannot be protected is left out and told at the end;
it never stops the rest. A run that was killed goes on where it was.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import io
import itertools
import json
import math
import os
import re
import shutil
import struct
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, PngImagePlugin
from pydantic import Field
from torch.nn import functional as F

from ulelib import pictures
from ulelib.bilevel import Bilevel
from ulelib.csd import Separation
from ulelib.data import ImageSet, check_classes
from ulelib.defenders import DEFENDERS, Setting
from ulelib.machine import fastest_precision
from ulelib.perturbation import Perturbation
from ulelib.pgd import Pgd
from ulelib.profiles import CPU
from ulelib.settings import Seed, described, settings
from ulelib.stages import Data, Method
from ulelib.store import PART, PARTLY, write_bytes
from ulelib.views import LUMA

# Those that need nothing but the pictures.
Named = Literal["CSD", "ULEO-GrayAugs", "ULEO", "ULEO-Augs", "ULEO-Grays", "ULEO class-wise"]
Format = Literal["keep", "png", "jpg"]
METHODS, FORMATS = get_args(Named), get_args(Format)
SIZE, SIZES = 32, {"CSD": 8}  # pixels at which noise is made, by method
SHORTEST = 16  # pixels of the shorter side below which there is nothing to hide in
OTHERS = "others: "  # before the names of what is not one's own
STATE = ".ulelib-work"  # in the output folder, while the work is under way
WRITERS = 2  # threads: each may hold some hundred megabytes of a large picture
STRIP = 256  # rows of a picture that get their noise at once
# Algorithm 1 on few pictures: its stop test would end it as soon as the source model knows them by
# heart. So it goes on for a number of rounds, with a part of an epoch and small batches in each.
ROUNDS = 20
EPOCH_PART = 0.25
LARGEST_BATCH = 64
WEBP_QUALITIES = range(50, 100, 5)
SUFFIX = {"png": ".png", "jpg": ".jpg"}
GPS = 0x8825  # EXIF's number for the place where a picture was taken
# What brings an upright picture back to the way in which its file has it, by EXIF orientation.
TURN_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@settings
class Job:
    """How pictures are protected.

    Attributes:
        method: one of `METHODS`; the default is the one whose worst is best on the book's page 14b,
            over the networks and sizes of exploiters that filter nothing.
        strength: the most that a channel of a pixel changes, in gray levels, in the written picture
            (before lossy coding). The default is *Going Grayscale*'s bound on ImageNet; it may
            show. Half of it is hard to see, and half of what there is to learn gets through (14b).
        size: pixels at which noise is made, a side; None: `SIZES`. Noise of few pixels is smooth
            in a picture: networks that see little detail see it, too. A gray filter undoes CSD of 8
            or 16 pixels (14b).
        format: of what is written: "keep", each picture's own; "png"; or "jpg".
        quality: of JPEG and WebP, 1 to 100; None: that of the picture itself where it is a JPEG;
            of a lossy WebP one at which the picture itself is as large, 50 to 95; else 95.
        drop_location: leave out where a picture was taken.
        seed: of everything that is drawn.
    """

    method: Named = "CSD"
    strength: Annotated[int, Field(ge=1, le=64)] = 16
    size: Annotated[int, Field(ge=8, le=512)] | None = None
    format: Format = "keep"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    drop_location: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.method not in SIZES and self.pixels < 16:
            raise ValueError(
                f"Job.size is {self.size}: for {self.method}, whose network halves pictures again "
                "and again, at least 16"
            )

    @property
    def pixels(self) -> int:
        """The size that is taken."""
        return self.size or SIZES.get(self.method, SIZE)


@dataclass(frozen=True)
class Photo:
    """A picture of the folder.

    Attributes:
        file: where it is.
        name: its name in the folder, `CLASS/.../FILE`.
        label: the class.
    """

    file: Path
    name: Path
    label: str


@dataclass(frozen=True)
class Report:
    """What was done.

    Attributes:
        written: how many pictures.
        left_out: names, and why each is not protected.
        changed: names, and what else is different in them.
        rounds: see `Perturbation.rounds`.
        seconds: of all.
    """

    written: int
    left_out: dict[str, str]
    changed: dict[str, str]
    rounds: tuple[float, ...]
    seconds: float

    def lines(self) -> list[str]:
        """All of it in words."""
        lines = []
        for head, told in (("Also changed", self.changed), ("Left out", self.left_out)):
            if told:
                lines.append(f"{head}, {len(told)}:")
                lines += [f"  {name}: {why}" for name, why in sorted(told.items())]
        return [*lines, f"{self.written} pictures protected in {pictures.duration(self.seconds)}."]


class Refused(ValueError):
    """Folders that cannot be worked on; nothing was written."""


def protect(
    folder: Path | str,
    out: Path | str,
    job: Job | None = None,
    others: Path | str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Report:
    """Protect `folder/CLASS/FILE` into `out/CLASS/FILE`.

    Args:
        folder: one folder for each class; with `others`, its pictures may be one class themselves.
        out: a new or empty folder, or one in which the same work was interrupted.
        job: how; None: with the defaults.
        others: pictures of other people, which stay as they are and are not written: `folder` is
            made unlearnable among them.
        report: is told what goes on, in words.

    Raises:
        Refused: no pictures to protect, one class without others, an output folder that has
            something else in it or lies inside the pictures.
        OSError: the disk is full, or cannot be written; says which. The work goes on from there
            when it is asked for again.
    """
    started = time.perf_counter()
    job = job or Job()
    folder, out = Path(folder).expanduser(), Path(out).expanduser()
    foreign = None if others is None else Path(others).expanduser()
    _check_folders(folder, out, foreign)
    left_out: dict[str, str] = {}
    own = find_pictures(folder, left_out, flat=foreign is not None)
    unread: dict[str, str] = {}
    theirs = [] if foreign is None else find_pictures(foreign, unread, flat=True)
    left_out |= {f"{OTHERS}{name}": why for name, why in unread.items()}
    images, own = _read(own, theirs, job.pixels, left_out, report)
    if foreign is not None and not any(name.startswith(OTHERS) for name in images.classes):
        raise Refused(f"no picture in {foreign} can be read{_named(left_out, OTHERS)}")
    try:
        check_classes(images)
    except ValueError as error:
        raise Refused(f"{error}; or name a folder of other people's pictures (others)") from error
    mine = tuple(sorted({images.classes.index(photo.label) for photo in own}))
    method = method_of(job, len(images), mine if theirs else None)
    names = [str(photo.name) for photo in own]
    with _State(
        out, {"job": described(job), "pictures": images.fingerprint, "names": names}
    ) as state:
        noise = state.noise(images)
        if noise is None:
            noise = method.make(
                images,
                job.seed,
                fastest_precision(),
                network=_no_network,
                report=_with_time_left(report),
            )
            state.keep(noise)
        report(f"writing {len(own)} pictures")
        changed, failed = _write_all(own, images, noise, out, job, state, report)
        state.end()
    left_out |= failed
    seconds = time.perf_counter() - started
    return Report(len(own) - len(failed), left_out, changed, noise.rounds, seconds)


def _check_folders(folder: Path, out: Path, others: Path | None) -> None:
    for read in filter(None, (folder, others)):
        if not read.is_dir():
            raise Refused(f"{read} is not a folder")
        if _overlap(read, out):
            raise Refused(
                f"{out} and {read} lie in each other: name an output folder somewhere else, so "
                "that pictures and protected pictures cannot be mixed up"
            )
    if others is not None and _overlap(folder, others):
        raise Refused(
            f"{others} and {folder} lie in each other: your own pictures would be among those "
            "of others, unprotected. Move them apart"
        )
    if out.exists() and not out.is_dir():
        raise Refused(f"{out} is a file: name a new folder")


def _overlap(first: Path, second: Path) -> bool:
    """Whether two folders, which need not be there, are one or lie in each other by any name."""

    def lies_in(inner: Path, outer: Path) -> bool:
        places = (inner.resolve(), *inner.resolve().parents)
        return outer.exists() and any(one.exists() and one.samefile(outer) for one in places)

    return lies_in(first, second) or lies_in(second, first)


def _with_time_left(report: Callable[[str], None]) -> Callable[[str], None]:
    """The same, with how long the rounds, or passes, will still take where their number is told."""
    began = time.monotonic()

    def told(line: str) -> None:
        found = re.match(r"(?:round|pass) (\d+) of (\d+)", line)
        report(line + pictures.time_left(began, *map(int, found.groups())) if found else line)

    return told


# --- what is there -------------------------------------------------------------------------------


def find_pictures(
    folder: Path, left_out: dict[str, str] | None = None, flat: bool = False
) -> list[Photo]:
    """All pictures below a folder, in alphabetical order.

    Args:
        left_out: gets the names of other files that might be pictures, and why each is left out.
        flat: whether the folder's own pictures are a class, too, with its name.
    """
    found, folders = [], set[str]()
    left_out = {} if left_out is None else left_out

    def unread(error: OSError) -> None:
        where = Path(error.filename or folder)
        left_out[shown(where.relative_to(folder))] = f"the folder cannot be read: {error.strerror}"

    for place, inner, files in os.walk(folder, onerror=unread):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for linked in (Path(place) / name for name in inner if (Path(place) / name).is_symlink()):
            left_out[shown(linked.relative_to(folder))] = (
                "it is a link to a folder: copy the folder"
            )
        if Path(place) == folder:
            folders = {shown(Path(name)) for name in inner}
        for file in sorted(files):
            path = Path(place) / file
            name = path.relative_to(folder)
            if file.startswith(".") or path.suffix.lower() in pictures.NO_PICTURES:
                continue
            if wrong := pictures.unreadable(path):
                left_out[shown(name)] = wrong
            elif len(name.parts) > 1:
                found.append(Photo(path, name, name.parts[0]))
            elif flat:
                found.append(Photo(path, name, folder.resolve().name))
            else:
                left_out[shown(name)] = "it lies beside the class folders: move it into one"
    told = {*left_out, *(shown(photo.name) for photo in found)}
    for empty in folders - {head for name in told for head in Path(name).parts[:1]}:
        left_out[empty] = "the folder holds no pictures"
    return found


def shown(name: Path) -> str:
    """A name as it can be printed: some file systems have bytes that are no text, and a name may
    have line ends and commands to a terminal in it."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _named(left_out: dict[str, str], beginning: str = "") -> str:
    """The first of these that were left out, in brackets."""
    names = [name for name in left_out if name.startswith(beginning)][:5]
    return f" ({'; '.join(f'{name}: {left_out[name]}' for name in names)})" if names else ""


def _read(
    own: list[Photo],
    theirs: list[Photo],
    size: int,
    left_out: dict[str, str],
    report: Callable[[str], None],
) -> tuple[ImageSet, list[Photo]]:
    """The pictures at the working size, own ones first, and those that are to be written.

    Raises:
        Refused: there is none of one's own.
    """
    files = [photo.file for photo in (*own, *theirs)]
    pixels, problems = pictures.read_each(files, size, report)
    for place, photo in enumerate(own):
        if place not in problems and (wrong := too_small(photo.file)):
            problems[place] = wrong
    for place, why in sorted(problems.items()):
        photo = (*own, *theirs)[place]
        name = shown(photo.name)
        left_out[f"{OTHERS}{name}" if place >= len(own) else name] = why.removeprefix(
            f"{photo.file.parent.name}/{photo.file.name}: "
        )
    kept = [place for place in range(len(own) + len(theirs)) if place not in problems]
    mine = [photo for place, photo in enumerate(own) if place not in problems]
    # A class of others may have the name of one's own, and is another one all the same.
    names = [photo.label for photo in mine]
    names += [f"{OTHERS}{p.label}" for n, p in enumerate(theirs, len(own)) if n not in problems]
    classes = tuple(sorted(set(names)))
    if not mine:
        raise Refused(f"there is no picture that can be protected{_named(left_out)}")
    labels = torch.tensor([classes.index(name) for name in names])
    return ImageSet(pixels[kept], labels, classes, "these pictures"), mine


def too_small(file: Path) -> str | None:
    """Why a picture that can be read is not protected; None: it is."""
    try:
        with Image.open(file, formats=pictures.FORMATS) as opened:
            tiny = min(opened.size) < SHORTEST
    except OSError as error:  # it was removed in the meantime
        return f"it can be read no more: {error}"
    return f"it is smaller than {SHORTEST} pixels" if tiny else None


# --- noise ---------------------------------------------------------------------------------------


def method_of(job: Job, count: int, only: tuple[int, ...] | None = None) -> Method:
    """How the noise is made: the `cpu` profile's settings, at the job's strength.

    Args:
        count: of pictures.
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


def spread(delta: torch.Tensor, height: int, width: int, strength: int) -> torch.Tensor:
    """Noise of a picture's middle square, at the picture's size: beyond the square it is mirrored.

    Args:
        delta: `(C, S, S)` float.
        strength: bound of the result.

    Returns:
        `(C, height, width)` int8, gray levels.
    """
    side = min(height, width)
    square = torch.empty(len(delta), side, side, dtype=torch.int8)
    for channel, one in zip(square, delta, strict=True):  # one by one: a picture may be large
        whole = F.interpolate(one[None, None], [side, side], mode="bilinear", antialias=True)[0, 0]
        channel.copy_(whole.mul_(255).round_().clamp_(-strength, strength))
    around = [((n - side) // 2, n - side - (n - side) // 2) for n in (height, width)]
    return torch.from_numpy(np.pad(square.numpy(), [(0, 0), *around], mode="symmetric"))


# --- writing -------------------------------------------------------------------------------------


def _write_all(
    photos: list[Photo],
    images: ImageSet,
    noise: Perturbation,
    out: Path,
    job: Job,
    state: _State,
    report: Callable[[str], None],
) -> tuple[dict[str, str], dict[str, str]]:
    """What else was changed in each picture, and why some could not be written after all."""
    targets = targets_of(photos, job.format)
    before = state.written()
    changed: dict[str, str] = {}
    failed: dict[str, str] = {}
    with _explained(state.folder):
        twins = _twins(targets, state.folder)

    def one(place: int) -> None:
        photo, target = photos[place], out / targets[place]
        if place in twins:
            other = shown(targets[twins[place]])
            failed[shown(photo.name)] = f"the disk takes its name for {other}: rename one of them"
            return
        seal, notes = before.get(str(targets[place]), (None, []))
        now = _seal(photo.file)
        if seal != now or not target.exists():
            (delta,) = noise.of(images, torch.tensor([place]))
            try:
                data, notes = protected_file(photo.file, delta, job)
            except Exception as error:  # it can be read, and refused by an encoder all the same
                failed[shown(photo.name)] = f"it could not be written: {str(error) or repr(error)}"
                return
            with _explained(target):
                try:
                    write_bytes(target, data)
                except OSError as error:
                    if error.errno not in OF_ITS_NAME:
                        raise
                    name = shown(targets[place])
                    failed[shown(photo.name)] = f"it cannot be named {name}: rename it"
                    return
            with _explained(state.journal):
                state.wrote(targets[place], now, notes)
        if notes:
            changed[shown(photo.name)] = "; ".join(notes)

    pictures.in_threads(one, len(photos), "written", WRITERS, report)
    return dict(sorted(changed.items())), failed


OF_ITS_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}  # what no room would change


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """An error of the disk says where, and what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room" if full else "make it writable"
        why = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(
            f"{file} cannot be written: {why}. What is done stays: {remedy}, then give the same "
            "command, which goes on from there"
        ) from error


def _twins(targets: Sequence[Path], folder: Path) -> dict[int, int]:
    """The places of names that the disk takes for an earlier one, and that one's place.

    Args:
        folder: on that disk, where files may be made.
    """
    first: dict[str, int] = {}
    places = [first.setdefault(folded(target), place) for place, target in enumerate(targets)]
    twins = {place: earlier for place, earlier in enumerate(places) if earlier != place}
    return twins if twins and _confuses_names(folder) else {}


def _confuses_names(folder: Path) -> bool:
    """Whether a disk knows no upper case, or no two ways to write an umlaut."""
    (folder / "\u00fc").touch()
    return any((folder / name).exists() for name in ("\u00dc", "u\u0308"))


def composed(name: Path | str) -> str:
    """A name with umlauts as one letter each; some disks and zip programs write two."""
    return unicodedata.normalize("NFC", str(name))


def folded(name: Path) -> str:
    """What two names have in common that some disk takes for each other."""
    return composed(composed(name).casefold())


def _seal(file: Path) -> list[int]:
    """What differs once a file was changed; nothing of one that is gone: reading it will tell."""
    try:
        about = file.stat()
    except OSError:
        return []
    return [about.st_size, about.st_mtime_ns]


def targets_of(photos: Iterable[Photo], format: str) -> list[Path]:
    """Names of the written pictures; two that would have the same keep their old suffix before."""
    photos = list(photos)
    if format == "keep":
        return [photo.name for photo in photos]
    plain = [photo.name.with_suffix(SUFFIX[format]) for photo in photos]
    often = Counter(map(folded, plain))
    taken = {name for name, number in often.items() if number == 1}
    targets: list[Path] = []
    for name, photo in zip(plain, photos, strict=True):
        if often[folded(name)] > 1:
            numbers = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
            longer = (photo.name.with_name(photo.name.name + n + SUFFIX[format]) for n in numbers)
            name = next(one for one in longer if folded(one) not in taken)
        taken.add(folded(name))
        targets.append(name)
    return targets


def protected_file(file: Path, delta: torch.Tensor, job: Job) -> tuple[bytes, list[str]]:
    """A picture's file with noise in it.

    Size, orientation, colour profile, transparency and gray mode stay, and so does what its EXIF
    data say, but for the place if the job says so.

    Args:
        delta: `(3 or 1, S, S)` float, noise for its middle square, upright.

    Returns:
        the file, and what else is different in it, in words.
    """
    with Image.open(file, formats=pictures.FORMATS) as opened:
        opened.load()  # colours of 16 bits as 8
        kind = "JPEG" if opened.format == "MPO" else str(opened.format)
        exif, coded = opened.getexif(), opened.info.get("exif", b"")
        upright, notes = _plain(ImageOps.exif_transpose(opened))
        if kind == "PNG":
            bits, colours = _png_header(file)
            if colours == GRAY_AND_GLASS:  # of 16 bits, Pillow opens it in colour
                upright = upright.convert("LA")
            if bits == 16 and DEEP not in notes:
                notes.append(DEEP)
        if upright.mode in ("L", "LA") and job.method == "CSD" and job.pixels < SIZE:
            notes.append(GRAY)
        if opened.format == "MPO":
            notes.append("the first of its several pictures alone")
        told = {name: opened.info[name] for name in ("icc_profile", "dpi") if opened.info.get(name)}
        # A profile of CMYK or LAB describes other channels than are left.
        if opened.mode in ("CMYK", "LAB") and told.pop("icc_profile", None):
            notes.append("its colour profile was left out")
        words = [opened.info.get(name) for name in ("xmp", "photoshop", "comment")]
        if any([*words, getattr(opened, "text", None)]):
            notes.append("XMP or IPTC data, comments or texts were left out")
        light, coding = _light(opened.info), _coding(opened, job)
    lossless = kind == "WEBP" and job.quality is None and _is_lossless(file)
    placed = job.drop_location and GPS in exif
    if placed:
        del exif[GPS]
        notes.append("the place was left out")
    target = {"keep": kind, "png": "PNG", "jpg": "JPEG"}[job.format]
    if target in ("JPEG", "BMP") and upright.mode in ("LA", "RGBA"):
        white = Image.new("RGBA", upright.size, "white")
        seen = Image.alpha_composite(white, upright.convert("RGBA"))
        upright = seen.convert("RGB" if upright.mode == "RGBA" else "L")
        notes.append("what was transparent is white")
    noisy = _add(upright, delta, job.strength)
    turned = TURN_BACK.get(exif.get(0x0112, 1))
    if turned is not None:
        noisy = noisy.transpose(turned)
    if len(exif):
        told["exif"], lost = _exif(exif, coded, changed=placed)
        notes += lost
    options = {"JPEG": coding}.get(target, {})
    if target == "WEBP" and lossless:
        options = {"lossless": True}
    elif target == "WEBP":
        options = {"quality": job.quality or _webp_quality(upright, file.stat().st_size)}
    elif target == "BMP":
        told = {}
    if target == "PNG":
        options = {"pnginfo": light}
    elif light.chunks:
        notes.append("its gamma was left out")
    file_ = io.BytesIO()
    noisy.save(file_, target, **told, **options)
    return file_.getvalue(), notes


DEEP = "16 bits became 8"
# Page 14b: a network that sees the pictures gray learns from CSD of 8 and 16 pixels as from none.
GRAY = (
    "it is gray, where CSD of few pixels does not protect: protect gray pictures by themselves, "
    f"with ULEO-GrayAugs, or with CSD at a size of {SIZE}"
)
MOST_EXIF = 65_000  # bytes that fit into a JPEG
EXIF = b"Exif\0\0"  # before the data themselves
PREVIEW = b"\xff\xd8\xff"  # a JPEG's beginning: of the picture without noise, in its EXIF data


def _exif(exif: Image.Exif, coded: bytes, changed: bool) -> tuple[bytes, list[str]]:
    """EXIF data as bytes, without previews; of some that cannot be written again, the orientation
    alone.

    Args:
        coded: the same, as the file had them; b"" if it had none.
        changed: whether they are the same no more.
    """
    if coded and not coded.startswith(EXIF):
        coded = EXIF + coded  # WebP has them without, JPEG is not read without
    try:
        as_coded = Image.Exif()
        as_coded.load(coded)
        previewed = PREVIEW in coded or bool(as_coded.get_ifd(ExifTags.IFD.IFD1))
        # Pillow takes an orientation from XMP data, too, which are not written.
        alike = as_coded.get(0x0112) == exif.get(0x0112)
        as_it_is = coded and alike and not (changed or previewed)
        whole = coded if as_it_is else exif.tobytes()  # Pillow's own way, and without a preview
        if len(whole) <= MOST_EXIF and PREVIEW not in whole:
            return whole, ["the preview in its EXIF data was left out"] * previewed
    except (struct.error, TypeError, ValueError, OverflowError):
        pass
    kept = Image.Exif()
    if (orientation := exif.get(0x0112)) is not None:
        kept[0x0112] = orientation
    return kept.tobytes(), ["its EXIF data could not be written again, but for the orientation"]


def _plain(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """In one of the modes L, LA, RGB, RGBA, and what that changes."""
    glass = ["what was transparent is white"] if picture.has_transparency_data else []
    if picture.mode.startswith("I") or picture.mode == "F":
        return pictures.as_seen(picture).convert("L"), [DEEP, *glass]
    if picture.mode in ("LA", "RGBA"):
        return picture, []
    if picture.mode == "1":
        return pictures.as_seen(picture).convert("L"), ["black and white became gray", *glass]
    if picture.has_transparency_data:
        wanted = "LA" if picture.mode == "L" else "RGBA"
        return picture.convert(wanted), []
    if picture.mode in ("L", "RGB"):
        return picture, []
    notes = {"P": ["its palette of few colours was left"], "CMYK": ["CMYK became RGB"]}
    return picture.convert("RGB"), notes.get(picture.mode, [f"{picture.mode} became RGB"])


GRAY_AND_GLASS = 4  # a PNG header's number for one channel and transparency
USUAL_GAMMA = 0.45455  # as a PNG file has it: 1/2.2, what is assumed where nothing is said


def _png_header(file: Path) -> tuple[int, int]:
    """Bits a channel of a PNG file, and its number for what the channels are."""
    with file.open("rb") as opened:
        bits, colours = opened.read(26)[24:]
    return bits, colours


def _light(info: dict[str | tuple[int, int], Any]) -> PngImagePlugin.PngInfo:
    """What a PNG file says of how bright its levels are and which colours they mean, where that is
    not as usual, and there is no colour profile, which says it better."""
    light = PngImagePlugin.PngInfo()
    if "icc_profile" in info or "srgb" in info:
        return light
    gamma, colours = info.get("gamma", USUAL_GAMMA), info.get("chromaticity")
    if abs(gamma - USUAL_GAMMA) > 0.001:
        light.add(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
        if colours is not None and len(colours) == 8:  # a stranger's file may have any number
            light.add(b"cHRM", struct.pack(">8I", *(round(one * 100_000) for one in colours)))
    return light


def _is_lossless(file: Path) -> bool:
    """Whether a WebP file has its pixels without loss, in a chunk of the name VP8L."""
    with file.open("rb") as opened:
        opened.seek(12)
        while len(head := opened.read(8)) == 8:
            if head[:4] in (b"VP8L", b"VP8 "):
                return head[:4] == b"VP8L"
            size = int.from_bytes(head[4:], "little")
            opened.seek(size + size % 2, os.SEEK_CUR)
    return False


def _webp_quality(picture: Image.Image, size: int) -> int:
    """The quality at which a picture takes about so many bytes, which no WebP file tells."""

    def bytes_at(quality: int) -> int:
        picture.save(file := io.BytesIO(), "WEBP", quality=quality)
        return file.tell()

    found = bisect.bisect_left(WEBP_QUALITIES, size, key=bytes_at)
    return WEBP_QUALITIES[min(found, len(WEBP_QUALITIES) - 1)]


def _coding(opened: Image.Image, job: Job) -> dict[str, Any]:
    """How a JPEG is written: as the picture itself was, if it was one, so that it is as large."""
    coded = isinstance(opened, JpegImagePlugin.JpegImageFile)
    if coded and opened.mode in ("L", "RGB") and job.quality is None:
        sampling = JpegImagePlugin.get_sampling(opened)
        known = {"subsampling": sampling} if sampling >= 0 else {}
        return {"qtables": opened.quantization, **known}  # type: ignore[attr-defined]
    return {"quality": job.quality or 95, "subsampling": 0}  # colour noise needs whole resolution


def _add(picture: Image.Image, delta: torch.Tensor, strength: int) -> Image.Image:
    """Noise within `strength` gray levels in every channel, but for transparency."""
    pixels = np.array(picture)
    height, width = pixels.shape[:2]
    shaped = pixels.reshape(height, width, -1)
    gray = picture.mode in ("L", "LA")
    if gray and len(delta) == 3:
        delta = (torch.tensor(LUMA).view(3, 1, 1) * delta).sum(0, keepdim=True)
    colours = 1 if gray else 3
    levels = spread(delta, height, width, strength).expand(colours, -1, -1).numpy()
    for top in range(0, height, STRIP):
        strip = shaped[top : top + STRIP, :, :colours]
        moved = strip.astype(np.int16)
        for channel, noise in enumerate(levels[:, top : top + STRIP]):  # row by row in memory
            moved[..., channel] += noise
        strip[:] = moved.clip(0, 255, out=moved)
    return Image.fromarray(pixels, picture.mode)


# --- going on where it was -----------------------------------------------------------------------


class _State:
    """What is kept in the output folder while the work is under way: its job, the noise, and what
    is written.

    Args:
        told: what the work is about.

    Raises:
        Refused: on entering: the folder has something else in it, the state of another work, or
            another process is at this one.
    """

    def __init__(self, out: Path, told: dict[str, Any]) -> None:
        self.out, self.folder = out, out / STATE
        self.told, self.names = json.dumps(told, sort_keys=True), told["names"]
        self.file = self.folder / "delta.safetensors"
        self.journal = self.folder / "written.jsonl"
        self.writing = threading.Lock()

    def __enter__(self) -> _State:
        job = self.folder / "job.json"
        if self._filled() and not job.is_file():
            raise Refused(
                f"{self.out} is not empty, and no unfinished work is in it: name a new folder for "
                "what is written"
            )
        self.lock = FileLock(self.folder / "lock", timeout=0)
        with _explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self.lock.acquire()
            except Timeout:
                raise Refused(f"another process is at work in {self.out}") from None
        try:
            self._take_up(job)
        except BaseException:  # `__exit__` is not called then
            self.lock.release()
            raise
        return self

    def _take_up(self, job: Path) -> None:
        """The work that was interrupted here, or this one from its beginning."""
        if not job.is_file() or job.read_text(encoding="utf-8") != self.told:
            if self._filled():  # asked again: whoever had the lock until now may have written
                raise Refused(
                    f"{self.out} has an unfinished work with other pictures or settings: give it "
                    "the same ones to go on, or name a new folder"
                )
            for stale in (self.file, self.journal):  # of a work that wrote no picture
                stale.unlink(missing_ok=True)
            with _explained(job):
                write_bytes(job, self.told.encode())
        for folder in {self.folder, *((self.out / name).parent for name in self.names)}:
            for part in folder.glob(f".*{PART}"):  # of a run that was killed
                if PARTLY.fullmatch(part.name):
                    part.unlink()

    def __exit__(self, *error: object) -> None:
        self.lock.release()

    def _filled(self) -> bool:
        """Whether anything is in the output folder but hidden files: this state, or what a file
        manager leaves where it looks."""
        return self.out.exists() and any(
            not entry.name.startswith(".") for entry in self.out.iterdir()
        )

    def noise(self, images: ImageSet) -> Perturbation | None:
        """What an interrupted run made.

        Raises:
            ValueError: it is no noise for these pictures; says what to do.
        """
        if not self.file.is_file():
            return None
        try:
            found = Perturbation.load(self.file)
            found.check(images)
        except ValueError as error:
            raise ValueError(f"{error}; remove {self.file} to make the noise again") from error
        return found

    def keep(self, noise: Perturbation) -> None:
        part = self.folder / "delta"
        with _explained(self.file):
            noise.save(part)
            part.replace(self.file)

    def wrote(self, target: Path, seal: list[int], notes: list[str]) -> None:
        """A picture is written, of an original with this seal, and this is different in it."""
        line = json.dumps({"picture": str(target), "original": seal, "notes": notes})
        with self.writing, self.journal.open("a", encoding="utf-8") as opened:
            opened.write(f"\n{line}\n")  # a line before may have been torn by a kill

    def written(self) -> dict[str, tuple[list[int], list[str]]]:
        """What an interrupted run wrote; what it did not note down whole is written again."""
        found: dict[str, tuple[list[int], list[str]]] = {}
        if self.journal.is_file():
            for line in self.journal.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    told = json.loads(line)
                    notes = [str(note) for note in told["notes"]]
                    found[told["picture"]] = [*map(int, told["original"])], notes
                except (ValueError, TypeError, KeyError):
                    continue
        return found

    def end(self) -> None:
        """Nothing but pictures is left."""
        self.lock.release()
        shutil.rmtree(self.folder)
