"""Released poisons: an author's own file as noise for our images.

A file is of all training images of a data set, mostly of CIFAR-10's 50,000 in their official order;
our own order is another one (`cifar.py`), and a profile may take a part of them. So each row has to
find its image. Pictures are compared with the clean images: in the orders that they may have, and
then one by one. Noise shows no image: its order must be the official one, or its labels prove it.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch.nn import functional as F

from ulelib import cifar, data
from ulelib.data import ImageSet
from ulelib.patterns import perturbation
from ulelib.perturbation import CHUNK, Perturbation
from ulelib.release_files import Content, Wanted, read
from ulelib.settings import settings

LARGEST = 64 / 255  # values without signs up to here are noise, beyond it pictures
LOUDEST = 0.3  # root mean square, as a share of the pixel range, of what can still be noise
UNCLEAR = (1, 3)  # fractions that reach as far are neither in [-1, 1] nor gray levels
NEAR = 0.5  # of the distance to another image, which a picture's distance to its own may have
SURE = 0.98  # share of the pictures that must be nearer to their own image
DIFFERENT_LABELS = 0.001  # share that may differ: near-duplicates of two classes
MOST_LOST = 0.001  # share of the images that may find no picture by content
LOOKED_AT, COARSE = 8, 8  # images that a picture is compared with; pixels a side at which
CLASS_WISE = 0.9  # share of the energy that is the mean of its class


@dataclass(frozen=True, eq=False)
class Release:
    """What an author's file holds.

    Attributes:
        file: its name, for errors.
        kind: "pictures" or "noise".
        values: `(N, 3, H, W)`: uint8 of pictures, float32 in [-1, 1] of noise.
        content: as it stands in the file.
        taken_for: what it was taken for and why, in words.
    """

    file: str
    kind: str
    values: torch.Tensor
    content: Content
    taken_for: str

    @property
    def sha256(self) -> str:
        """SHA-256 of values and labels, whatever their format."""
        digest = hashlib.sha256(f"{self.kind} {tuple(self.values.shape)}".encode())
        digest.update(self.values.numpy().data)
        if self.content.labels is not None:
            digest.update(self.content.labels.numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Fitted:
    """Noise of a release for some images, and how they were found, in words."""

    noise: Perturbation
    order: str


@settings
class Released:
    """A poison that its author published, see `release_files`.

    Attributes:
        file: its path; belongs to no key, so that the file may lie elsewhere.
        sha256: of what it holds, as `release` gives it.
        data: the data set whose training images it has, as `data.load` takes it.
    """

    file: str
    sha256: Annotated[str, Field(pattern="[0-9a-f]{64}")]
    data: str = "cifar10"

    def not_in_key(self) -> frozenset[str]:
        """See `settings.key_of`."""
        return frozenset({"file"})

    def make(self, images: ImageSet, seed: int, precision: str, **_: Any) -> Perturbation:
        """See `specs.Method`. The seed changes nothing.

        Raises:
            ValueError: the file holds something else by now, or does not fit.
            OSError: it is not there.
        """
        found = release(Path(self.file), images, self.data)
        if found.sha256 != self.sha256:
            raise ValueError(f"{Path(self.file).name} is another file than the one that was named")
        return fitted(found, images, self.data).noise


def release(path: Path, images: ImageSet, name: str) -> Release:
    """Read an author's file, and tell noise from pictures.

    Args:
        images: those that it is for: the training images of a data set, or a part of them.
        name: of the data set.

    Raises:
        ValueError, OSError: see `release_files.read`; also values that are neither.
    """
    size, whole = tuple(images.images.shape[2:]), _whole(images, name)
    counts = (len(whole), len(images), len(images.classes))
    wanted = Wanted(tuple(dict.fromkeys(counts)), (size[0], size[1]))
    content = read(path, wanted)
    with _naming(Path(path).name):
        return _judged(Path(path).name, content, len(images.classes))


@contextlib.contextmanager
def _naming(file: str) -> Iterator[None]:
    """Name the file whose content is refused."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file} cannot be taken: {error}") from error


