"""The arena: attack methods against countermeasures, under equal conditions.

A place of the arena is a row (a defender), a column (a countermeasure) and a seed:

    places = arena.plan(lab)             every place, most wanted first
    known = arena.measured(lab, places)  those that need no computing
    runs = arena.table(lab, known)       one row a training
    cells = arena.retained(runs)         one row a cell: what is retained, its deviation, n
    rows = arena.ranking(cells)          one row a defender: mean and worst case

Noise of both signs, rounded ("exact"). Each column has its own trainings on clean images; what a
cell retains is counted from them, seed by seed. `make arena` computes places, page 15 shows them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from scipy import stats

from ulelib.book import benchmarks
from ulelib.book.verdict import ENOUGH, LEVEL
from ulelib.book.verdict import retained as share_of
from ulelib.defenders import CLEAN, DEFENDERS
from ulelib.jobs.cells import Cell, Mixture
from ulelib.jobs.inputs import data_set
from ulelib.jobs.lab import Lab
from ulelib.restoration import Restoration
from ulelib.settings import key_of
from ulelib.specs import Noise, Part, Run, Seen, seen

SEED = 10  # the first: other pages have those below, some with noise of other machines
N_SEEDS = 3
LEAST = 1.0  # points above chance that a clean training counts for, even if it learned nothing
POINTS = 10  # of the curve within the first epoch

# The rows, by what a method needs.
ROWS: dict[str, tuple[str, ...]] = {
    "no model": ("LSP", "AR", "OPS", "CUDA", "region-16", "random class-wise", "random"),
    "a linear model": ("PIL",),
    "Algorithm 1": ("ULEO", "ULEO-GrayAugs", "ULEO-Augs", "ULEO-Grays", "ULEO class-wise"),
    "a trained network": ("AdvPois", "error-max", "HYPO", "AAP", "SEP", "EntF-push", "EntF-pull"),
    "no classifier": ("CSD", "TUE-SimCLR"),
    "Algorithm 1, changed": ("AUE", "SEM", "REM (cut)", "MI-UE"),
}
# The arena begins with them: cheap ones, controls, and the papers' own.
BEGIN = (
    *("LSP", "OPS", "AR", "CUDA", "random class-wise", "random"),
    *("ULEO", "ULEO-GrayAugs", "AdvPois", "PIL"),
)
FEW = ("LSP", "random class-wise", "ULEO")  # where a profile is for trying things out

Column = Callable[[Lab, str, int], Cell]  # the cell of a row and a seed


def _exploiter(name: str) -> Column:
    return lambda lab, row, seed: lab.cell(row, name, seed=seed)


def _protected(share: float) -> Column:
    """Only a share of each class's images is protected; the others are clean."""
    mixture, name = Mixture((share, 1), (0, share)), f"{share:.0%} protected"
    return lambda lab, row, seed: lab.cell(row, seed=seed, mixture=mixture, setting=name)


def _on(net: str) -> Column:
    return lambda lab, row, seed: lab.cell(row, seed=seed, net=lab.profile.nets[net])


def _way_back(pairs: int) -> Column:
    """The noise is taken out first, by a network that learned it from pairs."""
    return lambda lab, row, seed: lab.cell(row, seed=seed, restore=Restoration(pairs))


def _last_layer(lab: Lab, row: str, seed: int) -> Cell:
    return lab.refitted(lab.cell(row, seed=seed))


def _pretrained(lab: Lab, row: str, seed: int) -> Cell:
    """On the images of CIFAR-100 first, with their own labels."""
    other = data_set("cifar100")
    loop, recipe, precision = lab.profile.loop, lab.profile.recipe, lab.precision
    start = Run((Part(other),), other, net=loop.net, recipe=recipe, seed=seed, precision=precision)
    return lab.cell(row, seed=seed, start=start)


