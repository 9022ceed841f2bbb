"""`ulelib arena`: what it prints, measures and writes, and how it fails."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from helpers import PROJECT, quick_profile
from ulelib import data
from ulelib.book import submission
from ulelib.book.arena_command import INTERRUPTED, arena_command
from ulelib.data import ImageSet
from ulelib.defenders import CLEAN, Random
from ulelib.exploiters import EXPLOITERS
from ulelib.jobs import plan
from ulelib.profiles import PROFILES

EPSILON = 8 / 255


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(PROFILES, "smoke", quick_profile())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ULELIB_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path / "results"))


@pytest.fixture
def images() -> ImageSet:
    """The 100 training images of the profile."""
    return data.stratified_subset(data.load("shapes", "train"), 100, seed=0)


def run(file: Path | str, *options: str, exploiters: str = "standard") -> Result:
    arguments = [str(file), "--profile", "smoke", "--exploiters", exploiters, *options]
    return CliRunner().invoke(arena_command, arguments)


def noise_file(images: ImageSet, path: Path) -> Path:
    torch.save(Random(EPSILON, "class").make(images, 0, "float32").delta, path)
    return path


def test_measures_a_row_and_goes_on_where_it_was(images: ImageSet, tmp_path: Path) -> None:
    published = Random(EPSILON).make(images, 0, "float32").apply(images).images
    (tmp_path / "poison").mkdir()
    for number, pixels in enumerate(published.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(pixels).save(tmp_path / "poison" / f"{number}.png")
    result = run("poison", "--name", "mine: 1", exploiters="standard, gray")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("poison: folder of PNG files; 100 rows of 3x32x32, taken for pict")
    assert lines[1].startswith("Order: the order of the images, as comparing")
    assert re.match(
        r"Published \(100 pictures, 8 bits\): L-infinity 8/255, mean L2 1.0\d, PSNR 34.\d dB, "
        r"SSIM 0.\d{3}\.", lines[2],
    )  # fmt: skip
    assert lines[3].startswith("Noise: sample-wise; ")
    assert lines[4].startswith(
        "100 training images of shapes, profile smoke, seed 0: 4 trainings, 0 of them there already"
    )
    table = pd.read_csv(tmp_path / "arena" / "mine__1.csv")
    assert table["exploiter"].tolist() == ["standard", "gray"] and (table["n"] == 1).all()
    assert (tmp_path / "arena" / "mine__1.png").read_bytes().startswith(b"\x89PNG")
    again = run("poison", "--name", "mine: 1", exploiters="standard, gray")
    assert "4 trainings, 4 of them there already.\n" in again.output
    assert again.output.split("already")[1][1:] in result.output


@pytest.mark.parametrize("suffix", ["pt", "npy"])
def test_noise_of_classes(suffix: str, images: ImageSet, tmp_path: Path) -> None:
    path = noise_file(images, tmp_path / "p.pt")
    if suffix == "npy":
        path = tmp_path / "p.npy"
        np.save(path, 255 * torch.load(tmp_path / "p.pt", weights_only=True).numpy())
    result = run(path, "--seeds", "2", "--out", "there")
    assert result.exit_code == 0, result.output
    assert "Noise: class-wise." in result.output and "seeds 0, 1: 4 trainings" in result.output
    assert (tmp_path / "there" / "p.csv").is_file()


def test_pickles_are_refused_and_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.mkdir, (tmp_path / "ran",)

    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Attack()))
    torch.save(Attack(), tmp_path / "a.pt")
    for name in ("a.pkl", "a.pt"):
        result = run(name)
        assert result.exit_code == 1 and f"Error: {name} cannot be taken" in result.output
        assert "save what it holds" in result.output and "Traceback" not in result.output
    assert not (tmp_path / "ran").exists() and not (tmp_path / "arena").exists()


@pytest.mark.parametrize(
    ("options", "exploiters", "message"),
    [
        (["--name", CLEAN], "standard", "the arena has a row of that name"),
        (["--name", "x" * 41], "standard", "1 to 40 printable characters"),
        ([], "standard, sharpen", "exploiters ['sharpen']; choose from"),
        ([], " , ", "--exploiters names none"),
        (["--out", "/dev/null/x"], "standard", "name another folder with --out"),
    ],
)
def test_names_the_wrong_option(
    options: list[str], exploiters: str, message: str, images: ImageSet, tmp_path: Path
) -> None:
    result = run(noise_file(images, tmp_path / "p.pt"), *options, exploiters=exploiters)
    assert result.exit_code != 0 and message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


def test_says_what_is_kept_when_it_is_stopped(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = noise_file(images, tmp_path / "p.pt")

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(submission.plan, "run", interrupted)
        assert INTERRUPTED in run(path).output

    def failed(*_: Any) -> Any:
        raise plan.PlanFailed("1 of 2 stages failed", [ValueError("no memory")])

    monkeypatch.setattr(submission.plan, "run", failed)
    result = run(path)
    assert result.exit_code == 1 and "1 of 2 stages failed: no memory" in result.output


def recorded() -> pd.DataFrame:
    """Rows of an arena's page: two defenders, one with two exports, and another network."""
    net = str(PROFILES["smoke"].loop.net)
    rows = [
        (CLEAN, "-", "standard", net, 80.0),
        ("LSP", "exact", "standard", net, 10.0),
        ("LSP", "truncated", "standard", net, 45.0),
        ("AR", "exact", "standard", "vgg11", 10.0),
        ("LSP", "exact", "mixup", net, 10.0),
    ]
    frame = pd.DataFrame(rows, columns=["defender", "export", "exploiter", "net", "accuracy"])
    return frame.assign(chance=10.0)


