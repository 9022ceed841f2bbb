"""Checkpoints: what was stopped goes on, and gives the bits of what was never stopped."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import quick_profile, random_images
from ulelib.checkpoints import NO_CHECKPOINT, FileCheckpoint
from ulelib.exploiters import EXPLOITERS, exploit
from ulelib.jobs.execute import compute, record
from ulelib.jobs.lab import Lab
from ulelib.jobs.store import Store
from ulelib.pretraining import pretrain
from ulelib.profiles import PROFILES
from ulelib.recipe import Recipe
from ulelib.settings import op

ABOUT = {"code": "this"}
IMAGES = random_images(60, size=32, classes=3)
NET = op("convnet", widths=(4, 6, 8))


class Stopped(Exception):
    """The lid was closed."""


class StopsAfter(FileCheckpoint):
    """Saves every state that is offered, and stops the computation after so many."""

    def __init__(self, place: Path, most: int) -> None:
        super().__init__(place, ABOUT, every=0)
        self.left = most

    def offer(self, state: Callable[[], dict[str, Any]]) -> None:
        super().offer(state)
        self.left -= 1
        if not self.left:
            raise Stopped


def in_parts(compute: Callable[[Any], Any], place: Path) -> tuple[Any, int]:
    """`compute`, stopped after every state that it offers; and how often it was stopped."""
    for stops in range(100):
        try:
            return compute(StopsAfter(place, 1)), stops
        except Stopped:
            continue
    raise AssertionError("it never ends")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "smoke", quick_profile())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"from_scratch": True},
        {"optimizer": "adam", "learning_rate": 1e-3},
        {"view": op("crop_flip"), "clamp": "none"},
        {"outer_batch_size": 59},  # the last image of all joins a batch
    ],
    ids=str,
)
@pytest.mark.parametrize("defender", ["ULEO", "ULEO class-wise"])
def test_the_loop_goes_on_bit_for_bit(
    defender: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    made_in_parts(defender, {"rounds": 4} | changes, tmp_path, stops=4)


@pytest.mark.parametrize(
    "changes", [{}, {"from_scratch": True}, {"view": op("gray"), "channels": 1}]
)
@pytest.mark.parametrize("defender", ["ULEO", "ULEO class-wise"])
def test_the_loop_goes_on_within_a_pass(
    defender: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """At the paper's size a pass over all images takes an hour of two cores."""
    made_in_parts(defender, {"rounds": 2, "inner_batch_size": 25} | changes, tmp_path, stops=6)


@pytest.mark.filterwarnings("ignore::ulelib.contrastive.Collapsed")  # so few images
@pytest.mark.parametrize("defender", ["TUE-SimCLR", "TUE-MoCo", "TUE-SimSiam"])
def test_the_loop_without_labels_goes_on_bit_for_bit(defender: str, tmp_path: Path) -> None:
    made_in_parts(defender, {"rounds": 3}, tmp_path, stops=3)


@pytest.mark.parametrize("defender", ["AUE", "SEM", "REM (cut)", "MI-UE"])
def test_the_loop_with_another_learner_goes_on_within_a_pass(defender: str, tmp_path: Path) -> None:
    made_in_parts(defender, {"rounds": 2, "inner_batch_size": 30}, tmp_path, stops=4)


def test_other_methods_go_on_bit_for_bit(tmp_path: Path) -> None:
    made_in_parts("CSD", {"passes": 3}, tmp_path / "csd", stops=3)
    for defender in ("AdvPois", "AAP", "HYPO", "EntF-push", "EntF-pull", "error-max class-wise"):
        made_in_parts(defender, {"batch_size": 25}, tmp_path / defender, stops=3)
    made_in_parts("SEP", {"batch_size": 25, "shift": 2}, tmp_path / "SEP", stops=3)  # of 3 classes


def made_in_parts(defender: str, changes: dict[str, Any], place: Path, stops: int) -> None:
    method: Any = Lab("smoke").noise(defender).method
    if hasattr(method, "learning") and hasattr(method.learning, "contrastive"):
        contrastive = replace(method.learning.contrastive, queue=30)
        changes |= {"learning": replace(method.learning, contrastive=contrastive)}
    method = replace(method, **changes)
    torch.manual_seed(0)
    victim = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 3))

    def make(checkpoint: Any = None) -> Any:
        options = {"network": lambda run: victim, "report": lambda line: None}
        if checkpoint is not None:
            options |= {"checkpoint": checkpoint}
        return method.make(IMAGES, 1, "float32", **options)

    whole, (parted, stopped) = make(), in_parts(make, place)
    assert stopped == stops
    assert torch.equal(whole.delta, parted.delta)
    assert (whole.rounds, whole.made_of) == (parted.rounds, parted.made_of)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "one_cycle", "nesterov": True, "clip": None},
        {"schedule_by": "epoch"},
    ],
    ids=str,
)
@pytest.mark.parametrize("exploiter", ["standard", "mixup", "at (3 steps)"])
def test_a_training_goes_on_bit_for_bit(
    exploiter: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    recipe = replace(Recipe(epochs=4, batch_size=20, curve_images=30), **changes)

    def train(checkpoint: Any) -> Any:
        does = EXPLOITERS[exploiter]
        return exploit(IMAGES, IMAGES, does, NET, recipe, seed=2, checkpoint=checkpoint)

    (whole, model), ((parted, again), stops) = train(NO_CHECKPOINT), in_parts(train, tmp_path / "x")
    assert stops == 3
    assert replace(whole, seconds=0) == replace(parted, seconds=0)
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))


