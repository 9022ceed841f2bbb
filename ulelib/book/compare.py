"""Measured accuracies compared with printed numbers, each with its verdict.

compare(frame, "2")             one row a cell, numbers
comparison_table(frame, "2")    the same as text, laid out as the paper prints it
measured(frame, by), means(frame)    means over the seeds alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ulelib.book.printed import (
    SETTING,
    clean_like,
    model_of,
    number_of,
    reference_of,
    row_of,
    same_number,
    table_rows,
)
from ulelib.book.verdict import (
    ENOUGH,
    REFERENCE,
    UNDECIDED,
    Verdict,
    decide,
    half_width,
    span,
)
from ulelib.book.verdict import measured as beside
from ulelib.defenders import CLEAN

ABSENT = "—"  # stands for a missing number
VARIANT = "a variant of the paper's setting"
NAMES = ["defender", "exploiter", "net", "source", "setting"]  # what a print is found by
PRINTED = (
    *("value", "printed_std", "printed_n", "unit", "model", "published_setting"),
    *("points", "points_std"),
)
# Of the verdict; a page takes these from the one place that judges its table.
JUDGED = ("label", "low", "high", "margin", "further", "knife_edge")
COMPARED = (  # the columns that `compare` adds to the names of a cell
    *("mean", "std", "n", "values", "seeds", "keys"),
    *PRINTED,
    *("retained", "published_retained"),
    *JUDGED,
)


def compare(
    frame: pd.DataFrame,
    table: str,
    by: Sequence[str] = ("defender", "export", "exploiter"),
    elsewhere: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Every measured cell beside the published number that it stands for, one a row.

    A cell stands for the number of its defender, exploiter, network and setting (`_printed_for`).
    What protection leaves is measured against the clean row that `printed.csv` names as the
    number's reference, and against our own runs of the same (`_our_reference`). Where the paper
    prints a difference (Tables 4 and 9), it is added to its clean row.

    Args:
        frame: of `Lab.table`; must hold the standard exploiter on clean images. Columns net, source
            and setting may be missing.
        table: the published table.
        by: the columns that make a cell.
        elsewhere: `compare` of other tables. A number that one of these prints with its spread
            (`printed.same_number`) has its verdict from there. All other cells are judged together,
            each export for itself.

    Returns:
        columns `by`; those of `measured`; of the print, NaN or "" without one: value, printed_std,
        printed_n, unit, model, published_setting; points, our difference from clean where the paper
        prints one, and points_std, of the differences seed by seed (NaN where a seed lacks its
        clean run); and of the verdict (see `verdict.Verdict`): retained, published_retained, label
        ("" for none, "reference" for what others are measured against) and the rest of `JUDGED`.

    Raises:
        ValueError: no result of the standard exploiter on clean images; several results for one
            cell and seed; no such table.
    """
    frame = frame.assign(**{name: "-" for name in NAMES[2:] if name not in frame})
    prints = table_rows(table)
    whole = _standard_on_clean(frame)
    cells = measured(frame, by)
    names = frame.groupby([*by], sort=False)[NAMES].first().loc[cells.index]
    lines, tables = [], dict[str, dict[int, Verdict]]()
    for place, (key, cell) in enumerate(cells.iterrows()):
        named, keys = names.iloc[place], key if isinstance(key, tuple) else (key,)
        line = dict(zip(by, keys, strict=True)) | dict(cell)
        line |= dict.fromkeys(("label", "unit", "model", "published_setting"), "")
        number = _printed_for(prints, named)
        if number is not None:
            clean = _our_reference(frame, whole, named, number)
            chance = min(float(whole["chance"].iloc[0]), float(number["chance"]))
            line |= _printed(cell, number, clean)
            if reference_of(number).name == number.name:  # the same row of `printed.csv`
                line["label"] = REFERENCE
            elif there := _found(None if same_number(number) is None else elsewhere, cell["keys"]):
                line |= _of_verdict(_beside(cell, number, clean.mean(), chance)) | there
            else:
                mine = tables.setdefault(_other_export(line, number), {})
                mine[place] = _beside(cell, number, clean.mean(), chance)
        lines.append(line)
    for verdicts in tables.values():
        for place, found in zip(verdicts, decide([*verdicts.values()]), strict=True):
            lines[place] |= _of_verdict(found)
    return _in_order(lines, by, names, prints)


