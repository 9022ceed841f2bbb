"""The numbers a paper printed, and the rule that compares ours with them.

`published.csv` holds one number a row. Its columns:

    paper      "Going Grayscale" (arXiv 2111.13244)
    table      the table's number in that paper, as text
    defender   what the exploiter trained on: "clean", "ULEO", "ULEO-Augs", "ULEO-Grays" or
               "ULEO-GrayAugs"
    exploiter  how it trained: "standard" ("w/o Gray" in the paper), "gray" ("w/ Gray"), "mixup",
               "bdr-2", "bdr-4", "bdr-6" (bit-depth reduction) or "at" (adversarial training)
    model      the exploiter's network, a key of `ulelib.models.MODELS`; resnet18 where the paper
               names none, except for ImageNet-100 (Table 5), where it stays empty
    setting    what else tells the numbers of one table apart: the defender's network (Tables 3, 6),
               the mixture of clean and protected data (4, 9), the data set (5), the test images (7)
    value      test accuracy in percent; in Tables 4 and 9, where unit is "points", the difference
               from the clean row of the same setting
    std, n     standard deviation and number of runs, where printed (Table 2)
    unit       "%" or "points"
    source     paper and table
    note       what a reader has to know about this number

The paper contradicts itself in places; the notes of the rows say so as well:

- ULEO under bdr-2 is 41.65 in Table 1 and 47.10 in Table 8.
- ULEO under the standard exploiter is 24.47 in Tables 1 and 2 and 24.40 in Table 8.
- ULEO-GrayAugs from resnet18 to resnet18 is 25.98 / 24.98 (standard / gray) in Table 2 and
  28.35 / 28.97 in Table 3. Both differences lie within the printed spread of Table 2.
- The caption of Table 8 announces AdvPois and ULEO-GrayAugs; the table has neither.
- The ImageNet-100 noise of Table 5 is class-wise by an error in the code, as the paper says.
- Table 7 says "PGD with 7 steps"; the released configuration has 10.

The rule (`verdict`) was fixed before any result of ours was seen. One word was added after the
second seed of the `cpu` profile, and makes it stricter: "within spread". What it covers had counted
as reproduced, so two runs of ours that lay far apart made any mean easier to reproduce.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from pandas.io.formats.style import Styler

LABELS = (
    "reproduced",
    "within spread",
    "protects more",
    "protects less",
    "lower",
    "higher",
    "reference",
    "no verdict",
)
TOLERANCE = 0.10  # share of the clean accuracy above chance
ABSENT = "—"
REFERENCE = "reference"
_EXPORTS = ("-", "exact", "as_released")

# Light tints that stay apart for colour-blind readers; the cell says the word as well.
_TINTS = {
    "reproduced": "#cfe4f7",
    "within spread": "#e6eff7",
    "protects more": "#fbe3bd",
    "protects less": "#ecd3e4",
    "lower": "#fbe3bd",
    "higher": "#ecd3e4",
    "reference": "#ececec",
    "no verdict": "#ececec",
}
_TEXT_COLUMNS = ["paper", "table", "defender", "exploiter", "model", "setting", "unit", "source"]
_CHANCE = {"5": 1.0}  # ImageNet-100; every other table of the paper is CIFAR-10


class Measured(Protocol):
    """What `comparison_table` reads of a result; `ulelib.lab.Result` has it."""

    @property
    def defender(self) -> str: ...
    @property
    def exploiter(self) -> str: ...
    @property
    def export(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def accuracy(self) -> float: ...


@dataclass(frozen=True)
class Published:
    """One printed number: percent, its standard deviation over n runs where given, its table."""

    value: float
    std: float | None
    n: int | None
    source: str


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
        spread: two standard deviations of the difference of two single runs, in the same unit.
        explanation: one sentence with these numbers.
    """

    label: str
    mean: float
    std: float | None
    n: int
    retained: float
    published_retained: float
    spread: float
    explanation: str


@cache
def _rows() -> pd.DataFrame:
    path = Path(__file__).with_name("published.csv")
    frame = pd.read_csv(path, dtype={"table": str, "n": "Int64"})
    texts = [*_TEXT_COLUMNS, "note"]
    frame[texts] = frame[texts].fillna("")
    return frame


def load() -> pd.DataFrame:
    """Every published number, one a row; columns as in the module's description."""
    return _rows().copy()