def _judged(file: str, content: Content, classes: int) -> Release:
    """Noise or pictures, by signs and range."""
    values, (low, high) = content.values, _range(content.values)
    if low == high:
        raise ValueError(f"all of its values are {low:g}")
    whole = not values.is_floating_point()
    largest = max(-low, high)
    if not whole and UNCLEAR[0] + 1e-3 < largest <= UNCLEAR[1]:
        raise ValueError(
            f"its values run from {low:.4g} to {high:.4g}, neither in [-1, 1] nor in gray levels; "
            "normalised pictures? Save pictures as uint8, or noise in [-1, 1] or in gray levels"
        )
    unit = 255.0 if whole or largest > UNCLEAR[1] else 1.0
    if largest > unit * (1 + 1e-3):
        raise ValueError(f"its values run from {low:.4g} to {high:.4g}, beyond 255 gray levels")
    scale = "gray levels" if unit > 1 else "units of the pixel range"
    said = f"values from {low:.4g} to {high:.4g}, in {scale}"
    if low >= -1e-6 * unit and high > LARGEST * unit:
        if len(values) == classes:
            raise ValueError(f"{classes} pictures, one a class ({said}); expected noise, or all")
        return Release(file, "pictures", _pictures(values, unit), content, f"pictures ({said})")
    noise = torch.empty(values.shape)
    for into, part in zip(noise.split(CHUNK), values.split(CHUNK), strict=True):
        torch.div(part.float(), unit, out=into)
    rms = math.sqrt(sum(float(one.double().square().sum()) for one in noise.split(CHUNK)))
    rms /= math.sqrt(noise.numel())
    if rms > LOUDEST:
        raise ValueError(
            f"its root mean square is {255 * rms:.0f} gray levels, too much for noise; pictures "
            "in [-1, 1]? Save them as uint8"
        )
    if largest < 0.5 * unit / 255:
        raise ValueError("it stays below half a gray level: nothing of it is left in 8 bits")
    return Release(file, "noise", noise.clamp_(-1, 1), content, f"noise ({said})")


def _range(values: torch.Tensor) -> tuple[float, float]:
    """The least and the greatest value.

    Raises:
        ValueError: some are not finite.
    """
    ends = []
    for part in values.split(CHUNK):
        if part.is_floating_point() and not part.isfinite().all():
            raise ValueError("it has values that are not finite (NaN or infinite)")
        ends.append([float(end) for end in part.aminmax()])
    return min(low for low, _ in ends), max(high for _, high in ends)


def _pictures(values: torch.Tensor, unit: float) -> torch.Tensor:
    """As `(N, 3, H, W)` uint8; fractions of a gray level are rounded."""
    found = torch.empty(values.shape, dtype=torch.uint8)
    for into, part in zip(found.split(CHUNK), values.split(CHUNK), strict=True):
        into.copy_((part.double() * (255 / unit)).round().clamp(0, 255))
    return found


# --- which row belongs to which image ------------------------------------------------------------


def fitted(found: Release, images: ImageSet, name: str) -> Fitted:
    """The noise that a release has for these images.

    Args:
        images: the training images of the data set `name`, or a part of them.

    Raises:
        ValueError: no order is known in which it fits; names the file, and says why.
    """
    with _naming(found.file):
        return _fitted(found, images, name)


def _fitted(found: Release, images: ImageSet, name: str) -> Fitted:
    if len(found.values) == len(images.classes) and found.kind == "noise":
        delta = found.values.clone()
        return Fitted(perturbation(delta, images, "class_wise", "released"), "one noise a class")
    rows, order = (_order_of_pictures if found.kind == "pictures" else _order_of_noise)(
        found, images, name
    )
    delta = torch.empty(images.images.shape)
    for into, clean, part in zip(
        delta.split(CHUNK), images.images.split(CHUNK), rows.split(CHUNK), strict=True
    ):
        chosen = found.values[part]
        into.copy_((chosen.float() - clean.float()) / 255 if found.kind == "pictures" else chosen)
    if not delta.any():
        raise ValueError("the pictures are the clean images: there is no noise in them")
    return Fitted(perturbation(delta, images, "sample_wise", "released"), order)