def _in_order(
    lines: list[dict[str, Any]], by: Sequence[str], names: pd.DataFrame, prints: pd.DataFrame
) -> pd.DataFrame:
    """The lines of `compare` as its frame, in the paper's order."""
    compared = pd.DataFrame(lines).reindex(columns=[*by, *COMPARED])
    compared["label"] = compared["label"].fillna("")
    order = _order(names["defender"].tolist(), prints["defender"].unique().tolist())
    return compared.iloc[order].reset_index(drop=True)


def _other_export(line: Mapping[str, Any], number: pd.Series[Any]) -> str:
    """The export of a cell where the print stands for another one; else ""."""
    export = str(line.get("export", "-"))
    return export if export not in ("-", number["export"]) else ""


def _of_verdict(found: Verdict) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ("retained", "published_retained", *JUDGED)}


def _found(compared: pd.DataFrame | None, keys: Sequence[str]) -> dict[str, Any] | None:
    """The verdict of the cell that shares a run with `keys`; None where none does."""
    if compared is None:
        return None
    for cell in compared[[*JUDGED, "keys"]].to_dict("records"):
        if not set(cell.pop("keys")).isdisjoint(keys):
            return {str(name): value for name, value in cell.items()}
    return None


def looked_up(compared: pd.DataFrame, family: pd.DataFrame) -> pd.DataFrame:
    """Cells of a page with the verdicts that they have in the book.

    Args:
        compared: of `compare`.
        family: of `scoreboard.judged`. A cell has the verdict of the cell there that shares a run
            with it, and none where none does: a variant is no reproduction of what the paper ran.

    Returns:
        `compared` with these verdicts, and a column variant: no cell of `family` shares a run.
    """
    nothing = dict.fromkeys(JUDGED, float("nan")) | {"label": "", "knife_edge": False}
    known = [REFERENCE if label == REFERENCE else "" for label in compared["label"]]
    there = [_found(family, keys) for keys in compared["keys"]]
    found = [one or nothing for one in there]
    changed = pd.DataFrame(found, index=compared.index)[[*JUDGED]]
    changed["label"] = [own or label for own, label in zip(known, changed["label"], strict=True)]
    variant = [one is None for one in there]
    return compared.assign(variant=variant, **{name: changed[name] for name in JUDGED})


