"""Strips of noise: what they show, how large they are, and what is refused."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from ulelib.jobs import schema, strips
from ulelib.perturbation import Perturbation

EPSILON = 8 / 255


def noise(*shape: int, kind: str = "sample_wise") -> Perturbation:
    generator = torch.Generator().manual_seed(0)
    delta = (torch.rand(shape, generator=generator) * 2 - 1) * EPSILON
    return Perturbation(delta, kind, EPSILON, "ULEO", "f" * 16)


def png(width: int, height: int, form: str = "PNG") -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, form)
    return base64.b64encode(file.getvalue()).decode()


def test_it_shows_the_first_images_beside_each_other() -> None:
    made = noise(5, 3, 32, 32)
    made.delta[1] = 0
    made.delta[2] = EPSILON
    made.delta[2, 0] = -EPSILON
    picture = strips.decode(strips.encode(made))
    assert picture.shape == (32, 96, 3) and picture.dtype == np.uint8
    first = torch.from_numpy(picture[:, :32].copy()).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(first * EPSILON, made.delta[0], atol=0.003 * EPSILON + 1 / 255 / 32)
    assert set(picture[:, 32:64].ravel().tolist()) <= {127, 128}
    assert picture[0, 80].tolist() == [0, 255, 255]


@pytest.mark.parametrize(
    ("shape", "kind", "shown"),
    [
        ((3, 3, 224, 200), "sample_wise", (32, 96)),  # the middle
        ((2, 1, 20, 40), "class_wise", (20, 64)),  # gray noise, fewer than three, low
        ((4, 3, 5, 5), "sample_wise", (5, 15)),
    ],
)
def test_other_sizes(shape: tuple[int, ...], kind: str, shown: tuple[int, int]) -> None:
    assert strips.decode(strips.encode(noise(*shape, kind=kind))).shape == (*shown, 3)


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (2, 3, 16, 16), (3, 3, 8, 12)])
def test_noise_comes_back_to_a_fraction_of_a_gray_level(shape: tuple[int, ...]) -> None:
    made = noise(*shape)
    back = strips.noise(strips.encode(made), EPSILON)
    assert back.shape == shape and (back - made.delta).abs().max() <= 0.51 * EPSILON / 127


def test_the_middle_of_large_noise_is_shown() -> None:
    made = noise(1, 3, 64, 64)
    made.delta[:] = -EPSILON
    made.delta[:, :, 16:48, 16:48] = EPSILON
    assert strips.decode(strips.encode(made)).min() == 255


def test_white_noise_fits_a_record() -> None:
    text = strips.encode(noise(3, 3, 32, 32))
    assert len(text) <= strips.LONGEST
    result = {"rounds": [0.1], "seconds": 1.0, "strip": text}
    schema.RESULTS["Noise"].validate_python(result)
    for other in ("", "<script>", "A" * (strips.LONGEST + 4), 7):
        with pytest.raises(ValueError, match="strip"):
            schema.RESULTS["Noise"].validate_python(result | {"strip": other})


@pytest.mark.parametrize(
    "text", ["", "AAAA", "no base64!", png(97, 32), png(96, 33), png(9, 9, "BMP"), png(9, 9)[:60]]
)
def test_other_texts_are_no_strip(text: str) -> None:
    with pytest.raises(ValueError, match="no strip of noise"):
        strips.decode(text)
