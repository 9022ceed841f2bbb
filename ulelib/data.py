"""Image sets: whole, in memory, as uint8.

    load("cifar10", "train")    CIFAR-10 and CIFAR-100: from $ULELIB_DATA, or downloaded by torchvision
    load("shapes", "train")     an embedded colour data set, drawn by code
    image_folder(path)          anybody's pictures, one folder a class
"""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
import os
import socket
import tempfile
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SHAPES_CLASSES = (
    "disc", "ring", "square", "frame", "triangle", "cross", "stripes", "checker", "dots", "ripples",
)  # fmt: skip
# Files looked for in $ULELIB_DATA, in this order. The mini set holds a fifth of CIFAR-100.
FILES = {"cifar10": ("cifar10.npz",), "cifar100": ("cifar100.npz", "cifar100_mini.npz")}
SPLITS = ("train", "test")
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


class DataUnavailable(RuntimeError):
    """A data set is neither on this machine nor to be downloaded; the message says what to do."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with labels.

    Attributes:
        images: `(N, 3, H, W)` uint8.
        labels: `(N,)` int64 in [0, C).
        classes: C class names.
        name: for captions.

    Raises:
        ValueError: another shape or dtype, or labels out of range.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(
                f"{self.name}: images are {images.dtype} of shape {tuple(images.shape)}; "
                "expected uint8 of shape (N, 3, H, W)"
            )
        if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(
                f"{self.name}: labels are {labels.dtype} of shape {tuple(labels.shape)}; "
                f"expected int64 of shape ({len(images)},)"
            )
        if not len(images):
            raise ValueError(f"{self.name}: there are no images")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            raise ValueError(
                f"{self.name}: labels run from {low} to {high}; with {len(self.classes)} classes "
                f"they must lie in 0..{len(self.classes) - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: torch.Tensor) -> ImageSet:
        """The images at `indices` `(M,)` int64, in that order."""
        return ImageSet(self.images[indices], self.labels[indices], self.classes, self.name)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits that tell these images, labels and their order from any others."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()[:16]


def load(name: str, split: str, download: bool = True) -> ImageSet:
    """A data set by name.

    Args:
        name: "cifar10", "cifar100" or "shapes".
        split: "train" or "test".
        download: whether torchvision may fetch CIFAR where it is not on this machine.

    Raises:
        ValueError: an unknown name or split, or a damaged file.
        DataUnavailable: not on this machine and not to be downloaded.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}; choose from {SPLITS}")
    if name == "shapes":
        return shapes(split)
    if name not in FILES:
        raise ValueError(f"data set {name!r}; choose from {['shapes', *FILES]}")
    source = _find(name, download)
    images, labels = _cached(source, split)
    return ImageSet(images, labels, _class_names(name), source.stem)


def is_available(name: str, download: bool = True) -> bool:
    """Whether `load(name, ...)` would find its data; tries to download it if it may."""
    if name == "shapes":
        return True
    try:
        _find(name, download)
    except DataUnavailable:
        return False
    return True


def stratified_subset(images: ImageSet, n: int, seed: int) -> ImageSet:
    """`n` images, of each class as many as its share, drawn and ordered by `seed`.

    Shares that are not whole are rounded by largest remainder.

    Raises:
        ValueError: `n` is not in 1..N.
    """
    if not 1 <= n <= len(images):
        raise ValueError(f"a subset of {n} from {len(images)} images of {images.name}")
    generator = torch.Generator().manual_seed(seed)
    counts = torch.bincount(images.labels, minlength=len(images.classes))
    shares = counts.double() * n / len(images)
    quota = shares.floor().long()
    short = n - int(quota.sum())
    quota[(shares - quota).argsort(descending=True, stable=True)[:short]] += 1
    chosen = [
        (images.labels == label).nonzero()[:, 0][torch.randperm(int(count), generator=generator)][:q]
        for label, (count, q) in enumerate(zip(counts.tolist(), quota.tolist(), strict=True))
    ]
    indices = torch.cat(chosen)
    return images.select(indices[torch.randperm(n, generator=generator)])


