"""What benchmarks printed, and the spread that pairs of runs imply."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ulelib.book import benchmarks


def test_tables_have_every_number_once() -> None:
    shapes = {name: benchmarks.table(name).shape for name in ("APBench", "ISS", "BridgePure")}
    assert shapes == {"APBench": (9, 11), "ISS": (13, 3), "BridgePure": (10, 3)}
    every = benchmarks.load()
    assert every["accuracy"].between(0, 100).all()
    assert not every.duplicated(["benchmark", "attack", "countermeasure"]).any()
    whole = {name: benchmarks.table(name).notna().all(axis=None) for name in ("APBench", "ISS")}
    assert all(whole.values())
    assert (every["std"].notna() == (every["benchmark"] == "BridgePure")).all()
    with pytest.raises(ValueError, match="choose from"):
        benchmarks.table("APbench")


def test_the_spread_of_pairs_is_found_again() -> None:
    drawn = np.random.default_rng(0).normal(0, 3.0, (2, 4000))
    means = np.random.default_rng(1).uniform(10, 90, 4000)
    spread, low, high = benchmarks.spread_of_pairs(*map(pd.Series, drawn + means))
    assert low < spread < high and spread == pytest.approx(3.0, rel=0.05)
    assert (high - low) / spread == pytest.approx(2 * 1.96 / (2 * 4000) ** 0.5, rel=0.02)


def test_its_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator, covered = np.random.default_rng(2), 0
    for _ in range(1000):
        _, low, high = benchmarks.spread_of_pairs(*map(pd.Series, generator.normal(0, 2, (2, 9))))
        covered += low <= 2 <= high
    assert 930 <= covered <= 970
