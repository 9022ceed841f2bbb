"""Folders of pictures: which can be used, what is in them, and which classes are one's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ulelib import pictures
from ulelib.data import ImageSet
from ulelib.photos.names import printable

SHORTEST = 16  # pixels: a picture with a shorter side is too small to be protected


class Refused(ValueError):
    """The folders or pictures cannot be used; nothing was written."""


@dataclass(frozen=True)
class Photo:
    """A picture in a folder.

    Attributes:
        file: its path.
        name: its path within the folder, `CLASS/.../FILE`.
        label: its class.
    """

    file: Path
    name: Path
    label: str


@dataclass(frozen=True)
class Label:
    """A class, where one's own pictures and those of other people are trained on together.

    Attributes:
        name: of the class.
        own: whether its pictures are one's own. Own and foreign classes of the same name are two.
    """

    name: str
    own: bool

    def __str__(self) -> str:
        return self.name if self.own else name_of_others(self.name)


def name_of_others(name: str) -> str:
    """How the name of a picture or class of other people is printed."""
    return f"others: {name}"


def image_set(
    pixels: torch.Tensor, labels: Sequence[Label], name: str
) -> tuple[ImageSet, tuple[int, ...]]:
    """Pictures of one's own and of others as one set.

    Args:
        pixels: `(N, 3, S, S)` uint8.
        labels: N classes.
        name: of the set.

    Returns:
        the set, its classes in the order of their printed names; and the numbers of one's own.
    """
    classes = sorted(set(labels), key=lambda label: (str(label), label.own))
    numbers = torch.tensor([classes.index(label) for label in labels])
    # No folder's name has a slash, so no own class has the name of a foreign one.
    names = tuple(label.name if label.own else f"others/{label.name}" for label in classes)
    own = tuple(number for number, label in enumerate(classes) if label.own)
    return ImageSet(pixels, numbers, names, name), own


def check_folders(folder: Path, out: Path, others: Path | None) -> None:
    """Check that pictures can be read from `folder` and `others`, and written to `out`.

    Raises:
        Refused: a folder of pictures does not exist; two of the folders overlap; `out` is a file.
    """
    for source in filter(None, (folder, others)):
        if not source.is_dir():
            raise Refused(f"{source} is not a folder")
        if _overlap(source, out):
            raise Refused(
                f"{out} and {source} overlap: name an output folder somewhere else, so that "
                "pictures and protected pictures do not get mixed up"
            )
    if others is not None and _overlap(folder, others):
        raise Refused(
            f"{others} and {folder} overlap: the unprotected originals of your own pictures would "
            "count as pictures of others. Move the folders apart"
        )
    if out.exists() and not out.is_dir():
        raise Refused(f"{out} is a file: name a new folder")


def _overlap(first: Path, second: Path) -> bool:
    """Whether two folders, which need not exist, are the same or one lies in the other, also
    through links."""

    def lies_in(inner: Path, outer: Path) -> bool:
        parents = (inner.resolve(), *inner.resolve().parents)
        return outer.exists() and any(one.exists() and one.samefile(outer) for one in parents)

    return lies_in(first, second) or lies_in(second, first)


def find_pictures(
    folder: Path, left_out: dict[str, str] | None = None, flat: bool = False
) -> list[Photo]:
    """All pictures below a folder, in alphabetical order.

    Folders that a NAS or a system made are left out, and so are hidden files and folders.

    Args:
        left_out: receives the printable names of other files that might be pictures, and of
            folders, and the reason why each is left out; of system folders only the first of a
            name.
        flat: whether pictures that lie directly in the folder are a class, with the folder's name.
    """
    found, class_folders = [], set[str]()
    left_out = {} if left_out is None else left_out

    def failed(error: OSError) -> None:
        name = Path(error.filename or folder).relative_to(folder)
        left_out[printable(name)] = f"the folder cannot be read: {error.strerror}"

    system: dict[str, list[Path]] = {}  # by name: such folders may lie in every folder
    for place, inner, files in os.walk(folder, onerror=failed):
        for made in sorted(filter(pictures.is_system_folder, inner)):
            system.setdefault(made, []).append((Path(place) / made).relative_to(folder))
            inner.remove(made)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for path in (Path(place) / name for name in inner):
            if path.is_symlink():
                reason = "it is a link to a folder: copy the folder"
                left_out[printable(path.relative_to(folder))] = reason
        if Path(place) == folder:
            class_folders = {printable(Path(name)) for name in inner}
        for file in sorted(files):
            path = Path(place) / file
            name = path.relative_to(folder)
            if file.startswith(".") or path.suffix.lower() in pictures.NO_PICTURES:
                continue
            if problem := pictures.unreadable(path):
                left_out[printable(name)] = problem
            elif len(name.parts) > 1:
                found.append(Photo(path, name, name.parts[0]))
            elif flat:
                found.append(Photo(path, name, folder.resolve().name))
            else:
                left_out[printable(name)] = "it lies beside the class folders: move it into one"
    for places in system.values():
        more = f", and {len(places) - 1} more of this name" if len(places) > 1 else ""
        left_out[printable(places[0])] = f"it is {pictures.NOT_YOURS}{more}"
    mentioned = {*left_out, *(printable(photo.name) for photo in found)}
    for empty in class_folders - {part for name in mentioned for part in Path(name).parts[:1]}:
        left_out[empty] = "the folder holds no pictures"
    return found


def too_small(file: Path) -> str | None:
    """The reason why a picture that can be read is not protected after all; None: it is."""
    try:
        small = min(pictures.size_of(file)) < SHORTEST
    except Exception as error:  # Pillow's decoders raise anything
        return f"it can no longer be read: {error}"
    return f"it is smaller than {SHORTEST} pixels" if small else None
