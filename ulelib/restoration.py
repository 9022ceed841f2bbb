"""The way back: a small network learns from pairs how to take the noise out again.

An exploiter who can run a public protector, or who finds clean copies of some published pictures,
has pairs of pictures with and without noise. BridgePure (Wang et al., *BridgePure: Limited
Protection Leakage Can Break Black-Box Data Protection*, NeurIPS 2025) trains a diffusion model on
such pairs. Here a small U-Net does it, in about a minute on one processor core. Noise that it
leaves may still fall to a larger model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from ulelib.data import ImageSet
from ulelib.machine import device, logits, seeded_model, to_float
from ulelib.perturbation import CHUNK
from ulelib.pgd import Diverged
from ulelib.settings import Count, NotNegative, Positive, Share, settings
from ulelib.step import Schedule, Step

WARMUP = 0.2  # share of the steps in which the learning rate rises
REPORTED = 50  # steps between two lines of a report


@settings
class Restoration:
    """A U-Net learns from pairs (published, clean) to predict the noise; all published images then
    pass it, those of the pairs too.

    Noise often has a fixed place (blocks, patterns of a class), which a crop or a mirror image
    would move. So the noise stays where it is, and the picture under it changes: in half of each
    batch the noise of one pair lies on the picture of another, mirrored or not, in other colours.
    Few pairs are then hard to learn by heart. The other half of a batch stays as it is, since some
    noise depends on its picture.

    The defaults were chosen by the squared error on images outside the pairs, not by the accuracy
    of any classifier (`benchmarks/README.md`).

    Attributes:
        pairs: images of which the exploiter has both versions, drawn from all training images.
        steps, batch_size: of the training.
        learning_rate: the peak of AdamW's one-cycle schedule.
        weight_decay: AdamW's.
        width: channels of the U-Net at half of the images' size; twice and four times as many at a
            quarter and an eighth.
        exchanged: share of a batch in which noise lies on other pictures.
        tint: the most that the colours of such a picture are moved, in units of the pixel range.
    """

    pairs: Count = 500
    steps: Count = 1000
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 64
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.01
    width: Annotated[int, Field(ge=1, le=1024)] = 32
    exchanged: Share = 0.5
    tint: Share = 0.2


def restored(
    published: ImageSet,
    clean: ImageSet,
    restoration: Restoration,
    seed: int,
    precision: str,
    report: Callable[[str], None] = lambda line: None,
) -> ImageSet:
    """All published images as the network gives them back; both sets stay as they are.

    It saves no checkpoint: it takes about a minute, and begins anew where it was interrupted.

    Args:
        published, clean: the same images in the same order. Of the clean ones, those of the pairs
            alone are read.
        seed: of the pairs, the initial weights and the order.
        precision: of the passes, "float32" or "bfloat16".
        report: callback, called with a line of text now and then.

    Raises:
        ValueError: there are fewer images than pairs, or the two sets differ in their shape.
        Diverged: the restored images are not finite.
    """
    if published.images.shape != clean.images.shape:
        shapes = [tuple(one.images.shape) for one in (published, clean)]
        raise ValueError(f"published images have shape {shapes[0]}, clean ones {shapes[1]}")
    if len(published) < restoration.pairs:
        raise ValueError(
            f"Restoration.pairs is {restoration.pairs}, but there are {len(published)} images"
        )
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(published), generator=generator)[: restoration.pairs]
    x, y = (to_float(one.images[rows].to(device())) for one in (published, clean))
    model = seeded_model(lambda: UNet(restoration.width), seed)
    _train(model, x, y, restoration, generator, precision, report)
    return _passed(published, model, precision)


class UNet(nn.Module):
    """A picture less the noise that a U-Net sees in it: `(B, 3, H, W)` in [0, 1] -> the same.

    It begins as the identity, because its last layer begins at 0. It works at a half, a quarter and
    an eighth of the size: 2x2 pixels become channels first, which saves the passes at full size.
    Two channels hold the coordinates, since noise may have a fixed place. The mean over the
    picture, through two linear layers, reaches every place: there a class-wise pattern is known as
    a whole.

    Args:
        width: see `Restoration`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half, quarter, eighth = width, 2 * width, 4 * width
        self.first = _two(3 * 4 + 2, half)
        self.second, self.third = _two(half, quarter, stride=2), _two(quarter, eighth, stride=2)
        self.whole = nn.Sequential(
            nn.Linear(eighth, eighth), nn.ReLU(), nn.Linear(eighth, eighth)
        )  # (B, eighth), of the picture's mean
        self.deepest = _one(eighth, eighth)
        self.rise = nn.ModuleList([nn.Conv2d(eighth, quarter, 1), nn.Conv2d(quarter, half, 1)])
        self.back = nn.ModuleList([_one(quarter, quarter), _one(half, half)])
        self.noise = nn.Conv2d(half, 3 * 4, 3, padding=1)
        nn.init.zeros_(self.noise.weight)
        nn.init.zeros_(self.noise.bias)  # type: ignore[arg-type]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        even = F.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
        seen = F.pixel_unshuffle(4 * (even - 0.5), 2)  # (B, 12, H / 2, W / 2)
        half = self.first(torch.cat([seen, _coordinates(seen)], 1))
        quarter = self.second(half)
        eighth = self.third(quarter)
        seen = self.deepest(eighth + self.whole(eighth.mean((2, 3)))[:, :, None, None])
        for rise, back, beside in zip(self.rise, self.back, (quarter, half), strict=True):
            seen = back(beside + F.interpolate(rise(seen), beside.shape[2:]))
        return images - F.pixel_shuffle(self.noise(seen), 2)[:, :, :height, :width]