# The columns that carry a ranking, and then the others.
FIRST: dict[str, Column] = {
    "none": _exploiter("standard"),
    "gray": _exploiter("gray"),
    "JPEG 10": _exploiter("jpeg-10"),
    "2 bits (training only)": _exploiter("bdr-2 (training only)"),
    "CutMix": _exploiter("cutmix"),
    "UEraser-Lite": _exploiter("ueraser-lite"),
    "way back, 500 pairs": _way_back(500),
}
OTHERS: dict[str, Column] = {
    "projection": _exploiter("projection"),
    "way back, 2,000 pairs": _way_back(2000),
    "gray (training only)": _exploiter("gray (training only)"),
    "JPEG 10 (training only)": _exploiter("jpeg-10 (training only)"),
    "JPEG 50": _exploiter("jpeg-50"),
    "JPEG 90": _exploiter("jpeg-90"),
    "blur": _exploiter("blur"),
    "low pass": _exploiter("low-pass"),
    "Cutout": _exploiter("cutout"),
    "Mixup": _exploiter("mixup"),
    "TrivialAugment": _exploiter("trivialaugment"),
    "COIN": _exploiter("coin"),
    "last layer anew": _last_layer,
    "pretrained network": _pretrained,
    "80 % protected": _protected(0.8),
    "50 % protected": _protected(0.5),
    "narrow VGG": _on("vgg11"),
    "SimCLR, linear probe": _exploiter("SimCLR"),
    "adversarial training": _exploiter("at (3 steps)"),
}
COLUMNS = FIRST | OTHERS

# The names under which benchmarks print them; they filter the training images alone.
PRINTED_ROWS = {
    **{"ULEO": "EM", "AdvPois": "TAP", "REM (cut)": "REM"},
    **{name: name for name in ("LSP", "AR", "OPS", "HYPO", "SEP")},
}
PRINTED_COLUMNS = {
    "none": "none",
    "gray (training only)": "Gray",
    "JPEG 10 (training only)": "JPEG",
    "2 bits (training only)": "BDR",
    "Cutout": "Cutout",
    "CutMix": "CutMix",
    "Mixup": "Mixup",
    "adversarial training": "AT",
    "way back, 500 pairs": "BridgePure (500 pairs)",
}


@dataclass(frozen=True)
class Place:
    """One training of the arena.

    Attributes:
        row: a defender, or "clean".
        column: a key of `COLUMNS`, or "first epoch".
    """

    row: str
    column: str
    cell: Cell


def seeds(seed: int | list[int]) -> int | list[int]:
    """The arena's seeds, from `SEED` on, for a page that counts its own from 0."""
    return [SEED + one for one in seed] if isinstance(seed, list) else SEED + seed


def rows_of(lab: Lab) -> tuple[str, ...]:
    """The defenders of a profile's arena, in the order in which they are computed."""
    every = [row for group in ROWS.values() for row in group]
    return FEW if lab.profile.name == "smoke" else tuple(dict.fromkeys([*BEGIN, *every]))


def plan(lab: Lab, rows: Sequence[str] | None = None) -> list[Place]:
    """All places of the arena, most wanted first: the first columns with each seed, each row's
    first epoch, then the other columns.

    Args:
        rows: defenders; those of `rows_of` if None.
    """
    wanted = (CLEAN, *(rows_of(lab) if rows is None else rows))
    first, others = FIRST, OTHERS
    if lab.profile.name == "smoke":
        first, others = {name: FIRST[name] for name in ("none", "gray", "JPEG 10")}, {}
    places = [
        Place(row, name, column(lab, row, seed))
        for seed in lab.seeds
        for row in wanted
        for name, column in (first | {"first epoch": _first_epoch}).items()
    ]
    return places + [
        Place(row, name, column(lab, row, seed))
        for seed in lab.seeds
        for name, column in others.items()
        for row in wanted
    ]


def _first_epoch(lab: Lab, row: str, seed: int) -> Cell:
    """The first epoch of the training without countermeasure, its curve in `POINTS` points."""
    recipe = replace(lab.profile.recipe, stop_after=1, points=POINTS)
    return lab.cell(row, seed=seed, recipe=recipe, setting="first epoch")


def measured(lab: Lab, places: Sequence[Place]) -> list[Place]:
    """Those places that are in the store or in a record that can be reused.

    Left out are places without a clean training of the same column and seed, and rows that do not
    yet have all first columns: their worst case is not known.
    """
    missing = {key_of(stage) for stage in lab.missing(place.cell.stage for place in places)}
    known = [place for place in places if key_of(place.cell.stage) not in missing]
    clean = {(one.column, one.cell.seed) for one in known if one.row == CLEAN}
    known = [one for one in known if (one.column, one.cell.seed) in clean]
    columns: dict[str, set[str]] = {}
    for one in known:
        columns.setdefault(one.row, set()).add(one.column)
    wanted = {one.column for one in places if one.column in FIRST}
    known = [one for one in known if wanted <= columns[one.row]]
    return known if any(one.row != CLEAN for one in known) else []


def few(places: Sequence[Place]) -> list[Place]:
    """A few rows in the first columns, of the first seed: a taste of the arena."""
    first = min(place.cell.seed for place in places)
    return [
        place
        for place in places
        if place.row in (CLEAN, *FEW)
        and place.column in (*FIRST, "first epoch")
        and place.cell.seed == first
    ]


