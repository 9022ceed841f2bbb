"""Released poisons: told from each other, and every row finds its image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import random_images
from ulelib import cifar, data, released
from ulelib.data import ImageSet
from ulelib.defenders import Random
from ulelib.jobs import records
from ulelib.patterns import LinearlySeparable
from ulelib.perturbation import Perturbation
from ulelib.released import Released, class_share, fitted, places, release
from ulelib.settings import described, key_of, read
from ulelib.shortcuts import ClassConvolution
from ulelib.specs import Data, Noise

WHOLE = data.load("shapes", "train").select(torch.arange(600))
PART = data.stratified_subset(WHOLE, 200, seed=0)
EPSILON = 8 / 255
NOISE = Random(EPSILON).make(WHOLE, 0, "float32")  # for all of them
PUBLISHED = NOISE.apply(WHOLE).images


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 training images."""
    monkeypatch.setattr(data, "load", lambda name, split, **_: WHOLE)


def npz(at: Path, **arrays: Any) -> Path:
    np.savez(at / "poison.npz", **{name: np.asarray(one) for name, one in arrays.items()})
    return at / "poison.npz"


def fit(path: Path, images: ImageSet, name: str = "shapes") -> tuple[Perturbation, str]:
    found = fitted(release(path, images, name), images, name)
    return found.noise, found.order


def expected(images: ImageSet) -> torch.Tensor:
    """What these images look like with their noise."""
    return PUBLISHED[places(images, WHOLE)]


UNITS: dict[str, Callable[[], torch.Tensor]] = {
    "float": lambda: NOISE.delta,
    "gray levels": lambda: 255 * NOISE.delta,
    "whole gray levels": lambda: (255 * NOISE.delta).round().to(torch.int8),
    "doubles": lambda: NOISE.delta.double(),
    "halves": lambda: NOISE.delta.half(),
    "by pixels": lambda: NOISE.delta.permute(0, 2, 3, 1),
}


class TestKinds:
    @pytest.mark.parametrize("make", UNITS.values(), ids=UNITS)
    def test_noise_of_any_unit(self, make: Callable[[], torch.Tensor], tmp_path: Path) -> None:
        noise, _ = fit(npz(tmp_path, data=make()), WHOLE)
        assert noise.kind == "sample_wise" and noise.epsilon == pytest.approx(EPSILON)
        moved = noise.apply(WHOLE).images.int() - PUBLISHED.int()
        assert moved.abs().max() <= 1 and (moved != 0).double().mean() < 0.01  # half precision

    @pytest.mark.parametrize("unit", [1.0, 255.0])
    def test_pictures_as_fractions(self, unit: float, tmp_path: Path) -> None:
        pictures = PUBLISHED.float() / 255 * unit
        found = release(npz(tmp_path, data=pictures), WHOLE, "shapes")
        assert found.kind == "pictures" and torch.equal(found.values, PUBLISHED)

    def test_noise_of_one_sign_is_noise(self, tmp_path: Path) -> None:
        found = release(npz(tmp_path, data=NOISE.delta.abs()), WHOLE, "shapes")
        assert found.kind == "noise" and "units of the pixel range" in found.taken_for

    def test_one_noise_a_class(self, tmp_path: Path) -> None:
        classes = Random(EPSILON, "class").make(WHOLE, 0, "float32")
        noise, order = fit(npz(tmp_path, data=classes.delta), PART)
        assert noise.kind == "class_wise" and order == "one noise a class"
        assert torch.equal(noise.delta, classes.delta) and class_share(noise, PART) == 1

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: NOISE.delta * torch.nan, "not finite"),
            (lambda: (PUBLISHED.float() / 255 - 0.45) / 0.25, "normalised pictures"),
            (lambda: random_images(600, 32).images / 127.5 - 1, "too much for noise"),
            (lambda: 300 * NOISE.delta.double() * 255, "beyond 255 gray levels"),
            (lambda: torch.zeros(600, 3, 32, 32), "all of its values are 0"),
            (lambda: NOISE.delta / 100, "below half a gray level"),
            (lambda: PUBLISHED[:10], "10 pictures, one a class"),
        ],
    )
    def test_what_is_neither_is_named(
        self, make: Callable[[], torch.Tensor], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=f"poison.npz cannot be taken: .*{message}"):
            release(npz(tmp_path, data=make()), WHOLE, "shapes")


