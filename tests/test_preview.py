"""The strip of strengths: one's own picture at several strengths, before anything is written."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from photo_files import contents, half_flat, levels, picture, save_each, tagged
from ulelib.photos import preview as module
from ulelib.photos.folders import Photo, Refused
from ulelib.photos.job import Job
from ulelib.photos.preview import STRENGTHS, TILE, check_new, preview


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_each(tmp_path / "in", [f"{label}/{number}.png" for label in "abc" for number in range(6)])
    half_flat((150, 100)).save(tmp_path / "in" / "a" / "0.png")
    return tmp_path / "in"


class TestPreview:
    def test_shows_each_strength_and_writes_nothing(self, folder: Path) -> None:
        before = contents(folder.parent)
        lines: list[str] = []
        shown = preview(folder, report=lines.append)
        assert contents(folder.parent) == before
        assert shown.name == "a/0.png"
        told = [(look.masking, look.strength) for look in shown.looks]
        assert told == [(kind, one) for kind in (False, True) for one in STRENGTHS]
        assert shown.strip.width > (1 + len(STRENGTHS)) * TILE
        assert len(shown.lines()) == len(told) and "strength 16, with masking" in shown.lines()[6]
        assert any(line.startswith("strength 32, with") for line in lines)

    def test_weaker_and_masked_noise_is_less_visible(self, folder: Path) -> None:
        looks = preview(folder).looks
        plain, masked = looks[:4], looks[4:]
        for weaker, stronger in itertools.pairwise(plain):
            assert weaker.psnr > stronger.psnr and weaker.ssim > stronger.ssim
        for one, other in zip(plain, masked, strict=True):
            assert one.strength == other.strength and other.psnr > one.psnr + 1

    def test_shows_ones_own_strength_too(self, folder: Path) -> None:
        shown = preview(folder, Job(strength=12))
        assert [look.strength for look in shown.looks][:5] == [4, 8, 12, 16, 32]

    @pytest.mark.parametrize("method", ["ULEO", "ULEO class-wise"])
    def test_takes_any_method(self, folder: Path, method: str) -> None:
        shown = preview(folder, Job(method=method))  # type: ignore[arg-type]
        assert all(np.isfinite([look.psnr, look.ssim]).all() for look in shown.looks)

    def test_shows_the_wanted_picture_upright(self, folder: Path) -> None:
        wanted = folder / "b" / "wanted.jpg"
        picture((60, 40), seed=9).save(wanted, exif=tagged(6))
        shown = preview(folder, picture=wanted)
        assert shown.name == "b/wanted.jpg"
        original = levels(shown.strip)[..., 0]
        assert (original[150, 20:50] == 255).all()  # beside it, in its tile: it stands

    def test_shows_one_among_others(self, folder: Path) -> None:
        save_each(folder.parent / "me", ["1.png", "2.png"])
        assert preview(folder.parent / "me", others=folder).name == "1.png"
        with pytest.raises(Refused, match="other people's pictures"):
            preview(_alone(folder.parent))

    def test_names_what_it_cannot_show(self, folder: Path) -> None:
        (folder / "a" / "broken.png").write_bytes(b"")
        with pytest.raises(Refused, match="broken.png cannot be shown"):
            preview(folder, picture=folder / "a" / "broken.png")
        elsewhere = folder.parent / "x.png"
        picture().save(elsewhere)
        with pytest.raises(Refused, match="x.png cannot be shown: it is not in the folder"):
            preview(folder, picture=elsewhere)
        with pytest.raises(Refused, match="is not a folder"):
            preview(folder / "none")

    def test_reads_only_a_few(self, folder: Path) -> None:
        found = [
            Photo(Path(f"{label}/{number}"), Path(f"{label}/{number}"), str(label))
            for label in range(20)
            for number in range(9)
        ]
        some = module._some(found, None)
        assert len(some) == module.FEW * module.FEW_CLASSES and some[0] is found[0]


def _alone(root: Path) -> Path:
    """A folder with one class."""
    save_each(root / "alone", ["a/1.png", "a/2.png"])
    return root / "alone"


@pytest.mark.parametrize("size", [(150, 100), (100, 150), (16, 16), (17, 300)])
def test_finds_the_flattest_and_the_roughest_part(size: tuple[int, int]) -> None:
    image = half_flat(size)
    flat, rough = module._parts(image)
    for left, top, right, bottom in (flat, rough):
        assert 0 <= left < right <= image.width and 0 <= top < bottom <= image.height
        assert right - left == bottom - top
    deviations = [levels(image.crop(box)).std() for box in (flat, rough)]
    assert deviations[0] < deviations[1]
    assert size == (16, 16) or size == (17, 300) or deviations[0] == 0


def test_a_strip_replaces_no_file_and_is_none_of_the_pictures(folder: Path) -> None:
    taken = folder.parent / "taken.png"
    taken.write_bytes(b"mine")
    for out, why in (
        (taken, "exists"),
        (folder / "new.png", "among the pictures"),
        (folder / "a" / "new.png", "among the pictures"),
        (folder.parent / "none" / "new.png", "there is no folder"),
    ):
        with pytest.raises(Refused, match=why):
            check_new(out, folder, None)
    check_new(folder.parent / "new.png", folder, None)
    assert taken.read_bytes() == b"mine"
