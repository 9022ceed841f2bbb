"""Norms of published pictures, beside their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from helpers import random_images
from ulelib.visibility import COMPARED, Visibility, similarity, visibility

CLEAN = random_images(6, size=16).images.clamp(20, 200)


def test_equals_the_definitions() -> None:
    published = CLEAN.clone()
    published[0, 0, 3, 4] += 40
    published[1] -= 10
    found = visibility(CLEAN, published)
    values = 3 * 16 * 16
    l2 = [40 / 255, 10 * math.sqrt(values) / 255, 0, 0, 0, 0]
    psnr = [20 * math.log10(255 / (40 / math.sqrt(values))), 20 * math.log10(255 / 10)]
    assert found.largest == 40 and found.unchanged == pytest.approx(4 / 6)
    assert found.l2 == pytest.approx(sum(l2) / 6) and 0.9 < found.ssim < 1
    assert found.psnr == pytest.approx(sum(psnr) / 2, abs=1e-3)
    assert str(found).startswith("L-infinity 40/255, mean L2 ")
    assert str(found).endswith("66.7 % of the pictures did not change")


def test_pairs_are_measured_one_by_one() -> None:
    published = (CLEAN.float() + 9 * torch.arange(6).view(-1, 1, 1, 1)).clamp(0, 255)
    psnr, ssim = similarity(CLEAN.float(), published)
    for row in range(1, 6):
        one = similarity(CLEAN[row : row + 1].float(), published[row : row + 1])
        assert psnr[row] == pytest.approx(float(one[0])) and ssim[row] == pytest.approx(
            float(one[1])
        )
    assert psnr.tolist() == sorted(psnr.tolist(), reverse=True) and math.isinf(psnr[0])


def test_unchanged_and_small_pictures() -> None:
    found = visibility(CLEAN, CLEAN)
    assert (found.largest, found.l2, found.unchanged) == (0, 0, 1) and math.isnan(found.psnr)
    assert found.numbers["psnr"] is None and str(Visibility.of(found.numbers)) == str(found)
    small = CLEAN[..., :8, :8]
    assert math.isnan(visibility(small, small + 1).ssim) and "SSIM" not in str(
        visibility(small, small + 1)
    )


def test_many_pictures_are_sampled_for_similarity_alone() -> None:
    many = CLEAN[:1, :, :11, :11].expand(2 * COMPARED + 1, -1, -1, -1)
    published = many.clone()
    published[1::3] += 50  # of which every third is looked at, beginning with the first
    published[::3] += 5
    found = visibility(many, published)
    assert found.largest == 50 and found.psnr == pytest.approx(20 * math.log10(51), abs=1e-3)


def test_other_shapes_and_kinds_are_refused() -> None:
    for published in (CLEAN[:3], CLEAN.float()):
        with pytest.raises(ValueError, match="expected uint8 of one shape"):
            visibility(CLEAN, published)
