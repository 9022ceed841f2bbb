"""The lab: what it refuses, when it falls back, what its cells and tables say."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import PROJECT, QUICK_LAB, quick_profile, run_python
from ulelib import machine
from ulelib.data import DataUnavailable
from ulelib.defenders import DEFENDERS
from ulelib.exploiters import exploit
from ulelib.jobs import cells as cells_module
from ulelib.jobs import inputs, plan, records, strips
from ulelib.jobs.cells import Design, Mixture
from ulelib.jobs.lab import Lab
from ulelib.jobs.store import Store
from ulelib.pgd import ATTACKS, Pgd
from ulelib.profiles import PROFILES
from ulelib.restoration import Restoration
from ulelib.settings import key_of, op
from ulelib.specs import Part, Pretrained, Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def quick_smoke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "smoke", quick_profile())


@pytest.fixture
def lab(folder: Path) -> Lab:
    return Lab("smoke", store=folder)


def test_another_size_has_the_same_seeds_and_its_own_loop(folder: Path) -> None:
    lab = Lab("smoke", seed=[3, 5], store=folder)
    with pytest.raises(ValueError, match=r"size 'large'; choose from \['small', '3 batches"):
        lab.at("large")
    size = lab.at("3 batches a round")
    assert size.seeds == [3, 5] and size.profile.loop.outer_batches == 3
    assert lab.profile.loop.outer_batches == 2
    assert key_of(lab.at("small").noise("ULEO", 5)) == key_of(lab.noise("ULEO", 5))


def test_a_size_that_takes_long_has_the_first_seeds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = quick_profile(seeds=3)
    ladder = {"small": profile, "long": dataclasses.replace(profile, seeds=1)}
    monkeypatch.setitem(PROFILES, "smoke", dataclasses.replace(profile, ladder=ladder))
    design = Design("smoke", [4, 7, 9, 11])
    assert design.at("small").seeds == [4, 7, 9, 11] and design.at("long").seeds == [4]


def test_a_record_tells_what_noise_is_made_of(lab: Lab) -> None:
    noted = lab.noted(lab.noise("ULEO"))
    assert len(noted["made_of"]) == len(noted["rounds"]) == len(lab.rounds(lab.noise("ULEO")))
    assert strips.decode(noted["strip"]).shape == (32, 96, 3)


# --- names, seeds, profiles ----------------------------------------------------------------------


def test_unknown_names_are_refused_with_the_known_ones(lab: Lab) -> None:
    with pytest.raises(ValueError, match=r"profile 'gpu'; choose from .*'auto', 'smoke', 'cpu'"):
        Lab("gpu")
    with pytest.raises(ValueError, match=r"defender 'ULEO-Gray'; choose from .*'ULEO-Grays'"):
        lab.noise("ULEO-Gray")
    with pytest.raises(ValueError, match=r"defender 'Clean'; choose from .*'clean'"):
        lab.cell("Clean")
    with pytest.raises(ValueError, match="exploiter 'grey'; choose from"):
        lab.cell("clean", "grey")
    with pytest.raises(ValueError, match="export 'png'; choose from"):
        lab.cell("ULEO", export="png")
    with pytest.raises(ValueError, match="have no noise"):
        lab.cell("clean", noise=lab.noise("ULEO"))
    with pytest.raises((TypeError, ValueError), match="stop_eror"):
        lab.noise("ULEO", stop_eror=0.1)


@pytest.mark.parametrize("seed", [-1, 1.5, "3", True, None, 10_001])
def test_seeds_are_whole_numbers(lab: Lab, seed: object) -> None:
    with pytest.raises(ValueError, match=r"seed is .* whole number, 0 to 10,000"):
        Lab("smoke", seed=seed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"n_seeds is .* whole number, 0 to 100"):
        Lab("smoke", n_seeds=seed)  # type: ignore[arg-type]
    if seed is not None:  # None is the lab's first
        with pytest.raises(ValueError, match=r"seed is .* whole number"):
            lab.noise("ULEO", seed)  # type: ignore[arg-type]


def test_seeds_start_where_told_and_zero_takes_the_profiles_number() -> None:
    assert Lab("smoke", seed=3).seeds == [3]
    assert Lab("smoke", seed=3, n_seeds=2).seeds == [3, 4]
    assert Lab("smoke", n_seeds=0).seeds == list(range(PROFILES["smoke"].seeds))
    assert Lab("paper", n_seeds=0).seeds == [0, 1, 2]
    with pytest.raises(ValueError, match="the last seed is 10001"):
        Lab("smoke", seed=10_000, n_seeds=2)


def test_seeds_may_be_named_one_by_one() -> None:
    lab = Lab("smoke", seed=[0, 3, 4])
    assert lab.seeds == [0, 3, 4]
    assert [cell.seed for cell in lab.cells(["clean"])] == [0, 3, 4]
    for wrong in ([], [3, 3]):
        with pytest.raises(ValueError, match="at least one, each once"):
            Lab("smoke", seed=wrong)
    with pytest.raises(ValueError, match="seed is '3': it must be a whole number"):
        Lab("smoke", seed=[0, "3"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="names all seeds: leave n_seeds at 1, it is 2"):
        Lab("smoke", seed=[0, 3], n_seeds=2)
    with pytest.raises(ValueError, match="it is 0"):
        Lab("smoke", seed=[0], n_seeds=0)


def test_auto_falls_back_to_smoke_without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells_module, "is_available", lambda name: False)
    lab = Lab("auto")
    assert lab.profile.name == "smoke" and lab.fell_back
    assert lab.train_set.name.startswith("shapes")


def test_auto_takes_the_machines_profile_with_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells_module, "is_available", lambda name: True)
    for kind, name in (("cuda", "paper"), ("cpu", "cpu")):
        monkeypatch.setattr(machine, "device", lambda kind=kind: torch.device(kind))
        lab = Lab("auto")
        assert lab.profile.name == name and not lab.fell_back


@pytest.mark.parametrize("name", ["cpu", "paper"])
def test_a_named_profile_never_swaps_its_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: object, **options: object) -> None:
        raise DataUnavailable("no network and no data: set ULELIB_DATA")

    monkeypatch.setattr(inputs.data, "load", none)
    inputs._loaded.cache_clear()
    lab = Lab(name)
    assert lab.profile.name == name
    with pytest.raises(DataUnavailable, match=f"profile '{name}' needs cifar10: .*ULELIB_DATA"):
        lab.cell("clean")


def test_train_set_is_the_profiles_subset(lab: Lab) -> None:
    assert len(lab.train_set) == 100
    assert torch.bincount(lab.train_set.labels).tolist() == [10] * 10
    assert lab.train_set.fingerprint == Lab("smoke", seed=9).train_set.fingerprint


# --- cells ---------------------------------------------------------------------------------------


def test_products_are_explicit_and_clean_images_stand_once() -> None:
    lab = Lab("smoke", n_seeds=2)
    cells = lab.cells(["clean", "ULEO"], ["standard", "gray"], ["exact", "as_released"])
    names = [(c.defender, c.exploiter, c.export, c.seed) for c in cells]
    assert len(names) == len(set(names)) == 2 * (2 + 4)
    assert {c.export for c in cells if c.defender == "clean"} == {"-"}
    assert {c.seed for c in cells} == {0, 1}


def test_networks_on_both_sides_and_data_of_its_own(lab: Lab) -> None:
    nets = [op("mlp", width=0.25), op("linear")]
    cells = lab.cells(["clean", "ULEO"], sources=nets, nets=nets)
    assert [(c.source, c.net) for c in cells] == [
        ("-", "mlp (width 0.25)"),
        ("-", "linear"),
        ("mlp (width 0.25)", "mlp (width 0.25)"),
        ("mlp (width 0.25)", "linear"),
        ("linear", "mlp (width 0.25)"),
        ("linear", "linear"),
    ]
    other = inputs.data_set("shapes", 50, seed=1)
    (cell,) = lab.cells(["ULEO"], data=[other])
    assert cell.stage.train[0].noise is not None
    assert cell.stage.train[0].noise.data == other == cell.stage.train[0].data


def test_key_changes_with_every_choice(lab: Lab) -> None:
    cells = [
        lab.cell("clean"),
        lab.cell("clean", seed=1),
        lab.cell("clean", "gray"),
        lab.cell("clean", net=op("linear")),
        lab.cell("clean", recipe=dataclasses.replace(lab.profile.recipe, epochs=3)),
        *(lab.cell(name) for name in DEFENDERS),
        lab.cell("ULEO", seed=1),
        lab.cell("ULEO", "gray"),
        lab.cell("ULEO", export="as_released"),
        lab.cell("ULEO", source=op("linear")),
        lab.cell("x", noise=lab.noise("ULEO", inner=Pgd(step=2 / 255, steps=7))),
    ]
    assert len({key_of(cell.stage) for cell in cells}) == len(cells)


def test_a_mixture_has_a_clean_and_a_protected_part(lab: Lab) -> None:
    mixture = Mixture(clean=(0, 0.1), added=(0.1, 0.4))
    clean = lab.cell("clean", mixture=mixture, setting="10% clean + 30%")
    protected = lab.cell("ULEO", export="as_released", mixture=mixture, setting="10% clean + 30%")
    whole = lab.noise("ULEO")
    assert isinstance(clean.stage, Run) and isinstance(protected.stage, Run)
    assert clean.stage.train == (Part(lab.data, (0, 0.1)), Part(lab.data, (0.1, 0.4)))
    assert protected.stage.train == (
        Part(lab.data, (0, 0.1)),
        Part(lab.data, (0.1, 0.4), whole, "as_released"),
    )
    assert protected.names["setting"] == "10% clean + 30%"
    for parts, message in (
        (((0, 0.5), (0.4, 1)), "overlap"),
        ((None, None), "neither clean nor added"),
    ):
        with pytest.raises(ValueError, match=message):
            Mixture(*parts)  # type: ignore[arg-type]
    alone = lab.cell("clean", mixture=Mixture((0, 0.1), None)).stage
    assert isinstance(alone, Run) and alone.train == (Part(lab.data, (0, 0.1)),)


def test_few_images_are_trained_on_for_longer(lab: Lab) -> None:
    """Half of the whole's steps at least, on a part as on a smaller data set."""
    epochs = lab.profile.recipe.epochs
    tenth = Mixture((0, 0.1), None)
    half = inputs.data_set("shapes", 50)
    told = {
        "whole": lab.cell("clean"),
        "half": lab.cell("clean", data=half),
        "a tenth": lab.cell("clean", mixture=tenth),
        "a tenth of half": lab.cell("clean", mixture=tenth, data=half),
        "as asked": lab.cell("clean", mixture=tenth, recipe=lab.profile.recipe),
    }
    found = {name: cell.stage.recipe.epochs / epochs for name, cell in told.items()}  # type: ignore[union-attr]
    assert found == {"whole": 1, "half": 1, "a tenth": 5, "a tenth of half": 10, "as asked": 1}
    victim = lab.noise("AdvPois", data=inputs.data_set("shapes", 25)).method.victim  # type: ignore[attr-defined]
    assert victim.recipe.epochs == 2 * epochs
    assert PROFILES["paper"].recipe_for(0.01) == PROFILES["paper"].recipe  # as the papers do


