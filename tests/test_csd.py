"""CSD: hand-computed examples, a plain double loop, its gradient, and the batches that break it."""

import math

import pytest
import torch

from ulelib.csd import TINY, csd, misplaced, misplaced_rows
from ulelib.data import ImageSet
from ulelib.deltas import SampleWise


def by_the_book(delta: torch.Tensor, labels: torch.Tensor) -> float:
    """The equation, symbol by symbol."""
    members = {int(k): delta[labels == k].flatten(1) for k in labels.unique()}
    means = {k: noise.mean(0) for k, noise in members.items()}
    sigma = {
        k: sum(math.dist(one.tolist(), means[k].tolist()) for one in noise) / len(noise)
        for k, noise in members.items()
    }
    total = 0.0
    for i in members:
        inner = 0.0
        for j in members:
            if i != j:
                d = math.dist(means[i].tolist(), means[j].tolist())
                inner += (sigma[i] + sigma[j] + TINY) / (d + TINY)
        total += inner / (len(members) - 1)
    return total / len(members)


class TestValue:
    def test_two_classes_by_hand(self) -> None:
        # Means (0, 0) and (10, 0); members 1 and 2 away from them: (1 + 2) / 10.
        delta = torch.tensor([[1.0, 0], [-1, 0], [10, 2], [10, -2]], dtype=torch.float64)
        assert float(csd(delta, torch.tensor([0, 0, 1, 1]))) == pytest.approx(0.3, abs=1e-5)

    def test_three_classes_by_hand(self) -> None:
        # Single members, so no spread: a triangle has CSD 0 but for the tiny number.
        delta = torch.tensor([[0.0, 0], [3, 0], [0, 4]])
        expected = TINY * (1 / 3 + 1 / 4 + 1 / 5) / 3
        assert float(csd(delta, torch.tensor([0, 1, 2]))) == pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize("spread", ["moving", "fixed"])
    def test_equals_the_double_loop(self, spread: str) -> None:
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(7, (40,), generator=generator) * 3  # labels with gaps
        delta = torch.rand(40, 3, 4, 4, generator=generator, dtype=torch.float64)
        assert float(csd(delta, labels, spread)) == pytest.approx(by_the_book(delta, labels))

    def test_has_no_unit(self) -> None:
        delta = torch.rand(30, 3, 4, 4, dtype=torch.float64) * 255
        labels = torch.arange(30) % 4
        assert float(csd(delta / 255, labels)) == pytest.approx(float(csd(delta, labels)), rel=1e-3)

    def test_falls_as_classes_part(self) -> None:
        noise, labels = torch.randn(60, 12), torch.arange(60) % 3
        offset = torch.randn(3, 12)[labels]
        values = [float(csd(noise + far * offset, labels)) for far in (0, 1, 3, 10)]
        assert values == sorted(values, reverse=True)


class TestGradient:
    def test_is_that_of_the_equation(self) -> None:
        delta = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
        labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
        assert torch.autograd.gradcheck(lambda d: csd(d, labels), delta)

    def test_with_fixed_spreads_is_the_same_for_all_members_of_a_class(self) -> None:
        delta = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
        labels = torch.arange(12) % 3
        (fixed,) = torch.autograd.grad(csd(delta, labels, "fixed"), delta)
        (moving,) = torch.autograd.grad(csd(delta, labels), delta)
        for k in range(3):
            assert torch.allclose(fixed[labels == k], fixed[labels == k][:1])
            assert not torch.allclose(moving[labels == k], moving[labels == k][:1])

    def test_is_finite_where_all_noise_is_zero(self) -> None:
        delta = torch.zeros(6, 3, 2, 2, requires_grad=True)
        value = csd(delta, torch.arange(6) % 2)
        (gradient,) = torch.autograd.grad(value, delta)
        assert torch.isfinite(gradient).all() and torch.isfinite(value)


class TestBatches:
    def test_of_one_class_has_no_gradient(self) -> None:
        delta = torch.randn(4, 3, 2, 2, requires_grad=True)
        value = csd(delta, torch.full((4,), 7))
        (gradient,) = torch.autograd.grad(value, delta)
        assert value == 0 and (gradient == 0).all()

    def test_of_one_image_a_class(self) -> None:
        assert math.isfinite(float(csd(torch.randn(5, 4), torch.arange(5))))

    def test_in_half_precision_stays_finite(self) -> None:
        delta = torch.randn(8, 3, 4, 4).to(torch.bfloat16)
        assert torch.isfinite(csd(delta, torch.arange(8) % 2))

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_on_a_gpu(self) -> None:
        delta, labels = torch.randn(40, 3, 8, 8), torch.arange(40) % 5
        there = csd(delta.cuda(), labels.cuda())
        assert float(there) == pytest.approx(float(csd(delta, labels)), rel=1e-4)

    @pytest.mark.parametrize("shape", [(5, 3, 2, 2), (4,)])
    def test_that_do_not_fit(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="noise of shape"):
            csd(torch.zeros(shape), torch.zeros(4, dtype=torch.int64))

    def test_unknown_spread(self) -> None:
        with pytest.raises(ValueError, match="moving"):
            csd(torch.zeros(2, 2), torch.arange(2), "released")


class TestMisplaced:
    def test_of_noise_that_knows_nothing(self) -> None:
        """Fewer members than values: each would lie nearest to a mean that holds itself."""
        noise = torch.randn(400, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        assert 0.65 < misplaced_rows(noise, torch.arange(400) % 4).float().mean() < 0.85

    def test_equals_the_plain_one(self) -> None:
        generator = torch.Generator().manual_seed(1)
        labels = torch.randint(4, (30,), generator=generator)
        noise = torch.randn(30, 6, generator=generator, dtype=torch.float64) + labels[:, None]
        wrong = []
        for i in range(30):
            far = {}
            for k in labels.unique().tolist():
                others = [j for j in range(30) if j != i and labels[j] == k]
                far[k] = (noise[others].mean(0) - noise[i]).norm() if others else math.inf
            wrong.append(min(far, key=far.__getitem__) != int(labels[i]))
        assert misplaced_rows(noise, labels).tolist() == wrong

    def test_one_alone_in_its_class_is_misplaced(self) -> None:
        delta = torch.tensor([[0.0], [0.1], [9.0]])
        assert misplaced_rows(delta, torch.tensor([0, 0, 1])).tolist() == [False, False, True]

    def test_images_without_noise_are_one_more_class(self) -> None:
        """However many classes they are of; and they themselves do not count."""
        pixels, labels = torch.zeros(12, 3, 4, 4, dtype=torch.uint8), torch.arange(12) % 3
        noise = SampleWise(ImageSet(pixels, labels, tuple("abc"), "drawn"), 3, only=(1,))
        noise.delta[noise.rows] = 8 / 255
        assert misplaced(noise) == 0
        noise.delta[noise.rows[0]] = 0
        assert misplaced(noise) == pytest.approx(1 / len(noise.rows))
