"""Replicates: recorded runs of one cell that differ in nothing but the seed.

Several pages may measure one cell, each with seeds of its own. A verdict rests on all of them,
whichever page shows it: `extended` adds to a page's rows the replicates that other pages recorded.
"""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

import pandas as pd

from ulelib import settings
from ulelib.jobs import records

SEEDED = ("Noise", "Run", "Pretrained", "Attacked", "Refitted")


def cell_of(record: dict[str, Any]) -> str:
    """A text that the replicates of a stage share, and no other stage has.

    It is the hash of the stage's spec with every seed counted from the stage's own. So noise of
    seed 1 with an exploiter of seed 1 is a replicate of seed 0 with seed 0, but not of noise of
    seed 0 with an exploiter of seed 1.

    Args:
        record: of `execute.record`.
    """
    plain = settings.described(records.spec_of(record))
    text = json.dumps(_relative(plain, plain["seed"]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _relative(plain: Any, own: int) -> Any:
    """A described spec whose seeds are counted from `own`."""
    if isinstance(plain, list):
        return [_relative(one, own) for one in plain]
    if not isinstance(plain, dict):
        return plain
    found = {name: _relative(value, own) for name, value in plain.items()}
    if found.get("type") in SEEDED:
        found["seed"] -= own
    if found.get("weights_seed") is not None:
        found["weights_seed"] -= own
    return found


@functools.lru_cache(maxsize=4096)
def _cell_of(text: str) -> str | None:
    """`cell_of` of a record as JSON text; None of somebody's own method, which has no replicates
    that this code could recognise."""
    record = json.loads(text)
    return cell_of(record) if records.is_known(record) else None


def read(page: str, profile: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """`records.read`, the rows extended."""
    frame, record = records.read(page, profile)
    return extended(frame, profile), record


def extended(frame: pd.DataFrame, profile: str) -> pd.DataFrame:
    """A page's rows, and behind them the replicates that the profile's records have of each cell.

    Args:
        frame: of `Lab.table`. Its own rows stay as they are; a replicate takes the names of the
            first row of its cell.

    Returns:
        the same columns. A cell has one row a seed.
    """
    stages = records.known(profile)
    if frame.empty or not stages:
        return frame
    cells = {key: _cell(stages[key]) for key in frame["key"] if key in stages}
    wanted = {cell for cell in cells.values() if cell is not None}
    every = [
        (cell, one["seed"], one["key"])
        for page in records.all_pages(profile).values()
        for one in page["cells"]
        if (cell := _cell(stages[one["key"]])) in wanted
    ]
    names = [name for name in records.NAMES if name in frame]
    lines = []
    for _, rows in frame.groupby([name for name in names if name != "seed"], sort=False):
        first = rows.iloc[0]
        had = set(rows["seed"])
        for cell, seed, key in every:
            if cell == cells.get(first["key"]) and seed not in had:
                had.add(seed)
                own = {name: first[name] for name in names} | {"seed": seed}
                lines.append(records.row(own, key, stages[key]))
    if not lines:
        return frame
    return pd.concat([frame, pd.DataFrame(lines)], ignore_index=True)[frame.columns]


def replaced(frame: pd.DataFrame, profile: str) -> pd.DataFrame:
    """The rows that replaced earlier results of the same settings and seed, and these.

    Args:
        frame: of `Lab.table`.

    Returns:
        the columns of `frame` that name a measurement (`records.NAMES`), accuracy in percent, key,
        commit, device and, a bool, replaced; the earlier results behind the row that replaced them.
    """
    earlier = records.replaced(profile)
    names = [name for name in records.NAMES if name in frame]
    columns = [*names, "accuracy", "key", "commit", "device"]
    lines = []
    for line in frame.loc[frame["key"].isin(earlier), columns].to_dict("records"):
        lines.append(line | {"replaced": False})
        for one in earlier[line["key"]]:
            made = {"commit": one["made"]["commit"], "device": one["made"]["machine"]["device"]}
            lines.append(line | made | {"accuracy": one["result"]["accuracy"], "replaced": True})
    return pd.DataFrame(lines, columns=[*columns, "replaced"])


def _cell(record: dict[str, Any]) -> str | None:
    return _cell_of(json.dumps({"spec": record["spec"]}, sort_keys=True))