def test_the_papers_networks_have_a_rate_of_their_own() -> None:
    for profile in PROFILES.values():
        assert profile.recipe_for() == profile.recipe_for(1, profile.loop.net) == profile.recipe
        for net in profile.nets.values():
            expected = dataclasses.replace(profile.recipe, learning_rate=profile.nets_rate)
            assert profile.recipe_for(1, net) == expected
        assert profile.recipe_for(1, op("convnet", stem="learned")) == profile.recipe


def test_a_cell_says_with_which_network_its_noise_was_made(lab: Lab) -> None:
    other = op("convnet", widths=(4, 4, 4))
    made = lab.cell("mine", noise=lab.noise("ULEO", source=other))
    assert made.source == str(other)
    assert lab.cell("AdvPois", source=other).source == str(other)
    assert lab.cell("random").source == lab.cell("clean").source == "-"


def test_an_attacked_network_is_trained_at_its_own_rate() -> None:
    net = PROFILES["smoke"].nets["vgg11"]
    victim = Lab("smoke").noise("AdvPois", source=net).method.victim  # type: ignore[attr-defined]
    assert victim.net == net and victim.recipe == PROFILES["smoke"].recipe_for(1, net)


def test_a_cell_can_begin_with_a_trained_network(lab: Lab) -> None:
    start = lab.cell("clean", seed=1).stage
    cell = lab.cell("random", start=start)
    assert cell.exploiter == "standard, pretrained" and cell.stage.start == start
    with pytest.raises(ValueError, match="with labels"):
        lab.cell("random", "SimCLR", start=start)


