"""The robustness table: which rows each place has, and what is said of them."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from helpers import PROJECT
from ulelib.book import claims, robustness
from ulelib.book.robustness import Place

PLACES = {
    "own": Place("cpu", "a"),
    "learned": Place("cpu", "b", "convnet (learned)", "learned stem"),
    "vgg": Place("cpu", "c", "vgg11", setting="VGG-11"),
    "nowhere": Place("cpu", "d"),
}


def rows(accuracies: dict[tuple[str, str, str], list[float]], **names: str) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"defender": defender, "export": export, "exploiter": exploiter, "seed": seed}
            | {"accuracy": accuracy, "chance": 10.0, "curve": (accuracy,), "setting": "-"}
            | {"net": "n", "source": "-" if defender == "clean" else "n"}
            | names
            for (defender, export, exploiter), values in accuracies.items()
            for seed, accuracy in enumerate(values)
        ]
    )


CLEAN = {("clean", "-", "standard"): [90.0, 91.0, 92.0], ("clean", "-", "gray"): [88.0] * 3}
ULEO_GRAY = ("ULEO", "exact", "gray")
PAGES = {
    "a": rows(
        CLEAN
        | {("ULEO", "exact", "standard"): [12.0, 13.0, 14.0]}
        | {("ULEO", "exact", "gray"): [87.0, 86.5, 87.5]}
        | {("ULEO-GrayAugs", "as_released", "gray"): [20.0, 60.0, 88.0]}
        | {("ULEO-GrayAugs (10 steps)", "exact", "gray"): [11.0]}
    ),
    "b": pd.concat(
        [
            rows(
                CLEAN | {("ULEO (learned stem)", "exact", "gray"): [30.0, 31.0, 32.0]},
                net="convnet (learned)",
            ).replace({"source": {"n": "convnet (learned)"}}),
            rows(CLEAN | {("ULEO", "exact", "gray"): [88.0]}, net="convnet"),
        ]
    ),
    "c": pd.concat(
        [
            rows(CLEAN, net="vgg11", setting="VGG-11"),
            rows({ULEO_GRAY: [50.0]}, net="vgg11", setting="VGG-11", source="vgg11"),
            rows({ULEO_GRAY: [11.0]}, net="vgg11", setting="VGG-11", source="other"),
        ]
    ),
}  # fmt: skip


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    def read(page: str, profile: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        if page not in PAGES:
            raise FileNotFoundError(page)
        return PAGES[page], {}

    monkeypatch.setattr("ulelib.book.robustness.replicates.read", read)
    return robustness.judged(PLACES)


def outcome(found: pd.DataFrame, place: str, cell: str) -> tuple[float, float, int, str]:
    ((mean, clean, n, said),) = found[(found["place"] == place) & (found["cell"] == cell)][
        ["mean", "clean", "n", "outcome"]
    ].to_numpy()
    return float(mean), float(clean), int(n), str(said)


def test_each_place_has_its_own_rows(found: pd.DataFrame) -> None:
    assert outcome(found, "own", "ULEO, exact, standard") == (13.0, 91.0, 3, claims.HOLDS)
    assert outcome(found, "own", "ULEO, exact, gray") == (87.0, 88.0, 3, claims.HOLDS)
    assert outcome(found, "own", "ULEO-GrayAugs, as released, gray")[2:] == (3, claims.UNDECIDED)
    assert outcome(found, "learned", "ULEO, exact, gray") == (31.0, 88.0, 3, claims.FAILS)
    # One run is compared with clean of the same seed, and only with noise of the same network.
    assert outcome(found, "vgg", "ULEO, exact, gray") == (50.0, 88.0, 1, claims.LEANS[False])


def test_what_was_not_measured_is_not_judged(found: pd.DataFrame) -> None:
    mean, _, n, said = outcome(found, "own", "ULEO-GrayAugs, exact, gray")  # a variant is another
    assert (math.isnan(mean), n, said) == (True, 0, claims.NOT_TESTED)
    assert "nowhere" not in set(found["place"])


def test_each_run_of_uleo_leaves_a_share_of_the_clean_runs(found: pd.DataFrame) -> None:
    runs = robustness.runs(PLACES).set_index(["size", "seed"])
    assert runs.loc[("own", 1), "exact gray"] == pytest.approx((86.5 - 10) / (88 - 10))
    assert runs.loc[("own", 2), "exact standard"] == pytest.approx((14 - 10) / (91 - 10))
    assert math.isnan(runs.loc[("learned", 0), "exact standard"])
    assert {size for size, _ in runs.index} == {"own", "learned", "vgg"} and len(runs) == 7


def test_the_table_has_a_row_a_place_and_a_column_a_predicate(found: pd.DataFrame) -> None:
    table = robustness.table(found).set_index("place")
    assert [*table.index] == ["own", "learned", "vgg"] and table.shape == (3, 8)
    assert table.loc["learned", "ULEO, exact, gray"] == "31.0 of 88.0 (3)\ndoes not hold"
    assert table.loc["own", "ULEO, as released, gray"] == ""
    html = robustness.style(found, "every place").to_html()
    assert "every place" in html and claims.TINTS[claims.FAILS] in html


def test_the_book_has_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the committed records: no place without a cell, and the headline's numbers."""
    monkeypatch.setenv("ULELIB_RESULTS", str(PROJECT / "results"))
    found = robustness.judged()
    measured = found[found["n"] > 0]
    assert set(measured["place"]) == set(robustness.PLACES)
    own = measured[measured["place"] == next(iter(robustness.PLACES))]
    assert (own["n"] >= 3).all() and len(own) == 8
