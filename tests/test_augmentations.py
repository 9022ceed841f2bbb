"""Later countermeasures against plain loops, one image and one pixel after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from torchvision.transforms import TrivialAugmentWide

from helpers import random_images
from ulelib import augmentations, views
from ulelib.mixes import cutmix
from ulelib.settings import op

IMAGES = random_images(20, size=12).images


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


DRAWN = {
    "cutout": lambda images, draw: augmentations.cutout(images, draw, 6),
    "trivial_augment": augmentations.trivial_augment,
    "coin": lambda images, draw: augmentations.coin(images, draw, 2.0),
    "ueraser": augmentations.ueraser,
}


@pytest.mark.parametrize("name", DRAWN)
class TestDrawn:
    def test_each_image_its_own_and_the_same_again(self, name: str) -> None:
        same = IMAGES[:1].expand(60, -1, -1, -1)
        seen = DRAWN[name](same, generator())
        assert len(seen.flatten(1).unique(dim=0)) > 25
        assert torch.equal(seen, DRAWN[name](same, generator()))
        assert not torch.equal(seen, DRAWN[name](same, generator(1)))

    def test_the_images_themselves_are_left_alone(self, name: str) -> None:
        before, state = IMAGES.clone(), torch.get_rng_state()
        DRAWN[name](IMAGES, generator())
        assert torch.equal(IMAGES, before) and torch.equal(torch.get_rng_state(), state)

    def test_float_images_are_seen_as_uint8_ones(self, name: str) -> None:
        seen = DRAWN[name](IMAGES, generator()) / 255
        as_float = DRAWN[name](IMAGES / 255, generator())
        assert as_float.dtype == torch.float32
        assert torch.allclose(as_float, seen, atol=0.51 / 255)

    def test_the_view_crops_and_flips_first(self, name: str) -> None:
        options: dict[str, Any] = {"size": 6} if name == "cutout" else {}
        draw = generator(3)
        seen = views.view(op(name, padding=2, **options))(IMAGES, draw)
        other = generator(3)
        assert torch.equal(seen, DRAWN[name](views.crop_flip(IMAGES, other, 2), other))
        assert torch.equal(draw.get_state(), other.get_state())


@pytest.mark.parametrize(("keep", "kept"), [(0.3, 4), (0.5, 6), (0.25, 3), (1.0, 12)])
def test_low_pass_keeps_the_lowest_rows_and_columns_of_scipys_transform(
    keep: float, kept: int
) -> None:
    for image, seen in zip(IMAGES, augmentations.low_pass(IMAGES, keep), strict=True):
        for channel, ours in zip(image.numpy(), seen.numpy(), strict=True):
            spectrum = dctn(channel.astype(float), norm="ortho")
            spectrum[kept:], spectrum[:, kept:] = 0, 0
            back = idctn(spectrum, norm="ortho").clip(0, 255)
            assert np.abs(back - ours).max() <= 0.5 + 1e-3
    flat = torch.full((2, 3, 9, 7), 77, dtype=torch.uint8)
    assert torch.equal(augmentations.low_pass(flat, 0.1), flat)


@pytest.mark.parametrize("size", [1, 5, 6, 40])
def test_cutout_equals_the_plain_loop(size: int) -> None:
    seen = augmentations.cutout(IMAGES + 1, generator(2), size)
    draw = generator(2)
    rows = torch.randint(12, (20, 1, 1), generator=draw).flatten().tolist()
    columns = torch.randint(12, (20, 1, 1), generator=draw).flatten().tolist()
    for image, row, column, ours in zip(IMAGES + 1, rows, columns, seen, strict=True):
        top, left = row - size // 2, column - size // 2
        expected = image.clone()
        expected[:, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
        assert torch.equal(ours, expected)
        assert not ours[:, row, column].any()


def test_trivial_augment_is_torchvisions_for_what_was_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own class, one image after the other, told what to draw."""
    images = random_images(400, size=12).images
    seen = augmentations.trivial_augment(images, generator(1))
    codes = torch.randint(14 * 31 * 2, (400,), generator=generator(1)).tolist()
    policy = TrivialAugmentWide()
    space = [*policy._augmentation_space(31).values()]
    draws: Iterator[int]

    def told(*_: Any, **__: Any) -> torch.Tensor:
        return torch.tensor([next(draws)])

    monkeypatch.setattr(torch, "randint", told)
    for image, code, ours in zip(images, codes, seen, strict=True):
        which, strength, side = code // 62, code // 2 % 31, code % 2
        magnitudes, signed = space[which]
        wanted = [which, *([strength] if magnitudes.ndim else []), *([side] if signed else [])]
        draws = iter(wanted)
        assert torch.equal(ours, policy(image))
        assert next(draws, None) is None


