"""The lab: what it refuses, when it falls back, and that its records can be recomputed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import QUICK_LAB, run_python
from ulelib import lab as lab_module
from ulelib.bilevel import BilevelConfig, NotConverged
from ulelib.data import DataUnavailable
from ulelib.exploiters import Recipe, exploit
from ulelib.lab import Lab
from ulelib.models import build_model
from ulelib.perturbation import Perturbation
from ulelib.profiles import PROFILES, SMOKE, Profile

QUICK = dataclasses.replace(
    SMOKE,
    n_train=100,
    model_options={"stem": 4, "widths": (4, 6, 8)},
    loop=BilevelConfig(
        step=4 / 255, inner_steps=2, outer_batches=2, outer_batch_size=50, stop_error=0.99
    ),
    recipe=Recipe(epochs=2, batch_size=50, schedule="one_cycle"),
    precision="float32",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def quick_smoke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "smoke", QUICK)


@pytest.fixture
def lab(folder: Path) -> Lab:
    return Lab("smoke", store=folder)


def test_unknown_names_are_refused_with_the_known_ones(lab: Lab) -> None:
    with pytest.raises(ValueError, match=r"profile 'gpu'; choose from .*'auto', 'smoke', 'cpu'"):
        Lab("gpu")
    with pytest.raises(ValueError, match=r"defender 'ULEO-Gray'; choose from .*'ULEO-Grays'"):
        lab.perturbation("ULEO-Gray")
    with pytest.raises(ValueError, match=r"defender 'Clean'; choose from .*'clean'"):
        lab.exploit("Clean")
    with pytest.raises(ValueError, match="exploiter 'grey'; choose from"):
        lab.exploit("clean", "grey")
    with pytest.raises(ValueError, match="export 'png'; choose from"):
        lab.exploit("ULEO", export="png")


@pytest.mark.parametrize("seed", [-1, 1.5, "3", True, None])
def test_seeds_are_whole_numbers(seed: object) -> None:
    with pytest.raises(ValueError, match=r"seed is .* whole number, 0 or more"):
        Lab("smoke", seed=seed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"n_seeds is .* whole number"):
        Lab("smoke", n_seeds=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 1.5, "3", True])
def test_seeds_of_one_stage_are_whole_numbers_too(lab: Lab, seed: object) -> None:
    with pytest.raises(ValueError, match=r"seed is .* whole number, 0 or more"):
        lab.exploit(seed=seed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"seed is .* whole number, 0 or more"):
        lab.perturbation("ULEO", seed=seed)  # type: ignore[arg-type]


def test_seeds_start_where_told_and_zero_takes_the_profiles_number() -> None:
    assert Lab("smoke", seed=3).seeds == [3]
    assert Lab("smoke", seed=3, n_seeds=2).seeds == [3, 4]
    assert Lab("smoke", n_seeds=0).seeds == list(range(QUICK.seeds))
    assert Lab("paper", n_seeds=0).seeds == [0, 1, 2, 3, 4]


def test_auto_falls_back_to_smoke_without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_module, "is_available", lambda name: False)
    lab = Lab("auto")
    assert lab.profile.name == "smoke" and lab.fell_back
    assert lab.train_set.name.startswith("shapes")


def test_auto_takes_the_machines_profile_with_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_module, "is_available", lambda name: True)
    lab = Lab("auto")
    assert lab.profile.name == ("paper" if torch.cuda.is_available() else "cpu")
    assert not lab.fell_back


@pytest.mark.parametrize("name", ["cpu", "paper"])
def test_a_named_profile_never_swaps_its_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str, split: str) -> None:
        raise DataUnavailable("no network and no data: set ULELIB_DATA")

    monkeypatch.setattr(lab_module, "load", none)
    lab = Lab(name)
    assert lab.profile.name == name
    with pytest.raises(DataUnavailable, match=f"profile '{name}' needs cifar10: .*ULELIB_DATA"):
        lab.exploit()


def test_train_set_is_the_profiles_subset(lab: Lab) -> None:
    assert len(lab.train_set) == 100
    assert torch.bincount(lab.train_set.labels).tolist() == [10] * 10
    assert lab.train_set.fingerprint == Lab("smoke", seed=9).train_set.fingerprint


def test_result_is_that_of_the_plain_calls(lab: Lab) -> None:
    """The lab adds names and a store, no computation of its own."""
    made = lab.perturbation("ULEO-GrayAugs", seed=2)
    assert made.delta.shape == (100, 1, 32, 32) and made.defender == "ULEO-GrayAugs"
    result = lab.exploit("ULEO-GrayAugs", "gray", "as_released", seed=2)
    published = made.apply(lab.train_set, "as_released")
    training = exploit(
        published,
        lab.test_set,
        lambda: build_model(QUICK.model, 10, **QUICK.model_options),
        QUICK.recipe,
        exploiter="gray",
        seed=2,
    )
    assert result.curve == training.curve
    assert result.accuracy == training.accuracy
    assert result.train_accuracy == training.train_accuracy
    assert (result.defender, result.exploiter, result.export, result.seed) == (
        "ULEO-GrayAugs",
        "gray",
        "as_released",
        2,
    )


def test_same_spec_same_bits_in_another_store(lab: Lab, tmp_path: Path) -> None:
    again = Lab("smoke", store=tmp_path)
    assert torch.equal(lab.perturbation("ULEO").delta, again.perturbation("ULEO").delta)
    first, second = lab.exploit("ULEO"), again.exploit("ULEO")
    assert (first.key, first.curve) == (second.key, second.curve)


def test_stored_stages_are_not_computed_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    result, noise = lab.exploit("ULEO"), lab.perturbation("ULEO")

    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(lab_module, "exploit", forbidden)
    monkeypatch.setattr("ulelib.defenders.minimise_error", forbidden)
    again = Lab("smoke", store=lab.store.folder)
    assert again.exploit("ULEO") == result
    assert torch.equal(again.perturbation("ULEO").delta, noise.delta)


@pytest.mark.parametrize("damage", ["", "[]", '{"rounds": '])
def test_a_damaged_generation_does_not_cost_its_trainings(tmp_path: Path, damage: str) -> None:
    result = Lab("smoke", store=tmp_path).exploit("ULEO")
    (record,) = tmp_path.glob("perturbation/*/record.json")
    record.write_text(damage)
    again = Lab("smoke", store=tmp_path)
    with pytest.warns(UserWarning, match="how ULEO was made cannot be read"):
        assert again.exploit("ULEO") == result
    assert again.generations == {}
    with pytest.warns(UserWarning, match="set aside"):
        again.perturbation("ULEO")
    assert len(again.generations) == 1


def test_stages_carry_the_commit_of_their_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_module, "_commit", lambda: "then")
    Lab("smoke", store=tmp_path).exploit("ULEO")
    monkeypatch.setattr(lab_module, "_commit", lambda: "now")
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path))
    again = Lab("smoke", store=tmp_path)
    assert again.exploit("ULEO").commit == "then"
    record = json.loads(again.save("page").read_text())
    assert record["commit"] == "now"
    (generation,) = record["generations"].values()
    assert generation["commit"] == record["results"][0]["commit"] == "then"


def test_export_is_of_no_effect_on_clean_images(lab: Lab) -> None:
    exact, released = lab.exploit(export="exact"), lab.exploit(export="as_released")
    assert exact == released and exact.export == "-"


KEYS = (
    QUICK_LAB
    + """
