"""Replicates: which recorded runs are the same cell with another seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ulelib import settings
from ulelib.bilevel import Bilevel
from ulelib.exploiters import Exploiter
from ulelib.jobs import records, replicates
from ulelib.recipe import Recipe
from ulelib.settings import key_of, op
from ulelib.specs import Data, Noise, Part, Run

DATA = Data("shapes", content="a b")
NET = op("convnet")


def training(seed: int, noise: int | None = None, **changed: Any) -> Run:
    """A run on noise whose seed is `noise`, the run's own if None."""
    made = Noise(DATA, Bilevel(net=NET), seed=seed if noise is None else noise)
    part = Part(DATA, noise=made, export="exact")
    settings_of_run = {"recipe": Recipe(), "exploiter": Exploiter()} | changed
    return Run((part,), DATA, net=NET, seed=seed, **settings_of_run)


def recorded(stage: Run, accuracy: float = 50.0) -> dict[str, Any]:
    return {
        "spec": settings.described(stage),
        "result": {"accuracy": accuracy, "seconds": 1.0, "chance": 10.0},
        "made": {"commit": "c", "machine": {"device": "d", "threads": 1}},
    }


def test_only_the_seed_may_differ() -> None:
    cell = replicates.cell_of(recorded(training(0)))
    assert cell == replicates.cell_of(recorded(training(3)))
    for other in (
        training(1, noise=0),  # noise of another seed than the exploiter's
        training(0, recipe=Recipe(epochs=7)),
        training(0, exploiter=Exploiter(prepare=(op("gray"),))),
    ):
        assert cell != replicates.cell_of(recorded(other))
    assert replicates.cell_of(recorded(training(1, noise=0))) == replicates.cell_of(
        recorded(training(4, noise=3))
    )


def test_the_subset_of_the_images_is_no_replicate() -> None:
    """The seed of a data set says which images these are."""
    other = Data("shapes", seed=1, content="a b")
    one, two = (
        recorded(Run((Part(data),), data, Exploiter(), NET, Recipe(), 0)) for data in (DATA, other)
    )
    assert replicates.cell_of(one) != replicates.cell_of(two)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., pd.DataFrame]:
    """Records of two pages that share a cell under two names; gives the rows of the first."""
    gray = Exploiter(prepare=(op("gray"),))
    runs = {
        "one": [("ULEO", training(0)), ("ULEO gray", training(0, exploiter=gray))],
        "two": [("ULEO, here", training(seed)) for seed in (0, 1, 2)],
    }
    stages = {
        key_of(run): recorded(run, 50.0 + run.seed) for all in runs.values() for _, run in all
    }
    cells = {
        page: {
            "cells": [{"key": key_of(run), "defender": name, "seed": run.seed} for name, run in all]
        }
        for page, all in runs.items()
    }
    monkeypatch.setattr(records, "known", lambda profile: stages)
    monkeypatch.setattr(records, "all_pages", lambda profile: cells)
    rows = [
        records.row(
            {"defender": one["defender"], "seed": one["seed"]}, one["key"], stages[one["key"]]
        )
        for one in cells["one"]["cells"]
    ]
    return pd.DataFrame(rows)


def test_a_page_gets_the_seeds_that_other_pages_measured(pages: pd.DataFrame) -> None:
    found = replicates.extended(pages, "cpu")
    assert found.columns.tolist() == pages.columns.tolist()
    mine = found[found["defender"] == "ULEO"].set_index("seed")["accuracy"]
    assert mine.to_dict() == {0: 50.0, 1: 51.0, 2: 52.0}  # each seed once, under the page's name
    assert (found["defender"] == "ULEO gray").sum() == 1


def test_rows_that_no_record_has_stay_alone(pages: pd.DataFrame) -> None:
    own = pages.assign(key="not recorded")
    assert replicates.extended(own, "cpu").equals(own)
    assert replicates.extended(pd.DataFrame(), "cpu").empty


def test_somebodys_own_method_has_no_replicates(pages: pd.DataFrame) -> None:
    strange = {"spec": {"type": "Mine", "seed": 0}}
    assert replicates._cell_of(json.dumps(strange)) is None


def test_the_books_pages_share_their_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Committed records: page 04 shows all five runs of ULEO that page 05 measured."""
    folder = Path(__file__).resolve().parent.parent / "results"
    monkeypatch.setenv("ULELIB_RESULTS", str(folder))
    frame, _ = replicates.read("04_mitigations", "cpu")
    where = "defender == 'ULEO' and export == 'as_released' and exploiter == 'gray'"
    assert sorted(frame.query(f"{where} and setting == '-'")["seed"]) == [0, 1, 2, 3, 4]
    by = [name for name in records.NAMES if name in frame]
    assert not frame.duplicated(by).any()