def test_coin_equals_the_plain_loop() -> None:
    images = IMAGES[:3, :, :5, :6].contiguous()
    seen = augmentations.coin(images / 255, generator(4), 2.0)
    shifts = 2.0 * (2 * torch.rand(3, 5, 6, 2, generator=generator(4)) - 1)
    for i, image in enumerate(images / 255):
        for row in range(5):
            for column in range(6):
                across, down = shifts[i, row, column].tolist()
                y, x = row + down, column + across
                top, left = math.floor(y), math.floor(x)
                expected = sum(
                    (1 - abs(y - near)) * (1 - abs(x - beside)) * image[:, near % 5, beside % 6]
                    for near in (top, top + 1)
                    for beside in (left, left + 1)
                )
                assert torch.allclose(seen[i, :, row, column], expected, atol=1e-5)


def test_coin_keeps_flat_images() -> None:
    flat = torch.full((4, 3, 8, 8), 91, dtype=torch.uint8)
    assert torch.equal(augmentations.coin(flat, generator(), 2.0), flat)


def plain_plasma(side: int, steps: int, roughness: float, draw: torch.Generator) -> np.ndarray:
    """Diamond-square of one cloud, point by point."""
    size = 2**steps
    points: dict[tuple[int, int], float] = {}

    def drawn(rows: range, columns: range) -> dict[tuple[int, int], float]:
        values = 2 * torch.rand(1, len(rows), len(columns), generator=draw) - 1
        return {
            (row, column): float(values[0, i, j])
            for i, row in enumerate(rows)
            for j, column in enumerate(columns)
        }

    points |= drawn(range(0, size + 1, size), range(0, size + 1, size))
    step, scale = size, 1.0
    while step > 1:
        half, scale = step // 2, scale * roughness
        middles, grid = range(half, size, step), range(0, size + 1, step)
        for places, offsets in (
            ((middles, middles), ((-half, -half), (-half, half), (half, -half), (half, half))),
            ((grid, middles), ((0, -half), (0, half), (-half, 0), (half, 0))),
            ((middles, grid), ((0, -half), (0, half), (-half, 0), (half, 0))),
        ):
            found = {}
            for (row, column), value in drawn(*places).items():
                near = [points.get((row + down, column + right)) for down, right in offsets]
                known = [one for one in near if one is not None]
                found[row, column] = sum(known) / len(known) + scale * value
            assert not points.keys() & found.keys()
            points |= found
        step = half
    cloud = np.array([[points[row, column] for column in range(side)] for row in range(side)])
    return (cloud - cloud.min()) / (cloud.max() - cloud.min())


@pytest.mark.parametrize(("side", "steps"), [(9, 3), (7, 3), (12, 4)])
def test_plasma_is_the_diamond_square_algorithm(side: int, steps: int) -> None:
    ours = augmentations.plasma(side, side, torch.full((1, 1, 1), 0.6), generator(5))
    expected = plain_plasma(side, steps, 0.6, generator(5))
    assert np.abs(ours[0].numpy() - expected).max() < 1e-5


def test_plasma_is_smoother_where_it_is_less_rough() -> None:
    clouds = [
        augmentations.plasma(33, 33, torch.full((50, 1, 1), rough), generator())
        for rough in (0.3, 0.5, 0.7, 0.9)
    ]
    steps = [float((cloud[:, 1:] - cloud[:, :-1]).abs().mean()) for cloud in clouds]
    assert steps == sorted(steps) and all(cloud.amin() == 0 for cloud in clouds)
    assert augmentations.plasma(1, 1, torch.ones(2, 1, 1), generator()).shape == (2, 1, 1)


