"""The scoreboard: every number that *Going Grayscale* prints, and the few of *Transferable
Unlearnable Examples* that we could get, each beside the book's own.

`printed.csv` names the pages, the export and the cells that stand for each number."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import pandas as pd
from IPython.display import HTML

from ulelib.book.compare import ABSENT, COMPARED, JUDGED, compare, number_text, reason
from ulelib.book.printed import load, same_number, table_rows
from ulelib.book.tables import MARKS, legend, long, styled, tint
from ulelib.defenders import CLEAN
from ulelib.jobs import records, replicates

NAMES = ["defender", "exploiter", "model", "setting"]
CELL = ["defender", "export", "exploiter", "net", "source", "setting"]
SHOWN = "cpu"  # the profile whose book has every page
OURS = [
    *("mean", "std", "n", "points", "points_std", "retained", "published_retained"),
    *JUDGED,
]


def board(profile: str) -> pd.DataFrame:
    """One row a printed number, in the paper's order.

    The measured cell is the one that `printed.csv` names. A variant of a defender or an exploiter
    ("at (released)") is on its page, not on the board.

    Returns:
        columns table, page, `NAMES`, value, std_published, n_published, unit, note (see
        `printed.csv`); `OURS`, of `compare`, NaN and "" where nothing is measured yet; exact, the
        mean with the exact export.
    """
    recorded = set(records.pages(profile))
    parts = []
    for table, prints in load().groupby("table", sort=False):
        prints = prints.rename(columns={"std": "std_published", "n": "n_published"})
        every = prints["pages"].iloc[0].split()
        cells = judged(profile, str(table)).dropna(subset="value")
        if len(cells):
            cells = cells.drop(columns="setting").rename(columns={"published_setting": "setting"})
            once = {"how": "left", "validate": "one_to_one"}
            ours = cells[[*NAMES, "export", *OURS]]
            prints = prints.merge(ours, on=[*NAMES, "export"], **once)
            exact = cells[cells["export"] == "exact"].rename(columns={"mean": "exact"})
            prints = prints.merge(exact[[*NAMES, "exact"]], on=NAMES, **once)
        pages = [page for page in every if page in recorded]
        parts.append(prints.assign(page=", ".join(pages or every)))
    printed = ["value", "std_published", "n_published", "unit"]
    whole = pd.concat(parts, ignore_index=True).reindex(
        columns=["table", "page", *NAMES, *printed, *OURS, "exact", "note"]
    )
    return whole.assign(label=whole["label"].fillna(""))


def judged(profile: str, table: str) -> pd.DataFrame:
    """All cells of a profile's records that stand for numbers of a table, with their verdicts: the
    one place where these are made. The intervals of the table are simultaneous.

    A number that an earlier table prints with its spread (ULEO in Tables 1 and 2) is judged there
    and has that verdict here as well.

    Returns:
        `compare` by `CELL`; empty where no page of the table is recorded.
    """
    prints = table_rows(table)
    pages = [page for page in prints["pages"].iloc[0].split() if page in records.pages(profile)]
    if not pages:
        return pd.DataFrame(columns=[*CELL, *COMPARED])
    frame = pd.concat([replicates.read(page, profile)[0] for page in pages])
    return judged_in(frame.drop_duplicates([*CELL, "seed"]), table, profile)


def judged_in(frame: pd.DataFrame, table: str, profile: str = "") -> pd.DataFrame:
    """`judged`, of the rows of `frame` alone.

    Args:
        frame: of `Lab.table`.
        profile: whose records have the verdicts of numbers that another table prints; "": all are
            judged here.
    """
    twins = [same_number(number) for _, number in table_rows(table).iterrows()]
    others = sorted({str(twin["table"]) for twin in twins if twin is not None} if profile else [])
    elsewhere = pd.concat([judged(profile, other) for other in others]) if others else None
    return compare(of_table(frame, table), table, CELL, elsewhere)


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
    rows where the table names none, or a size of pictures and the rows none: they are chosen."""
    sizes = frame["setting"].str.extract(r"^(\d+) pixels")[0].dropna().astype(int)
    by_size = prints["our_setting"].str.contains("{largest}", regex=False).any()
    if not prints["our_setting"].any() or (by_size and sizes.empty):
        return frame
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


def style(whole: pd.DataFrame, profile: str) -> HTML:
    """A board as a long table, one line a number, with its CSV file.

    The reason for a verdict is its tooltip. Measured numbers have one digit, since they differ by
    more from run to run; the file has all.

    Args:
        whole: of `board`.
        profile: of its records; page names lead to this profile's pages, else to those of `SHOWN`.
    """
    signs = whole["unit"].map({"points": "+", "%": ""})
    how = whole[["exploiter", "model", "setting"]].replace({"model": {"resnet18": ""}})
    theirs = zip(whole["value"], whole["std_published"], signs, strict=True)
    x, std = (
        whole[name].where(signs == "", whole[points])
        for name, points in (("mean", "points"), ("std", "points_std"))
    )
    ours = zip(x, std, whole["n"], signs, strict=True)
    laid_out = whole[["table", "defender"]].assign(
        exploiter=how.apply(lambda names: escape(", ".join(filter(None, names))), axis=1),
        printed=[number_text(x, std, math.nan, sign=sign, digits=2) for x, std, sign in theirs],
        measured=[number_text(x, std, n, sign=sign, digits=1) for x, std, n, sign in ours],
        verdict=[_verdict(row) for _, row in whole.iterrows()],
        exact=whole["exact"].map(lambda mean: ABSENT if pd.isna(mean) else f"{mean:.1f}"),
        page=whole["page"].map({pages: linked(pages, profile) for pages in set(whole["page"])}),
    )
    rules = {
        "td, th": "text-align: left; padding: 0.2em 0.4em; white-space: nowrap;",
        "td.col0": "white-space: normal; max-width: 8em;",  # a later paper's tables have long names
        "td.col2": "white-space: normal; max-width: 20em;",
    }
    tints = whole["label"].map(tint)
    styler = styled(laid_out, None, 0.8, rules).apply(lambda _: tints, subset=["verdict"])
    caption = (
        f"Every printed number beside ours, profile {profile}. Measured: mean ± standard deviation "
        "(runs), %, or points where the paper prints a difference; exact: our mean with the exact "
        f"export. {legend(whole['label'])}"
    )
    return long(styler, caption, f"scoreboard_{profile}.csv", whole)


def _verdict(row: pd.Series[Any]) -> str:
    """The verdict of a row of `board` as HTML: mark, word, and the reason as its tooltip."""
    if not row["label"]:
        return ABSENT
    title = "" if pd.isna(row["low"]) else f' title="{escape(reason(row))}"'
    sign = MARKS.get(row["label"], ("", ""))[0]
    return f'<span{title}><span aria-hidden="true">{sign}</span> {row["label"]}</span>'


def linked(pages: str, profile: str) -> str:
    """HTML: links to pages of the book, from any page below `book/PROFILE`.

    Args:
        pages: their names, separated by ", ".
        profile: its page is meant where it has a record, else that of `SHOWN`; a page that has no
            record there either stays plain text.
    """
    folders = {page: folder for folder in (SHOWN, profile) for page in records.pages(folder)}
    return ", ".join(
        f'<a href="../{folders[page]}/{page}.html">{page}</a>' if page in folders else page
        for page in pages.split(", ")
    )
