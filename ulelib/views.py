"""Views: functions from a batch of images to a batch of images of the same shape.

A defender chooses the view through which its source model sees the clean image (paper, section
4.2); an exploiter chooses the filter it applies before training (section 4.1).

Every view takes `images` `(B, 3, H, W)`, float in [0, 1] or uint8 in [0, 255], and a
`torch.Generator` for its random choices, and returns a new or the same tensor of equal shape, dtype
and range.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

View = Callable[[torch.Tensor, torch.Generator], torch.Tensor]

# ITU-R 601-2 luma, the weights of PIL's convert("L") and so of torchvision's Grayscale.
LUMA = (0.299, 0.587, 0.114)


def identity(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The image itself: ULEO, and the standard exploiter."""
    return images


def gray(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Three equal channels of luma: the paper's `Gray(x)` (equation 4).

    uint8 images round exactly as `PIL.Image.convert("L")` does, which is what the released
    exploiters train on; float images are not rounded, as in the released defender.
    """
    red, green, blue = images.unbind(1)  # each (B, H, W)
    if images.dtype == torch.uint8:
        # PIL's fixed-point weights: 16 fractional bits, plus one half to round.
        luma = 19595 * red.int() + 38470 * green.int() + 7471 * blue.int() + 32768
        return (luma >> 16).to(torch.uint8)[:, None].expand(images.shape)
    luma_float = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return luma_float[:, None].expand(images.shape)


def crop_flip(images: torch.Tensor, generator: torch.Generator, padding: int = 4) -> torch.Tensor:
    """Random crop from the zero-padded image and random horizontal flip, drawn for each image.

    The paper's `Aug(x)` (section 4.2) and the standard augmentation of its exploiters
    (`RandomCrop(32, padding=4)`, `RandomHorizontalFlip()`).
    """
    count, _, height, width = images.shape
    shifts = 2 * padding + 1
    # One number a sample says where it is cropped and whether it is flipped. Samples that share it
    # are moved together: 162 slices of a whole batch instead of a gather per pixel.
    choice = torch.randint(0, 2 * shifts * shifts, (count,), generator=generator)
    order = choice.argsort(stable=True)
    sizes = torch.bincount(choice, minlength=2 * shifts * shifts).tolist()
    padded = F.pad(images, (padding,) * 4)
    views = torch.empty_like(images)
    for code, members in enumerate(order.split(sizes)):
        if len(members):
            place, flip = divmod(code, 2)
            top, left = divmod(place, shifts)
            members = members.to(images.device)
            window = padded[members, :, top : top + height, left : left + width]
            views[members] = window.flip(3) if flip else window
    return views


def gray_crop_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Gray of crop and flip: the view of ULEO-GrayAugs (section 4.2)."""
    return gray(crop_flip(images, generator))


# Views that draw nothing: an image looks the same in every pass.
FIXED: tuple[View, ...] = (identity, gray)
