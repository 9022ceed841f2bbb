"""Perturbations: what a defender adds to its images; how they are added, stored and measured."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from ulelib import views
from ulelib.data import ImageSet

# How noise becomes uint8: with both signs or the positive one, rounded or truncated.
EXPORTS = {
    "exact": ("both", "rounded"),
    "as_released": ("positive", "truncated"),
    "positive": ("positive", "rounded"),
    "truncated": ("both", "truncated"),
}
KINDS = ("sample_wise", "class_wise")
CHUNK = 1000  # images at a time, where each would otherwise need its own float32 copy
MOST_META = 10_000_000  # characters
SAMPLED = 2**24  # values of delta that say what it is made of
MEASURED_AT_ONCE = 2**21  # values
TILE = 4  # pixels a side
META = ("kind", "epsilon", "defender", "fingerprint", "rounds", "made_of", "seconds")
SHARES = ("luminance", "chroma", "tiles", "constant")  # of `energy_shares`


@dataclass(frozen=True, eq=False)
class Perturbation:
    """A defender's noise for one image set.

    Attributes:
        delta: float32 in [-epsilon, epsilon]: `(N, 3, H, W)`, one an image ("sample_wise"), or
            `(C, 3, H, W)`, one a class ("class_wise"); `(., 1, H, W)` stands for the same value in
            all three channels.
        kind: "sample_wise" or "class_wise".
        epsilon: the L-infinity radius, in units of the pixel range [0, 1].
        defender: how it was made, in a word or two: the view of Algorithm 1's loop, "AdvPois".
        fingerprint: `ImageSet.fingerprint` of the images it was made for.
        rounds: the source model's error (a fraction) after each round of Algorithm 1; of CSD and
            TUE, the share of the noise nearer to another class's mean (`csd.misplaced`).
        seconds: how long it took to make.
        made_of: `energy_shares` after each round, of a sample of the images (`sample_of`).

    Raises:
        ValueError: a value out of its range.
    """

    delta: torch.Tensor
    kind: str
    epsilon: float
    defender: str
    fingerprint: str
    rounds: tuple[float, ...] = ()
    seconds: float = 0.0
    made_of: tuple[dict[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"perturbation kind {self.kind!r}; choose from {KINDS}")
        for name in ("epsilon", "seconds"):
            if not _is_number(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r:.100}, not a number")
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon is {self.epsilon}: it must lie in (0, 1], e.g. 8 / 255")
        if not all(_is_number(error) and 0 <= error <= 1 for error in self.rounds):
            raise ValueError(f"rounds are {self.rounds!r:.100}: each must be a number in [0, 1]")
        for shares in self.made_of:
            if not isinstance(shares, dict) or set(shares) != {*SHARES}:
                raise ValueError(f"made_of has {shares!r:.100}: expected {', '.join(SHARES)}")
            if not all(
                _is_number(share) and -1e-6 <= share <= 1 + 1e-6 for share in shares.values()
            ):
                raise ValueError(f"made_of has {shares!r:.100}: shares lie in [0, 1]")
        if self.delta.dtype != torch.float32 or self.delta.ndim != 4:
            raise ValueError(
                f"delta is {self.delta.dtype} of shape {tuple(self.delta.shape)}; "
                "expected float32 of shape (N, 3 or 1, H, W)"
            )
        if self.delta.shape[1] not in (1, 3):
            raise ValueError(f"delta has {self.delta.shape[1]} channels; expected 3, or 1 for gray")
        low, high = map(float, self.delta.aminmax()) if self.delta.numel() else (0.0, 0.0)
        largest = max(-low, high)
        if not largest <= self.epsilon + 1e-6:  # `not <=` also catches NaN
            raise ValueError(
                f"delta reaches {255 * largest:.2f}/255, outside of epsilon = "
                f"{255 * self.epsilon:.2f}/255"
            )

    def check(self, images: ImageSet) -> None:
        """Whether it belongs to these images.

        Raises:
            ValueError: made for other images, or of another shape.
        """
        if self.delta.shape[2:] != images.images.shape[2:]:
            raise ValueError(
                f"the perturbation is {tuple(self.delta.shape[2:])} pixels, the images of "
                f"{images.name!r} are {tuple(images.images.shape[2:])}"
            )
        if self.kind == "class_wise":
            if len(self.delta) != len(images.classes):
                raise ValueError(
                    f"the perturbation has {len(self.delta)} classes, "
                    f"{images.name!r} has {len(images.classes)}"
                )
            return
        if len(self.delta) != len(images):
            raise ValueError(
                f"the perturbation is for {len(self.delta)} images, "
                f"{images.name!r} has {len(images)}"
            )
        if self.fingerprint != images.fingerprint:
            raise ValueError(
                f"the perturbation was made for other images (fingerprint {self.fingerprint}) than "
                f"these of {images.name!r} (fingerprint {images.fingerprint}): a sample-wise "
                "perturbation fits only the images, in the order, that it was made for"
            )

    def of(self, images: ImageSet, rows: torch.Tensor) -> torch.Tensor:
        """The noise of the images at `rows` `(M,)` int64: `(M, 3, H, W)` float32."""
        index = images.labels[rows] if self.kind == "class_wise" else rows
        return self.delta[index].expand(-1, 3, -1, -1)

    def apply(
        self, images: ImageSet, export: str = "exact", rows: torch.Tensor | None = None
    ) -> ImageSet:
        """The protected images, uint8: what the owner publishes. See `apply_delta`.

        Args:
            images: all images that the noise was made for.
            export: a key of `EXPORTS`.
            rows: `(M,)` int64, which of them to publish; None: all.

        Raises:
            ValueError: made for other images, or of another shape.
        """
        self.check(images)
        chosen = images if rows is None else images.select(rows)
        places = torch.arange(len(images)) if rows is None else rows
        protected = torch.empty_like(chosen.images)
        parts = zip(chosen.images.split(CHUNK), places.split(CHUNK), strict=True)
        for into, (clean, part) in zip(protected.split(CHUNK), parts, strict=True):
            into.copy_(apply_delta(clean, self.of(images, part), self.epsilon, export))
        return replace(chosen, images=protected, name=f"{images.name}+{self.defender}")

    def indexed_by_class(self, images: ImageSet) -> Perturbation:
        """What the released ImageNet code made of sample-wise noise: an image of class c gets the
        noise of image number c, whatever that image shows (`dataset.py:634`). The released images
        are shuffled, so image number c may be of any class.

        Args:
            images: all images that the noise was made for.

        Raises:
            ValueError: it is class-wise already, does not fit, or there are more classes than
                images.
        """
        self.check(images)
        if self.kind == "class_wise" or len(images.classes) > len(self.delta):
            raise ValueError("only sample-wise noise, of an image a class at least, has such rows")
        return replace(self, delta=self.delta[: len(images.classes)].clone(), kind="class_wise")

    def class_means(self, images: ImageSet) -> Perturbation:
        """The class-wise part of sample-wise noise: the mean of each class's; class-wise noise is
        returned as it is.

        Args:
            images: all images that the noise was made for.

        Raises:
            ValueError: it does not fit, or a class has no image.
        """
        self.check(images)
        if self.kind == "class_wise":
            return self
        counts = torch.bincount(images.labels, minlength=len(images.classes))
        if not counts.all():
            missing = images.classes[int((counts == 0).nonzero()[0])]
            raise ValueError(
                f"{images.name} has no image of {missing!r}, so no noise of that class"
            )
        sums = torch.zeros(len(counts), *self.delta.shape[1:])
        sums.index_add_(0, images.labels, self.delta)
        return replace(self, delta=sums / counts.view(-1, 1, 1, 1), kind="class_wise")

    def fitted_to(self, images: ImageSet) -> Perturbation:
        """Class-wise noise for other images: the first classes', at the size of these images.

        Raises:
            ValueError: sample-wise noise, or images of more classes than the noise has.
        """
        if self.kind != "class_wise":
            raise ValueError("sample-wise noise fits only the images that it was made for")
        if len(images.classes) > len(self.delta):
            raise ValueError(
                f"{images.name!r} has {len(images.classes)} classes, but the noise has only "
                f"{len(self.delta)}: make it on a data set of as many classes, or choose fewer"
            )
        delta, size = self.delta[: len(images.classes)], images.images.shape[2:]
        if delta.shape[2:] != size:  # interpolation cannot leave the bounds
            delta = F.interpolate(delta, list(size), mode="bilinear", antialias=True)
        delta = delta.clamp(-self.epsilon, self.epsilon).contiguous()
        return replace(self, delta=delta, fingerprint=images.fingerprint)

    def resized(self, images: ImageSet) -> Perturbation:
        """Noise at another size of the same pictures, in the same order.

        Args:
            images: the pictures at that size. Their fingerprint is another one, so that nothing but
                their number can be checked; of class-wise noise, that there are enough classes.

        Raises:
            ValueError: another number of pictures, or more classes than class-wise noise has.
        """
        if self.kind == "class_wise":
            return self.fitted_to(images)
        if len(images) != len(self.delta):
            raise ValueError(
                f"noise of {len(self.delta)} and {len(images)} pictures: expected the noise of "
                "these pictures at another size"
            )
        size = list(images.images.shape[2:])
        parts = [  # interpolation cannot leave the bounds, but for the last digit
            F.interpolate(part, size, mode="bilinear", antialias=True)
            for part in self.delta.split(CHUNK)
        ]
        delta = torch.cat(parts).clamp_(-self.epsilon, self.epsilon)
        return replace(self, delta=delta, fingerprint=images.fingerprint)

    def save(self, path: Path) -> None:
        """Write a safetensors file: numbers and one JSON text, nothing that could run.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        path = Path(path).expanduser()
        if not path.parent.is_dir():  # safetensors' error would be "Input/output error"
            raise FileNotFoundError(errno.ENOENT, "there is no folder", str(path.parent))
        meta = {name: getattr(self, name) for name in META} | {"seal": self._seal()}
        try:
            save_file({"delta": self.delta.contiguous()}, path, {"ulelib": json.dumps(meta)})
        except SafetensorError as error:  # its own class, also for a full disk
            full = f"os error {errno.ENOSPC}" in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error

    @classmethod
    def load(cls, path: Path) -> Perturbation:
        """Read what `save` wrote; also fit for a stranger's file, which can run no code.

        Raises:
            ValueError: not such a file, truncated, changed, or values out of range.
            OSError: there is no such file, or it cannot be opened.
        """
        path = Path(path).expanduser()
        if (
            path.exists() and not path.is_file() and not path.is_dir()
        ):  # to open a pipe is to wait without end
            raise ValueError(f"{path.name} is no file")
        with path.open("rb"):  # safetensors calls whatever it cannot open missing
            pass
        try:
            with safe_open(path, framework="pt") as file:
                meta = _meta((file.metadata() or {})["ulelib"])
                stored = file.get_slice("delta")  # of which nothing is read yet
                if stored.get_dtype() != "F32" or len(stored.get_shape()) != 4:
                    raise ValueError(f"its delta is {stored.get_dtype()} {stored.get_shape()}")
                seal = meta.pop("seal")
                found = cls(delta=file.get_tensor("delta"), **meta)
            if seal != found._seal():
                raise ValueError("its content is not what was written")
        except (
            SafetensorError, RuntimeError, KeyError, TypeError, ValueError, MemoryError
        ) as error:  # fmt: skip
            raise ValueError(
                f"{path.name} is not a perturbation written by ulelib, or it is damaged: {error}"
            ) from error
        return found

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of delta: its numbers, shape and dtype."""
        digest = hashlib.sha256(f"{self.delta.dtype} {tuple(self.delta.shape)}".encode())
        digest.update(self.delta.contiguous().numpy().data)
        return digest.hexdigest()

    def _seal(self) -> str:
        """SHA-256 of delta and of what is said of it, against edits of either."""
        meta = json.dumps([self.sha256, *(getattr(self, name) for name in META)])
        return hashlib.sha256(meta.encode()).hexdigest()


def _meta(text: str) -> dict[str, Any]:
    """The metadata of a file, of the types that they must have.

    Raises:
        ValueError: anything else, whatever it is.
    """
    if len(text) > MOST_META:
        raise ValueError(f"{len(text):,} characters of metadata")
    try:
        meta = json.loads(text)
    except RecursionError:
        raise ValueError("metadata nested without end") from None
    if isinstance(meta, dict) and "digest" in meta:
        raise ValueError("written by version 0.4 or before; make the perturbation again")
    if not isinstance(meta, dict) or set(meta) != {*META, "seal"}:
        raise ValueError(f"its metadata must have {', '.join(META)} and a seal")
    for name in ("kind", "defender", "fingerprint"):
        if not isinstance(meta[name], str) or len(meta[name]) > 200:
            raise ValueError(f"{name} is {meta[name]!r:.100}, not a text")
    if not re.fullmatch(r"[0-9a-f]{16}|", meta["fingerprint"]):
        raise ValueError(f"fingerprint is {meta['fingerprint']!r:.100}")
    for name in ("rounds", "made_of"):
        if not isinstance(meta[name], list):
            raise ValueError(f"{name} is {meta[name]!r:.100}, not a list")
    return meta | {name: tuple(meta[name]) for name in ("rounds", "made_of")}


def _is_number(value: object) -> bool:
    """A finite number, and no truth value."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e12  # also where it is too large for a float, or NaN


