"""The tools that run the notebooks and write the demo and the lock."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
import yaml

from helpers import quick_profile, tool
from ulelib import machine, plan, results
from ulelib.lab import Lab
from ulelib.profiles import PROFILES
from ulelib.settings import key_of
from ulelib.stages import Noise, Run, Stage, needs
from ulelib.store import Store

ROOT = Path(__file__).resolve().parent.parent
BAR = "\r 50%|###   | 1/2 [00:00<00:00, 9.00it/s]\x1b[A"


def test_clean_drops_what_belongs_to_one_run() -> None:
    new = nbformat.v4.new_output
    cell = nbformat.v4.new_code_cell(
        "1",
        metadata={"papermill": {"duration": 1}, "tags": ["injected-parameters"]},
        outputs=[
            new("stream", name="stderr", text=BAR),
            new("stream", name="stderr", text=BAR + "\n"),
            new("stream", name="stderr", text="a warning\n"),
            new("stream", name="stdout", text=f"saved {ROOT}/results/x.json\n"),
            new("display_data", data={"text/plain": "1", "image/png": "iVBO"}),
            new("display_data", data={"text/html": '<i id="T_0a9f1_row0">', "text/plain": "<a b>"}),
            new("display_data", data={"text/html": "#T_52e6b th {} #T_0a9f1 td {}"}),
            new("display_data", data={"text/plain": "<Styler at 0x7f00c1>"}),
        ],
    )
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {}, "widgets": {}})
    cleaned = tool("run_notebooks").clean(notebook)
    assert cleaned.metadata == {}
    assert cleaned.cells[0].id == "injected-parameters"
    assert cleaned.cells[0].metadata == {"tags": ["injected-parameters", "hide-input"]}
    warning, saved, shown, *tables, plain = cleaned.cells[0].outputs
    assert warning.text == "a warning\n"
    assert saved.text == "saved ./results/x.json\n"
    assert shown.data == {"text/plain": "1", "image/png": "iVBO"}
    assert [one.data["text/html"] for one in tables] == [
        '<i id="T_00000_row0">',
        "#T_00001 th {} #T_00000 td {}",
    ]
    assert plain.data == {"text/plain": "<Styler>"}


def test_changed_words_and_tags_reach_a_page_whose_code_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = nbformat.v4
    runner = tool("run_notebooks")
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path)
    options = SimpleNamespace(into=tmp_path / "book", profile="cpu", names=["01_a"])
    options.words = True
    monkeypatch.setattr(runner, "_options", lambda names: options)
    told = new.new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
    shown = new.new_code_cell("1")
    words = new.new_markdown_cell("old")
    notebook = new.new_notebook(cells=[words, told, shown])
    page = tmp_path / "book" / "cpu" / "01_a.ipynb"
    page.parent.mkdir(parents=True)
    ran = new.new_code_cell("1", id=shown.id, outputs=[new.new_output("stream", text="1")])
    given = new.new_code_cell("seed = 3", metadata={"tags": ["injected-parameters"]})
    nbformat.write(new.new_notebook(cells=[words, told, given, ran]), page)
    words.source = "new"
    shown.metadata["tags"] = ["full-width"]
    notebook.cells.append(new.new_markdown_cell("more"))
    nbformat.write(notebook, tmp_path / "01_a.ipynb")
    assert runner.main() == 0
    after = nbformat.read(page, as_version=4)
    assert [c.source for c in after.cells] == ["new", "seed = 0", "seed = 3", "1", "more"]
    assert after.cells[3].outputs[0].text == "1"
    assert after.cells[2] == given and after.cells[3].metadata == shown.metadata
    shown.source = "2"
    nbformat.write(notebook, tmp_path / "01_a.ipynb")
    assert runner.main() == 1 and "must be run" in capsys.readouterr().err
    assert nbformat.read(page, as_version=4) == after


def test_runner_reports_a_failing_notebook_and_keeps_the_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = tool("run_notebooks")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for name, source in (("a_fails", "1 / 0"), ("b_runs", "print(seed)")):
        cells = [nbformat.v4.new_code_cell("seed = 0"), nbformat.v4.new_code_cell(source)]
        cells[0].metadata["tags"] = ["parameters"]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "a_fails.ipynb").write_text("the old page")  # no digit: a page of the book's top
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(runner, "FAILED", tmp_path / "failed")
    monkeypatch.setattr(
        sys, "argv", ["run", "--profile", "smoke", "--seed", "3", "--into", str(pages)]
    )
    assert runner.main() == 1
    assert "1 of 2 notebooks failed: a_fails" in capsys.readouterr().out
    assert (pages / "a_fails.ipynb").read_text() == "the old page"
    assert "ZeroDivisionError" in (tmp_path / "failed" / "pages" / "a_fails.ipynb").read_text()
    page = nbformat.read(pages / "b_runs.ipynb", as_version=4)
    assert page.cells[-1].outputs[0].text == "3\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["06_nothing"], "choose from"),
        (["--profile", "gpu"], "invalid choice"),
        (["--seed", "-1"], "-1"),
        (["--seed", "0,x"], "'x' is not a whole number"),
        (["--seed", "0,3", "--n-seeds", "2"], "with a list of seeds leave it away"),
        (["--workers", "0"], "'0' is not a whole number, 1 or more"),
    ],
)
def test_runner_refuses_bad_input(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["run_notebooks.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        tool("run_notebooks").main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_an_experiment_goes_to_its_profiles_folder(tmp_path: Path) -> None:
    runner = tool("run_notebooks")
    options = SimpleNamespace(into=tmp_path, profile="paper")
    assert runner.folder_of("05_grayaug", options) == tmp_path / "paper"
    assert runner.folder_of("intro", options) == tmp_path


def test_seeds_of_a_page() -> None:
    """The demo is one seed of the headline, whatever the book's page has."""
    runner = tool("run_notebooks")

    def seeds(name: str, profile: str) -> int:
        options = SimpleNamespace(profile=profile, seed=0, n_seeds=None)
        return int(runner._parameters(name, options)["n_seeds"])

    assert seeds("05_grayaug", "smoke") == 1
    assert seeds("05_grayaug", "cpu") == seeds("05_grayaug", "paper") == 5
    assert seeds("02_uleo", "cpu") == 3
    listed = SimpleNamespace(profile="cpu", seed=[0, 3, 4], n_seeds=None)
    assert runner._parameters("05_grayaug", listed) == {"profile": "cpu", "seed": [0, 3, 4]}


