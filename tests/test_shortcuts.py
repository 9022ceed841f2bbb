"""OPS and CUDA: plain loops over positions and pixels, and what the published images are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from helpers import random_images
from ulelib.data import ImageSet
from ulelib.perturbation import Perturbation
from ulelib.shortcuts import COLOURS, ClassConvolution, OnePixel, blurred, steady_distances

IMAGES = random_images(30, size=9)


def made(method: Any, images: ImageSet = IMAGES, seed: int = 0) -> Perturbation:
    nothing: dict[str, Any] = {"network": None, "report": lambda line: None}
    found: Perturbation = method.make(images, seed, "float32", **nothing)
    return found


def plain_score(images: torch.Tensor, colour: int, row: int, column: int) -> float:
    """Mean over standard deviation of the distances, over images and channels."""
    far = [
        abs(int(COLOURS[colour, channel]) - int(image[channel, row, column])) / 255
        for image in images
        for channel in range(3)
    ]
    return float(np.mean(far) / np.std(far))


class TestOnePixel:
    def test_scores_equal_the_plain_loop(self) -> None:
        images = IMAGES.images[:12]
        scores = steady_distances(images)
        for colour in range(8):
            for row in range(9):
                for column in range(9):
                    expected = plain_score(images, colour, row, column)
                    assert float(scores[colour, row, column]) == pytest.approx(expected)

    def test_classes_take_the_best_pairs_left_one_after_the_other(self) -> None:
        images, taken = IMAGES.images.clone(), []
        alike = ImageSet(images, IMAGES.labels, tuple("abc"), "drawn")
        images[:, :, 4, 4] = 250 + images[:, :, 4, 4] // 64  # bright in all: black is far from it
        published = made(
            OnePixel(), alike := ImageSet(images, IMAGES.labels, tuple("abc"), "drawn")
        )
        shown = published.apply(alike).images
        for label in range(3):
            members = images[alike.labels == label]
            scores = {
                (colour, row, column): plain_score(members, colour, row, column)
                for colour in range(8)
                for row in range(9)
                for column in range(9)
                if (colour, row, column) not in taken
            }
            taken.append(max(scores, key=scores.__getitem__))
            colour, row, column = taken[-1]
            expected = members.clone()
            expected[:, :, row, column] = COLOURS[colour]
            assert torch.equal(shown[alike.labels == label], expected)
        assert taken[0] == (0, 4, 4) and len(set(taken)) == 3

    def test_one_pixel_is_changed_whatever_it_was(self) -> None:
        noise = made(OnePixel())
        assert noise.kind == "sample_wise" and noise.delta.shape == IMAGES.images.shape
        assert ((noise.delta != 0).any(1).flatten(1).sum(1) <= 1).all()
        assert noise.epsilon <= 1 and noise.delta.abs().max() > 0.9

    def test_no_seed_changes_it(self) -> None:
        assert torch.equal(made(OnePixel(), seed=1).delta, made(OnePixel(), seed=2).delta)

    def test_pixels_that_are_equal_in_all_images(self) -> None:
        """As in the corner of drawn pictures: nothing is steadier; 0 away is no distance."""
        images = torch.zeros(6, 3, 2, 2, dtype=torch.uint8)
        scores = steady_distances(images)
        assert (scores[0] == 0).all() and (scores[-1] == torch.inf).all()
        noise = made(OnePixel(), ImageSet(images, torch.arange(6) % 3, tuple("abc"), "black"))
        assert noise.delta.isfinite().all() and len(noise.delta.flatten(1).unique(dim=0)) == 3

    def test_a_class_without_images_and_more_classes_than_pairs(self) -> None:
        labels = IMAGES.labels.clamp(min=1)
        made(OnePixel(), ImageSet(IMAGES.images, labels, IMAGES.classes, "two"))
        with pytest.raises(ValueError, match="9 classes, but only 8 pairs"):
            made(OnePixel(), random_images(18, size=1, classes=9))


class TestClassConvolution:
    def test_equals_the_plain_loop(self) -> None:
        method = ClassConvolution(side=3, blur=0.3)
        noise = made(method, seed=4)
        shown = noise.apply(IMAGES).images
        filters = method.filters(3, torch.Generator().manual_seed(4))
        for image, label, ours in zip(IMAGES.images, IMAGES.labels, shown, strict=True):
            sums = np.zeros((3, 9, 9))
            for channel in range(3):
                for row in range(9):
                    for column in range(9):
                        for down in (-1, 0, 1):
                            for right in (-1, 0, 1):
                                y, x = row + down, column + right
                                if 0 <= y < 9 and 0 <= x < 9:
                                    weight = float(filters[label, down + 1, right + 1])
                                    sums[channel, row, column] += weight * int(image[channel, y, x])
            expected = np.round(255 * sums / sums.max())
            assert np.abs(ours.numpy() - expected).max() <= 1
            assert (ours.numpy() == expected).mean() > 0.99  # halves may round either way

    def test_filters_have_one_entry_of_one(self) -> None:
        filters = ClassConvolution(5, 0.2).filters(40, torch.Generator().manual_seed(0))
        assert filters.shape == (40, 5, 5)
        assert ((filters == 1).sum((1, 2)) == 1).all()
        rest = filters[filters < 1]
        assert rest.min() >= 0 and 0.19 < rest.max() <= 0.2
        assert len((filters == 1).flatten(1).int().argmax(1).unique()) > 15  # anywhere

    def test_images_reach_white_and_black_ones_stay(self) -> None:
        kernel = torch.rand(3, 3)
        seen = blurred(IMAGES.images, kernel)
        assert torch.equal(seen.amax((1, 2, 3)), torch.ones(30)) and seen.min() >= 0
        assert not blurred(torch.zeros_like(IMAGES.images), kernel).any()

    def test_the_difference_has_no_small_bound(self) -> None:
        noise = made(ClassConvolution())
        assert noise.kind == "sample_wise" and 16 / 255 < noise.epsilon <= 1

    def test_is_that_of_its_seed(self) -> None:
        first, again, other = (made(ClassConvolution(), seed=seed).delta for seed in (3, 3, 4))
        assert torch.equal(first, again) and not torch.equal(first, other)

    def test_a_side_must_be_odd(self) -> None:
        with pytest.raises(ValueError, match="ClassConvolution.side is 4: it must be odd"):
            ClassConvolution(4)
