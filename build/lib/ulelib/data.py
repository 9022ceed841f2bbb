"""Image sets: whole, in memory, as uint8.

load("cifar10", "train")    CIFAR-10 and CIFAR-100, from $ULELIB_DATA or downloaded
load("shapes", "train")     drawn by code (`shapes.py`)
load("pets", "train")       pictures in $ULELIB_DATA/pets/train/CLASS, or in pets/CLASS
image_folder(path)          pictures in path/CLASS
"""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torchvision.transforms.functional import InterpolationMode, resize
from tqdm import tqdm

from ulelib import cifar, pictures, shapes
from ulelib.cifar import DataUnavailable

__all__ = ["DataUnavailable", "ImageSet", "image_folder", "load", "mix", "save_folder"]

SPLITS = ("train", "test")
OF_ONE_SIZE = ("shapes", *cifar.CLASSES)  # 32x32
SHAPES = {"train": (4000, 0), "test": (1000, 1)}  # number and seed
TEST_FOLDERS = ("test", "val")  # of a folder of pictures


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with labels.

    Attributes:
        images: `(N, 3, H, W)` uint8.
        labels: `(N,)` int64 in [0, C).
        classes: C class names.
        name: for captions.
        files: where each image is from, `CLASS/FILE`; () for images that were no files.

    Raises:
        ValueError: another shape or dtype, or labels out of range.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    name: str
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if not isinstance(images, torch.Tensor) or not isinstance(labels, torch.Tensor):
            raise ValueError(f"{self.name}: images and labels must be torch tensors")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"{self.name}: two classes have the same name")
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
        if self.files and len(self.files) != len(images):
            raise ValueError(f"{self.name}: {len(self.files)} files for {len(images)} images")
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
        files = tuple(self.files[i] for i in indices.tolist()) if self.files else ()
        return ImageSet(self.images[indices], self.labels[indices], self.classes, self.name, files)

    def first(self, count: int) -> ImageSet:
        """The first `count` images, or all where there are fewer; no copy."""
        return ImageSet(
            self.images[:count], self.labels[:count], self.classes, self.name, self.files[:count]
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits that tell these images, labels and their order from any others."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()[:16]


def load(name: str, split: str, download: bool = True, size: int | None = None) -> ImageSet:
    """A data set by name.

    Args:
        name: "cifar10", "cifar100", "shapes", or the name of a folder of pictures in $ULELIB_DATA
            (or its path): `NAME/train/CLASS` with `NAME/test/CLASS` (or `val`), or `NAME/CLASS`.
        split: "train" or "test".
        download: whether torchvision may fetch CIFAR where it is not on this machine.
        size: height and width of a folder's pictures; 32 if None. Other sets have their own.

    Raises:
        ValueError: an unknown split, a size for images that have their own, a damaged file, or
            pictures that cannot be read.
        DataUnavailable: not on this machine and not to be downloaded.
        OSError: the parsed form cannot be cached, for instance on a full disk.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}; choose from {SPLITS}")
    if name in OF_ONE_SIZE and size not in (None, 32):
        raise ValueError(
            f"the images of {name} are 32x32; a size of {size} is for pictures. `resized` enlarges"
        )
    if name == "shapes":
        return ImageSet(*shapes.draw(*SHAPES[split]), shapes.CLASSES, name)
    if name in cifar.CLASSES:
        images, labels, source = cifar.load(name, split, download)
        return ImageSet(images, labels, cifar.CLASSES[name], source)
    return _named_folder(name, split, 32 if size is None else size)


def is_available(name: str, download: bool = True) -> bool:
    """Whether `load(name, "train")` would find its data; tries to download them if it may."""
    if name == "shapes":
        return True
    try:
        if name in cifar.CLASSES:
            cifar.find(name, download)
        else:
            _folder_of(name, "train")
    except DataUnavailable:
        return False
    return True


def _named_folder(name: str, split: str, size: int) -> ImageSet:
    found = image_folder(_folder_of(name, split), size)
    if split != "train":
        classes = tuple(label for label, _ in pictures.find(_folder_of(name, "train")))
        if found.classes != classes:
            raise ValueError(
                f"{name}: training images have the classes {_few(classes)}, test images "
                f"{_few(found.classes)}"
            )
    return ImageSet(found.images, found.labels, found.classes, Path(name).name, found.files)


def _folder_of(name: str, split: str) -> Path:
    """The folder whose folders are the classes.

    Raises:
        DataUnavailable: there is none; says where it was looked for.
    """
    named = os.environ.get("ULELIB_DATA")
    root = (Path(named).expanduser() if named else Path.cwd()) / Path(name).expanduser()
    if not root.is_dir():
        known = ["shapes", *cifar.CLASSES]
        where = root if named or Path(name).is_absolute() else f"{root} (ULELIB_DATA is not set)"
        raise DataUnavailable(f"data set {name!r} is none of {known}, and no folder {where}")
    parts = {"train": ("train",), "test": TEST_FOLDERS}[split]
    for part in parts:
        if (root / part).is_dir():
            return root / part
    if split == "train" and not any((root / part).is_dir() for part in TEST_FOLDERS):
        return root
    raise DataUnavailable(f"{root} has no folder {' or '.join(parts)} with {split} images")


def _few(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")


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


def resized(images: ImageSet, size: int) -> ImageSet:
    """All images at `size` x `size` pixels, bicubic, as the upsampled CIFAR-10 of Figure 13."""
    made = [
        resize(part, [size, size], InterpolationMode.BICUBIC)  # antialiased, rounded, in [0, 255]
        for part in images.images.split(1000)
    ]
    return replace(images, images=torch.cat(made), name=f"{images.name}, {size} pixels")


def check_classes(images: ImageSet) -> None:
    """Whether there is anything to tell apart.

    Raises:
        ValueError: all images are of one class: a network need learn nothing from them, so noise
            has nothing to hide, and stays 0.
    """
    if len(images.labels.unique()) < 2:
        name = images.classes[int(images.labels[0])]
        raise ValueError(
            f"all {len(images)} images of {images.name} are of one class, {name!r}: there is "
            "nothing to learn from them. Sort the pictures into two folders or more"
        )


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
        first.files + second.files if first.files and second.files else (),
    )


def image_folder(path: str | Path, size: int = 32) -> ImageSet:
    """Pictures in `path/CLASS/FILE` (JPEG, PNG, BMP, WebP): RGB, `(N, 3, size, size)`.

    Each picture's middle square, as torchvision's `Resize(size)` and `CenterCrop(size)` give it;
    see `pictures.read`. Classes and files are in alphabetical order, and `files` keeps their names.

    Raises:
        ValueError: the folder holds something else, pictures that would be left out, or some that
            cannot be read: names them all, up to ten.
    """
    if type(size) is not int or not 1 <= size <= 4096:
        raise ValueError(f"size is {size}; images are 1 to 4,096 pixels wide")
    root = Path(path).expanduser()
    found = pictures.find(root)
    files = [file for _, members in found for file in members]
    return ImageSet(
        pictures.read_all(files, size),
        torch.arange(len(found)).repeat_interleave(torch.tensor([len(m) for _, m in found])),
        tuple(name for name, _ in found),
        root.resolve().name,
        tuple(f"{file.parent.name}/{file.name}" for file in files),
    )


def save_folder(images: ImageSet, path: str | Path) -> None:
    """Write images as an image folder of PNG files: `path/CLASS/NAME.png`.

    The name is that of the file which an image is from, else its number in the set.

    Raises:
        FileExistsError: the folder is there and not empty.
        ValueError: the name of a class or picture that is no name of a file.
        OSError: it cannot be written.
    """
    stems = [Path(file).stem for file in images.files]
    labels = [images.classes[label] for label in images.labels.tolist()]
    if len({*zip(labels, stems, strict=False)}) < len(images):  # a.jpg beside a.png; or no names
        stems = [Path(file).name for file in images.files]
    if not stems:
        stems = [f"{number:06d}" for number in range(len(images))]
    names = [Path(label) / f"{stem}.png" for label, stem in zip(labels, stems, strict=True)]
    for label in images.classes:  # Path() would take a separator apart
        if Path(label).name != label:
            raise ValueError(f"{label!r} is not the name of a class and a folder")
    with tqdm(total=len(names), desc="pictures", delay=2, disable=None) as bar:
        pictures.write_all(images.images, names, Path(path).expanduser(), lambda n: bar.update(1))