def class_share(noise: Perturbation, images: ImageSet) -> float:
    """How much of the noise's energy is the mean of its class: 1 for class-wise noise, almost so
    where pixels were clipped, and 0 for noise that knows no classes."""
    if noise.kind == "class_wise":
        return 1.0
    means, total = noise.class_means(images).delta, 0.0
    for part in noise.delta.split(CHUNK):
        total += float(part.square().sum(dtype=torch.float64))
    counts = torch.bincount(images.labels, minlength=len(means)).double()
    return float((means.double().square().sum((1, 2, 3)) * counts).sum()) / total


def _order_of_noise(found: Release, images: ImageSet, name: str) -> tuple[torch.Tensor, str]:
    """The row of each image's noise `(M,)` int64, and in which order they stand.

    Raises:
        ValueError: its labels are not those of the images, or its order is not known.
    """
    labels, known = found.content.labels, [*_orders(found, images, name)]
    official, trouble = _official(found, images, name)
    if labels is None and (official or trouble):
        known = []  # nothing says that it has an order of ours
    for rows, order in [*official, *known]:
        if labels is None:
            return rows, f"{order}, assumed: noise alone cannot show whether it is right"
        if _labels_agree(found, rows, images):
            return rows, f"{order}, as its labels show"
    if labels is None:
        raise ValueError(
            f"the official order of its {len(found.values):,} noises is not known: {trouble}. Or "
            "submit the pictures, which are found by their content"
        )
    raise ValueError(f"its labels are not those of the images: the order is wrong{_also(trouble)}")


def _order_of_pictures(found: Release, images: ImageSet, name: str) -> tuple[torch.Tensor, str]:
    """The row of each image's picture `(M,)` int64, and in which order they stand.

    Raises:
        ValueError: pictures that are not those of these images, or that have other labels.
    """
    official, trouble = _official(found, images, name)
    for rows, order in [*_orders(found, images, name), *official]:
        if _are_of(found.values, rows, images.images) and _labels_agree(found, rows, images):
            return rows, f"{order}, as comparing them with the clean images shows"
    for plain in (True, False):
        rows, lost = _by_content(found.values, images.images, plain)
        if lost <= MOST_LOST * len(images) and _are_of(found.values, rows, images.images):
            if _labels_agree(found, rows, images):
                return rows, "another one; each image's picture was found by its content"
            raise ValueError(
                "its labels are not those of the clean images that its pictures show: they were "
                "changed, or stand in another order than the pictures"
            )
    raise ValueError(
        f"its pictures are not nearer to the clean images of {images.name} than to others: they "
        f"are of other images, or the order is wrong{_also(trouble)}"
    )


def _official(
    found: Release, images: ImageSet, name: str
) -> tuple[list[tuple[torch.Tensor, str]], str]:
    """The official order of a release of all images, and why it is not known."""
    whole = _whole(images, name)
    if name not in cifar.CLASSES or len(found.values) != len(whole) or not found.content.ordered:
        return [], ""
    try:
        rows = cifar.rows_in_file(name, "train")
    except cifar.NotOfficial as error:
        return [], str(error)
    return [(rows[places(images, whole)], "the official order")], ""


def _also(trouble: str) -> str:
    return f" (the official order could not be tried: {trouble})" if trouble else ""


def _orders(found: Release, images: ImageSet, name: str) -> Iterator[tuple[torch.Tensor, str]]:
    """The orders that a release may have and that need no file of the official one."""
    if not found.content.ordered:
        return
    if len(found.values) == len(images):
        yield torch.arange(len(images)), "the order of the images"
    whole = _whole(images, name)
    if len(found.values) == len(whole) != len(images):
        yield places(images, whole), f"the order of all {len(whole):,} images"


