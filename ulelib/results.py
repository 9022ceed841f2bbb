"""The records behind the pages: small JSON files, one a page, and some with the stages behind them.

    results/cpu/05_grayaug.json    the page's cells: names, and the key of the training
    results/cpu/stages/0.json      every stage whose key begins with 0, once: spec, numbers
    ...
    results/cpu/stages/f.json

A stage stands in the file of its key's first digit: however many seeds a book has, its files stay
small, and a change of one stage is a change of one line.

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

STAGES = "stages"  # a folder, beside the pages


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
        every = _known_in(folder) | stages
        _write_stages(folder, every)  # before the page: no page may refer to what is not there
        write_text(path, json.dumps(record, indent=1) + "\n")
        wanted = {key for one in _pages(folder).values() for key in one["stages"]}
        _write_stages(folder, {key: stage for key, stage in every.items() if key in wanted})
    return path


def read(page: str, profile: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A record of the book, from `$ULELIB_RESULTS` or else `results`.

    Returns:
        its cells as `Lab.table` gives them, and all of it, with its stages under "stages", by key.

    Raises:
        FileNotFoundError: nothing was saved under that name in that profile; says what to run.
        ValueError: a record that is damaged, or refers to stages that are not there.
    """
    folder = machine.folder("ULELIB_RESULTS", "results") / profile
    path = folder / f"{page}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no record {path}; make it with `make reproduce PROFILE={profile}`"
        )
    record, stages = _read(path), _known_in(folder)
    if lost := set(record["stages"]) - set(stages):
        raise ValueError(
            f"the record {path} refers to {len(lost)} stages that {folder / STAGES} lacks: take "
            "them back from git, or run `make reproduce`"
        )
    record["stages"] = {key: stages[key] for key in record["stages"]}
    rows = []
    for cell in record["cells"]:
        names = {name: value for name, value in cell.items() if name != "key"}
        rows.append(row(names, cell["key"], stages[cell["key"]]))
    return pd.DataFrame(rows), record


def known(profile: str) -> dict[str, dict[str, Any]]:
    """The stages that a profile's records hold, by key, of `stages.record`; {} without a record."""
    return _known_in(machine.folder("ULELIB_RESULTS", "results") / profile)


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two records of a stage differ in nothing but when and how fast it was computed."""
    numbers = [{**record["result"], "seconds": None} for record in (one, other)]
    devices = [record["made"]["machine"]["device"] for record in (one, other)]
    return numbers[0] == numbers[1] and devices[0] == devices[1]


def pages(profile: str) -> list[str]:
    """The pages that have been recorded in a profile."""
    return sorted(_pages(machine.folder("ULELIB_RESULTS", "results") / profile))


def _known_in(folder: Path) -> dict[str, dict[str, Any]]:
    """`known`, of the folder of a profile."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / STAGES).glob("*.json")):
        found |= _read(path)
    return found


def _pages(folder: Path) -> dict[str, dict[str, Any]]:
    """The pages' records in a folder; not what an earlier version left there, a `stages.json`."""
    records = {path.stem: _read(path) for path in folder.glob("*.json")}
    return {name: record for name, record in records.items() if "page" in record}


def _read(path: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"the record {path} is damaged ({error}): take it back from git, or remove it and run "
            "`make reproduce`"
        ) from error
    return told


def _write_stages(folder: Path, stages: dict[str, dict[str, Any]]) -> None:
    """One line a stage, in the file of its key's first digit; files that stay the same are left."""
    lines: dict[str, list[str]] = {}
    for key in sorted(stages):
        told = json.dumps(stages[key], separators=(",", ":"))
        lines.setdefault(f"{key[0]}.json", []).append(f"{json.dumps(key)}:{told}")
    for name, mine in lines.items():
        text, path = "{\n" + ",\n".join(mine) + "\n}\n", folder / STAGES / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    for path in (folder / STAGES).glob("*.json"):
        if path.name not in lines:
            path.unlink()
