"""How measured accuracies compare with a published one: the rule, and the intervals behind it.

Two studies rarely share a training budget. So the rule compares not accuracies but what protection
leaves of them in each study: the share of what the standard exploiter reaches on clean images there
(`retained`). D is the difference of the two shares, measured less published, with its 95 % Welch
interval. The margin is 0.15, or half of what the print says that protection does, if that is less:
so a method without any effect never reproduces an effect.

    the whole interval lies within the margin          "reproduced"
    it excludes 0, and D exceeds the margin            "stronger" than printed, or "weaker"
    neither                                            "undecided"
    fewer than 3 runs                                  no verdict

Images without a perturbation are not protected: there a difference is "higher" or "lower", and the
margin 0.15. The intervals of one table are simultaneous, by Holm's method (`decide`): the surest
cell is judged at the level 0.05 / m, the next at 0.05 / (m - 1), until one is undecided; it and
all behind it have the level at which it failed. The export that the print stands for makes one
table, the other export another. The clean accuracies count as known.

A print without a spread has that of the same cell elsewhere in its paper; where there is none, the
interval is a prediction interval: the print counts as one more run that varies as ours do.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from scipy import stats

from ulelib.book.printed import Published

REPRODUCED, UNDECIDED = "reproduced", "undecided"
REFERENCE = "reference"  # the label of a clean row that others are measured against
NOTHING_LEARNED = "no verdict"
TOO_FEW = ""
LABELS = (
    *(REPRODUCED, "stronger", "weaker", "higher", "lower", UNDECIDED),
    *(REFERENCE, NOTHING_LEARNED, TOO_FEW),
)
MARGIN = 0.15  # share of the clean accuracy above chance
LEVEL = 0.05  # of all intervals of a table together
ENOUGH = 3  # runs from which on an interval decides
MOST_RUNS = 1000  # what these leave undecided, the spread of the print leaves undecided
KNIFE_EDGE = (0.8, 1.25)  # a p-value this near to its level, as a share of it, decides just so


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
        margin: that D is compared with; NaN where D is not judged.
        ours, theirs: standard error and degrees of freedom of the two shares, from three runs on.
        low, high: interval of D at `level`; None below three runs.
        level: 1 less the confidence of that interval.
        further: how many more runs of the same spread would decide an undecided cell; None where
            no number would, and of any other cell.
        knife_edge: it is decided, or undecided, by very little.
    """

    label: str
    mean: float
    std: float | None
    n: int
    retained: float
    published_retained: float
    margin: float = math.nan
    ours: tuple[float, int] | None = None
    theirs: tuple[float, int] | None = None
    protected: bool = True
    low: float | None = None
    high: float | None = None
    level: float = LEVEL
    further: int | None = None
    knife_edge: bool = False

    @property
    def difference(self) -> float:
        """D, measured less published."""
        return self.retained - self.published_retained


def retained(accuracy: float, clean: float, chance: float) -> float:
    """What protection leaves: (accuracy - chance) / (clean - chance).

    Args:
        accuracy: clean test accuracy of an exploiter, percent.
        clean: that of the standard exploiter trained on clean images in the same study, percent.
        chance: what guessing reaches, percent: 100 / number of classes; 0 under an attack, which
            can push accuracy below that of guessing.

    Returns:
        0 at chance, 1 at the clean accuracy; may lie slightly outside [0, 1].

    Raises:
        ValueError: the clean accuracy is not above chance, so there is nothing to protect.
    """
    if not clean > chance:
        raise ValueError(f"clean accuracy is {clean:.2f} %, not above chance ({chance:.2f} %)")
    return (accuracy - chance) / (clean - chance)


