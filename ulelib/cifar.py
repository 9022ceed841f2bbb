"""CIFAR-10 and CIFAR-100: found or downloaded, checked, parsed once, memory-mapped from then on."""

from __future__ import annotations

import hashlib
import http.client
import json
import lzma
import math
import os
import socket
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
# Alphabetical, as in the official release.
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
    "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle",
    "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch",
    "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox",
    "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
    "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake",
    "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
CLASSES = {"cifar10": CIFAR10_CLASSES, "cifar100": CIFAR100_CLASSES}
# Files looked for: the whole set in $ULELIB_DATA and among the downloaded ones, then the mini set
# in $ULELIB_DATA, a fifth of CIFAR-100.
FILES = {"cifar10": ("cifar10.npz",), "cifar100": ("cifar100.npz", "cifar100_mini.npz")}
SPLITS = {"train": 50_000, "test": 10_000}  # and how many images the official release has
FIRST_LABELS = (6, 9, 9, 4, 1, 1, 2, 7, 8, 3)  # of CIFAR-10's training images, officially
MOST_BYTES = 160_000_000  # of one array; 50,000 images have 153.6 million
CACHE_FORMAT = 3  # rises when the same file is parsed differently
# What a cut connection, a proxy's error page or a broken file can raise beside the usual errors.
DOWNLOAD_ERRORS = (http.client.HTTPException, tarfile.TarError, zlib.error)
ZIP_ERRORS = (zipfile.BadZipFile, lzma.LZMAError, zlib.error, struct.error, RuntimeError)
Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


class DataUnavailable(RuntimeError):
    """A data set is neither on this machine nor to be downloaded; the message says what to do."""


def load(name: str, split: str, download: bool = True) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Images `(N, 3, 32, 32)` uint8, labels `(N,)` int64, and the name of the file they are from.

    In an order that depends on the images alone, and not on the file.

    Raises:
        ValueError: a damaged file, or one that holds something else.
        DataUnavailable: not on this machine and not to be downloaded.
        OSError: the parsed form cannot be cached, for instance on a full disk.
    """
    source = find(name, download)
    images, labels = map(torch.from_numpy, _cached(source, split, len(CLASSES[name])))
    return images, labels, source.stem


def find(name: str, download: bool = True) -> Path:
    """The npz file of "cifar10" or "cifar100".

    Raises:
        DataUnavailable: not on this machine and not to be downloaded.
    """
    folder = os.environ.get("ULELIB_DATA")
    places = [Path(folder).expanduser() / file for file in FILES[name]] if folder else []
    fetched = cache_folder() / f"{name}.npz"
    for place in (*places[:1], fetched, *places[1:]):
        if place.is_file():
            return place
    looked = " and ".join(map(str, places)) if places else "ULELIB_DATA is not set"
    reason = "downloading is switched off"
    if download:
        reason = _download(name, fetched)
        if not reason:
            return fetched
    raise DataUnavailable(
        f"{name} is not on this machine (looked for: {looked}) and could not be downloaded "
        f"({reason}). Set ULELIB_DATA to a folder that holds {FILES[name][0]} (arrays x_train, "
        "y_train, x_test, y_test), connect to a network, or use the profile smoke, which needs "
        "no data."
    )


def _download(name: str, target: Path) -> str:
    """Fetch by torchvision, which checks the archive's MD5; write an npz. Returns what failed."""
    from torchvision import datasets

    make = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(5)  # without a network: an answer in seconds
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"), tempfile.TemporaryDirectory(dir=target.parent) as folder:
            if target.is_file():  # another process fetched it while this one waited
                return ""
            arrays: dict[str, Any] = {}
            for split in SPLITS:
                part = make(folder, train=split == "train", download=True)
                arrays[f"x_{split}"] = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
                arrays[f"y_{split}"] = np.asarray(part.targets, dtype=np.int64)
            whole = Path(folder) / "whole.npz"
            np.savez(whole, **arrays)
            os.replace(whole, target)
    except (OSError, RuntimeError, ValueError, EOFError, *DOWNLOAD_ERRORS) as error:
        return str(error) or type(error).__name__
    finally:
        socket.setdefaulttimeout(timeout)
    return ""


def _cached(source: Path, split: str, n_classes: int) -> Arrays:
    """The images and labels of an npz file, memory-mapped.

    Pages are read when they are touched; a write goes to this process's own copy of the page.
    """
    about = source.stat()
    origin = json.dumps([CACHE_FORMAT, str(source.resolve()), about.st_size, about.st_mtime_ns])
    folder = cache_folder() / hashlib.sha256(origin.encode()).hexdigest()[:16]
    files = [folder / f"{split}_{part}.npy" for part in ("images", "labels")]
    sums = folder / f"{split}.sha256"
    with _cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire()
    try:
        try:
            return _mapped(files, sums)
        except (OSError, ValueError, EOFError):  # not cached yet, or the cache is damaged
            parsed = _parse(source, split, n_classes)
            with _cache_errors(folder):
                for file, array in zip(files, parsed, strict=True):
                    _save(file, array)
                sums.write_text(_checksums(files))
                return _mapped(files, sums)
    finally:
        lock.release()


