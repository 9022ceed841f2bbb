"""Views against PIL and against a plainly written crop, image by image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from helpers import random_images
from ulelib import views
from ulelib.settings import op

ALL_VIEWS = sorted(views.VIEWS)


def test_gray_of_uint8_equals_pil() -> None:
    pixels = random_images(50, 32).images
    gray = views.gray(pixels)
    for image, expected in zip(gray, pixels, strict=True):
        luma = np.asarray(Image.fromarray(expected.permute(1, 2, 0).numpy()).convert("L"))
        assert all(np.array_equal(channel.numpy(), luma) for channel in image)


def test_gray_of_uint8_equals_pil_at_the_corners_of_the_cube() -> None:
    levels = torch.tensor([0, 1, 127, 128, 254, 255], dtype=torch.uint8)
    pixels = torch.cartesian_prod(levels, levels, levels)[:, :, None, None]  # (216, 3, 1, 1)
    for image, gray in zip(pixels, views.gray(pixels), strict=True):
        luma = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
        assert gray.flatten().tolist() == [luma.item()] * 3


def test_gray_of_float_is_itu_luma_unrounded() -> None:
    primaries = torch.eye(3)[:, :, None, None]
    assert views.gray(primaries)[:, 0].flatten().tolist() == pytest.approx([0.299, 0.587, 0.114])
    white = views.gray(torch.ones(1, 3, 2, 2))
    assert torch.equal(white, torch.ones(1, 3, 2, 2))


def plain_crop_flip(images: torch.Tensor, seed: int, padding: int) -> torch.Tensor:
    """One image after the other: pad with zeros, cut out, mirror."""
    count, channels, height, width = images.shape
    shifts = 2 * padding + 1
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2 * shifts * shifts, (count,), generator=generator).tolist()
    results = []
    for image, code in zip(images.numpy(), codes, strict=True):
        canvas = np.zeros((channels, height + 2 * padding, width + 2 * padding), image.dtype)
        canvas[:, padding : padding + height, padding : padding + width] = image
        top, left, flip = code // 2 // shifts, code // 2 % shifts, code % 2
        crop = canvas[:, top : top + height, left : left + width]
        results.append(crop[:, :, ::-1] if flip else crop)
    return torch.from_numpy(np.stack(results))


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_crop_flip_equals_the_plain_one(
    padding: int, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    images = random_images(60, 12).images.to(dtype).contiguous(memory_format=memory_format)
    before = images.clone()
    seen = views.crop_flip(images, torch.Generator().manual_seed(7), padding)
    assert torch.equal(seen, plain_crop_flip(images, 7, padding))
    assert seen.dtype == dtype
    assert seen.is_contiguous(memory_format=memory_format)
    assert torch.equal(images, before)


def test_crop_flip_with_a_gradient_moves_alike() -> None:
    images = random_images(60, 12).images / 255
    weights = torch.rand(60, 3, 12, 12)

    def gradient(crop: Any) -> torch.Tensor:
        moved = images.clone().requires_grad_()
        (found,) = torch.autograd.grad((weights * crop(moved)).sum(), moved)
        return found

    seen = views.crop_flip(images.clone().requires_grad_(), torch.Generator().manual_seed(7))
    assert torch.equal(seen.detach(), plain_crop_flip(images, 7, 4))
    choice = torch.randint(0, 162, (60,), generator=torch.Generator().manual_seed(7))
    in_groups = gradient(lambda x: views._move_in_groups(F.pad(x, (4,) * 4), choice, x))
    found = gradient(lambda x: views.crop_flip(x, torch.Generator().manual_seed(7)))
    assert torch.equal(found, in_groups)


def test_crop_flip_moves_each_image_its_own_way() -> None:
    image = random_images(1, 12).images + 1  # hardly any zero
    seen = views.crop_flip(image.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    assert len(seen.flatten(1).unique(dim=0)) > 100  # of 162 places and mirrorings
    again = views.crop_flip(image.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    assert torch.equal(seen, again)


def test_crop_flip_draws_every_place_and_both_sides_equally() -> None:
    ramp = torch.arange(1.0, 10.0).view(1, 1, 3, 3).expand(20_000, 3, 3, 3)
    seen = views.crop_flip(ramp, torch.Generator().manual_seed(0), padding=1)[:, 0].flatten(1)
    kinds, counts = seen.unique(dim=0, return_counts=True)
    assert len(kinds) == 18  # 9 places, 2 sides
    assert counts.min() > 0.85 * 20_000 / 18 and counts.max() < 1.15 * 20_000 / 18


def test_gray_crop_flip_is_gray_of_the_crop() -> None:
    images = random_images(20).images.float() / 255
    view = views.view(op("gray_crop_flip", padding=4))
    seen = view(images, torch.Generator().manual_seed(3))
    cropped = views.crop_flip(images, torch.Generator().manual_seed(3))
    assert torch.equal(seen, views.gray(cropped))


@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_depth_takes_the_nearest_of_its_levels(bits: int) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    top = 2**bits - 1
    expected = np.round(np.round(np.arange(256) / 255 * top) / top * 255)
    seen = views.bit_depth(levels, bits)
    assert seen[0, 0].flatten().tolist() == expected.tolist()
    assert len(seen.unique()) == 2**bits
    as_float = views.bit_depth(levels / 255, bits)
    assert torch.allclose(255 * as_float, seen.float(), atol=0.5)


@pytest.mark.parametrize(("quality", "step"), [(75, 1), (50, 2), (25, 4), (10, 10)])
def test_jpeg_keeps_flat_gray_to_the_steps_of_its_table(quality: int, step: int) -> None:
    """Annex K of the standard: 16, scaled by the quality, over the 8 of the transform."""
    level = torch.arange(256)
    flat = level.to(torch.uint8).view(256, 1, 1, 1).expand(256, 3, 16, 16)
    seen = views.jpeg(flat, quality)
    assert torch.equal(seen, seen[:, :1, :1, :1].expand_as(seen))
    shown = seen[:, 0, 0, 0].int()
    inside = (shown > 0) & (shown < 255)
    assert ((shown[inside] - 128) % step == 0).all()
    assert (shown - level).abs().max() <= math.ceil(step / 2)


def test_a_lower_jpeg_quality_loses_more() -> None:
    pixels = random_images(10, 32).images
    lost = [(views.jpeg(pixels, q).float() - pixels).square().mean() for q in (100, 75, 30, 10)]
    assert lost == sorted(lost)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_blur_equals_scipys(sigma: float) -> None:
    pixels = random_images(4, 20).images.double() / 255
    expected = gaussian_filter(
        pixels.numpy(), sigma, axes=(2, 3), mode="mirror", radius=int(np.ceil(3 * sigma))
    )
    assert torch.allclose(views.blur(pixels, sigma), torch.from_numpy(expected), atol=1e-6)


@pytest.mark.parametrize("side", [32, 33])
def test_halving_equals_pil(side: int) -> None:
    """To two levels: PIL rounds after each of its four passes, this one at its end."""
    pixels = random_images(10, side).images
    for image, seen in zip(pixels, views.halved(pixels), strict=True):
        small = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
            (side // 2, side // 2), Image.Resampling.BILINEAR
        )
        back = np.asarray(small.resize((side, side), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(back - seen.permute(1, 2, 0).numpy()).max() <= 2


@settings(max_examples=30, deadline=None)
@given(
    view=st.sampled_from(ALL_VIEWS),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    as_float=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_every_view_keeps_shape_dtype_and_range(
    view: str, shape: tuple[int, int, int], as_float: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    count, height, width = shape
    size = (count, 3, height, width)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    if as_float:
        images = images.float() / 255
    seen = views.view(op(view))(images, generator)
    assert seen.shape == images.shape and seen.dtype == images.dtype
    assert seen.min() >= 0 and seen.max() <= (1 if as_float else 255)


@pytest.mark.parametrize("name", ALL_VIEWS)
def test_a_view_says_whether_it_draws_and_whether_it_is_gray(name: str) -> None:
    images, view = random_images(40).images, views.view(op(name))
    generator = torch.Generator().manual_seed(0)
    seen = view(images, generator)
    assert view.random == (not torch.equal(seen, view(images, generator)))
    assert view.gray == bool((seen[:, 0] == seen[:, 1]).all() and (seen[:, 1] == seen[:, 2]).all())


@pytest.mark.parametrize("name", ALL_VIEWS)
def test_a_gradient_passes_through_every_view_that_does_not_round(name: str) -> None:
    """And what the images then look like is the same."""
    images = random_images(8, 16).images / 255
    if views.view(op(name)).rounds:
        with pytest.raises(ValueError, match=rf"Some.view is {name}, which rounds"):
            views.smooth_view(op(name), "Some.view")
        return
    shown, moved = views.smooth_view(op(name), "Some.view"), images.clone().requires_grad_()
    seen = shown(moved, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(seen.square().sum(), moved)
    assert gradient.isfinite().all() and gradient.any()
    expected = shown(images, torch.Generator().manual_seed(0))
    assert torch.allclose(seen.detach(), expected, atol=1e-6)


def test_unknown_views_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"view 'grey'; choose from \['bdr', 'blur'"):
        views.view(op("grey"))
    with pytest.raises(ValueError, match=r"view 'gray' has no option \['padding'\]"):
        views.view(op("gray", padding=4))
    with pytest.raises(ValueError, match=r"crop_flip\.padding is 17: input should be less"):
        views.view(op("crop_flip", padding=17))
    for wanted, message in (
        (op("bdr", bits=0), "bdr.bits is 0: input should be greater than or equal to 1"),
        (op("bdr", bits=2.0), "bits is 2.0"),
        (op("jpeg", quality=101), "jpeg.quality is 101: input should be less than or equal to 100"),
        (op("blur", sigma=0), "sigma is 0"),
        (op("blur", sigma=float(17)), "sigma is 17.0"),
    ):
        with pytest.raises(ValueError, match=message):
            views.view(wanted)


class TestContrastiveView:
    """The pieces of the differentiable view, against torchvision's functions for one image."""

    def test_a_part_is_enlarged_as_torchvision_does(self) -> None:
        images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        places = [(4, 8, 16, 20), (0, 0, 32, 32), (10, 2, 20, 12)]
        flips = torch.tensor([False, True, True])
        seen = views.resized_crop(images, torch.tensor(places) / 32, flips)
        for image, (top, left, height, width), flip, ours in zip(
            images, places, flips, seen, strict=True
        ):
            expected = TF.resized_crop(image, top, left, height, width, [32, 32], antialias=False)
            expected = expected.flip(2) if flip else expected
            # At its border torchvision knows nothing beyond the part; ours sees the neighbours.
            assert torch.allclose(ours[:, 3:-3, 3:-3], expected[:, 3:-3, 3:-3], atol=1e-5)

    @pytest.mark.parametrize("order", [(0,), (1,), (2,), (3,), (2, 0, 3, 1), (3, 1, 2, 0)])
    def test_colours_change_as_torchvision_does(self, order: tuple[int, ...]) -> None:
        images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        images[0, :, :4] = 0.5  # gray pixels have no hue
        factors = torch.tensor(
            [
                [1.2, 0.7, 1.3, 0.07],
                [0.6, 1.4, 0.6, -0.1],
                [1.0, 1.0, 1.0, 0.0],
                [1.4, 1.4, 1.4, 0.45],
                [0.9, 0.8, 0.7, -0.5],
            ]
        )
        change = [
            TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue
        ]  # fmt: skip
        seen = views.jitter(images, factors, order)
        for image, own, ours in zip(images, factors, seen, strict=True):
            for which in order:
                image = change[which](image, float(own[which]))
            assert torch.allclose(ours, image, atol=2e-3)  # torchvision's red weighs 0.2989

    def test_its_gradient_reaches_every_image(self) -> None:
        images = torch.rand(16, 3, 32, 32, requires_grad=True)
        images.data[0] = 0.5
        seen = views.view(op("contrastive"))(images, torch.Generator().manual_seed(0))
        (gradient,) = torch.autograd.grad(seen.square().sum(), images)
        assert torch.isfinite(gradient).all()
        assert (gradient.flatten(1).abs().sum(1) > 0).all()

    def test_draws_for_each_image_its_own(self) -> None:
        images = torch.rand(1, 3, 32, 32).expand(64, 3, 32, 32)
        seen = views.view(op("contrastive"))(images, torch.Generator().manual_seed(0))
        apart = (seen[:, None] - seen[None]).abs().flatten(2).amax(2)
        assert (apart + torch.eye(64) > 0.01).all()
        is_gray = ((seen[:, 0] - seen[:, 1]).abs().flatten(1).amax(1) < 1e-6).float().mean()
        assert 0.05 < is_gray < 0.45

    def test_takes_many_8_bit_images_a_thousand_at_a_time(self) -> None:
        images = random_images(1200, 8).images
        shown = views.view(op("contrastive"))
        seen = shown(images, torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(0)
        first, last = shown(images[:1000], generator), shown(images[1000:], generator)
        assert seen.dtype == torch.uint8 and torch.equal(seen, torch.cat([first, last]))

    @pytest.mark.parametrize("options", [{"smallest": 0.0}, {"strength": 2}, {"gray_chance": True}])
    def test_options_out_of_range_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=rf"contrastive\.{next(iter(options))} is"):
            views.view(op("contrastive", **options))


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crops_are_the_same_in_groups_and_by_gather(padding: int, dtype: torch.dtype) -> None:
    """A processor does the one, a GPU the other."""
    images = random_images(200, size=12).images.to(dtype)
    padded = F.pad(images, (padding,) * 4)
    choice = torch.randint(0, 2 * (2 * padding + 1) ** 2, (200,))
    first, second = (
        move(padded, choice, images) for move in (views._move_in_groups, views._move_by_gather)
    )
    assert torch.equal(first, second) and second.is_contiguous()
    assert padding == 0 or not torch.equal(first, images)
