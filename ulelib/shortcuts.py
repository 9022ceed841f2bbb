"""Model-free changes that are no bounded noise: they set a pixel, or blur, class by class.

    OPS     one pixel of one colour (Wu et al., ICLR 2023)
    CUDA    one convolution (Sadasivan et al., CVPR 2023)

What is stored is the difference to the clean image, so it is sample-wise. No L-infinity bound is
set: `epsilon` is what the difference reaches, up to 1.0 (`patterns.radius_of`). Only the export
"exact" publishes what the papers do; one that drops negative noise would lose half of the change.
"""

from __future__ import annotations

import itertools
import time
from typing import Annotated, Any

import torch
from pydantic import Field
from torch.nn import functional as F

from ulelib.data import ImageSet, check_classes
from ulelib.patterns import perturbation
from ulelib.perturbation import CHUNK, Perturbation
from ulelib.settings import Share, settings

COLOURS = torch.tensor([*itertools.product((0, 255), repeat=3)])  # (8, 3), corners of the cube


@settings
class OnePixel:
    """OPS: one pixel takes the same colour in all images of a class (Wu et al., ICLR 2023,
    Algorithm 1). Its norm is L0: 1 pixel; the difference reaches 1.0.

    Of all positions and the eight corners of the colour cube, a class takes the pair from which its
    images are far and equally far: the mean of |pixel - colour| over images and channels, divided
    by its standard deviation, is largest (as released, `perturb.py` of One-Pixel-Shotcut). No two
    classes take the same pair. Nothing is drawn, so a seed changes nothing.
    """

    def make(self, images: ImageSet, seed: int, precision: str, **_: Any) -> Perturbation:
        """See `specs.Method`.

        Raises:
            ValueError: more classes than pairs.
        """
        check_classes(images)
        started = time.perf_counter()
        delta = torch.zeros(images.images.shape)
        height, width = images.images.shape[2:]
        left = torch.ones(len(COLOURS), height, width, dtype=torch.bool)  # pairs
        if left.sum() < len(images.classes):
            raise ValueError(f"{len(images.classes)} classes, but only {int(left.sum())} pairs")
        for label in range(len(images.classes)):
            members = (images.labels == label).nonzero()[:, 0]
            if not len(members):
                continue
            scores = steady_distances(images.images[members]).where(left, -torch.inf)
            colour, row, column = map(int, torch.unravel_index(scores.argmax(), scores.shape))
            left[colour, row, column] = False
            before = images.images[members, :, row, column].float()
            delta[members, :, row, column] = (COLOURS[colour] - before) / 255
        return perturbation(delta, images, "sample_wise", "OPS", started)


@settings
class ClassConvolution:
    """CUDA: all images of a class pass one filter (Sadasivan et al., CVPR 2023).

    The filter is the same for the three channels; its entries are uniform in [0, blur], and one,
    drawn, is 1. The image is padded with black, and the result divided by its largest value. It has
    no bound: on CIFAR the difference has an L2 norm of about 7, and can be seen.

    Attributes:
        side: of the filter, in pixels; the paper's on CIFAR.
        blur: the paper's p_b on CIFAR.
    """

    side: Annotated[int, Field(ge=1, le=63)] = 3
    blur: Share = 0.3

    def __post_init__(self) -> None:
        if self.side % 2 == 0:
            raise ValueError(f"ClassConvolution.side is {self.side}: it must be odd")

    def make(self, images: ImageSet, seed: int, precision: str, **_: Any) -> Perturbation:
        """See `specs.Method`."""
        check_classes(images)
        started, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
        filters = self.filters(len(images.classes), generator)
        delta = torch.empty(images.images.shape)
        for label, kernel in enumerate(filters):
            members = (images.labels == label).nonzero()[:, 0]
            for some in members.split(CHUNK):
                delta[some] = blurred(images.images[some], kernel) - images.images[some] / 255
        return perturbation(delta, images, "sample_wise", "CUDA", started)

    def filters(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """`(count, side, side)` float32."""
        values = self.side**2
        kernels = self.blur * torch.rand(count, values, generator=generator)
        ones = torch.randint(values, (count, 1), generator=generator)
        return kernels.scatter_(1, ones, 1.0).view(count, self.side, self.side)


def steady_distances(images: torch.Tensor) -> torch.Tensor:
    """Mean over standard deviation of the distances of pixels from the corners of the colour cube.

    Args:
        images: `(B, 3, H, W)` uint8, of one class.

    Returns:
        `(8, H, W)` float64, in the order of `COLOURS`; inf where all distances are equal, 0 where
        they all are 0.
    """
    sums, squares = [], []
    for corner in (0, 255):
        far = (images.int() - corner).abs()
        sums.append(far.sum(0).double())  # (3, H, W), exact
        squares.append(far.square().sum(0).double())
    which = [corner // 255 for corner in COLOURS.flatten().tolist()]
    count = 3 * len(images)

    def mean(parts: list[torch.Tensor]) -> torch.Tensor:  # (8, H, W), over the three channels
        chosen = [parts[corner][place % 3] for place, corner in enumerate(which)]
        return torch.stack(chosen).unflatten(0, (len(COLOURS), 3)).sum(1) / count

    means = mean(sums)
    deviations = (mean(squares) - means.square()).clamp(min=0).sqrt()
    return (means / deviations).nan_to_num(0.0, posinf=torch.inf)


def blurred(images: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Images after a filter, brought to [0, 1] and to whole gray levels.

    Args:
        images: `(B, 3, H, W)` uint8.
        kernel: `(side, side)` float32, not negative.

    Returns:
        `(B, 3, H, W)` float32 in [0, 1]; an image that is all black stays so.
    """
    weights = kernel.expand(3, 1, *kernel.shape)
    seen = F.conv2d(images.float(), weights, padding=len(kernel) // 2, groups=3)
    seen = seen / seen.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
    return (255 * seen).round() / 255
