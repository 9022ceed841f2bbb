"""Views: functions from a batch of images to a batch of images of the same shape.

A defender chooses the view through which its source model sees the clean image (paper, section
4.2); an exploiter chooses what it applies before training (section 4.1) and its augmentation.

`view(op("gray_crop_flip", padding=4))` looks one up in `VIEWS`. A new view is a function that
returns a `View`, and a line in that table.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from ulelib import augmentations
from ulelib.settings import Op, Share, checked, look_up

# ITU-R 601-2 luma, the weights of PIL's convert("L"). torchvision's Grayscale of a tensor, which
# the released defender calls, has 0.2989 for red: a fortieth of a gray level less at most.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class View:
    """A view, and what has to be known of it.

    Attributes:
        show: from `images` `(B, 3, H, W)`, float in [0, 1] or uint8 in [0, 255], and a
            `torch.Generator` for the random choices, to images of equal shape, dtype and range.
        random: whether every pass draws another picture.
        gray: whether the three channels of what it returns are equal.
        together: whether something is drawn for a batch as a whole.
        rounds: whether it passes through whole numbers, so that no gradient passes through it.
    """

    show: Callable[[torch.Tensor, torch.Generator], torch.Tensor]
    random: bool = False
    gray: bool = False
    together: bool = False
    rounds: bool = False

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return self.show(images, generator)


def view(wanted: Op) -> View:
    """The view of that name.

    Raises:
        ValueError: no such view, or an option that it does not take.
    """
    return look_up(VIEWS, wanted, "view")()


def smooth_view(wanted: Op, what: str) -> View:
    """The view of that name, through which noise can be learned.

    Args:
        what: the setting that names it, for the error.

    Raises:
        ValueError: as `view`; or no gradient passes through it.
    """
    found = view(wanted)
    if found.rounds:
        raise ValueError(
            f"{what} is {wanted}, which rounds: no gradient of the noise passes through it"
        )
    return found


def gray(images: torch.Tensor) -> torch.Tensor:
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

    Args:
        padding: black pixels on each side.
    """
    shifts = 2 * padding + 1
    # One number a sample says where it is cropped and whether it is flipped.
    choice = torch.randint(0, 2 * shifts * shifts, (len(images),), generator=generator)
    padded = F.pad(images, (padding,) * 4)
    in_groups = images.device.type == "cpu" and not images.requires_grad
    moved = _move_in_groups if in_groups else _move_by_gather
    return moved(padded, choice, images)


def _move_in_groups(
    padded: torch.Tensor, choice: torch.Tensor, images: torch.Tensor
) -> torch.Tensor:
    """The crops that `choice` names, of the size of `images`. Samples with the same number are
    moved together: on a processor 162 slices of a batch are faster than a gather per pixel."""
    height, width = images.shape[2:]
    shifts = padded.shape[2] - height + 1
    order = choice.argsort(stable=True)
    sizes = torch.bincount(choice, minlength=2 * shifts * shifts).tolist()
    views = torch.empty_like(images)
    for code, members in enumerate(order.split(sizes)):
        if len(members):
            place, flip = divmod(code, 2)
            top, left = divmod(place, shifts)
            members = members.to(images.device)
            window = padded[members, :, top : top + height, left : left + width]
            views[members] = window.flip(3) if flip else window
    return views


def _move_by_gather(
    padded: torch.Tensor, choice: torch.Tensor, images: torch.Tensor
) -> torch.Tensor:
    """The same in two gathers: for a GPU, which would wait for 162 launches, and for a gradient,
    which 162 slices would copy as often."""
    count, channels, height, width = images.shape
    shifts = padded.shape[2] - height + 1
    choice = choice.to(images.device)[:, None]
    place, flip = choice // 2, (choice % 2).bool()
    down, across = (torch.arange(side, device=images.device) for side in (height, width))
    rows = place // shifts + down  # (B, H)
    columns = place % shifts + torch.where(flip, across.flip(0), across)  # (B, W)
    size = count, channels, height, padded.shape[3]
    tall = padded.gather(2, rows[:, None, :, None].expand(size))
    return tall.gather(3, columns[:, None, None].expand(images.shape))