def _one(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def _two(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_one(inputs, outputs, stride), _one(outputs, outputs))


def _coordinates(like: torch.Tensor) -> torch.Tensor:
    """`(B, 2, H, W)`: row and column of each place, from -1 to 1."""
    rows, columns = (torch.linspace(-1, 1, side).to(like) for side in like.shape[2:])
    both = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return both.expand(len(like), -1, -1, -1)


def _train(
    model: nn.Module,
    published: torch.Tensor,
    clean: torch.Tensor,
    how: Restoration,
    generator: torch.Generator,
    precision: str,
    report: Callable[[str], None],
) -> None:
    """Minimise the squared errors of pairs, which `generator` draws."""
    optimizer = torch.optim.AdamW(
        model.parameters(), how.learning_rate, weight_decay=how.weight_decay
    )
    schedule = Schedule(
        optimizer,
        lambda own: OneCycleLR(own, how.learning_rate, how.steps + 1, pct_start=WARMUP),
    )
    step = Step(
        model,
        optimizer,
        # In gray levels squared: AdamW divides by gradients that must not be next to zero.
        lambda x, y: (F.mse_loss(255 * logits(model, x, precision), 255 * y),),
        schedule=schedule,
    )
    model.train()
    for number in range(1, how.steps + 1):
        rows = torch.randint(len(clean), (how.batch_size,), generator=generator)
        x, y = (one[rows.to(device())] for one in (published, clean))
        pictures = _exchanged(y, how, generator)
        step(x - y + pictures, pictures)
        if number % REPORTED == 0:
            report(f"taking the noise out: step {number} of {how.steps}")


def _exchanged(clean: torch.Tensor, how: Restoration, generator: torch.Generator) -> torch.Tensor:
    """The pictures under the noise of a batch `(B, 3, H, W)`, see `Restoration`."""
    count = int(how.exchanged * len(clean))
    others = clean[:count].roll(1, 0)
    mirrored = torch.rand(count, 1, 1, 1, generator=generator).to(clean.device) < 0.5
    tint = 2 * torch.rand(count, 3, 1, 1, generator=generator).to(clean.device) - 1
    others = torch.where(mirrored, others.flip(3), others) + how.tint * tint
    return torch.cat([others, clean[count:]])


@torch.no_grad()
def _passed(published: ImageSet, model: nn.Module, precision: str) -> ImageSet:
    """All images as the network gives them back, uint8."""
    model.eval()
    pixels = torch.empty_like(published.images)
    for rows in torch.arange(len(published)).split(CHUNK):
        clean = logits(model, to_float(published.images[rows].to(device())), precision)
        if not clean.isfinite().all():
            raise Diverged("the restored images are not finite; lower Restoration.learning_rate")
        pixels[rows] = (255 * clean).round_().clamp_(0, 255).to(torch.uint8).cpu()
    return replace(published, images=pixels)