def test_a_cell_can_take_the_way_back(lab: Lab) -> None:
    how = Restoration(pairs=2000)
    cell = lab.cell("LSP", restore=how)
    assert cell.exploiter == "way back (2,000 pairs)" and cell.stage.restore == how
    filtered = lab.cell("LSP", "gray", restore=how, start=lab.cell("clean", seed=1).stage)
    assert filtered.exploiter == "gray, way back (2,000 pairs), pretrained"
    assert plan.title(cell.stage).startswith("training: restored by 2,000 pairs, ")
    quick = Restoration(pairs=20, steps=2, batch_size=10, width=2)
    frame = lab.table([lab.cell("clean", restore=quick)])
    assert frame["exploiter"].tolist() == ["way back (20 pairs)"]
    with pytest.raises(ValueError, match="with labels"):
        lab.cell("random", "SimCLR", restore=how)


def test_a_cells_last_layer_can_be_learned_anew(lab: Lab) -> None:
    cell = lab.cell("random class-wise")
    frame = lab.table([cell, lab.refitted(cell, 50)])
    assert frame["exploiter"].tolist() == ["standard", "last layer anew"]
    assert frame["accuracy"].between(0, 100).all()
    with pytest.raises(ValueError, match="last layer"):
        lab.refitted(lab.attacked(cell, "FGSM"))


