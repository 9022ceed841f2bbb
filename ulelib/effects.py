"""What a change does to accuracy: differences of runs with equal seeds, in points, with intervals.

Runs of one seed share the network's initial weights, the order of the images and, where a change
does not touch it, the noise. So differences are taken seed by seed, and the 95 % interval is
Student's t over the seeds (from three on).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from scipy import stats

from ulelib.published import CONFIDENCE, ENOUGH, row_of

COLUMNS = ("standard", "gray")


def of_exports(frame: pd.DataFrame) -> pd.DataFrame:
    """What the two switches of an export do: the sign and the rounding.

    Each switch's effect is the mean of two: with the other one as in "exact", and as in
    "as_released".

    Args:
        frame: of `Lab.table`, one defender, exploiters standard and gray, all four exports.

    Returns:
        one row a switch, and both together; columns standard, gray, and gray less standard, what
        the filter recovers; each as "mean (low to high)", in points.

    Raises:
        ValueError: an export is missing.
    """
    runs = _by_seed(frame, ["exploiter", "export"])
    lines: dict[str, dict[str, str]] = {}
    for column in (*COLUMNS, "gray less standard"):
        try:
            if column in COLUMNS:
                exact, released, positive, truncated = (
                    runs[column, export]
                    for export in ("exact", "as_released", "positive", "truncated")
                )
            else:
                exact, released, positive, truncated = (
                    runs["gray", export] - runs["standard", export]
                    for export in ("exact", "as_released", "positive", "truncated")
                )
        except KeyError as error:
            raise ValueError(f"no runs of {error}: all four exports are needed") from None
        told = {
            "dropping negative noise": ((positive - exact) + (released - truncated)) / 2,
            "truncating": ((truncated - exact) + (released - positive)) / 2,
            "both, as released": released - exact,
        }
        for name, values in told.items():
            lines.setdefault(name, {})[column] = interval(values.dropna().tolist())
    return pd.DataFrame(lines).T


def of_variants(frame: pd.DataFrame, defender: str) -> pd.DataFrame:
    """What each variant of a defender, "DEFENDER (variant)", changes.

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
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * values.std() / math.sqrt(n))
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def _by_seed(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Accuracy, seeds in rows."""
    return frame.pivot_table("accuracy", "seed", columns)
