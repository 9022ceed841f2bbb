"""`make reproduce MINUTES=`: the most wanted stages that fit, and the next call goes on."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import PROJECT, quick_profile

sys.path.insert(0, str(PROJECT / "tools"))  # the tools' modules import each other
import collect
import run_notebooks as runner
import wanted
from ulelib.jobs import plan, records
from ulelib.jobs.executors import InProcess
from ulelib.profiles import PROFILES
from ulelib.settings import key_of
from ulelib.specs import Noise, Stage

LIST = """
[[smoke]]
defender = "ULEO"
exports = ["exact"]
exploiters = ["gray"]
epochs = 4
seeds = [1, 2]

[[smoke]]
defender = "random"
exports = ["exact", "as_released"]
exploiters = ["standard"]
epochs = 4
seeds = [1]
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The quick profile with a list, and a store and records of its own."""
    monkeypatch.setitem(PROFILES, "smoke", quick_profile())
    monkeypatch.setenv("ULELIB_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("ULELIB_CHECKPOINT_SECONDS", "60")
    monkeypatch.setattr(wanted, "LIST", tmp_path / "wanted.toml")
    wanted.LIST.write_text(LIST)


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted, "executor", lambda *_: contextlib.nullcontext(InProcess()))


def most() -> wanted.Wanted:
    found = wanted.of_list("smoke")
    assert found is not None
    return found


def recorded(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "results" / "smoke" / "wanted.json"
    return dict(json.loads(path.read_text()))


def test_a_list_is_wanted_in_its_order_noise_first() -> None:
    titles = [plan.title(stage) for stage in most().stages]
    loops = [f"noise: Bilevel (identity) for shapes, seed {seed}" for seed in (1, 2)]
    drawn = "noise: Random for shapes, seed 1"
    assert titles == [
        *loops,
        *(f"training: gray, convnet, seed {i}, on exact {loops[i - 1]}" for i in (1, 2)),
        drawn,
        f"training: standard, convnet, seed 1, on exact {drawn}",
        f"training: standard, convnet, seed 1, on as_released {drawn}",
    ]
    assert {cell.setting for cell in most().cells} == {"4 epochs"}
    assert {cell.stage.recipe.epochs for cell in most().cells} == {4}  # type: ignore[union-attr]


def test_the_projects_list_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted, "LIST", PROJECT / "tools" / "wanted.toml")
    monkeypatch.setitem(PROFILES, "paper", quick_profile(name="paper"))
    found = wanted.of_list("paper")
    assert found is not None
    first = found.stages[0]
    assert isinstance(first, Noise) and first == found.lab.noise("ULEO", 1)
    assert {cell.setting for cell in found.cells} == {"16 epochs"}
    assert len(set(found.cells)) == len(found.cells) == 3 + 2 + 4 * 4 + 3 + 4
    assert wanted.of_list("cpu") is None
    monkeypatch.setitem(PROFILES, "quarter", quick_profile(name="quarter"))
    middle = wanted.of_list("quarter")
    assert middle is not None and len(set(middle.cells)) == 3 * (4 + 4)


def test_what_does_not_fit_is_not_begun_and_the_next_call_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_this_process(monkeypatch)
    takes = {Noise: 1.0}  # seconds; a training takes an hour
    with monkeypatch.context() as patch:
        patch.setattr(wanted, "estimate", lambda _: lambda stage: takes.get(type(stage), 3600.0))
        assert wanted.compute(most(), minutes=5)
    first = capsys.readouterr().out.splitlines()
    made = [line for line in first if line.startswith("finished: ")]
    assert len(made) == 3 and all("finished: noise" in line for line in made)
    left = [line for line in first if line.startswith("left: ")]
    assert len(left) == 4 and "gray, convnet, seed 1" in left[0]
    record = recorded(tmp_path)
    assert record["cells"] == [] and len(record["stages"]) == 3

    assert wanted.compute(most(), minutes=5)
    second = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("finished: training") for line in second) == 4
    assert "left: nothing" in second
    record = recorded(tmp_path)
    assert [cell["defender"] for cell in record["cells"]] == ["ULEO", "ULEO", "random", "random"]
    assert record["seeds"] == [1, 2] and len(record["stages"]) == 7
    frame, _ = records.read("wanted", "smoke")
    assert set(frame["setting"]) == {"4 epochs"} and frame["accuracy"].notna().all()

    started = time.monotonic()
    assert wanted.compute(most(), minutes=5)
    third = capsys.readouterr().out.splitlines()
    assert third[:2] == ["finished: nothing", "left: nothing"]
    assert time.monotonic() - started < 20
    assert recorded(tmp_path)["cells"] == record["cells"]


def test_what_is_recorded_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_this_process(monkeypatch)
    assert wanted.compute(most(), minutes=5)
    before = recorded(tmp_path)
    monkeypatch.setenv("ULELIB_STORE", str(tmp_path / "another machine"))
    monkeypatch.setenv("ULELIB_KEEP", "1")
    wanted.LIST.write_text(LIST.replace("seeds = [1]", "seeds = [1, 3]"))
    assert wanted.compute(most(), minutes=5)
    after = recorded(tmp_path)
    assert {cell["key"] for cell in before["cells"]} < {cell["key"] for cell in after["cells"]}
    assert len(after["cells"]) == 6
    there = [path.name for path in (tmp_path / "another machine" / "run").glob("?" * 16)]
    assert len(there) == 2  # what is new


@pytest.mark.slow
def test_a_budget_is_kept_by_the_stopwatch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With processes, which are killed when the time is over."""
    started = time.monotonic()
    assert wanted.compute(most(), minutes=0.005, workers=2)
    assert time.monotonic() - started < 30
    said = capsys.readouterr().out
    done = said.count("finished: ") - said.count("finished: nothing")  # some, where they are fast
    assert done + said.count("left: ") == 7 and said.count("left: ") > 3
    assert (tmp_path / "results").exists() == bool(done)
    assert wanted.compute(most(), minutes=5, workers=2)
    said = capsys.readouterr().out
    assert said.count("finished: ") == 7 - done and "left: nothing" in said
    assert len(recorded(tmp_path)["cells"]) == 4


