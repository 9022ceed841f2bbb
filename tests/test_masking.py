"""Contrast masking: less noise where a picture is flat, nowhere more; and a method with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import random_images
from ulelib.csd import Separation
from ulelib.defenders import Random
from ulelib.jobs import records
from ulelib.jobs.lab import Lab
from ulelib.jobs.plan import title
from ulelib.masking import CONTRAST, FLOOR, Masked, edges, masked, shares
from ulelib.settings import described, key_of, read
from ulelib.specs import Data, Noise

NOTHING = {"network": lambda run: None, "report": lambda line: None}


def checkerboard(size: int, low: int, high: int) -> torch.Tensor:
    """`(1, 3, size, size)` uint8, with a contrast of half of `high - low` in every cell."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((rows + columns) % 2 * (high - low) + low).to(torch.uint8).expand(1, 3, -1, -1)


class TestShares:
    @pytest.mark.parametrize("size", [16, 32, 64, 200])
    def test_a_flat_image_gets_the_floor_and_texture_gets_all(self, size: int) -> None:
        flat = torch.full((1, 3, size, size), 90, dtype=torch.uint8)
        assert (shares(flat) == FLOOR).all()
        assert (shares(checkerboard(size, 60, 160)) == 1).all()

    def test_between_them_it_grows_with_the_contrast(self) -> None:
        weaker = checkerboard(128, 100, 100 + int(CONTRAST))  # a deviation of half of that
        assert shares(weaker).mean() == pytest.approx(0.5, abs=0.01)
        assert (shares(weaker, enough=CONTRAST / 2) == 1).all()
        assert (shares(weaker, floor=0.7) == pytest.approx(0.7)) and (
            shares(weaker, 1.0) == 1
        ).all()

    def test_each_part_gets_its_own(self) -> None:
        image = checkerboard(96, 60, 160).clone()
        image[..., :48] = 90
        made = shares(image)[0, 0]
        assert (made[:, :40] == FLOOR).all() and (made[:, 54:] == 1).all()
        assert (made.diff(dim=1) >= 0).all()  # no seam between

    @pytest.mark.parametrize("other", [96, 330])
    def test_is_the_same_at_any_size(self, other: int) -> None:
        """Of a picture with the same structure in it, measured in cells."""
        both = []
        for size in (660, other):
            pixels = torch.zeros(1, 3, size, size)
            pixels[..., size // 2 :] = 200 * (torch.arange(size - size // 2) % 2)
            small = shares(pixels.to(torch.uint8))
            both.append(torch.nn.functional.interpolate(small, [33, 33], mode="area"))
        assert (both[0] - both[1]).abs().mean() < 0.02

    def test_cells_share_the_pixels(self) -> None:
        for length in range(16, 300, 7):
            bounds = edges(length, min(length, 100))
            assert bounds[0] == 0 and bounds[-1] == length and (np.diff(bounds) >= 2).all()


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(3, 70), st.integers(3, 70)),
    st.floats(0, 1),
    st.floats(0.5, 100),
)
def test_noise_keeps_its_bound_and_its_signs(
    seed: int, size: tuple[int, int], floor: float, enough: float
) -> None:
    drawn = np.random.default_rng(seed)
    blurred = drawn.integers(0, 256, (2, 3, *size)) // drawn.integers(1, 50)
    images = torch.from_numpy(blurred.astype(np.uint8))
    delta = torch.from_numpy(drawn.uniform(-8 / 255, 8 / 255, (2, 3, *size)).astype(np.float32))
    made = masked(delta, images, floor, enough)
    assert (made.abs() <= delta.abs()).all() and (made * delta >= 0).all()
    assert (made.abs() >= floor * delta.abs() - 1e-7).all()
    together = torch.cat([masked(one[None], two[None], floor, enough)
                          for one, two in zip(delta, images, strict=True)])  # fmt: skip
    assert torch.allclose(made, together, atol=1e-7)  # each image by itself


class TestMethod:
    def test_scales_the_noise_of_its_method(self) -> None:
        images, method = random_images(12, size=32), Random(epsilon=16 / 255)
        plain = method.make(images, 3, "float32")
        made = Masked(method).make(images, 3, "float32", **NOTHING)
        assert torch.equal(made.delta, masked(plain.delta, images.images))
        assert made.kind == "sample_wise" and made.epsilon == plain.epsilon
        made.check(images)
        assert len(made.made_of) == 1 and made.defender == "masked random"

    @pytest.mark.parametrize("wise", ["sample", "class"])
    def test_makes_it_at_the_working_size(self, wise: str) -> None:
        images = random_images(12, size=32)
        method = Masked(Random(wise=wise), 8, floor=1.0)  # type: ignore[arg-type]
        made = method.make(images, 0, "float32", **NOTHING)
        made.check(images)
        small = torch.nn.functional.interpolate(made.delta, [8, 8], mode="area")
        assert small.std() > 0.5 * made.delta.std()  # it is smooth: nothing finer than 8 pixels
        if wise == "class":  # every image of a class got the same before it was masked
            rows = (images.labels == images.labels[0]).nonzero()[:, 0]
            assert (made.delta[rows] == made.delta[rows[0]]).all()

    def test_csd_stays_apart(self) -> None:
        images = random_images(24, size=16)
        made = Masked(Separation(), 8).make(images, 0, "float32", **NOTHING)
        assert made.rounds and made.delta.abs().max() <= made.epsilon

    def test_is_settings_with_a_key(self) -> None:
        stage = Noise(Data("shapes"), Masked(Separation(), 8))
        assert read(described(stage), records.SPECS) == stage
        others = [Masked(Separation()), Masked(Separation(), 8, floor=0.5), Separation()]
        keys = {key_of(Noise(Data("shapes"), one)) for one in others} | {key_of(stage)}
        assert len(keys) == 4
        assert title(stage).startswith("noise: masked Separation for shapes")
        with pytest.raises(ValueError, match="not their class"):
            Masked(Separation)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="Masked.floor is 2"):
            Masked(Separation(), floor=2.0)

    def test_a_cell_names_the_network_of_its_method(self) -> None:
        lab = Lab("smoke")
        loop = lab.noise("ULEO").method
        noise = Noise(lab.data, Masked(loop))
        assert lab.cell("masked", noise=noise).source == lab.cell("ULEO").source != "-"