def test_pages_that_show_the_records_are_made_after_those_that_write_them() -> None:
    runner = tool("run_notebooks")
    names = ["02_uleo", "05_grayaug", "05b_what_decides", "05d_full_size"]
    names += ["13_scoreboard", "intro", "report"]

    def chosen(profile: str, *asked: str) -> list[str]:
        into = runner.ROOT / "_build" / "smoke" if profile == "smoke" else runner.BOOK
        options = SimpleNamespace(profile=profile, names=list(asked), into=into)
        return list(runner.chosen(names, options))

    in_cpu = [name for name in names[:-2] if name != "05d_full_size"]
    assert chosen("cpu") == [*in_cpu, "report", "intro"]
    assert chosen("cpu", "05d_full_size")[0] == "05d_full_size"
    assert chosen("paper") == names[:-2]
    assert chosen("cpu", "05_grayaug") == ["05_grayaug", "13_scoreboard", "report", "intro"]
    assert chosen("paper", "02_uleo") == ["02_uleo", "13_scoreboard"]
    recorded = (runner.ROOT / "results" / "cpu" / "05_grayaug.json").exists()
    top = ["report", "intro"] if recorded else []
    assert chosen("cpu", "02_uleo") == ["02_uleo", "13_scoreboard", *top]
    drawn = ["02_uleo", "05_grayaug", "05d_full_size", "13_scoreboard", "intro", "report"]
    assert chosen("smoke") == drawn


def test_a_new_page_is_listed_once_under_its_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = tool("run_notebooks")
    monkeypatch.setattr(runner, "TOC", tmp_path / "_toc.yml")
    shutil.copy(ROOT / "_toc.yml", tmp_path)
    before = runner.TOC.read_text()
    runner.list_page("cpu/05_grayaug")
    assert runner.TOC.read_text() == before
    for page in ("paper/05_grayaug", "paper/02_uleo", "cpu/99_new", "paper/02_uleo"):
        runner.list_page(page)
    assert runner.TOC.read_text().split("\n")[0] == before.split("\n")[0]
    parts = yaml.safe_load(runner.TOC.read_text())["parts"]
    files = {part["caption"]: [page["file"] for page in part["chapters"]] for part in parts}
    assert [*files] == ["The experiments", "The experiments, profile paper", "For reference"]
    paper = files["The experiments, profile paper"]
    assert set(paper) >= {"paper/02_uleo", "paper/05_grayaug"} and paper == sorted(paper)
    assert files["The experiments"][-1] == "cpu/99_new"


def test_a_page_without_its_data_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PROFILES, "smoke", quick_profile())
    monkeypatch.setenv("ULELIB_DATA", str(tmp_path))
    monkeypatch.setenv("ULELIB_STORE", str(tmp_path / "store"))
    runner = tool("run_notebooks")
    computed: list[object] = []
    monkeypatch.setattr(runner.plan, "run", lambda stages, *_: computed.extend(stages))
    names = ("08_imagenet", "02_uleo")
    jobs = {name: {"profile": "smoke", "seed": 0, "n_seeds": 1} for name in names}
    runner.compute(jobs, SimpleNamespace(scheduler=None, workers=1))
    assert "08_imagenet: data set 'imagenet10'" in capsys.readouterr().err
    assert len(computed) == 1  # ULEO's noise


