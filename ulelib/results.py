"""The records behind the pages: small JSON files, one a page and one for all stages of a profile.

    results/cpu/05_grayaug.json    the page's cells: names, and the key of the training
    results/cpu/stages.json        every stage behind the profile's pages, once: spec, numbers

`make reproduce` writes them to `results`, everything else to `_build/results`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from ulelib import machine
from ulelib.store import write_text

STAGES = "stages.json"


def row(names: dict[str, Any], key: str, stage: dict[str, Any]) -> dict[str, Any]:
    """One measurement as a row of a table.

    Args:
        names: under which a page shows it, see `lab.Cell`.
        key: of the stage.
        stage: what `stages.record` says of it.
    """
    result, made = stage["result"], stage["made"]
    return {
        **names,
        "accuracy": result["accuracy"],
        "train_accuracy": result.get("train_accuracy", math.nan),  # an attack has none
        # Of a training without labels alone:
        **{name: result.get(name, math.nan) for name in ("knn", "untrained", "spread")},
        "seconds": result["seconds"],
        "curve": tuple(result.get("curve", ())),
        "chance": result["chance"],
        "key": key,
        "commit": made["commit"],
        "device": made["machine"]["device"],
        "threads": made["machine"]["threads"],
    }


def save(page: dict[str, Any], stages: dict[str, dict[str, Any]]) -> Path:
    """Write a page's record, and the stages behind it into the profile's file.

    Args:
        page: "page" and "profile", its names; "cells"; and what else there is to say of it.
        stages: by key, of `stages.record`.

    Stages that no page refers to any more leave the file. Two pages may be saved at once.

    Raises:
        OSError: the folder cannot be written; says which and what to set.
        ValueError: a record that is there is damaged.
    """
    folder = machine.folder("ULELIB_RESULTS", "_build/results") / page["profile"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno, f"no record can be kept in {folder} ({error}): set ULELIB_RESULTS"
        ) from error
    path = folder / f"{page['page']}.json"
    record = {**page, "stages": sorted(stages), **machine.made_by()}
    with FileLock(folder / f".{STAGES}.lock"):
        write_text(path, json.dumps(record, indent=1) + "\n")
        known = _read(folder / STAGES) if (folder / STAGES).exists() else {}
        pages = [_read(one) for one in folder.glob("*.json") if one.name != STAGES]
        wanted = {key for one in pages for key in one["stages"]}
        kept = {key: stage for key, stage in (known | stages).items() if key in wanted}
        write_text(folder / STAGES, _lines(kept))
    return path


def read(page: str, profile: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A record of the book, from `$ULELIB_RESULTS` or else `results`.

    Returns:
        its cells as `Lab.table` gives them, and all of it, with its stages under "stages", by key.

    Raises:
        FileNotFoundError: nothing was saved under that name in that profile; says what to run.
    """
    folder = machine.folder("ULELIB_RESULTS", "results") / profile
    path = folder / f"{page}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no record {path}; make it with `make reproduce PROFILE={profile}`"
        )
    record, stages = _read(path), _read(folder / STAGES)
    record["stages"] = {key: stages[key] for key in record["stages"]}
    rows = []
    for cell in record["cells"]:
        names = {name: value for name, value in cell.items() if name != "key"}
        rows.append(row(names, cell["key"], stages[cell["key"]]))
    return pd.DataFrame(rows), record


def known(profile: str) -> dict[str, dict[str, Any]]:
    """The stages that a profile's records hold, by key, of `stages.record`; {} without a record."""
    path = machine.folder("ULELIB_RESULTS", "results") / profile / STAGES
    return _read(path) if path.exists() else {}


def pages(profile: str) -> list[str]:
    """The pages that have been recorded in a profile."""
    folder = machine.folder("ULELIB_RESULTS", "results") / profile
    return sorted(path.stem for path in folder.glob("*.json") if path.name != STAGES)


def _read(path: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"the record {path} is damaged ({error}): take it back from git, or remove it and run "
            "`make reproduce`"
        ) from error
    return told


def _lines(stages: dict[str, dict[str, Any]]) -> str:
    """JSON with one line a stage: short, and a change of one stage is a change of one line."""
    compact = (",", ":")  # the file of a whole book stays below 1.5 MB
    lines = [
        f"{json.dumps(key)}:{json.dumps(stages[key], separators=compact)}" for key in sorted(stages)
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"
