"""The tools that run the notebooks and write the demo and the lock."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml

from helpers import PROJECT, quick_profile, tool

sys.path.insert(0, str(PROJECT / "tools"))  # the tools' modules import each other
import collect
import pages
import run_notebooks as runner
import sources
from ulelib import machine
from ulelib.jobs import plan, records
from ulelib.jobs.executors import InProcess
from ulelib.jobs.lab import Lab
from ulelib.jobs.store import Store
from ulelib.profiles import PROFILES
from ulelib.settings import key_of
from ulelib.specs import Noise, Run, Stage, needs, stages_of

ROOT = PROJECT
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
    cleaned = pages.clean(notebook)
    assert cleaned.metadata == {}
    assert cleaned.cells[0].id == "injected-parameters"
    assert cleaned.cells[0].metadata == {"tags": ["injected-parameters", "remove-cell"]}
    warning, saved, shown, *tables, plain = cleaned.cells[0].outputs
    assert warning.text == "a warning\n"
    assert saved.text == "saved ./results/x.json\n"
    assert shown.data == {"text/plain": "1", "image/png": "iVBO"}
    assert [one.data["text/html"] for one in tables] == [
        '<i id="T_00000_row0">',
        "#T_00001 th {} #T_00000 td {}",
    ]
    assert plain.data == {"text/plain": "<Styler>"}


def test_runner_reports_a_failing_notebook_and_keeps_the_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for name, source in (("a_fails", "1 / 0"), ("b_runs", "print(seed)")):
        cells = [nbformat.v4.new_code_cell("seed = 0"), nbformat.v4.new_code_cell(source)]
        cells[0].metadata["tags"] = ["parameters"]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    into = tmp_path / "pages"
    into.mkdir()
    (into / "a_fails.ipynb").write_text("the old page")  # no digit: a page of the book's top
    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    monkeypatch.setattr(pages, "FAILED", tmp_path / "failed")
    monkeypatch.setattr(
        sys, "argv", ["run", "--profile", "smoke", "--seed", "3", "--into", str(into)]
    )
    assert runner.main() == 1
    assert "1 of 2 notebooks failed: a_fails" in capsys.readouterr().out
    assert (into / "a_fails.ipynb").read_text() == "the old page"
    assert "ZeroDivisionError" in (tmp_path / "failed" / "pages" / "a_fails.ipynb").read_text()
    page = nbformat.read(into / "b_runs.ipynb", as_version=4)
    assert page.cells[-1].outputs[0].text == "3\n"


def test_an_interrupted_notebook_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(source: str, target: str, *_: Any, **__: Any) -> None:
        Path(target).write_text("")  # as papermill begins it
        raise KeyboardInterrupt

    monkeypatch.setattr(pages.papermill, "execute_notebook", interrupted)
    monkeypatch.setattr(pages, "FAILED", tmp_path / "failed")
    with pytest.raises(KeyboardInterrupt):
        pages.run(tmp_path / "a.ipynb", tmp_path / "pages", {})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("place", "remedy"),
    [
        ("ULELIB_STORE", "set ULELIB_STORE"),
        ("ULELIB_RESULTS", "set ULELIB_RESULTS"),
        ("pages", "--into"),
        ("failed", "copy the project"),
    ],
)
def test_runner_computes_nothing_that_it_cannot_write(
    place: str,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / place).write_text("no folder")
    for variable in ("ULELIB_STORE", "ULELIB_RESULTS"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setattr(pages, "FAILED", tmp_path / "failed")
    monkeypatch.setattr(collect, "compute", None)  # not called
    into = str(tmp_path / "pages")
    monkeypatch.setattr(sys, "argv", ["run", "--profile", "smoke", "--into", into])
    assert runner.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("nothing can be written in") and remedy in error


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
        runner.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_an_experiment_goes_to_its_profiles_folder(tmp_path: Path) -> None:
    assert pages.folder_of("05_grayaug", tmp_path, "paper") == tmp_path / "paper"
    assert pages.folder_of("intro", tmp_path, "paper") == tmp_path


def test_seeds_of_a_page() -> None:
    """The demo is one seed of the headline, whatever the book's page has."""

    def seeds(name: str, profile: str) -> int:
        return int(sources.parameters(name, profile, seed=0, n_seeds=None)["n_seeds"])

    assert seeds("05_grayaug", "smoke") == 1
    assert seeds("05_grayaug", "cpu") == seeds("05_grayaug", "paper") == 5
    assert seeds("02_uleo", "cpu") == 3
    listed = sources.parameters("05_grayaug", "cpu", [0, 3, 4], None)
    assert listed == {"profile": "cpu", "seed": [0, 3, 4]}


