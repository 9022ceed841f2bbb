"""The numbers a paper printed, and the rule that compares ours with them.

`published.csv` holds one number a row. Its columns:

    paper      "Going Grayscale" (arXiv 2111.13244), or "MI-UE": an ICLR 2026 paper that prints
               numbers of *Transferable Unlearnable Examples*, whose own tables could not be had;
               they were read in notes on it, not in the paper itself
    table      the table's number in that paper, as text; "MI-UE CIFAR-10" and others
    defender   what the exploiter trained on: "clean", "ULEO", "ULEO-Augs", "ULEO-Grays",
               "ULEO-GrayAugs", "AdvPois" or "TUE"
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
    chance     what guessing reaches on that data set, in percent
    note       what a reader has to know about this number

The paper contradicts itself in places; the notes of the rows say so as well:

- ULEO under bdr-2 is 41.65 in Table 1 and 47.10 in Table 8.
- ULEO under the standard exploiter is 24.47 in Tables 1 and 2 and 24.40 in Table 8.
- ULEO-GrayAugs from resnet18 to resnet18 is 25.98 / 24.98 (standard / gray) in Table 2 and
  28.35 / 28.97 in Table 3. Both differences lie within the printed spread of Table 2.
- The caption of Table 8 announces AdvPois and ULEO-GrayAugs; the table has neither.
- The ImageNet-100 noise of Table 5 is class-wise by an error in the code, as the paper says.
- Table 7 says "PGD with 7 steps"; the released configuration has 10.

The rule of comparison is `verdict`: fewer than three runs decide nothing, and from three on the
interval of the difference does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler
from scipy import stats

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
NEAR = 0.10  # share of the clean accuracy above chance, for fewer than three runs
MARGIN = 0.15  # the same, that the whole interval must lie within from three runs on
# Differences from clean of the same setting (Tables 4 and 9) are small: with the margins above, a
# study without any effect would reproduce most of them.
NEAR_POINTS, MARGIN_POINTS = 0.02, 0.03
CONFIDENCE = 0.95
ENOUGH = 3  # runs from which on an interval decides
ABSENT = "—"
REFERENCE = "reference"
CLEAN = "clean"

# Light tints that stay apart for colour-blind readers; the cell says the word as well.
_TINTS = {
    "reproduced": "#cfe4f7",
    "near": "#e6eff7",
    "protects more": "#fbe3bd",
    "lower": "#fbe3bd",
    "protects less": "#ecd3e4",
    "higher": "#ecd3e4",
    "far": "#f3ecd9",
    "open": "#ececec",
    "reference": "#ececec",
    "no verdict": "#ececec",
}
COMPARED = (  # what `compare` says of a cell
    *("mean", "std", "n", "values"),
    *("value", "printed_std", "printed_n", "unit", "model", "published_setting", "points"),
    *("label", "retained", "published_retained", "low", "high"),
)
_TEXT_COLUMNS = ["paper", "table", "defender", "exploiter", "model", "setting", "unit", "source"]


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
        table: "1" to "9", or another of `published.csv`.
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


def retained(accuracy: float, clean: float, chance: float) -> float:
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
    chance: float,
    published: Published,
    published_clean: float,
    published_chance: float,
    *,
    pooled: tuple[float, int] | None = None,
    protected: bool = True,
    margins: tuple[float, float] = (NEAR, MARGIN),
) -> Verdict:
    """Compare measured accuracies with a published one, by what each study's protection leaves.

    Two studies rarely share a training budget, so accuracies are compared as shares of what the
    standard exploiter reaches on clean images in the same study (`retained`).

    Below three runs the label is "near" if the shares differ by at most 0.10, else "far", and no
    more is said. From three runs on the Welch interval (95 %) of the difference of the means
    decides: "reproduced" where it lies within 0.15 on both sides; "protects more" (a smaller share
    is left than published) or "protects less" where it does not and leaves out 0; else "open": more
    runs of ours may settle it, as far as the paper's own spread allows. Where the paper prints no
    spread, a single run's is taken to be ours. The clean accuracies by which shares are measured
    count as known.

    Args:
        values: measured clean test accuracies, percent, one a seed.
        clean: measured mean accuracy of the standard exploiter on clean images, percent.
        chance: of the measured study, percent: 100 / classes.
        published: the number to compare with, percent.
        published_clean: that study's clean accuracy of the standard exploiter, percent.
        published_chance: of the published study, percent.
        pooled: spread of a single run of ours, points, and its degrees of freedom, over the
            protected cells of the page; for a number of protected images that the paper prints
            without a spread. None: those of `values`.
        margins: the two limits, 0.10 and 0.15 unless said.
        protected: the images carry a perturbation; else a difference is "lower" or "higher", since
            nothing protects them.

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
        # The margin keeps a difference of exactly the limit inside, whatever the last bit says.
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
    if low >= -margins[1] and high <= margins[1]:
        label = "reproduced"
    elif low > 0 or high < 0:
        less, more = ("protects more", "protects less") if protected else ("lower", "higher")
        label = less if difference < 0 else more
    else:
        label = "open"
    return Verdict(label, mean, std, n, ours, theirs, low, high)


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
    """An interval as a table shows it, "-0.10 to +0.05"; "" where there is none."""
    return "" if pd.isna(low) else f"{low:+.{digits}f} to {high:+.{digits}f}"