def apply_delta(
    images: torch.Tensor, delta: torch.Tensor, epsilon: float, export: str = "exact"
) -> torch.Tensor:
    """Add noise to 8-bit images: where all experiments round and cast. (`protect` does both at each
    picture's own size, `photos.noise.spread`.)

    Args:
        images: `(N, 3, H, W)` uint8.
        delta: `(N, 3, H, W)` float32 in [-epsilon, epsilon], pixel range [0, 1].
        epsilon: the bound that the 8-bit images keep too: |result - images| <= 255 * epsilon.
        export: "exact" keeps both signs and rounds. "as_released" is what the published code does
            (Unlearnable-Examples `dataset.py:385`, ULE-GrayAug `dataset.py:245`): negative noise
            is set to zero before it is added, and the sum is truncated to uint8. "positive" and
            "truncated" do one of the two.

    Returns:
        `(N, 3, H, W)` uint8.

    Raises:
        ValueError: unknown export, images that are not uint8, or a delta of another shape.
    """
    if export not in EXPORTS:
        raise ValueError(f"export {export!r}; choose from {[*EXPORTS]}")
    if images.dtype != torch.uint8 or delta.shape != images.shape:
        raise ValueError(
            f"images are {images.dtype} {tuple(images.shape)} and delta is {tuple(delta.shape)}; "
            "expected uint8 images and a delta of the same shape"
        )
    # Rounding must not step over a bound between two gray levels (epsilon = 5.6/255 allows 5).
    most = math.floor(255 * epsilon + 1e-4)
    if not most:
        raise ValueError(
            f"epsilon is {255 * epsilon:.3g}/255: below one gray level, nothing of it is left in "
            "8-bit images"
        )
    signs, cast = EXPORTS[export]
    levels = 255 * delta
    if signs == "positive":
        levels = levels.clamp(min=0)
    if cast == "rounded":
        levels = levels.round()
    # The cast to uint8 truncates: no change for whole numbers.
    return (images + levels.clamp(-most, most)).clamp(0, 255).to(torch.uint8)


