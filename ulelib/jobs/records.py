"""The records behind the pages: small JSON files, one a page, and some with the stages behind them.

    results/cpu/05_grayaug.json    the page's cells: names, and the key of the training
    results/cpu/stages/0.json      every stage whose key begins with 0, once: spec, numbers
    ...
    results/cpu/stages/f.json
    results/cpu/replaced.json      earlier results of trainings that were computed again

A stage stands in the file of its key's first digit: however many seeds a book has, its files stay
small, and a change of one stage is a change of one line.

Two kinds of processor round differently, so noise of one seed differs between them, and with it
what is learned from it. A page keeps to one of them. The other is a further run of the same
settings, and stays among the replaced ones (`replicates.replaced`).

`make reproduce` writes them to `results`, everything else to `_build/results`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from ulelib import files, machine, settings
from ulelib.bilevel import Bilevel
from ulelib.contrastive import Contrastive, Transferable
from ulelib.csd import Separation
from ulelib.defenders import Random
from ulelib.exploiters import Exploiter
from ulelib.files import lock_errors_explained, write_text
from ulelib.hardened import Hardened
from ulelib.informative import Informative
from ulelib.jobs.schema import check_page, check_stage
from ulelib.learners import Augmented, Supervised
from ulelib.linearized import Linearized
from ulelib.masking import Masked
from ulelib.patterns import Autoregressive, LinearlySeparable, Region
from ulelib.pgd import Pgd
from ulelib.poisons import Entangled, Poison
from ulelib.projection import Projection
from ulelib.recipe import Recipe
from ulelib.released import Released
from ulelib.restoration import Restoration
from ulelib.shortcuts import ClassConvolution, OnePixel
from ulelib.specs import Attacked, Data, Noise, Part, Pretrained, Refitted, Run, Seen, Stage

# Every kind of settings that a record's spec can hold, by the name that stands under "type".
SPECS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(Noise, Run, Pretrained, Attacked, Refitted, Seen, Data, Part),
        *(Bilevel, Supervised, Augmented, Hardened, Informative, Transferable, Contrastive),
        *(Separation, Poison, Entangled, Random),
        *(Linearized, LinearlySeparable, Autoregressive, Region, OnePixel, ClassConvolution),
        *(Released, Masked, Pgd, Exploiter, Projection, Restoration, Recipe),
    )
}
REMEDY = "set ULELIB_RESULTS to a folder on another disk, or one that you may write"
STAGES = "stages"  # a folder, beside the pages
REPLACED = "replaced.json"
KEPT = ("accuracy", "train_accuracy", "noise", "seconds")  # of a result that was replaced
# The columns of a table that name a measurement, see `cells.Cell`.
NAMES = ("data", "defender", "export", "source", "exploiter", "net", "seed", "setting")
WANTED = "wanted"  # the record of what `make reproduce MINUTES=...` computed: of no page


def spec_of(record: dict[str, Any]) -> Stage:
    """The stage that a record is of.

    Args:
        record: of `execute.record`.

    Raises:
        ValueError: its spec is of settings that this code does not know.
    """
    stage: Stage = settings.read(record["spec"], SPECS)
    return stage


def is_known(record: dict[str, Any]) -> bool:
    """Whether this code knows all settings of a record's spec."""
    try:
        spec_of(record)
    except settings.UnknownType:
        return False
    return True


def row(names: dict[str, Any], key: str, stage: dict[str, Any]) -> dict[str, Any]:
    """One measurement as a row of a table.

    Args:
        names: under which a page shows it, see `cells.Cell`.
        key: of the stage.
        stage: its record, of `execute.record`.
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
        stages: by key, of `execute.record`.

    Stages that no page refers to any more leave the file. Two pages may be saved at once.

    Raises:
        OSError: the folder cannot be written; says which and what to set.
        ValueError: a record that is there is damaged.
    """
    folder = machine.folder("ULELIB_RESULTS", "_build/results") / page["profile"]
    check_writable(page["profile"])
    path = folder / f"{page['page']}.json"
    record = {**page, "stages": sorted(stages), **machine.made_by()}
    with lock_errors_explained(folder, REMEDY), FileLock(folder / f".{STAGES}.lock"):
        before = _known_in(folder)
        _keep_replaced(folder / REPLACED, before, stages)
        every = before | stages
        _write_stages(folder, every)  # before the page: no page may refer to what is not there
        write_text(path, json.dumps(record, indent=1) + "\n")
        wanted = {key for one in _pages(folder).values() for key in one["stages"]}
        _write_stages(folder, {key: stage for key, stage in every.items() if key in wanted})
    return path


def check_writable(profile: str) -> None:
    """Check that `save` can write a profile's records.

    Raises:
        OSError: it cannot; says which folder and what to set.
    """
    files.check_writable(machine.folder("ULELIB_RESULTS", "_build/results") / profile, REMEDY)


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
    record, stages = _read(path, check_page), _known_in(folder)
    if lost := set(record["stages"]) - set(stages):
        raise ValueError(
            f"the record {path} refers to {len(lost)} stages that {folder / STAGES} lacks: take "
            "them back from git, or run `make reproduce`"
        )
    record["stages"] = {key: stages[key] for key in record["stages"]}
    measured = {key for key, stage in record["stages"].items() if "accuracy" in stage["result"]}
    if lost := {cell["key"] for cell in record["cells"]} - measured:
        raise ValueError(
            f"the record {path} is damaged ({len(lost)} cells are of no stage that measured): take "
            "it back from git, or remove it and run `make reproduce`"
        )
    rows = []
    for cell in record["cells"]:
        names = {name: value for name, value in cell.items() if name != "key"}
        rows.append(row(names, cell["key"], stages[cell["key"]]))
    return pd.DataFrame(rows), record


