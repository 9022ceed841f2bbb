"""Image sets: whole, in memory, as uint8.

`load("cifar10", "train")`: CIFAR-10 and CIFAR-100, from $ULELIB_DATA or downloaded by torchvision.
`load("shapes", "train")`: an embedded colour data set, drawn by code.
`image_folder(path)`: anybody's pictures, one folder a class.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import json
import lzma
import os
import socket
import struct
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch.nn import functional as F

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SHAPES_CLASSES = (
    "disc", "ring", "square", "frame", "triangle", "cross", "stripes", "checker", "dots", "ripples",
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
SPLITS = ("train", "test")
CACHE_FORMAT = 2  # rises when the same file is parsed differently
# What a cut connection, a proxy's error page or a broken file can raise beside the usual errors.
DOWNLOAD_ERRORS = (http.client.HTTPException, tarfile.TarError, zlib.error)
NPZ_ERRORS = (zipfile.BadZipFile, lzma.LZMAError, zlib.error, struct.error, RuntimeError)
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
    """A data set by name; CIFAR in an order that depends on its images alone, not on the file.

    Args:
        name: "cifar10", "cifar100" or "shapes".
        split: "train" or "test".
        download: whether torchvision may fetch CIFAR where it is not on this machine.

    Raises:
        ValueError: an unknown name or split, or a damaged file.
        DataUnavailable: not on this machine and not to be downloaded.
        OSError: the parsed form cannot be cached, for instance on a full disk.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}; choose from {SPLITS}")
    if name == "shapes":
        return shapes(split)
    source = _find(name, download)
    images, labels = _cached(source, split, len(CLASSES[name]))
    return ImageSet(images, labels, CLASSES[name], source.stem)


def is_available(name: str, download: bool = True) -> bool:
    """Whether `load(name, ...)` would find its data; tries to download it if it may.

    Raises:
        ValueError: an unknown name.
    """
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
    chosen = []
    for label, share in enumerate(quota.tolist()):
        members = (images.labels == label).nonzero()[:, 0]
        chosen.append(members[torch.randperm(len(members), generator=generator)[:share]])
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

    Position, size, angle, both colours and a coloured clutter are drawn without regard to the
    class. The two colours always differ in luminance, so that a gray filter removes nothing that
    tells classes apart. The figures are faint, on average 22 gray levels from their background, and
    soft-edged: on strong contrasts no noise of 8/255 would matter.

    Args:
        split: "train" (4,000 images unless `n` is given) or "test" (1,000).
        n: number of images, at least 1.

    Raises:
        ValueError: an unknown split, or `n` below 1.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}; choose from {SPLITS}")
    count = n if n is not None else {"train": 4000, "test": 1000}[split]
    if count < 1:
        raise ValueError(f"{count} images of shapes; at least 1 is needed")
    generator = torch.Generator().manual_seed(SPLITS.index(split))

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    labels = torch.arange(count) % len(SHAPES_CLASSES)
    labels = labels[torch.randperm(count, generator=generator)]
    # Every image has its own coordinates u, v: shifted, turned and scaled, a shape's radius is 1.
    axis = torch.linspace(-1, 1, 32)
    y = axis.view(1, 32, 1) - uniform(-0.2, 0.2, 1, 1)
    x = axis.view(1, 1, 32) - uniform(-0.2, 0.2, 1, 1)
    angle, size = uniform(-0.15, 0.15, 1, 1), uniform(0.68, 0.78, 1, 1)
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
    mask = torch.sigmoid(depth * 8)[:, None]  # (N, 1, 32, 32), soft edges
    # Of eight pairs of colours take the one that differs most in luminance.
    pairs = uniform(0.33, 0.67, 8, 2, 3)  # (N, pair, fore- and background, RGB)
    luma = pairs @ torch.tensor([0.299, 0.587, 0.114])
    best = (luma[..., 0] - luma[..., 1]).abs().argmax(1)
    front, back = pairs[torch.arange(count), best].view(count, 2, 3, 1, 1).unbind(1)
    middle, half = (front + back) / 2, 0.27 * (front - back)
    clutter = F.interpolate(uniform(-1, 1, 3, 8, 8), (32, 32), mode="bicubic")
    pixels = middle + (2 * mask - 1) * half + 0.025 * clutter
    images = (255 * pixels).round().clamp(0, 255).to(torch.uint8)
    return ImageSet(images, labels, SHAPES_CLASSES, "shapes")


# --- image folders -------------------------------------------------------------------------------


