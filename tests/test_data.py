"""Image sets: what is accepted, drawn, chosen and found by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import random_images
from ulelib import data, shapes
from ulelib.data import DataUnavailable, ImageSet

LUMA = torch.tensor([0.299, 0.587, 0.114])
# --- ImageSet ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2).long(), "float32.*expected uint8"),
        (torch.zeros(2, 4, 4, 3).byte(), torch.zeros(2).long(), r"\(N, 3, H, W\)"),
        (torch.zeros(3, 4, 4).byte(), torch.zeros(3).long(), r"\(N, 3, H, W\)"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.zeros(3).long(), r"shape \(2,\)"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.zeros(2), "expected int64"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.tensor([0, 2]), r"must lie in 0\.\.1"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.tensor([-1, 0]), "from -1 to 0"),
        (torch.zeros(0, 3, 4, 4).byte(), torch.zeros(0).long(), "no images"),
    ],
)
def test_other_shapes_types_and_labels_are_refused(
    images: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ImageSet(images, labels, ("a", "b"), "some")


def test_selected_images_keep_their_labels_and_the_given_order() -> None:
    whole = random_images()
    part = whole.select(torch.tensor([5, 1]))
    assert len(part) == 2
    assert torch.equal(part.images, whole.images[[5, 1]])
    assert part.labels.tolist() == [2, 1]
    assert (part.classes, part.name) == (whole.classes, whole.name)


def test_the_fingerprint_tells_pixels_labels_and_shape_apart() -> None:
    whole = random_images(24, 16)
    pixels, labels = whole.images.clone(), whole.labels.clone()
    same = ImageSet(pixels.clone(), labels.clone(), whole.classes, "another name")
    assert same.fingerprint == whole.fingerprint
    assert len(whole.fingerprint) == 16
    pixels[0, 0, 0, 0] ^= 1
    labels[0] = 1
    others = [
        ImageSet(pixels, whole.labels, whole.classes, "one bit"),
        ImageSet(whole.images, labels, whole.classes, "one label"),
        ImageSet(whole.images.view(24, 3, 8, 32), whole.labels, whole.classes, "shape"),
        whole.select(torch.arange(24).flip(0)),
    ]
    assert len({whole.fingerprint, *(other.fingerprint for other in others)}) == 5


# --- subsets and mixtures ------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_a_subset_has_every_class_share_within_one(
    counts: list[int], fraction: float, seed: int
) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    total = len(labels)
    # The first pixel numbers the image, so that a picture drawn twice would be seen.
    images = torch.arange(total).byte().view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    whole = ImageSet(images, labels, tuple(map(str, range(len(counts)))), "numbered")
    n = max(1, round(fraction * total))
    subset = data.stratified_subset(whole, n, seed)
    drawn = subset.images[:, 0, 0, 0].long()
    assert len(drawn.unique()) == n
    assert torch.equal(subset.labels, labels[drawn])
    shares = torch.tensor(counts) * n / total
    got = torch.bincount(subset.labels, minlength=len(counts))
    assert ((got - shares).abs() < 1).all()


def test_largest_remainders_get_the_images_that_are_left() -> None:
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    whole = ImageSet(torch.zeros(10, 3, 2, 2).byte(), labels, ("a", "b", "c"), "unequal")
    # Shares of 4 are 2.0, 1.2 and 0.8.
    assert torch.bincount(data.stratified_subset(whole, 4, 0).labels).tolist() == [2, 1, 1]


def test_a_subset_depends_on_its_seed_and_on_nothing_else() -> None:
    whole = random_images(60)
    first = data.stratified_subset(whole, 30, 1)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert data.stratified_subset(whole, 30, 1).fingerprint == first.fingerprint
    assert torch.equal(torch.get_rng_state(), state)
    assert data.stratified_subset(whole, 30, 2).fingerprint != first.fingerprint
    assert not torch.equal(first.labels, first.labels.sort().values)


@pytest.mark.parametrize("n", [0, -1, 25])
def test_a_subset_of_impossible_size_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"subset of {n} from 24 images"):
        data.stratified_subset(random_images(24), n, 0)


def test_a_mixture_is_one_set_behind_the_other() -> None:
    first, second = random_images(4, seed=0, name="a"), random_images(6, seed=1, name="b")
    mixed = data.mix(first, second)
    assert torch.equal(mixed.images, torch.cat([first.images, second.images]))
    assert torch.equal(mixed.labels, torch.cat([first.labels, second.labels]))
    with pytest.raises(ValueError, match="same classes"):
        data.mix(first, random_images(classes=4))
    with pytest.raises(ValueError, match="same size"):
        data.mix(first, random_images(size=8))


# --- shapes --------------------------------------------------------------------------------------


def test_shapes_are_balanced_and_the_same_every_time() -> None:
    train, test = data.load("shapes", "train"), data.load("shapes", "test")
    assert (len(train), len(test)) == (4000, 1000)
    assert train.images.shape[1:] == (3, 32, 32)
    assert torch.bincount(train.labels).tolist() == [400] * 10
    assert torch.bincount(test.labels).tolist() == [100] * 10
    again = shapes.draw(4000, 0)
    assert torch.equal(again[0], train.images) and torch.equal(again[1], train.labels)
    assert not torch.equal(shapes.draw(4000, 1)[0], train.images)


def test_shapes_do_not_touch_the_global_generator() -> None:
    state = torch.get_rng_state()
    shapes.draw(20, 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_shapes_are_colourful_and_their_colours_say_nothing_about_the_class() -> None:
    drawn = data.load("shapes", "train")
    mean = drawn.images.float().mean((2, 3))  # (N, RGB)
    assert (mean.max(1).values - mean.min(1).values).mean() > 20
    centre = torch.stack([mean[drawn.labels == label].mean(0) for label in range(10)])
    # 400 images a class, whose mean colours spread by about 20: the mean's error is about 1.
    assert (centre - mean.mean(0)).abs().max() < 5


def test_every_shape_differs_from_its_ground_in_gray() -> None:
    """Drawn without clutter: the figure itself, whatever its colours, is seen in luminance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "CLUTTER", 0.0)
        images, _ = shapes.draw(500, 0)
    gray = (images / 255 * LUMA.view(1, 3, 1, 1)).sum(1).flatten(1)
    low, high = gray.quantile(torch.tensor([0.04, 0.96]), dim=1)
    assert (high - low).min() > 0.02
    assert 0.08 < (high - low).mean() < 0.25  # and yet faint, against noise of 8/255 = 0.03


