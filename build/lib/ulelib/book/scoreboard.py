"""The scoreboard: every number that *Going Grayscale* prints, and the few of *Transferable
Unlearnable Examples* that we could get, each beside the book's own.

`printed.csv` names the pages, the export and the cells that stand for each number."""

from __future__ import annotations

import pandas as pd
from pandas.io.formats.style import Styler

from ulelib.book.compare import ABSENT, compare
from ulelib.book.printed import load, table_rows
from ulelib.book.tables import styled, tint
from ulelib.book.verdict import span
from ulelib.defenders import CLEAN
from ulelib.jobs import records

NAMES = ["defender", "exploiter", "model", "setting"]
CELL = ["defender", "export", "exploiter", "net", "source", "setting"]
OURS = ["mean", "std", "n", "points", "retained", "published_retained", "low", "high", "label"]


def board(profile: str) -> pd.DataFrame:
    """One row a printed number, in the paper's order.

    The measured cell is the one that `printed.csv` names. A variant of a defender or an exploiter
    ("at (released)") is on its page, not on the board.

    Returns:
        columns table, page, `NAMES`, value, std_published, n_published, unit, note (see
        `printed.csv`); mean, std, n, points, retained, published_retained, low, high, label (see
        `compare`; NaN and "" where nothing is measured yet); exact, the mean with the exact export.
    """
    recorded = set(records.pages(profile))
    parts = []
    for table, prints in load().groupby("table", sort=False):
        prints = prints.rename(columns={"std": "std_published", "n": "n_published"})
        every = prints["pages"].iloc[0].split()
        pages = [page for page in every if page in recorded]
        if pages:  # pages that share a cell may have different seeds of it, or the same
            frame = pd.concat([records.read(page, profile)[0] for page in pages])
            frame = of_table(frame.drop_duplicates([*CELL, "seed"]), str(table))
            cells = compare(frame, str(table), CELL).dropna(subset="value")
            cells = cells.drop(columns="setting").rename(columns={"published_setting": "setting"})
            once = {"how": "left", "validate": "one_to_one"}
            ours = cells[[*NAMES, "export", *OURS]]
            prints = prints.merge(ours, on=[*NAMES, "export"], **once)
            exact = cells[cells["export"] == "exact"].rename(columns={"mean": "exact"})
            prints = prints.merge(exact[[*NAMES, "exact"]], on=NAMES, **once)
        parts.append(prints.assign(page=", ".join(pages or every)))
    printed = ["value", "std_published", "n_published", "unit"]
    whole = pd.concat(parts, ignore_index=True).reindex(
        columns=["table", "page", *NAMES, *printed, *OURS, "exact", "note"]
    )
    return whole.assign(label=whole["label"].fillna(""))


def of_table(frame: pd.DataFrame, table: str) -> pd.DataFrame:
    """The rows of a page that may stand for a number of the table, under the paper's names.

    Args:
        frame: of `Lab.table`.
        table: of `printed.csv`.
    """
    prints = table_rows(table)
    frame = _of_settings(frame, prints)
    for name in ("defender", "exploiter"):
        renamed = prints[prints[f"our_{name}"] != ""]
        frame = frame[~frame[name].isin(renamed[name])]  # another cell stands for that number
        names = dict(zip(renamed[f"our_{name}"], renamed[name], strict=True))
        frame = frame.assign(**{name: frame[name].replace(names)})
        frame = frame[~frame[name].str.contains(" (", regex=False)]  # a variant
    return _of_networks(frame) if prints["model"].nunique() > 1 else frame


def _of_settings(frame: pd.DataFrame, prints: pd.DataFrame) -> pd.DataFrame:
    """The rows in the settings that stand for printed ones (`our_setting`), under setting "-"; all
    rows where the table names none."""
    if not prints["our_setting"].any():
        return frame
    sizes = frame["setting"].str.extract(r"^(\d+) pixels")[0].dropna().astype(int)
    clean, kept = frame["defender"] == CLEAN, pd.Series(False, frame.index)
    for of_clean, settings in prints.groupby(prints["defender"] == CLEAN)["our_setting"]:
        names = [name.format(largest=sizes.max()) for name in settings.unique()]
        kept |= (clean == of_clean) & frame["setting"].isin(names)
    return frame[kept].assign(setting="-")


def _of_networks(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of networks that stand for the paper's in a table of several networks: the MLP as
    released, and a narrow ResNet-18, if there is one, rather than the fast network."""
    networks = frame["net"] + ", " + frame["source"]
    frame = frame[~networks.str.contains("sigmoid False")]
    fast = frame["net"].str.startswith("convnet") | frame["source"].str.startswith("convnet")
    narrow = frame["net"].str.startswith("resnet18")
    return frame[~fast] if narrow.any() else frame


def style(whole: pd.DataFrame, caption: str) -> Styler:
    """A board as a table of the book.

    Args:
        whole: of `board`.
    """
    in_points = whole["unit"] == "points"
    how = whole[["exploiter", "model", "setting"]].replace({"model": {"resnet18": ""}})
    ours = whole["mean"].where(~in_points, whole["points"])
    laid_out = whole[["table", "defender"]].assign(
        exploiter=how.apply(lambda names: ", ".join(filter(None, names)), axis=1),
        published=_numbers(whole["value"], whole["std_published"], in_points),
        measured=_numbers(ours, whole["std"], in_points),
        n=whole["n"].map(lambda n: "" if pd.isna(n) else f"{n:.0f}"),
        interval=[span(*edges) for edges in zip(whole["low"], whole["high"], strict=True)],
        verdict=whole["label"].replace("", ABSENT),
        exact=whole["exact"].map(lambda mean: "" if pd.isna(mean) else f"{mean:.2f}"),
    )
    rules = {
        "td, th": "text-align: left; padding: 0.2em 0.4em; white-space: nowrap;",
        "td.col0": "white-space: normal;",  # a later paper's tables have long names
    }
    return styled(laid_out, caption, 0.7, rules).map(tint, subset=["verdict"])


def _numbers(
    values: pd.Series[float], stds: pd.Series[float], signed: pd.Series[bool]
) -> list[str]:
    """Numbers as text, "86.00 ± 0.50"; a dash where there is none."""
    texts = []
    for value, std, sign in zip(values, stds, signed, strict=True):
        spread = "" if pd.isna(std) else f" ± {std:.2f}"
        text = f"{value:{'+' if sign else ''}.2f}{spread}"
        texts.append(ABSENT if pd.isna(value) else text)
    return texts
