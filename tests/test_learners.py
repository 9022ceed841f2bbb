"""Source models of later work in Algorithm 1's loop, each against its plain form: AUE, SEM,
REM (cut), MI-UE."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import differing_share, random_images, seeded, tiny_net
from ulelib import views
from ulelib.bilevel import Bilevel, minimise_error
from ulelib.hardened import Hardened
from ulelib.informative import Informative, likeness_loss
from ulelib.jobs.lab import Lab
from ulelib.learners import Augmented
from ulelib.pgd import Pgd
from ulelib.profiles import PAPER
from ulelib.settings import key_of, op
from ulelib.specs import Data

IMAGES = random_images(24)
WEAK = op("contrastive", smallest=0.46, strength=0.6, jittered=0.48, gray_chance=0.12)

# Batches of 9 or 8 images where all are passed, twice in a round.
CONFIG = Bilevel(
    net=op("tiny"),
    inner=Pgd(step=2 / 255, steps=3),
    outer_epochs=1,
    outer_batch_size=12,
    inner_batch_size=10,
    learning_rate=0.05,
    clip=None,
    rounds=2,
    learning=Augmented(WEAK),
)

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]


def plain_loop(config: Bilevel, outer: Loss, inner: Loss) -> torch.Tensor:
    """Algorithm 1 with two losses of protected images, whose batches are drawn for each pass.

    Args:
        outer, inner: of model, protected images `(B, 3, H, W)`, labels and generator; what the
            model minimises, and what the noise does, over which it may draw anew in every step.
    """
    generator = torch.Generator().manual_seed(0)
    x, labels, count = IMAGES.images.float() / 255, IMAGES.labels, len(IMAGES)
    delta, pgd = torch.zeros_like(x), config.inner
    model = seeded(tiny_net)
    sgd = torch.optim.SGD(
        model.parameters(),
        config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )

    def drawn(size: int) -> tuple[torch.Tensor, ...]:
        return torch.randperm(count, generator=generator).tensor_split(-(-count // size))

    order = drawn(config.outer_batch_size)
    for number in range(config.rounds or 0):
        model.train()
        for batch in order if number == 0 else drawn(config.outer_batch_size):
            sgd.zero_grad()
            outer(model, x[batch] + delta[batch], labels[batch], generator).backward()
            sgd.step()
        model.eval()
        for batch in drawn(config.inner_batch_size):
            for _ in range(pgd.steps):
                noise = delta[batch].requires_grad_()
                loss = inner(model, x[batch] + noise, labels[batch], generator)
                (gradient,) = torch.autograd.grad(loss, noise)
                moved = noise.detach() - pgd.step * gradient.sign()
                moved = moved.clamp(-pgd.epsilon, pgd.epsilon)
                delta[batch] = (x[batch] + moved).clamp(0, 1) - x[batch]
    return delta


def behind(view: Any) -> Loss:
    """Cross-entropy behind a view."""
    shown = views.view(view)
    return lambda model, x, y, generator: F.cross_entropy(model(shown(x, generator)), y)


class TestAUE:
    @pytest.mark.parametrize("view", [WEAK, op("crop_flip")], ids=str)
    def test_equals_the_plain_loop(self, view: Any) -> None:
        config = dataclasses.replace(CONFIG, learning=Augmented(view))
        made = minimise_error(IMAGES, config)
        expected = plain_loop(config, behind(view), behind(view))
        assert differing_share(made.delta, expected) < 0.01
        other = minimise_error(IMAGES, dataclasses.replace(CONFIG, learning=Augmented()))
        assert differing_share(made.delta, other.delta) > 0.1

    def test_is_sample_wise_within_epsilon_and_of_its_seed(self) -> None:
        first, again, other = (minimise_error(IMAGES, CONFIG, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(first.delta, again.delta) and not torch.equal(first.delta, other.delta)
        assert first.kind == "sample_wise" and len(first.rounds) == 2
        assert 2 / 255 < first.delta.abs().max() <= 8 / 255 + 1e-7
        published = IMAGES.images / 255 + first.delta
        assert published.min() >= 0 and published.max() <= 1 + 1e-6

    def test_has_the_papers_settings(self) -> None:
        made: Any = Lab("paper").noise("AUE", data=Data("shapes")).method
        assert made.learning == Augmented(WEAK)
        assert (made.rounds, made.outer_epochs) == (PAPER.recipe.epochs, 1)
        assert made.inner == Pgd(8 / 255, 0.8 / 255, 5)

    def test_a_view_without_gradient_is_refused(self) -> None:
        for name in ("jpeg", "bdr", "trivial_augment", "ueraser"):
            with pytest.raises(ValueError, match=rf"Augmented.augment is {name}, which rounds"):
                Augmented(op(name))
        with pytest.raises(ValueError, match="view 'mirror'; choose from"):
            Augmented(op("mirror"))


RHO = 48 / 255  # so large that it decides something within two rounds
ADVERSARY = Pgd(RHO, RHO / 2, 3, random_start=True)


def under(change: str, view: Any) -> Loss:
    """Cross-entropy behind a view, under a change of the image within `RHO`."""
    shown = views.view(view)

    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor, generator: Any) -> torch.Tensor:
        training, seen = model.training, shown(x, generator)
        still = seen.detach()
        moved = RHO * (2 * torch.rand(x.shape, generator=generator) - 1)
        moved = (still + moved).clamp(0, 1) - still
        model.eval()
        for _ in range(3 if change == "adversary" else 0):
            moved.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(still + moved), y), moved)
            moved = (moved.detach() + RHO / 2 * gradient.sign()).clamp(-RHO, RHO)
            moved = (still + moved).clamp(0, 1) - still
        model.train(training)
        return F.cross_entropy(model(seen + moved), y)

    return loss


class TestHardened:
    @pytest.mark.parametrize("meets", ["uniform", "adversary"])
    def test_equals_the_plain_loop(self, meets: Any) -> None:
        crops = op("crop_flip", padding=4)
        config = dataclasses.replace(CONFIG, learning=Hardened(meets, ADVERSARY))
        made = minimise_error(IMAGES, config)
        expected = plain_loop(config, under("adversary", crops), under(meets, crops))
        assert differing_share(made.delta, expected) < 0.01
        assert 2 / 255 < made.delta.abs().max() <= 8 / 255 + 1e-7
        assert made.kind == "sample_wise"

    def test_the_two_differ_in_what_the_noise_meets(self) -> None:
        made = [
            minimise_error(IMAGES, dataclasses.replace(CONFIG, learning=learning)).delta
            for learning in (Hardened("uniform", ADVERSARY), Hardened("adversary", ADVERSARY))
        ]
        assert differing_share(*made) > 0.1

    def test_named_ones_say_how_much_is_cut(self) -> None:
        sem, rem = (
            Lab("paper").noise(name, data=Data("shapes")).method for name in ("SEM", "REM (cut)")
        )
        assert isinstance(sem, Bilevel) and isinstance(rem, Bilevel)
        assert (sem.learning, rem.learning) == (Hardened("uniform"), Hardened("adversary"))
        assert sem.inner == rem.inner == Pgd(8 / 255, 1.6 / 255, 3)
        assert (sem.rounds, rem.rounds) == (60, 30)

    def test_bad_settings_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"Hardened.meets is 'nothing'"):
            Hardened("nothing")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"Hardened.augment is jpeg, which rounds"):
            Hardened("uniform", augment=op("jpeg"))


def plain_likeness(features: torch.Tensor, labels: torch.Tensor, t: float) -> torch.Tensor:
    """MI-UE's loss, pair by pair."""
    total = torch.tensor(0.0)
    for i, one in enumerate(features):
        like = {
            j: torch.exp(torch.cosine_similarity(one, other, dim=0) / t)
            for j, other in enumerate(features)
            if j != i
        }
        own = [value for j, value in like.items() if labels[j] == labels[i]]
        if own:
            total = total - torch.log(torch.stack(own).sum() / torch.stack([*like.values()]).sum())
    return total