def test_ueraser_changes_colours_by_the_plain_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Image after image, without the TrivialAugment that follows."""
    monkeypatch.setattr(augmentations, "trivial_augment", lambda images, draw: images)
    images = IMAGES / 255
    seen = augmentations.ueraser(images, generator(6))
    draw = generator(6)
    drawn = torch.rand(20, 6, 1, 1, 1, generator=draw).view(20, 6)
    clouds = [
        augmentations.plasma(12, 12, (0.3 + 0.4 * drawn[:, k]).view(-1, 1, 1), draw) for k in (0, 1)
    ]
    order = torch.rand(20, 3, generator=draw).argsort(1)
    changed = 0
    for i, image in enumerate(images):
        if drawn[i, 3] < 0.5:
            image = (image + (0.5 + 0.5 * drawn[i, 2]) * (2 * clouds[0][i] - 1)).clamp(0, 1)
        if drawn[i, 4] < 0.5:
            image = ((image - 0.5) * 4 * clouds[1][i] + 0.5).clamp(0, 1)
        if drawn[i, 5] < 0.5:
            image = image[order[i]]
        assert torch.allclose(seen[i], image, atol=1e-6)
        changed += not torch.equal(image, images[i])
    assert 10 < changed < 20  # an eighth stays as it is


class TestCutMix:
    def test_equals_the_plain_loop(self) -> None:
        images, targets = IMAGES / 255, torch.eye(20)
        for seed in range(8):
            mixed, soft = cutmix()(images, targets, generator(seed))
            # Which pixels are another image's, and whose.
            other = [[j for j in range(20) if soft[i, j] > 0 and j != i] or [i] for i in range(20)]
            assert all(len(one) == 1 for one in other)
            foreign = (mixed != images).any(1).any(0)
            rows, columns = foreign.any(1).nonzero(), foreign.any(0).nonzero()
            area = len(rows) * len(columns)
            assert foreign.sum() == area  # a rectangle
            for i, (j,) in enumerate(other):
                for row in range(12):
                    for column in range(12):
                        shown = j if foreign[row, column] else i
                        assert torch.equal(mixed[i, :, row, column], images[shown, :, row, column])
                if j != i:
                    assert float(soft[i, j]) == pytest.approx(area / 144)
            assert torch.allclose(soft.sum(1), torch.ones(20))

    def test_labels_weigh_as_the_areas(self) -> None:
        targets = torch.eye(6)
        images = targets.view(6, 6, 1, 1).expand(6, 6, 10, 14)
        for seed in range(30):
            mixed, soft = cutmix(alpha=1.0)(images, targets, generator(seed))
            assert torch.allclose(mixed.mean((2, 3)), soft, atol=1e-6)

    def test_shares_are_drawn_from_beta(self) -> None:
        """Of Beta(1, 1) a rectangle has half of the area on average, less what is cut off."""
        targets, images = torch.eye(2), torch.zeros(2, 3, 32, 32)
        draw, shares = generator(), []
        for _ in range(400):
            _, soft = cutmix()(images, targets, draw)
            if soft[0, 1] > 0:
                shares.append(float(soft[0, 1]))
        assert 0.2 < np.mean(shares) < 0.45 and max(shares) > 0.8

    def test_options_out_of_range_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"cutmix\.alpha is 0"):
            cutmix(alpha=0)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (op("low_pass", keep=0.0), "low_pass.keep is 0.0"),
        (op("cutout", size=0), "cutout.size is 0"),
        (op("coin", reach=17.0), "coin.reach is 17.0"),
        (op("ueraser", padding=-1), "ueraser.padding is -1"),
        (op("trivial_augment", bins=3), "no option"),
    ],
)
def test_views_out_of_range_are_refused(wanted: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        views.view(wanted)
