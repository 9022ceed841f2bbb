"""Protecting a folder: every kind of picture, what is kept, what is refused, and going on."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shlex
import struct
from pathlib import Path
from typing import Any
from zlib import compress, crc32

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from ulelib import pictures
from ulelib import protect as module
from ulelib.__main__ import main
from ulelib.csd import Separation
from ulelib.data import ImageSet
from ulelib.perturbation import Perturbation
from ulelib.profiles import CPU
from ulelib.protect import Job, Refused, protect, protected_file, spread

QUICK = Job(method="CSD", size=16, strength=8)
DELTA = (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 8 / 255


def picture(size: tuple[int, int] = (40, 30), mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A smooth picture in the middle of the range, so that noise meets no end of it."""
    width, height = size
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 190, (4, 5, 4), dtype=np.uint8), "RGBA")
    return coarse.resize((width, height), Image.Resampling.BILINEAR).convert(mode)


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "A camera"
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 0.0)}
    return exif


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def levels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.array(image).astype(int)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with a picture of every kind, and what cannot be protected."""
    root = tmp_path / "My pictures"
    for label in ("Änne and Bo", "others"):
        (root / label).mkdir(parents=True)
        for number in range(4):
            picture(seed=number).save(root / label / f"{number}.png")
    a = root / "Änne and Bo"
    picture().save(a / "phöto 1.JPG", "JPEG", exif=tagged(6), icc_profile=PROFILE, quality=80)
    picture(mode="L").save(a / "gray.jpeg", "JPEG")
    picture(mode="CMYK").save(a / "print.jpg", "JPEG")
    picture(mode="RGBA").save(a / "glass.png")
    picture(mode="LA").save(a / "smoke.png")
    picture().quantize(16).save(a / "palette.png")
    picture(mode="1").save(a / "scan.png")
    deep = (levels(picture(mode="L")) * 257).astype(np.uint16)
    Image.fromarray(deep).save(a / "deep.png")
    picture().save(a / "web.webp", lossless=True)
    picture().save(a / "old.bmp")
    (a / "summer").mkdir()
    picture(size=(300, 20)).save(a / "summer" / "wide.png")
    (a / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (a / "empty.png").write_bytes(b"")
    picture((8, 8)).save(a / "tiny.png")
    picture((900, 20)).save(a / "strip.png")
    frames = [picture(seed=seed) for seed in range(2)]
    frames[0].save(a / "moves.webp", save_all=True, append_images=frames[1:])
    frames[0].save(a / "moves.gif", save_all=True, append_images=frames[1:])
    (a / "notes.txt").write_text("no picture")
    (root / "stray.png").write_bytes((a / "0.png").read_bytes())
    return root


def contents(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def ended_before_writing(folder: Path, out: Path) -> None:
    """A run that made its noise, and no picture."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(module, "_write_all", lambda *_: (_ for _ in ()).throw(OSError("full")))
        protect(folder, out, QUICK)


