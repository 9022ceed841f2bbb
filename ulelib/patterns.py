"""Model-free noise that is drawn and knows nothing of an image but its label.

    LSP       clusters of one Gaussian a class, each value a block of pixels (Yu et al., KDD 2022)
    AR        an autoregressive process a class (Sandoval-Segura et al., NeurIPS 2022)
    region-4  blocks of +-epsilon, one pattern a class

Written from the papers. LSP and AR are bounded in L2, so their `epsilon` is what the noise that was
drawn reaches (`radius_of`); region noise is bounded by epsilon.
"""

from __future__ import annotations

import math
import time
from typing import Annotated, Any

import torch
from pydantic import Field
from torch.nn import functional as F

from ulelib.data import ImageSet, check_classes
from ulelib.perturbation import CHUNK, Perturbation, energy_shares, sample_of
from ulelib.settings import NotNegative, Positive, Radius, settings

Side = Annotated[int, Field(ge=1, le=64)]
CIFAR_VALUES = 3 * 32 * 32  # an L2 norm on CIFAR's pictures is that many values' root mean square
TRIALS, CANDIDATES = 3, 256  # of an autoregressive process; how many are tried at once
MOST_CANDIDATES = 200 * CANDIDATES  # for one class
WARM_UP = 4  # rows and columns of a process that are cut off
WINDOW = 3  # pixels a side of which a pixel is made, itself among them


@settings
class LinearlySeparable:
    """LSP: linearly separable perturbations, class by class (Yu et al., KDD 2022).

    Each class has a corner of a hypercube and a Gaussian around it. An image draws a point there,
    and each coordinate of the point fills a square block of one channel. Sample-wise, bounded in
    L2: the noise of every image has the same norm. The paper's is 6/255 times the root of the
    number of values, 1.30 on CIFAR; pixels then reach about 16/255. The released code truncates to
    8 bits (export "truncated").

    Attributes:
        rms: root mean square of an image's noise, in units of the pixel range.
        apart: distance of the corners from the centre along each coordinate. A coordinate's own
            spread is the root of a third of their number: 4 on CIFAR.
        block: pixels a side.
    """

    rms: Radius = 6 / 255
    apart: NotNegative = 10.0
    block: Side = 8

    def make(self, images: ImageSet, seed: int, precision: str, **_: Any) -> Perturbation:
        """See `specs.Method`."""
        check_classes(images)
        started, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
        height, width = images.images.shape[2:]
        rows, columns = math.ceil(height / self.block), math.ceil(width / self.block)
        values = 3 * rows * columns
        points = torch.empty(len(images), values)
        corners = distinct_signs(len(images.classes), values, generator)
        for label, corner in enumerate(corners):
            members = (images.labels == label).nonzero()[:, 0]
            spread = 2 * torch.rand(values, values, generator=generator) - 1
            drawn = torch.randn(len(members), values, generator=generator)
            points[members] = drawn @ spread + self.apart * corner
        delta = _blocks(points.view(-1, 3, rows, columns), self.block, height, width)
        return perturbation(scaled(delta, self.rms), images, "sample_wise", "LSP", started)


@settings
class Autoregressive:
    """AR: a pixel is a weighted sum of the eight before it in its 3x3 window, by weights of its
    class and channel (Sandoval-Segura et al., NeurIPS 2022).

    A process begins with two rows and columns of white noise; four are cut off. Sample-wise,
    bounded in L2: the noise of every image has the same norm, the paper's 1.0 on CIFAR; pixels then
    reach about 43/255. The weights are not the paper's but drawn here: from a normal distribution,
    then divided by their sum. A class takes the first with which `TRIALS` processes stay small, and
    to whose noise the filters of all earlier classes respond. (A filter gives 0 on its own noise.)

    Attributes:
        rms: root mean square of an image's noise, in units of the pixel range.
        loudest: root mean square that no trial may exceed, with white noise of 1 at the start; the
            released search bounds the norm of CIFAR's 3,072 values by 50.
        response: least mean of the positive part of an earlier filter's response, per root mean
            square of the noise: a sum of 3 over CIFAR's 900 windows of noise of norm 1. The
            released search asks for 10 and draws a million processes; this one takes a second.
    """

    rms: Radius = CIFAR_VALUES**-0.5
    loudest: Positive = 50 / CIFAR_VALUES**0.5
    response: NotNegative = 3 / 900 * CIFAR_VALUES**0.5

    def make(self, images: ImageSet, seed: int, precision: str, **_: Any) -> Perturbation:
        """See `specs.Method`.

        Raises:
            ValueError: too many classes for so large a `response`, or `loudest` is too small.
        """
        check_classes(images)
        started, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
        size = tuple(images.images.shape[2:])
        filters = self.filters(len(images.classes), size, generator)
        delta = torch.empty(len(images), 3, *size)
        labels = images.labels.split(CHUNK)
        for into, part in zip(delta.split(CHUNK), labels, strict=True):
            into.copy_(process(filters[part], size, generator))
        return perturbation(scaled(delta, self.rms), images, "sample_wise", "AR", started)

    def filters(
        self, count: int, size: tuple[int, ...], generator: torch.Generator
    ) -> torch.Tensor:
        """Weights `(count, 3, 8)` float32 of as many processes, those of a window in its order."""
        found = torch.empty(0, 3, WINDOW**2 - 1)
        tried = 0
        while len(found) < count:
            if tried >= MOST_CANDIDATES:
                raise ValueError(
                    f"Autoregressive: none of {tried:,} processes stays below loudest "
                    f"{self.loudest:.3g} while all {len(found)} earlier filters respond by "
                    f"{self.response:.3g} or more; lower response for {count} classes"
                )
            drawn = torch.randn(CANDIDATES, 3, WINDOW**2 - 1, generator=generator)
            drawn = drawn / drawn.sum(2, keepdim=True)
            trials = process(drawn.repeat_interleave(TRIALS, 0), size, generator)
            trials = trials.unflatten(0, (CANDIDATES, TRIALS))
            rms = trials.square().mean((2, 3, 4)).sqrt()
            quiet = (rms <= self.loudest).all(1)  # what is not finite is not
            tried += CANDIDATES
            for place in quiet.nonzero()[:, 0].tolist():
                last = trials[place, -1] / rms[place, -1]
                if not len(found) or responses(found, last).min() >= self.response:
                    found, tried = torch.cat([found, drawn[place, None]])[:count], 0
        return found