def test_a_cell_can_be_attacked(lab: Lab) -> None:
    cell = lab.cell("clean", "at")
    frame = lab.table([cell, *(lab.attacked(cell, attack) for attack in ATTACKS)])
    assert frame["setting"].tolist() == ["-", "test clean", "test FGSM", "test PGD-20"]
    assert frame["key"].nunique() == 4
    trained, clean, *_ = frame["accuracy"]
    assert clean == trained  # in this profile, which adds no mirror image at the end
    assert frame["chance"].tolist() == [10] * 4
    assert frame["curve"].map(len).tolist() == [2, 0, 0, 0]
    with pytest.raises(ValueError, match=r"attack 'CW'; choose from \['FGSM', 'PGD-20', 'clean'\]"):
        lab.attacked(cell, "CW")
    with pytest.raises(ValueError, match="only the network of a training"):
        lab.attacked(lab.attacked(cell, "FGSM"), "FGSM")


def test_key_of_a_variant_does_not_depend_on_its_name(lab: Lab) -> None:
    first, second = (lab.cell(name, noise=lab.noise("ULEO")) for name in ("a", "b"))
    assert key_of(first.stage) == key_of(second.stage) == key_of(lab.cell("ULEO").stage)


# --- tables --------------------------------------------------------------------------------------


def test_result_is_that_of_the_plain_calls(lab: Lab) -> None:
    """The lab adds names and a store, no computation of its own."""
    made = lab.perturbation("ULEO-GrayAugs", seed=2)
    assert made.delta.shape == (100, 1, 32, 32)
    cell = lab.cell("ULEO-GrayAugs", "gray", "as_released", seed=2)
    (row,) = lab.table([cell]).to_dict("records")
    training, _ = exploit(
        made.apply(lab.train_set, "as_released"),
        lab.test_set,
        cell.stage.exploiter,
        cell.stage.net,
        cell.stage.recipe,
        seed=2,
    )
    assert row["curve"] == training.curve
    assert (row["accuracy"], row["train_accuracy"]) == (training.accuracy, training.train_accuracy)
    told = {name: row[name] for name in ("defender", "exploiter", "export", "seed", "data", "net")}
    assert told == {
        "defender": "ULEO-GrayAugs",
        "exploiter": "gray",
        "export": "as_released",
        "seed": 2,
        "data": "shapes",
        "net": "convnet (widths (4, 6, 8))",
    }


