"""An author's poison as a row of the arena: what it is, its trainings, and how it compares.

`ulelib arena` (`arena_command.py`) is these functions one after the other:

    found = submit(path, lab)                              read, check, find the images
    cells = cells_of(lab, name, found.noise, exploiters)   clean and protected trainings
    lines = table(measure(lab, cells))                     what is retained, a line an exploiter
    laid_out = beside(lines, lab)                          beside the recorded rows
    write(lines, laid_out, lab, name, out)                 as CSV and as a figure
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ulelib import machine
from ulelib.book.arena_figures import heat_map
from ulelib.book.figures import use_style
from ulelib.book.verdict import retained
from ulelib.data import ImageSet
from ulelib.defenders import CLEAN
from ulelib.exploiters import EXPLOITERS
from ulelib.jobs import plan, records
from ulelib.jobs.cells import Cell
from ulelib.jobs.lab import Lab
from ulelib.perturbation import Perturbation
from ulelib.released import CLASS_WISE, Released, class_share, fitted, release
from ulelib.settings import described
from ulelib.specs import Noise, Run, Stage
from ulelib.visibility import visibility

PAGES = ("04_mitigations", "05_grayaug", "15_arena")  # whose rows a submission stands beside
COLUMNS = (
    "standard", "gray", "jpeg-10 (training only)", "bdr-2 (training only)", "low-pass", "cutout",
    "cutmix", "mixup", "trivialaugment", "ueraser-lite", "coin", "projection",
)  # fmt: skip
LONG_NAME = 40  # characters


@dataclass(frozen=True)
class Submission:
    """A poison that was read, checked and fitted to the images of a profile.

    Attributes:
        noise: the stage that makes its noise, from the file.
        told: what it is, in lines.
    """

    noise: Noise
    told: tuple[str, ...]


def open_lab(profile: str, seeds: int) -> Lab:
    """The lab of a submission. It reuses recorded trainings on clean images, unless this machine
    would have to emulate their precision."""
    lab = Lab(profile, n_seeds=seeds, keep=True)
    return lab if machine.is_native(lab.precision) else Lab(profile, n_seeds=seeds, keep=False)


def check_name(name: str, profile: str) -> None:
    """Raises ValueError where a row cannot have this name."""
    if not name.strip() or len(name) > LONG_NAME or not name.isprintable():
        raise ValueError(f"--name is {name!r:.60}: 1 to {LONG_NAME} printable characters")
    recorded = _recorded(profile)
    if name == CLEAN or (not recorded.empty and name in set(recorded["defender"])):
        raise ValueError(f"--name is {name!r}: the arena has a row of that name; choose another")


def submit(path: Path, lab: Lab) -> Submission:
    """Read an author's file, and fit it to the lab's images.

    Raises:
        ValueError, OSError: see `released.release` and `released.fitted`.
    """
    images, of = lab.train_set, lab.profile.data
    found = release(path, images, of)
    fit = fitted(found, images, of)
    method = Released(str(path), found.sha256, of)
    told = (
        f"{path.name}: {found.content.form}; {len(found.values):,} rows of "
        f"3x{images.images.shape[2]}x{images.images.shape[3]}, taken for {found.taken_for}.",
        f"Order: {fit.order}.",
        *_looks(fit.noise, images),
    )
    return Submission(Noise(lab.data, method, precision=lab.precision), told)


def _looks(noise: Perturbation, images: ImageSet) -> list[str]:
    """How visible noise is, and whether it is of images or of classes."""
    seen = visibility(images.images, noise.apply(images).images)
    share = class_share(noise, images)
    kind = noise.kind.replace("_", "-")
    if noise.kind == "sample_wise":
        clipped = ": class-wise, but for clipped pixels" * (share >= CLASS_WISE)
        kind += f"; {100 * share:.0f} % of its energy is the mean of its class{clipped}"
    return [f"Published ({len(images):,} pictures, 8 bits): {seen}.", f"Noise: {kind}."]


def cells_of(lab: Lab, name: str, noise: Noise, exploiters: Sequence[str]) -> list[Cell]:
    """The trainings of a row: clean and with this noise, for each exploiter and seed.

    Raises:
        ValueError: an unknown exploiter.
    """
    if unknown := sorted(set(exploiters) - set(EXPLOITERS)):
        raise ValueError(f"exploiters {unknown}; choose from {sorted(EXPLOITERS)}")
    return [
        cell
        for exploiter in dict.fromkeys(exploiters)
        for seed in lab.seeds
        for cell in (
            lab.cell(CLEAN, exploiter, seed=seed),
            lab.cell(name, exploiter, seed=seed, noise=noise),
        )
    ]


def forecast(lab: Lab, cells: Sequence[Cell]) -> str:
    """How many trainings are left, and about how long they take: a sentence.

    The time is that of recorded trainings of the same exploiter and network, on the machine that
    they were recorded on.
    """
    stages = [cell.stage for cell in cells]
    left = lab.missing(stages)
    said = f"{len(stages)} trainings, {len(stages) - len(left)} of them there already"
    if not left:
        return f"{said}."
    known = [_seconds(lab, stage) for stage in left]
    seconds = [one for one in known if one is not None]
    if len(seconds) < len(left):
        return f"{said}. How long the rest takes is known after the first."
    return f"{said}; the rest takes about {sum(seconds) / 60:.0f} minutes."


def _seconds(lab: Lab, stage: Stage) -> float | None:
    """How long recorded trainings took that resemble this one and have its recipe; None: there are
    none."""
    assert isinstance(stage, Run)
    own, standard = described(stage.exploiter), described(EXPLOITERS["standard"])
    recipe = described(stage.recipe)
    found: dict[str, list[float]] = {"own": [], "standard": []}
    for record in records.known(lab.profile.name).values():
        spec = record["spec"]
        if spec["type"] != "Run" or spec["net"] != described(stage.net):
            continue
        if {**recipe, **spec["recipe"]} == recipe:  # not one that stopped early
            for kind, wanted in (("own", own), ("standard", standard)):
                if {**wanted, **spec["exploiter"]} == wanted:
                    found[kind].append(float(record["result"]["seconds"]))
    times = found["own"] or found["standard"]
    return statistics.median(times) if times else None


def measure(lab: Lab, cells: Sequence[Cell]) -> pd.DataFrame:
    """The measured cells, of `Lab.rows`; what the store has is not computed again.

    Raises:
        PlanFailed: trainings that failed; what was finished is kept.
    """
    plan.run(lab.missing(cell.stage for cell in cells), lab.store)
    return lab.rows(cells)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """A line an exploiter and defender: mean accuracies in percent, and what is retained, of the
    clean accuracy with the same exploiter.

    Args:
        frame: of `Lab.rows`: clean images and others, one network.

    Returns:
        columns defender, exploiter, clean, accuracy, retained (NaN where nothing was learned from
        clean images), n.
    """
    clean = frame[frame["defender"] == CLEAN].groupby("exploiter")["accuracy"].mean()
    lines = []
    others = frame[frame["defender"] != CLEAN]
    for (defender, exploiter), runs in others.groupby(["defender", "exploiter"], sort=False):
        mean, reference = float(runs["accuracy"].mean()), clean.get(exploiter)
        chance = float(runs["chance"].iloc[0])
        learned = reference is not None and reference > chance
        left = retained(mean, float(reference), chance) if learned else float("nan")
        lines.append((defender, exploiter, reference, mean, left, len(runs)))
    columns = ["defender", "exploiter", "clean", "accuracy", "retained", "n"]
    return pd.DataFrame(lines, columns=columns)


def text(lines: pd.DataFrame) -> str:
    """`table` for a terminal, and mean and worst case over its exploiters."""
    shown = lines.drop(columns="defender").rename(
        columns={"clean": "clean, %", "accuracy": "this noise, %"}
    )
    formats = {"clean, %": "{:.1f}", "this noise, %": "{:.1f}", "retained": "{:.2f}"}
    printed = shown.to_string(
        index=False, na_rep="-", formatters={name: one.format for name, one in formats.items()}
    )
    left = lines["retained"].dropna()
    if left.empty:
        return f"{printed}\nNothing was learned from clean images, so nothing can be retained."
    worst = lines.loc[left.idxmax(), "exploiter"]
    return (
        f"{printed}\nRetained (0: chance, 1: as if unprotected): mean {left.mean():.2f}, most "
        f"{left.max():.2f} ({worst})."
    )


def _recorded(profile: str) -> pd.DataFrame:
    """The rows of `PAGES` that are no variants, each run once; empty where none is recorded in this
    profile."""
    known = [page for page in PAGES if page in records.pages(profile)]
    if not known:
        return pd.DataFrame()
    frames = [records.read(page, profile)[0] for page in known]
    every = pd.concat(frames, ignore_index=True).drop_duplicates("key")
    return every[every.get("setting", "-") == "-"]


def beside(lines: pd.DataFrame, lab: Lab) -> pd.DataFrame:
    """What is retained, a row a defender and a column an exploiter, the strongest first: a
    submission and the recorded rows, of the same network and exploiters.

    Args:
        lines: of `table`.
    """
    frame = _recorded(lab.profile.name)
    every = [lines]
    if not frame.empty:
        same = frame["net"] == str(lab.profile.loop.net)
        frame = frame[same & frame["exploiter"].isin(lines["exploiter"])]
        exports = frame["export"].isin(("-", "exact"))
        named = frame["defender"].where(exports, frame["defender"] + ", " + frame["export"])
        every.append(table(frame.assign(defender=named)))
    laid_out = pd.concat(every).pivot_table("retained", "defender", "exploiter", dropna=False)
    laid_out = laid_out.reindex(columns=lines["exploiter"])
    return laid_out.loc[laid_out.mean(axis=1).sort_values().index]


def place(laid_out: pd.DataFrame, name: str, seeds: int) -> str:
    """Where a row stands among those that have a number in every column: a sentence.

    Args:
        laid_out: of `beside`.
        seeds: trainings in each of its cells.

    Returns:
        "" where it stands alone, or lacks a number itself.
    """
    ranked = [*laid_out.dropna().index]
    if name not in ranked or len(ranked) == 1:
        return ""
    few = " Below three seeds this is no verdict." * (seeds < 3)
    return (
        f"Place {ranked.index(name) + 1} of {len(ranked)} by the mean over these exploiters.{few}"
    )


def caption(lab: Lab) -> str:
    """What a submission was measured on."""
    seeds = ", ".join(map(str, lab.seeds))
    return (
        f"{len(lab.train_set):,} training images of {lab.train_set.name}, profile "
        f"{lab.profile.name}, seed{'s' * (len(lab.seeds) > 1)} {seeds}"
    )


def write(
    lines: pd.DataFrame, laid_out: pd.DataFrame, lab: Lab, name: str, out: Path
) -> list[Path]:
    """Write the row as CSV, and the figure as PNG; files of the same names are replaced.

    Args:
        out: a folder, made if missing.

    Raises:
        OSError: they cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    stem = "".join(one if one.isalnum() or one in "-_." else "_" for one in name).lstrip(".") or "_"
    files = [out / f"{stem}.csv", out / f"{stem}.png"]
    lines.to_csv(files[0], index=False, float_format="%.6g")
    use_style(caption(lab))
    heat_map(laid_out, [name]).savefig(files[1])
    return files
