"""How a change affects accuracy: differences of runs with equal seeds, in points, with intervals.

Runs of one seed share the network's initial weights, the order of the images and, where a change
does not touch it, the noise. So differences are taken seed by seed, and the 95 % interval is
Student's t over the seeds (from three on). The intervals of one table are simultaneous, by Holm's
method. Runs of one seed on two kinds of processor share no noise (`machines`): their differences
vary more, and the interval over the seeds includes that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from scipy import stats

from ulelib.book.printed import row_of
from ulelib.book.verdict import ENOUGH, LEVEL, extent, half_width, span, welch
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
        (what the filter recovers), each as of `interval`, and n.

    Raises:
        ValueError: an export is missing.
    """
    return intervals(_switches(frame))


def answer(frame: pd.DataFrame) -> str:
    """How much of what the gray filter recovers comes from dropping negative noise, in a sentence.

    The share is taken seed by seed: the effect of the sign, see `of_exports`, of what the filter
    recovers on images that are published as released. Seeds that lack an export do not count.

    Args:
        frame: as of `of_exports`.

    Raises:
        ValueError: an export is missing.
    """
    dropping = _switches(frame)["gray less standard"]["dropping negative noise"].dropna()
    released = _by_seed(frame[frame["export"] == "as_released"], ["exploiter"])
    recovered = (released["gray"] - released["standard"])[dropping.index]
    return (
        f"Of the {recovered.mean():.1f} points that the gray filter recovers on images published "
        f"as released, dropping negative noise is worth {interval(dropping.tolist())}: "
        f"in per cent, seed by seed, {interval((100 * dropping / recovered).tolist())}; "
        f"n = {len(dropping)}."
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
        one row a variant; columns standard and gray, each as of `interval`, and n.
    """
    runs = _by_seed(frame, ["exploiter", "defender"])
    variants = [
        name
        for name in dict.fromkeys(frame["defender"])
        if row_of(name) == defender and name != defender
    ]
    lines = {
        exploiter: {name: runs[exploiter, name] - runs[exploiter, defender] for name in variants}
        for exploiter in COLUMNS
    }
    return intervals(lines)


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
            text = f"{mean:+z.1f}"
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


def change(frame: pd.DataFrame, left: Mapping[str, str], right: Mapping[str, str]) -> str:
    """For sentences: how much more accuracy one cell has than another, e.g. "-19.6 points (n = 5,
    95 % interval -25.1 to -14.1)"; below three common seeds without an interval.

    The interval is that of this difference alone. A table of differences has simultaneous ones
    (`intervals`), so the same difference has a wider interval there.

    Args:
        frame: of `Lab.table`.
        left, right: the columns that select each cell; it must have one row a seed.

    Raises:
        ValueError: a selection has several rows of one seed, or no seed is common.
    """
    sides = []
    for where in (left, right):
        rows = frame
        for column, wanted in where.items():
            rows = rows[rows[column] == wanted]
        sides.append(_by_seed(rows, ["exploiter"]).squeeze(axis=1))
    found = (sides[0] - sides[1]).dropna()
    if found.empty:
        raise ValueError(f"no seed has both {dict(left)} and {dict(right)}")
    surely = f"n = {len(found)}"
    if len(found) >= ENOUGH:
        mean, half = found.mean(), half_width((found.std() / len(found) ** 0.5, len(found) - 1))
        surely += f", 95 % interval {span(mean - half, mean + half, digits=1)}"
    return f"{found.mean():+z.1f} points ({surely})"


def intervals(changes: Mapping[str, Mapping[str, pd.Series[float]]]) -> pd.DataFrame:
    """A table of differences as text, see `interval`; its intervals are simultaneous.

    By Holm's method: the difference that is least likely to be chance has the level 0.05 / m, the
    next 0.05 / (m - 1), until one includes 0; all behind that one have its level.

    Args:
        changes: by column and row, the differences by seed, points.

    Returns:
        the same columns and rows; and n, how many seeds are behind the differences of a row.

    Raises:
        ValueError: a place has no value.
    """
    runs = {
        (row, column): values.dropna().tolist()
        for column, rows in changes.items()
        for row, values in rows.items()
    }
    enough = [place for place, values in runs.items() if len(values) >= ENOUGH]
    levels, level, failed = dict[tuple[str, str], float](), LEVEL, False
    for rank, place in enumerate(sorted(enough, key=lambda place: _p(runs[place]))):
        if not failed:
            level = LEVEL / (len(enough) - rank)
            failed = _p(runs[place]) > level
        levels[place] = level
    texts: dict[str, dict[str, str]] = {}
    for (row, column), values in runs.items():
        texts.setdefault(column, {})[row] = interval(values, levels.get((row, column), LEVEL))
    counts: dict[str, list[int]] = {}
    for (row, _), values in runs.items():
        counts.setdefault(row, []).append(len(values))
    return pd.DataFrame(texts).assign(n=pd.Series(counts).map(extent))


def _p(differences: Sequence[float]) -> float:
    """The p-value of Student's test against no difference."""
    values = pd.Series(differences, dtype=float)
    error, freedom = welch((float(values.std()) / math.sqrt(len(values)), len(values) - 1))
    if error == 0:
        return float(values.mean() == 0)
    return float(2 * stats.t.sf(abs(values.mean()) / error, freedom))


def interval(differences: Sequence[float], level: float = LEVEL) -> str:
    """Mean and interval, in points: "+3.2 (-1.0 to +7.4)"; the mean alone below three
    values.

    Args:
        level: 1 less the interval's confidence.

    Raises:
        ValueError: no values.
    """
    if not differences:
        raise ValueError("no two runs of equal seeds to compare")
    values = pd.Series(differences, dtype=float)
    mean, n = float(values.mean()), len(values)
    if n < ENOUGH:
        return f"{mean:+z.1f} ({n} run{'s' * (n > 1)})"
    half = half_width((float(values.std()) / math.sqrt(n), n - 1), level=level)
    return _within(mean, half)


def _within(mean: float, half: float) -> str:
    return f"{mean:+z.1f} ({span(mean - half, mean + half, digits=1)})"


def _by_seed(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Accuracy, percent: one row a seed, one column for each value of `columns`.

    Raises:
        ValueError: several results in one place, e.g. of two exports.
    """
    if frame.duplicated([*columns, "seed"]).any():
        raise ValueError(f"several results of one seed: {columns} do not distinguish them")
    return frame.pivot_table("accuracy", "seed", columns)
