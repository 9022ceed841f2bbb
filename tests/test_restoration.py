"""The way back: what pairs teach, what is read, and what stays as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from helpers import random_images
from ulelib.data import ImageSet
from ulelib.machine import seeded_model, to_float
from ulelib.pgd import Diverged
from ulelib.restoration import Restoration, UNet, restored

COUNT, SIZE = 120, 16
SMALL = Restoration(pairs=30, steps=20, batch_size=10, width=4)


def with_pixels(like: ImageSet, pixels: torch.Tensor) -> ImageSet:
    return replace(like, images=pixels.round().clamp(0, 255).to(torch.uint8))


def smooth(size: int = SIZE) -> ImageSet:
    """Pictures without edges, of three classes."""
    corners = torch.rand(COUNT, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    pixels = 40 + 170 * F.interpolate(corners, (size, size), mode="bilinear")
    return with_pixels(random_images(COUNT, size), pixels)


def patterns(images: ImageSet) -> torch.Tensor:
    """Class-wise noise of 8 gray levels."""
    size, generator = images.images.shape[1:], torch.Generator().manual_seed(1)
    signs = torch.randint(2, (3, *size), generator=generator) * 2 - 1
    return 8.0 * signs[images.labels]


def protected(images: ImageSet) -> ImageSet:
    return with_pixels(images, images.images + patterns(images))


def distance(one: ImageSet, other: ImageSet) -> float:
    """Mean squared difference, in gray levels squared."""
    return float((one.images.float() - other.images).square().mean())


def rows_without_pairs(seed: int, pairs: int) -> torch.Tensor:
    return torch.randperm(COUNT, generator=torch.Generator().manual_seed(seed))[pairs:]


CLEAN = smooth()
PUBLISHED = protected(CLEAN)


def test_class_wise_noise_is_taken_out_of_images_that_are_in_no_pair() -> None:
    how = Restoration(pairs=60, steps=200, batch_size=20, width=8)
    found = restored(PUBLISHED, CLEAN, how, 3, "float32")
    rows = rows_without_pairs(3, 60)
    before, after = (distance(one.select(rows), CLEAN.select(rows)) for one in (PUBLISHED, found))
    assert before > 60 and after < before / 4
    assert found.images.dtype == torch.uint8 and found.images.shape == CLEAN.images.shape
    assert torch.equal(found.labels, CLEAN.labels) and found.classes == CLEAN.classes


@pytest.mark.parametrize("size", [(32, 32), (15, 21), (2, 3)])
def test_the_network_begins_as_the_identity(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(seeded_model(lambda: UNet(4), 0).eval()(images), images)


def test_training_equals_the_plain_one() -> None:
    """Written out: AdamW on squared errors in gray levels. In half of a batch the noise lies on the
    picture of the pair before, mirrored or not, in other colours."""
    how, generator = replace(SMALL, steps=3), torch.Generator().manual_seed(5)
    pairs = torch.randperm(COUNT, generator=generator)[:30]
    x, y = to_float(PUBLISHED.images[pairs]), to_float(CLEAN.images[pairs])
    model = seeded_model(lambda: UNet(4), 5).train()
    rate = how.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = OneCycleLR(optimizer, rate, total_steps=4, pct_start=0.2)
    for _ in range(3):
        rows = torch.randint(30, (10,), generator=generator)
        mirrored = torch.rand(5, 1, 1, 1, generator=generator).flatten() < 0.5
        tints = 0.4 * torch.rand(5, 3, 1, 1, generator=generator) - 0.2
        below = y[rows]
        for place in range(5):
            other = y[rows[(place - 1) % 5]]
            below[place] = (other.flip(2) if mirrored[place] else other) + tints[place]
        optimizer.zero_grad()
        error = 255 * (model(below + x[rows] - y[rows]) - below)
        error.square().mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        expected = 255 * model.eval()(to_float(PUBLISHED.images)).clamp(0, 1)
    found = restored(PUBLISHED, CLEAN, how, 5, "float32").images
    assert not torch.equal(found, PUBLISHED.images)
    assert (found - expected).abs().max() < 0.51


def test_it_can_be_ended_between_steps() -> None:
    def end(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt, match="step 50 of 60"):
        restored(PUBLISHED, CLEAN, replace(SMALL, steps=60), 0, "float32", report=end)


def test_clean_images_come_back_nearly_as_they_were() -> None:
    """The control: pairs of equal images teach the identity."""
    found = restored(CLEAN, CLEAN, replace(SMALL, steps=100), 0, "float32")
    assert distance(found, CLEAN) < 1


def test_same_seed_same_images_and_the_sets_stay_as_they_are() -> None:
    before = [one.images.clone() for one in (PUBLISHED, CLEAN)]
    state = torch.random.get_rng_state()
    found = [restored(PUBLISHED, CLEAN, SMALL, seed, "float32").images for seed in (3, 3, 4)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(state, torch.random.get_rng_state())
    for one, images in zip((PUBLISHED, CLEAN), before, strict=True):
        assert torch.equal(one.images, images)


def test_clean_images_outside_the_pairs_are_not_read() -> None:
    pixels = CLEAN.images.clone()
    pixels[rows_without_pairs(3, SMALL.pairs)] = 0
    known = replace(CLEAN, images=pixels)
    found = [restored(PUBLISHED, one, SMALL, 3, "float32").images for one in (CLEAN, known)]
    assert torch.equal(*found)


def test_an_odd_size_and_both_precisions_pass() -> None:
    clean = smooth(15)
    for precision in ("float32", "bfloat16"):
        found = restored(protected(clean), clean, SMALL, 0, precision)
        assert found.images.shape == clean.images.shape


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pairs is 30, but there are 10 images"):
        restored(PUBLISHED.first(10), CLEAN.first(10), SMALL, 0, "float32")
    with pytest.raises(ValueError, match=r"published images have shape \(120, 3, 16, 16\)"):
        restored(PUBLISHED, CLEAN.first(10), SMALL, 0, "float32")
    with pytest.raises(ValueError, match=r"Restoration.pairs is 0"):
        Restoration(pairs=0)
    with pytest.raises(Diverged, match="learning_rate"):
        restored(PUBLISHED, CLEAN, replace(SMALL, learning_rate=1e6), 0, "float32")
