"""Contrast masking at a picture's own size: as in the library, in strips, however it lies."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from photo_files import (
    DELTA,
    QUICK,
    contents,
    half_flat,
    levels,
    picture,
    save_each,
    saved,
    tagged,
)
from ulelib import masking, pictures
from ulelib.photos import contrast, encode
from ulelib.photos import protect as module
from ulelib.photos.contrast import Shares, contrast_of
from ulelib.photos.encode import protected_file
from ulelib.photos.folders import Refused
from ulelib.photos.job import Job
from ulelib.photos.noise import add_noise, spread
from ulelib.photos.protect import protect

MASKED = Job(size=16, strength=8, masking=True)


def all_shares(image: Image.Image, orientation: int = 1) -> torch.Tensor:
    return Shares(image, orientation).strip(0, image.height)


def moved(content: bytes, file: Path) -> np.ndarray[Any, Any]:
    """What a protected file adds to the original, upright, in gray levels."""
    with Image.open(io.BytesIO(content)) as new, Image.open(file) as old:
        return levels(ImageOps.exif_transpose(new)) - levels(ImageOps.exif_transpose(old))


def assert_alike(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> None:
    """Equal pictures, but for a gray level where a sum in another order is rounded otherwise."""
    apart = np.abs(first.astype(np.int16) - second)
    assert apart.max() <= 1 and (apart > 0).mean() < 0.001


@pytest.mark.parametrize("size", [(61, 47), (16, 300), (640, 481)])
def test_are_those_of_the_library(size: tuple[int, int]) -> None:
    image = half_flat(size)
    whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    made = all_shares(image)
    assert torch.allclose(made, masking.shares(whole)[0, 0], atol=1e-6)
    assert made.min() == masking.FLOOR and made.max() == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_strips_are_as_good_as_the_whole(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, striped = half_flat(), half_flat()
    expected = contrast_of(whole, orientation)
    add_noise(whole, DELTA, 8, orientation, Shares(whole, orientation))
    monkeypatch.setattr(contrast, "STRIP", 5)
    assert torch.equal(contrast_of(striped, orientation), expected)
    add_noise(striped, DELTA, 8, orientation, Shares(striped, orientation))
    assert_alike(np.array(striped), np.array(whole))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(61, 47), (48, 32), (35, 100)])
def test_however_a_picture_lies_its_noise_is_the_same(
    orientation: int, size: tuple[int, int], tmp_path: Path
) -> None:
    seen = half_flat(size)
    back = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)  # what turns it there
    lying = pictures.upright(seen, back)
    assert (levels(pictures.upright(lying, orientation)) == levels(seen)).all()
    assert torch.equal(contrast_of(lying, orientation), contrast_of(seen))
    files = [
        saved(one, tmp_path, f"{number}.png", exif=tagged(number))
        for number, one in ((1, seen), (orientation, lying))
    ]
    first, second = (moved(protected_file(one, DELTA, MASKED).content, one) for one in files)
    assert_alike(first, second)


class TestWritten:
    @pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
    def test_flat_areas_get_a_quarter_and_texture_all(self, mode: str, tmp_path: Path) -> None:
        file = saved(half_flat((96, 64), mode), tmp_path, "a.png")
        plain, with_masking = (
            moved(protected_file(file, DELTA, job).content, file).reshape(64, 96, -1)
            for job in (Job(size=16, strength=8), MASKED)
        )
        if "A" in mode:
            assert not with_masking[..., -1].any()
            plain, with_masking = plain[..., :-1], with_masking[..., :-1]
        assert (abs(with_masking) <= abs(plain)).all() and (with_masking * plain >= 0).all()
        assert (with_masking[:, 60:] == plain[:, 60:]).all()
        # The noise was rounded once, after it was scaled.
        assert abs(with_masking[:, :36] - plain[:, :36] / 4).max() <= 0.63
        assert abs(with_masking[:, :36]).max() > 0

    def test_colours_of_what_is_transparent_do_not_matter_elsewhere(self) -> None:
        image = half_flat((96, 64), "RGBA")
        clear = image.copy()
        clear.paste((0, 0, 0, 0), (0, 0, 20, 64))
        assert torch.equal(all_shares(image)[:, 30:], all_shares(clear)[:, 30:])

    def test_is_compared_with_what_was_to_be_written(self, tmp_path: Path) -> None:
        """A flat picture that has all of its quarter is protected, as far as it was to be; and is
        named."""
        file = saved(Image.new("RGB", (64, 64), (90, 120, 150)), tmp_path, "sky.png")
        about = protected_file(file, DELTA, MASKED).about
        assert about.unprotected == ""
        assert about.notes == [encode.MOSTLY_FLAT.format(25)] and "25 %" in about.notes[0]
        rough = saved(half_flat((64, 64)), tmp_path, "rough.png")
        assert protected_file(rough, DELTA, MASKED).about.notes == []
        drawn = saved(picture((96, 80)), tmp_path, "drawn.jpg", quality=3)
        gone = protected_file(drawn, DELTA, MASKED).about
        assert "of its noise is left" in gone.unprotected

    def test_without_masking_nothing_changes(self, tmp_path: Path) -> None:
        file = saved(half_flat((64, 48)), tmp_path, "a.png")
        expected = spread(DELTA, 48, 64, 8).permute(1, 2, 0).numpy()
        assert (moved(protected_file(file, DELTA, QUICK).content, file) == expected).all()

    def test_masking_is_another_job(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def stopped(*_: Any) -> None:
            raise KeyboardInterrupt

        save_each(tmp_path / "in", ["a/0.png", "a/1.png", "b/0.png"])
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module.Unfinished, "finish", stopped)
            protect(tmp_path / "in", tmp_path / "out", MASKED)
        with pytest.raises(Refused, match="other pictures or settings"):
            protect(tmp_path / "in", tmp_path / "out", Job(size=16, strength=8))
        before = contents(tmp_path / "out")
        assert protect(tmp_path / "in", tmp_path / "out", MASKED).written == 3
        assert contents(tmp_path / "out").items() <= before.items()


def test_a_mostly_flat_picture_is_in_the_report(tmp_path: Path) -> None:
    save_each(tmp_path / "in", ["a/0.png", "b/0.png"])
    Image.new("RGB", (64, 64), (90, 120, 150)).save(tmp_path / "in" / "a" / "sky.png")
    report = protect(tmp_path / "in", tmp_path / "out", MASKED)
    assert any("a/sky.png: it is mostly flat" in line for line in report.lines())
    assert report.unprotected == {}