def _standard_on_clean(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the standard exploiter on all clean images.

    Raises:
        ValueError: there are none.
    """
    rows = frame[
        (frame["defender"] == CLEAN)
        & (frame["exploiter"] == "standard")
        & (frame["setting"] == "-")
    ]
    if rows.empty:
        raise ValueError(
            "no result of the standard exploiter on clean images, by which all others are "
            'measured: add lab.cells(["clean"], ["standard"])'
        )
    return rows


def _order(defenders: list[str], printed: list[str]) -> list[int]:
    """The places of `defenders` in the paper's order, a variant behind its own, others at the end.

    Args:
        printed: the defenders of the table, in the paper's order.
    """

    def rank(place: int) -> tuple[int, str]:
        name = defenders[place]
        row = row_of(name)
        return (printed.index(row) if row in printed else len(printed), name)

    return sorted(range(len(defenders)), key=rank)


def _printed_for(prints: pd.DataFrame, named: pd.Series[Any]) -> pd.Series[Any] | None:
    """The one print that a cell stands for; None where its table has none.

    A variant, such as "ULEO-GrayAugs (released loop)" or "at (released)", stands for the row of its
    name up to " ("; the fast network of the small profiles for the paper's ResNet-18; a narrow
    network for the whole one. In Tables 3 and 6 the setting is the source network.

    Args:
        prints: the rows of a table.
        named: the cell's `NAMES`.
    """
    by_source = prints["setting"].str.startswith("generator").any()
    settings = prints["setting"].unique()
    setting = named["setting"]
    if setting == "-":
        setting = settings[0] if len(settings) == 1 else ""
        if by_source and named["defender"] != CLEAN:
            setting = f"generator {model_of(named['source'])}"
    fits = prints[
        (prints["defender"] == row_of(named["defender"]))
        & (prints["exploiter"] == row_of(named["exploiter"]))
        & prints["model"].isin((model_of(named["net"]), ""))
        & (prints["setting"] == setting)
    ]
    return None if fits.empty else fits.iloc[0]


def _our_reference(
    frame: pd.DataFrame, whole: pd.DataFrame, named: pd.Series[Any], number: pd.Series[Any]
) -> pd.Series[float]:
    """Our accuracies on clean images that a cell is measured against, percent, by seed: of the
    standard exploiter with the same network, or of the same exploiter in the same setting (Tables
    4, 7, 9).

    Args:
        whole: its rows of the standard exploiter on all clean images.
        named: the cell's `NAMES`.
        number: the print that it stands for.

    Raises:
        ValueError: the frame lacks it.
    """
    if number["reference"] == SETTING:
        alike = frame[
            (frame["defender"] == CLEAN)
            & (frame["exploiter"] == named["exploiter"])
            & (frame["setting"] == named["setting"])
        ]
        if alike.empty:
            raise ValueError(
                f"no result on clean images for {named['exploiter']}, {named['setting']}, by which "
                f"those of {named['defender']} are measured"
            )
        return alike.set_index("seed")["accuracy"]
    same = whole[whole["net"] == named["net"]]
    if same.empty:
        raise ValueError(
            f"no result of the standard exploiter with {named['net']} on clean images, by which "
            f"that on {named['defender']} is measured"
        )
    return same.set_index("seed")["accuracy"]


def _printed(
    cell: pd.Series[Any], number: pd.Series[Any], clean: pd.Series[float]
) -> dict[str, Any]:
    """The columns of `compare` that show a print: `PRINTED`.

    Args:
        cell: a row of `measured`.
        number: the row of `printed.csv` that the cell stands for.
        clean: our accuracies on clean images that the cell is measured against, of
            `_our_reference`.
    """
    line = {
        "value": float(number["value"]),
        "printed_std": float(number["std"]),
        "printed_n": None if pd.isna(number["n"]) else int(number["n"]),
        "unit": number["unit"],
        "model": number["model"],
        "published_setting": number["setting"],
    }
    if number["unit"] != "points":
        return line
    pairs = pd.Series(cell["values"], cell["seeds"]) - clean.reindex(cell["seeds"])
    return line | {"points": cell["mean"] - clean.mean(), "points_std": pairs.std(skipna=False)}


def _beside(cell: pd.Series[Any], number: pd.Series[Any], clean: float, chance: float) -> Verdict:
    """A cell beside the number that it stands for, undecided; arguments as of `_printed`.

    Args:
        clean: the mean of those accuracies.
        chance: what guessing reaches, percent; 0 under an attack.
    """
    reference, printed = reference_of(number), number_of(number)
    if number["unit"] == "points":
        printed = replace(printed, value=reference["value"] + printed.value)
    return beside(
        cell["values"],
        clean,
        chance,
        printed,
        reference["value"],
        number["chance"],
        unprotected=clean_like(number),
        protected=number["defender"] != CLEAN,
    )


def measured(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean, std, n and the single values of `accuracy`, percent, for each cell, and its runs.

    Args:
        frame: of `Lab.table`.
        by: the columns that make a cell.

    Returns:
        a frame with `by` as index and the columns mean, std (NaN for one run), n; values, seeds
        and keys of the runs, in the order of the seeds; no keys where `frame` names none.

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
    grouped = ordered.groupby([*by], sort=False)
    found = grouped["accuracy"].agg(mean="mean", std="std", n="count", values=list)
    keys = grouped["key"].agg(list) if "key" in frame else [[] for _ in found.n]
    return found.assign(seeds=grouped["seed"].agg(list), keys=keys)


def means(frame: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """Mean accuracy over the seeds, percent, by (defender, export, exploiter).

    Python floats: jupyter-book cannot build a page that glues a numpy number into its text.
    """
    found: dict[Any, float] = measured(frame, ["defender", "export", "exploiter"])["mean"].to_dict()
    return found


def said(
    frame: pd.DataFrame, by: Sequence[str] = ("defender", "export", "exploiter")
) -> dict[Any, str]:
    """For sentences: each cell's mean with its 95 % interval over the seeds, e.g. "62.6 % (n = 5,
    95 % interval 57 to 68)"; below three runs "62.6 % (n = 2)"; "10.0 % (n = 5, every run)".

    Args:
        frame: of `Lab.table`.
        by: the columns that make a cell, and so the keys.
    """
    texts: dict[Any, str] = {}
    for key, cell in measured(frame, by).iterrows():
        surely = f"n = {cell['n']}"
        if cell["n"] > 1 and len({f"{run:.1f}" for run in cell["values"]}) == 1:
            surely += ", every run"
        elif cell["n"] >= ENOUGH:
            half = half_width((cell["std"] / cell["n"] ** 0.5, cell["n"] - 1))
            low, high = max(0.0, cell["mean"] - half), min(100.0, cell["mean"] + half)
            digits = 1 if half < 1 else 0
            surely += f", 95 % interval {low:.{digits}f} to {high:.{digits}f}"
        texts[key] = f"{cell['mean']:.1f} % ({surely})"
    return texts


def comparison_table(
    frame: pd.DataFrame,
    table: str = "2",
    rows: Sequence[str] = ("defender", "export"),
    columns: Sequence[str] = ("exploiter",),
    family: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Measured beside published, a table as the paper prints it: `compare`, laid out.

    Args:
        frame, table: see `compare`; a number that the table lacks is a dash.
        family: `scoreboard.judged` of the table, for `looked_up`; None: the cells of `frame` are
            judged together.
        rows: the columns that distinguish the table's rows.
        columns: those that distinguish its columns.

    Returns:
        columns ("", name) for `rows` and, for each of `columns`, (its name, "measured") as
        "mean ± std (n)" with the sample std ("mean (1)" for one run), or the difference from clean
        where the paper prints one; (name, "shown"), the same with one digit; (name, "published");
        (name, "verdict"); and (name, "interval"), of the difference of the shares left, with the
        margin and what else would decide, or why there is no verdict.

    Raises:
        ValueError: see `compare`.
    """
    compared = compare(frame, table, [*rows, *columns])
    if family is not None:
        compared = looked_up(compared, family)
    heads = compared[[*columns]].astype(str).agg(_head, axis=1)
    lines: dict[Any, dict[tuple[str, str], str]] = {}
    for (_, cell), head in zip(compared.iterrows(), heads, strict=True):
        key = tuple(cell[[*rows]])
        blank = {
            (other, name): ABSENT
            for other in heads.unique()
            for name in ("measured", "shown", "published", "verdict", "interval")
        }
        names = dict(zip([("", name) for name in rows], key, strict=True))
        lines.setdefault(key, names | blank).update(
            {(head, name): text for name, text in _texts(cell).items()}
        )
    laid_out = pd.DataFrame(list(lines.values()))
    laid_out.columns = pd.MultiIndex.from_tuples([*laid_out.columns])
    return laid_out