import os
from pathlib import Path
lab = lab_module.Lab("smoke", store=Path(os.environ["STORE"]))
print(lab.exploit("ULEO").key)
"""
)


def test_same_spec_same_key_across_processes(lab: Lab, folder: Path) -> None:
    """The other process finds what this one stored, whatever its hash seed."""
    key = lab.exploit("ULEO").key
    stored = sorted(path.name for path in (folder / "training").iterdir())
    assert run_python(KEYS, STORE=folder, PYTHONHASHSEED="7").split()[-1] == key
    assert sorted(path.name for path in (folder / "training").iterdir()) == stored


CHANGES: list[dict[str, object]] = [
    {"loop": dataclasses.replace(QUICK.loop, step=1 / 255)},
    {"loop": dataclasses.replace(QUICK.loop, from_scratch=True)},
    {"loop": dataclasses.replace(QUICK.loop, inner_batch_size=10)},
    {"recipe": dataclasses.replace(QUICK.recipe, epochs=3)},
    {"recipe": dataclasses.replace(QUICK.recipe, flip_at_test=True)},
    {"model_options": {"stem": 4, "widths": (4, 6, 10)}},
    {"model": "mlp", "model_options": {}},
    {"n_train": 90},
    {"precision": "bfloat16"},
]


def test_key_changes_with_every_setting_of_the_profile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles: list[Profile] = [QUICK]
    profiles += [dataclasses.replace(QUICK, **change) for change in CHANGES]  # type: ignore[arg-type]
    keys = []
    for profile in profiles:
        monkeypatch.setitem(PROFILES, "smoke", profile)
        keys.append(key_of_training(Lab("smoke", store=folder), monkeypatch, defender="ULEO"))
    assert len(set(keys)) == len(keys)


def key_of_training(lab: Lab, monkeypatch: pytest.MonkeyPatch, **call: Any) -> str:
    """The key under which a training would be stored; nothing is computed."""
    seen: list[object] = []

    class Stop(Exception):
        pass

    def get(kind: str, spec: object, *functions: object) -> None:
        seen.append(spec)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(lab.store, "get", get)
        with pytest.raises(Stop):
            lab.exploit(**call)
    return lab_module.key_of(seen[0])


def test_key_changes_with_defender_exploiter_export_and_seed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"exploiter": "gray"},
        *({"defender": name} for name in lab_module.DEFENDERS),
        {"defender": "ULEO", "seed": 1},
        {"defender": "ULEO", "exploiter": "gray"},
        {"defender": "ULEO", "export": "as_released"},
    ]
    keys = [key_of_training(lab, monkeypatch, **call) for call in calls]
    assert len(set(keys)) == len(keys)


def test_saved_record_holds_all_and_can_be_recomputed(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path / "results"))
    results = [lab.exploit(), lab.exploit("ULEO", "gray")]
    lab.perturbation("ULEO")
    path = lab.save("table")
    assert path == tmp_path / "results" / "smoke" / "table.json"
    record = json.loads(path.read_text())
    assert record["seeds"] == [0] and record["precision"] == "float32"
    assert record["images"]["train"] == [lab.train_set.name, 100, lab.train_set.fingerprint]
    assert [one["accuracy"] for one in record["results"]] == [one.accuracy for one in results]
    assert all(one["curve"][-1] == one["accuracy"] for one in record["results"])
    assert {"torch", "device", "threads", "python"} <= set(record["machine"])
    (generation,) = record["generations"].values()
    assert generation["defender"] == "ULEO" and generation["rounds"][-1] < 0.99

    profile = record["profile"]
    one = record["results"][1]
    training = exploit(
        lab.perturbation(one["defender"], one["seed"]).apply(lab.train_set, one["export"]),
        lab.test_set,
        lambda: build_model(profile["model"], 10, **profile["model_options"]),
        Recipe(**profile["recipe"]),
        exploiter=one["exploiter"],
        seed=one["seed"],
    )
    assert list(training.curve) == one["curve"]


def test_record_does_not_depend_on_what_was_stored(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path / "results"))
    lab.exploit("ULEO")
    first = json.loads(lab.save("page").read_text())
    again = Lab("smoke", store=lab.store.folder)
    again.exploit("ULEO")  # from the store: the perturbation itself is not read
    assert json.loads(again.save("page").read_text()) == first
    assert len(first["generations"]) == 1


def test_a_page_that_is_tried_out_leaves_the_books_records_alone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ULELIB_RESULTS")
    written: list[Path] = []
    monkeypatch.setattr(lab_module, "write_text", lambda path, text: written.append(path))
    lab.save("page")
    assert written[0].parts[-4:] == ("_build", "results", "smoke", "page.json")


def test_table_is_read_back_as_it_was_saved(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path))
    lab = Lab("smoke", n_seeds=2, store=folder)
    results = lab.table(["clean", "ULEO"])
    cells = {(one.defender, one.exploiter, one.export, one.seed) for one in results}
    assert len(cells) == len(results) == 2 * (2 + 4)  # seeds, clean once, ULEO in both exports
    lab.save("both")
    read, record = lab_module.read_results("both", "smoke")
    assert read == results and record["seeds"] == [0, 1]
    labels = {label: len(lines) for label, lines in lab_module.curves(read, "gray").items()}
    assert labels == {"clean": 2, "ULEO (exact)": 2, "ULEO (as released)": 2}
    assert set(lab_module.curves(read, "gray", "exact")) == {"clean", "ULEO"}
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=smoke"):
        lab_module.read_results("nothing", "smoke")


def test_not_converged_keeps_the_partial_delta_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hopeless = dataclasses.replace(QUICK.loop, stop_error=1e-9, max_rounds=1)
    monkeypatch.setitem(PROFILES, "smoke", dataclasses.replace(QUICK, loop=hopeless))
    lab = Lab("smoke", store=tmp_path)
    with pytest.raises(NotConverged, match="max_rounds") as caught:
        lab.perturbation("ULEO")
    (partial,) = (tmp_path / "partial").glob("*.safetensors")
    assert partial.name in caught.value.__notes__[0]
    assert torch.equal(Perturbation.load(partial).delta, caught.value.perturbation.delta)
    assert not list((tmp_path / "perturbation").glob("*/artifact.json"))


def test_not_converged_outlives_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Perturbation, path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    hopeless = dataclasses.replace(QUICK.loop, stop_error=1e-9, max_rounds=1)
    monkeypatch.setitem(PROFILES, "smoke", dataclasses.replace(QUICK, loop=hopeless))
    monkeypatch.setattr(Perturbation, "save", full)
    with pytest.raises(NotConverged) as caught:
        Lab("smoke", store=tmp_path).perturbation("ULEO")
    assert "No space left" in caught.value.__notes__[0]
    assert not list((tmp_path / "partial").iterdir())


def test_default_folders_follow_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ULELIB_STORE", str(tmp_path / "elsewhere"))
    assert Lab("smoke").store.folder == tmp_path / "elsewhere"
    monkeypatch.delenv("ULELIB_STORE")
    monkeypatch.chdir(tmp_path)
    assert Lab("smoke").store.folder.name == ".ulelib"