def mix(first: ImageSet, second: ImageSet) -> ImageSet:
    """Both sets, one behind the other.

    Raises:
        ValueError: other classes, or images of another size.
    """
    if first.classes != second.classes:
        raise ValueError(f"{first.name} and {second.name} do not have the same classes")
    if first.images.shape[1:] != second.images.shape[1:]:
        raise ValueError(f"{first.name} and {second.name} do not have images of the same size")
    return ImageSet(
        torch.cat([first.images, second.images]),
        torch.cat([first.labels, second.labels]),
        first.classes,
        f"{first.name} and {second.name}",
    )


# --- shapes: drawn by code -----------------------------------------------------------------------


def shapes(split: str, n: int | None = None) -> ImageSet:
    """Ten classes told apart by shape and texture and not by colour; 32x32.

    Position, size, angle, both colours and noise are drawn without regard to the class. The two
    colours always differ in luminance, so that a gray filter removes nothing that tells classes
    apart.

    Args:
        split: "train" (4,000 images unless `n` is given) or "test" (1,000).
        n: number of images.
    """
    count = n or (4000 if split == "train" else 1000)
    generator = torch.Generator().manual_seed(SPLITS.index(split))

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    labels = torch.arange(count) % len(SHAPES_CLASSES)
    labels = labels[torch.randperm(count, generator=generator)]
    # Every image has its own coordinates u, v: shifted, turned and scaled, a shape's radius is 1.
    axis = torch.linspace(-1, 1, 32)
    y = axis.view(1, 32, 1) - uniform(-0.2, 0.2, 1, 1)
    x = axis.view(1, 1, 32) - uniform(-0.2, 0.2, 1, 1)
    angle, size = uniform(-0.35, 0.35, 1, 1), uniform(0.6, 0.8, 1, 1)
    u = (x * angle.cos() + y * angle.sin()) / size
    v = (y * angle.cos() - x * angle.sin()) / size
    radius, box = (u.square() + v.square()).sqrt(), torch.maximum(u.abs(), v.abs())
    wave = 2 * torch.pi * uniform(1.1, 1.4, 1, 1)
    # Signed depth inside of the figure, positive inside; `(classes, N, 32, 32)` one by one.
    depth = torch.zeros(count, 32, 32)
    for label, inside in enumerate(
        (
            0.9 - radius,
            0.25 - (radius - 0.7).abs(),
            0.8 - box,
            0.22 - (box - 0.68).abs(),
            torch.minimum(0.6 - v, 0.5 * v + 0.45 - 0.9 * u.abs()),
            torch.minimum(0.95 - box, 0.27 - torch.minimum(u.abs(), v.abs())),
            torch.sin(wave * v) / 4,
            torch.sin(wave * u) * torch.sin(wave * v) / 3,
            (torch.cos(wave * u) + torch.cos(wave * v) - 0.6) / 5,
            torch.sin(wave * radius) / 4,
        )
    ):
        mine = labels == label
        depth[mine] = inside[mine]
    mask = torch.sigmoid(depth * 24)[:, None]  # (N, 1, 32, 32), soft edges
    # Of eight pairs of colours take the one that differs most in luminance.
    pairs = uniform(0, 1, 8, 2, 3)  # (N, pair, fore- and background, RGB)
    luma = pairs @ torch.tensor([0.299, 0.587, 0.114])
    best = (luma[..., 0] - luma[..., 1]).abs().argmax(1)
    front, back = pairs[torch.arange(count), best].view(count, 2, 3, 1, 1).unbind(1)
    pixels = mask * front + (1 - mask) * back + 0.05 * uniform(-1, 1, 3, 32, 32)
    images = (255 * pixels).round().clamp(0, 255).to(torch.uint8)
    return ImageSet(images, labels, SHAPES_CLASSES, "shapes")


# --- image folders -------------------------------------------------------------------------------


