"""The ladder: what a point says, what explains what, and its figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from helpers import PROJECT, quick_profile
from ulelib.book import figures, ladder, ladder_figures
from ulelib.book.verdict import retained
from ulelib.jobs import records, replicates
from ulelib.jobs.cells import Cell
from ulelib.jobs.lab import Lab
from ulelib.profiles import PROFILES
from ulelib.recipe import Recipe


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, list[Cell]]:
    """Two sizes with two seeds, and noise of the first with weights of the other seed."""
    with pytest.MonkeyPatch.context() as patch:
        recipe = Recipe(epochs=20, batch_size=20, learning_rate=0.02, schedule="one_cycle")
        patch.setitem(PROFILES, "smoke", quick_profile(n_train=400, recipe=recipe))
        lab = Lab("smoke", 0, 2, store=tmp_path_factory.mktemp("store"))
        cells = [
            dataclasses.replace(cell, setting=name)
            for name in lab.profile.ladder
            for cell in lab.at(name).cells(["clean", "ULEO"], ["gray"])
        ]
        small = lab.at("small")
        other = small.noise("ULEO", 1, weights_seed=0)
        cells.append(small.cell("ULEO", "gray", "exact", 1, noise=other, setting="small, crossed"))
        lab.table(cells)
        return lab, cells


def test_a_point_is_a_noise_with_what_it_leaves(measured: tuple[Lab, list[Cell]]) -> None:
    lab, cells = measured
    points = ladder.points(lab, cells)
    assert points[["size", "seed", "weights"]].to_numpy().tolist() == [
        ["small", 0, 0],
        ["small", 1, 1],
        ["3 batches a round", 0, 0],
        ["3 batches a round", 1, 1],
        ["small, crossed", 1, 0],
    ]
    table = lab.table(cells).set_index(["setting", "defender", "seed"])["accuracy"]
    clean = (table["small", "clean", 0] + table["small", "clean", 1]) / 2
    assert clean > 15
    expected = retained(table["small", "ULEO", 1], clean, 10.0)
    assert points.loc[1, "exact gray"] == pytest.approx(expected)
    assert points.loc[4, "exact gray"] == pytest.approx(
        retained(table["small, crossed", "ULEO", 1], clean, 10.0)
    )
    noted = lab.noted(lab.noise("ULEO", 1))
    assert points.loc[1, "tiles"] == noted["made_of"][-1]["tiles"]
    assert points.loc[1, "rounds"] == len(noted["rounds"])


def test_rounds_and_pictures_of_each_noise(measured: tuple[Lab, list[Cell]]) -> None:
    points = ladder.points(*measured)
    rounds = ladder.rounds(measured[0], points[:2])
    assert len(rounds) == points["rounds"][:2].sum()
    last = rounds.groupby("noise").last()
    assert last.loc["1 1", "luminance"] == points.loc[1, "luminance"]
    assert [one.shape for one in ladder.pictures(measured[0], points["noise"])] == [
        (32, 96, 3)
    ] * len(points)


def crossed(values: list[list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"weights": weights, "seed": order, "tiles": value}
            for weights, line in enumerate(values)
            for order, value in enumerate(line)
        ]
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1, 1, 1], [2, 2, 2], [6, 6, 6]], (1, 0, 0)),
        ([[1, 2], [1, 2]], (0, 1, 0)),
        ([[1, 0], [0, 1]], (0, 0, 1)),
        ([[0, 1], [1, 2]], (0.5, 0.5, 0)),
        ([[3, 3], [3, 3]], (0, 0, 0)),
    ],
)
def test_what_explains_a_table(values: list[list[float]], expected: tuple[float, ...]) -> None:
    found = ladder.explained(crossed(values), ["tiles"]).loc["tiles"]
    assert found[["initial weights", "order", "rest"]].tolist() == pytest.approx([*expected])


def test_shares_are_tested_against_the_rest() -> None:
    """The two-way table of a textbook's kind, computed by hand."""
    values = [[1.0, 2.0, 3.0], [3.0, 4.0, 6.0], [7.0, 8.0, 8.0]]
    found = ladder.explained(crossed(values), ["tiles"]).loc["tiles"]
    grid = np.array(values)
    by_weights = 3 * ((grid.mean(1) - grid.mean()) ** 2).sum()
    by_order = 3 * ((grid.mean(0) - grid.mean()) ** 2).sum()
    rest = ((grid - grid.mean()) ** 2).sum() - by_weights - by_order
    for name, squares in (("initial weights", by_weights), ("order", by_order)):
        p = stats.f.sf((squares / 2) / (rest / 4), 2, 4)
        assert found[f"p, {name}"] == pytest.approx(p)
    assert found["p, initial weights"] < 0.01 < found["p, order"]


def test_a_table_with_a_gap_explains_nothing() -> None:
    with pytest.raises(ValueError, match="tiles lacks a pair"):
        ladder.explained(crossed([[1, 2], [3, 4]])[:3], ["tiles"])


def points() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "size": ["small"] * 3 + ["large"] * 2 + ["none"],
            "seed": [0, 1, 2, 0, 1, 0],
            "luminance": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
            "tiles": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
            "exact gray": [0.2, 0.4, 0.6, 0.9, 1.0, np.nan],
        }
    )


def test_summary_gives_interval_and_number() -> None:
    told = ladder.summary(points(), ["exact gray"])["exact gray"]
    assert told["small"] == "0.40 (-0.10 to 0.90), n = 3"
    assert told["large"] == "0.95, n = 2" and told["none"] == ""
    assert [*told.index] == ["small", "large", "none"]


