"""Protecting a folder: what is written, what is refused, and which noise each picture gets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from photo_files import (
    GRAY,
    LEFT_OUT,
    PROTECTABLE,
    QUICK,
    contents,
    levels,
    mixed_folder,
    picture,
    save_each,
    tagged,
)
from ulelib import pictures
from ulelib.csd import Separation
from ulelib.data import ImageSet
from ulelib.perturbation import Perturbation
from ulelib.photos import encode, names, original
from ulelib.photos import protect as module
from ulelib.photos.folders import Label, Refused
from ulelib.photos.job import METHODS, Job
from ulelib.photos.protect import method_of, protect
from ulelib.profiles import CPU


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return mixed_folder(tmp_path / "My pictures")


def moved(before: Path, after: Path) -> np.ndarray[Any, Any]:
    """What a protected file adds to the original, in gray levels."""
    with Image.open(before) as old, Image.open(after) as new:
        return levels(new) - levels(old)


class TestFolder:
    def test_protects_what_it_can_and_reports_the_rest(self, folder: Path) -> None:
        before = contents(folder)
        out = folder.parent / "out"
        report = protect(folder, out, QUICK)
        assert contents(folder) == before
        written = contents(out)
        assert report.written == len(written) == PROTECTABLE
        assert set(written) < set(before) and not set(written.values()) & set(before.values())
        reasons = {Path(name).name: reason for name, reason in report.left_out.items()}
        assert set(reasons) == LEFT_OUT
        assert "animated" in reasons["moves.webp"] and "smaller than 16" in reasons["tiny.png"]
        changed = {Path(name).name: notes for name, notes in report.changed.items()}
        assert changed["deep.png"] == original.SIXTEEN_BITS
        assert set(changed) == {"print.jpg", "deep.png", "scan.png", "palette.png"}
        unprotected = {Path(name).name: reason for name, reason in report.unprotected.items()}
        assert unprotected == dict.fromkeys(GRAY, encode.GRAY)
        lines = report.lines()
        assert f"Written, but NOT PROTECTED, {len(unprotected)}:" in lines
        assert lines[-1].startswith(f"{PROTECTABLE - len(unprotected)} pictures protected in ")

    def test_others_stay_as_they_are(self, tmp_path: Path) -> None:
        save_each(tmp_path / "me", ["0.png", "1.png", "2.png"])
        save_each(tmp_path / "them", [f"a/{n}.png" for n in range(4)] + ["b/0.png", "b/1.png"])
        (tmp_path / "them" / "a" / "broken.png").write_bytes(b"")
        before = contents(tmp_path / "them")
        report = protect(tmp_path / "me", tmp_path / "out", QUICK, tmp_path / "them")
        assert contents(tmp_path / "them") == before
        assert report.left_out == {} and list(report.unread_others) == ["a/broken.png"]
        assert any(line.startswith("  others: a/broken.png: ") for line in report.lines())
        assert sorted(contents(tmp_path / "out")) == ["0.png", "1.png", "2.png"]
        assert report.written == 3
        for name in ("0.png", "1.png", "2.png"):
            added = np.abs(moved(tmp_path / "me" / name, tmp_path / "out" / name))
            assert added.mean() > 4 and added.max() <= 8  # away from pictures without noise

    def test_a_network_protects_among_others(self, tmp_path: Path) -> None:
        save_each(tmp_path / "me", ["0.png", "1.png", "2.png"])
        save_each(tmp_path / "them", [f"a/{n}.png" for n in range(4)])
        job = Job(method="ULEO", size=16)
        assert protect(tmp_path / "me", tmp_path / "out", job, tmp_path / "them").written == 3

    def test_an_own_class_is_own_whatever_its_name(self, tmp_path: Path) -> None:
        """Also where it is called what the class of other people is printed as."""
        odd = str(Label("x", own=False))
        own = [f"{odd}/0.png", f"{odd}/1.png", "y/0.png", "y/1.png"]
        save_each(tmp_path / "mine", own)
        (tmp_path / "mine" / odd / "broken.png").write_bytes(b"")
        save_each(tmp_path / "them", ["x/0.png", "x/1.png", "x/2.png"])
        (tmp_path / "them" / "x" / "broken.png").write_bytes(b"")
        report = protect(tmp_path / "mine", tmp_path / "out", QUICK, tmp_path / "them")
        assert sorted(contents(tmp_path / "out")) == own and report.written == 4
        for name in own:
            assert np.abs(moved(tmp_path / "mine" / name, tmp_path / "out" / name)).mean() > 4
        assert list(report.left_out) == [f"{odd}/broken.png"]
        assert list(report.unread_others) == ["x/broken.png"]
        assert sum("broken.png" in line for line in report.lines()) == 2

    def test_an_own_class_does_not_stand_for_others(self, tmp_path: Path) -> None:
        save_each(tmp_path / "mine", [f"{Label('x', own=False)}/0.png", "y/0.png"])
        (tmp_path / "them").mkdir()
        with pytest.raises(Refused, match="no picture in .*them"):
            protect(tmp_path / "mine", tmp_path / "out", QUICK, tmp_path / "them")

    @pytest.mark.parametrize("name", ["a.heic", "a.png"])
    def test_others_of_which_none_can_be_read_are_refused(self, name: str, folder: Path) -> None:
        others = folder.parent / "others"
        others.mkdir()
        (others / name).write_bytes(b"no picture")
        with pytest.raises(Refused, match=f"no picture in .*others.*others: {name}: "):
            protect(folder, folder.parent / "out", QUICK, others)

    @pytest.mark.parametrize("others", ["My pictures", "."])
    def test_ones_own_pictures_are_not_among_those_of_others(
        self, folder: Path, others: str
    ) -> None:
        root = folder.parent
        with pytest.raises(Refused, match="overlap"):
            protect(folder / "others", root.parent / "out", QUICK, root / others)

    def test_networks_need_more_pixels_than_csd(self) -> None:
        assert Job().pixels == 8 and Job(method="ULEO").pixels == 32
        assert Job(method="ULEO", size=64).pixels == 64
        with pytest.raises(ValueError, match="Job.size is 8"):
            Job(method="ULEO-GrayAugs", size=8)

    def test_names_that_are_not_utf8_can_be_printed(self, folder: Path) -> None:
        odd = os.fsdecode(b"caf\xe9.png")
        try:
            (folder / odd).write_bytes(b"")
        except OSError:
            pytest.skip("this file system accepts only UTF-8 in names")
        report = protect(folder, folder.parent / "out", QUICK)
        assert "caf\ufffd.png" in report.left_out
        "\n".join(report.lines()).encode("utf-8")

    def test_one_class_alone_is_refused(self, tmp_path: Path) -> None:
        save_each(tmp_path / "in", ["me/a.png"])
        with pytest.raises(Refused, match="other people's pictures"):
            protect(tmp_path / "in", tmp_path / "out", QUICK)
        assert not (tmp_path / "out").exists()

    def test_a_folder_without_pictures_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "in" / "a").mkdir(parents=True)
        (tmp_path / "in" / "a" / "b.png").write_text("no")
        with pytest.raises(Refused, match="a/b.png: "):
            protect(tmp_path / "in", tmp_path / "out", QUICK)

    @pytest.mark.parametrize("place", ["My pictures", "My pictures/out", "."])
    def test_output_and_pictures_must_not_overlap(self, folder: Path, place: str) -> None:
        with pytest.raises(Refused, match="overlap"):
            protect(folder, folder.parent / place, QUICK)

    def test_names_that_would_become_the_same_stay_apart(self, tmp_path: Path) -> None:
        for label in "ab":
            save_each(tmp_path / "in" / label, ["x.png", "x.bmp", "y.bmp"])
        job = Job(method="CSD", size=16, format="jpg", quality=90)
        protect(tmp_path / "in", tmp_path / "out", job)
        written = {"x.bmp.jpg", "x.png.jpg", "y.jpg"}
        assert set(contents(tmp_path / "out")) == {f"{a}/{n}" for a in "ab" for n in written}

    def test_a_picture_is_not_written_over_another_that_the_disk_confuses_with_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_each(tmp_path / "in" / "a", ["IMG.png", "img.PNG", "\u00fc.png", "u\u0308.png"])
        save_each(tmp_path / "in" / "b", ["0.png"])
        report = protect(tmp_path / "in", tmp_path / "whole", QUICK)
        assert report.written == len(contents(tmp_path / "whole")) == 5  # this disk does not
        monkeypatch.setattr(names, "confuses_names", lambda folder: True)
        report = protect(tmp_path / "in", tmp_path / "out", QUICK)
        assert report.written == len(contents(tmp_path / "out")) == 3
        assert report.left_out.keys() == {"a/img.PNG", "a/\u00fc.png"}
        assert "a/IMG.png" in report.left_out["a/img.PNG"]
        assert "a/u\u0308.png" in report.left_out["a/\u00fc.png"]

    def test_a_picture_that_disappears_while_it_is_read_is_left_out(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = pictures.read_each

        def then_removed(files: Any, *rest: Any) -> Any:
            found = read(files, *rest)
            (folder / "others" / "0.png").unlink()
            return found

        monkeypatch.setattr(pictures, "read_each", then_removed)
        report = protect(folder, folder.parent / "out", QUICK)
        assert "others/0.png" in report.left_out and report.written == PROTECTABLE - 1

    def test_a_picture_that_cannot_be_encoded_does_not_stop_the_rest(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = module.protected_file

        def refuses(file: Path, *others: Any) -> Any:
            if file.name == "smoke.png":
                raise TypeError("no such mode")
            return made(file, *others)

        monkeypatch.setattr(module, "protected_file", refuses)
        report = protect(folder, folder.parent / "out", QUICK)
        assert report.written == len(contents(folder.parent / "out")) == PROTECTABLE - 1
        (reason,) = [why for name, why in report.left_out.items() if name.endswith("smoke.png")]
        assert "no such mode" in reason


class TestTold:
    def test_pictures_that_are_protected_twice(self, tmp_path: Path) -> None:
        """The noise of both adds up: 32 gray levels. A BMP has no place for a mark."""
        names = ["a/0.jpg", "a/1.png", "b/2.webp", "b/3.bmp"]
        save_each(tmp_path / "in", names)
        first = protect(tmp_path / "in", tmp_path / "out", Job())
        assert first.twice == () and first.changed == {}
        again = protect(tmp_path / "out", tmp_path / "twice", Job(format="png"))
        assert again.twice == ("a/0.jpg", "a/1.png", "b/2.webp") and again.changed == {}
        third = protect(tmp_path / "twice", tmp_path / "third", Job())
        assert {*third.twice} == {str(Path(name).with_suffix(".png")) for name in names}
        lines = again.lines()
        assert "Protected once more, 3:" in lines
        assert any(line.startswith("  a/0.jpg: it was protected before") for line in lines)

    def test_a_place_that_stays_is_told_of_once(self, tmp_path: Path) -> None:
        for number, name in enumerate(["a/0.jpg", "a/1.png", "b/2.webp", "b/3.jpg"]):
            file = tmp_path / "in" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            exif = tagged(6) if number < 3 else Image.Exif()
            picture(seed=number).save(file, exif=exif)
        report = protect(tmp_path / "in", tmp_path / "out", Job())
        assert report.placed == 3
        (line,) = [line for line in report.lines() if "GPS" in line]
        assert line.startswith("3 written pictures say") and "--drop-location" in line
        without = protect(tmp_path / "in", tmp_path / "clean", Job(drop_location=True))
        assert without.placed == 0 and not any("GPS" in line for line in without.lines())


def drawn_jpegs(root: Path, quality: int) -> None:
    for number in range(6):
        file = root / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture((96, 80), seed=number).save(file, quality=quality)


class TestNotProtected:
    @pytest.mark.parametrize(
        ("quality", "strength"), [(1, 16), (3, 16), (10, 4), (30, 4), (20, 16), (75, 4), (75, 16)]
    )
    def test_are_pictures_whose_noise_is_gone(
        self, quality: int, strength: int, tmp_path: Path
    ) -> None:
        """Not always are they unchanged: then 0 to 6 % of the noise is left."""
        drawn_jpegs(tmp_path / "in", quality)
        report = protect(tmp_path / "in", tmp_path / "out", Job(strength=strength))
        gone = quality < 20
        assert report.written == 6 and len(report.unprotected) == 6 * gone
        assert all("of its noise is left" in why for why in report.unprotected.values())
        assert report.lines()[-1].startswith(f"{6 * (not gone)} pictures protected in ")
        assert report.changed == {}

    def test_are_pictures_whose_noise_nobody_sees(self, tmp_path: Path) -> None:
        save_each(tmp_path / "in", ["a/0.png", "a/1.png", "b/0.png"])
        clear = picture((40, 40), "RGBA")
        clear.putalpha(0)
        clear.save(tmp_path / "in" / "b" / "clear.png")
        report = protect(tmp_path / "in", tmp_path / "out", QUICK)
        assert {*report.unprotected} == {"b/clear.png"} and report.written == 4

    def test_are_told_after_a_resumed_run_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawn_jpegs(tmp_path / "in", 1)
        with monkeypatch.context() as patch, pytest.raises(OSError):
            patch.setattr(module.Unfinished, "finish", full_disk)
            protect(tmp_path / "in", tmp_path / "out")
        monkeypatch.setattr(module, "protected_file", None)
        assert len(protect(tmp_path / "in", tmp_path / "out").unprotected) == 6


def full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


class TestNoise:
    def test_each_picture_gets_the_noise_that_was_made_for_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def level(pixels: np.ndarray[Any, Any]) -> int:
            return int(pixels.astype(int).sum()) % 13 - 6

        def by_content(
            self: Separation, images: ImageSet, *_: object, **__: object
        ) -> Perturbation:
            levels = torch.tensor([level(one.numpy()) for one in images.images])
            delta = (levels.float().view(-1, 1, 1, 1) / 255).expand(-1, 3, 16, 16).clone()
            return Perturbation(delta, "sample_wise", 8 / 255, "CSD", images.fingerprint)

        monkeypatch.setattr(Separation, "make", by_content)
        written = [f"{'ab'[number % 2]}/{number}.png" for number in range(12)]
        save_each(tmp_path / "in", written)
        protect(tmp_path / "in", tmp_path / "out", QUICK)
        found = set()
        for name in written:
            expected = level(pictures.read(tmp_path / "in" / name, 16))
            assert (moved(tmp_path / "in" / name, tmp_path / "out" / name) == expected).all()
            found.add(expected)
        assert len(found) > 3

    @pytest.mark.parametrize("method", sorted(METHODS))
    @pytest.mark.parametrize("strength", [2, 16, 32])
    def test_the_bound_is_the_jobs_strength(self, method: Any, strength: int) -> None:
        inner = method_of(Job(method=method, strength=strength), 40).inner  # type: ignore[attr-defined]
        usual = (CPU.separation if method == "CSD" else CPU.loop).inner
        assert 255 * inner.epsilon == pytest.approx(strength)
        assert inner.step / inner.epsilon == pytest.approx(usual.step / usual.epsilon)

    def test_rounds_report_the_time_left(self) -> None:
        lines: list[str] = []
        report = module._with_time_left(lines.append)
        given = ["round 1 of 4: error 9.0%", "pass 4 of 4: 0.0%", "round 3: error 1.0%"]
        for line in given:
            report(line)
        assert lines == [f"{given[0]}, some 0 s left", *given[1:]]