def table(lab: Lab, places: Sequence[Place]) -> pd.DataFrame:
    """The runs: `Lab.rows`, and the columns row, column and retained (a share of what the same
    countermeasure reaches on clean images with the same seed; see `verdict.retained`). Those of the
    first epoch are not among them."""
    whole = [place for place in places if place.column != "first epoch"]
    frame = lab.rows(place.cell for place in whole)
    rows, columns = [one.row for one in whole], [one.column for one in whole]
    frame = frame.assign(row=rows, column=columns)
    clean = frame[frame["row"] == CLEAN].set_index(["column", "seed"])["accuracy"]
    references = [clean[run.column, run.seed] for run in frame.itertuples()]
    least = frame["chance"] + LEAST
    shares = zip(frame["accuracy"], least.clip(lower=references), frame["chance"], strict=True)
    return frame.assign(retained=[share_of(*one) for one in shares])


def retained(runs: pd.DataFrame) -> pd.DataFrame:
    """What a countermeasure retains of what it reaches on clean images.

    The intervals of all cells hold together, with 95 % (Bonferroni). Their standard deviation is
    that of the column, pooled over its rows: with a few runs a cell's own says little.

    Args:
        runs: of `table`.

    Returns:
        one row a cell, in the order of rows and columns: row, column, accuracy and clean (percent),
        retained (0: chance, 1: as on clean images), std (of retained; NaN of one run), low and high
        (NaN where the column has no cell of `ENOUGH` runs), n.
    """
    attacked = runs[runs["row"] != CLEAN]
    clean = runs[runs["row"] == CLEAN].groupby("column")["accuracy"].mean()
    groups = attacked.groupby(["row", "column"], sort=False)
    cells = groups.agg(
        accuracy=("accuracy", "mean"),
        retained=("retained", "mean"),
        std=("retained", "std"),
        n=("retained", "size"),
    ).reset_index()
    cells["clean"] = cells["column"].map(clean)
    half = cells["column"].map(_pooled(cells)) / cells["n"] ** 0.5
    enough = cells["n"] >= ENOUGH
    cells["low"] = (cells["retained"] - half).where(enough)
    cells["high"] = (cells["retained"] + half).where(enough)
    return cells


def _pooled(cells: pd.DataFrame) -> dict[str, float]:
    """By column, the half width of one run's interval."""
    found, level = {}, LEVEL / max(int((cells["n"] >= ENOUGH).sum()), 1)
    for column, runs in cells[cells["n"] > 1].groupby("column"):
        freedom = int((runs["n"] - 1).sum())
        squares = float((runs["std"] ** 2 * (runs["n"] - 1)).sum())
        spread = math.sqrt(squares / freedom)
        found[str(column)] = float(stats.t.ppf(1 - level / 2, freedom)) * spread
    return found


def ranking(cells: pd.DataFrame) -> pd.DataFrame:
    """The defenders, the one that withstands most first: by worst case, then by mean.

    Args:
        cells: of `retained`.

    Returns:
        one row a defender that has a number in every column: row; none, what training without a
        countermeasure retains; mean over the columns; worst, the largest of their means; by, the
        column of it; n, the runs of the cell with fewest.
    """
    laid_out = cells.pivot(index="row", columns="column", values="retained").dropna()
    fewest = cells.groupby("row")["n"].min()
    found = pd.DataFrame(
        {
            "none": laid_out["none"],
            "mean": laid_out.mean(axis=1),
            "worst": laid_out.max(axis=1),
            "by": laid_out.idxmax(axis=1),
            "n": fewest.reindex(laid_out.index),
        }
    )
    return found.sort_values(["worst", "mean"]).reset_index()


def heat(cells: pd.DataFrame) -> pd.DataFrame:
    """What is retained: a row a defender, the one that withstands most first; a column a
    countermeasure, that which undoes most last, "none" first. NaN where nothing was measured."""
    laid_out = cells.pivot(index="row", columns="column", values="retained")
    order = laid_out.mean().drop("none").sort_values().index
    laid_out = laid_out[["none", *order]]
    return laid_out.loc[laid_out.max(axis=1).sort_values().index]


