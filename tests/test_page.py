"""What pages have in common: parameters that the notebook knows, claims, small tables."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from helpers import random_images
from ulelib.book import claims
from ulelib.book.page import (
    LONGER,
    about,
    beside,
    caption,
    check_parameters,
    judged,
    separations,
    spent,
    summary,
)
from ulelib.jobs.inputs import data_set
from ulelib.jobs.lab import Lab
from ulelib.perturbation import Perturbation
from ulelib.profiles import PROFILES

PARAMETERS = """
profile = "auto"  # "smoke", "cpu" or "paper"
seed: int = 0
n_seeds = 1
"""


def injected(text: str) -> str:
    """A cell as papermill writes it."""
    return f"# Parameters\n{text}\n"


@pytest.mark.parametrize(
    "cells",
    [
        ["", PARAMETERS],
        ["", PARAMETERS, injected("seed = 3")],
        ["", "import ulelib", PARAMETERS, injected('seed = 3\nprofile = "smoke"')],
        ["", "%matplotlib inline", PARAMETERS, "!ls", injected("n_seeds = 2")],
        ["", PARAMETERS, injected("seed = 3"), injected("seed = 4")],
        ["", PARAMETERS, "# Parameters are above.\nunknown = 3"],
        [],
    ],
)
def test_known_parameters_pass(cells: list[str]) -> None:
    check_parameters(cells)


@pytest.mark.parametrize("text", ["sed = 3", "seed = 3\nsed = 4", "sed: int = 3"])
def test_unknown_parameters_are_named_with_the_known_ones(text: str) -> None:
    message = r"unknown notebook parameter\(s\) \['sed'\].*\['n_seeds', 'profile', 'seed'\]"
    with pytest.raises(ValueError, match=message):
        check_parameters(["", PARAMETERS, injected(text)])


def test_a_parameter_set_only_after_the_injected_cell_is_unknown() -> None:
    with pytest.raises(ValueError, match="epsilon"):
        check_parameters(["", PARAMETERS, injected("epsilon = 1"), "epsilon = 8 / 255"])


def test_every_value_papermill_writes_is_read() -> None:
    values = 'name = "a"\nflag = True\nnothing = None\nnumbers = [1, 2]\nmap_ = {"a": -1.5}'
    known = "name = flag = None\nnothing: object = 0\nnumbers = ()\nmap_ = {}"
    check_parameters(["", known, injected(values)])
    with pytest.raises(ValueError, match="'flag', 'map_', 'name', 'nothing', 'numbers'"):
        check_parameters(["", "", injected(values)])


def test_captions_name_the_seeds_and_runs_of_the_results(tmp_path: Path) -> None:
    lab = Lab("smoke", store=tmp_path)
    frame = pd.DataFrame({"defender": ["ULEO"] * 3 + ["clean"], "seed": [0, 1, 5, 0]})
    frame["key"] = ["a", "b", "c", "d"]
    assert caption(lab).endswith(", seed 0") and "| seeds | 0 |" in about(lab).data
    assert caption(lab, frame) == f"{caption(lab).removesuffix('seed 0')}seeds 0, 1, 5 (n = 1 to 3)"
    assert caption(lab, frame[:2]).endswith("seeds 0, 1 (n = 2)")
    assert "| seeds | 0, 1, 5 (n = 1 to 3) |" in about(lab, frame).data
    assert (
        spent(lab, frame).data == f"{spent(lab).data} Other pages computed 4 more runs shown here."
    )


def test_a_page_says_how_long_its_own_trainings_were(tmp_path: Path) -> None:
    lab = Lab("smoke", store=tmp_path)
    assert "| training | 8 epochs, " in about(lab).data and LONGER in about(lab).data
    cells = [lab.cell("clean", data=data_set("shapes", n)) for n in (None, 500)]
    epochs = [cell.stage.recipe.epochs for cell in cells]
    assert epochs[0] == 8 < epochs[1]
    lab.cells_shown |= dict.fromkeys(cells)
    assert f"| training | 8 to {epochs[1]} epochs, " in about(lab).data
    assert {profile.steps_at_least for profile in PROFILES.values()} == {0, 0.5}  # as LONGER says


def test_each_table_of_a_page_has_its_own_file(tmp_path: Path) -> None:
    names = {"net": "n", "source": "-", "setting": "-", "seed": 0, "chance": 10.0, "export": "-"}
    line = {"defender": "clean", "exploiter": "standard", "accuracy": 90.0}
    lab, frame = Lab("smoke", store=tmp_path), pd.DataFrame([line | names])
    for table, name in (("1", "1"), ("8", "8"), ("MI-UE CIFAR-10", "MI_UE_CIFAR_10")):
        html = beside(lab, frame, table).to_html()
        assert f'download="table_{name}_smoke.csv"' in html
        assert f"{caption(lab, frame)}<br>" in html


def test_a_claim_says_once_that_its_predicate_was_written_after_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = {"left": {"defender": "clean", "exploiter": "gray"}, "at_least": 50, "primary": True}
    claim = {"id": "a", "sentence": "S.", "source": "T", "page": "p", "fixed": "after"}
    monkeypatch.setattr(claims, "load", lambda: (claim | {"test": [test]},))
    row = {"defender": "clean", "exploiter": "gray", "accuracy": 60.0, "seed": 0, "chance": 10.0}
    frame = pd.DataFrame([row | {"net": "n", "source": "-", "setting": "-"}])
    html = judged(Lab("smoke", store=tmp_path), "p", frame).to_html()
    assert ">S.<" in html and html.count(claims.AFTER) == 1


def test_claims_are_judged_by_a_part_of_their_page_and_what_it_leaves_open_is_counted(
    tmp_path: Path,
) -> None:
    names = {"net": "n", "source": "-", "setting": "-", "seed": 0, "chance": 10.0, "curve": (1.0,)}
    cells = [("clean", "-", 94.0), ("ULEO", "as_released", 92.0)]
    rows = [
        {"defender": defender, "export": export, "exploiter": "gray", "accuracy": value} | names
        for defender, export, value in cells
    ]
    lab = Lab("smoke", store=tmp_path)
    html = judged(lab, "05d_full_size", pd.DataFrame(rows), "on paper").to_html()
    assert "Turning the images gray defeats ULEO" in html and "-2.0" in html
    assert re.search(r"on paper; \d\d predicates ask for other cells", html)


def test_a_summary_has_mean_spread_and_number_of_runs() -> None:
    frame = pd.DataFrame(
        {
            "defender": ["ULEO", "ULEO", "clean", "ULEO"],
            "exploiter": ["gray", "gray", "gray", "blur"],
            "accuracy": [40.0, 42.0, 80.0, 7.0],
        }
    )
    table = summary(frame, ["defender"], ["exploiter"]).data
    assert list(table.index) == ["ULEO", "clean"]
    assert table.loc["ULEO"].to_dict() == {"gray": "41.0 ± 1.4 (2)", "blur": "7.0 (1)"}
    assert table.loc["clean"].to_dict() == {"gray": "80.0 (1)", "blur": "—"}


def test_separations_distinguish_noise_of_a_class_from_noise_of_an_image() -> None:
    images = random_images(120, size=4)
    generator = torch.Generator().manual_seed(0)
    blind = 0.01 * torch.randn(120, 3, 4, 4, generator=generator)
    means = 0.02 * torch.randn(3, 3, 4, 4, generator=generator)
    made = {
        name: Perturbation(delta.clamp(-0.1, 0.1), "sample_wise", 0.1, name, images.fingerprint)
        for name, delta in (("blind", blind), ("apart", 0.1 * blind + means[images.labels]))
    }
    made["class-wise"] = Perturbation(means, "class_wise", 0.1, "class-wise", images.fingerprint)
    table = separations(made, images).data
    assert (
        table.loc["apart", "linear model, %"] == table.loc["class-wise", "linear model, %"] == 100
    )
    assert table.loc["blind", "linear model, %"] < 65
    assert table.loc["class-wise", "CSD"] < table.loc["apart", "CSD"] < table.loc["blind", "CSD"]