class TestFolder:
    def test_a_folder_without_pictures_is_told(self, folder: Path) -> None:
        (folder / "empty" / "inside").mkdir(parents=True)
        (folder / ".hidden").mkdir()
        (folder / "only broken").mkdir()
        (folder / "only broken" / "a.gif").write_bytes(b"")
        left_out: dict[str, str] = {}
        module.find_pictures(folder, left_out)
        assert left_out["empty"] == "the folder holds no pictures"
        assert not {"only broken", "others", ".hidden"} & left_out.keys()

    def test_a_folder_that_cannot_be_read_is_told(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(place: str) -> None:
            raise PermissionError(13, "Permission denied", str(place))

        left_out: dict[str, str] = {}
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", refused)
            assert module.find_pictures(folder, left_out) == []
        assert left_out == {".": "the folder cannot be read: Permission denied"}

    def test_what_can_be_is_protected_and_the_rest_told(self, folder: Path) -> None:
        before = contents(folder)
        out = folder.parent / "out"
        report = protect(folder, out, QUICK)
        assert contents(folder) == before
        written = contents(out)
        assert report.written == len(written) == 8 + 11
        assert set(written) < set(before) and not set(written.values()) & set(before.values())
        told = {Path(name).name: why for name, why in report.left_out.items()}
        assert set(told) == {
            "broken.jpg", "empty.png", "tiny.png", "strip.png", "moves.webp", "moves.gif",
            "stray.png",
        }  # fmt: skip
        assert "animated" in told["moves.webp"] and "smaller than 16" in told["tiny.png"]
        changed = {Path(name).name: why for name, why in report.changed.items()}
        assert (
            changed["print.jpg"] == "CMYK became RGB"
            and changed["deep.png"] == f"16 bits became 8; {module.GRAY}"
        )
        assert set(changed) == {
            "print.jpg", "deep.png", "scan.png", "palette.png", "gray.jpeg", "smoke.png",
        }  # fmt: skip

    def test_one_person_among_others(self, tmp_path: Path) -> None:
        for name, count in (("me", 3), ("them/a", 4), ("them/b", 2)):
            (tmp_path / name).mkdir(parents=True)
            for number in range(count):
                picture(seed=number).save(tmp_path / name / f"{number}.png")
        (tmp_path / "them" / "a" / "broken.png").write_bytes(b"")
        job = Job(size=16)
        report = protect(tmp_path / "me", tmp_path / "out", job, tmp_path / "them")
        assert list(report.left_out) == ["others: a/broken.png"]
        assert sorted(contents(tmp_path / "out")) == ["0.png", "1.png", "2.png"]
        assert report.written == 3
        assert protect(tmp_path / "me", tmp_path / "csd", QUICK, tmp_path / "them").written == 3
        for number in range(3):
            first, second = (
                levels(Image.open(tmp_path / folder / f"{number}.png")) for folder in ("me", "csd")
            )
            assert 4 < np.abs(first - second).mean() <= 8  # pushed apart from those without noise

    @pytest.mark.parametrize("name", ["a.heic", "a.png"])
    def test_others_of_which_none_can_be_read_are_refused(self, name: str, folder: Path) -> None:
        others = folder.parent / "others"
        others.mkdir()
        (others / name).write_bytes(b"no picture")
        with pytest.raises(Refused, match=f"no picture in .*others can be read .*{name}: "):
            protect(folder, folder.parent / "out", QUICK, others)

    def test_linked_folders_are_told(self, folder: Path, tmp_path: Path) -> None:
        (folder / "linked").symlink_to(folder / "others", target_is_directory=True)
        report = protect(folder, tmp_path / "out", QUICK)
        assert report.left_out["linked"] == "it is a link to a folder: copy the folder"
        assert report.written == 19

    @pytest.mark.parametrize("others", ["My pictures", "."])
    def test_ones_own_pictures_are_not_among_those_of_others(
        self, folder: Path, others: str
    ) -> None:
        root = folder.parent
        with pytest.raises(Refused, match="lie in each other"):
            protect(folder / "others", root.parent / "out", QUICK, root / others)

    def test_networks_need_more_pixels_than_csd(self) -> None:
        assert (Job().pixels, Job(method="ULEO").pixels, Job(method="ULEO", size=64).pixels) == (
            8,
            32,
            64,
        )
        with pytest.raises(ValueError, match="for ULEO-GrayAugs, whose network"):
            Job(method="ULEO-GrayAugs", size=8)

    def test_names_that_are_no_text_can_be_told(self, folder: Path) -> None:
        odd = os.fsdecode(b"caf\xe9.png")
        try:
            (folder / odd).write_bytes(b"")
        except OSError:
            pytest.skip("this file system has text for names")
        report = protect(folder, folder.parent / "out", QUICK)
        assert "caf\ufffd.png" in report.left_out
        "\n".join(report.lines()).encode("utf-8")

    def test_a_name_commands_no_terminal(self) -> None:
        assert module.shown(Path("a\nb\x1b[31mé ü.png")) == r"a\nb\x1b[31mé ü.png"

    def test_one_class_alone_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "in" / "me").mkdir(parents=True)
        picture().save(tmp_path / "in" / "me" / "a.png")
        with pytest.raises(Refused, match="other people's pictures"):
            protect(tmp_path / "in", tmp_path / "out", QUICK)
        assert not (tmp_path / "out").exists()

    def test_no_pictures(self, tmp_path: Path) -> None:
        (tmp_path / "in" / "a").mkdir(parents=True)
        (tmp_path / "in" / "a" / "b.png").write_text("no")
        with pytest.raises(Refused, match=r"no picture that can be protected \(a/b.png: "):
            protect(tmp_path / "in", tmp_path / "out", QUICK)

    @pytest.mark.parametrize("place", ["My pictures", "My pictures/out", "."])
    def test_output_and_pictures_must_not_lie_in_each_other(self, folder: Path, place: str) -> None:
        with pytest.raises(Refused, match="lie in each other"):
            protect(folder, folder.parent / place, QUICK)

    def test_a_folder_with_something_in_it_is_refused(self, folder: Path) -> None:
        out = folder.parent / "out"
        out.mkdir()
        (out / "mine").write_text("x")
        with pytest.raises(Refused, match="is not empty"):
            protect(folder, out, QUICK)
        assert contents(out).keys() == {"mine"}

    def test_what_a_file_manager_left_is_not_something(self, folder: Path) -> None:
        out = folder.parent / "out"
        out.mkdir()
        (out / ".DS_Store").write_text("x")
        assert protect(folder, out, QUICK).written

    def test_names_that_would_fall_together_stay_apart(self, tmp_path: Path) -> None:
        for label in "ab":
            (tmp_path / "in" / label).mkdir(parents=True)
            picture(seed=1).save(tmp_path / "in" / label / "x.png")
            picture(seed=2).save(tmp_path / "in" / label / "x.bmp")
            picture(seed=3).save(tmp_path / "in" / label / "y.bmp")
        job = Job(method="CSD", size=16, format="jpg", quality=90)
        protect(tmp_path / "in", tmp_path / "out", job)
        names = {"x.bmp.jpg", "x.png.jpg", "y.jpg"}
        assert set(contents(tmp_path / "out")) == {f"{a}/{n}" for a in "ab" for n in names}

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
        for number in range(12):
            (tmp_path / "in" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            picture(seed=number).save(tmp_path / "in" / "ab"[number % 2] / f"{number}.png")
        protect(tmp_path / "in", tmp_path / "out", QUICK)
        found = set()
        for new in (tmp_path / "out").glob("*/*.png"):
            old = tmp_path / "in" / new.relative_to(tmp_path / "out")
            moved = levels(Image.open(new)) - levels(Image.open(old))
            found.add(level(pictures.read(old, 16)))
            assert (moved == level(pictures.read(old, 16))).all()
        assert len(found) > 3


@pytest.mark.parametrize("method", sorted(module.METHODS))
@pytest.mark.parametrize("strength", [2, 16, 32])
def test_noise_is_made_at_the_strength_that_was_asked_for(method: str, strength: int) -> None:
    inner = module.method_of(Job(method=method, strength=strength), 40).inner  # type: ignore[attr-defined]
    usual = (CPU.separation if method == "CSD" else CPU.loop).inner
    assert 255 * inner.epsilon == pytest.approx(strength)
    assert inner.step / inner.epsilon == pytest.approx(usual.step / usual.epsilon)


class TestGoingOn:
    def test_after_a_full_disk(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        whole, out = tmp_path / "whole", tmp_path / "out"
        whole_report = protect(folder, whole, QUICK)
        write, count = module.write_bytes, [0]

        def full(target: Path, data: bytes) -> None:
            count[0] += 1
            if count[0] > 4:
                raise OSError(28, "No space left on device", str(target))
            write(target, data)

        monkeypatch.setattr(module, "write_bytes", full)
        with pytest.raises(OSError, match=r"No space left on device\. What is done stays"):
            protect(folder, out, QUICK)
        monkeypatch.setattr(module, "write_bytes", write)
        monkeypatch.setattr(Separation, "make", None)  # it is not made again
        with pytest.raises(Refused, match="unfinished work with other pictures or settings"):
            protect(folder, out, Job(method="CSD", size=16, strength=4))
        made, again = module.protected_file, []

        def counted(file: Path, *others: Any) -> Any:
            again.append(file)
            return made(file, *others)

        monkeypatch.setattr(module, "protected_file", counted)
        report = protect(folder, out, QUICK)
        assert contents(out) == contents(whole)
        assert len(again) == 19 - 3  # the first of four files is the job's
        assert report.changed == whole_report.changed

    def test_what_was_not_noted_down_whole_is_written_again(self, folder: Path) -> None:
        """A kill in the middle of a line, or a stranger's journal."""
        out = folder.parent / "out"
        state = module._State(out, {"names": []})
        state.folder.mkdir(parents=True)
        state.wrote(Path("a/1.png"), [7, 8], ["CMYK became RGB"])
        with state.journal.open("a") as opened:
            opened.write('["a"]\n{"picture": "a/2.png", "no')
        state.wrote(Path("a/3.png"), [9, 10], [])
        assert state.written() == {
            "a/1.png": ([7, 8], ["CMYK became RGB"]),
            "a/3.png": ([9, 10], []),
        }

    def test_what_was_changed_meanwhile_is_written_again(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, wide = folder.parent / "out", folder / "Änne and Bo" / "summer" / "wide.png"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module._State, "end", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
            protect(folder, out, QUICK)
        before = contents(out)
        pixels = np.array(Image.open(wide))
        pixels[:, :40] = 0  # far from the middle square
        Image.fromarray(pixels).save(wide)
        protect(folder, out, QUICK)
        after = contents(out)
        name = str(wide.relative_to(folder))
        assert {one for one in after if after[one] != before[one]} == {name}
        assert np.array(Image.open(out / name))[:, :40].max() <= 8

    @pytest.mark.parametrize(
        ("error", "remedy"), [(errno.ENOSPC, "make room"), (errno.EROFS, "make it writable")]
    )
    def test_a_disk_that_takes_nothing_is_told_from_the_first_file_on(
        self, error: int, remedy: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = folder.parent / "out"

        def refused(*_: Any) -> None:
            raise OSError(error, "no", "x")

        with monkeypatch.context() as patch, pytest.raises(OSError, match=f"job.json .*{remedy}"):
            patch.setattr(module, "write_bytes", refused)
            protect(folder, out, QUICK)
        with monkeypatch.context() as patch, pytest.raises(OSError, match=f"delta.*{remedy}"):
            patch.setattr(Perturbation, "save", refused)
            protect(folder, out, QUICK)
        assert protect(folder, out, QUICK).written == 19

    def test_a_name_that_the_disk_does_not_take_does_not_stop_the_rest(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = module.write_bytes

        def some(target: Path, data: bytes) -> None:
            if target.name == "1.png":
                raise OSError(errno.ENAMETOOLONG, "File name too long", str(target))
            write(target, data)

        monkeypatch.setattr(module, "write_bytes", some)
        report = protect(folder, folder.parent / "out", QUICK)
        assert report.written == 17
        assert report.left_out["others/1.png"] == "it cannot be named others/1.png: rename it"

    def test_a_picture_that_is_gone_by_then_does_not_stop_the_rest(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep = module._State.keep

        def kept(state: Any, noise: Perturbation) -> None:
            keep(state, noise)
            (folder / "others" / "1.png").unlink()

        monkeypatch.setattr(module._State, "keep", kept)
        report = protect(folder, folder.parent / "out", QUICK)
        assert report.written == 18 and "others/1.png" in report.left_out

    def test_hidden_files_of_others_stay(self, folder: Path) -> None:
        out = folder.parent / "out"
        theirs = [out / ".git" / f".{16 * 'a'}.part", out / ".git" / ".x.part", out / ".x.part"]
        for file in theirs:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("theirs")
        protect(folder, out, QUICK)
        assert all(file.read_text() == "theirs" for file in theirs)

    def test_a_work_that_wrote_nothing_gives_way_to_another(self, folder: Path) -> None:
        out = folder.parent / "out"
        ended_before_writing(folder, out)
        assert (out / module.STATE / "delta.safetensors").is_file()
        protect(folder, out, Job(method="CSD", size=16, strength=2))
        name = Path("others", "0.png")
        moved = levels(Image.open(out / name)) - levels(Image.open(folder / name))
        assert 0 < np.abs(moved).max() <= 2

    def test_what_another_wrote_before_it_gave_the_lock_back_is_seen(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, acquire = folder.parent / "out", module.FileLock.acquire
        ended_before_writing(folder, out)

        def late(lock: Any, *arguments: Any, **named: Any) -> Any:
            (out / "0.png").write_bytes(b"of the other work")
            return acquire(lock, *arguments, **named)

        monkeypatch.setattr(module.FileLock, "acquire", late)
        with pytest.raises(Refused, match="unfinished work with other"):
            protect(folder, out, Job(method="CSD", size=16, strength=2))

    def test_tells_how_far_it_is_and_can_be_stopped(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = folder.parent / "out"
        monkeypatch.setattr(pictures, "TELL_EACH", 0.0)

        def stop(line: str) -> None:
            if line.startswith("3 of 19 pictures are written, "):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            protect(folder, out, QUICK, report=stop)
        done = set(contents(out))
        lines: list[str] = []
        protect(folder, out, QUICK, report=lines.append)
        assert lines[-1] == "19 of 19 pictures are written" and len(done) < len(contents(out))

    def test_after_a_kill_before_anything_was_noted(self, folder: Path) -> None:
        out = folder.parent / "out"
        (out / module.STATE).mkdir(parents=True)
        assert protect(folder, out, QUICK).written == 19

    def test_what_a_killed_run_was_writing_is_removed(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = folder.parent / "out"

        def killed(*_: Any) -> None:
            (out / "others").mkdir()
            (out / "others" / f".{16 * 'a'}{module.PART}").write_bytes(b"half")
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, "_write_all", killed)
            protect(folder, out, QUICK)
        assert protect(folder, out, QUICK).written == len(contents(out)) == 19

    def test_two_at_the_same_work_do_not_meet(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, write = folder.parent / "out", module._write_all

        def second(*arguments: Any) -> Any:
            with pytest.raises(Refused, match="another process"):
                protect(folder, out, QUICK)
            return write(*arguments)

        monkeypatch.setattr(module, "_write_all", second)
        assert protect(folder, out, QUICK).written == 19

    def test_noise_of_other_pictures_is_not_written(self, folder: Path) -> None:
        out = folder.parent / "out"
        ended_before_writing(folder, out)
        foreign = Perturbation(torch.zeros(19, 3, 16, 16), "sample_wise", 8 / 255, "x", "0" * 16)
        foreign.save(out / module.STATE / "delta.safetensors")
        with pytest.raises(ValueError, match="made for other images.*remove .*delta.safetensors"):
            protect(folder, out, QUICK)

    def test_a_picture_that_cannot_be_written_does_not_stop_the_rest(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add = module._add

        def refuses(image: Image.Image, *others: Any) -> Image.Image:
            if image.mode == "LA":
                raise TypeError("no such mode")
            return add(image, *others)

        monkeypatch.setattr(module, "_add", refuses)
        report = protect(folder, folder.parent / "out", QUICK)
        assert report.written == len(contents(folder.parent / "out")) == 18
        (why,) = [why for name, why in report.left_out.items() if name.endswith("smoke.png")]
        assert why == "it could not be written: no such mode"


def saved(image: Image.Image, folder: Path, name: str, **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


class TestPicture:
    @pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
    def test_mode_size_and_bound(self, mode: str, tmp_path: Path) -> None:
        file = saved(picture((50, 37), mode), tmp_path, "a.png")
        data, notes = protected_file(file, DELTA, Job(strength=8, size=16))
        made = Image.open(io.BytesIO(data))
        told = [module.GRAY] if mode in ("L", "LA") else []
        assert (made.mode, made.size, notes) == (mode, (50, 37), told)
        with Image.open(file) as old:
            difference = levels(made) - levels(old)
        if "A" in mode:
            assert (difference[..., -1] == 0).all()
            difference = difference[..., :-1]
        assert 3 < abs(difference).max() <= 8

    def test_jpeg_is_coded_as_it_was(self, tmp_path: Path) -> None:
        file = saved(
            picture((400, 300)), tmp_path, "a.jpg", quality=70, exif=tagged(1), icc_profile=PROFILE
        )
        data, _ = protected_file(file, 0 * DELTA, Job())
        new = Image.open(io.BytesIO(data))
        with Image.open(file) as old:
            assert new.quantization == old.quantization  # type: ignore[attr-defined]
        assert new.info["icc_profile"] == PROFILE and dict(new.getexif())[0x010F] == "A camera"
        assert len(data) < 1.2 * file.stat().st_size

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_noise_is_upright_and_the_file_turned_as_it_was(
        self, orientation: int, tmp_path: Path
    ) -> None:
        file = saved(picture((48, 32)), tmp_path, "a.png", exif=tagged(orientation))
        data, _ = protected_file(file, DELTA, Job(size=16))
        new = Image.open(io.BytesIO(data))
        with Image.open(file) as old:
            assert new.size == old.size and new.getexif()[0x0112] == orientation
            moved = levels(ImageOps.exif_transpose(new)) - levels(ImageOps.exif_transpose(old))
        expected = spread(DELTA, *moved.shape[:2], 8).permute(1, 2, 0)
        assert (moved == expected.numpy()).all()

    @pytest.mark.parametrize("orientation", [6, None])
    def test_the_place_alone_is_left_out_on_request(
        self, orientation: int | None, tmp_path: Path
    ) -> None:
        tags = tagged(orientation or 1)
        tags[0x0110] = "Camera"
        if orientation is None:
            del tags[0x0112]
        file = saved(picture(), tmp_path, "a.jpg", exif=tags)
        kept, _ = protected_file(file, DELTA, Job())
        assert 0x8825 in Image.open(io.BytesIO(kept)).getexif()
        dropped, notes = protected_file(file, DELTA, Job(drop_location=True))
        exif = Image.open(io.BytesIO(dropped)).getexif()
        assert notes == ["the place was left out"]
        assert exif.get(0x0110) == "Camera" and exif.get(0x0112) == orientation
        assert 0x8825 not in exif

    def test_of_a_phones_several_pictures_the_first_is_written(self, tmp_path: Path) -> None:
        file = tmp_path / "a.jpg"
        picture().save(file, "MPO", save_all=True, append_images=[picture(seed=1)])
        data, notes = protected_file(file, 0 * DELTA, Job())
        made = Image.open(io.BytesIO(data))
        assert made.format == "JPEG" and notes == ["the first of its several pictures alone"]
        with Image.open(file) as old:
            assert np.abs(levels(made) - levels(old)).mean() < 2

    def test_a_profile_of_cmyk_goes_with_it(self, tmp_path: Path) -> None:
        file = saved(picture(mode="CMYK"), tmp_path, "a.jpg", icc_profile=PROFILE)
        data, notes = protected_file(file, DELTA, Job())
        assert notes == ["CMYK became RGB", "its colour profile was left out"]
        assert "icc_profile" not in Image.open(io.BytesIO(data)).info

    @pytest.mark.parametrize("format", ["keep", "jpg"])
    def test_quality_and_format_are_those_that_were_asked_for(
        self, format: str, tmp_path: Path
    ) -> None:
        file = saved(picture((200, 200)), tmp_path, "a.jpg")
        sizes = [
            len(protected_file(file, DELTA, Job(format=format, quality=quality))[0])  # type: ignore[arg-type]
            for quality in (30, 60, 95)
        ]
        assert sizes == sorted(set(sizes))
        lossless, _ = protected_file(file, DELTA, Job(format="png"))
        assert Image.open(io.BytesIO(lossless)).format == "PNG"

    def test_transparent_pictures_become_white_in_jpeg(self, tmp_path: Path) -> None:
        clear = Image.new("RGBA", (40, 40), (10, 200, 30, 0))
        file = saved(clear, tmp_path, "a.png")
        data, notes = protected_file(file, 0 * DELTA, Job(format="jpg"))
        made = Image.open(io.BytesIO(data))
        assert made.mode == "RGB" and levels(made).min() > 250
        assert notes == ["what was transparent is white"]


@pytest.mark.parametrize(("kind", "channels", "mode"), [(2, 3, "RGB"), (4, 2, "LA")])
def test_colours_of_16_bits_become_8_and_that_is_told(
    kind: int, channels: int, mode: str, tmp_path: Path
) -> None:
    """Pillow reads them as 8 without a word, and cannot write them: the file is made here."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    rows = np.random.default_rng(0).integers(20_000, 40_000, (30, 40 * channels)).astype(">u2")
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", 40, 30, 16, kind, 0, 0, 0)
    file = tmp_path / "deep.png"
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", compress(pixels))
        + chunk(b"IEND", b"")
    )  # fmt: skip
    data, notes = protected_file(file, DELTA, QUICK)
    assert notes == ["16 bits became 8", *[module.GRAY] * (mode == "LA")]
    made = Image.open(io.BytesIO(data))
    assert made.mode == mode
    moved = levels(made) - levels(Image.open(file).convert(mode))
    assert 0 < np.abs(moved).max() <= QUICK.strength
    assert mode == "RGB" or not moved[..., 1].any()


def test_how_bright_the_levels_of_a_png_are_is_kept(tmp_path: Path) -> None:
    told = PngImagePlugin.PngInfo()
    told.add(b"gAMA", struct.pack(">I", 100_000))
    file = saved(picture(), tmp_path, "a.png", pnginfo=told)
    data, notes = protected_file(file, DELTA, Job())
    assert Image.open(io.BytesIO(data)).info["gamma"] == 1.0 and notes == []
    _, notes = protected_file(file, DELTA, Job(format="jpg"))
    assert notes == ["its gamma was left out"]


def test_iptc_data_that_are_left_out_are_told(tmp_path: Path) -> None:
    file = saved(picture(), tmp_path, "a.jpg")
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x08\x1c\x02P\0\x03Bob"
    whole = file.read_bytes()
    part = b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc
    file.write_bytes(whole[:2] + part + whole[2:])
    _, notes = protected_file(file, DELTA, Job())
    assert notes == ["XMP or IPTC data, comments or texts were left out"]


def test_exif_data_stay_as_they_were_coded(tmp_path: Path) -> None:
    exif = tagged(6)
    exif[0x010E] = "Zo## at sea"
    coded = exif.tobytes().replace(b"Zo##", "Zoë".encode())  # Pillow would write question marks
    file = saved(picture(), tmp_path, "a.jpg", exif=coded)
    data, notes = protected_file(file, DELTA, Job())
    with Image.open(file) as old, Image.open(io.BytesIO(data)) as new:
        assert "Zoë".encode() in old.info["exif"] and new.info["exif"] == old.info["exif"]
    assert not notes


def test_no_preview_of_the_clean_picture_is_published(tmp_path: Path) -> None:
    small = io.BytesIO()
    picture((16, 12)).save(small, "JPEG")
    preview = small.getvalue()

    def entry(tag: int, kind: int, value: bytes) -> bytes:
        return struct.pack(">HHI", tag, kind, 1) + value

    first = struct.pack(">H", 1) + entry(0x0112, 3, struct.pack(">HH", 6, 0))
    second_at = 8 + len(first) + 4
    second = (
        struct.pack(">H", 2)
        + entry(0x0201, 4, struct.pack(">I", second_at + 2 + 2 * 12 + 4))
        + entry(0x0202, 4, struct.pack(">I", len(preview)))
    )
    coded = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + first + struct.pack(">I", second_at)
    file = saved(picture(), tmp_path, "a.jpg", exif=coded + second + bytes(4) + preview)
    assert preview in file.read_bytes()
    data, notes = protected_file(file, DELTA, Job())
    assert preview not in data and module.PREVIEW not in data[3:]
    assert notes == ["the preview in its EXIF data was left out"]
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6


def test_no_uncoded_preview_is_published(tmp_path: Path) -> None:
    """EXIF allows previews that are plain pixels, in its second directory."""
    pixels = bytes(range(1, 193))
    second_at = 8 + 2 + 12 + 4
    tags = [(0x0103, 1), (0x0111, second_at + 2 + 3 * 12 + 4), (0x0117, len(pixels))]
    second = struct.pack(">H", len(tags))
    second += b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    first = struct.pack(">HHHIHH", 1, 0x0112, 3, 1, 6, 0) + struct.pack(">I", second_at)
    coded = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + first + second + bytes(4) + pixels
    file = saved(picture(), tmp_path, "a.jpg", exif=coded)
    assert pixels in file.read_bytes()
    data, notes = protected_file(file, DELTA, Job())
    assert pixels not in data and notes == ["the preview in its EXIF data was left out"]
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6


def test_an_orientation_from_xmp_data_is_kept(tmp_path: Path) -> None:
    """They are not written; beside EXIF data without one, the orientation would be lost."""
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    file = saved(picture((48, 32)), tmp_path, "a.jpg", exif=exif, xmp=xmp)
    with Image.open(file) as opened:
        assert opened.getexif()[0x0112] == 6
    data, notes = protected_file(file, DELTA, Job())
    assert notes == ["XMP or IPTC data, comments or texts were left out"]
    told = Image.open(io.BytesIO(data)).getexif()
    assert (told[0x0112], told[0x010F]) == (6, "A camera")


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
@pytest.mark.parametrize("format", ["keep", "png", "jpg"])
def test_a_turned_picture_stands_upright_in_every_format(
    kind: str, format: Any, tmp_path: Path
) -> None:
    file = saved(picture((48, 32)), tmp_path, f"a.{kind}", exif=tagged(6))
    data, _ = protected_file(file, DELTA, Job(format=format))
    new = Image.open(io.BytesIO(data))
    assert (new.size, new.getexif()[0x0112], new.getexif()[0x010F]) == ((48, 32), 6, "A camera")


@pytest.mark.parametrize("quality", [55, 75])
def test_lossy_webp_is_as_large_as_it_was(quality: int, tmp_path: Path) -> None:
    rough = np.random.default_rng(0).normal(0, 20, (200, 300, 3)) + levels(picture((300, 200)))
    rough_picture = Image.fromarray(rough.clip(0, 255).astype(np.uint8))
    file = saved(rough_picture, tmp_path, "a.webp", quality=quality)
    data, _ = protected_file(file, 0 * DELTA, Job())
    assert 0.9 < len(data) / file.stat().st_size < 1.3
    whole, _ = protected_file(file, 0 * DELTA, Job(quality=95))
    assert len(whole) > 1.3 * len(data)


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_is_coded_as_it_was(lossless: bool, tmp_path: Path) -> None:
    file = saved(picture((60, 40)), tmp_path, "a.webp", lossless=lossless, icc_profile=PROFILE)
    data, _ = protected_file(file, DELTA, Job())
    (tmp_path / "new.webp").write_bytes(data)
    assert module._is_lossless(tmp_path / "new.webp") == module._is_lossless(file) == lossless
    if lossless:
        moved = levels(Image.open(io.BytesIO(data))) - levels(Image.open(file))
        assert 0 < np.abs(moved).max() <= 8


@pytest.mark.parametrize("mode", ["1", "I;16"])
def test_transparency_that_cannot_be_kept_is_told(mode: str, tmp_path: Path) -> None:
    whole = picture(mode="L") if mode == "1" else Image.new("I;16", (40, 30), 30_000)
    file = saved(whole.convert("1") if mode == "1" else whole, tmp_path, "a.png", transparency=0)
    _, notes = protected_file(file, DELTA, Job())
    assert "what was transparent is white" in notes


def test_exif_data_that_cannot_be_written_again_are_told(tmp_path: Path) -> None:
    exif = tagged(6)
    exif[0x9286] = b"x" * 70_000  # a comment longer than a JPEG's EXIF data may be
    file = saved(picture((60, 40)), tmp_path, "a.png", exif=exif)
    data, notes = protected_file(file, DELTA, Job(format="jpg"))
    assert dict(Image.open(io.BytesIO(data)).getexif()) == {0x0112: 6}
    assert notes == ["its EXIF data could not be written again, but for the orientation"]


def test_names_that_meet_names_made_for_others() -> None:
    photos = [module.Photo(Path(n), Path("a") / n, "a") for n in ("x.png", "x.bmp", "x.png.bmp")]
    targets = module.targets_of(photos, "jpg")
    assert len(set(targets)) == 3 and all(target.suffix == ".jpg" for target in targets)


def test_names_that_differ_in_how_an_umlaut_is_written() -> None:
    photos = [module.Photo(Path(n), Path("a") / n, "a") for n in ("\u00fc.png", "u\u0308.bmp")]
    assert len({module.folded(one) for one in module.targets_of(photos, "jpg")}) == 2


def test_a_picture_is_not_written_over_another_whose_name_the_disk_takes_it_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = ["IMG.png", "img.PNG", "\u00fc.png", "u\u0308.png"]
    (tmp_path / "in" / "b").mkdir(parents=True)
    picture(seed=9).save(tmp_path / "in" / "b" / "0.png")
    (tmp_path / "in" / "a").mkdir()
    for seed, name in enumerate(alike):
        picture(seed=seed).save(tmp_path / "in" / "a" / name)
    report = protect(tmp_path / "in", tmp_path / "whole", QUICK)
    assert report.written == len(contents(tmp_path / "whole")) == 5  # this disk tells them apart
    monkeypatch.setattr(module, "_confuses_names", lambda folder: True)
    report = protect(tmp_path / "in", tmp_path / "out", QUICK)
    assert report.written == len(contents(tmp_path / "out")) == 3
    assert report.left_out == {
        "a/img.PNG": "the disk takes its name for a/IMG.png: rename one of them",
        "a/\u00fc.png": "the disk takes its name for a/u\u0308.png: rename one of them",
    }


def test_a_picture_that_is_removed_meanwhile_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = pictures.read_each

    def then_removed(files: Any, *rest: Any) -> Any:
        found = read(files, *rest)
        (folder / "others" / "0.png").unlink()
        return found

    monkeypatch.setattr(pictures, "read_each", then_removed)
    report = protect(folder, folder.parent / "out", QUICK)
    assert "it can be read no more" in report.left_out["others/0.png"]


def test_rounds_tell_how_long_the_others_will_take() -> None:
    told: list[str] = []
    say = module._with_time_left(told.append)
    for line in ("round 1 of 4: error 9.0%", "pass 4 of 4: 0.0%", "round 3: error 1.0%"):
        say(line)
    assert told == ["round 1 of 4: error 9.0%, some 0 s left", *told[1:]]
    assert told[1:] == ["pass 4 of 4: 0.0%", "round 3: error 1.0%"]


class TestSpread:
    def test_the_middle_square_comes_back_when_it_is_scaled_down(self) -> None:
        smooth = torch.nn.functional.avg_pool2d(DELTA[None], 3, 1, 1)[0]
        large = spread(smooth, 160, 240, 8)[:, :, 40:200].float()
        back = torch.nn.functional.interpolate(
            large[None], [16, 16], mode="bilinear", antialias=True
        )[0]
        assert torch.corrcoef(torch.stack([back.flatten(), smooth.flatten()]))[0, 1] > 0.95

    def test_beyond_it_is_mirrored(self) -> None:
        made = spread(DELTA, 16, 40, 8)
        middle = made[:, :, 12:28]
        assert torch.equal(middle, (255 * DELTA).round().to(torch.int8))
        assert torch.equal(made[:, :, :12], middle[:, :, :12].flip(2))
        assert torch.equal(made[:, :, 28:], middle[:, :, 4:].flip(2))


class TestCommand:
    def test_tells_what_was_done_and_how_to_ask_what_it_is_worth(self, folder: Path) -> None:
        out = folder.parent / "what is out"
        told = CliRunner().invoke(
            main, ["protect", str(folder), "--out", str(out), "--method", "CSD", "--size", "16"]
        )
        assert told.exit_code == 0, told.output
        assert "19 pictures protected" in told.output and "Left out, 7:" in told.output
        assert "tiny.png: it is smaller than 16 pixels" in told.output
        command = told.output.rpartition("is worth: ")[2]
        assert shlex.split(command) == ["ulelib", "check", str(folder), str(out)]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--strength", "0"], "Error: --strength is 0"),
            (["--size", "4"], "Error: --size is 4"),
            (["--size", "12", "--method", "ULEO"], "Error: --size is 12: for ULEO"),
            (["--quality", "101"], "Error: --quality is 101"),
        ],
    )
    def test_says_what_is_wrong(self, folder: Path, options: list[str], message: str) -> None:
        arguments = ["protect", str(folder), "--out", str(folder.parent / "o"), *options]
        told = CliRunner().invoke(main, arguments)
        assert told.exit_code == 1 and message in told.output and "Traceback" not in told.output

    def test_changes_no_path_in_what_it_says(self, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "Job.photos"
        out.mkdir()
        (out / "mine").write_text("x")
        told = CliRunner().invoke(main, ["protect", str(folder), "--out", str(out)])
        assert f"{out} is not empty" in told.output

    def test_does_not_trust_the_state_of_a_stranger(self, folder: Path, tmp_path: Path) -> None:
        """A delta that is no perturbation is an error, and runs no code."""
        out = tmp_path / "out"
        ended_before_writing(folder, out)
        (out / module.STATE / "delta.safetensors").write_bytes(b"cos\nsystem\n")
        quick = ["--method", "CSD", "--size", "16", "--strength", "8"]
        told = CliRunner().invoke(main, ["protect", str(folder), "--out", str(out), *quick])
        assert told.exit_code == 1 and "is not a perturbation" in told.output