@pytest.mark.filterwarnings("ignore::ulelib.contrastive.Collapsed")  # so few images
@pytest.mark.parametrize("method", ["SimCLR", "MoCo", "SimSiam"])
def test_a_training_without_labels_goes_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    how = replace(quick_profile().contrastive[method], queue=30)
    recipe = Recipe(epochs=3, batch_size=20, curve_images=30)

    def train(checkpoint: Any) -> Any:
        sets = (IMAGES, IMAGES, IMAGES)
        return pretrain(*sets, how, NET, recipe, seed=2, checkpoint=checkpoint)

    (whole, model), ((parted, again), stops) = train(NO_CHECKPOINT), in_parts(train, tmp_path / "x")
    assert stops == 2
    assert replace(whole, seconds=0) == replace(parted, seconds=0)
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))


# --- the file ------------------------------------------------------------------------------------


def test_a_state_is_saved_when_it_is_time_and_replaces_the_one_before(tmp_path: Path) -> None:
    place = tmp_path / "folder" / "key"
    checkpoint = FileCheckpoint(place, ABOUT, every=0.2)
    checkpoint.offer(lambda: {"number": 1})  # too soon
    assert checkpoint.restore() is None
    for number in (2, 3):
        time.sleep(0.25)
        checkpoint.offer(lambda number=number: {"number": number, "x": torch.ones(3)})
        assert len(list(place.parent.iterdir())) == 1
    found = FileCheckpoint(place, ABOUT).restore()
    assert found is not None and found["number"] == 3 and found["x"].tolist() == [1, 1, 1]
    checkpoint.remove()
    assert list(place.parent.iterdir()) == []


def test_a_damaged_state_is_removed_and_said(tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path / "key", ABOUT, every=0)
    checkpoint.offer(lambda: {"x": torch.zeros(100)})
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged"):
        assert checkpoint.restore() is None
    assert list(tmp_path.iterdir()) == []


def test_the_state_of_other_code_is_left_alone(tmp_path: Path) -> None:
    """Or of another number of threads: it may be hours of somebody's work."""
    place = tmp_path / "key"
    own = FileCheckpoint(place, ABOUT, every=0)
    own.offer(lambda: {"x": 1})
    other = FileCheckpoint(place, {"code": "other"}, every=0)
    with pytest.warns(UserWarning, match="saved by other code"):
        assert other.restore() is None
    other.offer(lambda: {"x": 2})
    assert (own.restore(), other.restore()) == ({"x": 1}, {"x": 2})
    own.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_costs_no_computation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = FileCheckpoint(tmp_path / "key", ABOUT, every=0)
    checkpoint.offer(lambda: {"x": 1})

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ulelib.checkpoints.torch.save", full)
    with pytest.warns(UserWarning, match="no checkpoint could be saved"):
        checkpoint.offer(lambda: {"x": 2})
    assert checkpoint.restore() == {"x": 1}


# --- killed at any moment -------------------------------------------------------------------------


def in_child(work: Callable[[], object]) -> int:
    """Begin `work` in a forked process, which is there at once; its number."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_what_is_killed_at_random_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed again and again, each time at another moment, until it is done."""
    monkeypatch.setenv("ULELIB_CHECKPOINT_SECONDS", "0.001")
    lab = Lab("smoke", store=tmp_path / "whole")
    noise = lab.noise("ULEO", rounds=8)
    training = lab.cell("ULEO", noise=noise, recipe=replace(lab.profile.recipe, epochs=4)).stage
    begun = time.monotonic()
    compute(training, lab.store)
    longest, store, kills = (time.monotonic() - begun) / 4, Store(tmp_path / "killed"), 0
    moments = random.Random(0)
    for _ in range(200):
        child = in_child(lambda: compute(training, store))
        time.sleep(moments.uniform(0, longest))
        longest *= 1.02  # a machine that has become busy gets its moment as well
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            break
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        kills += 1
    assert kills >= 4
    for stage in (noise, training):
        whole, killed = (record(stage, one)["result"] for one in (lab.store, store))
        assert {**whole, "seconds": 0} == {**killed, "seconds": 0}
    assert not any((store.folder / "unfinished").iterdir())
