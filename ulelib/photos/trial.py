"""The pictures that exploiters are trained and measured on: read, and divided."""

from __future__ import annotations

import functools
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from ulelib import pictures
from ulelib.data import ImageSet, mix
from ulelib.photos.copies import Pair
from ulelib.photos.folders import Label, Photo, Refused, image_set
from ulelib.photos.names import printable

HELD_OUT = 0.25  # of each class
FEWEST = 4  # pictures of a class that can be divided
# What a copy without noise differs by, root mean square at the exploiters' size: scaling and JPEG
# coding do as much. In gray levels, and as a share of what most copies differ by.
NO_NOISE, SMALL_SHARE = 0.5, 0.15


@dataclass(frozen=True)
class Read:
    """All pictures, as an exploiter scales them.

    Attributes:
        clean, protected: in the same order; pictures of others are the same in both.
        own: labels of one's own classes.
        pairs: one's own pictures that are in both.
    """

    clean: ImageSet
    protected: ImageSet
    own: tuple[int, ...]
    pairs: list[Pair]

    @functools.cached_property
    def bare(self) -> tuple[str, ...]:
        """Printable names of pictures whose copy looks the same: its noise is gone, because it was
        edited or converted, or never had a place in this picture."""
        count = len(self.pairs)  # one's own come first
        both = zip(self.clean.images[:count], self.protected.images[:count], strict=True)
        moved = [float((one.float() - other).square().mean().sqrt()) for one, other in both]
        most = max(NO_NOISE, SMALL_SHARE * statistics.median(moved))
        return tuple(
            printable(Path(pair.label) / pair.picture.name)
            for pair, by in zip(self.pairs, moved, strict=True)
            if by < most
        )


def read(own: list[Pair], others: list[Photo] | None, size: int) -> Read:
    """Read pictures and copies; leave out what cannot be read and classes with too few pictures.

    Raises:
        Refused: fewer than two classes are left, or none of one's own, or none of others.
    """
    every = [(pair.picture, pair.copy, Label(pair.label, own=True)) for pair in own]
    every += [(photo.file, photo.file, Label(photo.label, own=False)) for photo in others or ()]
    files = list(dict.fromkeys(file for row in every for file in row[:2]))
    pixels, problems = pictures.read_each(files, size)
    index_of = {file: index for index, file in enumerate(files)}
    sides = [(index_of[picture], index_of[copy]) for picture, copy, _ in every]
    labels = [label for *_, label in every]
    readable = [row for row, both in enumerate(sides) if not problems.keys() & both]
    counts = Counter(labels[row] for row in readable)
    kept = [row for row in readable if counts[labels[row]] >= FEWEST]
    if len({labels[row] for row in kept}) < 2:
        have = ", ".join(sorted(f"{label}: {count}" for label, count in counts.items()))
        raise Refused(
            f"there must be two classes or more with {FEWEST} readable pictures each, to train on "
            f"some and hold others out; readable are {have or 'none'}"
        )
    if not any(labels[row].own for row in kept):
        raise Refused(f"there must be {FEWEST} or more readable pictures of your own in a class")
    if others is not None and all(labels[row].own for row in kept):
        raise Refused(f"there must be {FEWEST} or more readable pictures of others in a class")
    first, second = ([sides[row][side] for row in kept] for side in (0, 1))
    kept_labels = [labels[row] for row in kept]
    clean, own_labels = image_set(pixels[first], kept_labels, "clean pictures")
    protected, _ = image_set(pixels[second], kept_labels, "protected pictures")
    return Read(clean, protected, own_labels, [own[row] for row in kept if row < len(own)])


@dataclass(frozen=True)
class Trial:
    """What exploiters are trained and measured on.

    Attributes:
        clean, protected: the pictures to train on; those of others are clean in both.
        held_out: clean pictures of one's own, in neither.
        guessing: see `Findings`.
        seed: of the division, and of the trainings.
    """

    clean: ImageSet
    protected: ImageSet
    held_out: ImageSet
    guessing: float
    seed: int


def divided(read: Read, seed: int) -> Trial:
    """Hold out pictures of each of one's own classes."""
    train, test = _training_and_held_out_rows(read.clean, seed)
    own = torch.tensor(read.own)
    clean = read.clean.select(train)
    held_out = read.clean.select(test[torch.isin(read.clean.labels[test], own)])
    among_others = len(own) < len(read.clean.classes)
    guessing = _guessing(clean if among_others else held_out, own)
    return Trial(clean, read.protected.select(train), held_out, guessing, seed)


def _training_and_held_out_rows(images: ImageSet, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to train on and rows held out, of every class."""
    generator = torch.Generator().manual_seed(seed)
    train, test = [], []
    for label in range(len(images.classes)):
        rows = (images.labels == label).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        count = max(1, round(HELD_OUT * len(rows)))
        test.append(rows[:count])
        train.append(rows[count:])
    order = torch.cat(train)
    return order[torch.randperm(len(order), generator=generator)], torch.cat(test)


def _guessing(images: ImageSet, own: torch.Tensor) -> float:
    """Share of the largest of one's own classes, in percent: the accuracy of always naming it; or,
    among others, of naming each class as often as it occurs."""
    counts = torch.bincount(images.labels, minlength=len(images.classes))
    return 100 * float(counts[own].max()) / len(images)


def partly_protected(trial: Trial, share: float) -> ImageSet:
    """The training pictures, a share of them protected and the others clean."""
    generator = torch.Generator().manual_seed(trial.seed)
    rows = torch.randperm(len(trial.clean), generator=generator)
    count = round(share * len(trial.clean))
    return mix(trial.protected.select(rows[:count]), trial.clean.select(rows[count:]))
