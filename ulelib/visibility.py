"""How visible noise is: the norms of published pictures, as papers print them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from ulelib.perturbation import CHUNK

COMPARED = 1000  # pictures whose PSNR and SSIM are measured, evenly spaced
SSIM_WINDOW = 11  # pixels a side, the least that a picture must have


@dataclass(frozen=True)
class Visibility:
    """What noise changes in 8-bit pictures.

    Attributes:
        largest: L-infinity: the most that a channel of a pixel changes, in gray levels.
        l2: mean L2 norm of a picture's change, in units of the pixel range [0, 1].
        psnr: mean over pictures that changed, in decibels; NaN where none did.
        ssim: mean over the same; NaN for pictures smaller than its window.
        unchanged: share of the pictures that did not change.
    """

    largest: int
    l2: float
    psnr: float
    ssim: float
    unchanged: float

    @property
    def numbers(self) -> dict[str, float | None]:
        """As plain JSON data, which has no NaN: None."""
        return {name: None if math.isnan(one) else one for name, one in asdict(self).items()}

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> Visibility:
        """The one that has these `numbers`; others among them are left out."""
        found: dict[str, Any] = {item.name: numbers[item.name] for item in fields(cls)}
        found |= {name: math.nan for name, one in found.items() if one is None}
        return cls(**found)

    def __str__(self) -> str:
        said = f"L-infinity {self.largest}/255, mean L2 {self.l2:.2f}, PSNR {self.psnr:.1f} dB"
        said += "" if math.isnan(self.ssim) else f", SSIM {self.ssim:.3f}"
        left = f"; {100 * self.unchanged:.1f} % of the pictures did not change"
        return said + left * (self.unchanged > 0)


def visibility(clean: torch.Tensor, published: torch.Tensor) -> Visibility:
    """The norms of published pictures.

    Args:
        clean, published: `(N, 3, H, W)` uint8, the same pictures before and after.

    Raises:
        ValueError: other kinds of numbers, or shapes that differ.
    """
    if clean.shape != published.shape or {clean.dtype, published.dtype} != {torch.uint8}:
        raise ValueError(
            f"clean pictures are {clean.dtype} {tuple(clean.shape)}, published ones "
            f"{published.dtype} {tuple(published.shape)}; expected uint8 of one shape"
        )
    largest, norms = 0, []
    for before, after in zip(clean.split(CHUNK), published.split(CHUNK), strict=True):
        added = (after.to(torch.int16) - before).flatten(1)
        largest = max(largest, int(added.abs().max()))
        norms.append(added.double().norm(dim=1) / 255)
    l2 = torch.cat(norms)
    rows = torch.arange(len(clean))[:: math.ceil(len(clean) / COMPARED)]
    psnr, ssim = similarity(clean[rows].float(), published[rows].float())
    differ = psnr.isfinite()  # it is infinite if both are equal
    return Visibility(
        largest,
        l2=float(l2.mean()),
        psnr=float(psnr[differ].mean()),  # NaN if none differs
        ssim=float(ssim[differ].mean()),
        unchanged=float((l2 == 0).double().mean()),
    )


def similarity(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """PSNR (decibels, infinite where both are equal) and SSIM (at most 1) of each pair.

    Args:
        first, second: `(N, 3, H, W)` float32 in [0, 255].

    Returns:
        `(N,)` float32 each; SSIM is NaN for pictures smaller than its window.
    """
    # Of the extras `book` and `photos`, and slow to import: it loads Lightning.
    from torchmetrics.functional import image as metrics

    psnr = metrics.peak_signal_noise_ratio(
        second, first, data_range=255.0, dim=(1, 2, 3), reduction="none"
    )
    if min(first.shape[2:]) < SSIM_WINDOW:
        return psnr, torch.full_like(psnr, math.nan)
    ssim = metrics.structural_similarity_index_measure(
        second, first, data_range=255.0, reduction="none"
    )
    assert isinstance(ssim, torch.Tensor)
    return psnr, ssim.reshape(psnr.shape)