def test_chance_comes_from_the_data(lab: Lab) -> None:
    assert lab.table([lab.cell("clean")]).chance.tolist() == [10.0]


def test_stored_stages_are_not_computed_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    first, noise = lab.table([lab.cell("ULEO")]), lab.perturbation("ULEO")

    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Store, "put", forbidden)
    again = Lab("smoke", store=lab.store.folder)
    assert again.table([again.cell("ULEO")]).equals(first)
    assert torch.equal(again.perturbation("ULEO").delta, noise.delta)


KEYS = (
    QUICK_LAB
    + """
import os
from pathlib import Path
lab = lab_module.Lab("smoke", store=Path(os.environ["STORE"]))
print(*lab.table([lab.cell("ULEO")]).key)
"""
)


def test_same_spec_same_key_across_processes(lab: Lab, folder: Path) -> None:
    """The other process finds what this one stored, whatever its hash seed."""
    (key,) = lab.table([lab.cell("ULEO")]).key
    stored = sorted(path.name for path in (folder / "run").iterdir())
    assert run_python(KEYS, STORE=folder, PYTHONHASHSEED="7").split()[-1] == key
    assert sorted(path.name for path in (folder / "run").iterdir()) == stored


# --- records -------------------------------------------------------------------------------------


def test_record_holds_every_stage_once_and_is_read_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path))
    lab = Lab("smoke", n_seeds=2, store=folder)
    cells = lab.cells(["clean", "ULEO"], ["standard", "gray"])
    frame = lab.table(cells)
    assert lab.save("both") == tmp_path / "smoke" / "both.json"
    read, record = records.read("both", "smoke")
    assert read.equals(frame[read.columns])
    assert record["seeds"] == [0, 1] and record["precision"] == "float32"
    assert record["train"] == [lab.train_set.name, 100]
    kinds = [one["spec"]["type"] for one in record["stages"].values()]
    assert (kinds.count("Noise"), kinds.count("Run")) == (2, 8)
    for key, stage in record["stages"].items():
        assert set(stage) == {"spec", "result", "made"} and key
    assert records.pages("smoke") == ["both"]
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=smoke"):
        records.read("nothing", "smoke")


def test_two_pages_share_their_stages_and_let_go_of_old_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path))

    def page(name: str, defenders: list[str]) -> None:
        lab = Lab("smoke", store=folder)
        lab.table(lab.cells(defenders))
        lab.save(name)

    def kept() -> int:
        lines = [path.read_text() for path in (tmp_path / "smoke" / "stages").glob("*.json")]
        return sum(len(json.loads(text)) for text in lines)

    page("one", ["clean", "ULEO"])
    assert kept() == 3
    page("two", ["clean"])
    assert kept() == 3
    page("one", ["clean"])
    assert kept() == 1
    assert len(records.read("two", "smoke")[0]) == 1