def test_a_page_may_have_seeds_of_its_own() -> None:
    assert sources.making("15_arena").first_seed == 10
    second = sources.parameters("15_arena", "cpu", 1, 2)
    assert second == {"profile": "cpu", "seed": 11, "n_seeds": 2}
    assert sources.parameters("15_arena", "cpu", [0, 2], None)["seed"] == [10, 12]


@pytest.mark.parametrize("path", sorted(sources.FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_metadata_says_what_a_notebook_does(path: Path) -> None:
    how, text = sources.making(path.stem), path.read_text(encoding="utf-8")
    assert (how.needs == "photographs") == ("page.needs_photographs(" in text)
    reads = any(call in text for call in ("records.read(", "scoreboard.board(", "page.example("))
    assert how.reads_records == reads
    assert set(how.profiles) <= set(PROFILES)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"seeds": 0}, "seeds is 0"),
        ({"needs": "luck"}, "needs is 'luck'"),
        ({"seed": 3}, "seed"),
    ],
)
def test_other_metadata_is_refused(
    metadata: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    notebook = nbformat.v4.new_notebook(metadata={"ulelib": metadata})
    nbformat.write(notebook, tmp_path / "01_a.ipynb")
    with pytest.raises(ValueError, match=f"01_a, metadata: .*{message}"):
        sources.making("01_a")


def test_pages_that_show_the_records_are_made_after_those_that_write_them() -> None:
    names = ["02_uleo", "05_grayaug", "05b_what_decides", "05d_full_size"]
    names += ["13_scoreboard", "intro", "report"]

    def chosen(profile: str, *asked: str) -> list[str]:
        into = ROOT / "_build" / "smoke" if profile == "smoke" else pages.BOOK
        options = SimpleNamespace(profile=profile, names=list(asked), into=into)
        return list(runner.chosen(names, options))

    assert chosen("cpu") == [name for name in names if name != "05d_full_size"]
    assert chosen("cpu", "05d_full_size")[0] == "05d_full_size"
    assert chosen("paper") == names[:-2]
    assert chosen("cpu", "05_grayaug") == ["05_grayaug", "13_scoreboard", "intro", "report"]
    assert chosen("paper", "02_uleo") == ["02_uleo", "13_scoreboard"]
    recorded = (ROOT / "results" / "cpu" / "05_grayaug.json").exists()
    top = ["intro", "report"] if recorded else []
    assert chosen("cpu", "02_uleo") == ["02_uleo", "13_scoreboard", *top]
    drawn = ["02_uleo", "05_grayaug", "05d_full_size", "13_scoreboard", "intro", "report"]
    assert chosen("smoke") == drawn


def test_a_new_page_is_listed_once_beside_that_of_another_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "TOC", tmp_path / "_toc.yml")
    shutil.copy(ROOT / "_toc.yml", tmp_path)
    before = pages.TOC.read_text()
    pages.list_page("cpu/05_grayaug")
    assert pages.TOC.read_text() == before
    for page in ("paper/05_grayaug", "paper/02_uleo", "cpu/99_new", "paper/02_uleo", "cpu/98_new"):
        pages.list_page(page)
    assert pages.TOC.read_text().split("\n")[0] == before.split("\n")[0]
    parts = yaml.safe_load(pages.TOC.read_text())["parts"]
    files = {part["caption"]: [page["file"] for page in part["chapters"]] for part in parts}
    assert [*files][-2:] == [pages.NEW, "For reference"]
    assert files[pages.NEW] == ["cpu/99_new", "cpu/98_new"]
    (beside,) = [
        part["chapters"] for part in parts if {"file": "cpu/05_grayaug"} in part["chapters"]
    ]
    title = "Does ULEO-GrayAugs withstand a gray filter? (profile paper)"
    behind = beside[beside.index({"file": "cpu/05_grayaug"}) + 1]
    assert behind == {"file": "paper/05_grayaug", "title": title}
    assert sum(map(len, files.values())) == before.count("file:") + 4


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The quick profile, in this process, with a store and records of its own."""
    monkeypatch.setitem(PROFILES, "smoke", quick_profile())
    monkeypatch.setenv("ULELIB_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(collect, "executor", lambda *_: contextlib.nullcontext(InProcess()))


SMOKE = {"profile": "smoke", "seed": 0, "n_seeds": 1}


def test_a_page_without_its_data_does_not_stop_the_others(
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ULELIB_DATA", str(tmp_path))
    assert collect.compute(dict.fromkeys(("08_imagenet", "02_uleo"), SMOKE)) == []
    said = capsys.readouterr()
    assert "08_imagenet: data set 'imagenet10'" in said.err
    assert "1 stage to compute, neither in the store nor recorded" in said.out
    assert Store(tmp_path / "store").find(Lab("smoke").noise("ULEO"))


def stating(monkeypatch: pytest.MonkeyPatch, lab: Lab, **stated: Any) -> dict[str, Any]:
    """Let notebooks state these cells and this noise; returns their parameters, by name."""

    def needs_of(name: str, _: object) -> sources.Needs:
        shown = [one for one in stated[name] if isinstance(one, Noise)]
        return sources.Needs(lab, [one for one in stated[name] if one not in shown], shown)

    monkeypatch.setattr(sources, "stated", needs_of)
    return dict.fromkeys(stated, SMOKE)


def test_only_the_pages_whose_stages_failed_are_not_made(
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(stages: list[Stage], store: Store, _: object) -> None:
        noise = [one for one in stages if isinstance(one, Noise)]
        computed = [one for one in stages if key_of(noise[0]) not in map(key_of, needs(one))]
        for stage in [one for one in computed if one not in noise]:
            store.put(stage, lambda folder: (folder / "x").touch(), machine.made_by())
        raise plan.PlanFailed("1 failed", [ValueError("it does not converge")])

    monkeypatch.setattr(plan, "run", fails)
    lab = Lab("smoke")
    jobs = stating(monkeypatch, lab, clean=[lab.cell("clean")], uleo=[lab.cell("ULEO")])
    assert collect.compute(jobs) == ["uleo"]
    assert "it does not converge" in capsys.readouterr().err


def test_noise_that_is_noted_is_made_once_and_then_its_record_will_do(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab("smoke", store=tmp_path / "one")
    noise = lab.noise("ULEO")
    assert sources.Needs(lab, [], [], [noise]).missing() == [noise]
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path / "results"))
    lab.noted(noise)
    lab.save("noted")
    later = Lab("smoke", store=tmp_path / "two", keep=True)
    assert sources.Needs(later, [], [], [noise]).missing() == []
    assert sources.Needs(later, [], [noise]).missing() == [noise]  # no record holds the noise


def test_what_was_measured_with_other_noise_is_computed_again(
    quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record is kept until the noise that it was measured with is made, and is other noise."""
    lab = Lab("smoke", store=tmp_path / "another")
    cells = [lab.cell("ULEO"), lab.cell("clean")]
    lab.table(cells)
    lab.save("01_a")
    noise = lab.noise("ULEO")
    digest = lab.records()[key_of(noise)]["result"]["sha256"]
    for path in (tmp_path / "results" / "smoke" / "stages").glob("*.json"):
        path.write_text(path.read_text().replace(digest, "0" * 64))
    kept = Lab("smoke", keep=True)
    trained = [kept.store.place(cell.stage) for cell in cells]
    assert collect.compute(stating(monkeypatch, kept, trains=cells)) == []
    assert not any(place.exists() for place in trained)
    jobs = stating(monkeypatch, kept, trains=cells, shows=[noise])
    assert collect.compute(jobs) == []
    assert [place.exists() for place in trained] == [True, False]
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first == "1 stage to compute, neither in the store nor recorded"
    assert second == "1 stage to compute, recorded with other noise than was made now"


