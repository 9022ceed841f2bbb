"""The arena: its places, and what its tables say of runs whose numbers are known."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from helpers import PROJECT, quick_profile

sys.path.insert(0, str(PROJECT / "tools"))  # the tools' modules import each other
import wanted
from ulelib.book import arena, arena_figures, benchmarks
from ulelib.defenders import CLEAN, DEFENDERS
from ulelib.jobs import plan, records
from ulelib.jobs.lab import Lab
from ulelib.profiles import PROFILES
from ulelib.settings import key_of
from ulelib.specs import Refitted, Seen, seen


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lab:
    monkeypatch.setitem(PROFILES, "smoke", quick_profile())
    monkeypatch.setenv("ULELIB_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path / "results"))
    return Lab("smoke", arena.seeds(0), 2)


def runs_of(*cells: tuple[str, str, list[float]]) -> pd.DataFrame:
    """Runs of rows and columns, with what they retain; seeds from 0."""
    lines = [
        {"row": row, "column": column, "seed": seed, "accuracy": 10 + 80 * left, "chance": 10.0}
        | {"retained": left, "curve": (12.0, 10 + 80 * left)}
        for row, column, values in cells
        for seed, left in enumerate(values)
    ]
    return pd.DataFrame(lines)


def test_every_row_is_a_defender_once_and_every_column_has_clean_trainings() -> None:
    rows = [row for group in arena.ROWS.values() for row in group]
    assert len(rows) == len(set(rows)) and set(rows) <= set(DEFENDERS)
    assert set(arena.PRINTED_ROWS) <= set(rows) and {*arena.FEW, *arena.BEGIN} <= set(rows)
    assert all(len(text) > 20 for text in arena.methods(rows).values())
    printed = set(benchmarks.load()["countermeasure"])
    assert set(arena.PRINTED_COLUMNS) <= set(arena.COLUMNS)
    assert set(arena.PRINTED_COLUMNS.values()) <= printed
    assert set(arena.PRINTED_ROWS.values()) <= set(benchmarks.load()["attack"])


def test_the_seeds_of_the_arena_are_its_own() -> None:
    assert arena.seeds(1) == arena.SEED + 1 and arena.seeds([0, 2]) == [arena.SEED, arena.SEED + 2]


def test_the_whole_plan_has_no_two_equal_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the small profile, whose images need not be here: only their settings are asked for."""
    monkeypatch.setitem(PROFILES, "cpu", replace(PROFILES["cpu"], data="shapes", n_train=200))
    other = Lab("smoke", arena.SEED).data
    monkeypatch.setattr(arena, "data_set", lambda name: replace(other, n=100))
    places = arena.plan(Lab("cpu", arena.seeds(0), 2))
    assert {one.cell.seed for one in places} == {10, 11}
    assert {one.column for one in places} == {*arena.COLUMNS, "first epoch"}
    assert len({key_of(one.cell.stage) for one in places}) == len(places)
    first = places[: len(places) // 4]  # the columns that carry a ranking come before the others
    assert {one.column for one in first} <= {*arena.FIRST, "first epoch"}
    for row in (CLEAN, *arena.rows_of(Lab("cpu"))):
        columns = [one.column for one in places if one.row == row and one.cell.seed == 10]
        assert sorted(columns) == sorted([*arena.COLUMNS, "first epoch"])
    renewed = [one for one in places if one.column == "last layer anew"]
    assert all(isinstance(one.cell.stage, Refitted) for one in renewed)


def test_the_arena_is_computed_and_read(lab: Lab) -> None:
    places = arena.plan(lab)
    assert arena.measured(lab, places) == []
    late = ("ULEO", "gray")  # a row that lacks a column
    plan.run([one.cell.stage for one in places if (one.row, one.column) != late], lab.store)
    known = arena.measured(lab, places)
    assert {one.row for one in known} == {CLEAN, "LSP", "random class-wise"}
    plan.run([one.cell.stage for one in places if one.cell.seed == 10], lab.store)
    known = arena.measured(lab, places)
    assert len(known) == len(places) - 1  # gray with the second seed
    runs = arena.table(lab, known)
    assert set(runs["row"]) == {CLEAN, *arena.FEW}
    assert set(runs["column"]) == {"none", "gray", "JPEG 10"}
    runs = runs[runs["column"] == "none"]
    one = runs[(runs["row"] == "LSP") & (runs["seed"] == 11)].iloc[0]
    clean = runs[(runs["row"] == CLEAN) & (runs["seed"] == 11)]["accuracy"].iloc[0]
    share = (one["accuracy"] - 10) / max(clean - 10, arena.LEAST)
    assert one["retained"] == pytest.approx(share)
    found = arena.costs(lab, known).set_index("row")
    assert set(found.index) == set(arena.FEW)
    assert found.loc["random class-wise", "L-infinity"] == 8 and found["L2"].gt(0).all()
    assert found["needs"].to_dict()["ULEO"] == "Algorithm 1"
    stopped = arena.early(lab, known, runs)
    assert len(stopped) == 8 and stopped["best"].ge(stopped["last"]).all()
    assert stopped["at"].isin([0.1 * point for point in range(1, 11)] + [1, 2]).any()


def test_a_row_without_its_clean_training_is_not_shown(lab: Lab) -> None:
    places = arena.plan(lab)
    some = [one for one in places if one.cell.seed == 10]
    plan.run([one.cell.stage for one in some if one.row != CLEAN], lab.store)
    assert arena.measured(lab, places) == []


def test_make_arena_records_what_it_computed(lab: Lab) -> None:
    found = wanted.of_arena("smoke", 0, 1)
    assert {type(stage) for stage in found.stages} >= {Seen}
    made = [stage for stage in found.stages if isinstance(stage, Seen)]
    assert [stage.part.noise.seed for stage in made if stage.part.noise] == [10] * len(arena.FEW)
    short = only(found, arena.FEW[0])
    assert wanted.compute(short, minutes=None, workers=1)
    _, record = records.read(records.WANTED, "smoke")
    kinds = {stage["spec"]["type"] for stage in record["stages"].values()}
    assert kinds == {"Run", "Noise", "Seen"} and record["seeds"] == [10]
    again = arena.measured(Lab("smoke", 10, keep=True), arena.plan(Lab("smoke", 10)))
    assert {one.row for one in again} == {CLEAN, arena.FEW[0]}


def only(found: wanted.Wanted, row: str) -> wanted.Wanted:
    """The trainings of one row and of clean images."""
    cells = [one for one in found.cells if one.defender in (CLEAN, row)]
    looks = [seen(found.lab.noise(row, one.seed)) for one in cells if one.defender == row]
    return wanted.Wanted(found.lab, [*looks, *(cell.stage for cell in cells)], cells)


def test_intervals_pool_the_deviation_of_a_column_and_hold_together() -> None:
    spread = [0.5, 0.6, 0.7]
    runs = runs_of(
        (CLEAN, "none", [1.0] * 3),
        ("a", "none", spread),
        ("b", "none", [0.1, 0.1, 0.1]),
        ("a", "gray", [0.2]),
        (CLEAN, "gray", [1.0]),
    )
    cells = arena.retained(runs).set_index(["row", "column"])
    pooled = math.sqrt((0.1**2 * 2 + 0) / 4)
    half = stats.t.ppf(1 - 0.05 / 2 / 2, 4) * pooled / 3**0.5
    for row, mean in (("a", 0.6), ("b", 0.1)):
        one = cells.loc[row, "none"]
        assert (one["retained"], one["n"]) == (pytest.approx(mean), 3)
        assert one["high"] - mean == pytest.approx(half) == mean - one["low"]
    assert math.isnan(cells.loc[("a", "gray"), "low"]) and cells.loc[("a", "gray"), "n"] == 1
    assert cells["clean"].tolist() == [90] * 3


def test_the_ranking_goes_by_the_worst_case() -> None:
    runs = runs_of(
        *((CLEAN, column, [1.0]) for column in ("none", "gray", "mix")),
        *(("even", column, [0.5]) for column in ("none", "gray", "mix")),
        ("deep", "none", [0.0]),
        ("deep", "gray", [0.9]),
        ("deep", "mix", [0.1]),
        ("part", "none", [0.0]),
    )
    cells = arena.retained(runs)
    found = arena.ranking(cells)
    assert found["row"].tolist() == ["even", "deep"]  # "part" lacks two columns
    assert found["worst"].tolist() == pytest.approx([0.5, 0.9]) and found["by"][1] == "gray"
    assert found["mean"].tolist() == pytest.approx([0.5, 1 / 3]) and found["none"][1] == 0
    laid_out = arena.heat(cells)
    assert laid_out.columns.tolist() == ["none", "mix", "gray"]
    assert laid_out.index.tolist() == ["part", "even", "deep"]
    assert math.isnan(laid_out.loc["part", "gray"])


def test_cells_that_a_benchmark_prints_are_found_and_their_order_compared() -> None:
    values = {"ULEO": 0.1, "AdvPois": 0.2, "LSP": 0.3, "AR": 0.4, "random": 0.9}
    none = [(row, "none", [left]) for row, left in values.items()]
    runs = runs_of((CLEAN, "none", [1.0]), (CLEAN, "blur", [1.0]), *none, ("LSP", "blur", [0.1]))
    pairs = arena.beside_print(arena.retained(runs), "APBench").set_index("row")
    assert set(pairs.index) == {"ULEO", "AdvPois", "LSP", "AR"} and set(pairs["column"]) == {"none"}
    printed = benchmarks.table("APBench")["none"]
    assert pairs.loc["ULEO", "printed"] == printed["EM"]
    assert pairs.loc["AdvPois", "accuracy"] == pytest.approx(26)
    found = arena.agreement(pairs.reset_index())
    expected = stats.spearmanr(pairs["accuracy"], pairs["printed"]).statistic
    assert found["attacks"].tolist() == [4] and found["rank"][0] == pytest.approx(expected)
    assert 0 < found["p"][0] <= 1
    assert arena.agreement(pairs.reset_index()[:3]).empty


def test_an_early_best_point_is_found_within_the_first_epoch(
    monkeypatch: pytest.MonkeyPatch, lab: Lab
) -> None:
    places = [one for one in arena.plan(lab) if one.row == "LSP" and one.cell.seed == 10]
    inside: dict[str, Any] = {"curve": [tuple(10.0 + 5 * point for point in range(10))]}
    monkeypatch.setattr(lab, "rows", lambda cells: [*cells] and pd.DataFrame(inside))
    run = {"row": "LSP", "column": "none", "seed": 10, "curve": (40.0, 30.0)}
    found = arena.early(lab, places, pd.DataFrame([run]))
    assert found.loc[0, ["best", "at", "last"]].tolist() == [55, 1, 30]
    assert found.loc[0, "rises"]


def test_figures_have_the_one_that_withstands_most_on_top() -> None:
    values = {"weak": [0.1, 0.9], "strong": [0.2, 0.3]}
    names = ("none", "gray")
    given = [
        (row, name, [one])
        for row, both in values.items()
        for name, one in zip(names, both, strict=True)
    ]
    cells = arena.retained(runs_of(*((CLEAN, name, [1.0]) for name in names), *given))
    costs = pd.DataFrame({"row": [*values], "SSIM": [0.9, 0.8]})
    for figure in (
        arena_figures.withstood(cells),
        arena_figures.price(arena.ranking(cells), costs),
        arena_figures.heat_map(arena.heat(cells)),
    ):
        axis = figure.axes[0]
        ticks = sorted(axis.get_yticklabels(), key=lambda label: label.get_position()[1])
        assert [label.get_text() for label in ticks] == ["strong", "weak"]
        low, high = axis.get_ylim()
        assert low > high  # counted from the top
    drawn = arena_figures.undone(cells).axes[0]
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["gray", "none"]
    told = {text.get_text() for text in arena_figures.withstood(cells).axes[0].texts}
    assert told == {"gray"}
