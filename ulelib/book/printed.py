"""The numbers that papers printed: `printed.csv`, one number a row, and how to look one up.

Its columns:

    paper      "Going Grayscale" (arXiv 2111.13244), or "MI-UE": an ICLR 2026 paper that prints
               numbers of *Transferable Unlearnable Examples*, whose own tables we could not get; we
               read them in notes on the MI-UE paper, not in the paper itself
    table      the table's number in that paper, as text; "MI-UE CIFAR-10" and others
    defender   what the exploiter trained on: "clean", "ULEO", "ULEO-Augs", "ULEO-Grays",
               "ULEO-GrayAugs", "AdvPois" or "TUE"
    exploiter  how it trained: "standard" ("w/o Gray" in the paper), "gray" ("w/ Gray"), "mixup",
               "bdr-2", "bdr-4", "bdr-6" (bit-depth reduction), "at" (adversarial training), or
               "at 2/255" and others (adversarial training with that radius)
    model      the exploiter's network, a key of `ulelib.models.MODELS`; resnet18 where the paper
               names none, except for ImageNet-100 (Table 5), where it is empty
    setting    what else distinguishes the numbers of one table: the defender's network (Tables 3,
               6), the mixture of clean and protected data (4, 9), the data set (5), the test images
               (7)
    value      test accuracy in percent; in Tables 4 and 9, where unit is "points", the difference
               from the clean row of the same setting
    std, n     standard deviation and number of runs, where printed (Table 2)
    unit       "%" or "points"
    source     paper and table
    chance     accuracy of guessing on that data set, in percent; 0 under an attack, which can push
               accuracy below it
    reference  the clean row that protection is measured against: "setting", the row with the same
               exploiter and setting; else a table's number, that table's row of the standard
               exploiter with the same network
    note       what a reader has to know about this number

Five more columns say which cells of the book's pages the scoreboard compares with the number:

    pages          the pages that measure the table, separated by spaces; where two measure the same
                   run, the first one counts
    export         the cell's export: "as_released", or "exact" where the code of that method, as
                   released, keeps noise of both signs; "-" for clean images
    our_defender   the cell's defender, where the page calls it otherwise
    our_exploiter  the cell's exploiter, where the page calls it otherwise: "mixup (released)",
                   because the paper's Mixup was the released one, as far as its code says; "at (3
                   steps)", because seven steps learn nothing at the size of page 11c
    our_setting    the cell's setting, where it is not the printed one; "{largest}" is the largest
                   picture size of the page (Table 5 was made with noise indexed by class; the
                   largest pictures come nearest to ImageNet's)

The paper contradicts itself in places; the notes of the rows say so as well:

- ULEO under bdr-2 is 41.65 in Table 1 and 47.10 in Table 8.
- ULEO under the standard exploiter is 24.47 in Tables 1 and 2 and 24.40 in Table 8.
- ULEO-GrayAugs from resnet18 to resnet18 is 25.98 / 24.98 (standard / gray) in Table 2 and
  28.35 / 28.97 in Table 3. Both differences lie within the printed spread of Table 2.
- The caption of Table 8 announces AdvPois and ULEO-GrayAugs; the table has neither.
- The ImageNet-100 noise of Table 5 is class-wise by an error in the code, as the paper says.
- Table 7 says "PGD with 7 steps"; the released configuration has 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from ulelib.defenders import CLEAN

_NUMBERS = ["value", "std", "n", "chance"]
SETTING = "setting"  # a value of the column `reference`


@dataclass(frozen=True)
class Published:
    """One printed number: percent, its standard deviation over n runs where given, its table."""

    value: float
    std: float | None
    n: int | None
    source: str


@cache
def _rows() -> pd.DataFrame:
    path = Path(__file__).with_name("printed.csv")
    frame = pd.read_csv(path, dtype={"table": str, "reference": str, "n": "Int64"})
    texts = [name for name in frame if name not in _NUMBERS]
    frame[texts] = frame[texts].fillna("")
    return frame


def load() -> pd.DataFrame:
    """Every published number, one a row; columns as in the module's description."""
    return _rows().copy()