def resized_crop(images: torch.Tensor, boxes: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """A part of each image, enlarged to the size of the whole, bilinearly.

    Differentiable, and in one call for all images, each with its own part.

    Args:
        images: `(B, 3, H, W)` float.
        boxes: `(B, 4)` float, in shares of height and width: top, left, height, width.
        flips: `(B,)` bool, which ones are mirrored.
    """
    top, left, height, width = boxes.to(images).unbind(1)
    mirrored = width * torch.where(flips.to(images.device), -1.0, 1.0)
    zero = torch.zeros_like(top)
    # From [-1, 1] of the result to [-1, 1] of the image.
    across = torch.stack([mirrored, zero, 2 * left + width - 1], 1)
    down = torch.stack([zero, height, 2 * top + height - 1], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def jitter(images: torch.Tensor, factors: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Brightness, contrast, saturation and hue of each image, changed by its own factors.

    As torchvision's `ColorJitter` does it for one image; differentiable.

    Args:
        images: `(B, 3, H, W)` float in [0, 1].
        factors: `(B, 4)` float: factors of brightness, contrast and saturation, and the turn of the
            hue in [-0.5, 0.5].
        order: of the four, which is done when.
    """
    amounts = factors.to(images).view(-1, 4, 1, 1, 1)
    for which in order:
        amount = amounts[:, which]
        if which == 3:
            images = _turn_hue(images, amount)
            continue
        if which == 0:
            other = torch.zeros_like(images)
        else:
            other = gray(images)
            other = other.mean((1, 2, 3), keepdim=True) if which == 1 else other
        images = (amount * images + (1 - amount) * other).clamp(0, 1)
    return images


def _turn_hue(images: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Hue moved by `turn` `(B, 1, 1, 1)`, in turns, in the HSV model."""
    red, green, blue = images.unbind(1)
    value, which = images.max(1)  # (B, H, W)
    chroma = value - images.amin(1)
    safe = chroma.clamp(min=1e-8)  # gray pixels have no hue, and keep their colour below
    differences = torch.stack([green - blue, blue - red, red - green], 1)
    sixth = torch.gather(differences, 1, which[:, None])[:, 0] / safe + 2 * which
    turned = sixth + 6 * turn[:, 0]
    channels = []
    for offset in (5, 3, 1):
        k = (turned + offset).remainder(6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


def bit_depth(images: torch.Tensor, bits: int) -> torch.Tensor:
    """Bit-depth reduction, round(x (2^b - 1)) / (2^b - 1): each channel takes the nearest of 2^b
    values (Xu et al., "Feature Squeezing", NDSS 2018).

    The paper's BDR (Tables 1 and 8) cites this and was released without code; later benchmarks
    drop the low bits instead, which darkens.
    """
    top = 2**bits - 1
    if images.dtype != torch.uint8:
        return (images * top).round() / top
    levels = (torch.arange(256) * top / 255).round() * 255 / top
    return levels.round().to(torch.uint8).to(images.device)[images.int()]


def jpeg(images: torch.Tensor, quality: int) -> torch.Tensor:
    """JPEG coding and decoding by Pillow, colour at half resolution, as most programs write it.

    The first test of those who filter protected images (Liu et al., "Image Shortcut Squeezing",
    ICML 2023, take quality 10). Float images pass through 8 bits.
    """
    levels = images if images.dtype == torch.uint8 else (255 * images).round().to(torch.uint8)
    seen = torch.empty_like(levels)
    for into, image in zip(seen, levels.cpu(), strict=True):  # it has no form for many pictures
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        into.copy_(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return seen if images.dtype == torch.uint8 else (seen / 255).to(images.dtype)


def blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of `sigma` pixels, over a window of three sigmas each way.

    The blur of later benchmarks, three pixels wide with a sigma of 0.1, changes nothing.
    """
    height, width = images.shape[2:]
    window = 2 * min(math.ceil(3 * sigma), height - 1, width - 1) + 1  # reflected at the border
    return gaussian_blur(images, [window, window], [sigma, sigma])


def halved(images: torch.Tensor) -> torch.Tensor:
    """Half the size and back, as whoever stores thumbnails sees it; bilinear, with antialiasing."""
    size = list(images.shape[2:])
    half = [max(1, side // 2) for side in size]
    as_float = images.float()
    for wanted in (half, size):
        as_float = F.interpolate(as_float, wanted, mode="bilinear", antialias=True)
    top = 255 if images.dtype == torch.uint8 else 1
    as_float = as_float.clamp(0, top)
    return as_float.round().to(torch.uint8) if top == 255 else as_float.to(images.dtype)


Padding = Annotated[int, Field(ge=0, le=16)]  # pixels on each side


def _identity() -> View:
    """The image itself: ULEO, and the standard exploiter."""
    return View(lambda images, _: images)


def _gray() -> View:
    """Gray(x), equation 4."""
    return View(lambda images, _: gray(images), gray=True)


@checked
def _crop_flip(padding: Padding = 4) -> View:
    """Aug(x), section 4.2."""
    return View(lambda images, generator: crop_flip(images, generator, padding), random=True)


def _gray_crop_flip(padding: Padding = 4) -> View:
    """Gray(Aug(x)): the view of ULEO-GrayAugs (section 4.2, equation 6)."""
    aug = _crop_flip(padding)
    return View(lambda images, generator: gray(aug(images, generator)), random=True, gray=True)


@checked
def _contrastive(
    smallest: Annotated[float, Field(gt=0, le=1)] = 0.2,
    strength: Share = 1.0,
    jittered: Share = 0.8,
    gray_chance: Share = 0.2,
) -> View:
    """The view of contrastive learning on CIFAR: a part of 0.2 to 1 of the area, enlarged; flipped;
    with chance 0.8 changed in colour (0.4, 0.4, 0.4, 0.1 times `strength`); with chance 0.2 gray.

    SimCLR's (Chen et al., ICML 2020, appendix B.9: no blur on CIFAR) with the smallest part of MoCo
    v2 and SimSiam; SimCLR's own, and that of the released commands, is 0.08. All is drawn for each
    image, but for the order of the colour changes, which is a batch's. Float images; others pass
    through them, a thousand at a time.
    """
    spans = torch.tensor([0.4, 0.4, 0.4, 0.1]) * strength
    centre = torch.tensor([1.0, 1.0, 1.0, 0.0])

    def show(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if images.dtype == torch.uint8 and len(images) > augmentations.AT_ONCE:
            return torch.cat(
                [show(part, generator) for part in images.split(augmentations.AT_ONCE)]
            )
        count, where = len(images), images.device
        drawn = torch.rand(count, 11, generator=generator)
        order = tuple(torch.randperm(4, generator=generator).tolist())
        area = smallest + (1 - smallest) * drawn[:, 0]
        ratio = torch.exp((2 * drawn[:, 1] - 1) * math.log(4 / 3))
        sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], 1).clamp(max=1)
        boxes = torch.cat([(1 - sides) * drawn[:, 2:4], sides], 1)
        seen = resized_crop(_as_float(images), boxes, drawn[:, 4] < 0.5)
        factors = centre + (2 * drawn[:, 5:9] - 1) * spans
        factors = torch.where(drawn[:, 9:10] < jittered, factors, centre)
        seen = jitter(seen, factors, order)
        turned_gray = (drawn[:, 10] < gray_chance).to(where).view(-1, 1, 1, 1)
        seen = torch.where(turned_gray, gray(seen), seen)
        return seen if images.dtype != torch.uint8 else (255 * seen).round().to(torch.uint8)

    return View(show, random=True, together=True)


def _as_float(images: torch.Tensor) -> torch.Tensor:
    return images / 255 if images.dtype == torch.uint8 else images


@checked
def _bdr(bits: Annotated[int, Field(ge=1, le=8)] = 2) -> View:
    """Bit-depth reduction to 1 to 8 bits a channel; see `bit_depth`."""
    return View(lambda images, _: bit_depth(images, bits), rounds=True)


@checked
def _jpeg(quality: Annotated[int, Field(ge=1, le=100)] = 10) -> View:
    """JPEG of quality 1 to 100; see `jpeg`."""
    return View(lambda images, _: jpeg(images, quality), rounds=True)


@checked
def _blur(sigma: Annotated[float, Field(gt=0, le=16)] = 1.0) -> View:
    """Gaussian blur of up to 16 pixels; see `blur`."""
    return View(lambda images, _: blur(images, sigma))


@checked
def _low_pass(keep: Annotated[float, Field(gt=0, le=1)] = 0.3) -> View:
    """The lowest share of the frequencies; see `augmentations.low_pass`."""
    return View(lambda images, _: augmentations.low_pass(images, keep))


@checked
def _cutout(size: Annotated[int, Field(ge=1, le=256)] = 16, padding: Padding = 4) -> View:
    """Aug(x), and a black square; see `augmentations.cutout`."""
    return _after_crop_flip(padding, lambda x, draw: augmentations.cutout(x, draw, size))


@checked
def _trivial_augment(padding: Padding = 4) -> View:
    """Aug(x), then TrivialAugment; see `augmentations.trivial_augment`."""
    return _after_crop_flip(padding, augmentations.trivial_augment, rounds=True)


@checked
def _coin(reach: Annotated[float, Field(gt=0, le=16)] = 2.0, padding: Padding = 4) -> View:
    """Aug(x), then COIN; see `augmentations.coin`."""
    return _after_crop_flip(padding, lambda x, draw: augmentations.coin(x, draw, reach))


@checked
def _ueraser(padding: Padding = 4) -> View:
    """Aug(x), then UEraser-Lite; see `augmentations.ueraser`."""
    return _after_crop_flip(padding, augmentations.ueraser, rounds=True)


def _after_crop_flip(
    padding: int,
    show: Callable[[torch.Tensor, torch.Generator], torch.Tensor],
    rounds: bool = False,
) -> View:
    aug = _crop_flip(padding)
    return View(
        lambda images, generator: show(aug(images, generator), generator),
        random=True,
        rounds=rounds,
    )


def _halved() -> View:
    """Half the size and back; see `halved`."""
    return View(lambda images, _: halved(images))


VIEWS: dict[str, Callable[..., View]] = {
    "identity": _identity,
    "gray": _gray,
    "crop_flip": _crop_flip,
    "gray_crop_flip": _gray_crop_flip,
    "contrastive": _contrastive,
    "bdr": _bdr,
    "jpeg": _jpeg,
    "blur": _blur,
    "halved": _halved,
    "low_pass": _low_pass,
    "cutout": _cutout,
    "trivial_augment": _trivial_augment,
    "coin": _coin,
    "ueraser": _ueraser,
}
