"""The named defenders: what tells them apart, in the paper's terms."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers import random_images, seeded
from ulelib.bilevel import Bilevel
from ulelib.checkpoints import FileCheckpoint
from ulelib.defenders import DEFENDERS, VICTIM_OFFSET, Random
from ulelib.jobs.lab import Lab
from ulelib.jobs.records import spec_of
from ulelib.linearized import Linearized
from ulelib.patterns import Autoregressive, LinearlySeparable, Region
from ulelib.pgd import Pgd
from ulelib.poisons import Poison
from ulelib.profiles import PAPER
from ulelib.settings import described, op
from ulelib.shortcuts import ClassConvolution, OnePixel
from ulelib.specs import Data

DATA = Data("shapes")
CROPS = op("crop_flip", padding=4)


def method(defender: str) -> Bilevel:
    made = Lab("paper").noise(defender, data=DATA).method
    assert isinstance(made, Bilevel)
    return made


def test_table_2_has_its_four_views() -> None:
    told = {
        name: (made.view, made.channels)
        for name in ("ULEO", "ULEO-Augs", "ULEO-Grays", "ULEO-GrayAugs")
        for made in (method(name),)
    }
    assert told == {
        "ULEO": (op("identity"), 3),
        "ULEO-Augs": (CROPS, 3),
        "ULEO-Grays": (op("gray"), 1),
        "ULEO-GrayAugs": (op("gray_crop_flip", padding=4), 1),
    }


@pytest.mark.parametrize("defender", ["ULEO", "ULEO-Augs", "ULEO-Grays", "ULEO-GrayAugs"])
def test_nothing_but_view_and_channels_differs_from_the_papers_loop(defender: str) -> None:
    made = method(defender)
    paper = PAPER.loop
    plain = dataclasses.replace(made, view=paper.view, channels=paper.channels, clamp=paper.clamp)
    assert plain == paper
    # Noise on a random crop belongs to no pixel of the image, so no pixel range bounds it.
    assert made.clamp == ("none" if "crop" in made.view.name else "view")
    assert (255 * made.inner.epsilon, made.inner.steps) == (pytest.approx(8), 20)


def test_the_released_loop_steps_three_times_as_far_clamps_otherwise_and_stops_on_colour() -> None:
    stated, released = method("ULEO-GrayAugs"), method("ULEO-GrayAugs (released loop)")
    assert released.inner == Pgd(step=3 * stated.inner.step, steps=stated.inner.steps)
    assert (released.clamp, released.inner_view, released.stop_view) == ("released", CROPS, CROPS)
    assert (stated.inner_view, stated.stop_view) == (None, None)


def test_class_wise_noise_is_one_a_class() -> None:
    assert method("ULEO class-wise").wise == "class" and method("ULEO").wise == "sample"


def test_adv_pois_attacks_a_network_that_no_exploiter_starts_from() -> None:
    noise = Lab("paper").noise("AdvPois", 3, data=DATA)
    assert isinstance(noise.method, Poison)
    victim = noise.method.victim
    assert victim.seed == 3 + VICTIM_OFFSET and victim.train[0].noise is None
    assert victim.net == PAPER.loop.net and noise.method.shift == 1


@pytest.mark.parametrize(
    ("defender", "wise"), [("random", "sample"), ("random class-wise", "class")]
)
def test_random_noise_has_the_loops_bound(defender: str, wise: str) -> None:
    made = Lab("paper").noise(defender, data=DATA).method
    assert made == Random(PAPER.loop.inner.epsilon, wise)  # type: ignore[arg-type]


def test_error_maximising_noise_moves_away_from_the_true_label() -> None:
    for defender, wise, steps in (
        ("error-max", "sample", 20),
        ("error-max class-wise", "class", 1),
    ):
        made = Lab("paper").noise(defender, data=DATA).method
        assert isinstance(made, Poison)
        assert (made.shift, made.wise, made.inner.steps) == (0, wise, steps)
        assert 255 * made.inner.step == pytest.approx(0.8)  # as Huang et al.'s commands


WITHOUT_NETWORK = {
    *("random", "random class-wise", "CSD", "CSD (moving spreads)"),
    *("PIL", "LSP", "AR", "OPS", "CUDA", "region-4", "region-16", "region-64"),
}


@pytest.mark.parametrize("defender", sorted(set(DEFENDERS) - WITHOUT_NETWORK))
def test_every_defender_is_made_with_the_network_that_is_asked_for(defender: str) -> None:
    other = op("vgg11", width=0.5)
    told = described(Lab("paper").noise(defender, data=DATA, source=other))
    assert described(other) in _all(told) and described(PAPER.loop.net) not in _all(told)


@pytest.mark.parametrize("defender", sorted(DEFENDERS))
def test_records_can_hold_every_defender(defender: str) -> None:
    noise = Lab("paper").noise(defender, data=DATA)
    assert spec_of({"spec": described(noise)}) == noise


def test_model_free_noise_has_the_fields_settings() -> None:
    made = {
        name: Lab("paper").noise(name, data=DATA).method
        for name in ("PIL", "LSP", "AR", "OPS", "CUDA", "region-4", "region-16", "region-64")
    }
    assert made == {
        "PIL": Linearized(Pgd(8 / 255, 8 / 255 / 10, 30, random_start=True), confusion=0.1),
        "LSP": LinearlySeparable(rms=6 / 255, apart=10.0, block=8),
        "AR": Autoregressive(rms=3072**-0.5),
        "OPS": OnePixel(),
        "CUDA": ClassConvolution(side=3, blur=0.3),
        **{f"region-{side**2}": Region(8 / 255, side) for side in (2, 4, 8)},
    }


def _all(told: Any) -> list[Any]:
    """A description and everything inside of it."""
    inside = list(told.values()) if isinstance(told, dict) else told
    return [told, *(x for one in inside if isinstance(one, dict | list) for x in _all(one))]


def test_an_attack_goes_on_with_batches_of_another_size(tmp_path: Path) -> None:
    """As after it ran out of memory: the size is no part of the key."""
    images = random_images(30, size=8)
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))
    victim = Lab("smoke").noise("AdvPois").method.victim  # type: ignore[attr-defined]

    def make(batch_size: int, **more: Any) -> Any:
        attack = Poison(victim, Pgd(step=4 / 255, steps=3), batch_size=batch_size)
        options: dict[str, Any] = {"network": lambda run: model, "report": lambda line: None}
        return attack.make(images, 0, "float32", **options, **more)

    class Stopped(Exception):
        pass

    class Once(FileCheckpoint):
        def offer(self, state: Any) -> None:
            super().offer(state)
            raise Stopped

    for first, second in ((10, 15), (15, 10)):
        place = tmp_path / f"{first}"
        with pytest.raises(Stopped):
            make(first, checkpoint=Once(place, {}, every=0))
        parted = make(second, checkpoint=FileCheckpoint(place, {}))
        assert torch.equal(parted.delta, make(30).delta)