def test_less_than_one_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        shapes.draw(0, 0)


# --- folders by name -----------------------------------------------------------------------------


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), (shade, shade, shade)).save(path)


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`pets/{train,val}/{cat,dog}` in ULELIB_DATA."""
    monkeypatch.setenv("ULELIB_DATA", str(tmp_path))
    for shade, part in enumerate(("train/cat", "train/dog", "val/cat", "val/dog")):
        picture(tmp_path / "pets" / part / "a.png", shade)
    return tmp_path / "pets"


def test_a_folder_is_a_data_set_by_its_name_or_path(pets: Path) -> None:
    train, test = data.load("pets", "train"), data.load("pets", "test", size=20)
    assert train.images.shape == (2, 3, 32, 32) and test.images.shape == (2, 3, 20, 20)
    assert train.classes == test.classes == ("cat", "dog") and train.name == "pets"
    assert train.images[:, 0, 0, 0].tolist() == [0, 1] and test.images[0, 0, 0, 0] == 2
    assert data.load(str(pets), "train").fingerprint == train.fingerprint
    assert data.is_available("pets") and not data.is_available("birds")
    assert data.load("pets/train", "train").fingerprint == train.fingerprint


def test_a_folder_without_test_images_says_so(pets: Path) -> None:
    with pytest.raises(DataUnavailable, match="no folder test or val with test images"):
        data.load("pets/train", "test")


def test_test_images_of_other_classes_are_refused(pets: Path) -> None:
    picture(pets / "val" / "cow" / "a.png", 9)
    with pytest.raises(ValueError, match="classes cat, dog, test images cat, cow, dog"):
        data.load("pets", "test")


def test_unknown_names_splits_and_sizes_are_refused(pets: Path) -> None:
    with pytest.raises(DataUnavailable, match=r"data set 'mnist' is none of .*'cifar10'.* folder"):
        data.load("mnist", "train")
    with pytest.raises(ValueError, match="split 'val'; choose from"):
        data.load("cifar10", "val")
    with pytest.raises(ValueError, match="are 32x32; a size of 64"):
        data.load("shapes", "train", size=64)
    assert data.load("shapes", "test", size=32).images.shape[2:] == (32, 32)


def test_what_is_no_set_of_images_is_refused() -> None:
    images = random_images(4)
    with pytest.raises(ValueError, match="must be torch tensors"):
        ImageSet(images.images.numpy(), images.labels, images.classes, "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two classes have the same name"):
        ImageSet(images.images, images.labels, ("a", "b", "a"), "x")


@pytest.mark.parametrize("size", [0, True, 32.0, "32", 5000])
def test_sizes_are_whole_numbers(tmp_path: Path, size: Any) -> None:
    with pytest.raises(ValueError, match="size is"):
        data.image_folder(tmp_path, size)


def test_one_class_is_nothing_to_learn() -> None:
    with pytest.raises(ValueError, match=r"all 4 images of noise are of one class.*two folders"):
        data.check_classes(random_images(4, classes=1))