def test_recorded_numbers_can_be_kept_and_seeds_added(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine, whose store is empty: only what no record holds is computed."""
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path / "results"))
    first = Lab("smoke", store=folder)
    before, rounds = first.table(first.cells(["clean", "ULEO"])), first.rounds(first.noise("ULEO"))
    assert rounds == list(first.perturbation("ULEO").rounds)
    first.save("page")
    monkeypatch.setenv("ULELIB_KEEP", "1")
    more = Lab("smoke", n_seeds=2, store=tmp_path / "empty")
    after = more.table(more.cells(["clean", "ULEO"]))
    assert after[after.seed == 0].reset_index(drop=True).equals(before)
    assert more.rounds(more.noise("ULEO")) == rounds
    for kind, made in {"run": 2, "noise": 1}.items():  # of seed 1
        assert len(list((tmp_path / "empty" / kind).glob("*/artifact.json"))) == made
    more.save("page")
    read, record = records.read("page", "smoke")
    assert read.equals(after[read.columns])
    kinds = [one["spec"]["type"] for one in record["stages"].values()]
    assert (kinds.count("Noise"), kinds.count("Run")) == (2, 4)
    assert Lab("smoke", store=tmp_path / "empty", keep=False).known == {}
    monkeypatch.setenv("ULELIB_KEEP", "0")
    assert Lab("smoke", store=tmp_path / "empty").known == {}


@pytest.fixture
def recorded_otherwise(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], list[dict[str, Any]]]:
    """A page is recorded, its records are changed, and it is made again from the store: the new
    records' results."""
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path / "results"))

    def again(pattern: str, other: str) -> list[dict[str, Any]]:
        for keep in (False, True):
            lab = Lab("smoke", store=folder, keep=keep)
            lab.table([lab.cell("ULEO")])
            if not keep:
                lab.save("page")
                for path in (tmp_path / "results" / "smoke" / "stages").glob("*.json"):
                    path.write_text(re.sub(pattern, other, path.read_text()))
        return [record["result"] for record in lab.records().values()]

    return again


def test_what_the_store_holds_goes_before_what_was_recorded(recorded_otherwise: Any) -> None:
    """Noise is always made; a page must not say of it what was recorded of another making."""
    results = recorded_otherwise(r'"(rounds|curve)":\[[^]]*', r'"\1":[0.5')
    assert all([0.5] not in (result.get("rounds"), result.get("curve")) for result in results)


def test_what_is_made_again_and_comes_out_the_same_keeps_its_record(
    recorded_otherwise: Any,
) -> None:
    """Other pages tell the same stage, and need not be made again for its seconds."""
    results = recorded_otherwise(r'"seconds":[\d.e-]+', '"seconds":1e6')
    assert [result["seconds"] for result in results] == [1e6, 1e6]


