"""What every page of the book does: check its parameters, and say what it ran on.

lab = page.open_lab(profile, seed, n_seeds)      # second cell of a notebook
page.about(lab)                                  # on what data, profile, seeds and machine

Both ways to begin a page, `open_lab` and `check_parameters`, make the magic `%%say` known (`say`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from IPython import get_ipython
from IPython.display import Markdown
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from ulelib import machine
from ulelib.bilevel import Bilevel
from ulelib.book import claims, say, scoreboard
from ulelib.book.compare import ABSENT, comparison_table
from ulelib.book.noise_figures import perturbation_grid
from ulelib.book.tables import style_table
from ulelib.book.verdict import extent
from ulelib.csd import csd
from ulelib.data import ImageSet
from ulelib.jobs import inputs, records, replicates, strips
from ulelib.jobs.lab import Lab
from ulelib.perturbation import Perturbation
from ulelib.pretraining import separability
from ulelib.profiles import PROFILES
from ulelib.specs import Noise, Run

LONGER = (  # `Profile.steps_at_least`
    "Smaller training sets get more epochs, so that every run makes at least half as many steps."
)


def open_lab(profile: str = "auto", seed: int | list[int] = 0, n_seeds: int = 1) -> Lab:
    """The lab of a notebook, after its parameters have been checked.

    The kernel is the page's own process, so its memory allocator is set for training.

    Raises:
        ValueError: papermill was given a parameter that the notebook does not have (papermill
            itself only warns), or a value out of its range.
    """
    shell = get_ipython()
    if shell is not None:
        check_parameters(shell.user_ns.get("In", []))
        machine.prepare()
    return Lab(profile, seed, n_seeds)


def needs_photographs(lab: Lab) -> None:
    """Refuse the smoke profile on a page whose loop would never end with its drawn images.

    Raises:
        ValueError: the lab is in the smoke profile; says what to do.
    """
    if lab.profile.name == "smoke":
        raise ValueError(
            "this page needs photographs, not the drawn images of the smoke profile: set "
            "ULELIB_DATA to a folder that holds cifar10.npz, or connect to a network, and use the "
            'profile "cpu" or "paper"'
        )


def check_parameters(cells: list[str]) -> None:
    """Refuse injected parameters that the notebook does not know.

    Args:
        cells: the sources of the cells run so far. papermill puts its values in a cell of their own
            after the notebook's parameters, under the heading `# Parameters`.

    Raises:
        ValueError: names the unknown parameters and the known ones.
    """
    say.register()
    for number, cell in enumerate(cells):
        if cell.lstrip().startswith("# Parameters\n"):
            known = set().union(*map(_assigned, cells[:number]))
            unknown = sorted(_assigned(cell) - known)
            if unknown:
                raise ValueError(
                    f"unknown notebook parameter(s) {unknown}; this notebook has {sorted(known)}"
                )


def _assigned(source: str) -> set[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell with a shell command or a magic assigns no parameter
        return set()
    return {
        name.id
        for node in ast.walk(tree)
        for name in (getattr(node, "targets", None) or [getattr(node, "target", None)])
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(name, ast.Name)
    }


def caption(lab: Lab, results: pd.DataFrame | None = None) -> str:
    """One line for every table and figure: data, scale, profile, seeds.

    Args:
        results: rows of `Lab.table`, which may have more seeds than the lab: their seeds, and how
            many runs a cell has. None: the lab's seeds.
    """
    fell_back = "; CIFAR-10 was not at hand" if lab.fell_back else ""
    images = _images(lab.train_set.name, len(lab.train_set), len(lab.test_set))
    return f"{images}, {_scale(lab.profile.name)}, {_seeds(lab.seeds, results)}{fell_back}"


def about(lab: Lab, results: pd.DataFrame | None = None, **own: str) -> Markdown:
    """On what data, profile, seeds and machine the page ran.

    Args:
        results: as of `caption`.
        own: rows that this page replaces or adds, e.g. `data="2,000 pictures of imagenet10"`.
    """
    profile, where = lab.profile, machine.describe()
    loop = profile.loop
    rows = {
        "profile": f"`{profile.name}`",
        "data": _images(lab.train_set.name, len(lab.train_set), len(lab.test_set)),
        "network": f"{loop.net}, defender and exploiter, unless the page says another"
        + "; its first layer is fixed"
        * (loop.net.name == "convnet" and dict(loop.net.options).get("stem", "haar") == "haar"),
        "Algorithm 1": (
            f"ε = {255 * loop.inner.epsilon:.3g}/255, {loop.inner.steps} inner steps of "
            f"{255 * loop.inner.step:.3g}/255 in each round, {loop.outer_batches} training batches "
            f"of {loop.outer_batch_size}, stop error {loop.stop_error:g}"
        ),
        "training": _training(lab),
        "seeds": _listed(lab.seeds, results),
        "precision": f"{lab.precision}, torch {where['torch']}, Python {where['python']}",
    }
    rows |= {name.replace("_", " "): text for name, text in own.items()}
    lines = [f"| {name} | {text} |" for name, text in rows.items()]
    warning = ""
    if lab.fell_back:
        warning = (
            "```{warning}\nCIFAR-10 is neither in `ULELIB_DATA` nor to be downloaded, so this page "
            "ran in the `smoke` profile, on drawn shapes and a tiny network. Its numbers show that "
            "the code works, not what the paper found.\n```\n\n"
        )
    elif profile.name == "smoke":
        warning = (
            "```{warning}\nThe `smoke` profile: drawn shapes and a tiny network. Its numbers show "
            "that the code works, not what the paper found.\n```\n\n"
        )
    return Markdown(warning + "\n".join(["| | |", "|:--|:--|", *lines]))


def _training(lab: Lab) -> str:
    """How the page's networks were trained, with the epochs of those that it has shown so far."""
    profile, recipe = lab.profile, lab.profile.recipe
    stages = [cell.stage for cell in lab.cells_shown]
    epochs = [stage.recipe.epochs for stage in stages if isinstance(stage, Run)]
    return (
        f"{extent(epochs or [recipe.epochs])} epochs, batches of {recipe.batch_size}, SGD with "
        f"peak rate {recipe.learning_rate:g} ({recipe.schedule}), label smoothing "
        f"{recipe.label_smoothing:g}, crop and flip"
        + ", image and mirror image at the last test" * recipe.flip_at_test
        + f"; the papers' networks with peak rate {profile.nets_rate:g}."
        + f" {LONGER}" * bool(profile.steps_at_least)
    )


