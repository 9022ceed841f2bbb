"""Signed-gradient steps against a plainly written loop, image by image."""

from __future__ import annotations

import dataclasses
from typing import Any

import foolbox
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers import differing_share, random_images, seeded, tiny_net
from ulelib import data, views
from ulelib.exploiters import Exploiter, accuracy, exploit
from ulelib.pgd import (
    ATTACKS,
    Diverged,
    Pgd,
    PixelRange,
    ReleasedGray,
    adversarial,
    signed_gradient_steps,
)
from ulelib.profiles import SMOKE

EPSILON, STEP = 8 / 255, 3 / 255


@pytest.fixture
def model() -> nn.Module:
    return seeded(tiny_net).eval().requires_grad_(False)


def plain_steps(
    model: nn.Module,
    images: torch.Tensor,
    delta: torch.Tensor,
    labels: torch.Tensor,
    steps: int,
    direction: int = -1,
) -> torch.Tensor:
    """One image at a time; gradient of the image, its channels summed where delta has but one."""
    results = []
    for image, noise, label in zip(images, delta, labels, strict=True):
        for _ in range(steps):
            x = (image + noise).clone().requires_grad_()
            F.cross_entropy(model(x[None]), label[None]).backward()
            assert x.grad is not None
            gradient = x.grad if len(noise) == 3 else x.grad.sum(0, keepdim=True)
            noise = noise + direction * STEP * gradient.sign()
            noise = noise.clamp(-EPSILON, EPSILON)
            shown = (image + noise).clamp(0, 1)
            noise = (shown - image)[: len(noise)]
        results.append(noise)
    return torch.stack(results)


def steps_of(
    model: nn.Module,
    images: torch.Tensor,
    start: torch.Tensor,
    labels: torch.Tensor,
    *,
    steps: int = 1,
    step: float = STEP,
    epsilon: float = EPSILON,
    direction: int = -1,
) -> torch.Tensor:
    """Steps within the pixel range, of the cross-entropy."""
    clamp = PixelRange(images, epsilon)
    return signed_gradient_steps(
        lambda delta: F.cross_entropy(model(clamp.image(delta)), labels, reduction="sum"),
        start,
        step=step,
        steps=steps,
        add=clamp.add,
        direction=direction,
    )


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("direction", [-1, 1])
def test_steps_equal_the_plain_loop(
    model: nn.Module, steps: int, channels: int, direction: int
) -> None:
    images = random_images(12)
    x = images.images.float() / 255
    if channels == 1:
        x = views.gray(x)
    start = (torch.rand(12, channels, 16, 16) * 2 - 1) * EPSILON
    moved = steps_of(model, x, start, images.labels, steps=steps, direction=direction)
    expected = plain_steps(model, x, start, images.labels, steps, direction)
    assert moved.shape == start.shape and not moved.requires_grad
    assert differing_share(moved, start) > 0.99
    assert differing_share(moved, expected) <= 0.005


def test_one_step_on_a_linear_model_is_exact() -> None:
    """Logits (w x, 0): the loss of label 0 falls along sign(w), where delta has room."""
    weights = torch.tensor([1.0, -2.0, 0.0])
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    model[1].weight = nn.Parameter(torch.stack([weights, torch.zeros(3)]), requires_grad=False)
    images = torch.tensor([0.5, 0.5, 0.5]).view(1, 3, 1, 1)
    zero = torch.zeros(1, 3, 1, 1)
    label = torch.tensor([0])

    def step_of(images: torch.Tensor, step: float, direction: int = -1) -> list[float]:
        moved = steps_of(model, images, zero, label, epsilon=0.1, step=step, direction=direction)
        return moved.flatten().tolist()

    assert step_of(images, 0.05) == pytest.approx([0.05, -0.05, 0.0])
    assert step_of(images, 0.05, direction=1) == pytest.approx([-0.05, 0.05, 0.0])
    assert step_of(images, 0.2) == pytest.approx([0.1, -0.1, 0.0])  # epsilon
    at_the_edge = torch.tensor([0.98, 0.01, 0.5]).view(1, 3, 1, 1)
    assert step_of(at_the_edge, 0.05) == pytest.approx([0.02, -0.01, 0.0])  # [0, 1]


@pytest.mark.parametrize("direction", [-1, 1])
def test_an_attack_lowers_or_raises_the_loss(direction: int) -> None:
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)))
    images = random_images(30)
    x, generator = images.images.float() / 255, torch.Generator().manual_seed(0)
    budget = Pgd(EPSILON, STEP, 5, random_start=True)
    moved = adversarial(model, x, images.labels, budget, generator, direction=direction)
    before = F.cross_entropy(model(x), images.labels)
    after = F.cross_entropy(model(x + moved), images.labels)
    assert direction * (after - before) > 0.1
    assert moved.abs().max() <= EPSILON
    assert (x + moved).min() >= 0 and (x + moved).max() <= 1