def _whole(images: ImageSet, name: str) -> ImageSet:
    """All training images of the data set that these are of."""
    size = None if name in data.OF_ONE_SIZE else images.images.shape[2]
    return data.load(name, "train", size=size)


def places(images: ImageSet, whole: ImageSet) -> torch.Tensor:
    """Where images stand in the whole set, by their content: `(M,)` int64. Equal images take equal
    ones one after the other.

    Raises:
        ValueError: an image is not among them.
    """
    known: dict[tuple[bytes, int], list[int]] = defaultdict(list)
    for row, one in reversed([*enumerate(_contents(whole))]):
        known[one].append(row)
    found = []
    for one in _contents(images):
        if not known[one]:
            raise ValueError(f"{images.name} has images that {whole.name} lacks")
        found.append(known[one].pop())
    return torch.tensor(found)


def _contents(images: ImageSet) -> Iterator[tuple[bytes, int]]:
    pixels = images.images.contiguous().numpy()
    for image, label in zip(pixels, images.labels.tolist(), strict=True):
        yield hashlib.sha256(image.tobytes()).digest(), label


def _same_labels(first: torch.Tensor, second: torch.Tensor) -> bool:
    return float((first != second).double().mean()) <= DIFFERENT_LABELS


def _labels_agree(found: Release, rows: torch.Tensor, images: ImageSet) -> bool:
    labels = found.content.labels
    return labels is None or _same_labels(labels[rows], images.labels)


def _are_of(pictures: torch.Tensor, rows: torch.Tensor, clean: torch.Tensor) -> bool:
    """Whether the pictures at `rows` are those of the clean images: much nearer to them than to
    images a third of the set away, without brightness and contrast, which some noise changes."""
    seen, own = _coarse(pictures[rows], plain=False), _coarse(clean, plain=False)
    mine = (seen - own).norm(dim=1)
    theirs = (seen - own.roll(max(1, len(own) // 3), 0)).norm(dim=1)
    nearer = float((mine < theirs).double().mean())
    return bool(mine.mean() <= NEAR * theirs.mean()) and nearer >= SURE


def _by_content(
    pictures: torch.Tensor, clean: torch.Tensor, plain: bool
) -> tuple[torch.Tensor, int]:
    """The picture of each clean image, none of them twice.

    Each image is compared with all pictures at `COARSE` pixels a side, where most noise is small;
    of the `LOOKED_AT` nearest ones the pairs are taken from the nearest on.

    Args:
        plain: compare pixels; False: without brightness and contrast, which some noise changes.

    Returns:
        rows `(M,)` int64, and how many images found none that was left (they have the nearest).
    """
    seen, wanted = _coarse(pictures, plain), _coarse(clean, plain)
    norms = seen.square().sum(1)
    best, distances = [], []
    for part in wanted.split(CHUNK // 2):
        square = norms - 2 * part @ seen.T + part.square().sum(1, keepdim=True)
        near = square.topk(min(LOOKED_AT, len(seen)), largest=False)
        best.append(near.indices)
        distances.append(near.values)
    candidates = torch.cat(best)
    rows, used, width = candidates[:, 0].clone(), set(), candidates.shape[1]
    flat, settled = candidates.flatten().tolist(), [False] * len(clean)
    for place in torch.cat(distances).flatten().argsort(stable=True).tolist():
        image, row = place // width, flat[place]
        if not settled[image] and row not in used:
            rows[image], settled[image] = row, True
            used.add(row)
    return rows, settled.count(False)


def _coarse(images: torch.Tensor, plain: bool) -> torch.Tensor:
    """`(N, 3, H, W)` uint8 -> `(N, 3 * COARSE**2)` float32; not plain: each channel has the mean 0,
    each image the norm 1."""
    parts = [F.adaptive_avg_pool2d(part.float() / 255, COARSE) for part in images.split(CHUNK)]
    seen = torch.cat(parts)
    if not plain:
        seen -= seen.mean((2, 3), keepdim=True)
        seen /= seen.flatten(1).norm(dim=1).clamp(min=1e-3).view(-1, 1, 1, 1)
    return seen.flatten(1)