def record_caption(record: dict[str, Any], results: pd.DataFrame | None = None) -> str:
    """`caption` of a record that `Lab.save` wrote."""
    (train, n_train), (_, n_test) = record["train"], record["test"]
    images = _images(train, n_train, n_test)
    return f"{images}, {_scale(record['profile'])}, {_seeds(record['seeds'], results)}"


def about_record(record: dict[str, Any]) -> Markdown:
    """On what data, profile, seeds and machine a record was measured, and how long it took."""
    return Markdown(f"Measured on {record_caption(record)}. {spent_on(record['stages'].values())}")


def spent(lab: Lab, results: pd.DataFrame | None = None) -> Markdown:
    """The page's last output: its profile and stages, who computed them and how long.

    Args:
        results: as of `caption`, to say how many of these runs other pages computed.
    """
    stages = lab.records()
    told = f"Profile `{lab.profile.name}`. {spent_on(stages.values())}"
    others = 0 if results is None else int((~results["key"].isin(stages)).sum())
    told += f" Other pages computed {_count(others, 'more run')} shown here." * bool(others)
    return Markdown(told)


def spent_on(stages: Iterable[dict[str, Any]]) -> str:
    """How many stages of each kind, in how many minutes, on what, with which commit.

    Args:
        stages: records of stages, of `jobs.execute.record`.
    """
    found = list(stages)
    if not found:
        return "No computation is behind this page."
    words = {
        "Noise": "perturbation",
        "Run": "training",
        "Pretrained": "label-free training",
        "Attacked": "attack",
        "Refitted": "last layer",
        "Seen": "visibility check",
    }
    parts = []
    for kind, word in words.items():
        took = [float(s["result"].get("seconds", 0)) for s in found if s["spec"]["type"] == kind]
        if took:
            parts.append(f"{_count(len(took), word)} in {sum(took) / 60:.1f} minutes")
    machines = [stage["made"]["machine"] for stage in found]
    devices = sorted({where["device"] for where in machines})
    commits = sorted({str(stage["made"]["commit"]) for stage in found})
    return (
        f"Computation behind this page: {' and '.join(parts)}, each on {_threads(machines)} of "
        f"{', '.join(devices)}, by the code of commit{'s' * (len(commits) > 1)} "
        f"{', '.join(commits)}."
    )


