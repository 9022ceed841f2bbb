"""Contrastive source models: what they minimise, their queue and follower, and TUE's noise."""

import copy
import warnings
from dataclasses import replace

import pytest
import torch

from helpers import random_images
from ulelib import contrastive
from ulelib.bilevel import Bilevel, Supervised, minimise_error
from ulelib.contrastive import Collapsed, Contrastive, MoCo, SimCLR, SimSiam, Transferable
from ulelib.csd import Separation, csd, misplaced_rows
from ulelib.data import ImageSet
from ulelib.pgd import CLAMPS, Pgd
from ulelib.settings import described, key_of, op
from ulelib.views import gray

NET = op("convnet", widths=(8, 8, 16), stride=2)
SMALL = {"hidden": 16, "dim": 8, "queue": 32, "temperature": 0.2}  # lightly's own is 0.5


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return random_images(64, size=32, classes=4)


def loop(method: str, **changes: object) -> Bilevel:
    settings = Bilevel(
        net=NET,
        learning=Transferable(Contrastive(method, **SMALL)),  # type: ignore[arg-type]
        inner=Pgd(step=4 / 255, steps=2, random_start=True),
        outer_batches=2,
        outer_batch_size=16,
        inner_batch_size=32,
        rounds=2,
    )
    return replace(settings, **changes)  # type: ignore[arg-type]


class TestSettings:
    def test_two_equal_views_teach_nothing(self) -> None:
        with pytest.raises(ValueError, match="same picture twice"):
            Contrastive("simclr", augment=op("gray"))

    def test_a_queue_longer_than_the_data_is_refused(self, images: ImageSet) -> None:
        with pytest.raises(ValueError, match="queue is 100, but there are 64 images"):
            Contrastive("moco", queue=100).build(NET, images, 0)

    def test_a_network_without_a_last_linear_layer_is_refused(self, images: ImageSet) -> None:
        with pytest.raises(ValueError, match="ends in Sigmoid"):
            Contrastive("simclr").build(op("mlp"), images, 0)

    def test_class_wise_noise_is_refused(self) -> None:
        with pytest.raises(ValueError, match="sample-wise"):
            loop("simclr", wise="class")

    def test_noise_for_some_classes_alone_is_refused(self) -> None:
        with pytest.raises(ValueError, match="clean ones among them would have none"):
            loop("simclr", only=(1,))

    def test_the_class_instead_of_settings_is_refused(self) -> None:
        with pytest.raises(ValueError, match="settings, not their class"):
            Bilevel(learning=Supervised)  # type: ignore[arg-type]

    def test_what_does_not_matter_is_no_part_of_the_key(self) -> None:
        assert key_of(Bilevel()) == key_of(Bilevel(learning=Supervised(), rounds=None))
        assert key_of(loop("simclr")) == key_of(loop("simclr", stop_error=0.5))
        assert key_of(loop("simclr")) != key_of(loop("simclr", inner_batch_size=16))
        assert key_of(Bilevel()) == key_of(Bilevel(inner_batch_size=16))