class TestMIUE:
    def test_equals_the_plain_loop(self) -> None:
        def inner(model: nn.Module, x: torch.Tensor, y: torch.Tensor, _: Any) -> torch.Tensor:
            assert isinstance(model, nn.Sequential)
            return plain_likeness(model[:-1](x), y, 0.1)

        config = dataclasses.replace(CONFIG, learning=Informative())
        made = minimise_error(IMAGES, config)
        expected = plain_loop(config, behind(op("identity")), inner)
        assert differing_share(made.delta, expected) < 0.01
        assert 2 / 255 < made.delta.abs().max() <= 8 / 255 + 1e-7
        assert made.kind == "sample_wise" and len(made.rounds) == 2

    def test_an_image_alone_in_its_class_has_no_loss(self) -> None:
        features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
        labels = torch.tensor([0, 1, 0, 2, 0])
        expected = plain_likeness(features, labels, 0.5)
        features.requires_grad_()
        loss = likeness_loss(features, labels, 0.5)
        assert loss.item() == pytest.approx(expected.item())
        (gradient,) = torch.autograd.grad(loss, features)
        assert gradient.isfinite().all()
        apart = likeness_loss(features, torch.arange(5), 0.5)
        (gradient,) = torch.autograd.grad(apart, features)
        assert apart.item() == 0 and not gradient.any()

    def test_the_small_network_is_the_same_in_two_parts(self) -> None:
        """Which divides its logits."""
        net, x = op("convnet", widths=(4, 6, 8)), torch.rand(5, 3, 16, 16)
        parted = Informative().start(net, IMAGES, 3, "float32").model.eval()
        whole = Augmented().start(net, IMAGES, 3, "float32").model.eval()
        assert torch.allclose(parted(x), whole(x), atol=1e-6)

    def test_bad_settings_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"Informative.temperature is 0"):
            Informative(0.0)
        with pytest.raises(ValueError, match="ends in Sigmoid, not in Linear"):
            Informative().start(op("mlp"), random_images(8, size=32), 0, "float32")
        with pytest.raises(ValueError, match="whose noise is sample-wise"):
            dataclasses.replace(CONFIG, learning=Informative(), wise="class")


class TestEpochs:
    def test_are_as_many_batches_as_a_pass_has(self) -> None:
        """Of 24 images in batches of 12."""
        batches = dataclasses.replace(CONFIG, outer_epochs=None, outer_batches=4)
        epochs = dataclasses.replace(CONFIG, outer_epochs=2)
        assert torch.equal(
            minimise_error(IMAGES, batches).delta, minimise_error(IMAGES, epochs).delta
        )
        assert key_of(batches) != key_of(epochs)

    def test_replace_the_number_of_batches(self) -> None:
        assert key_of(CONFIG) == key_of(dataclasses.replace(CONFIG, outer_batches=3))
        assert key_of(Bilevel()) == key_of(Bilevel(outer_epochs=None))
        with pytest.raises(ValueError, match=r"Bilevel.outer_epochs is 0"):
            Bilevel(outer_epochs=0)