def judged(lab: Lab, name: str, frame: pd.DataFrame, on: str | None = None) -> Styler:
    """The claims that a page judges, with the outcome of each.

    Args:
        name: of the page, which may measure a part of another's cells (`claims.PART_OF`).
        frame: its results, of `Lab.table`.
        on: what it was measured on, for the caption; `caption(lab, frame)` if None.
    """
    ledger = claims.judge(lab.profile.name, {name: frame})
    known = pd.DataFrame([*claims.load()])[["id", "sentence", "source", "page"]]
    lines = known[known["page"] == claims.PART_OF.get(name, name)].merge(ledger, on="id")
    here = lines["n"] > 0
    left = f"; {(~here).sum()} predicates ask for other cells" * bool((~here).any())
    told = on or caption(lab, frame)
    return claims.style(lines[here], f"Claims judged by this page; {told}{left}")


def beside(
    lab: Lab,
    frame: pd.DataFrame,
    table: str,
    rows: Sequence[str] = ("defender", "export"),
    columns: Sequence[str] = ("exploiter",),
    on: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Styler:
    """A page's results beside a published table, each cell with the verdict that it has everywhere
    in the book (`scoreboard.judged`).

    Args:
        frame: of `Lab.table`.
        rows, columns: see `compare.comparison_table`.
        on: what it was measured on, for the caption; `caption(lab, frame)` if None.
        names: other words for names in the table, e.g. of networks.
    """
    recorded = scoreboard.judged(lab.profile.name, table) if lab.known else None
    if recorded is None or recorded.empty:  # a run that stands beside no record
        recorded = scoreboard.judged_in(frame, table)
    laid_out = comparison_table(frame, table, rows, columns, recorded)
    words = dict(names or {})
    laid_out = laid_out.replace(words).rename(columns=words)
    told = caption(lab, frame) if on is None else on
    return style_table(laid_out, told, _csv_name(table, lab.profile.name))


def recorded_table(name: str, profile: str, table: str) -> Styler | Markdown:
    """A page's record beside a published table; a sentence where there is none."""
    try:
        frame, record = replicates.read(name, profile)
    except FileNotFoundError:
        return Markdown(f"`{name}` has no record in the `{profile}` profile.")
    laid_out = comparison_table(frame, table, family=scoreboard.judged(profile, table))
    return style_table(laid_out, record_caption(record, frame), _csv_name(table, profile))


def summary(
    frame: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], value: str = "accuracy"
) -> Styler:
    """A table of "mean ± std (n)" over the seeds, percent; "mean (1)" of one run.

    Args:
        frame: of `Lab.table`, or melted from it.
        rows, columns: the columns of `frame` that distinguish its rows and its columns.
        value: the column that is averaged.
    """
    cells = frame.groupby([*rows, *columns], sort=False)[value]
    texts = cells.agg(
        lambda runs: (
            f"{runs.mean():.1f}"
            + (f" ± {runs.std():.1f}" if len(runs) > 1 else "")
            + f" ({len(runs)})"
        )
    )
    laid_out = texts.unstack([*columns], fill_value=ABSENT)
    return laid_out.reindex(frame[[*rows]].drop_duplicates().squeeze(axis=1)).style


