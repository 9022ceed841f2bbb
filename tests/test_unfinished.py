"""Protecting goes on after a kill, a full disk or a stop, and mixes up no two jobs."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from photo_files import PROTECTABLE, QUICK, contents, levels, mixed_folder
from ulelib import pictures
from ulelib.csd import Separation
from ulelib.files import PART
from ulelib.perturbation import Perturbation
from ulelib.photos import protect as module
from ulelib.photos import unfinished
from ulelib.photos.encode import About
from ulelib.photos.folders import Refused
from ulelib.photos.job import Job
from ulelib.photos.protect import protect
from ulelib.photos.unfinished import WORK_FOLDER, Unfinished

NOISE = Path(WORK_FOLDER, "delta.safetensors")
WEAKER = Job(method="CSD", size=16, strength=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return mixed_folder(tmp_path / "My pictures")


@pytest.fixture
def out(folder: Path) -> Path:
    return folder.parent / "out"


def end_before_writing(folder: Path, out: Path) -> None:
    """A run that makes its noise, and is interrupted before the first picture."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_write_all", interrupted)
        protect(folder, out, QUICK)


def interrupted(*_: Any) -> Any:
    raise KeyboardInterrupt


class TestResume:
    def test_after_a_full_disk(
        self, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = folder.parent / "whole"
        whole_report = protect(folder, whole, QUICK)
        write, count = module.write_bytes, [0]

        def full(target: Path, data: bytes) -> None:
            count[0] += 1
            if count[0] > 3:
                raise OSError(28, "No space left on device", str(target))
            write(target, data)

        with monkeypatch.context() as patch:
            patch.setattr(module, "write_bytes", full)
            with pytest.raises(OSError, match=r"No space left on device.*make room"):
                protect(folder, out, QUICK)
        monkeypatch.setattr(Separation, "make", None)  # the noise is not made again
        with pytest.raises(Refused, match="unfinished work"):
            protect(folder, out, WEAKER)
        made, again = module.protected_file, []

        def counted(file: Path, *others: Any) -> Any:
            again.append(file)
            return made(file, *others)

        monkeypatch.setattr(module, "protected_file", counted)
        report = protect(folder, out, QUICK)
        assert contents(out) == contents(whole)
        assert len(again) == PROTECTABLE - 3
        assert report.changed == whole_report.changed
        assert report.unprotected == whole_report.unprotected and len(report.unprotected) == 4

    def test_damaged_lines_of_the_journal_are_skipped(self, out: Path) -> None:
        work = Unfinished(out, {"names": []})
        work.folder.mkdir(parents=True)
        told = About(["CMYK became RGB"], "it is gray", twice=True, placed=True)
        work.note(Path("a/1.png"), [7, 8], told)
        with work.journal.open("a") as opened:
            opened.write('["a"]\n{"picture": "a/2.png", "no')  # cut off by a kill
        work.note(Path("a/3.png"), [9, 10], About())
        assert work.written() == {
            "a/1.png": ([7, 8], told),
            "a/3.png": ([9, 10], About()),
        }

    def test_an_original_that_was_changed_is_written_again(
        self, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wide = folder / "Änne and Bo" / "summer" / "wide.png"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Unfinished, "finish", interrupted)
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

    def test_reports_progress_and_can_be_stopped(
        self, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pictures, "REPORT_EVERY", 0.0)

        def stop(line: str) -> None:
            if line.startswith(f"3 of {PROTECTABLE} pictures are written, "):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            protect(folder, out, QUICK, report=stop)
        done = set(contents(out))
        lines: list[str] = []
        protect(folder, out, QUICK, report=lines.append)
        assert lines[-1].startswith(f"{PROTECTABLE} of {PROTECTABLE} pictures")
        assert len(done) < len(contents(out))

    def test_after_a_kill_before_anything_was_noted(self, folder: Path, out: Path) -> None:
        (out / WORK_FOLDER).mkdir(parents=True)
        assert protect(folder, out, QUICK).written == PROTECTABLE

    def test_partly_written_files_of_a_killed_run_are_removed(
        self, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(*_: Any) -> None:
            (out / "others").mkdir()
            (out / "others" / f".{16 * 'a'}{PART}").write_bytes(b"half")
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, "_write_all", killed)
            protect(folder, out, QUICK)
        assert protect(folder, out, QUICK).written == len(contents(out)) == PROTECTABLE


class TestOutputFolder:
    def test_with_something_in_it_is_refused(self, folder: Path, out: Path) -> None:
        out.mkdir()
        (out / "mine").write_text("x")
        with pytest.raises(Refused, match="is not empty"):
            protect(folder, out, QUICK)
        assert contents(out).keys() == {"mine"}

    def test_with_files_of_a_file_manager_is_empty(self, folder: Path, out: Path) -> None:
        out.mkdir()
        (out / ".DS_Store").write_text("x")
        assert protect(folder, out, QUICK).written

    def test_hidden_files_of_other_programs_stay(self, folder: Path, out: Path) -> None:
        theirs = [out / ".git" / f".{16 * 'a'}.part", out / ".git" / ".x.part", out / ".x.part"]
        for file in theirs:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("theirs")
        protect(folder, out, QUICK)
        assert all(file.read_text() == "theirs" for file in theirs)

    def test_work_that_wrote_nothing_is_replaced_by_another_job(
        self, folder: Path, out: Path
    ) -> None:
        end_before_writing(folder, out)
        assert (out / NOISE).is_file()
        protect(folder, out, WEAKER)
        name = Path("others", "0.png")
        moved = levels(Image.open(out / name)) - levels(Image.open(folder / name))
        assert 0 < np.abs(moved).max() <= 2

    def test_what_another_process_wrote_before_it_released_the_lock_is_seen(
        self, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        acquire = FileLock.acquire
        end_before_writing(folder, out)

        def late(lock: Any, *arguments: Any, **named: Any) -> Any:
            (out / "0.png").write_bytes(b"of the other process")
            return acquire(lock, *arguments, **named)

        monkeypatch.setattr(FileLock, "acquire", late)
        with pytest.raises(Refused, match="unfinished work"):
            protect(folder, out, WEAKER)

    def test_two_processes_cannot_use_it_at_once(
        self, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = module._write_all

        def second(*arguments: Any) -> Any:
            with pytest.raises(Refused, match="another process"):
                protect(folder, out, QUICK)
            return write(*arguments)

        monkeypatch.setattr(module, "_write_all", second)
        assert protect(folder, out, QUICK).written == PROTECTABLE

    def test_noise_of_other_pictures_is_not_written(self, folder: Path, out: Path) -> None:
        end_before_writing(folder, out)
        delta = torch.zeros(PROTECTABLE, 3, 16, 16)
        Perturbation(delta, "sample_wise", 8 / 255, "x", "0" * 16).save(out / NOISE)
        with pytest.raises(ValueError, match=r"remove .*delta\.safetensors"):
            protect(folder, out, QUICK)


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "remedy"),
        [
            (errno.ENOSPC, "make room"),
            (errno.EROFS, "make it writable"),
            (errno.ENOLCK, "another disk"),
        ],
    )
    def test_a_disk_that_cannot_be_written_is_named_with_the_file(
        self, error: int, remedy: str, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: Any) -> None:
            raise OSError(error, "no", "x")

        with monkeypatch.context() as patch, pytest.raises(OSError, match=f"job.json .*{remedy}"):
            patch.setattr(unfinished, "write_bytes", refused)
            protect(folder, out, QUICK)
        with monkeypatch.context() as patch, pytest.raises(OSError, match=f"delta.*{remedy}"):
            patch.setattr(Perturbation, "save", refused)
            protect(folder, out, QUICK)
        assert protect(folder, out, QUICK).written == PROTECTABLE

    def test_a_name_that_the_disk_does_not_accept_does_not_stop_the_rest(
        self, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = module.write_bytes

        def some(target: Path, data: bytes) -> None:
            if target.name == "1.png":
                raise OSError(errno.ENAMETOOLONG, "File name too long", str(target))
            write(target, data)

        monkeypatch.setattr(module, "write_bytes", some)
        report = protect(folder, out, QUICK)
        assert report.written == PROTECTABLE - 2
        assert "named others/1.png" in report.left_out["others/1.png"]

    def test_a_picture_that_disappears_before_it_is_written_does_not_stop_the_rest(
        self, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save = Unfinished.save_noise

        def then_removed(work: Unfinished, noise: Perturbation) -> None:
            save(work, noise)
            (folder / "others" / "1.png").unlink()

        monkeypatch.setattr(Unfinished, "save_noise", then_removed)
        report = protect(folder, out, QUICK)
        assert report.written == PROTECTABLE - 1 and "others/1.png" in report.left_out