def published(table: str, **where: str) -> Published:
    """The one number of a table that fits.

    Args:
        table: "1" to "9".
        where: values of other columns, e.g. `defender="ULEO", exploiter="gray"`.

    Raises:
        ValueError: no row or several rows fit, or there is no such column; says what there is.
    """
    rows = _select(table, where)
    if len(rows) != 1:
        told = ["defender", "exploiter", "model", "setting"]
        found = rows if len(rows) else _select(table, {})
        there = "; ".join(
            ", ".join(filter(None, row)) for row in found[told].drop_duplicates().values
        )
        number = len(rows) or "no"
        raise ValueError(f"{number} numbers of Table {table} fit {where}; there is: {there}")
    return _published(rows.iloc[0])


def retained(accuracy: float, clean: float, chance: float = 10.0) -> float:
    """What protection leaves: (accuracy - chance) / (clean - chance).

    Args:
        accuracy: clean test accuracy of an exploiter, percent.
        clean: that of the standard exploiter trained on clean images in the same study, percent.
        chance: 100 / number of classes, percent.

    Returns:
        0 at chance, 1 at the clean accuracy; may lie outside by a little.

    Raises:
        ValueError: the clean accuracy is not above chance, so there is nothing to protect.
    """
    if not clean > chance:
        raise ValueError(f"clean accuracy is {clean:.2f} %, not above chance ({chance:.2f} %)")
    return (accuracy - chance) / (clean - chance)


def verdict(
    values: Sequence[float],
    clean: float,
    published: Published,
    published_clean: float,
    chance: float = 10.0,
    published_chance: float = 10.0,
    reference: bool = False,
    protected: bool = True,
) -> Verdict:
    """Compare measured accuracies with a published one, by what each study's protection leaves.

    Two studies rarely share a training budget, so accuracies are compared as shares of what the
    standard exploiter reaches on clean images in the same study (`retained`). They are

        reproduced     if the shares differ by at most 0.10,
        within spread  if they differ by more, but by at most
                       2 sqrt(s_m^2 + s_p^2),   s = std / (clean - chance), each of its own study.

    `std` is the spread of single runs, not the error of the mean, and 0 where one value (or no
    published std) gives none: "within spread" says that our run could have been one of theirs, and
    that more runs are needed to know.

    Args:
        values: measured clean test accuracies, percent, one a seed.
        clean: measured mean accuracy of the standard exploiter on clean images, percent.
        published: the number to compare with, percent.
        published_clean: that study's clean accuracy of the standard exploiter, percent.
        chance: of the measured study, percent: 100 / classes.
        published_chance: of the published study, percent.
        reference: this is the clean standard cell itself, by which all others are measured.
        protected: the images carry a perturbation; else a difference is "lower" or "higher", since
            nothing protects them.

    Returns:
        label "reproduced", "within spread", "protects more" (a smaller share is left than
        published), "protects less", "lower", "higher", "reference", or "no verdict" where the
        measured clean accuracy is not above chance (shares are then NaN).

    Raises:
        ValueError: no values, or a published clean accuracy not above chance.
    """
    if not values:
        raise ValueError("a verdict needs at least one measured accuracy")
    mean = statistics.fmean(values)
    std = statistics.stdev(values) if len(values) > 1 else None
    theirs = retained(published.value, published_clean, published_chance)
    if not clean > chance:
        text = f"the clean accuracy, {clean:.2f} %, is not above chance ({chance:.2f} %)"
        nan = math.nan
        return Verdict("no verdict", mean, std, len(values), nan, theirs, nan, text)
    ours = retained(mean, clean, chance)
    spread = 2 * math.hypot(
        (std or 0.0) / (clean - chance),
        (published.std or 0.0) / (published_clean - published_chance),
    )
    difference = ours - theirs
    # The margin keeps a difference of exactly the limit inside, whatever the last bit says.
    if reference:
        label = REFERENCE
    elif abs(difference) <= TOLERANCE + 1e-9:
        label = "reproduced"
    elif abs(difference) <= spread + 1e-9:
        label = "within spread"
    elif protected:
        label = "protects more" if difference < 0 else "protects less"
    else:
        label = "lower" if difference < 0 else "higher"
    text = (
        f"{mean:.2f} % leaves {ours:.2f} of the clean accuracy above chance, "
        f"{published.value:.2f} % ({published.source}) leaves {theirs:.2f}; "
        f"tolerance {TOLERANCE:.2f}, spread {spread:.2f}: {label}"
    )
    return Verdict(label, mean, std, len(values), ours, theirs, spread, text)


