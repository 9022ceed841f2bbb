"""How measured accuracies compare with a published one: the rule, and the intervals behind it.

Two studies rarely share a training budget. So the rule compares not accuracies but what protection
leaves of them in each study: the share of what the standard exploiter reaches on clean images there
(`retained`). With D the difference of the two shares, measured less published:

    fewer than 3 runs  "near" if D is at most 0.10 on either side, else "far", and no more
    from 3 runs on     by the 95 % Welch interval of D: "reproduced" if all of it lies within 0.15
                       on both sides; else, if it excludes 0, "protects more" (a smaller share is
                       left than published) or "protects less"; else "open"

"Open" may be settled by more runs of ours, as far as the paper's own spread allows. Images without
a perturbation are not protected: there a difference is "lower" or "higher". The clean accuracies
count as known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from ulelib.book.printed import Published

LABELS = (
    "reproduced",
    "protects more",
    "protects less",
    "lower",
    "higher",
    "open",
    "near",
    "far",
    "reference",
    "no verdict",
)
REFERENCE = "reference"  # the label of a clean row that others are measured against
NEAR = 0.10  # share of the clean accuracy above chance, for fewer than three runs
MARGIN = 0.15  # the same, that the whole interval must lie within from three runs on
# Differences from clean of the same setting (Tables 4 and 9) are small: with the margins above, a
# study without any effect would reproduce most of them.
NEAR_POINTS, MARGIN_POINTS = 0.02, 0.03
CONFIDENCE = 0.95
ENOUGH = 3  # runs from which on an interval decides


@dataclass(frozen=True)
class Verdict:
    """How measured accuracies compare with a published one.

    Attributes:
        label: one of `LABELS`.
        mean: of the measured accuracies, percent.
        std: their sample standard deviation in points; None for one value.
        n: how many values.
        retained: share of the clean accuracy above chance that is left, measured (1: unprotected).
        published_retained: the same, published.
        low, high: 95 % interval of the difference of the two shares, measured less published; None
            below three runs.
    """

    label: str
    mean: float
    std: float | None
    n: int
    retained: float
    published_retained: float
    low: float | None = None
    high: float | None = None


def retained(accuracy: float, clean: float, chance: float) -> float:
    """What protection leaves: (accuracy - chance) / (clean - chance).

    Args:
        accuracy: clean test accuracy of an exploiter, percent.
        clean: that of the standard exploiter trained on clean images in the same study, percent.
        chance: 100 / number of classes, percent.

    Returns:
        0 at chance, 1 at the clean accuracy; may lie slightly outside [0, 1].

    Raises:
        ValueError: the clean accuracy is not above chance, so there is nothing to protect.
    """
    if not clean > chance:
        raise ValueError(f"clean accuracy is {clean:.2f} %, not above chance ({chance:.2f} %)")
    return (accuracy - chance) / (clean - chance)


def verdict(
    values: Sequence[float],
    clean: float,
    chance: float,
    published: Published,
    published_clean: float,
    published_chance: float,
    *,
    pooled: tuple[float, int] | None = None,
    protected: bool = True,
    margins: tuple[float, float] = (NEAR, MARGIN),
) -> Verdict:
    """Compare measured accuracies with a published one, by the rule of this module.

    Args:
        values: measured clean test accuracies, percent, one a seed.
        clean, chance: of the measured study, percent: mean accuracy of the standard exploiter on
            clean images, and 100 / classes.
        published: the number to compare with, percent.
        published_clean, published_chance: the same of the published study, percent.
        pooled: spread of a single run of ours, points, and its degrees of freedom, over the
            protected cells of the page; it stands for the spread that the paper does not print.
            None: that of `values`.
        protected: the images carry a perturbation.
        margins: the two limits, 0.10 and 0.15 by default.

    Returns:
        label "no verdict", and shares that are NaN, where the measured clean accuracy is not above
        chance.

    Raises:
        ValueError: no values, or a published clean accuracy not above chance.
    """
    if not values:
        raise ValueError("a verdict needs at least one measured accuracy")
    runs = pd.Series(values, dtype=float)
    mean, n = float(runs.mean()), len(runs)
    std = float(runs.std()) if n > 1 else None
    theirs = retained(published.value, published_clean, published_chance)
    if not clean > chance:
        return Verdict("no verdict", mean, std, n, math.nan, theirs)
    ours = retained(mean, clean, chance)
    difference = ours - theirs
    if n < ENOUGH:
        # The tolerance keeps a difference of exactly the limit inside, whatever the last bit says.
        label = "near" if abs(difference) <= margins[0] + 1e-9 else "far"
        return Verdict(label, mean, std, n, ours, theirs)
    our_std, their_n = (std or 0.0) / (clean - chance), published.n or 1
    if published.std is None:
        spread, freedom = pooled or (std or 0.0, n - 1)
        their_std = spread / (clean - chance)
    else:
        their_std = published.std / (published_clean - published_chance)
        freedom = max(1, their_n - 1)
    half = half_width((our_std / math.sqrt(n), n - 1), (their_std / math.sqrt(their_n), freedom))
    low, high = difference - half, difference + half
    label = _label(low, high, margins[1], protected)
    return Verdict(label, mean, std, n, ours, theirs, low, high)


def _label(low: float, high: float, margin: float, protected: bool) -> str:
    """The label of an interval of the difference of two shares, measured less published."""
    if low >= -margin and high <= margin:
        return "reproduced"
    if high < 0:
        return "protects more" if protected else "lower"
    if low > 0:
        return "protects less" if protected else "higher"
    return "open"


def half_width(*means: tuple[float, int]) -> float:
    """Half of the 95 % interval of a mean, or of the difference of two: Student's, and Welch's.

    Args:
        means: each mean's standard error and its degrees of freedom.
    """
    variance = sum(error**2 for error, _ in means)
    if variance == 0:
        return 0.0
    freedom = variance**2 / sum(error**4 / degrees for error, degrees in means)
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom) * math.sqrt(variance))


def span(low: float, high: float, digits: int = 2) -> str:
    """An interval as text, "-0.10 to +0.05"; "" where there is none (NaN)."""
    return "" if pd.isna(low) else f"{low:+.{digits}f} to {high:+.{digits}f}"