def test_a_failed_stage_is_said_and_the_others_are_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_this_process(monkeypatch)
    loop = replace(PROFILES["smoke"].loop, stop_error=1e-9, max_rounds=1)
    monkeypatch.setitem(PROFILES, "smoke", quick_profile(loop=loop))
    assert not wanted.compute(most(), minutes=5)
    said = capsys.readouterr()
    assert said.err.count("noise: Bilevel") == 2
    assert said.out.count("finished: ") == 3 and said.out.count("left: ") == 4
    assert [cell["defender"] for cell in recorded(tmp_path)["cells"]] == ["random", "random"]


def test_time_is_estimated_by_epochs_and_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = most()
    noise, training, lab = whole.stages[0], whole.cells[0].stage, whole.lab
    nothing_known = wanted.estimate(whole)
    assert nothing_known(noise) == nothing_known(training) == 0
    lab.table([lab.cell("ULEO", seed=7)])  # 2 epochs of 100 images
    made = lab.records()
    for record in made.values():
        record["result"]["seconds"] = {"Noise": 30.0, "Run": 10.0}[record["spec"]["type"]]
    about = {"page": "01_a", "profile": "smoke", "seeds": [7], "cells": []}
    records.save(about | {"train": ["shapes", 100], "test": ["shapes", 1000]}, made)
    seconds = wanted.estimate(whole)
    assert seconds(noise) == 30 and seconds(training) == pytest.approx(20)
    half = replace(training, train=(replace(training.train[0], take=(0.0, 0.5)),))  # type: ignore[union-attr]
    assert seconds(half) == pytest.approx(10)
    (lab.store.folder / "unfinished").mkdir()
    (lab.store.folder / "unfinished" / f"{key_of(noise)}.0.checkpoint").touch()
    assert seconds(noise) == 0  # it goes on


def test_a_profile_without_a_list_wants_the_headline(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted.LIST.write_text("")
    asked: list[Any] = []
    monkeypatch.setattr(wanted, "compute", lambda *arguments: asked.append(arguments) or True)
    monkeypatch.setattr(collect, "compute", lambda *_: pytest.fail("no page is made"))
    monkeypatch.setattr(sys, "argv", ["run", "--profile", "smoke", "--minutes", "0.5"])
    assert runner.main() == 0
    ((found, minutes, scheduler, workers),) = asked
    assert (minutes, scheduler, workers) == (0.5, None, None)
    stages: list[Stage] = found.stages
    assert [isinstance(one, Noise) for one in stages] == 4 * [True] + 18 * [False]
    assert len(found.cells) == 18


@pytest.mark.parametrize("arguments", [["0"], ["soon"], ["5", "05_grayaug"], ["5", "--words"]])
def test_other_minutes_are_refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run", "--minutes", *arguments])
    with pytest.raises(SystemExit) as ended:
        runner.main()
    assert ended.value.code == 2