def compare(
    frame: pd.DataFrame,
    table: str,
    by: Sequence[str] = ("defender", "export", "exploiter"),
) -> pd.DataFrame:
    """Every measured cell beside the published number that it stands for, one a row.

    A cell stands for the number of its defender, exploiter, network and setting. A variant, such as
    "ULEO-GrayAugs (released loop)" or "at (released)", stands for the row of its name up to " (";
    the fast network of the small profiles for the paper's ResNet-18; a narrow network for the whole
    one. In Tables 3 and 6 the setting is the source network.

    What protection leaves is measured by the clean accuracy of the standard exploiter with the same
    network; in Tables 4, 7 and 9 by clean images in the same setting with the same exploiter.
    Where the paper prints a difference (Tables 4 and 9), it is added to its clean row, and the
    verdict's limits are 0.02 and 0.03.

    Args:
        frame: of `Lab.table`; must hold the standard exploiter on clean images. Columns net, source
            and setting may be missing.
        table: the published table.
        by: the columns that make a cell.

    Returns:
        columns `by`; mean, std, n, values (see `measured`); of the print, NaN or "" where there is
        none: value, printed_std, printed_n, unit, model, published_setting; points, our difference
        from clean where the paper prints one; and of the verdict: label ("" without a print,
        "reference" for what others are measured by), retained, published_retained, low, high.

    Raises:
        ValueError: no result of the standard exploiter on clean images; several results for one
            cell and seed; no such table.
    """
    frame = frame.assign(
        **{name: "-" for name in ("net", "source", "setting") if name not in frame}
    )
    prints = _select(table, {})
    whole = frame.query("defender == 'clean' and exploiter == 'standard' and setting == '-'")
    if whole.empty:
        raise ValueError(
            "no result of the standard exploiter on clean images, by which all others are "
            'measured: add lab.cells(["clean"], ["standard"])'
        )
    cells = measured(frame, by)
    names_of = ["defender", "exploiter", "net", "source", "setting"]
    about = frame.groupby([*by], sort=False)[names_of].first().loc[cells.index]
    pooled = _pooled(cells[about["defender"] != CLEAN])
    chance = float(whole["chance"].iloc[0])
    lines = []
    for key, cell in cells.iterrows():
        names = about.loc[key]
        line = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True)) | dict(cell)
        line |= dict.fromkeys(("label", "unit", "model", "published_setting"), "")
        there = _printed_for(prints, names)
        if there is not None:
            ours, theirs = _references(frame, whole, prints, names, there)
            line |= _beside(cell, names["defender"], there, ours, theirs, chance, pooled)
        lines.append(line)
    compared = pd.DataFrame(lines).reindex(columns=[*by, *COMPARED])
    order = list(dict.fromkeys(prints["defender"]))

    def rank(place: int) -> tuple[int, str]:
        """In the paper's order of defenders, a variant behind its own, others at the end."""
        name = about["defender"].iloc[place]
        return (order.index(row_of(name)) if row_of(name) in order else len(order), name)

    return compared.iloc[sorted(range(len(compared)), key=rank)].reset_index(drop=True)