def _mapped(files: list[Path], sums: Path) -> Arrays:
    """Raises ValueError where a file is not what was written."""
    if sums.read_text() != _checksums(files):
        raise ValueError(f"{sums.parent} is damaged")
    images, labels = (np.lib.format.open_memmap(file, mode="c") for file in files)
    return images, labels


def _checksums(files: list[Path]) -> str:
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return "\n".join(digests)


def rows_in_file(name: str, split: str, download: bool = True) -> torch.Tensor:
    """Which row of the data set's file each image of `load` is: `(N,)` int64.

    Raises:
        NotOfficial: the file does not have the order of the official release; says what to do.
        ValueError, DataUnavailable: see `load`.
    """
    if (name, split) != ("cifar10", "train"):
        raise NotOfficial("the official order is known of CIFAR-10's training images alone")
    source = find(name, download)
    with _explained(source, split):
        _look_at_headers(source, split)
        with source.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            first = tuple(file[f"y_{split}"][: len(FIRST_LABELS)].tolist())
    if first != FIRST_LABELS:
        raise NotOfficial(
            f"{source} holds its images in another order. Move it away, and torchvision downloads "
            "them in the official one"
        )
    return torch.from_numpy(_own_order(*_read(source, split, len(CLASSES[name]))))


class NotOfficial(ValueError):
    """A data set's file that has another order than the official release."""


def _parse(source: Path, split: str, n_classes: int) -> Arrays:
    images, labels = _read(source, split, n_classes)
    order = _own_order(images, labels)
    return images[order], labels[order]


def _own_order(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An order that the images alone decide: whoever has them in another file gets the same
    subsets, batches and fingerprints from the same seed."""
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    return np.lexsort((labels, np.array(digests, dtype="S32")))


def _read(source: Path, split: str, n_classes: int) -> Arrays:
    """Images and labels as they stand in an npz file."""
    with _explained(source, split):
        _look_at_headers(source, split)
        with source.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            images, labels = file[f"x_{split}"], file[f"y_{split}"]
    _check(source, split, n_classes, images, labels)
    return images, labels


@contextmanager
def _explained(source: Path, split: str) -> Iterator[None]:
    """Name the file that cannot be read, and what it should hold."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, EOFError, *ZIP_ERRORS) as error:
        raise ValueError(
            f"{source} cannot be read ({error or type(error).__name__}); expected an npz file with "
            f"x_{split} and y_{split}. Fetch it again."
        ) from error


def _look_at_headers(source: Path, split: str) -> None:
    """Refuse what declares more images than CIFAR has, before memory is asked for."""
    with zipfile.ZipFile(source) as archive:
        for part in "xy":
            with archive.open(f"{part}_{split}.npy") as member:
                version = np.lib.format.read_magic(member)
                if version != (1, 0):
                    raise ValueError(f"{part}_{split} has npy format {version}")
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            if not all(0 < side <= SPLITS[split] for side in shape) or (
                math.prod(shape) * dtype.itemsize > MOST_BYTES
            ):
                raise ValueError(f"{part}_{split} declares a shape of {shape} of {dtype}")


def _check(
    source: Path,
    split: str,
    n_classes: int,
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
) -> None:
    if images.shape[1:] != (3, 32, 32) or not len(images) or images.dtype != np.uint8:
        raise ValueError(
            f"{source}: x_{split} is {images.dtype} of shape {images.shape}; expected uint8 of "
            "shape (N, 3, 32, 32)"
        )
    if labels.shape != images.shape[:1] or labels.dtype != np.int64:
        raise ValueError(
            f"{source}: y_{split} is {labels.dtype} of shape {labels.shape}; expected int64 of "
            f"shape ({len(images)},)"
        )
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(
            f"{source}: y_{split} runs from {labels.min()} to {labels.max()}; expected labels in "
            f"0..{n_classes - 1}"
        )
    empty = sorted(set(range(n_classes)) - set(np.unique(labels).tolist()))
    if empty:
        raise ValueError(f"{source}: {split} has no images of {len(empty)} classes, {empty[:5]}")


def _save(file: Path, array: np.ndarray[Any, Any]) -> None:
    """Written under another name and then renamed: `file` is whole, or as it was."""
    handle, name = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            np.save(stream, array, allow_pickle=False)
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    """Say what to do where the cache cannot be written; numpy gives no errno on a full disk."""
    try:
        yield
    except OSError as error:
        explained = OSError(
            f"the parsed images cannot be kept in {folder} ({error}). The source is as it was: "
            "free some space there, or set ULELIB_CACHE to a folder that has some"
        )
        explained.errno = error.errno
        raise explained from error


def cache_folder() -> Path:
    """`$ULELIB_CACHE`, or else a folder in the user's cache."""
    return Path(os.environ.get("ULELIB_CACHE") or "~/.cache/ulelib").expanduser()