def comparison_table(
    results: Iterable[Measured], table: str = "2", chance: float = 10.0, **where: str
) -> pd.DataFrame:
    """Measured beside published, one row for each defender and export, in the paper's order.

    A variant of a defender, "ULEO-GrayAugs (released loop)", is compared with that defender's row.

    Args:
        results: e.g. of `Lab.exploit`; must hold the standard exploiter on clean images.
        table: the published table; a cell it lacks shows a dash.
        chance: of the measured study, percent: 100 / classes.
        where: other columns that single out one number a cell, e.g. `model="resnet18"`.

    Returns:
        columns ("", "defender"), ("", "export") and, for each exploiter, (exploiter, "measured")
        as "mean ± std (n)" with the sample std ("mean (1)" for one run), (exploiter, "published")
        and (exploiter, "verdict"). Clean images have export "-".

    Raises:
        ValueError: no result of the standard exploiter on clean images; the table prints
            differences or several numbers for a cell; two results for the same
            cell and seed differ.
    """
    cells = _cells(results)
    clean = cells.get(("clean", "-", "standard"))
    if clean is None:
        raise ValueError(
            "no result of the standard exploiter on clean images, by which all others are "
            'measured: add lab.exploit("clean", "standard")'
        )
    rows = _select(table, where)
    if "points" in set(rows["unit"]):
        raise ValueError(f"Table {table} prints differences, not accuracies")
    several = rows[rows.duplicated(["defender", "exploiter"], keep=False)]
    if len(several):
        raise ValueError(
            f"Table {table} has several numbers for a cell; choose by model= or setting=: "
            f"{sorted(set(several['model']))}, {sorted(set(several['setting']))}"
        )
    prints = {(row["defender"], row["exploiter"]): _published(row) for _, row in rows.iterrows()}
    if ("clean", "standard") not in prints:
        prints[("clean", "standard")] = published("1", defender="clean", exploiter="standard")
    defenders = _ordered((key[:2] for key in cells), [*rows["defender"]])
    exploiters = [e for e, _ in _ordered(((key[2], "-") for key in cells), [*rows["exploiter"]])]
    lines = []
    for defender, export in defenders:
        line = {("", "defender"): defender, ("", "export"): export}
        for exploiter in exploiters:
            values = cells.get((defender, export, exploiter))
            printed = prints.get((_row_of(defender), exploiter))
            label = ABSENT
            if values and printed:
                label = verdict(
                    values,
                    statistics.fmean(clean),
                    printed,
                    prints[("clean", "standard")].value,
                    chance,
                    _CHANCE.get(table, 10.0),
                    reference=(defender, exploiter) == ("clean", "standard"),
                    protected=defender != "clean",
                ).label
            line[(exploiter, "measured")] = _text(values) if values else ABSENT
            line[(exploiter, "published")] = _print(printed) if printed else ABSENT
            line[(exploiter, "verdict")] = label
        lines.append(line)
    frame = pd.DataFrame(lines)
    frame.columns = pd.MultiIndex.from_tuples([*frame.columns])
    return frame


def means(results: Iterable[Measured]) -> dict[tuple[str, str, str], float]:
    """Mean accuracy over the seeds, percent, by (defender, export, exploiter)."""
    return {cell: statistics.fmean(values) for cell, values in _cells(results).items()}


def verdict_counts(frame: pd.DataFrame, export: str) -> str:
    """How often each verdict stands in one export's rows, e.g. "3 reproduced, 1 protects less".

    Args:
        frame: of `comparison_table`.
        export: "exact" or "as_released"; clean images count with both.
    """
    frame = frame[frame[("", "export")].isin((export, "-"))]
    columns = [name for name in frame.columns if _last(name) == "verdict"]
    labels = [
        label for name in columns for label in frame[name] if label not in (ABSENT, REFERENCE)
    ]
    return ", ".join(f"{labels.count(label)} {label}" for label in dict.fromkeys(labels))