def energy_shares(delta: torch.Tensor) -> dict[str, float]:
    """Where a perturbation's energy lies: a number for what the paper's Figures 1, 2, 9, 10 show.

    Args:
        delta: `(N, 3 or 1, H, W)` float32.

    Returns:
        shares of the total squared norm, each in [0, 1]: "luminance" (the projection on the gray
        axis R = G = B) and "chroma" (orthogonal to it), which add up to 1; and, whatever its
        colour, "tiles", what is left if every tile of 4x4 pixels takes its mean, and "constant",
        what is left if the whole image does. Independent noise would give 1/3, 2/3, 1/16 and
        1/(H W).
    """
    height, width = delta.shape[2:]
    pixels = _tile_pixels(height)[:, None] * _tile_pixels(width)  # of each tile
    total = luminance = tiles = constant = 0.0
    for part in delta.split(max(1, MEASURED_AT_ONCE // delta[0].numel()) if len(delta) else 1):
        colour = part.expand(-1, 3, -1, -1)
        means = F.avg_pool2d(colour, TILE, ceil_mode=True)  # of the pixels that a border's tile has
        total += _energy(colour)
        luminance += 3 * _energy(colour.mean(1))
        tiles += _energy(means * pixels.to(means).sqrt())
        constant += height * width * _energy(colour.mean((2, 3)))
    if total == 0:
        return {"luminance": 0.0, "chroma": 0.0, "tiles": 0.0, "constant": 0.0}
    shares = {"luminance": luminance / total, "chroma": 1 - luminance / total}
    return shares | {"tiles": tiles / total, "constant": constant / total}


def sample_of(delta: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Evenly spaced rows of delta, about 5,000 images of 32 pixels: enough to say what the whole is
    made of (`energy_shares`) to a fraction of a percent, in a fraction of a second.

    Args:
        delta: `(N, 3 or 1, H, W)` float32.
        rows: `(M,)` int64, which of them are looked at.
    """
    most = max(1, SAMPLED // delta[0].numel())
    return delta[rows[:: math.ceil(len(rows) / most)]]


def _tile_pixels(side: int) -> torch.Tensor:
    """Pixels of each tile along a side: `TILE`, and the rest at the border."""
    return torch.tensor([min(TILE, side - start) for start in range(0, side, TILE)])


def _energy(values: torch.Tensor) -> float:
    return float(values.square().sum(dtype=torch.float64))


def sign_balance(delta: torch.Tensor, border: int = 4) -> dict[str, float]:
    """How far noise leans to the positive side, which the released export keeps.

    Args:
        delta: `(N, 3 or 1, H, W)` float32.
        border: pixels from the edge that count as border.

    Returns:
        "positive", the share of values above 0, and "mean", in gray levels, each "inside" and
        "border".

    Raises:
        ValueError: no pixel is inside, or none at the border.
    """
    if not 0 < border < min(delta.shape[2:]) / 2:
        raise ValueError(f"a border of {border} pixels, in noise of {tuple(delta.shape[2:])}")
    edge = torch.ones(delta.shape[2:], dtype=torch.bool)
    edge[border:-border, border:-border] = False
    found = {}
    for name, where in (("inside", ~edge), ("border", edge)):
        values = delta[..., where]  # (N, channels, pixels)
        found[f"positive, {name}"] = float((values > 0).sum() / values.numel())
        found[f"mean, {name}"] = 255 * float(values.mean(dtype=torch.float64))
    return found


def added_levels(clean: torch.Tensor, published: torch.Tensor) -> dict[str, float]:
    """How much noise the published images really carry, after rounding, dropping and truncation.

    Args:
        clean, published: `(N, 3, H, W)` uint8, the same images before and after.

    Returns:
        root mean squares in gray levels: "colour" over all channels; "gray" of what the gray
        filter leaves of it; "gray, varying" of that without each image's mean, which is a mere
        change of brightness; and "brightening", the mean over all channels, with its sign.
    """
    sums = dict.fromkeys(("colour", "gray", "gray, varying", "brightening"), 0.0)
    for before, after in zip(clean.split(1000), published.split(1000), strict=True):
        added = after.float() - before
        gray = views.gray(after)[:, 0].float() - views.gray(before)[:, 0]  # (B, H, W)
        varying = gray - gray.mean((1, 2), keepdim=True)
        sums["colour"] += added.square().mean((1, 2, 3)).sum().item()
        sums["gray"] += gray.square().mean((1, 2)).sum().item()
        sums["gray, varying"] += varying.square().mean((1, 2)).sum().item()
        sums["brightening"] += added.mean((1, 2, 3)).sum().item()
    means = {name: value / len(clean) for name, value in sums.items()}
    return {name: v if name == "brightening" else math.sqrt(v) for name, v in means.items()}
