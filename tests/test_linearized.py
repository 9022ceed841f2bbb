"""PIL: the plain loop, its two losses, and what the linear model reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from helpers import differing_share, random_images
from ulelib.data import ImageSet
from ulelib.linearized import Linearized
from ulelib.perturbation import Perturbation
from ulelib.pgd import Diverged, Pgd

IMAGES = random_images(40, size=8)
QUICK = Linearized(Pgd(step=2 / 255, steps=6, random_start=True), epochs=3, batch_size=16)


def made(method: Linearized, images: ImageSet = IMAGES, seed: int = 0) -> Perturbation:
    return method.make(
        images,
        seed,
        "float32",
        network=None,  # type: ignore[arg-type]
        report=lambda line: None,
    )


def learned(method: Linearized, seed: int = 0) -> tuple[nn.Module, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return method.learned(IMAGES, seed, generator), generator


def plain_loss(
    linear: nn.Module, image: torch.Tensor, noise: torch.Tensor, y: int, w: float
) -> Any:
    """The paper's, of one image, symbol by symbol."""
    label = -torch.log(linear(noise[None]).softmax(1)[0, y])
    left = linear((image - noise)[None]).softmax(1)[0]
    uniform = 1 / len(left)
    divergence = sum(uniform * torch.log(uniform / p) for p in left)
    return (1 - w) * label + w * divergence


def test_equals_the_plain_loop() -> None:
    linear, generator = learned(QUICK)
    epsilon, step = QUICK.inner.epsilon, QUICK.inner.step
    start = (2 * torch.rand(40, 192, generator=generator) - 1) * epsilon
    expected = torch.zeros(40, 192)
    for i, image in enumerate(IMAGES.images.flatten(1) / 255):
        noise = start[i]
        for _ in range(QUICK.inner.steps):
            noise = noise.detach().requires_grad_()
            loss = plain_loss(linear, image, noise, int(IMAGES.labels[i]), 0.1)
            (gradient,) = torch.autograd.grad(loss, noise)
            noise = (noise - step * gradient.sign()).clamp(-epsilon, epsilon)
        expected[i] = -noise.detach()
    assert differing_share(made(QUICK).delta.flatten(1), expected) < 0.002


def test_the_linear_model_reads_the_noise_as_the_opposite_of_the_label() -> None:
    """What is added is -d, and f has no bias."""
    linear, _ = learned(QUICK)
    delta = made(QUICK).delta.flatten(1)
    assert (linear(-delta).argmax(1) == IMAGES.labels).all()
    assert (linear(delta).argmin(1) == IMAGES.labels).all()


def test_a_heavier_second_loss_takes_more_of_the_image() -> None:
    def certainty(confusion: float) -> float:
        method = Linearized(QUICK.inner, confusion, epochs=10, batch_size=16, learning_rate=0.02)
        linear, _ = learned(method)
        published = IMAGES.images.flatten(1) / 255 + made(method).delta.flatten(1)
        return float(linear(published).softmax(1).amax(1).mean())

    assert certainty(0.9) < certainty(0.0)


def test_is_sample_wise_within_epsilon_and_of_its_seed() -> None:
    first, again, other = (made(QUICK, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.delta, again.delta) and not torch.equal(first.delta, other.delta)
    assert first.kind == "sample_wise" and first.delta.shape == IMAGES.images.shape
    assert first.epsilon == 8 / 255 and first.delta.abs().max() <= 8 / 255 + 1e-7


def test_a_lost_model_is_an_error() -> None:
    with pytest.raises(Diverged, match="lower its learning_rate"):
        made(Linearized(QUICK.inner, learning_rate=1e5))


def test_its_model_has_two_layers_without_bias() -> None:
    linear, _ = learned(QUICK)
    assert [tuple(p.shape) for p in linear.parameters()] == [(3, 192), (3, 3)]