def style_table(frame: pd.DataFrame, caption: str | None = None) -> Styler:
    """A comparison as HTML for a page: no index; each verdict under its measured value, tinted.

    Args:
        frame: of `comparison_table`.
        caption: shown above the table.

    Returns:
        a pandas `Styler`; a notebook shows it as a table, narrow enough for a page.
    """
    shown = frame.drop(columns=[name for name in frame.columns if _last(name) == "verdict"])
    for exploiter, kind in shown.columns:
        if kind == "measured":  # a line each
            verdicts = frame[(exploiter, "verdict")].where(lambda label: label != ABSENT, "")
            shown[(exploiter, kind)] += "\n" + verdicts
        elif kind == "export":
            shown[(exploiter, kind)] = shown[(exploiter, kind)].str.replace("_", " ")
        elif kind == "defender":  # a variant on a line of its own
            shown[(exploiter, kind)] = shown[(exploiter, kind)].str.replace(" (", "\n(")
    styler = shown.style.hide(axis="index").map(_tint)
    styler = styler.set_table_styles(
        [
            {"selector": "", "props": "font-size: 0.76em;"},
            {"selector": "th, td", "props": "padding: 0.3em 0.5em; text-align: right;"},
            {"selector": "th.col_heading.level0", "props": "text-align: center;"},
            {"selector": "td", "props": "white-space: pre; vertical-align: top;"},
            {
                "selector": "caption",
                "props": "caption-side: top; text-align: left; padding-bottom: 0.5em;",
            },
        ]
    )
    texts = [name for name in shown.columns if _last(name) in ("defender", "export")]
    styler = styler.set_properties(subset=texts, **{"text-align": "left"})
    return styler.set_caption(caption) if caption else styler


def _select(table: str, where: Mapping[str, str]) -> pd.DataFrame:
    rows = _rows()
    unknown = sorted(set(where) - set(rows.columns))
    if unknown:
        raise ValueError(f"no column {unknown}; choose from {[*rows.columns]}")
    tables = sorted(set(rows["table"]))
    if str(table) not in tables:
        raise ValueError(f"no Table {table!r}; choose from {tables}")
    rows = rows[rows["table"] == str(table)]
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return rows


def _published(row: pd.Series[Any]) -> Published:
    std, n = row["std"], row["n"]
    return Published(
        value=float(row["value"]),
        std=None if pd.isna(std) else float(std),
        n=None if pd.isna(n) else int(n),
        source=str(row["source"]),
    )


def _cells(results: Iterable[Measured]) -> dict[tuple[str, str, str], list[float]]:
    """Accuracies by (defender, export, exploiter), ordered by seed."""
    seeds: dict[tuple[str, str, str], dict[int, float]] = {}
    for result in results:
        export = "-" if result.defender == "clean" else result.export
        cell = seeds.setdefault((result.defender, export, result.exploiter), {})
        # A result given twice counts once; two different ones are two profiles mixed up.
        if cell.setdefault(result.seed, result.accuracy) != result.accuracy:
            raise ValueError(
                f"{result.defender}, {result.exploiter}, seed {result.seed} has two accuracies: "
                "compare the results of one profile at a time"
            )
    return {key: [cell[seed] for seed in sorted(cell)] for key, cell in seeds.items()}


def _ordered(keys: Iterable[tuple[str, str]], order: Sequence[str]) -> list[tuple[str, str]]:
    """Distinct (name, export): by the name's place in `order` (others behind), then by export."""
    distinct = list(dict.fromkeys(keys))
    known = list(dict.fromkeys(order))
    rows = {key: _row_of(key[0]) for key in distinct}
    place = {key: known.index(row) if row in known else len(known) for key, row in rows.items()}
    return sorted(distinct, key=lambda key: (place[key], key[0], _EXPORTS.index(key[1])))


def _row_of(defender: str) -> str:
    return defender.split(" (")[0]


def _text(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.2f} (1)"
    return f"{mean:.2f} ± {statistics.stdev(values):.2f} ({len(values)})"


def _print(number: Published) -> str:
    std = "" if number.std is None else f" ± {number.std:.2f}"
    n = "" if number.n is None else f" ({number.n})"
    return f"{number.value:.2f}{std}{n}"


def _tint(cell: object) -> str:
    tint = _TINTS.get(str(cell).split("\n")[-1])
    return f"background-color: {tint}; color: #1a1a1a;" if tint else ""


def _last(name: object) -> object:
    return name[-1] if isinstance(name, tuple) else name