def known(profile: str) -> dict[str, dict[str, Any]]:
    """The stages that a profile's records hold, by key, as `execute.record` gives them."""
    return _known_in(machine.folder("ULELIB_RESULTS", "results") / profile)


def replaced(profile: str) -> dict[str, list[dict[str, Any]]]:
    """The earlier results of trainings that were computed again, by key, oldest first: "result",
    with what `KEPT` names, and "made"."""
    return _replaced_in(machine.folder("ULELIB_RESULTS", "results") / profile / REPLACED)


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two records of a stage differ in nothing but when and how fast it was computed."""
    numbers = [{**record["result"], "seconds": None} for record in (one, other)]
    devices = [record["made"]["machine"]["device"] for record in (one, other)]
    return numbers[0] == numbers[1] and devices[0] == devices[1]


def pages(profile: str) -> list[str]:
    """The pages that have been recorded in a profile."""
    folder = machine.folder("ULELIB_RESULTS", "results") / profile
    return sorted(name for name in _pages(folder) if name != WANTED)


def all_pages(profile: str) -> dict[str, dict[str, Any]]:
    """The pages' records of a profile by name, without their stages; see `save`."""
    return _pages(machine.folder("ULELIB_RESULTS", "results") / profile)


def _known_in(folder: Path) -> dict[str, dict[str, Any]]:
    """`known`, of the folder of a profile."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / STAGES).glob("*.json")):
        about = path.stat()
        found |= _stages_in(path, (about.st_ino, about.st_size, about.st_mtime_ns))
    return found


@functools.lru_cache(maxsize=64)
def _stages_in(path: Path, identity: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """The stages in a file, read and checked once as long as it stays the same."""
    return _read(path, _check_stages)


def _replaced_in(path: Path) -> dict[str, list[dict[str, Any]]]:
    return _read(path, _check_replaced) if path.exists() else {}


def _check_replaced(every: dict[str, Any]) -> None:
    for key, runs in every.items():
        for run in runs if isinstance(runs, list) else [None]:
            match run:
                case {
                    "result": {"accuracy": float(accuracy)},
                    "made": {"commit": str(), "machine": {"device": str()}},
                } if 0 <= accuracy <= 100:
                    continue
            raise ValueError(f"{key} is no list of results")


def _keep_replaced(path: Path, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Note the trainings among the stages `before` that have another accuracy `after`."""
    changed = {
        key: record
        for key, record in before.items()
        if key in after and record["result"].get("accuracy") != after[key]["result"].get("accuracy")
    }
    if not changed:
        return
    every = _replaced_in(path)
    for key, record in changed.items():
        kept = {name: record["result"][name] for name in KEPT if name in record["result"]}
        every.setdefault(key, []).append({"result": kept, "made": record["made"]})
    write_text(path, _a_line_each(every))


def _check_stages(stages: dict[str, Any]) -> None:
    """Whether each is a record of a stage, under the key of its spec."""
    for key, stage in stages.items():
        check_stage(stage)
        with contextlib.suppress(settings.UnknownType):  # of somebody's own method
            if settings.key_of(spec_of(stage)) != key:
                raise ValueError(f"the spec of stage {key} is another one")


def _pages(folder: Path) -> dict[str, dict[str, Any]]:
    """The pages' records in a folder; not a `stages.json`, which an earlier version left there."""
    found = {path.stem: _read(path, _check_if_page) for path in folder.glob("*.json")}
    return {name: record for name, record in found.items() if "page" in record}


def _check_if_page(record: dict[str, Any]) -> None:
    if "page" in record:
        check_page(record)


def _read(path: Path, check: Callable[[Any], object]) -> dict[str, Any]:
    """A JSON object that passes `check`.

    Raises:
        ValueError: it is damaged; names the file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        check(found)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"the record {path} is damaged ({error}): take it back from git, or remove it and run "
            "`make reproduce`"
        ) from error
    return found


def _write_stages(folder: Path, stages: dict[str, dict[str, Any]]) -> None:
    """One line a stage, in the file of its key's first digit; files that stay the same are left."""
    parts: dict[str, dict[str, Any]] = {}
    for key, stage in stages.items():
        parts.setdefault(f"{key[0]}.json", {})[key] = stage
    for name, mine in parts.items():
        text, path = _a_line_each(mine), folder / STAGES / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    for path in (folder / STAGES).glob("*.json"):
        if path.name not in parts:
            path.unlink()


def _a_line_each(records: dict[str, Any]) -> str:
    """JSON with one line for each key, in their order."""
    lines = (
        f"{json.dumps(key)}:{json.dumps(records[key], separators=(',', ':'))}"
        for key in sorted(records)
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"
