"""The ladder of sizes (page 05e): each noise a point: what it is made of, and what it leaves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from scipy import stats

from ulelib.book.ladder_figures import dots
from ulelib.book.robustness import LADDER, PLACES, runs
from ulelib.book.tables import styled
from ulelib.book.verdict import ENOUGH, half_width, retained
from ulelib.defenders import CLEAN
from ulelib.jobs import records, replicates, strips
from ulelib.jobs.cells import Cell
from ulelib.jobs.lab import Lab
from ulelib.profiles import PROFILES
from ulelib.specs import Noise, Run

SHARES = ("luminance", "tiles", "constant")  # of `perturbation.energy_shares`
# The rule by which a small size may stand for the paper's: on each of these cells, with three seeds
# or more, the mean is this near to the full size's, and a run strays from it by no more. All other
# cells are predictions.
CALIBRATION = ("as_released standard", "as_released gray", "exact gray")
NEAR = 0.10  # of `verdict.retained`
TOO_FEW = "too few runs"


def points(lab: Lab, cells: Sequence[Cell]) -> pd.DataFrame:
    """One row a noise.

    Args:
        cells: trainings on clean images and on ULEO's; a cell's setting is its size. What is left
            of an accuracy is measured against the mean of the clean trainings with the same
            network, images, exploiter and recipe.

    Returns:
        columns size; seed, of the order of the images in the noise's loop and of the exploiter;
        weights, the seed of the source model's initial weights; luminance, tiles and constant (see
        `perturbation.energy_shares`); rounds; noise, the stage; and for each export and exploiter
        that was trained, e.g. "exact gray", the share that is left (`verdict.retained`), NaN where
        there was no training or where clean images teach nothing.
    """
    frame = lab.rows(cells)
    clean: dict[Any, list[float]] = {}
    for cell, accuracy in zip(cells, frame["accuracy"], strict=True):
        if cell.defender == CLEAN:
            clean.setdefault(_training(cell), []).append(accuracy)
    lines: dict[Noise, dict[str, Any]] = {}
    for cell, row in zip(cells, frame.itertuples(), strict=True):
        noise = _noise(cell)
        if noise is not None:
            line = lines.setdefault(noise, {"size": cell.setting} | _line(lab, noise))
            reference = fmean(clean[_training(cell)])
            column = f"{cell.export} {cell.exploiter}"
            above = reference > row.chance  # else there is nothing to protect
            line[column] = retained(row.accuracy, reference, row.chance) if above else math.nan
    return pd.DataFrame(list(lines.values()))


def made_of(lab: Lab, noises: Iterable[Noise]) -> pd.DataFrame:
    """One row a noise, of its record: the columns of `points` but for size and what is left."""
    return pd.DataFrame([_line(lab, noise) for noise in noises])


def _line(lab: Lab, noise: Noise) -> dict[str, Any]:
    noted, own = lab.noted(noise), getattr(noise.method, "weights_seed", None)
    return {
        "seed": noise.seed,
        "weights": noise.seed if own is None else own,
        **{name: noted["made_of"][-1][name] for name in SHARES},
        "rounds": len(noted["rounds"]),
        "noise": noise,
    }


def _noise(cell: Cell) -> Noise | None:
    assert isinstance(cell.stage, Run)
    return cell.stage.train[0].noise


def _training(cell: Cell) -> Any:
    """What a clean training must have in common with one on protected images."""
    stage = cell.stage
    assert isinstance(stage, Run)
    return stage.train[0].data, stage.exploiter, stage.net, stage.recipe, stage.precision


def with_records(points: pd.DataFrame) -> pd.DataFrame:
    """`points` between what other pages recorded of smaller and larger sizes, from small to large.

    Those have no shares of the noise's energy where their records note none. A rung that is a
    profile of its own, with a page of its own, stands among `points` alone.
    """
    rungs = [*PROFILES["cpu"].ladder.values()]
    places = [
        (name, place) for name, place in PLACES.items() if PROFILES[place.profile] not in rungs
    ]
    own = [number for number, (_, place) in enumerate(places) if place.page == LADDER]
    smaller, larger = dict(places[: own[0]]), dict(places[own[-1] + 1 :])
    return pd.concat([runs(smaller), points, runs(larger)], ignore_index=True)


def rounds(lab: Lab, noises: pd.DataFrame) -> pd.DataFrame:
    """What each noise is made of after each round: a row a noise and round.

    Args:
        noises: rows of `points`.
    """
    return pd.DataFrame(
        [
            {"noise": f"{row.weights} {row.seed}", "weights": row.weights, "order": row.seed}
            | {"round": number, **shares}
            for row in noises.itertuples()
            for number, shares in enumerate(lab.noted(row.noise)["made_of"], 1)
        ]
    )


def pictures(lab: Lab, noises: Iterable[Noise]) -> list[np.ndarray]:
    """The strip of each noise, `(H, W, 3)` uint8."""
    return [strips.decode(lab.noted(noise)["strip"]) for noise in noises]


def summary(points: pd.DataFrame, columns: Sequence[str], row: str = "size") -> pd.DataFrame:
    """Mean and 95 % interval of each column, a row for each size: "0.71 (0.42 to 1.00), n = 3"."""
    return points.groupby(row, sort=False)[[*columns]].agg(_interval)


def _interval(values: pd.Series[float]) -> str:
    known = values.dropna()
    if known.empty:
        return ""
    mean, n = known.mean(), len(known)
    if n < ENOUGH:
        return f"{mean:.2f}, n = {n}"
    half = half_width((float(known.std()) / n**0.5, n - 1))
    return f"{mean:.2f} ({mean - half:.2f} to {mean + half:.2f}), n = {n}"


def correlation(points: pd.DataFrame, x: str, y: str) -> tuple[float, float, int]:
    """Spearman's rank correlation of two columns, its p-value, and how many noises have both."""
    known = points[[x, y]].dropna()
    found = stats.spearmanr(known[x], known[y])
    return float(found.statistic), float(found.pvalue), len(known)