def image_folder(path: str | Path, size: int = 32) -> ImageSet:
    """Pictures in `path/CLASS/*.jpg` (or png, ...): RGB, `(N, 3, size, size)`.

    The pixels are those of torchvision's `Resize(size)` and `CenterCrop(size)`. Classes and files
    are in alphabetical order; names that start with a dot are left out.

    Raises:
        ValueError: no folder, no classes, a class without pictures, a size below 1, or a picture
            that cannot be read or is too large to be one (its name is said).
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    if size < 1:
        raise ValueError(f"size is {size}; images are at least 1 pixel wide")
    folders = sorted(
        entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not folders:
        raise ValueError(f"{root} holds no classes: expected one folder of pictures for each")
    members = [_pictures(folder) for folder in folders]
    # Around the threads and not in them: Python's warning filters belong to the whole process.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:  # PIL decodes without the GIL
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        files = [file for member in members for file in member]
        pixels = np.stack(list(pool.map(functools.partial(_picture, size=size), files)))
    labels = torch.arange(len(folders)).repeat_interleave(torch.tensor([len(m) for m in members]))
    return ImageSet(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        labels,
        tuple(folder.name for folder in folders),
        root.resolve().name,
    )


def save_folder(images: ImageSet, path: str | Path) -> None:
    """Write images as an image folder: `path/CLASS/NUMBER.png`, the number being the image's place.

    PNG, because a lossy format would change what a perturbation depends on.

    Raises:
        FileExistsError: the folder is there and not empty.
        OSError: it cannot be written.
    """
    root = Path(path)
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty: name a new folder for the pictures")
    for name in images.classes:
        (root / name).mkdir(parents=True, exist_ok=True)
    pixels = images.images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, H, W, 3)
    for number, (picture, label) in enumerate(zip(pixels, images.labels.tolist(), strict=True)):
        Image.fromarray(picture).save(root / images.classes[label] / f"{number:06d}.png")


def _pictures(folder: Path) -> list[Path]:
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        suffixes = ", ".join(sorted(PICTURE_SUFFIXES))
        raise ValueError(f"the class {folder} holds no pictures ({suffixes}): remove it or fill it")
    return files


def _picture(file: Path, size: int) -> np.ndarray[Any, Any]:
    """`(size, size, 3)` uint8."""
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    except Exception as error:  # a damaged file can raise anything in one of PIL's decoders
        raise ValueError(f"{file} cannot be read as a picture: {error}") from error
    shorter = min(picture.size)
    width, height = (int(size * side / shorter) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


# --- CIFAR: found or downloaded, parsed once, memory-mapped from then on --------------------------


def _find(name: str, download: bool) -> Path:
    """The npz file of a CIFAR set."""
    if name not in FILES:
        raise ValueError(f"data set {name!r}; choose from {['shapes', *FILES]}")
    folder = os.environ.get("ULELIB_DATA")
    places = [Path(folder).expanduser() / file for file in FILES[name]] if folder else []
    fetched = _cache_folder() / f"{name}.npz"
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


def _cached(source: Path, split: str, n_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """images `(N, 3, 32, 32)` uint8 and labels `(N,)` int64 of an npz file, memory-mapped.

    Pages are read when they are touched; a write goes to this process's own copy of the page.
    """
    stat = source.stat()
    origin = json.dumps([CACHE_FORMAT, str(source.resolve()), stat.st_size, stat.st_mtime_ns])
    folder = _cache_folder() / hashlib.sha256(origin.encode()).hexdigest()[:16]
    files = [folder / f"{split}_{part}.npy" for part in ("images", "labels")]
    with _cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire()
    try:
        try:
            arrays = _mapped(files)
            _check(source, split, n_classes, *arrays)
        except (OSError, ValueError, EOFError):  # not cached yet, or the cache is damaged
            parsed = _parse(source, split, n_classes)
            with _cache_errors(folder):
                for file, array in zip(files, parsed, strict=True):
                    _save(file, array)
                arrays = _mapped(files)
    finally:
        lock.release()
    images, labels = map(torch.from_numpy, arrays)
    return images, labels


def _mapped(files: list[Path]) -> list[np.ndarray[Any, Any]]:
    """Raises ValueError where a file is not exactly as long as its header says."""
    arrays: list[np.ndarray[Any, Any]] = []
    for file in files:
        array = np.lib.format.open_memmap(file, mode="c")
        if array.offset + array.nbytes != file.stat().st_size:
            raise ValueError(f"{file} is not as long as its header says")
        arrays.append(array)
    return arrays


def _parse(
    source: Path, split: str, n_classes: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    try:
        with source.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            images, labels = file[f"x_{split}"], file[f"y_{split}"]
    except (OSError, ValueError, TypeError, KeyError, EOFError, *NPZ_ERRORS) as error:
        raise ValueError(
            f"{source} cannot be read ({error or type(error).__name__}); expected an npz file with "
            f"x_{split} and y_{split}. Fetch it again."
        ) from error
    _check(source, split, n_classes, images, labels)
    # In an order of their own: whoever has the same images in another file gets the same subsets,
    # batches and fingerprints from the same seed.
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    order = np.lexsort((labels, np.array(digests, dtype="S32")))
    return images[order], labels[order]


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


def _cache_folder() -> Path:
    return Path(os.environ.get("ULELIB_CACHE") or "~/.cache/ulelib").expanduser()
