"""How a change affects accuracy: differences of runs with equal seeds, in points, with intervals.

Runs of one seed share the network's initial weights, the order of the images and, where a change
does not touch it, the noise. So differences are taken seed by seed, and the 95 % interval is
Student's t over the seeds (from three on). Runs of one seed on two kinds of processor share no
noise (`machines`): their differences vary more, and the interval over the seeds includes that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from ulelib.book.printed import row_of
from ulelib.book.verdict import ENOUGH, half_width, span
from ulelib.perturbation import EXPORTS

COLUMNS = ("standard", "gray")


def of_exports(frame: pd.DataFrame) -> pd.DataFrame:
    """Effects of the two switches of an export: dropping negative noise, and truncating.

    The effect of a switch is the mean of two: with the other switch as in "exact", and as in
    "as_released".

    Args:
        frame: of `Lab.table`, one defender, exploiters standard and gray, all four exports.

    Returns:
        one row a switch, and one for both together; columns standard, gray, and gray less standard
        (what the filter recovers); each as "mean (low to high)", in points.

    Raises:
        ValueError: an export is missing.
    """
    return pd.DataFrame(
        {
            column: {name: interval(values.dropna().tolist()) for name, values in changes.items()}
            for column, changes in _switches(frame).items()
        }
    )


def answer(frame: pd.DataFrame) -> str:
    """How much of what the gray filter recovers comes from dropping negative noise, in a sentence.

    The share is taken seed by seed: the effect of the sign, see `of_exports`, of what the filter
    recovers on images that are published as released.

    Args:
        frame: as of `of_exports`.

    Raises:
        ValueError: an export is missing.
    """
    dropping = _switches(frame)["gray less standard"]["dropping negative noise"]
    released = _by_seed(frame[frame["export"] == "as_released"], ["exploiter"])
    recovered = released["gray"] - released["standard"]
    shares = (100 * dropping / recovered).dropna()
    return (
        f"Of the {recovered.mean():.1f} points that the gray filter recovers on images published "
        f"as released, dropping negative noise is worth {interval(dropping.dropna().tolist())}: "
        f"in per cent, seed by seed, {interval(shares.tolist())}; n = {len(shares)}."
    )


def _switches(frame: pd.DataFrame) -> dict[str, dict[str, pd.Series[float]]]:
    """The effect of each switch of an export, seed by seed; see `of_exports`."""
    runs = _by_seed(frame, ["exploiter", "export"])
    if missing := {(one, export) for one in COLUMNS for export in EXPORTS} - set(runs.columns):
        raise ValueError(f"no runs of {sorted(missing)}: all four exports are needed")
    columns = {name: runs[name] for name in COLUMNS}
    columns["gray less standard"] = runs["gray"] - runs["standard"]
    lines: dict[str, dict[str, pd.Series[float]]] = {}
    for column, by_export in columns.items():
        exact, released = by_export["exact"], by_export["as_released"]
        positive, truncated = by_export["positive"], by_export["truncated"]
        lines[column] = {
            "dropping negative noise": ((positive - exact) + (released - truncated)) / 2,
            "truncating": ((truncated - exact) + (released - positive)) / 2,
            "both, as released": released - exact,
        }
    return lines


def of_variants(frame: pd.DataFrame, defender: str) -> pd.DataFrame:
    """The effect of each variant of a defender, "DEFENDER (variant)", against the defender itself.

    Args:
        frame: of `Lab.table`, one export.

    Returns:
        one row a variant; columns standard and gray, each as "mean (low to high)", in points.
    """
    runs = _by_seed(frame, ["exploiter", "defender"])
    variants = [
        name
        for name in dict.fromkeys(frame["defender"])
        if row_of(name) == defender and name != defender
    ]
    lines = {
        name: {
            exploiter: interval(
                (runs[exploiter, name] - runs[exploiter, defender]).dropna().tolist()
            )
            for exploiter in COLUMNS
        }
        for name in variants
    }
    return pd.DataFrame(lines).T


def of_precision(frame: pd.DataFrame) -> pd.DataFrame:
    """The effect of float32 against bfloat16, in points.

    Rounding makes two runs of one seed differ within a few batches, so they are not taken in pairs.
    The interval is Student's for two samples of one variance. One sample may be a single run: where
    the interval includes 0, that run may be one more of the other sample.

    Args:
        frame: of `Lab.table`; "setting" is the precision, one export.

    Returns:
        one row a defender; columns standard and gray, each as "mean (low to high)"; "" where one
        of the two was not measured.
    """
    lines: dict[str, dict[str, str]] = {}
    for (defender, exploiter), runs in frame.groupby(["defender", "exploiter"], sort=False):
        single, half = (
            runs.loc[runs["setting"] == name, "accuracy"] for name in ("float32", "bfloat16")
        )
        text, freedom = "", len(single) + len(half) - 2
        if len(single) and len(half):
            mean = float(single.mean() - half.mean())
            text = f"{mean:+.1f}"
            if freedom:
                squares = sum(float(((runs - runs.mean()) ** 2).sum()) for runs in (single, half))
                error = math.sqrt(squares / freedom * (1 / len(single) + 1 / len(half)))
                text = _within(mean, half_width((error, freedom)))
        lines.setdefault(str(defender), {})[str(exploiter)] = text
    return pd.DataFrame(lines).T


def machines(frame: pd.DataFrame, defender: str = "") -> str:
    """A caption's warning that the compared runs were computed on several kinds of processor; ""
    where they were computed on one.

    Args:
        frame: of `Lab.table`.
        defender: the comparison is of this defender and its variants alone; "": of all.
    """
    if defender:
        frame = frame[frame["defender"].map(row_of) == defender]
    kinds = sorted(frame["device"].unique())
    if len(kinds) < 2:
        return ""
    return f"; computed on {' and '.join(kinds)}, which make different noise of the same seed"


def interval(differences: Sequence[float]) -> str:
    """Mean and 95 % interval: "+3.2 (-1.0 to +7.4)"; the mean alone below three values.

    Raises:
        ValueError: no values.
    """
    if not differences:
        raise ValueError("no two runs of equal seeds to compare")
    values = pd.Series(differences, dtype=float)
    mean, n = float(values.mean()), len(values)
    if n < ENOUGH:
        return f"{mean:+.1f} ({n} run{'s' * (n > 1)})"
    half = half_width((float(values.std()) / math.sqrt(n), n - 1))
    return _within(mean, half)


def _within(mean: float, half: float) -> str:
    return f"{mean:+.1f} ({span(mean - half, mean + half, digits=1)})"


def _by_seed(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Accuracy, percent: one row a seed, one column for each value of `columns`.

    Raises:
        ValueError: several results in one place, e.g. of two exports.
    """
    if frame.duplicated([*columns, "seed"]).any():
        raise ValueError(f"several results of one seed: {columns} do not distinguish them")
    return frame.pivot_table("accuracy", "seed", columns)