def test_pages_that_share_a_stage_with_other_numbers_are_named(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab("smoke")
    lab.table([lab.cell("clean"), lab.cell("clean", "gray")])
    stages = lab.records()
    about = {"profile": "smoke", "seeds": [0], "train": ["shapes", 100], "test": ["shapes", 1000]}

    def save(name: str, *keys: str, **changes: float) -> None:
        page = {"page": name, **about, "cells": []}
        chosen = {key: stages[key] for key in keys}
        changed = {key: one | {"result": one["result"] | changes} for key, one in chosen.items()}
        records.save(page, changed)

    first, second = stages
    save("01_a", first, second)
    save("02_b", second)
    save("03_c", first)
    before = records.known("smoke")
    save("01_a", second)
    assert collect.others_that_changed("smoke", before, ["01_a"]) == []
    save("01_a", second, accuracy=60.0)
    assert collect.others_that_changed("smoke", before, ["01_a"]) == ["02_b"]


def test_runner_collects_what_the_notebooks_state(quick: None) -> None:
    """Each stage once, although several notebooks need it."""
    parameters = SMOKE | {"n_seeds": 2}
    names = ("00_quickstart", "02_uleo", "05_grayaug", "05b_what_decides", "07_mixed_data")
    stated = {name: sources.stated(name, parameters) for name in names}
    stages = {name: needs.stages for name, needs in stated.items() if needs}
    runs = {name: sum(isinstance(one, Run) for one in found) for name, found in stages.items()}
    assert runs["05_grayaug"] == 2 * 18 and runs["02_uleo"] == 0
    assert runs["05b_what_decides"] == 2 * (4 + 2 * 2 * 2 + 6 * 2) + 4 * 2  # once each
    assert runs["07_mixed_data"] == 2 * 2 * (1 + 2 + 4 * 3 + 4)
    every = stages_of(stage for found in stages.values() for stage in found)
    noises = {key_of(stage) for stage in every if isinstance(stage, Noise)}
    # Four defenders, and five variants of two of them, in two seeds; three more in one.
    assert len(noises) == 2 * (4 + 5) + 3
    assert len(every) == len({key_of(stage) for stage in every})
    assert sources.stated("intro", {"profile": "smoke"}) is None


def test_demo_prints_what_was_measured() -> None:
    names = ["defender", "export", "exploiter", "seed", "accuracy"]
    rows = [
        ("clean", "-", "standard", 0, 82.04),
        ("clean", "-", "gray", 0, 70.0),
        ("ULEO", "as_released", "standard", 0, 10.0),
        ("ULEO", "as_released", "gray", 0, 57.7),
    ]
    lines = tool("demo").table(pd.DataFrame(rows, columns=names)).splitlines()
    assert lines[-2].split() == ["clean", "-", "82.0", "70.0"]
    assert lines[-1].split() == ["ULEO", "as", "released", "10.0", "57.7"]
    rows += [("ULEO", "exact", "standard", 0, 12.3), ("ULEO-GrayAugs", "exact", "gray", 0, 9.6)]
    sentence = tool("demo").sentence(pd.DataFrame(rows, columns=names))
    assert "Of 82 %, ULEO (exact) leaves the standard exploiter 12 %" in sentence
    assert "of 70 %, ULEO-GrayAugs leaves the gray one 10 %" in sentence


def test_lock_marks_what_exists_on_linux_only() -> None:
    text = tool("lock").render({"triton": "3.8.0", "numpy": "2.4.6"})
    linux = 'platform_system == "Linux" and platform_machine == "x86_64"'
    assert text.splitlines()[1:] == ["numpy==2.4.6", f"triton==3.8.0; {linux}"]
