"""Notebooks: how their pages are made, and what their cells tagged `plan` state.

A notebook's metadata holds, under "ulelib", what is particular to its page (`Making`). Its cells
tagged `plan` see nothing but `lab` and each other, and state `cells` and, if the page shows
perturbations themselves, `noises`, or if it shows what is recorded of some, `noted`.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import nbformat
import papermill

from ulelib.jobs.cells import Cell
from ulelib.jobs.lab import Lab
from ulelib.profiles import PROFILES
from ulelib.settings import Count, Seed, read, settings
from ulelib.specs import Noise, Seen, Stage, stages_of

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"


@settings
class Making:
    """How the page of a notebook is made.

    Attributes:
        seeds: how many, if not the profile's number; smoke always takes its own.
        profiles: whose book has the page, unless it is asked for by name.
        needs: "photographs": the page cannot be made of drawn images.
        reads_records: it shows the records that other pages write, and is made after them.
        first_seed: what is added to the seed that a run asks for: the page shares none with others.
    """

    seeds: Count | None = None
    profiles: tuple[str, ...] = tuple(PROFILES)
    needs: Literal["photographs"] | None = None
    reads_records: bool = False
    first_seed: Seed = 0


@dataclass
class Needs:
    """What a notebook states.

    Attributes:
        lab: with the notebook's parameters.
        cells: the measurements of its tables.
        noises: perturbations that the page shows. No record holds them.
        noted: perturbations of which the page shows what is recorded (`Lab.noted`), or how visible
            they are (`Lab.seen`).
    """

    lab: Lab
    cells: list[Cell]
    noises: list[Noise]
    noted: list[Noise | Seen] = field(default_factory=list)

    @property
    def stages(self) -> list[Stage]:
        """Noise first."""
        return [*self.noises, *self.noted, *(cell.stage for cell in self.cells)]

    def closure(self) -> list[Stage]:
        """All that it needs."""
        return stages_of(self.stages)

    def missing(self) -> list[Stage]:
        """Noise that is not in the store, and what is neither in the store nor in a
        record that can be reused. To be asked again after computing, see `Lab.missing`."""
        noises = [noise for noise in self.noises if not self.lab.store.find(noise)]
        recorded = [*self.noted, *(cell.stage for cell in self.cells)]
        return [*noises, *self.lab.missing(recorded)]


def path_of(name: str) -> Path:
    """The file of a notebook."""
    return FOLDER / f"{name}.ipynb"


def making(name: str) -> Making:
    """How the page of a notebook is made.

    Raises:
        ValueError: its metadata holds something else.
    """
    own = nbformat.read(path_of(name), as_version=4).metadata.get("ulelib", {})
    try:
        found: Making = read({"type": "Making", **own}, {"Making": Making})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}, metadata: {error}") from error
    return found


def is_of(name: str, profile: str) -> bool:
    """Whether the book of a profile has the page of this notebook."""
    how = making(name)
    drawn = PROFILES[profile].data == "shapes"
    return profile in how.profiles and not (drawn and how.needs == "photographs")


def parameters(
    name: str, profile: str, seed: int | list[int], n_seeds: int | None
) -> dict[str, Any]:
    """Those of the parameters "profile", "seed" and "n_seeds" that a notebook has.

    Args:
        seed: the first seed; or a list of all, and then `n_seeds` stays away.
        n_seeds: None: the page's own number.
    """
    how, seeds = making(name), PROFILES[profile].seeds
    if profile != "smoke":
        seeds = how.seeds or seeds
    own = (
        [how.first_seed + one for one in seed] if isinstance(seed, list) else how.first_seed + seed
    )
    values: dict[str, Any] = {"profile": profile, "seed": own}
    if not isinstance(seed, list):
        values["n_seeds"] = seeds if n_seeds is None else n_seeds
    known = papermill.inspect_notebook(str(path_of(name)))
    return {key: value for key, value in values.items() if key in known}


def stated(name: str, parameters: dict[str, Any]) -> Needs | None:
    """What a notebook states; None if it has no cells tagged `plan`.

    Raises:
        what its cells raise, or `Lab`.
    """
    sources = [
        cell.source
        for cell in nbformat.read(path_of(name), as_version=4).cells
        if "plan" in cell.metadata.get("tags", [])
    ]
    if not sources:
        return None
    lab = Lab(**parameters)
    names = run_as_module(name, "\n".join(sources), lab=lab)
    shown, noted = (list(names.get(name, [])) for name in ("noises", "noted"))
    return Needs(lab, list(names["cells"]), shown, noted)


def run_as_module(name: str, source: str, **given: Any) -> dict[str, Any]:
    """Import a source text, the project's own, as a module of its own.

    Args:
        given: names that it finds defined.

    Returns:
        the module's names.
    """
    loader = _Text(source)
    spec = importlib.util.spec_from_loader(name, loader, is_package=False)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    vars(module).update(given)
    loader.exec_module(module)
    return vars(module)


class _Text(importlib.abc.InspectLoader):
    """Python's loader of modules, for one that is no file."""

    def __init__(self, source: str) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        return self._source
