"""The named defenders: what tells them apart, and that they hand all of it to the loop."""

from __future__ import annotations

import pytest
import torch

from helpers import random_images, tiny_net
from ulelib import views
from ulelib.bilevel import BilevelConfig, minimise_error
from ulelib.defenders import DEFENDERS, Defender

CONFIG = BilevelConfig(
    step=1 / 255,
    inner_steps=2,
    outer_batches=2,
    outer_batch_size=12,
    inner_batch_size=12,
    stop_error=0.999,  # one round
    learning_rate=0.05,
)


def test_table_2_has_its_four_views() -> None:
    sample_wise = [defender for defender in DEFENDERS.values() if not defender.class_wise]
    found = {defender.name: (defender.view, defender.gray_delta) for defender in sample_wise}
    assert found == {
        "ULEO": (views.identity, False),
        "ULEO-Augs": (views.crop_flip, False),
        "ULEO-Grays": (views.gray, True),
        "ULEO-GrayAugs": (views.gray_crop_flip, True),
        "ULEO-GrayAugs (released loop)": (views.gray_crop_flip, True),
    }


def test_the_released_loop_steps_three_times_as_far_and_stops_on_colour() -> None:
    stated, released = DEFENDERS["ULEO-GrayAugs"], DEFENDERS["ULEO-GrayAugs (released loop)"]
    paper = BilevelConfig()
    assert stated.configure(paper) == paper and stated.stop_view is None
    assert 255 * released.configure(paper).step == pytest.approx(2.4)
    assert released.stop_view is views.crop_flip


@pytest.mark.parametrize("defender", DEFENDERS.values(), ids=lambda defender: defender.name)
def test_protect_is_the_loop_with_all_that_the_defender_says(defender: Defender) -> None:
    images = random_images(24)
    made = defender.protect(images, tiny_net, CONFIG, seed=5)
    plain = minimise_error(
        images,
        tiny_net,
        defender.view,
        defender.configure(CONFIG),
        gray_delta=defender.gray_delta,
        class_wise=defender.class_wise,
        stop_view=defender.stop_view,
        seed=5,
    )
    assert torch.equal(made.delta, plain.delta) and made.rounds == plain.rounds
    assert made.defender == defender.name
    assert made.delta.shape[1] == (1 if defender.gray_delta else 3)
    assert made.kind == ("class_wise" if defender.class_wise else "sample_wise")
