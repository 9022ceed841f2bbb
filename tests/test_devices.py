"""Devices: what a GPU would refuse is found without one.

Tensors without numbers (torch's `FakeTensorMode`) stand for those of a GPU: an operation on tensors
of two devices fails as it would there. Where a number would be looked at, any will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers import quick_profile, random_images
from ulelib import bilevel, deltas, exploiters, machine, models
from ulelib.exploiters import EXPLOITERS
from ulelib.recipe import Recipe
from ulelib.settings import op

GPU = torch.device("cuda:0")
IMAGES = random_images(24, size=16)
RECIPE = Recipe(epochs=1, batch_size=8, curve_images=8)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All that asks for the device gets a GPU, whose tensors hold no numbers."""

    def model(make: Callable[[], nn.Module], seed: int) -> nn.Module:
        with GPU:
            return make()

    for module in (machine, bilevel, deltas, exploiters):
        if hasattr(module, "device"):
            monkeypatch.setattr(module, "device", lambda: GPU)
        if hasattr(module, "graphs"):
            monkeypatch.setattr(module, "graphs", lambda: None)
    monkeypatch.setattr(models, "seeded_model", model)
    monkeypatch.setattr(models, "check_size", lambda *arguments: None)
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: True)
    monkeypatch.setattr(torch.Tensor, "__int__", lambda tensor: 0)
    monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: 0.5)
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: 0.5)
    # Backward passes need a real GPU; what they would give has the shape of what they are of.
    monkeypatch.setattr(torch.Tensor, "backward", lambda tensor: None)
    monkeypatch.setattr(torch.autograd, "grad", lambda loss, of: (torch.zeros_like(of),))
    # How many classes there are is in the numbers.
    monkeypatch.setattr(bilevel, "check_classes", lambda images: None)
    for name in ("end_round", "perturbation"):
        monkeypatch.setattr(deltas.SampleWise, name, lambda *arguments: None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def trainer(exploiter: str) -> exploiters._Trainer:
    late = torch.zeros(24, 3, 16, 16, dtype=torch.int16)
    does = EXPLOITERS[exploiter]
    return exploiters._Trainer(IMAGES, does, op("tiny"), RECIPE, 0, "float32", late)


@pytest.mark.parametrize("exploiter", ["standard", "mixup", "mixup (released)", "at (3 steps)"])
def test_a_training_stays_on_its_device(exploiter: str, on_gpu: None) -> None:
    trainer(exploiter).epoch(1)


@pytest.mark.parametrize("planted", ["labels", "added_last"])
def test_a_planted_mismatch_is_found(planted: str, on_gpu: None) -> None:
    wrong = trainer("standard")
    setattr(wrong, planted, getattr(wrong, planted).cpu())
    with pytest.raises(RuntimeError, match="device"):
        wrong.epoch(1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"view": op("crop_flip", padding=2), "clamp": "none"},
        {"view": op("gray"), "channels": 1},
    ],
    ids=str,
)
def test_the_loop_stays_on_its_device(changes: dict[str, Any], on_gpu: None) -> None:
    loop = replace(quick_profile().loop, net=op("tiny"), rounds=2, **changes)
    bilevel.minimise_error(IMAGES, loop)


def test_a_mismatch_planted_in_the_loop_is_found(
    on_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = deltas.SampleWise.of
    monkeypatch.setattr(deltas.SampleWise, "of", lambda delta, batch: of(delta, batch).cpu())
    loop = replace(quick_profile().loop, net=op("tiny"), rounds=1)
    with pytest.raises(RuntimeError, match="device"):
        bilevel.minimise_error(IMAGES, loop)