def _beside(
    cell: pd.Series[Any],
    defender: str,
    there: pd.Series[Any],
    ours: float,
    theirs: pd.Series[Any],
    chance: float,
    pooled: tuple[float, int] | None,
) -> dict[str, Any]:
    """What `compare` says of a measured cell beside the print that it stands for.

    Args:
        there, theirs: rows of `published.csv`: the print, and the clean one that it is measured by.
        ours: the measured accuracy that stands for `theirs`.
        pooled: the spread of all protected cells, see `verdict`.
    """
    line = {
        "value": float(there["value"]),
        "printed_std": float(there["std"]),
        "printed_n": None if pd.isna(there["n"]) else int(there["n"]),
        "unit": there["unit"],
        "model": there["model"],
        "published_setting": there["setting"],
    }
    printed, margins = _published(there), (NEAR, MARGIN)
    if there["unit"] == "points":
        line["points"] = cell["mean"] - ours
        printed = replace(printed, value=theirs["value"] + printed.value)
        margins = (NEAR_POINTS, MARGIN_POINTS)
    if there.name == theirs.name:  # the same row of `published.csv`
        return line | {"label": REFERENCE}
    protected = defender != CLEAN
    told = verdict(
        cell["values"],
        ours,
        chance,
        printed,
        theirs["value"],
        there["chance"],
        pooled=pooled if protected else None,
        protected=protected,
        margins=margins,
    )
    names = ("label", "retained", "published_retained", "low", "high")
    return line | {name: getattr(told, name) for name in names}


def comparison_table(
    frame: pd.DataFrame,
    table: str = "2",
    rows: Sequence[str] = ("defender", "export"),
    columns: Sequence[str] = ("exploiter",),
) -> pd.DataFrame:
    """Measured beside published, a table as the paper prints it: `compare`, laid out.

    Args:
        frame, table: see `compare`; a cell that the table lacks shows a dash.
        rows: the columns that tell the table's rows apart.
        columns: those that tell its columns apart.

    Returns:
        columns ("", name) for `rows` and, for each of `columns`, (its name, "measured") as
        "mean ± std (n)" with the sample std ("mean (1)" for one run), or the difference from clean
        where the paper prints one; (name, "published"), (name, "verdict") and (name, "interval"),
        of the difference of the shares left.

    Raises:
        ValueError: see `compare`.
    """
    compared = compare(frame, table, [*rows, *columns])
    heads = compared[[*columns]].astype(str).agg(_head, axis=1)
    lines: dict[Any, dict[tuple[str, str], str]] = {}
    for (_, cell), head in zip(compared.iterrows(), heads, strict=True):
        key = tuple(cell[[*rows]])
        blank = {
            (other, name): ABSENT
            for other in heads.unique()
            for name in ("measured", "published", "verdict", "interval")
        }
        names = dict(zip([("", name) for name in rows], key, strict=True))
        lines.setdefault(key, names | blank).update(
            {(head, name): text for name, text in _texts(cell).items()}
        )
    laid_out = pd.DataFrame(list(lines.values()))
    laid_out.columns = pd.MultiIndex.from_tuples([*laid_out.columns])
    return laid_out


def _head(names: Sequence[str]) -> str:
    """What a column is, without what it is not: clean images have no export."""
    return ", ".join(name for name in names if name != "-") or "-"