def test_correlation_is_of_ranks_and_leaves_gaps_out() -> None:
    found, p, n = ladder.correlation(points(), "luminance", "exact gray")
    assert (found, n) == (pytest.approx(1.0), 5) and p < 0.01
    assert ladder.correlation(points(), "tiles", "exact gray")[0] == pytest.approx(-1.0)


def sizes(**cells: list[float]) -> pd.DataFrame:
    lines = {name.replace("_gray", " gray"): values for name, values in cells.items()}
    return pd.DataFrame({"size": "small", **lines})


@pytest.mark.parametrize(
    ("exact", "released", "agrees"),
    [
        ([0.9, 0.95, 1.0], [1.0, 1.0, 0.99], "yes"),
        ([0.8, 0.82, 0.86], [1.0, 1.0, 0.99], "no"),  # far
        ([0.8, 1.0, 1.1], [1.0, 1.0, 0.99], "no"),  # near, but a draw
        ([0.9, 0.95, np.nan], [1.0, 1.0, 0.99], "too few runs"),
        ([0.2, 0.1, np.nan], [0.1, 0.1, 0.1], "no"),
    ],
)
def test_a_size_agrees_in_mean_and_spread_or_not(
    exact: list[float], released: list[float], agrees: str
) -> None:
    full = {"exact gray": 0.97, "as_released gray": 0.99}
    found = ladder.fidelity(sizes(exact_gray=exact, as_released_gray=released), full)
    assert found.loc["small", "agrees"] == agrees
    known = [value for value in exact if value == value]
    distance = sum(known) / len(known) - 0.97
    assert found.loc["small", "exact gray, distance"] == f"{distance:+.2f}"
    assert found.loc["small", "exact gray"].endswith(f"({len(known)})")


def test_a_cell_that_was_not_measured_is_too_few_runs() -> None:
    found = ladder.fidelity(sizes(exact_gray=[0.97] * 3), {"exact gray": 0.97, "other": 0.5})
    assert found.loc["small"].tolist() == ["0.97 ± 0.00 (3)", "+0.00", "", "", "too few runs"]


def test_the_full_size_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(PROJECT / "results"))
    full = ladder.full_size()
    assert [*full] == [*ladder.CALIBRATION]
    assert full["exact gray"] == pytest.approx((90.62 - 10) / (92.81 - 10), abs=0.005)


COLUMNS = {"luminance": "luminance's share", "tiles": "tiles' share"}
DRAWN = {
    "dots": lambda: ladder_figures.dots(points(), COLUMNS, "what is left"),
    "predicted": lambda: ladder_figures.predicted(points(), COLUMNS, "exact gray", "what is left"),
    "rounds": lambda: ladder_figures.after_each_round(
        points().assign(round=[1, 2, 3, 1, 2, 1], noise=points()["size"]), COLUMNS, "size"
    ),
    "strips": lambda: ladder_figures.strips(
        {"small": [np.zeros((32, 96, 3), np.uint8)] * 2, "large": []}, ["seed 0", "seed 1"]
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_figure_is_closed_has_its_caption_and_can_be_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "STYLE", figures.Style())
    with matplotlib.rc_context():
        figures.use_style("profile smoke")
        figure = DRAWN[name]()
        assert plt.get_fignums() == []
        figure.savefig(tmp_path / "figure.png")
    titles = [legend.get_title().get_text() for legend in figure.legends]
    assert "profile smoke" in [*titles, figure.get_supxlabel()]


def test_every_run_is_a_dot_in_its_row() -> None:
    left, _ = ladder_figures.dots(points(), COLUMNS, "what is left").axes
    assert [one.get_text() for one in left.get_yticklabels()] == ["small", "large", "none"]
    runs = [line for line in left.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in runs] == [3, 2, 1]
    means = {line.get_ydata()[0]: line.get_xdata()[0] for line in left.lines if line not in runs}
    assert means == {0: pytest.approx(0.2), 1: pytest.approx(0.45)}


def test_a_noise_that_nobody_trained_on_predicts_nothing() -> None:
    left, _ = DRAWN["predicted"]().axes
    shown = [x for line in left.lines if line.get_label() in ("small", "large") for x in
             line.get_xdata()]  # fmt: skip
    assert shown == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_other_pages_sizes_stand_around_the_ladders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(PROJECT / "results"))
    whole = ladder.with_records(points())
    sizes = list(whole["size"].unique())
    assert sizes[0].startswith("small convnet") and sizes[-1] == "ResNet-18, the paper's size"
    assert sizes[2:5] == ["small", "large", "none"]
    paper = whole[whole["size"] == sizes[-1]]
    assert paper["exact gray"].tolist() == pytest.approx([0.97], abs=0.01)
    monkeypatch.setenv("ULELIB_RESULTS", "no records")
    assert ladder.with_records(points())["size"].tolist() == points()["size"].tolist()


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="no runs"):
        ladder_figures.dots(points()[:0], COLUMNS, "")
    with pytest.raises(ValueError, match="1 rows of pictures, 0 heads"):
        ladder_figures.strips({"small": [np.zeros((32, 96, 3), np.uint8)]}, [])


def test_one_seed_on_two_processors_is_two_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(PROJECT / "results"))
    small, _ = records.read("05_grayaug", "cpu")
    html = ladder.two_processors(small[:0], "cpu").to_html()
    assert "seed 0" in html and "as released" in html and "small convnet" in html
    runs = replicates.replaced(small, "cpu").query("defender == 'ULEO' and exploiter == 'gray'")
    assert len(runs) >= 12 and runs["device"].nunique() == 2
    for accuracy in runs["accuracy"]:
        assert f">{accuracy:.1f}<" in html
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path))
    assert "two kinds" in ladder.two_processors(small, "cpu").data