@settings
class Region:
    """Region noise: one pattern a class, of equal squares that are +-epsilon in each channel.

    A control: class-wise, and as large as epsilon in L-infinity allows. Sandoval-Segura et al.
    ("Poisons that are learned faster are more effective", 2022) have such noise; Zhu et al.
    ("Detection and Defense of Unlearnable Examples", AAAI 2024) with 4, 16 and 64 squares.

    Attributes:
        side: squares along a side.
    """

    epsilon: Radius = 8 / 255
    side: Side = 4

    def make(self, images: ImageSet, seed: int, precision: str, **_: Any) -> Perturbation:
        """See `specs.Method`."""
        started, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
        signs = distinct_signs(len(images.classes), 3 * self.side**2, generator)
        squares = self.epsilon * signs.view(-1, 3, self.side, self.side)
        down, across = (torch.arange(n) * self.side // n for n in images.images.shape[2:])
        delta = squares[:, :, down][..., across].contiguous()
        name = f"region-{self.side**2}"
        return perturbation(delta, images, "class_wise", name, started, self.epsilon)


def distinct_signs(count: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """`(count, length)` float32 of -1 and 1, no two rows alike.

    Raises:
        ValueError: there are fewer such rows.
    """
    if count > 2**length:
        raise ValueError(f"{count} classes cannot have different patterns of {length} signs")
    rows: dict[tuple[int, ...], None] = {}
    while len(rows) < count:
        drawn = torch.randint(2, (length,), generator=generator)
        rows.setdefault(tuple(drawn.tolist()))
    return 2 * torch.tensor([*rows], dtype=torch.float32) - 1


def process(
    filters: torch.Tensor, size: tuple[int, ...], generator: torch.Generator
) -> torch.Tensor:
    """Autoregressive noise, begun with white noise.

    Args:
        filters: `(N, 3, 8)` float32, see `Autoregressive.filters`.
        size: height and width.

    Returns:
        `(N, 3, H, W)` float32; not finite where a process blows up.
    """
    height, width = (side + WARM_UP for side in size)
    weights = filters.flatten(0, 1).T.contiguous()  # (8, 3 N): all sequences take a step at once
    field = torch.randn(height, width, weights.shape[1], generator=generator)
    reach = WINDOW - 1
    for row in range(reach, height):
        for column in range(reach, width):
            window = field[row - reach : row + 1, column - reach : column + 1].flatten(0, 1)[:-1]
            field[row, column] = (weights * window).sum(0)
    return field[WARM_UP:, WARM_UP:].permute(2, 0, 1).reshape(-1, 3, *size)


def responses(filters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """How the filters of processes respond to noise: the mean over all windows of the positive part
    of what the weights predict less what is there, added over the channels. 0 on their own noise.

    Args:
        filters: `(M, 3, 8)` float32.
        noise: `(3, H, W)` float32.

    Returns:
        `(M,)` float32.
    """
    whole = torch.cat([filters, -torch.ones_like(filters[..., :1])], 2)
    kernels = whole.unflatten(2, (WINDOW, WINDOW))
    windows = F.conv2d(noise[None], kernels)[0]  # (M, H - 2, W - 2)
    return windows.clamp(min=0).mean((1, 2))


def scaled(delta: torch.Tensor, rms: float) -> torch.Tensor:
    """`delta`, in place, with a root mean square of `rms` for each image."""
    for part in delta.split(CHUNK):
        norms = part.square().mean((1, 2, 3), keepdim=True).sqrt()
        part.mul_(rms / norms.clamp(min=1e-12))
    return delta.clamp_(-1, 1)


def radius_of(delta: torch.Tensor) -> float:
    """The L-infinity radius of noise that has another bound, or none: the whole number of gray
    levels that holds it, at most 1.0, in units of the pixel range."""
    largest = max(map(abs, map(float, delta.aminmax())))
    return min(255, max(1, math.ceil(255 * largest - 1e-4))) / 255


def perturbation(
    delta: torch.Tensor,
    images: ImageSet,
    kind: str,
    defender: str,
    started: float | None = None,
    epsilon: float | None = None,
) -> Perturbation:
    """Noise as a method returns it.

    Args:
        delta, kind, defender: see `Perturbation`.
        started: `time.perf_counter()` at its beginning; None: it is not timed.
        epsilon: `radius_of` the noise if None.
    """
    return Perturbation(
        delta=delta,
        kind=kind,
        epsilon=radius_of(delta) if epsilon is None else epsilon,
        defender=defender,
        fingerprint=images.fingerprint,
        made_of=(energy_shares(sample_of(delta, torch.arange(len(delta)))),),
        seconds=0.0 if started is None else time.perf_counter() - started,
    )


def _blocks(values: torch.Tensor, side: int, height: int, width: int) -> torch.Tensor:
    """`(N, 3, rows, columns)` -> `(N, 3, H, W)`: a value fills a square; the last ones are cut."""
    grown = values.repeat_interleave(side, 2)[:, :, :height]
    return grown.repeat_interleave(side, 3)[..., :width].contiguous()