def test_stands_beside_the_recorded_rows(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_recorded", lambda profile: recorded())
    path = noise_file(images, tmp_path / "mine.pt")
    assert "the arena has a row" in run(path, "--name", "LSP").output
    result = run(path)
    assert re.search(r"Place \d of 3 by the mean over these exploiters\. Below", result.output)
    lab = submission.open_lab("smoke", 1)
    lines = pd.DataFrame(
        [("mine", "standard", 50.0, 30.0, 0.25, 1)],
        columns=["defender", "exploiter", "clean", "accuracy", "retained", "n"],
    )
    laid_out = submission.beside(lines, lab)
    assert laid_out["standard"].to_dict() == {"LSP": 0, "mine": 0.25, "LSP, truncated": 0.5}
    assert [*laid_out.index] == ["LSP", "mine", "LSP, truncated"]  # the strongest first
    said = "Place 2 of 3 by the mean over these exploiters."
    assert submission.place(laid_out, "mine", 3) == said
    figure = submission.heat_map(laid_out, ["mine"])
    weights = [label.get_fontweight() for label in figure.axes[0].get_yticklabels()]
    assert weights == ["normal", "bold", "normal"]


def test_a_place_is_among_rows_with_the_same_columns() -> None:
    columns = {"standard": [0.1, 0.2, 0.3], "gray": [np.nan, 0.5, 0.9]}
    laid_out = pd.DataFrame(columns, index=["part", "mine", "whole"])
    assert submission.place(laid_out, "mine", 3).startswith("Place 1 of 2")
    assert submission.place(laid_out, "part", 3) == submission.place(laid_out[1:2], "mine", 3) == ""


def test_what_nothing_was_learned_from_has_no_share() -> None:
    frame = pd.DataFrame(
        [(CLEAN, "gray", 10.0), ("mine", "gray", 9.0)],
        columns=["defender", "exploiter", "accuracy"],
    ).assign(chance=10.0)
    lines = submission.table(frame)
    assert np.isnan(lines["retained"][0]) and "Nothing was learned" in submission.text(lines)


def test_the_books_own_rows_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(PROJECT / "results"))
    rows = submission._recorded("cpu")
    assert {"clean", "ULEO", "ULEO-GrayAugs", "AdvPois"} <= set(rows["defender"])
    assert not rows.duplicated(["defender", "export", "exploiter", "net", "source", "seed"]).any()
    assert submission._recorded("smoke").empty


def test_recorded_trainings_foretell_the_time(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = noise_file(images, tmp_path / "p.pt")
    lab = submission.open_lab("smoke", 1)
    lab.rows([lab.cell(CLEAN)])
    lab.save("a_page")
    result = run(path, exploiters="standard, gray")
    assert result.exit_code == 0, result.output
    assert re.search(r"4 trainings, 1 of them there already; .* about \d+ minutes", result.output)


def test_the_default_columns_exist() -> None:
    assert set(submission.COLUMNS) <= set(EXPLOITERS) and len(submission.COLUMNS) == 12


def test_help_and_what_is_to_be_installed() -> None:
    def module(*arguments: str, without: str = "") -> subprocess.CompletedProcess[str]:
        code = f"import sys; sys.modules.update(dict.fromkeys({without.split()!r})); "
        code += f"sys.argv = ['ulelib', *{arguments!r}]; "
        code += "from ulelib.__main__ import main; main()"
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)

    shown = module("arena", "--help", without="matplotlib seaborn scipy").stdout
    for told in ("pickles are refused", "--exploiters", "--seeds", "`data` and perhaps `targets`"):
        assert told in shown
    assert "arena" in module("--help").stdout
    refused = module("arena", "Makefile", without="seaborn scipy")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "`ulelib arena` needs seaborn, scipy: pip install 'ulelib[book]'" in refused.stderr
