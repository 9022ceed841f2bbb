"""Noise that attacks trained networks, each kind against plain steps: AdvPois, AAP, HYPO, SEP,
EntF."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import differing_share, quick_profile, random_images, seeded, tiny_net
from ulelib import views
from ulelib.checkpoints import FileCheckpoint
from ulelib.data import ImageSet
from ulelib.exploiters import Exploiter, exploit
from ulelib.jobs.lab import Lab
from ulelib.perturbation import Perturbation
from ulelib.pgd import Pgd
from ulelib.poisons import Entangled, Poison, class_means
from ulelib.recipe import Recipe
from ulelib.settings import key_of, op
from ulelib.specs import Data, Part, Run, needs

IMAGES = random_images(24)
STEPS = Pgd(step=2 / 255, steps=4, random_start=True)
DATA = Data("shapes")
VICTIM = Run((Part(DATA),), DATA, net=op("tiny"))
WEAK = op("contrastive", smallest=0.64, strength=0.4, jittered=0.32, gray_chance=0.08)

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]


def trained(run: Run) -> nn.Module:
    """A network that is not that of another run."""
    number = 0 if run == VICTIM else int(key_of(run), 16) % 2**31
    return seeded(tiny_net, number).eval().requires_grad_(False)


def made(method: Any, seed: int = 0, network: Any = trained) -> Perturbation:
    options: dict[str, Any] = {"network": network, "report": lambda line: None}
    noise = method.make(IMAGES, seed, "float32", **options)
    assert isinstance(noise, Perturbation)
    assert noise.delta.abs().max() <= STEPS.epsilon + 1e-7
    published = IMAGES.images / 255 + noise.delta
    assert published.min() >= 0 and published.max() <= 1 + 1e-6
    return noise


def plain_steps(loss: Loss, batch_size: int) -> torch.Tensor:
    """Steps down a loss of pictures, rows and generator, from a random start."""
    generator = torch.Generator().manual_seed(0)
    x, epsilon = IMAGES.images / 255, STEPS.epsilon
    delta = torch.zeros_like(x)
    for rows in torch.arange(len(x)).split(batch_size):
        noise = (2 * torch.rand(x[rows].shape, generator=generator) - 1) * epsilon
        noise = (x[rows] + noise).clamp(0, 1) - x[rows]
        for _ in range(STEPS.steps):
            noise = noise.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(x[rows] + noise, rows, generator), noise)
            noise = (noise - STEPS.step * gradient.sign()).clamp(-epsilon, epsilon)
            noise = (x[rows] + noise).clamp(0, 1) - x[rows]
        delta[rows] = noise.detach()
    return delta


class TestAAP:
    @pytest.mark.parametrize("view", ["identity", "crop_flip", "contrastive"])
    def test_equals_plain_steps_behind_the_view(self, view: str) -> None:
        model, shown = trained(VICTIM), views.view(op(view))

        def loss(seen: torch.Tensor, rows: torch.Tensor, generator: torch.Generator) -> Any:
            return F.cross_entropy(model(shown(seen, generator)), (IMAGES.labels[rows] + 1) % 3)

        noise = made(Poison(VICTIM, STEPS, batch_size=10, augment=op(view)))
        assert differing_share(noise.delta, plain_steps(loss, 10)) < 0.01
        assert noise.defender == ("AdvPois" if view == "identity" else "AAP")

    def test_its_victim_learned_behind_the_same_augmentation(self) -> None:
        method: Any = Lab("paper").noise("AAP", data=DATA).method
        assert method.augment == method.victim.exploiter.augment == WEAK
        assert method.shift == 1 and method.inner.steps == 250

    def test_the_augmentation_is_one_that_an_exploiter_can_use(self) -> None:
        images = random_images(40, size=32)
        recipe, net = quick_profile().recipe, op("convnet", widths=(4, 6, 8))
        training, _ = exploit(images, images, Exploiter(augment=WEAK), net, recipe)
        assert 0 <= training.accuracy <= 100 and len(training.curve) == recipe.epochs

    def test_the_view_is_in_the_key_where_there_is_one(self) -> None:
        plain, drawn = Poison(VICTIM), Poison(VICTIM, augment=WEAK)
        assert key_of(plain) == key_of(Poison(VICTIM, augment=op("identity")))
        assert key_of(plain) == key_of(Poison(VICTIM, batch_size=7))
        assert key_of(drawn) != key_of(plain)
        assert key_of(drawn) != key_of(Poison(VICTIM, batch_size=7, augment=WEAK))
        gray = Poison(VICTIM, augment=op("gray"))  # nothing is drawn
        assert key_of(gray) == key_of(Poison(VICTIM, batch_size=7, augment=op("gray")))

    def test_a_view_without_gradient_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"Poison.augment is jpeg, which rounds"):
            Poison(VICTIM, augment=op("jpeg"))


class TestHYPO:
    def test_equals_plain_steps_towards_the_true_label(self) -> None:
        model, shown = trained(VICTIM), views.view(op("crop_flip"))

        def loss(seen: torch.Tensor, rows: torch.Tensor, generator: torch.Generator) -> Any:
            return F.cross_entropy(model(shown(seen, generator)), IMAGES.labels[rows])

        method = Poison(
            VICTIM, STEPS, shift=0, own_label=True, batch_size=10, augment=op("crop_flip")
        )
        noise = made(method)
        assert differing_share(noise.delta, plain_steps(loss, 10)) < 0.01
        assert noise.defender == "HYPO"

    def test_lowers_the_loss_where_error_maximising_noise_raises_it(self) -> None:
        model, x = trained(VICTIM), IMAGES.images / 255
        loss = {
            own: F.cross_entropy(
                model(x + made(Poison(VICTIM, STEPS, shift=0, own_label=own)).delta),
                IMAGES.labels,
            )
            for own in (True, False)
        }
        assert loss[True] < F.cross_entropy(model(x), IMAGES.labels) < loss[False]

    def test_its_victim_is_hardened_within_two_gray_levels(self) -> None:
        for profile, steps in (("paper", 100), ("smoke", 20)):
            method: Any = Lab(profile).noise("HYPO", data=DATA).method
            assert method.victim.exploiter.attack == Pgd(2 / 255, 1 / 255, 3, random_start=True)
            assert method.inner == Pgd(8 / 255, 0.8 / 255, steps)
            assert (method.shift, method.own_label) == (0, True)

    def test_another_label_beside_the_true_one_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"Poison.own_label is True.*: shift is 1, not 0"):
            Poison(VICTIM, own_label=True)


class TestSEP:
    RUNS = tuple(dataclasses.replace(VICTIM, recipe=Recipe(stop_after=stop)) for stop in (12, 24))

    def test_equals_plain_steps_on_the_mean_gradient(self) -> None:
        models = [trained(run) for run in (VICTIM, *self.RUNS)]

        def loss(seen: torch.Tensor, rows: torch.Tensor, _: torch.Generator) -> Any:
            target = (IMAGES.labels[rows] + 2) % 3
            return torch.stack([F.cross_entropy(one(seen), target) for one in models]).mean()

        noise = made(Poison(VICTIM, STEPS, shift=2, also=self.RUNS))
        assert differing_share(noise.delta, plain_steps(loss, 24)) < 0.01
        alone = made(Poison(VICTIM, STEPS, shift=2))
        assert differing_share(noise.delta, alone.delta) > 0.1
        assert (noise.defender, alone.defender) == ("SEP", "AdvPois")

    def test_its_networks_are_of_one_training(self) -> None:
        method: Any = Lab("paper").noise("SEP", data=DATA).method
        assert [run.recipe.stop_after for run in method.also] == [12, 24, 36, 48]
        assert method.victim == Lab("paper").noise("AdvPois", data=DATA).method.victim  # type: ignore[attr-defined]
        for run in method.also:
            whole = dataclasses.replace(run.recipe, stop_after=None)
            assert dataclasses.replace(run, recipe=whole) == method.victim
        assert method.inner == Pgd(8 / 255, 1 / 255, 30) and method.shift == 5
        assert set(needs(Lab("paper").noise("SEP", data=DATA))) == {method.victim, *method.also}
        assert len(Lab("smoke").noise("SEP").method.also) == 4  # type: ignore[attr-defined]

    def test_a_training_that_stops_is_the_beginning_of_the_whole_one(self, tmp_path: Path) -> None:
        """After two epochs of four, under a rate that falls."""
        images, net = random_images(40, size=32), op("convnet", widths=(4, 6, 8))
        recipe = Recipe(epochs=4, batch_size=10, schedule="one_cycle", curve_images=20)
        early = dataclasses.replace(recipe, stop_after=2)
        whole, _ = exploit(images, images, Exploiter(), net, recipe)
        part, model = exploit(images, images, Exploiter(), net, early)
        assert part.curve == whole.curve[:2]

        found: list[list[torch.Tensor]] = []

        class Keeps(FileCheckpoint):
            """The weights after each epoch."""

            def offer(self, state: Any) -> None:
                found.append([one.clone() for one in state()["parts"]["model"].values()])

        exploit(images, images, Exploiter(), net, recipe, checkpoint=Keeps(tmp_path / "x", {}))
        weights = [*model.parameters(), *model.buffers()]
        assert all(map(torch.equal, found[1], weights)) and len(found) == 3

    def test_it_is_in_the_key_where_it_stops(self) -> None:
        assert key_of(Recipe()) == key_of(Recipe(stop_after=None)) != key_of(Recipe(stop_after=3))
        with pytest.raises(ValueError, match="Recipe.stop_after is 60: less than epochs, 60"):
            Recipe(stop_after=60)

    def test_a_label_beyond_the_classes_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"Poison.shift is 5, but there are 3 classes"):
            made(Poison(VICTIM, STEPS, shift=5, also=self.RUNS))


class TestEntF:
    def means(self, body: nn.Module) -> torch.Tensor:
        features = body(IMAGES.images / 255)
        return torch.stack([features[IMAGES.labels == label].mean(0) for label in range(3)])

    @pytest.mark.parametrize("how", ["push", "pull"])
    def test_equals_plain_steps_among_the_features(self, how: Any) -> None:
        model, shown = trained(VICTIM), views.view(op("crop_flip"))
        assert isinstance(model, nn.Sequential)
        body = model[:-1]
        means = self.means(body)

        def loss(seen: torch.Tensor, rows: torch.Tensor, generator: torch.Generator) -> Any:
            total = torch.tensor(0.0)
            for feature, row in zip(body(shown(seen, generator)), rows, strict=True):
                own = int(IMAGES.labels[row])
                away = [(feature - mean).square().mean() for mean in means]
                others = [distance for label, distance in enumerate(away) if label != own]
                total = total + (-away[own] if how == "push" else min(others))
            return total

        noise = made(Entangled(VICTIM, how, STEPS, batch_size=10))
        assert differing_share(noise.delta, plain_steps(loss, 10)) < 0.01
        assert noise.defender == f"EntF-{how}"

    def test_means_are_those_of_the_clean_images(self) -> None:
        body = trained(VICTIM)[:-1]  # type: ignore[index]
        found = class_means(body, IMAGES, "float32")
        assert torch.allclose(found, self.means(body), atol=1e-5)
        fewer = ImageSet(IMAGES.images, IMAGES.labels, (*IMAGES.classes, "none"), "fewer")
        assert class_means(body, fewer, "float32").isnan().all(1).tolist() == [False] * 3 + [True]

    def test_no_class_without_images_pulls(self) -> None:
        fewer = ImageSet(IMAGES.images, IMAGES.labels, (*IMAGES.classes, "none"), "fewer")
        model = trained(VICTIM)
        for how in ("push", "pull"):
            method: Any = Entangled(VICTIM, how, STEPS)  # type: ignore[arg-type]
            options: dict[str, Any] = {"network": lambda run: model, "report": lambda line: None}
            delta = method.make(fewer, 0, "float32", **options).delta
            assert torch.equal(delta, made(method).delta)

    def test_its_victim_is_hardened_within_four_gray_levels(self) -> None:
        for how in ("push", "pull"):
            method: Any = Lab("paper").noise(f"EntF-{how}", data=DATA).method
            assert method.victim.exploiter.attack == Pgd(4 / 255, 2 / 255, 3, random_start=True)
            assert (method.how, method.inner.steps) == (how, 250)

    def test_what_has_no_features_or_no_gradient_is_refused(self) -> None:
        ends = nn.Sequential(nn.Flatten(), nn.Linear(768, 3), nn.Sigmoid())
        with pytest.raises(ValueError, match="ends in Sigmoid, not in Linear"):
            made(Entangled(VICTIM), network=lambda run: ends)
        with pytest.raises(ValueError, match=r"Entangled.augment is bdr, which rounds"):
            Entangled(VICTIM, augment=op("bdr"))
        with pytest.raises(ValueError, match=r"Entangled.how is 'away'"):
            Entangled(VICTIM, "away")  # type: ignore[arg-type]