def measured(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean, std, n and the single values of `accuracy`, percent, for each cell.

    Args:
        frame: of `Lab.table`.
        by: the columns that make a cell.

    Returns:
        a frame with `by` as index and the columns mean, std (NaN for one run), n and values.

    Raises:
        ValueError: a cell has two results for one seed: of other data or networks.
    """
    twice = frame[frame.duplicated([*by, "seed"], keep=False)]
    if len(twice):
        names = ", ".join(map(str, twice.iloc[0][[*by, "seed"]]))
        raise ValueError(
            f"{names}: several results for one cell. Compare one data set and one pair of networks "
            "at a time"
        )
    ordered = frame.sort_values("seed", kind="stable")
    return ordered.groupby([*by], sort=False)["accuracy"].agg(
        mean="mean", std="std", n="count", values=list
    )


def means(frame: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """Mean accuracy over the seeds, percent, by (defender, export, exploiter).

    Plain numbers: a page that glues one of numpy's into its text cannot be built.
    """
    found: dict[Any, float] = measured(frame, ["defender", "export", "exploiter"])["mean"].to_dict()
    return found


def verdict_counts(frame: pd.DataFrame, export: str) -> str:
    """How often each verdict stands in one export's rows, e.g. "3 reproduced, 1 protects less".

    Args:
        frame: of `comparison_table`.
        export: "exact" or "as_released"; clean images have none and do not count.
    """
    rows = frame[frame[("", "export")] == export]
    verdicts = rows.xs("verdict", axis=1, level=1).to_numpy().ravel()
    counts = pd.Series(verdicts)[lambda label: ~label.isin([ABSENT, REFERENCE])].value_counts()
    return ", ".join(f"{n} {label}" for label, n in counts.items())


def style_table(frame: pd.DataFrame, caption: str | None = None) -> Styler:
    """A comparison as HTML for a page: no index; each verdict under its measured value, tinted.

    Args:
        frame: of `comparison_table`. Up to three exploiters have the published number in a column
            of its own; more fit a page with it under the measured one.
        caption: shown above the table.

    Returns:
        a pandas `Styler`; a notebook shows it as a table, narrow enough for a page.
    """
    below = {"interval": "", "verdict": ""}  # a line each, and what stands before it
    if [kind for _, kind in frame.columns].count("measured") > 3:
        below = {"published": "published "} | below
    shown = frame[[name for name in frame.columns if name[-1] not in below]].copy()
    for first, kind in shown.columns:
        if kind == "measured":
            for name, before in below.items():
                text = frame[(first, name)]
                shown[(first, kind)] += ("\n" + before + text).where(text != ABSENT, "")
        elif kind == "export":
            shown[(first, kind)] = shown[(first, kind)].str.replace("_", " ")
        elif kind == "defender":  # a variant on a line of its own
            shown[(first, kind)] = shown[(first, kind)].str.replace(" (", "\n(")
    rules = {
        "th, td": "padding: 0.3em 0.5em; text-align: right;",
        "th.col_heading.level0": "text-align: center;",
        "td": "white-space: pre; vertical-align: top;",
    }
    texts = [name for name in shown.columns if not name[0]]
    styler = styled(shown, caption, 0.76, rules).map(tint)
    return styler.set_properties(subset=texts, **{"text-align": "left"})


def styled(
    shown: pd.DataFrame, caption: str | None, size: float, rules: Mapping[str, str]
) -> Styler:
    """A table of the book: no index, its caption above it.

    Args:
        size: of its letters, in those of the page.
        rules: CSS properties by selector.
    """
    whole = {"": f"font-size: {size}em;", **rules}
    whole["caption"] = "caption-side: top; text-align: left; padding-bottom: 0.5em;"
    styler = shown.style.hide(axis="index").set_table_styles(
        [{"selector": selector, "props": props} for selector, props in whole.items()]
    )
    return styler.set_caption(caption) if caption else styler


def row_of(defender: str) -> str:
    """The defender whose published row a variant is compared with: its name up to " ("."""
    return defender.split(" (")[0]


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


def model_of(net: str) -> str:
    """The paper's network that one of ours stands for, by its name in a table.

    `convnet`, the fast one, stands for ResNet-18, and a network of other width for the whole one.
    """
    name = net.split(" (")[0]
    return "resnet18" if name in ("convnet", "-") else name


def _printed_for(prints: pd.DataFrame, names: pd.Series[Any]) -> pd.Series[Any] | None:
    """The one print that a cell stands for; None where its table has none."""
    by_source = prints["setting"].str.startswith("generator").any()
    settings = prints["setting"].unique()
    setting = names["setting"]
    if setting == "-":
        setting = settings[0] if len(settings) == 1 else ""
        if by_source and names["defender"] != CLEAN:
            setting = f"generator {model_of(names['source'])}"
    fits = prints[
        (prints["defender"] == row_of(names["defender"]))
        & (prints["exploiter"] == row_of(names["exploiter"]))
        & prints["model"].isin((model_of(names["net"]), ""))
        & (prints["setting"] == setting)
    ]
    return None if fits.empty else fits.iloc[0]


def _references(
    frame: pd.DataFrame,
    whole: pd.DataFrame,
    prints: pd.DataFrame,
    names: pd.Series[Any],
    there: pd.Series[Any],
) -> tuple[float, pd.Series[Any]]:
    """The clean accuracies by which a cell and its print are measured: ours, and the print."""
    clean = prints[prints["defender"] == CLEAN]
    own = clean[
        (clean["exploiter"] == there["exploiter"])
        & (clean["setting"] == there["setting"])
        & (clean["model"] == there["model"])
    ]
    if there["table"] in ("4", "7", "9") and names["defender"] != CLEAN:
        alike = (
            (frame["defender"] == CLEAN)
            & (frame["exploiter"] == names["exploiter"])
            & (frame["setting"] == names["setting"])
        )
        if not alike.any():
            raise ValueError(
                f"no result on clean images for {names['exploiter']}, {names['setting']}, by which "
                f"those of {names['defender']} are measured"
            )
        return float(frame.loc[alike, "accuracy"].mean()), own.iloc[0]
    same = whole[whole["net"] == names["net"]]
    if same.empty:
        raise ValueError(
            f"no result of the standard exploiter with {names['net']} on clean images, by which "
            f"that on {names['defender']} is measured"
        )
    ours = float(same["accuracy"].mean())
    model = there["model"]
    standard = clean[(clean["exploiter"] == "standard") & clean["model"].isin((model, ""))]
    standard = standard[~standard["setting"].str.contains("clean|test")]
    if standard.empty:  # the table has no such row: Table 6 has every network's
        standard = _select("6", {"defender": CLEAN, "model": model})
    return ours, standard.iloc[0]


def _published(row: pd.Series[Any]) -> Published:
    std, n = row["std"], row["n"]
    return Published(
        value=float(row["value"]),
        std=None if pd.isna(std) else float(std),
        n=None if pd.isna(n) else int(n),
        source=str(row["source"]),
    )


def _pooled(cells: pd.DataFrame) -> tuple[float, int] | None:
    """Standard deviation of a single run, over cells of several runs each, and its freedom."""
    several = cells[cells["n"] > 1]
    if several.empty:
        return None
    freedom = several["n"] - 1
    degrees = int(freedom.sum())
    return math.sqrt((freedom * several["std"] ** 2).sum() / degrees), degrees


def _texts(cell: pd.Series[Any]) -> dict[str, str]:
    """A cell of `compare`, as a table shows it."""
    spread = "" if cell["n"] == 1 else f" ± {cell['std']:.2f}"
    in_points = cell["unit"] == "points"
    value = f"{cell['points']:+.2f}" if in_points else f"{cell['mean']:.2f}"
    texts = {"measured": f"{value}{spread} ({cell['n']})"}
    if cell["label"]:
        std = "" if pd.isna(cell["printed_std"]) else f" ± {cell['printed_std']:.2f}"
        n = "" if pd.isna(cell["printed_n"]) else f" ({cell['printed_n']:.0f})"
        printed = f"{cell['value']:+.2f}" if in_points else f"{cell['value']:.2f}"
        texts |= {"published": f"{printed}{std}{n}", "verdict": cell["label"]}
    if not pd.isna(cell["low"]):
        texts["interval"] = span(cell["low"], cell["high"])
    return texts


def tint(cell: object, tints: Mapping[str, str] = _TINTS) -> str:
    """The style of a cell whose last line is a verdict, a key of `tints`; "" for any other."""
    colour = tints.get(str(cell).split("\n")[-1])
    return f"background-color: {colour}; color: #1a1a1a;" if colour else ""