def separations(noises: Mapping[str, Perturbation], images: ImageSet) -> Styler:
    """How well each noise separates the classes: a linear classifier's test accuracy on the noise
    alone (`pretraining.separability`), and CSD over the whole set (`csd.csd`).

    Args:
        noises: by name, each made for `images`.
    """
    every = torch.arange(len(images))
    lines = {
        name: {
            "linear model, %": separability(noise, images),
            "CSD": float(csd(noise.of(images, every), images.labels)),
        }
        for name, noise in noises.items()
    }
    return pd.DataFrame(lines).T.style.format({"linear model, %": "{:.1f}", "CSD": "{:.3g}"})


def example(profile: str, count: int = 2) -> Figure | Markdown:
    """Original, noise and protected image, of a perturbation that a record has a strip of.

    Args:
        count: of images, up to `strips.IMAGES`.

    Returns:
        a sentence where no sample-wise perturbation of Algorithm 1 is recorded with a strip.
    """
    for _, record in sorted(records.known(profile).items()):
        spec = record["spec"]
        method = spec["method"] if "strip" in record["result"] else {}
        if method.get("type") == "Bilevel" and method["wise"] == "sample":
            stage = records.spec_of(record)
            assert isinstance(stage, Noise) and isinstance(stage.method, Bilevel)
            chosen = inputs.images(stage.data, "train").select(torch.arange(count))
            epsilon = stage.method.inner.epsilon
            noise = strips.noise(record["result"]["strip"], epsilon)[:count]
            made = Perturbation(noise, "sample_wise", epsilon, "ULEO", chosen.fingerprint)
            labels = [chosen.classes[label] for label in chosen.labels]
            protected = made.apply(chosen).images
            return perturbation_grid(chosen.images, noise, protected, epsilon, labels)
    return Markdown("No perturbation is recorded with a picture of it.")


def times(profile: str) -> Styler:
    """How many minutes a seed of each recorded page took, its stages one after the other."""
    lines = []
    for name in records.pages(profile):
        _, record = records.read(name, profile)
        seconds = [float(one["result"].get("seconds", 0)) for one in record["stages"].values()]
        seeds = len(record["seeds"])
        lines.append(
            {
                "page": name,
                "seeds": seeds,
                "stages": len(seconds),
                "minutes a seed": sum(seconds) / 60 / seeds,
                "threads a stage": _threads(
                    [one["made"]["machine"] for one in record["stages"].values()]
                ),
            }
        )
    return pd.DataFrame(lines).style.hide(axis="index").format({"minutes a seed": "{:.0f}"})


def _images(name: str, n_train: int, n_test: int) -> str:
    return f"{n_train:,} training and {n_test:,} test images of {name}"


def _scale(profile: str) -> str:
    return f"{PROFILES[profile].scale}, profile {profile}"


def _seeds(seeds: list[int], results: pd.DataFrame | None = None) -> str:
    listed = _listed(seeds, results)
    return f"seed{'s' * (',' in listed)} {listed}"


def _listed(seeds: list[int], results: pd.DataFrame | None) -> str:
    """ "0, 1, 2"; with results their seeds and the runs of a cell, "0, 1, 2, 3 (n = 3 to 4)"."""
    if results is None or results.empty:
        return ", ".join(map(str, seeds))
    names = [name for name in records.NAMES if name in results and name != "seed"]
    n = extent(results.groupby(names)["seed"].nunique())
    return f"{', '.join(map(str, sorted(results['seed'].unique())))} (n = {n})"


def _csv_name(table: str, profile: str) -> str:
    """The file of a published table: "table_4_cpu.csv"."""
    return f"table_{re.sub('[^A-Za-z0-9]+', '_', table)}_{profile}.csv"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _threads(machines: list[dict[str, Any]]) -> str:
    """E.g. "1 thread", "1 or 2 threads"."""
    numbers = sorted({int(machine["threads"]) for machine in machines})
    return " or ".join(map(str, numbers)) + (" thread" if numbers == [1] else " threads")