@pytest.fixture
def recorded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A page is recorded: its trainings, on clean images and on ULEO."""
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path / "results"))
    lab = Lab("smoke", store=folder)
    cells = lab.cells(["clean", "ULEO"])
    lab.table(cells)
    lab.save("page")
    return [cell.stage for cell in cells]


def edited(results: Path, pattern: str, other: str) -> None:
    for path in (results / "smoke" / "stages").glob("*.json"):
        path.write_text(re.sub(pattern, other, path.read_text()))


def test_a_record_is_reused_where_the_digests_of_its_noise_agree(
    recorded: list[Any], folder: Path, tmp_path: Path
) -> None:
    wanted, results = recorded, tmp_path / "results"
    noise = Lab("smoke").noise("ULEO")

    def unknown(store: Path) -> list[Any]:
        return Lab("smoke", store=store, keep=True).unknown(wanted)

    with_noise, without = folder, tmp_path / "empty"
    assert unknown(with_noise) == unknown(without) == []
    # Measured with other noise than the store holds, and than is recorded: another processor's.
    edited(results, rf'("noise":{{"{key_of(noise)}":)"[0-9a-f]+"', rf'\1"{"0" * 64}"')
    assert unknown(with_noise) == unknown(without) == [wanted[1]]  # clean images have no noise
    # The noise's own record agrees: so it is reused, until this machine makes the noise.
    edited(results, r'"sha256":"[0-9a-f]+"', f'"sha256":"{"0" * 64}"')
    assert unknown(without) == []
    assert unknown(with_noise) == [wanted[1]]


def test_a_record_without_digests_is_reused_until_its_noise_is_made_again(
    recorded: list[Any], folder: Path, tmp_path: Path
) -> None:
    """As version 0.4 wrote it."""
    edited(tmp_path / "results", r',"noise":{("\w{16}":"\w{64}",?)*}|,"sha256":"\w+"', "")
    empty = Lab("smoke", store=tmp_path / "empty", keep=True)
    assert empty.unknown(recorded) == empty.missing(recorded) == []
    assert Lab("smoke", store=folder, keep=True).unknown(recorded) == [recorded[1]]
    new = empty.cell("ULEO", "gray").stage
    assert empty.missing([*recorded, new]) == [new]
    empty.table([empty.cell("ULEO", "gray")])  # makes the noise
    assert empty.missing([*recorded, new]) == [recorded[1]]


def test_a_page_that_took_an_old_record_and_then_made_its_noise_is_not_saved(
    recorded: list[Any], tmp_path: Path
) -> None:
    edited(tmp_path / "results", r',"noise":{("\w{16}":"\w{64}",?)*}|,"sha256":"\w+"', "")
    lab = Lab("smoke", store=tmp_path / "empty", keep=True)
    lab.table([lab.cell("ULEO")])  # of the record, which does not say of what noise it is
    lab.table([lab.cell("ULEO", "gray")])  # makes the noise
    with pytest.raises(ValueError, match="run the page again"):
        lab.save("page")
    again = Lab("smoke", store=tmp_path / "empty", keep=True)
    again.table([again.cell("ULEO"), again.cell("ULEO", "gray")])
    again.save("page")


def test_numbers_of_other_noise_than_a_page_shows_are_not_saved(
    recorded: list[Any], tmp_path: Path
) -> None:
    """A page that took a record, and then made the noise to show it."""
    edited(tmp_path / "results", r'"(sha256|\w{16})":"\w{64}"', rf'"\1":"{"1" * 64}"')
    lab = Lab("smoke", store=tmp_path / "empty", keep=True)
    cell = lab.cell("ULEO")
    lab.table([cell])
    lab.save("page")  # all of it is the records'
    lab.perturbation("ULEO")
    with pytest.raises(ValueError, match="other noise than the page has"):
        lab.save("page")
    lab.table([cell])  # the noise is in the store now
    lab.save("page")
    read, _ = records.read("page", "smoke")
    assert read.key.tolist() == [key_of(cell.stage)]


@pytest.mark.parametrize("text", ["", "[1", "<<<<<<< ours"])
def test_a_damaged_record_is_named(
    text: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path))
    lab = Lab("smoke", store=folder)
    lab.table([lab.cell("clean")])
    lab.save("page")
    (path,) = (tmp_path / "smoke" / "stages").glob("*.json")
    path.write_text(text)
    for read in (lambda: lab.save("page"), lambda: records.known("smoke")):
        with pytest.raises(ValueError, match=rf"record .*{path.name} is damaged.*make reproduce"):
            read()
    path.unlink()
    with pytest.raises(ValueError, match=r"page\.json refers to 1 stages that .*make reproduce"):
        records.read("page", "smoke")


def test_a_page_whose_writing_is_cut_off_refers_to_no_stage_that_is_lost(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever file: what stands there is the page of before, or the new one, and its stages."""
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path))
    old, new = [lab.cell("clean")], [lab.cell("ULEO")]
    write = records.write_text
    files: list[int] = []  # that may still be written

    def some(path: Path, text: str) -> None:
        files.pop()
        write(path, text)

    monkeypatch.setattr(records, "write_text", some)
    for number in range(8):
        for cells, allowed in ((old, 100), (new, number)):
            files[:] = range(allowed)
            lab.cells_shown, lab.stages_used = {}, {}
            lab.table(cells)
            with contextlib.suppress(IndexError):
                lab.save("page")
        frame, _ = records.read("page", "smoke")
        assert list(frame.defender) in (["clean"], ["ULEO"])
    assert list(frame.defender) == ["ULEO"]


def test_what_an_earlier_version_left_beside_the_pages_is_no_page(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path))
    lab.table([lab.cell("clean")])
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "stages.json").write_text('{"0123456789abcdef": {"spec": {}}}')
    lab.save("page")
    assert records.pages("smoke") == ["page"]


def test_records_that_cannot_be_kept_say_what_to_set(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"nothing can be written in .*set ULELIB_RESULTS"):
        lab.save("page")
    monkeypatch.setattr(plan, "run", None)  # not called: nothing is computed for no record
    empty = Lab("smoke", store=tmp_path / "store")
    with pytest.raises(OSError, match=r"nothing can be written in .*set ULELIB_RESULTS"):
        empty.table([empty.cell("clean")])


