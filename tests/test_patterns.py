"""LSP, AR and region noise: plain loops over pixels, their norms, and what tells classes apart."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from helpers import random_images
from ulelib.csd import misplaced_rows
from ulelib.data import ImageSet
from ulelib.patterns import (
    Autoregressive,
    LinearlySeparable,
    Region,
    distinct_signs,
    process,
    radius_of,
    responses,
)
from ulelib.perturbation import Perturbation

IMAGES = random_images(30, size=16)
METHODS = [LinearlySeparable(), Autoregressive(), Region()]
NAMES = ["LSP", "AR", "region"]


def made(method: Any, images: ImageSet = IMAGES, seed: int = 0) -> Perturbation:
    nothing: dict[str, Any] = {"network": None, "report": lambda line: None}
    found: Perturbation = method.make(images, seed, "float32", **nothing)
    return found


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
class TestNoise:
    def test_is_that_of_its_seed(self, method: Any) -> None:
        first, again, other = (made(method, seed=seed).delta for seed in (3, 3, 4))
        assert torch.equal(first, again) and not torch.equal(first, other)

    def test_knows_the_labels_alone(self, method: Any) -> None:
        others = random_images(30, size=16, seed=1)
        assert torch.equal(made(method).delta, made(method, others).delta)

    @pytest.mark.parametrize("size", [8, 15, 33])
    def test_fits_images_of_any_size(self, method: Any, size: int) -> None:
        images = random_images(7, size)
        noise = made(method, images)
        assert noise.delta.shape[1:] == (3, size, size) and noise.delta.isfinite().all()
        changed = noise.apply(images).images.int() - images.images
        assert 0 < changed.abs().max() <= round(255 * noise.epsilon)

    def test_leaves_random_state_alone(self, method: Any) -> None:
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        made(method)
        assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("method", METHODS[:2], ids=NAMES[:2])
class TestL2:
    def test_every_image_has_the_same_norm(self, method: Any) -> None:
        norms = made(method).delta.flatten(1).norm(dim=1)
        assert norms == pytest.approx(torch.full((30,), method.rms * math.sqrt(3 * 16 * 16)))

    def test_epsilon_is_what_it_reaches(self, method: Any) -> None:
        noise = made(method)
        levels = 255 * noise.epsilon
        assert levels == pytest.approx(round(levels))
        assert levels - 1 < 255 * noise.delta.abs().max() <= levels + 1e-3

    def test_each_image_has_its_own(self, method: Any) -> None:
        noise = made(method)
        assert noise.kind == "sample_wise" and len(noise.delta) == 30
        assert len(noise.delta.flatten(1).unique(dim=0)) == 30


def test_the_papers_norms_on_cifar() -> None:
    values = math.sqrt(3 * 32 * 32)
    assert LinearlySeparable().rms * values == pytest.approx(1.304, abs=1e-3)
    assert Autoregressive().rms * values == pytest.approx(1)


class TestLinearlySeparable:
    def test_equals_the_plain_loop(self) -> None:
        images, block, apart = random_images(9, size=10), 4, 10.0
        generator = torch.Generator().manual_seed(5)
        side, values = 3, 27  # the last block of four pixels is cut to two
        corners = distinct_signs(3, values, generator)
        expected = torch.zeros(9, 3, 10, 10)
        for label in range(3):
            spread = 2 * torch.rand(values, values, generator=generator) - 1
            members = [i for i in range(9) if images.labels[i] == label]
            drawn = torch.randn(len(members), values, generator=generator)
            for i, own in zip(members, drawn, strict=True):
                point = [
                    apart * float(corners[label, k])
                    + sum(float(own[m] * spread[m, k]) for m in range(values))
                    for k in range(values)
                ]
                for channel in range(3):
                    for row in range(10):
                        for column in range(10):
                            place = channel * side * side + row // block * side + column // block
                            expected[i, channel, row, column] = point[place]
                norm = expected[i].norm()
                expected[i] *= 6 / 255 * math.sqrt(300) / norm
        found = made(LinearlySeparable(block=block), images, seed=5).delta
        assert torch.allclose(found, expected, atol=1e-6)

    def test_classes_are_apart_and_linearly_so(self) -> None:
        images = random_images(300, size=32, classes=10)
        noise = made(LinearlySeparable(), images)
        assert not misplaced_rows(noise.delta, images.labels).any()
        wanted = torch.nn.functional.one_hot(images.labels, 10).float()
        points = noise.delta[:, :, ::8, ::8].flatten(1)
        weights = torch.linalg.lstsq(points, wanted).solution
        assert ((points @ weights).argmax(1) == images.labels).all()

    def test_a_class_without_images(self) -> None:
        images = random_images(6)
        few = ImageSet(images.images, images.labels.clamp(min=1), images.classes, "few")
        assert made(LinearlySeparable(), few).delta.isfinite().all()


class TestAutoregressive:
    def test_equals_the_plain_loop(self) -> None:
        filters = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1)) / 4
        found = process(filters, (6, 7), torch.Generator().manual_seed(2))
        field = torch.randn(10, 11, 6, generator=torch.Generator().manual_seed(2))
        for sequence in range(6):
            one, weights = field[:, :, sequence], filters[sequence // 3, sequence % 3]
            for row in range(2, 10):
                for column in range(2, 11):
                    total = 0.0
                    for k in range(8):
                        total += float(weights[k] * one[row - 2 + k // 3, column - 2 + k % 3])
                    one[row, column] = total
            assert torch.allclose(found[sequence // 3, sequence % 3], one[4:, 4:], atol=1e-5)

    def test_filters_are_stable_differ_and_add_up_to_one(self) -> None:
        method, size = Autoregressive(), (16, 16)
        filters = method.filters(10, size, torch.Generator().manual_seed(0))
        assert filters.shape == (10, 3, 8)
        assert torch.allclose(filters.sum(2), torch.ones(10, 3), atol=1e-4)
        noise = process(filters, size, torch.Generator().manual_seed(1))
        assert noise.square().mean((1, 2, 3)).sqrt().max() < 3 * method.loudest
        for own, one in enumerate(noise):
            told = responses(filters, one / one.square().mean().sqrt())
            assert told.argmin() == own and told[own] < 1e-4

    def test_responses_equal_the_plain_loop(self) -> None:
        generator = torch.Generator().manual_seed(3)
        filters = torch.randn(4, 3, 8, generator=generator)
        noise = torch.randn(3, 5, 6, generator=generator)
        for own, told in zip(filters, responses(filters, noise), strict=True):
            total = 0.0
            for row in range(2, 5):
                for column in range(2, 6):
                    window = noise[:, row - 2 : row + 1, column - 2 : column + 1].flatten(1)
                    total += max(0.0, float((own * window[:, :8]).sum() - window[:, 8].sum()))
            assert float(told) == pytest.approx(total / 12, rel=1e-4)

    def test_the_matching_filter_finds_each_images_class(self) -> None:
        """The noise that is made, not the trials."""
        noise = made(Autoregressive(), IMAGES, seed=1).delta
        generator = torch.Generator().manual_seed(1)
        filters = Autoregressive().filters(3, (16, 16), generator)
        found = [int(responses(filters, one).argmin()) for one in noise]
        assert found == IMAGES.labels.tolist()

    @pytest.mark.parametrize("changes", [{"response": 50.0}, {"loudest": 1e-6}])
    def test_a_search_without_end_is_ended(
        self, changes: dict[str, float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ulelib.patterns.MOST_CANDIDATES", 512)
        with pytest.raises(ValueError, match="none of 512 processes"):
            made(Autoregressive(**changes))


class TestRegion:
    @pytest.mark.parametrize("side", [2, 3, 8])
    def test_has_squares_of_plus_or_minus_epsilon(self, side: int) -> None:
        noise = made(Region(4 / 255, side))
        assert noise.kind == "class_wise" and noise.delta.shape == (3, 3, 16, 16)
        assert noise.epsilon == 4 / 255 and noise.defender == f"region-{side**2}"
        assert torch.allclose(noise.delta.abs(), torch.tensor(4 / 255))
        for row in range(16):
            for column in range(16):
                top, left = (math.ceil((n * side // 16) * 16 / side) for n in (row, column))
                assert torch.equal(noise.delta[..., row, column], noise.delta[..., top, left])

    def test_no_two_classes_have_one_pattern(self) -> None:
        images = random_images(60, size=4, classes=60)
        assert len(made(Region(side=2), images).delta.flatten(1).unique(dim=0)) == 60

    def test_more_classes_than_patterns_are_refused(self) -> None:
        with pytest.raises(ValueError, match="9 classes cannot have"):
            made(Region(side=1), random_images(18, classes=9))


@pytest.mark.parametrize(
    ("largest", "levels"), [(8 / 255, 8), (8.01 / 255, 9), (0.0, 1), (1.0, 255), (-1.0, 255)]
)
def test_the_radius_is_in_whole_levels(largest: float, levels: int) -> None:
    radius = radius_of(torch.tensor([0.0, largest]))
    assert radius == pytest.approx(levels / 255) and radius <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearlySeparable(rms=0.0), "LinearlySeparable.rms is 0.0"),
        (lambda: LinearlySeparable(block=0), "LinearlySeparable.block is 0"),
        (lambda: Autoregressive(rms=2.0), "Autoregressive.rms is 2.0"),
        (lambda: Region(side=65), "Region.side is 65"),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