def _head(names: Sequence[str]) -> str:
    """The head of a column, without names that are "-": clean images have no export."""
    return ", ".join(name for name in names if name != "-") or "-"


def _texts(cell: pd.Series[Any]) -> dict[str, str]:
    """The texts of a cell of `compare`, by kind."""
    in_points = cell["unit"] == "points"
    sign, mean, std = ("+", "points", "points_std") if in_points else ("", "mean", "std")
    texts = {
        kind: number_text(*cell[[mean, std, "n"]], sign=sign, digits=digits)
        for kind, digits in (("measured", 2), ("shown", 1))
    }
    if not pd.isna(cell["value"]):
        printed = number_text(*cell[["value", "printed_std", "printed_n"]], sign=sign, digits=2)
        texts |= {"published": printed, "verdict": cell["label"]}
        if not cell["label"]:
            why = VARIANT if cell.get("variant", False) else "fewer than three runs"
            texts["interval"] = f"{why}: no verdict"
    if not pd.isna(cell["low"]):
        texts["interval"] = reason(cell)
    return texts


def number_text(value: float, std: float, n: float, *, sign: str, digits: int) -> str:
    """A number as text, "86.00 ± 0.50 (5)", without what is missing (NaN); a dash for no number.

    Args:
        sign: "+" for a difference, else "".
    """
    if pd.isna(value):
        return ABSENT
    spread = "" if pd.isna(std) else f" ± {std:.{digits}f}"
    return f"{value:{sign}z.{digits}f}{spread}" + ("" if pd.isna(n) else f" ({n:.0f})")


def reason(cell: pd.Series[Any]) -> str:
    """Why a cell of `compare` has its verdict: "-0.061 to +0.034, margin 0.150; 4 more runs would
    decide"."""
    text = f"{span(cell['low'], cell['high'], 3)}, margin {cell['margin']:.3f}"
    if cell["knife_edge"]:
        text += "; knife-edge"
    if cell["label"] == UNDECIDED:
        more = cell["further"]
        text += f"; {'no number of' if pd.isna(more) else int(more)} more runs would decide"
    return text


def verdict_counts(frame: pd.DataFrame, export: str) -> str:
    """How often each verdict stands in one export's rows, e.g. "3 reproduced, 1 protects less".

    Args:
        frame: of `comparison_table`.
        export: "exact" or "as_released"; clean images have none and do not count.
    """
    rows = frame[frame[("", "export")] == export]
    verdicts = rows.xs("verdict", axis=1, level=1).to_numpy().ravel()
    counts = pd.Series(verdicts)[lambda label: ~label.isin([ABSENT, REFERENCE, ""])].value_counts()
    return ", ".join(f"{n} {label}" for label, n in counts.items())