class TestPictures:
    def test_in_the_order_of_all_images(self, tmp_path: Path) -> None:
        noise, order = fit(npz(tmp_path, data=PUBLISHED), PART)
        assert order.startswith("the order of all 600 images")
        assert torch.equal(noise.apply(PART).images, expected(PART))
        noise, order = fit(npz(tmp_path, data=PUBLISHED, targets=WHOLE.labels), WHOLE)
        assert order.startswith("the order of the images")
        assert torch.equal(noise.apply(WHOLE).images, PUBLISHED)  # to the bit

    def test_in_the_order_of_the_part(self, tmp_path: Path) -> None:
        noise, order = fit(npz(tmp_path, data=expected(PART)), PART)
        assert order.startswith("the order of the images")
        assert torch.equal(noise.apply(PART).images, expected(PART))

    @pytest.mark.parametrize(
        "method", [Random(EPSILON), LinearlySeparable(), ClassConvolution()], ids=str
    )
    def test_in_any_order_they_are_found(self, method: Any, tmp_path: Path) -> None:
        published = method.make(WHOLE, 0, "float32").apply(WHOLE).images
        order = torch.randperm(600, generator=torch.Generator().manual_seed(1))
        path = npz(tmp_path, data=published[order], targets=WHOLE.labels[order])
        noise, said = fit(path, PART)
        assert "found by its content" in said
        made = noise.apply(PART).images
        right = (made == published[places(PART, WHOLE)]).flatten(1).all(1)
        assert right.double().mean() >= (1 if noise.epsilon < 17 / 255 else 0.97)

    def test_equal_images_have_one_picture_each(self, tmp_path: Path) -> None:
        """Every image twice, its two pictures with noise of their own."""
        twice = WHOLE.select(torch.arange(50).repeat(2))
        published = Random(EPSILON).make(twice, 0, "float32").apply(twice).images
        assert places(twice, twice).tolist() == [*range(100)]
        path = npz(tmp_path, data=published.flip(0))
        found = released.release(path, twice, "shapes")
        rows, lost = released._by_content(found.values, twice.images, plain=True)
        assert lost == 0 and sorted(rows.tolist()) == [*range(100)]

    @pytest.mark.parametrize("count", [200, 600])
    def test_of_other_images_are_refused(self, count: int, tmp_path: Path) -> None:
        others = random_images(count, size=32).images
        with pytest.raises(
            ValueError, match="poison.npz cannot .* other images, or the order is wrong"
        ):
            fit(npz(tmp_path, data=others), PART)

    def test_with_labels_of_another_order_are_refused(self, tmp_path: Path) -> None:
        path = npz(tmp_path, data=PUBLISHED, targets=WHOLE.labels.roll(1))
        with pytest.raises(ValueError, match="its labels are not those"):
            fit(path, PART)

    def test_a_part_in_another_order_is_noticed(self, tmp_path: Path) -> None:
        """Five of a hundred stand in each other's place."""
        order = torch.arange(600)
        order[:30] = order[:30].roll(1)
        noise, said = fit(npz(tmp_path, data=PUBLISHED[order]), WHOLE)
        assert "found by its content" in said
        assert torch.equal(noise.apply(WHOLE).images, PUBLISHED)

    def test_clean_images_are_no_poison(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no noise in them"):
            fit(npz(tmp_path, data=WHOLE.images), WHOLE)


class TestNoise:
    def test_of_all_images_or_of_the_part(self, tmp_path: Path) -> None:
        mine = NOISE.delta[places(PART, WHOLE)]
        for delta, order in ((NOISE.delta, "all 600 images"), (mine, "the images")):
            noise, said = fit(npz(tmp_path, data=delta), PART)
            assert torch.equal(noise.delta, mine) and f"the order of {order}, assumed" in said

    def test_labels_show_the_order(self, tmp_path: Path) -> None:
        _, said = fit(npz(tmp_path, data=NOISE.delta, targets=WHOLE.labels), PART)
        assert said == "the order of all 600 images, as its labels show"
        with pytest.raises(ValueError, match="the order is wrong"):
            fit(npz(tmp_path, data=NOISE.delta, targets=WHOLE.labels.roll(1)), PART)

    def test_images_that_the_set_lacks_are_named(self) -> None:
        with pytest.raises(ValueError, match="has images that shapes lacks"):
            places(random_images(3, size=32, classes=10), WHOLE)


class TestOfficialOrder:
    """Of CIFAR-10, whose images the library has in another order than the official one."""

    ORDER = torch.randperm(600, generator=torch.Generator().manual_seed(2))  # of the file's rows

    @pytest.fixture
    def official(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cifar, "rows_in_file", lambda name, split: self.ORDER.argsort())

    @pytest.fixture
    def not_official(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(name: str, split: str) -> torch.Tensor:
            raise cifar.NotOfficial("cifar10.npz has another order")

        monkeypatch.setattr(cifar, "rows_in_file", refuse)

    @pytest.mark.parametrize("images", [PART, WHOLE], ids=["part", "whole"])
    def test_is_that_of_an_authors_file(
        self, images: ImageSet, official: None, tmp_path: Path
    ) -> None:
        for one in (NOISE.delta, PUBLISHED):
            noise, said = fit(npz(tmp_path, data=one[self.ORDER]), images, "cifar10")
            assert "the official order" in said
            assert torch.equal(noise.apply(images).images, expected(images))

    def test_noise_needs_it(self, not_official: None, tmp_path: Path) -> None:
        path = npz(tmp_path, data=NOISE.delta)
        for images in (PART, WHOLE):
            with pytest.raises(ValueError, match="not known: cifar10.npz has another order"):
                fit(path, images, "cifar10")
        # Unless its labels prove that it stands in our own order.
        _, said = fit(npz(tmp_path, data=NOISE.delta, labels=WHOLE.labels), PART, "cifar10")
        assert said == "the order of all 600 images, as its labels show"

    def test_pictures_do_not(self, not_official: None, tmp_path: Path) -> None:
        noise, said = fit(npz(tmp_path, data=PUBLISHED[self.ORDER]), PART, "cifar10")
        assert "found by its content" in said
        assert torch.equal(noise.apply(PART).images, expected(PART))


class TestReleased:
    """As a method."""

    def test_key_is_of_the_content_alone(self, tmp_path: Path) -> None:
        found = release(npz(tmp_path, data=PUBLISHED), WHOLE, "shapes")
        torch.save(PUBLISHED.float() / 255, tmp_path / "poison.pt")
        again = release(tmp_path / "poison.pt", WHOLE, "shapes")
        assert found.sha256 == again.sha256
        here, there = (Released(file, found.sha256, "shapes") for file in ("a.npz", "/b/c.npz"))
        assert key_of(here) == key_of(there) != key_of(dataclasses.replace(here, sha256="0" * 64))
        noise = Noise(Data("shapes"), here)
        assert read(described(noise), records.SPECS) == noise

    def test_refuses_another_file(self, tmp_path: Path) -> None:
        path = npz(tmp_path, data=PUBLISHED)
        method = Released(str(path), release(path, WHOLE, "shapes").sha256, "shapes")
        noise = method.make(PART, 3, "float32", network=None, report=print)
        assert torch.equal(noise.apply(PART).images, expected(PART))
        npz(tmp_path, data=NOISE.delta)
        with pytest.raises(ValueError, match="is another file"):
            method.make(PART, 3, "float32")
        path.unlink()
        with pytest.raises(OSError, match="poison.npz"):
            method.make(PART, 3, "float32")

    def test_digest_is_one(self) -> None:
        with pytest.raises(ValueError, match="Released.sha256"):
            Released("a.npz", "abc")


def test_class_share_tells_noise_of_classes_from_noise_of_images() -> None:
    assert class_share(NOISE, WHOLE) < 0.05
    classes = Random(EPSILON, "class").make(WHOLE, 0, "float32")
    single = dataclasses.replace(
        classes, delta=classes.of(WHOLE, torch.arange(600)).contiguous(), kind="sample_wise"
    )
    assert class_share(single, WHOLE) == pytest.approx(1, abs=1e-5)