def measured(
    values: Sequence[float],
    clean: float,
    chance: float,
    published: Published,
    published_clean: float,
    published_chance: float,
    *,
    unprotected: float | None = None,
    protected: bool = True,
) -> Verdict:
    """Measured accuracies beside a published one, undecided until `decide` judges its table.

    Args:
        values: measured test accuracies, percent, one a seed.
        clean, chance: of the measured study, percent: mean accuracy of the standard exploiter on
            clean images, and that of guessing.
        published: the number to compare with, percent; its std None where the paper has none for
            this cell in any table.
        published_clean, published_chance: the same of the published study, percent.
        unprotected: the printed accuracy of the same exploiter on clean images, percent, by which
            the print says what protection does; None: `published_clean`.
        protected: the images carry a perturbation.

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
    print_left = retained(published.value, published_clean, published_chance)
    if not clean > chance:
        return Verdict(NOTHING_LEARNED, mean, std, n, math.nan, print_left)
    left = retained(mean, clean, chance)
    if std is None or n < ENOUGH:
        return Verdict(TOO_FEW, mean, std, n, left, print_left)
    whole = published_clean - published_chance
    effect = abs((unprotected or published_clean) - published.value) / whole
    their_n = published.n or 1
    if published.std is None:
        theirs = (std / (clean - chance) / math.sqrt(their_n), n - 1)
    else:
        theirs = (published.std / whole / math.sqrt(their_n), max(1, their_n - 1))
    return Verdict(
        UNDECIDED,
        *(mean, std, n, left, print_left),
        margin=min(MARGIN, effect / 2) if protected else MARGIN,
        ours=(std / (clean - chance) / math.sqrt(n), n - 1),
        theirs=theirs,
        protected=protected,
    )


def decide(cells: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of a table's cells, their intervals simultaneous by Holm's method.

    Args:
        cells: of `measured`; those of fewer than three runs are left as they are.
    """
    judged = [place for place, cell in enumerate(cells) if cell.ours is not None]
    judged.sort(key=lambda place: p_value(cells[place]))
    found, open_from = list(cells), math.nan
    for rank, place in enumerate(judged):
        level = LEVEL / (len(judged) - rank)
        if math.isnan(open_from):
            p = p_value(cells[place])
            edge = KNIFE_EDGE[0] <= p / level <= KNIFE_EDGE[1]
            found[place] = _at(cells[place], level, edge)
            if p > level:
                open_from = level
        else:
            found[place] = _at(cells[place], open_from, False)
    return found


def p_value(cell: Verdict) -> float:
    """The smallest level at which a cell is decided: of the interval that just excludes 0 where D
    exceeds the margin, and of the one that just lies within the margin where it does not."""
    error, freedom = _welch(cell)
    distance = abs(cell.difference)
    room = distance if distance > cell.margin else cell.margin - distance
    if error == 0:
        return 0.0 if room > 0 else 1.0
    return float(2 * stats.t.sf(room / error, freedom))


def _at(cell: Verdict, level: float, knife_edge: bool) -> Verdict:
    """A cell with its interval at a level, and the label that this gives it."""
    error, freedom = _welch(cell)
    half = _half(error, freedom, level)
    difference = cell.difference
    if p_value(cell) > level:
        label, further = UNDECIDED, _further(cell, level)
    elif abs(difference) <= cell.margin:
        label, further = REPRODUCED, None
    else:
        less = difference < 0
        words = ("stronger", "weaker") if cell.protected else ("lower", "higher")
        label, further = words[0] if less else words[1], None
    return replace(
        cell,
        label=label,
        low=difference - half,
        high=difference + half,
        level=level,
        further=further,
        knife_edge=knife_edge,
    )


def _further(cell: Verdict, level: float) -> int | None:
    """How many more runs of the same mean and spread would decide; None if none of `MOST_RUNS`."""
    assert cell.ours is not None
    single = cell.ours[0] * math.sqrt(cell.n)

    def decides(n: int) -> bool:
        return p_value(replace(cell, n=n, ours=(single / math.sqrt(n), n - 1))) <= level

    if not decides(MOST_RUNS):
        return None
    return bisect.bisect_left(range(MOST_RUNS + 1), True, lo=cell.n, key=decides) - cell.n


def _welch(cell: Verdict) -> tuple[float, float]:
    """Standard error of D and its degrees of freedom."""
    assert cell.ours is not None and cell.theirs is not None
    return welch(cell.ours, cell.theirs)


def welch(*means: tuple[float, int]) -> tuple[float, float]:
    """Standard error of a mean, or of the difference of two, and its degrees of freedom: Student's,
    and Welch's.

    Args:
        means: each mean's standard error and its degrees of freedom.
    """
    variance = sum(error**2 for error, _ in means)
    if variance == 0:
        return 0.0, 1.0
    freedom = variance**2 / sum(error**4 / degrees for error, degrees in means)
    return math.sqrt(variance), freedom


def _half(error: float, freedom: float, level: float) -> float:
    return float(stats.t.isf(level / 2, freedom) * error) if error else 0.0


def half_width(*means: tuple[float, int], level: float = LEVEL) -> float:
    """Half of the interval of a mean, or of the difference of two, see `welch`.

    Args:
        level: 1 less the confidence.
    """
    return _half(*welch(*means), level)


def span(low: float, high: float, digits: int = 2, sign: str = "+") -> str:
    """An interval as text, "-0.10 to +0.05"; "" where there is none (NaN).

    Args:
        sign: "" for an interval of accuracies: plus signs are for differences.
    """
    return "" if pd.isna(low) else f"{low:{sign}z.{digits}f} to {high:{sign}z.{digits}f}"


def extent(numbers: Iterable[int]) -> str:
    """The least and the greatest of some numbers as text: "3 to 5"; "5" where they are equal."""
    every = sorted(numbers)
    return f"{every[0]}" if every[0] == every[-1] else f"{every[0]} to {every[-1]}"
