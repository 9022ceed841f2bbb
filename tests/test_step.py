"""The training step: eager, and as what a CUDA graph would hold, give the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from helpers import seeded, tiny_net
from ulelib.checkpoints import put_back, states_of
from ulelib.step import EAGER_STEPS, Replay, Schedule, Step, graphs, sgd

SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, 12),
    "one cycle": lambda optimizer: OneCycleLR(
        optimizer, 0.1, total_steps=13, anneal_strategy="linear", cycle_momentum=False
    ),
}


class Recorded:
    """Stands for a CUDA graph: it holds a step on fixed buffers, and computes it when replayed."""

    def __init__(self) -> None:
        self.captures, self.replays = 0, 0

    def __call__(self, step: Callable[[], tuple[torch.Tensor, ...]]) -> Replay:
        self.captures += 1

        def replay() -> tuple[torch.Tensor, ...]:
            self.replays += 1
            return step()

        return replay


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ten, of which every fifth is smaller."""
    generator = torch.Generator().manual_seed(3)
    sizes = [6 if number % 5 < 4 else 3 for number in range(10)]
    return [(torch.rand(n, 3, 16, 16, generator=generator), torch.arange(n) % 3) for n in sizes]


def trained(schedule: str, **options: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    rate_in_tensor = options.pop("rate_in_tensor", False)
    model = seeded(tiny_net).train()
    optimizer = sgd(model, 0.1, rate_in_tensor=rate_in_tensor, momentum=0.9, nesterov=True)
    step = Step(
        model,
        optimizer,
        lambda x, y: (F.cross_entropy(predicted := model(x), y), predicted),
        clip=0.5,
        schedule=Schedule(optimizer, SCHEDULES[schedule]),
        **options,
    )
    losses = []
    for batch in batches():
        loss, predicted = step(*batch)
        assert not predicted.requires_grad and predicted.shape == (len(batch[0]), 3)
        losses.append(float(loss))
    return losses, {name: value.clone() for name, value in model.state_dict().items()}


def plainly(schedule: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same, as a training loop is usually written."""
    model = seeded(tiny_net).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    scheduler, losses = SCHEDULES[schedule](optimizer), []
    for x, y in batches():
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        losses.append(float(loss.detach()))
    return losses, model.state_dict()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_is_the_usual_step(schedule: str) -> None:
    (losses, weights), (expected, others) = trained(schedule), plainly(schedule)
    assert losses == expected
    assert all(torch.equal(weights[name], others[name]) for name in others)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_as_a_graph_it_gives_the_same_bits(schedule: str) -> None:
    """Inputs are copied into fixed buffers; each size of batch has a graph of its own."""
    graph = Recorded()
    (losses, weights), (expected, others) = trained(schedule, capture=graph), plainly(schedule)
    assert graph.captures == 2 and graph.replays == 10 - EAGER_STEPS
    assert losses == expected
    assert all(torch.equal(weights[name], others[name]) for name in others)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_with_its_rate_in_a_tensor_it_learns_alike(schedule: str) -> None:
    """As on a GPU, where the optimizer is fused: its last digits may differ."""
    losses, weights = trained(schedule, capture=Recorded(), rate_in_tensor=True)
    expected, others = plainly(schedule)
    assert losses == pytest.approx(expected, rel=1e-4)
    for name in others:
        assert torch.allclose(weights[name].float(), others[name].float(), atol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_rate_in_a_tensor_is_that_of_the_schedule(schedule: str) -> None:
    rates: list[list[float]] = []
    for rate_in_tensor in (False, True):
        model = seeded(tiny_net)
        optimizer = sgd(model, 0.1, rate_in_tensor=rate_in_tensor, momentum=0.9)
        rate, used = optimizer.param_groups[0]["lr"], []
        changing = Schedule(optimizer, SCHEDULES[schedule])
        for _ in range(12):
            used.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            changing.step()
        rates.append(used)
        if rate_in_tensor:  # a graph reads this very tensor
            assert optimizer.param_groups[0]["lr"] is rate
    assert rates[0] == pytest.approx(rates[1], rel=1e-6) and len(set(rates[0])) > 10


def test_a_schedule_goes_on_from_its_state() -> None:
    for rate_in_tensor in (False, True):
        whole, parted = (
            Schedule(sgd(seeded(tiny_net), 0.1, rate_in_tensor=rate_in_tensor), SCHEDULES["cosine"])
            for _ in range(2)
        )
        for _ in range(5):
            whole.optimizer.step()
            whole.step()
        parted.load_state_dict(whole.state_dict())
        for one in (whole, parted):
            one.optimizer.step()
            one.step()
        assert whole.optimizer.param_groups[0]["lr"] == parted.optimizer.param_groups[0]["lr"]


def test_graphs_are_for_gpus_and_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert graphs() is None
    monkeypatch.setattr("ulelib.step.device", lambda: torch.device("cuda"))
    assert graphs() is not None
    monkeypatch.setenv("ULELIB_CUDA_GRAPHS", "0")
    assert graphs() is None


def test_a_step_that_cannot_be_captured_is_computed_all_the_same() -> None:
    def fails(step: Callable[[], tuple[torch.Tensor, ...]]) -> Replay:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.warns(UserWarning, match="cannot be captured"):
        losses, _ = trained("cosine", capture=fails)
    assert losses == plainly("cosine")[0]


def test_a_loaded_optimizer_keeps_the_tensor_that_a_graph_reads() -> None:
    first, second = (sgd(seeded(tiny_net), rate, rate_in_tensor=True) for rate in (0.1, 0.7))
    rate = second.param_groups[0]["lr"]
    put_back(states_of({"optimizer": first}), {"optimizer": second})
    assert second.param_groups[0]["lr"] is rate and float(rate) == pytest.approx(0.1)