def beside_print(cells: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    """Cells that a benchmark prints, too.

    Args:
        cells: of `retained`.
        benchmark: "APBench" or "ISS", of which each filters the training images alone; or
            "BridgePure", which takes noise out by a diffusion model that learned from pairs.

    Returns:
        row, column, accuracy here and printed, in percent.
    """
    printed = benchmarks.table(benchmark)
    lines = []
    for cell in cells.to_dict("records"):
        attack, how = PRINTED_ROWS.get(cell["row"]), PRINTED_COLUMNS.get(cell["column"])
        if attack in printed.index and how in printed.columns:
            there = float(printed.loc[attack, how])
            lines.append((cell["row"], cell["column"], cell["accuracy"], there))
    return pd.DataFrame(lines, columns=["row", "column", "accuracy", "printed"])


def agreement(pairs: pd.DataFrame, least: int = 4) -> pd.DataFrame:
    """How well two studies order the attacks, under each countermeasure that has enough of them.

    Args:
        pairs: of `beside_print`.
        least: attacks of a column.

    Returns:
        one row a column: column, attacks, rank (Spearman's), p (two-sided, exact by permutation).
    """
    lines = []
    for column, rows in pairs.groupby("column", sort=False):
        if len(rows) < least:
            continue
        found = _spearman(rows["accuracy"].tolist(), rows["printed"].tolist())
        lines.append((column, len(rows), *found))
    return pd.DataFrame(lines, columns=["column", "attacks", "rank", "p"])


def _spearman(first: list[float], second: list[float]) -> tuple[float, float]:
    def statistic(values: Any) -> float:
        return float(stats.spearmanr(values, second).statistic)

    test = stats.permutation_test(
        (first,), statistic, permutation_type="pairings", n_resamples=9999, rng=0
    )
    return float(test.statistic), float(test.pvalue)


def methods(rows: Iterable[str]) -> dict[str, str]:
    """By row, what its method is and what of it is cut: the docstring of its defender."""
    return {row: " ".join((inspect.getdoc(DEFENDERS[row]) or "").split()) for row in rows}


def noted(lab: Lab, places: Iterable[Place]) -> list[Noise | Seen]:
    """What `costs` needs: each row's noise of its first seed, and how visible it is."""
    noises = _first_noises(lab, places).values()
    return [stage for noise in noises for stage in (noise, seen(noise))]


def _first_noises(lab: Lab, places: Iterable[Place]) -> dict[str, Noise]:
    """By row, the noise of its first seed."""
    first: dict[str, int] = {}
    for place in places:
        if place.row != CLEAN:
            first[place.row] = min(place.cell.seed, first.get(place.row, place.cell.seed))
    return {row: lab.noise(row, seed) for row, seed in first.items()}


def costs(lab: Lab, places: Iterable[Place]) -> pd.DataFrame:
    """What each row's noise costs: seconds to make, and how visible it is.

    Args:
        places: measured ones.

    Returns:
        one row a defender: row, needs (of `ROWS`), seconds (to make the noise alone), L-infinity
        (gray levels), L2, PSNR (decibels), SSIM, unchanged (share of the pictures); of its first
        seed.
    """
    lines = []
    groups = {row: group for group, rows in ROWS.items() for row in rows}
    for row, noise in _first_noises(lab, places).items():
        looks, made = lab.seen(noise), lab.noted(noise)
        lines.append(
            {"row": row, "needs": groups.get(row, "-"), "seconds": made["seconds"]}
            | {"L-infinity": looks.largest, "L2": looks.l2, "PSNR": looks.psnr, "SSIM": looks.ssim}
            | {"unchanged": looks.unchanged}
        )
    return pd.DataFrame(lines)


def early(lab: Lab, places: Iterable[Place], runs: pd.DataFrame) -> pd.DataFrame:
    """Whether stopping early helps: the best point of the curves, within the first epoch and after
    each one, beside the last.

    Args:
        places: measured ones.
        runs: of `table`.

    Returns:
        one row a run without countermeasure: row, seed, best (percent), at (epochs), last (percent,
        of the curve), rises (whether the best point lies more than five points above the last).
    """
    first = [place for place in places if place.column == "first epoch"]
    frame = lab.rows(place.cell for place in first)
    inside: Mapping[tuple[str, int], tuple[float, ...]] = {
        (place.row, place.cell.seed): curve
        for place, curve in zip(first, frame.get("curve", ()), strict=True)
    }
    lines = []
    for run in runs[runs["column"] == "none"].to_dict("records"):
        curve = dict(enumerate(run["curve"], 1)) | {
            point / POINTS: value
            for point, value in enumerate(inside.get((run["row"], run["seed"]), ()), 1)
        }
        at, last = max(curve, key=curve.__getitem__), run["curve"][-1]
        lines.append((run["row"], run["seed"], curve[at], at, last, curve[at] - last > 5))
    return pd.DataFrame(lines, columns=["row", "seed", "best", "at", "last", "rises"])
