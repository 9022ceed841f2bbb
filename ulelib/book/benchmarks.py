"""What three benchmarks printed for CIFAR-10 and ResNet-18: `benchmarks.csv`, one number a row.

Its columns:

    benchmark       "APBench" (Qin et al., TMLR 2024; the authors' leaderboard of 2023-06-19), "ISS"
                    (Liu et al., *Image Shortcut Squeezing*, ICML 2023; the README of its code), or
                    "BridgePure" (Wang et al., NeurIPS 2025, Table 1; read in a text copy, of which
                    two pairs of rows could not be told apart and are left out)
    attack          whose noise the training images have: "EM" is ULEO, "TAP" is AdvPois
    countermeasure  of the exploiter; "none"
    accuracy        on clean test images, percent
    std, n          over so many runs, where printed; APBench and ISS print neither
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd
from scipy import stats

from ulelib.book.verdict import LEVEL


@cache
def load() -> pd.DataFrame:
    """All rows of `benchmarks.csv`."""
    return pd.read_csv(Path(__file__).with_name("benchmarks.csv"))


def table(benchmark: str) -> pd.DataFrame:
    """A benchmark's accuracies, in percent: a row an attack, a column a countermeasure, in its
    order.

    Raises:
        ValueError: no such benchmark.
    """
    rows = load()[load()["benchmark"] == benchmark]
    if rows.empty:
        raise ValueError(f"benchmark {benchmark!r}; choose from {sorted(set(load()['benchmark']))}")
    laid_out = rows.pivot(index="attack", columns="countermeasure", values="accuracy")
    return laid_out.loc[rows["attack"].unique(), rows["countermeasure"].unique()]


def spread_of_pairs(
    first: pd.Series[float], second: pd.Series[float]
) -> tuple[float, float, float]:
    """The standard deviation of one run, from pairs of runs of the same experiments.

    The two runs of a pair have one mean and, as all runs here, one variance. Then the sum of the
    squared differences over twice the variance is chi-squared, with a degree of freedom a pair.

    Returns:
        the standard deviation, and its 95 % interval from low to high.
    """
    differences = (first - second).dropna()
    squares, pairs = float((differences**2).sum()) / 2, len(differences)
    low, high = (
        (squares / stats.chi2.ppf(quantile, pairs)) ** 0.5
        for quantile in (1 - LEVEL / 2, LEVEL / 2)
    )
    return (squares / pairs) ** 0.5, float(low), float(high)
