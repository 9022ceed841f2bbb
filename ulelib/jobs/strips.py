"""Strips: a few images' noise as one small picture, which a record can hold as text.

A perturbation itself is in no record, and making it again takes minutes to hours. A page that shows
many of them shows these.
"""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image

from ulelib.perturbation import Perturbation

IMAGES = 3
SIDE = 32  # pixels; of larger noise, the middle
LONGEST = 16_000  # characters of a strip's text; three images of white noise have 12,400


def encode(noise: Perturbation) -> str:
    """The noise of the first images (or classes), beside each other, as the base64 text of a PNG.

    Gray is no change, and epsilon is the darkest and the brightest value.
    """
    delta = noise.delta[:IMAGES].expand(-1, 3, -1, -1)
    top, left = (max(0, side - SIDE) // 2 for side in delta.shape[2:])
    middle = delta[:, :, top : top + SIDE, left : left + SIDE]
    levels = (127.5 + 127.5 * middle / noise.epsilon).round().clamp(0, 255).to(torch.uint8)
    beside = levels.permute(2, 0, 3, 1).flatten(1, 2).contiguous()
    file = io.BytesIO()
    Image.fromarray(beside.numpy()).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def decode(text: str) -> np.ndarray:
    """The picture of a strip, `(H, 3 W, 3)` uint8.

    Raises:
        ValueError: it is none.
    """
    try:
        file = io.BytesIO(base64.b64decode(text, validate=True))
        with Image.open(file, formats=["PNG"]) as picture:
            if picture.height > SIDE or picture.width > IMAGES * SIDE:
                raise ValueError(f"it has {picture.width} x {picture.height} pixels")
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # the last of Pillow's PNG reader
        raise ValueError(f"this is no strip of noise: {error}") from error


def noise(text: str, epsilon: float) -> torch.Tensor:
    """The noise that a strip shows, `(N, 3, H, W)` float32 in [-epsilon, epsilon], to a fraction of
    a gray level; of larger noise than the strip, the middle. Images that are not square are taken
    to be three.

    Raises:
        ValueError: it is none.
    """
    picture = torch.from_numpy(decode(text).copy())
    height, width = picture.shape[:2]
    side = height if width % height == 0 else width // IMAGES
    images = torch.stack(picture.split(side, 1)).permute(0, 3, 1, 2)
    return ((images / 127.5 - 1) * epsilon).clamp(-epsilon, epsilon)
