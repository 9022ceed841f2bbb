"""The scoreboard: every number that *Going Grayscale* prints, beside the book's own; and the few
of *Transferable Unlearnable Examples* that could be had."""

from __future__ import annotations

import pandas as pd
from pandas.io.formats.style import Styler

from ulelib import published, results

PAGES_OF = {  # the pages that measure each of the paper's tables
    "1": ["03_grayscale_exploiter", "04_mitigations"],
    "2": ["05_grayaug", "05d_full_size"],
    "3": ["06_cross_model"],
    "4": ["07_mixed_data"],
    "5": ["08_imagenet"],
    "6": ["09_mlp"],
    "7": ["10_adversarial_training"],
    "8": ["04_mitigations"],
    "9": ["07_mixed_data"],
    "MI-UE CIFAR-10": ["11_transferable", "03_grayscale_exploiter"],
    "MI-UE CIFAR-10, adversarial training": ["11c_hardened"],
    "MI-UE CIFAR-100": ["11_transferable"],
}
STANDS_FOR = {  # by table: the variant of an exploiter that stands for its numbers
    # The paper's Mixup was the released one, as far as its code says.
    "1": {"mixup (released)": "mixup"},
    # Seven steps learn nothing at the size of page 11c.
    "MI-UE CIFAR-10, adversarial training": {"at (3 steps)": "at"},
}
SOURCE_MODEL = "SimCLR"  # whose noise stands for "TUE", of which no print says the source model
NAMES = ["defender", "exploiter", "model", "setting"]
CELL = ["defender", "export", "exploiter", "net", "source", "setting"]
OURS = ["mean", "std", "n", "points", "retained", "published_retained", "low", "high", "label"]


def board(profile: str) -> pd.DataFrame:
    """One row a printed number, in the paper's order.

    The measured cell is the one as released, where there is noise (exact in the tables of MI-UE:
    the released code of those keeps both signs); a variant of a defender or an exploiter ("at
    (released)") stands on its page, not here.

    Returns:
        columns table, page, `NAMES`, value, std_published, n_published, unit, note (see
        `published.csv`); mean, std, n, points, retained, published_retained, low, high, label
        (see `published.compare`; NaN and "" where nothing is measured yet); exact, the mean with
        the exact export.
    """
    recorded = set(results.pages(profile))
    parts = []
    for table, prints in published.load().groupby("table", sort=False):
        prints = prints.rename(columns={"std": "std_published", "n": "n_published"})
        every = PAGES_OF[str(table)]
        pages = [page for page in every if page in recorded]
        there = [results.read(page, profile)[0] for page in pages]
        if there:  # pages that share a cell may have different seeds of it, or the same
            frame = pd.concat(there).drop_duplicates([*CELL, "seed"])
            frame = of_table(frame, str(table))
            cells = published.compare(frame, str(table), CELL).dropna(subset="value")
            cells = cells.drop(columns=["setting", "value", "unit"])
            cells = cells.rename(columns={"published_setting": "setting"})
            kept = "exact" if str(table).startswith("MI-UE") else "as_released"
            released = cells[cells["export"].isin((kept, "-"))]
            once = {"how": "left", "on": NAMES, "validate": "one_to_one"}
            prints = prints.merge(released[[*NAMES, *OURS]], **once)
            exact = cells[cells["export"] == "exact"].rename(columns={"mean": "exact"})
            prints = prints.merge(exact[[*NAMES, "exact"]], **once)
        parts.append(prints.assign(page=", ".join(pages or every)))
    printed = ["value", "std_published", "n_published", "unit"]
    whole = pd.concat(parts, ignore_index=True).reindex(
        columns=["table", "page", *NAMES, *printed, *OURS, "exact", "note"]
    )
    return whole.assign(label=whole["label"].fillna(""))


def of_table(frame: pd.DataFrame, table: str) -> pd.DataFrame:
    """The rows of a page that stand for a number of the table, under the paper's names.

    Args:
        frame: of `Lab.table`.
        table: of `published.csv`.
    """
    if table.startswith("MI-UE"):
        frame = frame[frame["setting"] == ("CIFAR-100" if table.endswith("100") else "-")]
        frame = frame.assign(setting="-")
        frame = frame.replace({"defender": f"TUE-{SOURCE_MODEL}"}, "TUE")
    stands_for = STANDS_FOR.get(table, {})
    frame = frame[~frame["exploiter"].isin(stands_for.values())]
    frame = frame.assign(exploiter=frame["exploiter"].replace(stands_for))
    plain = ~frame["defender"].str.contains(" (", regex=False)
    plain &= ~frame["exploiter"].str.contains(" (", regex=False)
    frame = frame[plain]
    if table == "6":  # the released MLP, and the narrow ResNet rather than the fast network
        networks = frame[["net", "source"]]
        frame = frame[~networks.apply(lambda one: one.str.contains("sigmoid False")).any(axis=1)]
        narrow = frame["net"].str.startswith("resnet18")
        fast = frame["net"].str.startswith("convnet") | frame["source"].str.startswith("convnet")
        frame = frame[~fast] if narrow.any() else frame
    if table != "5":
        return frame
    # Table 5 was made with noise indexed by class; the largest pictures come nearest to its own.
    size = max(frame["setting"].str.extract(r"^(\d+) pixels")[0].dropna().astype(int))
    alike = frame["setting"].eq(f"{size} pixels, indexed by class")
    alike |= frame["setting"].eq(f"{size} pixels") & frame["defender"].eq(published.CLEAN)
    return frame[alike].assign(setting="-")


def style(whole: pd.DataFrame, caption: str) -> Styler:
    """A board as a table of the book.

    Args:
        whole: of `board`.
    """
    in_points = whole["unit"] == "points"
    how = whole[["exploiter", "model", "setting"]].replace({"model": {"resnet18": ""}})
    shown = whole[["table", "defender"]].assign(
        exploiter=how.apply(lambda names: ", ".join(filter(None, names)), axis=1),
        published=[
            _number(value, std, signed)
            for value, std, signed in zip(
                whole["value"], whole["std_published"], in_points, strict=True
            )
        ],
        measured=[
            _number(value, std, signed)
            for value, std, signed in zip(
                whole["mean"].where(~in_points, whole["points"]),
                whole["std"],
                in_points,
                strict=True,
            )
        ],
        n=whole["n"].map(lambda n: "" if pd.isna(n) else f"{n:.0f}"),
        interval=[
            published.span(*edges) for edges in zip(whole["low"], whole["high"], strict=True)
        ],
        verdict=whole["label"].replace("", published.ABSENT),
        exact=whole["exact"].map(lambda mean: "" if pd.isna(mean) else f"{mean:.2f}"),
    )
    rules = {
        "td, th": "text-align: left; padding: 0.2em 0.4em; white-space: nowrap;",
        "td.col0": "white-space: normal;",  # a later paper's tables have long names
    }
    styler = published.styled(shown, caption, 0.7, rules)
    return styler.map(published.tint, subset=["verdict"])


def _number(value: float, std: float, signed: bool) -> str:
    if pd.isna(value):
        return published.ABSENT
    spread = "" if pd.isna(std) else f" ± {std:.2f}"
    return f"{value:{'+' if signed else ''}.2f}{spread}"