def image_folder(path: str | Path, size: int = 32) -> ImageSet:
    """Pictures in `path/CLASS/*.jpg` (or png, ...): RGB, shorter side `size`, centre-cropped.

    Raises:
        ValueError: no folder, no classes, or a picture that cannot be read (its name is said).
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    classes = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir()))
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((root / name).iterdir())
        if file.suffix.lower() in PICTURE_SUFFIXES
    ]
    if not files:
        raise ValueError(
            f"{root} holds no pictures: expected one folder a class, with "
            f"{', '.join(sorted(PICTURE_SUFFIXES))} files in it"
        )
    with ThreadPoolExecutor() as pool:  # PIL decodes outside of Python's lock
        pixels = list(pool.map(lambda item: _picture(item[0], size), files))
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor([label for _, label in files]), classes, root.name)


def _picture(file: Path, size: int) -> np.ndarray[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as picture:
                picture = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Warning, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} cannot be read as a picture: {error}") from error
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


# --- CIFAR: found or downloaded, parsed once, memory-mapped from then on ---------------------------


def _find(name: str, download: bool) -> Path:
    """The npz file of a CIFAR set."""
    folder = os.environ.get("ULELIB_DATA")
    places = [Path(folder) / file for file in FILES[name]] if folder else []
    fetched = _cache_folder() / f"{name}.npz"
    for place in (*places, fetched):
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
        arrays = {}
        with FileLock(f"{target}.lock"), tempfile.TemporaryDirectory(dir=target.parent) as folder:
            for split in SPLITS:
                part = make(folder, train=split == "train", download=True)
                arrays[f"x_{split}"] = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
                arrays[f"y_{split}"] = np.asarray(part.targets, dtype=np.int64)
            whole = Path(folder) / "whole.npz"
            np.savez(whole, **arrays)
            os.replace(whole, target)
    except (OSError, RuntimeError) as error:
        return str(error) or type(error).__name__
    finally:
        socket.setdefaulttimeout(timeout)
    return ""


def _cached(source: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """images `(N, 3, H, W)` uint8 and labels `(N,)` int64 of an npz file, memory-mapped."""
    stat = source.stat()
    origin = json.dumps([str(source.resolve()), stat.st_size, stat.st_mtime_ns])
    folder = _cache_folder() / hashlib.sha256(origin.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{split}_{part}.npy" for part in ("images", "labels")]
    with FileLock(folder / ".lock"):
        try:
            arrays = [np.load(file, mmap_mode="c", allow_pickle=False) for file in files]
            _check(source, split, *arrays)
        except (OSError, ValueError, EOFError):  # not cached yet, or the cache is damaged
            for file, array in zip(files, _parse(source, split), strict=True):
                _save(file, array)
            arrays = [np.load(file, mmap_mode="c", allow_pickle=False) for file in files]
    images, labels = map(torch.from_numpy, arrays)
    return images, labels


def _parse(source: Path, split: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    try:
        with np.load(source, allow_pickle=False) as file:
            images, labels = file[f"x_{split}"], file[f"y_{split}"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise ValueError(
            f"{source} cannot be read ({error or type(error).__name__}); expected an npz file with "
            f"x_{split} and y_{split}. Fetch it again."
        ) from error
    _check(source, split, images, labels)
    return images, labels


def _check(
    source: Path, split: str, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise ValueError(
            f"{source}: x_{split} is {images.dtype} of shape {images.shape}; expected uint8 of "
            "shape (N, 3, H, W)"
        )
    if labels.shape != images.shape[:1] or labels.dtype != np.int64:
        raise ValueError(
            f"{source}: y_{split} is {labels.dtype} of shape {labels.shape}; expected int64 of "
            f"shape ({len(images)},)"
        )


def _save(file: Path, array: np.ndarray[Any, Any]) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            np.save(stream, array, allow_pickle=False)
        os.replace(name, file)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.add_note("Set ULELIB_CACHE to a folder with some free space.")
        raise


def _cache_folder() -> Path:
    return Path(os.environ.get("ULELIB_CACHE", Path.home() / ".cache" / "ulelib"))


def _class_names(name: str) -> tuple[str, ...]:
    if name == "cifar10":
        return CIFAR10_CLASSES
    return tuple(f"class {label}" for label in range(100))