def views(count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    both = torch.rand(2, count, 3, 32, 32, generator=generator)
    return both[0], both[1]


class TestLosses:
    """Against the formulas of the three papers, written out."""

    def test_simclr(self, images: ImageSet) -> None:
        model = Contrastive("simclr", **SMALL).build(NET, images, 0).eval()
        assert isinstance(model, SimCLR)
        first, second = views()
        with torch.no_grad():
            z = torch.cat([model.project(first), model.project(second)])
            z = z / z.norm(dim=1, keepdim=True)
            expected, count = 0.0, len(first)
            for i in range(2 * count):
                like = torch.exp(z @ z[i] / 0.2)
                others = like.sum() - like[i]
                expected -= float(torch.log(like[(i + count) % (2 * count)] / others))
            loss = model(first, second, "float32")
        assert float(loss) == pytest.approx(expected / (2 * count), rel=1e-4)

    def test_moco(self, images: ImageSet) -> None:
        model = Contrastive("moco", **SMALL).build(NET, images, 0).eval()
        assert isinstance(model, MoCo)
        first, second = views()
        with torch.no_grad():
            q, k = model.project(first), model.follower(second)
            q, k = q / q.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
            right = torch.exp((q * k).sum(1) / 0.2)
            wrong = torch.exp(q @ model.criterion.memory_bank.bank.T / 0.2).sum(1)
            expected = -torch.log(right / (right + wrong)).mean()
            loss = model(first, second, "float32")
        assert float(loss) == pytest.approx(float(expected), rel=1e-4)

    def test_simsiam(self, images: ImageSet) -> None:
        model = Contrastive("simsiam", **SMALL).build(NET, images, 0).eval()
        assert isinstance(model, SimSiam)
        first, second = views()
        with torch.no_grad():
            z1, z2 = model.project(first), model.project(second)
            p1, p2 = model.predict(z1), model.predict(z2)
            likeness = torch.cosine_similarity(p1, z2) + torch.cosine_similarity(p2, z1)
            loss = model(first, second, "float32")
        assert float(loss) == pytest.approx(-float(likeness.mean()) / 2, rel=1e-4)


class TestGradientsWhileItLearns:
    def test_of_simsiam_stop_at_what_is_predicted(self, images: ImageSet) -> None:
        model = Contrastive("simsiam", **SMALL).build(NET, images, 0).train()
        assert isinstance(model, SimSiam)
        seen: list[torch.Tensor] = []
        criterion = model.criterion.forward
        model.criterion.forward = lambda p, z: seen.append(z) or criterion(p, z)  # type: ignore
        model(*views(), "float32").backward()
        assert len(seen) == 2 and not any(z.requires_grad for z in seen)
        model.eval()(*views(), "float32")
        assert all(z.requires_grad for z in seen[2:])  # k_grad

    def test_of_moco_stop_at_the_keys(self, images: ImageSet) -> None:
        model = Contrastive("moco", **SMALL).build(NET, images, 0).train()
        assert isinstance(model, MoCo)
        model(*views(), "float32").backward()
        assert all(parameter.grad is None for parameter in model.follower.parameters())
        assert all(parameter.grad is not None for parameter in model.project.parameters())


class TestMoCo:
    def model(self, images: ImageSet) -> MoCo:
        model = Contrastive("moco", **SMALL, momentum=0.75).build(NET, images, 0)
        assert isinstance(model, MoCo)
        return model

    def test_keys_enter_the_queue_while_it_learns(self, images: ImageSet) -> None:
        model = self.model(images).train()
        before = model.criterion.memory_bank.bank.clone()
        model(*views(), "float32")
        changed = (model.criterion.memory_bank.bank != before).any(1)
        assert changed.sum() == 16

    def test_nothing_enters_the_queue_while_noise_is_made(self, images: ImageSet) -> None:
        model = self.model(images).eval().requires_grad_(False)
        before = {name: b.clone() for name, b in model.criterion.named_buffers()}
        first, second = views()
        model(first.requires_grad_(), second.requires_grad_(), "float32").backward()
        assert all(torch.equal(b, before[name]) for name, b in model.criterion.named_buffers())
        assert second.grad is not None and second.grad.abs().sum() > 0  # k_grad

    def test_the_second_network_follows_the_first(self, images: ImageSet) -> None:
        model = self.model(images)
        with torch.no_grad():
            for parameter in model.project.parameters():
                parameter.add_(1)
        before = copy.deepcopy([*model.follower.parameters()])
        model.stepped()
        for old, new in zip(before, model.follower.parameters(), strict=True):
            assert torch.allclose(new, old + 0.25, atol=1e-6)

    def test_it_follows_in_every_step_of_the_loop(
        self, images: ImageSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps: list[object] = []
        monkeypatch.setattr(MoCo, "stepped", lambda self: steps.append(self))
        minimise_error(images, loop("moco"))
        assert len(steps) == 2 * 2

    def test_a_batch_larger_than_the_queue_is_refused(self, images: ImageSet) -> None:
        with pytest.raises(ValueError, match="does not fit into a queue of 32"):
            self.model(images).train()(*views(40), "float32")


# A head of eight values shows nearly one point of random images.
@pytest.mark.filterwarnings("ignore::ulelib.contrastive.Collapsed")
@pytest.mark.parametrize("method", ["simclr", "moco", "simsiam"])
class TestTransferableNoise:
    def test_classes_come_apart(self, images: ImageSet, method: str) -> None:
        made = minimise_error(images, loop(method), seed=3)
        start = minimise_error(
            images, loop(method, inner=Pgd(step=1e-6, steps=1, random_start=True))
        )
        assert len(made.rounds) == 2
        assert csd(made.delta, images.labels) < 0.5 * csd(start.delta, images.labels)
        assert made.delta.abs().max() <= made.epsilon + 1e-6

    def test_a_last_batch_of_one_image_is_shared_out(self, method: str) -> None:
        some = random_images(65, size=32, classes=4)
        told = Transferable(Contrastive(method, **SMALL | {"queue": 64}))  # type: ignore[arg-type]
        large = {"inner_batch_size": 64, "outer_batch_size": 64}
        made = minimise_error(some, loop(method, learning=told, **large))
        assert torch.isfinite(made.delta).all()

    def test_is_the_same_again(self, images: ImageSet, method: str) -> None:
        first, second = (minimise_error(images, loop(method), seed=3) for _ in range(2))
        assert torch.equal(first.delta, second.delta)

    def test_knows_the_network(self, images: ImageSet, method: str) -> None:
        """The contrastive loss has a say: without CSD noise still moves, and does so by the net."""
        told = Transferable(Contrastive(method, **SMALL), csd_weight=0.0)  # type: ignore[arg-type]
        still = loop(method, learning=told, inner=Pgd(step=4 / 255, steps=2))  # it begins at 0
        first, second = (minimise_error(images, still, seed=seed) for seed in (0, 1))
        assert first.delta.abs().mean() > 0.01
        assert not torch.equal(first.delta, second.delta)


def test_a_source_model_that_shows_one_point_is_said(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrastive, "COLLAPSED", 10.0)  # of which every network falls short
    with pytest.warns(Collapsed, match="spread"):
        minimise_error(images, loop("simsiam"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        minimise_error(images, loop("simclr"))  # whose loss holds images apart


@pytest.mark.parametrize("spread", ["moving", "fixed"])
def test_the_inner_loss_is_the_weighted_sum(images: ImageSet, spread: str) -> None:
    told = Transferable(Contrastive("simclr", **SMALL), 0.5, 3.0, spread)  # type: ignore[arg-type]
    learner = told.start(NET, images, 0, "float32")
    learner.model.eval().requires_grad_(False)
    labels, x = images.labels[:16], images.images[:16] / 255
    delta = 0.01 * torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    losses = []
    for generator, weights in zip(generators, (None, (0.5, 3.0)), strict=True):
        moved = delta.clone().requires_grad_()
        if weights is None:
            loss = learner.objective(CLAMPS["none"](x, 8 / 255), labels, generator)(moved)
        else:
            contrastive = learner.loss(x + moved, labels, generator)
            loss = weights[0] * contrastive + weights[1] * csd(moved, labels, spread)
        (gradient,) = torch.autograd.grad(loss, moved)
        losses.append((loss.detach(), gradient))
    assert torch.allclose(losses[0][0], losses[1][0]) and torch.allclose(losses[0][1], losses[1][1])


class TestSeparation:
    @pytest.mark.parametrize("spread", ["moving", "fixed"])
    def test_parts_the_classes(self, images: ImageSet, spread: str) -> None:
        method = Separation(Pgd(step=2 / 255, steps=8, random_start=True), 2, 32, spread)  # type: ignore[arg-type]
        made = method.make(images, 0, "float32", network=None, report=print)  # type: ignore[arg-type]
        assert not misplaced_rows(made.delta, images.labels).any()
        assert csd(made.delta, images.labels) < 1.0
        picture = images.images / 255 + made.delta
        assert picture.min() >= 0 and picture.max() <= 1 + 1e-6

    def test_fixed_spreads_make_nearly_class_wise_noise(self) -> None:
        gray = ImageSet(torch.full((64, 3, 8, 8), 128, dtype=torch.uint8), torch.arange(64) % 4,
                        tuple("abcd"), "gray")  # fmt: skip
        inner = Pgd(step=2 / 255, steps=10, random_start=True)
        spreads = {}
        for spread in ("moving", "fixed"):
            method = Separation(inner, 3, 64, spread)  # type: ignore[arg-type]
            delta = method.make(gray, 0, "float32", network=None, report=print).delta  # type: ignore[arg-type]
            spreads[spread] = float(delta[gray.labels == 0].std(0).mean())
        assert spreads["fixed"] < spreads["moving"]
        assert spreads["fixed"] < 0.3 * 8 / 255

    def test_some_classes_among_others(self, images: ImageSet) -> None:
        inner = Pgd(step=2 / 255, steps=8, random_start=True)
        method = Separation(inner, 2, 32, only=(1,))
        delta = method.make(images, 0, "float32", network=None, report=print).delta  # type: ignore[arg-type]
        mine = images.labels == 1
        assert (delta[~mine] == 0).all()
        mean = delta[mine].mean(0)
        assert mean.abs().mean() > 0.5 * inner.epsilon  # all in one direction, away from 0
        alone = replace(method, only=None)
        assert described(alone, keyed=True) == described(Separation(inner, 2, 32), keyed=True)

    def test_of_one_channel_outlives_the_gray_filter(self, images: ImageSet) -> None:
        inner = Pgd(step=2 / 255, steps=8, random_start=True)
        left = {}
        for channels in (1, 3):
            method = Separation(inner, 2, 32, channels=channels)  # type: ignore[arg-type]
            made = method.make(images, 0, "float32", network=None, report=print)  # type: ignore[arg-type]
            assert made.delta.shape[1] == channels and made.delta.abs().max() <= inner.epsilon
            assert not misplaced_rows(made.delta, images.labels).any()
            middle = replace(images, images=torch.full_like(images.images, 128))
            noisy = replace(made, fingerprint=middle.fingerprint).apply(middle)
            left[channels] = float((gray(noisy.images / 255) - 128 / 255).abs().mean())
        assert left[1] > 0.8 * inner.epsilon and left[1] > 1.5 * left[3]

    def test_needs_a_random_start(self) -> None:
        with pytest.raises(ValueError, match="all noise would stay 0"):
            Separation(Pgd())