def explained(crossed: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """How much of each column's variance goes with the initial weights, and how much with the order
    of the images: a two-way analysis of variance, one noise a cell.

    Args:
        crossed: rows of `made_of`: each pair of the seeds in columns weights and seed once.

    Returns:
        one row a column; the shares of the sum of squares of "initial weights", "order" and "rest",
        and the p-values of the first two, by an F test against the rest. All are NaN with one
        seed, and where `points` could say of a noise not what it leaves.

    Raises:
        ValueError: a pair is missing.
    """
    return pd.DataFrame({name: _explained(crossed, name) for name in columns}).T


def style_explained(crossed: pd.DataFrame, columns: Sequence[str]) -> Styler:
    """`explained` as a table."""
    found = explained(crossed, columns).rename_axis("of").reset_index()
    found["of"] = found["of"].str.replace("_", " ")
    numbers = {
        name: "{:.3f}" if str(name).startswith("p, ") else "{:.2f}"
        for name in found
        if name != "of"
    }
    caption = "Shares of the variance, and p-values of an F test against the rest"
    return styled(found, caption, 0.85, {}).format(numbers)


def _explained(crossed: pd.DataFrame, column: str) -> dict[str, float]:
    table = crossed.pivot(index="weights", columns="seed", values=column)
    rows, columns = table.shape
    if not rows * columns or len(crossed) < rows * columns:
        raise ValueError(f"{column} lacks a pair of weights and order")
    values = table.to_numpy(dtype=float)
    whole = float(((values - values.mean()) ** 2).sum())
    squares = {
        "initial weights": (columns * float(values.mean(1).var() * rows), rows - 1),
        "order": (rows * float(values.mean(0).var() * columns), columns - 1),
    }
    if min(rows, columns) < 2 or math.isnan(whole):
        return dict.fromkeys(("initial weights", "order", "rest"), math.nan)
    rest = whole - sum(square for square, _ in squares.values())
    freedom = (rows - 1) * (columns - 1)
    found = {name: square / whole if whole else 0.0 for name, (square, _) in squares.items()}
    found["rest"] = 1 - sum(found.values()) if whole else 0.0
    for name, (square, degrees) in squares.items():
        ratio = square / degrees / (rest / freedom) if rest > 1e-12 * whole else math.nan
        found[f"p, {name}"] = float(stats.f.sf(ratio, degrees, freedom))
    return found


def fidelity(points: pd.DataFrame, full: Mapping[str, float]) -> pd.DataFrame:
    """How far each size is from the full one on the calibration cells, and whether it agrees.

    Args:
        points: rows of `points`.
        full: what is left at the full size, by cell (`CALIBRATION`).

    Returns:
        one row a size; for each cell "0.79 ± 0.12 (3)", the mean less the full size's in the
        column behind it; and agrees: "yes", "no", or "too few runs" where what there is agrees.
    """
    lines = {}
    for size, rows in points.groupby("size", sort=False):
        line, outcomes = dict[str, str](), set[str]()
        for cell, reference in full.items():
            known = rows[cell].dropna() if cell in rows else pd.Series(dtype=float)
            line[cell] = line[f"{cell}, distance"] = ""
            if known.empty:
                outcomes.add(TOO_FEW)
                continue
            spread = float(known.std()) if len(known) > 1 else 0.0
            distance = float(known.mean()) - reference
            line[cell] = f"{known.mean():.2f}{f' ± {spread:.2f}' * (len(known) > 1)} ({len(known)})"
            line[f"{cell}, distance"] = f"{distance:+.2f}"
            far = len(known) >= ENOUGH and max(abs(distance), spread) > NEAR
            outcomes.add("no" if far else "yes" if len(known) >= ENOUGH else TOO_FEW)
        line["agrees"] = next(one for one in ("no", TOO_FEW, "yes") if one in outcomes)
        lines[size] = line
    return pd.DataFrame(lines).T


def full_size() -> dict[str, float]:
    """What is left at the paper's size on the calibration cells, of the record of page 05d.

    Raises:
        FileNotFoundError: there is no such record.
    """
    frame, _ = records.read("05d_full_size", "paper")
    mean = frame.groupby(["export", "exploiter"])["accuracy"].mean()
    return {
        cell: retained(
            mean[tuple(cell.split())], mean["-", cell.split()[1]], frame["chance"].iloc[0]
        )
        for cell in CALIBRATION
    }


LEFT = {"exact gray": "both signs", "as_released gray": "as released"}
LABEL = "retained under gray"


def headline() -> Figure | Markdown:
    """What every recorded run of ULEO leaves under the gray filter, from the smallest study to the
    paper's size; a sentence where there is no record."""
    every = runs(PLACES)
    if every.empty:
        return Markdown("No size has a record here.")
    return dots(every.dropna(subset=[*LEFT], how="all"), LEFT, LABEL)


def two_processors(frame: pd.DataFrame, profile: str) -> Styler | Markdown:
    """The gray exploiter's accuracy on ULEO where two kinds of processor computed one seed, on the
    page and on page 05: by network, export, processor and seed; a sentence where there is none.

    Args:
        frame: of `Lab.table`; a row's setting is its size.
    """
    every = frame
    if "05_grayaug" in records.pages(profile):
        small, _ = records.read("05_grayaug", profile)
        every = pd.concat([small.assign(setting="small convnet"), frame])
    found = replicates.replaced(every, profile)
    found = found[(found["defender"] == "ULEO") & (found["exploiter"] == "gray")]
    if found.empty:
        return Markdown("No run here was made on two kinds of processor.")
    rows = ["setting", "export", "device"]
    laid_out = found.pivot_table(index=rows, columns="seed", values="accuracy", sort=False)
    laid_out = laid_out.rename_axis(["network", "export", "processor"]).reset_index()
    laid_out["export"] = laid_out["export"].replace("as_released", "as released")
    laid_out.columns = [f"seed {name}" if isinstance(name, int) else name for name in laid_out]
    told = "Test accuracy under the gray filter, %; noise and exploiter of one seed"
    table = styled(laid_out, told, 0.85, {"td, th": "text-align: left;"})
    return table.format(precision=1, na_rep="")


def beside_full_size(points: pd.DataFrame, caption: str) -> Styler | Markdown:
    """`fidelity` as a table; a sentence where the full size has no record."""
    try:
        full = full_size()
    except FileNotFoundError:
        return Markdown("The paper's size has no record here.")
    found = fidelity(points, full)
    heads = {cell: f"{cell.replace('_', ' ')} ({value:.2f})" for cell, value in full.items()}
    found = found.rename(columns=lambda name: heads.get(name, name.replace("_", " ")))
    rules = {"td, th": "text-align: left;"}
    return styled(found.rename_axis("size").reset_index(), caption, 0.76, rules)