def test_only_the_pages_whose_stages_failed_are_not_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PROFILES, "smoke", quick_profile())
    monkeypatch.setenv("ULELIB_STORE", str(tmp_path / "store"))
    runner = tool("run_notebooks")

    def fails(stages: list[Stage], store: Store, _: object) -> None:
        noise = [one for one in stages if isinstance(one, Noise)]
        computed = [one for one in stages if key_of(noise[0]) not in map(key_of, needs(one))]
        for stage in [one for one in computed if one not in noise]:
            store.put(stage, lambda folder: (folder / "x").touch(), machine.made_by())
        raise plan.PlanFailed("1 failed", [ValueError("it does not converge")])

    monkeypatch.setattr(runner.plan, "run", fails)
    parameters = {"profile": "smoke", "seed": 0, "n_seeds": 1}
    monkeypatch.setattr(runner, "stated", lambda path, *_: stated[path.stem])
    lab = Lab("smoke")
    stated = {"01_clean": [lab.cell("clean").stage], "02_uleo": [lab.cell("ULEO").stage]}
    options = SimpleNamespace(scheduler=None, workers=1)
    assert runner.compute(dict.fromkeys(stated, parameters), options) == ["02_uleo"]
    assert "it does not converge" in capsys.readouterr().err


def test_pages_that_share_a_stage_with_other_numbers_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path))
    runner = tool("run_notebooks")

    def save(name: str, accuracy: float, *keys: str) -> None:
        page = {"page": name, "profile": "smoke", "cells": []}
        results.save(page, {key: {"result": {"accuracy": accuracy}} for key in keys})

    for name, keys in (("01_a", ("0a", "0b")), ("02_b", ("0b",)), ("03_c", ("0c",))):
        save(name, 50.0, *keys)
    before = results.known("smoke")
    save("01_a", 50.0, "0a", "0b")
    assert runner.others_that_changed("smoke", before, ["01_a"]) == []
    save("01_a", 60.0, "0a", "0b")
    assert runner.others_that_changed("smoke", before, ["01_a"]) == ["02_b"]


def test_runner_collects_what_the_notebooks_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage once, although several notebooks need it."""
    monkeypatch.setitem(PROFILES, "smoke", quick_profile())
    runner = tool("run_notebooks")
    parameters = {"profile": "smoke", "seed": 0, "n_seeds": 2}
    names = ("00_quickstart", "02_uleo", "05_grayaug", "05b_what_decides", "07_mixed_data")
    stated = {name: runner.stated(runner.NOTEBOOKS / f"{name}.ipynb", parameters) for name in names}
    runs = {name: sum(isinstance(one, Run) for one in found) for name, found in stated.items()}
    assert runs["05_grayaug"] == 2 * 18 and runs["02_uleo"] == 0
    assert runs["05b_what_decides"] == 2 * (4 + 2 * 2 * 2 + 6 * 2) + 4 * 2  # once each
    assert runs["07_mixed_data"] == 2 * 2 * (1 + 2 + 4 * 3)
    every = plan.stages_of(stage for stages in stated.values() for stage in stages)
    noises = {key_of(stage) for stage in every if isinstance(stage, Noise)}
    # Four defenders, and five variants of two of them, in two seeds; three more in one.
    assert len(noises) == 2 * (4 + 5) + 3
    assert len(every) == len({key_of(stage) for stage in every})
    assert runner.stated(runner.NOTEBOOKS / "intro.ipynb", {"profile": "smoke"}) == []


def test_demo_prints_what_was_measured() -> None:
    names = ["defender", "export", "exploiter", "seed", "accuracy"]
    rows = [
        ("clean", "-", "standard", 0, 82.04),
        ("clean", "-", "gray", 0, 70.0),
        ("ULEO", "as_released", "standard", 0, 10.0),
        ("ULEO", "as_released", "gray", 0, 57.7),
    ]
    told = tool("demo").table(pd.DataFrame(rows, columns=names)).splitlines()
    assert told[-2].split() == ["clean", "-", "82.0", "70.0"]
    assert told[-1].split() == ["ULEO", "as", "released", "10.0", "57.7"]
    rows += [("ULEO", "exact", "standard", 0, 12.3), ("ULEO-GrayAugs", "exact", "gray", 0, 9.6)]
    sentence = tool("demo").told(pd.DataFrame(rows, columns=names))
    assert "Of 82 %, ULEO (exact) leaves the standard exploiter 12 %" in sentence
    assert "of 70 %, ULEO-GrayAugs leaves the gray one 10 %" in sentence


def test_lock_marks_what_exists_on_linux_only() -> None:
    text = tool("lock").render({"triton": "3.8.0", "numpy": "2.4.6"})
    linux = 'platform_system == "Linux" and platform_machine == "x86_64"'
    assert text.splitlines()[1:] == ["numpy==2.4.6", f"triton==3.8.0; {linux}"]
