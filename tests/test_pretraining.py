"""Exploiters without labels: the probes, what a training shows, and what it refuses or warns of."""

from dataclasses import replace

import pytest
import torch

from helpers import random_images
from ulelib import pretraining
from ulelib.contrastive import Collapsed, Contrastive, MoCo
from ulelib.data import ImageSet
from ulelib.exploiters import Recipe
from ulelib.pgd import Diverged
from ulelib.pretraining import features, linear_probe, neighbours, pretrain
from ulelib.settings import op
from ulelib.views import view

NET = op("convnet", widths=(8, 8, 16), stride=2)
LEARNS = Contrastive("simclr", hidden=16, dim=8)
RECIPE = Recipe(epochs=2, batch_size=16, learning_rate=0.05, curve_images=20)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return random_images(48, size=32)


@pytest.fixture(scope="module")
def others() -> ImageSet:
    return random_images(30, size=32, seed=1)


class TestPretrain:
    def test_shows_what_it_measures(self, images: ImageSet, others: ImageSet) -> None:
        """The probes learn from clean images, whatever the network learned from."""
        lines: list[str] = []
        clean = random_images(60, size=32, seed=2)
        shows, backbone = pretrain(images, clean, others, LEARNS, NET, RECIPE, report=lines.append)
        assert len(shows.curve) == len(lines) == 2
        assert shows.chance == pytest.approx(100 / 3)
        known, seen = features(backbone, clean), features(backbone, others)
        assert known.shape == (60, 16)
        assert shows.knn == pytest.approx(neighbours(known, clean, seen, others))
        assert shows.accuracy == pytest.approx(linear_probe(known, clean, seen, others))
        glimpse = others.select(torch.arange(20))
        assert shows.curve[-1] == pytest.approx(neighbours(known, clean, seen[:20], glimpse))

    def test_a_spread_of_one_fills_the_sphere(
        self, images: ImageSet, others: ImageSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generator = torch.Generator().manual_seed(0)

        def anywhere(_: object, some: ImageSet, *__: object) -> torch.Tensor:
            return torch.randn(len(some), 64, generator=generator)

        monkeypatch.setattr(pretraining, "features", anywhere)
        shows, _ = pretrain(images, images, others, LEARNS, NET, RECIPE)
        assert shows.spread == pytest.approx(1, abs=0.1)

    def test_a_second_network_follows_in_every_step(
        self, images: ImageSet, others: ImageSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps: list[object] = []
        monkeypatch.setattr(MoCo, "stepped", lambda self: steps.append(self))
        moco = Contrastive("moco", hidden=16, dim=8, queue=32)
        pretrain(images, images, others, moco, NET, RECIPE)
        assert len(steps) == 2 * 3

    def test_the_untrained_network_knows_nothing_but_means_and_variances(
        self, images: ImageSet, others: ImageSet
    ) -> None:
        built = LEARNS.build(NET, images, pretraining.SEED_OFFSET).backbone
        before = {name: value.clone() for name, value in built.state_dict().items()}
        augment = view(LEARNS.augment)
        seed = pretraining.SEED_OFFSET
        normed = pretraining.normed(built, images, augment, 16, seed, "float32")
        assert all(torch.equal(before[name], value) for name, value in built.state_dict().items())
        for name, value in normed.state_dict().items():
            assert torch.equal(before[name], value) != ("running" in name or "tracked" in name)
        known, seen = features(normed, images), features(normed, others)
        shows, _ = pretrain(images, images, others, LEARNS, NET, RECIPE)
        assert shows.untrained == pytest.approx(linear_probe(known, images, seen, others))

    def test_is_the_same_again_and_another_under_another_seed(
        self, images: ImageSet, others: ImageSet
    ) -> None:
        nets = [
            pretrain(images, images, others, LEARNS, NET, RECIPE, seed=seed)[1].state_dict()
            for seed in (0, 0, 1)
        ]
        assert all(torch.equal(nets[0][n], nets[1][n]) for n in nets[0])
        assert not all(torch.equal(nets[0][n], nets[2][n]) for n in nets[0])

    def test_does_not_look_at_labels(self, images: ImageSet, others: ImageSet) -> None:
        shuffled = replace(images, labels=images.labels.flip(0))
        first, second = (
            pretrain(some, images, others, LEARNS, NET, RECIPE)[0] for some in (images, shuffled)
        )
        assert replace(first, seconds=0.0) == replace(second, seconds=0.0)

    def test_learns_what_stays_in_two_views(self) -> None:
        """Wide stripes against narrow ones, of any colour: features tell them apart afterwards."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(200) % 2
        wave = torch.arange(32).view(1, 1, 1, 32) * torch.where(labels == 0, 0.35, 1.6).view(
            -1, 1, 1, 1
        )
        phase = 6 * torch.rand(200, 1, 1, 1, generator=generator)
        colour = torch.rand(200, 3, 1, 1, generator=generator)
        stripes = (127 + 100 * torch.sin(wave + phase) * colour).expand(200, 3, 32, 32)
        drawn = ImageSet(
            stripes.to(torch.uint8).contiguous(), labels, ("wide", "narrow"), "stripes"
        )
        train, test = drawn.select(torch.arange(120)), drawn.select(torch.arange(120, 200))
        recipe = replace(RECIPE, epochs=6, batch_size=40)
        shows, _ = pretrain(train, train, test, LEARNS, NET, recipe)
        assert shows.knn > 85 and shows.accuracy > 90 > shows.untrained

    def test_collapse_is_said(
        self, images: ImageSet, others: ImageSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def one_point(backbone: object, some: ImageSet, precision: str) -> torch.Tensor:
            return torch.ones(len(some), 4) + 1e-4 * some.images[:, 0, 0, :4]

        monkeypatch.setattr(pretraining, "features", one_point)
        with pytest.warns(Collapsed, match="spread of what it shows is 0.0"):
            siamese = Contrastive("simsiam", hidden=16, dim=8)
            shows, _ = pretrain(images, images, others, siamese, NET, RECIPE)
        assert shows.spread < 0.1

    def test_a_loss_that_is_not_finite_is_an_error(
        self, images: ImageSet, others: ImageSet
    ) -> None:
        with pytest.raises(Diverged, match="lower learning_rate"):
            wild = replace(RECIPE, learning_rate=1e6, clip=None)
            pretrain(images, images, others, Contrastive("simsiam"), NET, replace(wild, epochs=9))

    def test_features_that_are_not_finite_are_an_error(self, images: ImageSet) -> None:
        """Where the last step loses a network; a probe would find that it has learned nothing."""
        lost = LEARNS.build(NET, images, 0).backbone
        with torch.no_grad():
            next(lost.parameters()).fill_(torch.nan)
        with pytest.raises(Diverged, match="features are not finite"):
            features(lost, images)

    def test_too_few_images_are_refused(self, images: ImageSet, others: ImageSet) -> None:
        with pytest.raises(ValueError, match="48 images do not fill a batch of 100"):
            pretrain(images, images, others, LEARNS, NET, replace(RECIPE, batch_size=100))


class TestProbes:
    """On features whose answer is known."""

    def clusters(self, seed: int) -> tuple[torch.Tensor, ImageSet]:
        some = random_images(90, size=1, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        points = torch.eye(3)[some.labels] + 0.05 * torch.randn(90, 3, generator=generator)
        return points, some

    def test_separated_clusters_are_told_apart(self) -> None:
        known, seen = self.clusters(0), self.clusters(1)
        assert neighbours(*known, *seen) == 100
        assert linear_probe(*known, *seen) == 100

    def test_features_that_know_nothing_stay_near_chance(self) -> None:
        (known, first), (seen, second) = self.clusters(0), self.clusters(1)
        generator = torch.Generator().manual_seed(2)
        known, seen = torch.randn(known.shape, generator=generator), torch.randn_like(seen)
        assert neighbours(known, first, seen, second) < 60
        assert linear_probe(known, first, seen, second) < 60

    def test_the_linear_probe_ends_at_the_optimum(self) -> None:
        """Feature scale does not matter, since features are standardised first."""
        (known, first), (seen, second) = self.clusters(0), self.clusters(1)
        noisy = known + 0.5 * torch.randn(known.shape, generator=torch.Generator().manual_seed(3))
        plain = linear_probe(noisy, first, seen, second)
        assert linear_probe(1000 * noisy - 7, first, 1000 * seen - 7, second) == plain
