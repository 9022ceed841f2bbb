"""What stages read: the images of a `Data` spec, whole or a share of each class."""

from __future__ import annotations

import dataclasses
import functools

import torch

from ulelib import data
from ulelib.data import ImageSet
from ulelib.specs import Data


def images(wanted: Data, split: str) -> ImageSet:
    """The training images of a data set (its subset), or its test images.

    Raises:
        ValueError: other images than `wanted.content` says.
        data.DataUnavailable: see `data.load`.
    """
    found = _loaded(dataclasses.replace(wanted, content=""), split)
    if wanted.content and found.fingerprint not in wanted.content.split():
        raise ValueError(
            f"the {split} images of {wanted.name} are not those that this was planned for "
            f"(fingerprint {found.fingerprint}, not of {wanted.content}): is ULELIB_DATA the same?"
        )
    return found


@functools.lru_cache(maxsize=8)
def _loaded(wanted: Data, split: str) -> ImageSet:
    """`images`, whatever they are: those that are to be proved and those that are, once."""
    enlarged = wanted.name in data.OF_ONE_SIZE and wanted.size not in (None, 32)
    found = data.load(wanted.name, split, size=None if enlarged else wanted.size)
    if split == "train" and wanted.n is not None:
        found = data.stratified_subset(found, wanted.n, wanted.seed)
    if enlarged and wanted.size:
        found = data.resized(found, wanted.size)
    return found


def data_set(
    name: str, n: int | None = None, size: int | None = None, seed: int = 0, test: bool = True
) -> Data:
    """`Data` with its content proved: loads the images and notes their fingerprints.

    Args:
        test: False for pictures without test images.
    """
    wanted = Data(name, n, size, seed)
    splits = ("train", "test") if test else ("train",)
    content = " ".join(images(wanted, split).fingerprint for split in splits)
    return dataclasses.replace(wanted, content=content)


def rows_of(whole: ImageSet, take: tuple[float, float]) -> torch.Tensor:
    """Indices `(M,)` int64 of a share of each class, in the order of the set.

    Shares that meet, such as (0, 0.05) and (0.05, 0.35), have no image in common.
    """
    counts = torch.bincount(whole.labels, minlength=len(whole.classes))
    by_class = whole.labels.argsort(stable=True)
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(whole.labels)  # index of the image within its class
    rank[by_class] = torch.arange(len(whole)) - first[whole.labels[by_class]]
    low, high = ((edge * counts).round()[whole.labels] for edge in take)
    return ((rank >= low) & (rank < high)).nonzero()[:, 0]