def test_records_on_a_disk_without_locks_say_what_to_set(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path))
    lab.table([lab.cell("clean")])
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match=r"cannot lock files .*set ULELIB_RESULTS"):
        lab.save("page")


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_record_does_not_depend_on_what_was_stored(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path))
    cells = [lab.cell("ULEO")]
    lab.table(cells)
    first = lab.save("page").read_text()
    again = Lab("smoke", store=lab.store.folder)
    again.table(cells)
    assert again.save("page").read_text() == first


def test_a_page_that_is_tried_out_leaves_the_books_records_alone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ULELIB_RESULTS", raising=False)
    written: list[Path] = []
    monkeypatch.setattr(records, "write_text", lambda path, text: written.append(path))
    monkeypatch.setattr(records, "_pages", lambda folder: {})
    monkeypatch.setattr(records, "_write_stages", lambda folder, stages: None)
    lab.save("page")
    assert written[0].parts[-4:] == ("_build", "results", "smoke", "page.json")


def test_default_folders_follow_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ULELIB_STORE", str(tmp_path / "elsewhere"))
    assert Lab("smoke").store.folder == tmp_path / "elsewhere"
    monkeypatch.setenv("ULELIB_STORE", "~/there")
    assert Lab("smoke").store.folder == Path.home() / "there"
    monkeypatch.chdir(tmp_path)
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("ULELIB_STORE")
        else:
            monkeypatch.setenv("ULELIB_STORE", unset)
        assert Lab("smoke").store.folder == PROJECT / ".ulelib"


def test_the_commit_is_the_projects_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.commit.cache_clear()
    own = machine.commit()
    for name, value in (("GIT_DIR", str(tmp_path)), ("GIT_WORK_TREE", str(tmp_path))):
        monkeypatch.setenv(name, value)
    machine.commit.cache_clear()
    assert machine.commit() == own
    assert os.environ["GIT_DIR"] == str(tmp_path)


def test_without_labels_a_method_may_have_its_own_rate() -> None:
    lab = Lab("smoke")
    rates = {"MoCo": 0.5 * lab.profile.pretraining.learning_rate}
    lab.profile = dataclasses.replace(lab.profile, pretraining_rates=rates)
    for method in ("SimCLR", "MoCo"):
        stage = lab.cell("clean", method).stage
        assert isinstance(stage, Pretrained)
        assert stage.recipe.learning_rate == rates.get(
            method, lab.profile.pretraining.learning_rate
        )


def test_records_are_gone_on_with_in_the_precision_that_they_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the machine has; one that has no bfloat16 could keep nothing of another's book."""
    profile = dataclasses.replace(PROFILES["smoke"], precision="fastest")
    monkeypatch.setitem(PROFILES, "smoke", profile)

    def precision(fastest: str, *recorded: str) -> str:
        monkeypatch.setattr(machine, "fastest_precision", lambda: fastest)
        lab = Lab("smoke", keep=False)
        lab.known = {f"{n}": {"spec": {"precision": one}} for n, one in enumerate(recorded)}
        return str(lab.precision)

    assert precision("float32") == "float32" and precision("bfloat16") == "bfloat16"
    assert precision("float32", "bfloat16") == "bfloat16"
    assert precision("bfloat16", "float32") == "float32"
    assert precision("float32", "float32", "bfloat16") == "bfloat16"  # page 05c has both
    monkeypatch.setitem(PROFILES, "smoke", dataclasses.replace(profile, precision="float32"))
    assert precision("bfloat16", "bfloat16") == "float32"  # the profile says which


def test_a_cell_can_be_measured_in_another_precision() -> None:
    lab = Lab("smoke")
    cell = lab.cell("ULEO", precision="bfloat16")
    assert isinstance(cell.stage, Run) and cell.stage.train[0].noise
    assert cell.stage.precision == cell.stage.train[0].noise.precision == "bfloat16"
    assert cell.stage.train[0].noise == lab.noise("ULEO", precision="bfloat16")
    assert lab.cell("ULEO").stage != cell.stage
