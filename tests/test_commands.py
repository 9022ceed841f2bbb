"""The command line: what it prints, how it fails, and what it needs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from helpers import PROJECT
from photo_files import GRAY, LEFT_OUT, PROTECTABLE, QUICK, levels, mixed_folder
from ulelib.photos import check as check_module
from ulelib.photos import protect as protect_module
from ulelib.photos.commands import commands
from ulelib.photos.protect import protect
from ulelib.photos.unfinished import WORK_FOLDER

QUICK_OPTIONS = ["--method", "CSD", "--size", "16", "--strength", "8"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, list(map(str, arguments)))


class TestProtect:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return mixed_folder(tmp_path / "My pictures")

    def test_prints_the_report_and_the_next_command(self, folder: Path) -> None:
        out = folder.parent / "what is out"
        result = run("protect", folder, "--out", out, *QUICK_OPTIONS)
        assert result.exit_code == 0, result.output
        assert f"\n{PROTECTABLE - len(GRAY)} pictures protected" in result.output
        assert f"Left out, {len(LEFT_OUT)}:" in result.output
        assert "tiny.png: it is smaller than 16 pixels" in result.output
        (command,) = [
            line[line.index("ulelib check") :]
            for line in result.output.splitlines()
            if "ulelib check" in line
        ]
        assert shlex.split(command) == ["ulelib", "check", str(folder), str(out)]

    def test_masking_is_an_option(self, folder: Path) -> None:
        """A smooth picture then gets so little noise that the report names it."""
        out = folder.parent / "out"
        result = run("protect", folder, "--out", out, *QUICK_OPTIONS, "--masking")
        assert result.exit_code == 0 and "others/0.png: it is mostly flat" in result.output
        assert np.abs(levels(Image.open(out / "others/0.png"))
                      - levels(Image.open(folder / "others/0.png"))).mean() < 4  # fmt: skip

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--strength", "0"], "Error: --strength is 0"),
            (["--size", "4"], "Error: --size is 4"),
            (["--size", "12", "--method", "ULEO"], "Error: --size is 12: "),
            (["--quality", "101"], "Error: --quality is 101"),
        ],
    )
    def test_names_the_wrong_option(self, folder: Path, options: list[str], message: str) -> None:
        result = run("protect", folder, "--out", folder.parent / "o", *options)
        assert result.exit_code == 1 and message in result.output
        assert "Traceback" not in result.output

    def test_changes_no_path_in_a_message(self, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "Job.photos"
        out.mkdir()
        (out / "mine").write_text("x")
        assert f"{out} is not empty" in run("protect", folder, "--out", out).output

    def test_noise_from_a_stranger_runs_no_code(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: Any) -> Any:
            raise KeyboardInterrupt

        out = tmp_path / "out"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(protect_module, "_write_all", interrupted)
            protect(folder, out, QUICK)
        (out / WORK_FOLDER / "delta.safetensors").write_bytes(b"cos\nsystem\n")
        result = run("protect", folder, "--out", out, *QUICK_OPTIONS)
        assert result.exit_code == 1 and "is not a perturbation" in result.output

    def test_says_that_interrupted_work_must_not_be_published(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(protect_module, "_write_all", interrupted)
        result = run("protect", folder, "--out", tmp_path / "out", *QUICK_OPTIONS)
        assert result.exit_code == 1 and "do not publish" in result.output


class TestPreview:
    def test_writes_one_picture_and_prints_the_numbers(self, tmp_path: Path) -> None:
        folder, out = mixed_folder(tmp_path / "My pictures"), tmp_path / "strengths.png"
        result = run("preview", folder, "--out", out, "--picture", folder / "others" / "1.png")
        assert result.exit_code == 0, result.output
        with Image.open(out) as strip:
            assert strip.format == "PNG" and strip.width > 1000
        assert "\nstrength 16: PSNR " in result.output
        assert "\nstrength 16, with masking: PSNR " in result.output
        assert f"others/1.png at these strengths: {out}" in result.output
        again = run("preview", folder, "--out", out)
        assert again.exit_code == 1 and "exists" in again.output

    def test_fails_in_a_line(self, tmp_path: Path) -> None:
        folder = mixed_folder(tmp_path / "My pictures")
        inside = run("preview", folder, "--out", folder / "a.png")
        assert inside.exit_code == 1 and "among the pictures" in inside.output
        wrong = run("preview", folder, "--out", tmp_path / "a.png", "--size", "4")
        assert wrong.exit_code == 1 and "Error: --size is 4" in wrong.output
        assert "Traceback" not in inside.output + wrong.output


class TestCheck:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Red and blue pictures, and trainings of two steps."""
        monkeypatch.setattr(check_module, "STEPS", 2)
        kept = {name: check_module.FILTERS[name] for name in ("nothing", check_module.CROP_FLIP)}
        monkeypatch.setattr(check_module, "FILTERS", kept)
        monkeypatch.setattr(check_module, "_backbone", lambda *_: ("nothing", torch.nn.Flatten()))
        for label, colour in (("red", (200, 60, 60)), ("blue", (60, 60, 200))):
            (tmp_path / "clean" / label).mkdir(parents=True)
            for number in range(8):
                noise = np.random.default_rng(number).integers(-20, 20, (24, 24, 3))
                pixels = (np.array(colour) + noise).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "clean" / label / f"{number}.png")
        return tmp_path / "clean"

    def test_writes_the_report(self, folder: Path, tmp_path: Path) -> None:
        page = tmp_path / "report.html"
        result = run("check", folder, folder, "--report", page, "--size", "16")
        assert result.exit_code == 0, result.output
        assert page.is_file() and f"{page}.json" in result.output
        lines = result.output.splitlines()
        assert lines[0].startswith("4 of 16 pictures are held out: too few to show any protection")
        assert any(one.startswith("With 16 pictures no protection could be shown") for one in lines)
        assert "Pictures without noise: blue/0.png" in result.output  # both folders are one

    def test_a_terminal_without_the_letters_of_a_name(self, folder: Path, tmp_path: Path) -> None:
        """Python would fail after all pictures were written."""
        mine = folder.rename(tmp_path / "Анна")
        environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
        command = [sys.executable, "-m", "ulelib", "protect", str(mine), *QUICK_OPTIONS]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "Ваня")],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        assert b"\\u0410\\u043d\\u043d\\u0430" in done.stdout

    def test_fails_in_a_line(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        result = run("check", folder, tmp_path / "empty", "--report", tmp_path / "r.html")
        assert result.exit_code == 1 and "no copy" in result.output
        assert "Traceback" not in result.output


@pytest.mark.parametrize("missing", ["click", "jinja2", "torchmetrics"])
def test_without_the_extra_says_how_to_install_it(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from ulelib.__main__ import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True
    )
    assert result.returncode == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert missing in line and "pip install 'ulelib[photos]'" in line


def test_module_is_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ulelib", "--help"], cwd=PROJECT, capture_output=True, text=True
    )
    assert result.returncode == 0 and "protect" in result.stdout and "check" in result.stdout