def test_arguments_and_model_are_left_as_they_were(model: nn.Module) -> None:
    images = random_images(6)
    x, start = images.images.float() / 255, torch.full((6, 3, 16, 16), 0.01)
    kept = x.clone(), start.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    steps_of(model, x, start, images.labels, steps=3)
    assert torch.equal(x, kept[0]) and torch.equal(start, kept[1])
    assert not start.requires_grad
    assert all(torch.equal(value, kept[2][key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("steps", [1, 4])
def test_the_released_gray_steps_equal_their_plain_loop(model: nn.Module, steps: int) -> None:
    """`toolbox.py:27-63`, one image at a time: its picture is clamped before the first and after
    every step, and the noise is read from it, channel by channel, before the gray average."""
    images = random_images(12)
    x = images.images.float() / 255
    x[:, :, :4] = 0  # the black border of a crop
    start = (torch.rand(12, 1, 16, 16) * 2 - 1) * EPSILON
    clamp = ReleasedGray(x, EPSILON)
    moved = signed_gradient_steps(
        lambda d: F.cross_entropy(model(clamp.image(d)), images.labels, reduction="sum"),
        start,
        step=3 * STEP,
        steps=steps,
        add=clamp.add,
    )
    weights = torch.tensor(views.LUMA).view(3, 1, 1)
    expected = []
    for image, noise, label in zip(x, start, images.labels, strict=True):
        picture = (image + noise).clamp(0, 1)
        for _ in range(steps):
            leaf = picture.clone().requires_grad_()
            gray = (weights * leaf).sum(0, keepdim=True).expand(3, -1, -1)
            F.cross_entropy(model(gray[None]), label[None]).backward()
            assert leaf.grad is not None
            stepped = picture - STEP * leaf.grad.sign().sum(0, keepdim=True)
            noise = (stepped - image).clamp(-EPSILON, EPSILON)
            noise = (weights * noise).sum(0, keepdim=True)
            picture = (image + noise).clamp(0, 1)
        expected.append(noise)
    assert moved.shape == start.shape
    assert differing_share(moved, torch.stack(expected)) <= 0.01


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epsilon": 0}, "Pgd.epsilon is 0"),
        ({"epsilon": 8}, "Pgd.epsilon is 8"),
        ({"epsilon": float("nan")}, "Pgd.epsilon is nan"),
        ({"step": 0}, "Pgd.step is 0"),
        ({"step": 17 / 255}, "Pgd.step is .* at most twice epsilon"),
        ({"steps": 0}, "Pgd.steps is 0"),
        ({"steps": True}, "Pgd.steps is True"),
        ({"steps": 10**12}, "Pgd.steps is"),
    ],
)
def test_budgets_out_of_range_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pgd(**changed)


@settings(max_examples=100, deadline=None)
@given(
    epsilon=st.floats(1e-4, 1),
    scale=st.floats(0, 3),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**31),
)
def test_projected_delta_keeps_both_bounds(
    epsilon: float, scale: float, channels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(4, 3, 5, 5, generator=generator).mul(1.2).sub(0.1).clamp(0, 1)
    if channels == 1:
        images = views.gray(images)
    delta = torch.randn(4, channels, 5, 5, generator=generator) * scale
    clamp = PixelRange(images, epsilon)
    projected = clamp.add(torch.zeros_like(delta), delta)
    assert projected.shape == delta.shape
    assert projected.abs().max() <= torch.tensor(epsilon)
    assert (images + projected).min() >= 0 and (images + projected).max() <= 1
    again = clamp.add(projected, torch.zeros_like(delta))
    assert torch.equal(again, projected)  # a projection
    inside = (delta.abs() <= epsilon) & ((images + delta)[:, :channels] >= 0)
    inside &= (images + delta)[:, :channels] <= 1
    assert torch.allclose(projected[inside], delta[inside], atol=1e-6)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, data.ImageSet]:
    """A network, and images to measure it on."""
    train, test = data.load("shapes", "train"), data.load("shapes", "test")
    chosen, tested = train.select(torch.arange(2000)), test.select(torch.arange(500))
    recipe = dataclasses.replace(SMOKE.recipe, epochs=6)
    return exploit(chosen, tested, Exploiter(), SMOKE.loop.net, recipe)[1], tested


def test_attacks_are_the_papers() -> None:
    assert {
        "clean": None,
        "FGSM": Pgd(8 / 255, 8 / 255, 1),
        "PGD-20": Pgd(8 / 255, 2 / 255, 20, random_start=True),
    } == ATTACKS


@pytest.mark.parametrize("attack", sorted(name for name, budget in ATTACKS.items() if budget))
def test_attacks_lower_accuracy_as_another_librarys_do(
    attack: str, trained: tuple[nn.Module, data.ImageSet]
) -> None:
    """Foolbox, on one trained network: Table 7's numbers must not hang on our attack.

    With an eighth of the radius, which leaves a network that was trained as usual something.
    """
    model, tested = trained
    full = ATTACKS[attack]
    assert full is not None
    budget = dataclasses.replace(full, epsilon=full.epsilon / 8, step=full.step / 8)
    ours = accuracy(model, tested, attack=budget)
    theirs = {
        "FGSM": foolbox.attacks.FGSM(random_start=False),
        "PGD-20": foolbox.attacks.LinfPGD(
            abs_stepsize=budget.step, steps=budget.steps, random_start=True
        ),
    }[attack]
    torch.manual_seed(0)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    _, _, fooled = theirs(wrapped, tested.images / 255, tested.labels, epsilons=budget.epsilon)
    clean = accuracy(model, tested)
    assert 1 < ours < clean - 2  # it does attack, and leaves something to compare
    assert ours == pytest.approx(100 * (1 - fooled.float().mean().item()), abs=1.0)


def test_a_lost_network_moves_nothing_and_says_so(model: nn.Module) -> None:
    """The sign of NaN is 0: without an error its noise would be that of nothing left to do."""
    for weight in model.parameters():
        weight.fill_(torch.nan)
    some = random_images(4)
    with pytest.raises(Diverged, match="learning_rate"):
        generator = torch.Generator().manual_seed(0)
        adversarial(model, some.images / 255, some.labels, Pgd(), generator)
