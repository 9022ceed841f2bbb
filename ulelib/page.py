"""What every page of the book does: check its parameters, and say what it ran on.

lab = page.open_lab(profile, seed, n_seeds)      # second cell of a notebook
page.about(lab)                                  # on what data, profile, seeds and machine
"""

from __future__ import annotations

import ast
from typing import Any

import pandas as pd
from IPython import get_ipython
from IPython.display import Markdown

from ulelib import machine
from ulelib.lab import Lab


def open_lab(profile: str = "auto", seed: int = 0, n_seeds: int = 1) -> Lab:
    """The lab of a notebook, after its parameters have been checked.

    Raises:
        ValueError: papermill was given a parameter that the notebook does not have (papermill
            itself only warns), or a value out of its range.
    """
    shell = get_ipython()
    if shell is not None:
        check_parameters(shell.user_ns.get("In", []))
    return Lab(profile, seed, n_seeds)


def needs_photographs(lab: Lab) -> None:
    """Refuse the drawn images of the smoke profile, on a page whose loop they never let end.

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
            behind the notebook's parameters, under the heading `# Parameters`.

    Raises:
        ValueError: names the unknown parameters and the known ones.
    """
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


def caption(lab: Lab) -> str:
    """One line for every table and figure: data, profile, seeds."""
    fell_back = "; CIFAR-10 was not at hand" if lab.fell_back else ""
    images = f"{len(lab.train_set):,} training and {len(lab.test_set):,} test images"
    on = f"{images} of {lab.train_set.name}, profile {lab.profile.name}"
    return f"{on}, {_seeds(lab.seeds)}{fell_back}"


def about(lab: Lab) -> Markdown:
    """The page's first output: on what data, profile, seeds and machine it ran."""
    profile, where = lab.profile, machine.describe()
    options = ", ".join(f"{key} {value}" for key, value in profile.model_options.items())
    loop, recipe = profile.loop, profile.recipe
    rows = {
        "profile": f"`{profile.name}`",
        "data": caption(lab).split(", profile")[0],
        "network": f"{profile.model}{f' ({options})' if options else ''}, defender and exploiter",
        "Algorithm 1": (
            f"ε = {255 * loop.epsilon:.3g}/255, {loop.inner_steps} inner steps of "
            f"{255 * loop.step:.3g}/255, {loop.outer_batches} training batches of "
            f"{loop.outer_batch_size} a round, stop error {loop.stop_error:g}"
        ),
        "training": (
            f"{recipe.epochs} epochs, batches of {recipe.batch_size}, SGD with peak rate "
            f"{recipe.learning_rate:g} ({recipe.schedule}), label smoothing "
            f"{recipe.label_smoothing:g}, crop and flip"
            + (", image and mirror image at test" if recipe.flip_at_test else "")
        ),
        "seeds": ", ".join(map(str, lab.seeds)),
        "machine": (
            f"{where['device']}, {_threads([where])}, {lab.precision}, "
            f"torch {where['torch']}, Python {where['python']}"
        ),
    }
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


def terminal_table(frame: pd.DataFrame) -> str:
    """A comparison as plain text, for a terminal: two header rows become one."""
    flat = frame.copy()
    flat.columns = [" ".join(filter(None, map(str, name))) for name in frame.columns]
    return flat.to_string(index=False)


def record_caption(record: dict[str, Any]) -> str:
    """`caption`, of a record that `Lab.save` wrote."""
    (train, n_train, _), (_, n_test, _) = record["images"]["train"], record["images"]["test"]
    return (
        f"{n_train:,} training and {n_test:,} test images of {train}, profile "
        f"{record['profile']['name']}, {_seeds(record['seeds'])}"
    )


def about_record(record: dict[str, Any]) -> Markdown:
    """On what data, profile, seeds and machine a record was measured, and how long it took."""
    where = record["machine"]
    stages = [*record["generations"].values(), *record["results"]]
    seconds = sum(row["seconds"] for row in stages)
    threads = _threads([row["machine"] for row in stages])
    return Markdown(
        f"Measured on {record_caption(record)}; on {where['device']}, "
        f"{record['precision']}, torch {where['torch']}; "
        f"{_count(len(record['generations']), 'perturbation')} and "
        f"{_count(len(record['results']), 'training')} in {seconds / 60:.0f} minutes, each on "
        f"{threads}."
    )


def spent(lab: Lab) -> Markdown:
    """The page's last output: how long its stages took, whether today or when they were stored."""
    generations = [float(record["seconds"]) for record in lab.generations.values()]
    trainings = [result.seconds for result in lab.results.values()]
    parts = [
        f"{_count(len(seconds), name)} in {sum(seconds) / 60:.1f} minutes"
        for name, seconds in (("perturbation", generations), ("training", trainings))
        if seconds
    ]
    machines = [record["machine"] for record in lab.generations.values()]
    threads = _threads([*machines, *(result.machine for result in lab.results.values())])
    on = f", each on {threads}" if parts else ""
    return Markdown(f"Computation behind this page: {' and '.join(parts) or 'none'}{on}.")


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _threads(machines: list[dict[str, Any]]) -> str:
    """E.g. "1 thread", "1 or 2 threads"."""
    numbers = sorted({int(machine["threads"]) for machine in machines})
    return " or ".join(map(str, numbers)) + (" thread" if numbers == [1] else " threads")