def table_rows(table: str) -> pd.DataFrame:
    """The rows of one table, in the paper's order.

    Raises:
        ValueError: no such table; lists the tables.
    """
    rows = _rows()
    if str(table) not in set(rows["table"]):
        raise ValueError(f"no Table {table!r}; choose from {sorted(set(rows['table']))}")
    return rows[rows["table"] == str(table)].copy()


def published(table: str, **where: str) -> Published:
    """The one number of a table that fits.

    Args:
        table: "1" to "9", or another of `printed.csv`.
        where: values of other columns, e.g. `defender="ULEO", exploiter="gray"`.

    Raises:
        ValueError: no row or several rows fit, or there is no such column; lists the choices.
    """
    rows = _select(table, where)
    if len(rows) != 1:
        names = ["defender", "exploiter", "model", "setting"]
        choices = (rows if len(rows) else table_rows(table))[names].drop_duplicates()
        listed = "; ".join(", ".join(filter(None, row)) for row in choices.values)
        number = len(rows) or "no"
        raise ValueError(f"{number} numbers of Table {table} fit {where}; choose from: {listed}")
    return number_of(rows.iloc[0])


def _select(table: str, where: Mapping[str, str]) -> pd.DataFrame:
    rows = table_rows(table)
    if unknown := sorted(set(where) - set(rows.columns)):
        raise ValueError(f"no column {unknown}; choose from {[*rows.columns]}")
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return rows


def number_of(row: pd.Series[Any]) -> Published:
    """The number of a row of `load`; where it has no spread, with that of the same cell in another
    table of its paper."""
    std, n = row["std"], row["n"]
    elsewhere = _alike(row)
    if pd.isna(std) and len(elsewhere):
        std = elsewhere.iloc[0]["std"]
    return Published(
        value=float(row["value"]),
        std=None if pd.isna(std) else float(std),
        n=None if pd.isna(n) else int(n),
        source=str(row["source"]),
    )


def reference_of(row: pd.Series[Any]) -> pd.Series[Any]:
    """The clean row that a row of `load` is measured against, see the column `reference`.

    Returns:
        a row of `load`; its `name` is that of `row` where `row` is its own reference.
    """
    where = {"defender": CLEAN, "model": row["model"]}
    if row["reference"] == SETTING:
        alike = {"exploiter": row["exploiter"], "setting": row["setting"]}
        return _select(row["table"], where | alike).iloc[0]
    return _select(row["reference"], where | {"exploiter": "standard"}).iloc[0]


def clean_like(row: pd.Series[Any]) -> float | None:
    """The printed accuracy on clean images of a row's own exploiter, network and setting, percent;
    None where its table, and the one of its reference, have none."""
    alike = {"defender": CLEAN, "exploiter": row["exploiter"], "model": row["model"]}
    for table in dict.fromkeys((row["table"], row["reference"])):
        if table == SETTING:
            continue
        rows = _select(table, alike)
        exact = rows[rows["setting"] == row["setting"]]
        rows = exact if len(exact) else rows[rows["setting"] == ""]
        if len(rows):
            return float(rows.iloc[0]["value"])
    return None


def same_number(row: pd.Series[Any]) -> pd.Series[Any] | None:
    """The row of another table that prints the same number with its spread; None where there is
    none, or the row has a spread itself."""
    if not pd.isna(row["std"]):
        return None
    twins = _alike(row)
    twins = twins[twins["value"] == row["value"]]
    return None if twins.empty else twins.iloc[0]


def _alike(row: pd.Series[Any]) -> pd.DataFrame:
    """The rows with a spread that print the same cell: of any table of the paper."""
    rows = _rows()
    wanted = {name: row[name] for name in ("paper", "defender", "exploiter", "model", "unit")}
    own = row["setting"] == f"generator {row['model']}"  # Table 3: the other tables' own network
    wanted["setting"] = "" if own else row["setting"]
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    return rows[~rows["std"].isna()]


def row_of(defender: str) -> str:
    """The defender whose published row a variant is compared with: its name up to " ("."""
    return defender.split(" (")[0]


def model_of(net: str) -> str:
    """The paper's network that one of ours stands for, by its name in a table.

    `convnet`, the fast one, stands for ResNet-18, and a network of other width for the whole one.
    """
    name = net.split(" (")[0]
    return "resnet18" if name in ("convnet", "-") else name
