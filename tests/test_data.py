"""Image sets: what is accepted, what is drawn, what is cached, and what is said when it fails."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import threading
import time
import urllib.error
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets
from torchvision.transforms import v2

from helpers import random_images
from ulelib import data
from ulelib.data import DataUnavailable, ImageSet

LUMA = torch.tensor([0.299, 0.587, 0.114])
Arrays = dict[str, np.ndarray]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Empty folders for the data and for the cache, set in the environment."""
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    monkeypatch.setenv("ULELIB_DATA", str(source))
    monkeypatch.setenv("ULELIB_CACHE", str(cache))
    return source, cache


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's downloads fail as they do without a network."""

    def fail(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(datasets, "CIFAR10", fail)
    monkeypatch.setattr(datasets, "CIFAR100", fail)


def arrays(n: int = 12, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    found: Arrays = {}
    for split in data.SPLITS:
        images = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        # In the order that reading brings about, so that what is read equals what was written.
        order = sorted(range(n), key=lambda i: hashlib.sha256(images[i].tobytes()).digest())
        found[f"x_{split}"] = images[order]
        found[f"y_{split}"] = rng.integers(0, 10, n)
    return found


def write(path: Path, content: Arrays) -> Path:
    np.savez(path, **content)
    return path


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
    assert data.shapes("train").fingerprint == train.fingerprint
    assert data.shapes("test", 4000).fingerprint != train.fingerprint


def test_shapes_do_not_touch_the_global_generator() -> None:
    state = torch.get_rng_state()
    data.shapes("test", 20)
    assert torch.equal(torch.get_rng_state(), state)


def test_shapes_are_colourful_and_their_colours_say_nothing_about_the_class() -> None:
    drawn = data.shapes("train")
    mean = drawn.images.float().mean((2, 3))  # (N, RGB)
    assert (mean.max(1).values - mean.min(1).values).mean() > 20
    centre = torch.stack([mean[drawn.labels == label].mean(0) for label in range(10)])
    # 400 images a class, whose mean colours spread by about 20: the mean's error is about 1.
    assert (centre - mean.mean(0)).abs().max() < 5


def test_every_shape_stands_out_in_gray() -> None:
    drawn = data.shapes("train")
    gray = (drawn.images / 255 * LUMA.view(1, 3, 1, 1)).sum(1).flatten(1)
    low, high = gray.quantile(torch.tensor([0.04, 0.96]), dim=1)
    clutter = 0.025 / 3**0.5 * LUMA.norm()  # in gray, its standard deviation at most
    assert (high - low).min() > 3 * clutter
    assert 0.06 < (high - low).mean() < 0.12  # and yet faint, against noise of 8/255 = 0.03


@pytest.mark.parametrize(("split", "n"), [("val", None), ("train", 0), ("test", -5)])
def test_shapes_out_of_range_are_refused(split: str, n: int | None) -> None:
    with pytest.raises(ValueError, match=r"choose from|at least 1"):
        data.shapes(split, n)


# --- image folders -------------------------------------------------------------------------------


def picture(path: Path, size: tuple[int, int], seed: int = 0, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_a_folder_gives_the_pixels_that_torchvision_gives(tmp_path: Path) -> None:
    files = [
        picture(tmp_path / "ant" / "b.jpg", (50, 37)),
        picture(tmp_path / "ant" / "c.PNG", (33, 70), 1),
        picture(tmp_path / "bee" / "a.png", (16, 16), 2, "L"),
        picture(tmp_path / "bee" / "d.png", (45, 32), 3, "RGBA"),
        picture(tmp_path / "bee" / "e.png", (61, 40), 4, "P"),
    ]
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "ant" / "._b.jpg").write_bytes(b"left behind by an archive")
    (tmp_path / "ant" / "notes.txt").write_text("no picture")
    found = data.image_folder(tmp_path)
    assert found.classes == ("ant", "bee")
    assert found.labels.tolist() == [0, 0, 1, 1, 1]
    assert found.name == tmp_path.name
    expected = v2.Compose([v2.Resize(32), v2.CenterCrop(32), v2.PILToTensor()])
    for file, image in zip(files, found.images, strict=True):
        assert torch.equal(image, expected(Image.open(file).convert("RGB"))), file.name
    assert data.image_folder(tmp_path, 20).images.shape == (5, 3, 20, 20)


def test_saved_pictures_are_read_back_as_they_were(tmp_path: Path) -> None:
    drawn = data.shapes("test", 30)
    data.save_folder(drawn, tmp_path / "protected")
    found = data.image_folder(tmp_path / "protected")
    order = (drawn.labels * 100 + torch.arange(30)).argsort()  # by class, then as they stood
    names = sorted(data.SHAPES_CLASSES)
    kept = [drawn.classes[label] for label in drawn.labels[order].tolist()]
    order = order[torch.tensor([names.index(name) for name in kept]).argsort(stable=True)]
    assert torch.equal(found.images, drawn.images[order])
    with pytest.raises(FileExistsError, match="is not empty"):
        data.save_folder(drawn, tmp_path / "protected")


def test_order_of_the_file_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULELIB_CACHE", str(tmp_path / "cache"))
    content = arrays(20)
    shuffled = {name: array[::-1].copy() for name, array in content.items()}
    prints = []
    for folder, part in (("one", content), ("other", shuffled)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "cifar10.npz", part)
        monkeypatch.setenv("ULELIB_DATA", str(tmp_path / folder))
        loaded = data.load("cifar10", "train")
        prints.append(loaded.fingerprint)
        before = {(i.tobytes(), y) for i, y in zip(part["x_train"], part["y_train"], strict=True)}
        pairs = zip(loaded.images.numpy(), loaded.labels.tolist(), strict=True)
        assert {(i.tobytes(), y) for i, y in pairs} == before
    assert prints[0] == prints[1]


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        data.image_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no classes"):
        data.image_folder(tmp_path)
    (tmp_path / "ant").mkdir()
    with pytest.raises(ValueError, match="ant holds no pictures"):
        data.image_folder(tmp_path)
    with pytest.raises(ValueError, match="size is 0"):
        data.image_folder(tmp_path, 0)


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    whole = picture(tmp_path / "ant" / "a.png", (40, 40))
    for name, content in (("cut.png", whole.read_bytes()[:2000]), ("text.jpg", b"no picture")):
        broken = whole.with_name(name)
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a picture"):
            data.image_folder(tmp_path)
        broken.unlink()
    assert len(data.image_folder(tmp_path)) == 1


def test_a_decompression_bomb_is_refused_and_the_filters_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(8):
        picture(tmp_path / "ant" / f"{index}.png", (20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = list(warnings.filters)
        with pytest.raises(ValueError, match=r"\d\.png cannot be read.*decompression bomb"):
            data.image_folder(tmp_path)
        assert warnings.filters == before


# --- CIFAR ---------------------------------------------------------------------------------------


def test_cifar_is_read_from_the_data_folder(folders: tuple[Path, Path]) -> None:
    content = arrays()
    write(folders[0] / "cifar10.npz", content)
    write(folders[0] / "cifar100_mini.npz", content)
    for split in data.SPLITS:
        found = data.load("cifar10", split, download=False)
        assert np.array_equal(found.images.numpy(), content[f"x_{split}"])
        assert np.array_equal(found.labels.numpy(), content[f"y_{split}"])
        assert (found.name, found.classes) == ("cifar10", data.CIFAR10_CLASSES)
    mini = data.load("cifar100", "test", download=False)
    assert mini.name == "cifar100_mini"
    assert len(mini.classes) == 100
    folders[1].mkdir(exist_ok=True)
    fetched = folders[1] / "cifar100.npz"  # the whole set, once downloaded, comes first
    write(fetched, content)
    assert data.load("cifar100", "test", download=False).name == "cifar100"
    fetched.unlink()
    write(folders[0] / "cifar100.npz", content)
    assert data.load("cifar100", "test", download=False).name == "cifar100"


def test_cifar100_has_its_hundred_classes_in_alphabetical_order() -> None:
    assert len(set(data.CIFAR100_CLASSES)) == 100
    assert list(data.CIFAR100_CLASSES) == sorted(data.CIFAR100_CLASSES)


def test_the_second_load_does_not_open_the_source(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folders[0] / "cifar10.npz", arrays())
    first = data.load("cifar10", "train")

    def fail(*_: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(data, "_parse", fail)
    assert data.load("cifar10", "train").fingerprint == first.fingerprint


def test_a_write_to_loaded_images_stays_out_of_the_cache(folders: tuple[Path, Path]) -> None:
    write(folders[0] / "cifar10.npz", arrays())
    loaded = data.load("cifar10", "train")
    before = loaded.images.clone()
    loaded.images.zero_()
    assert torch.equal(data.load("cifar10", "train").images, before)


def test_a_changed_source_is_parsed_anew(folders: tuple[Path, Path]) -> None:
    source = write(folders[0] / "cifar10.npz", arrays(seed=0))
    stat = source.stat()
    old = data.load("cifar10", "train").fingerprint
    write(source, arrays(seed=1))
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert source.stat().st_size == stat.st_size
    assert data.load("cifar10", "train").fingerprint != old


@pytest.mark.parametrize(("part", "key"), [("images", "x_train"), ("labels", "y_train")])
@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "garbage", "shape", "gone"])
def test_a_damaged_cache_is_built_again(
    folders: tuple[Path, Path], part: str, key: str, damage: str
) -> None:
    write(folders[0] / "cifar10.npz", arrays())
    whole = data.load("cifar10", "train").fingerprint
    (file,) = folders[1].glob(f"*/train_{part}.npy")
    content = file.read_bytes()
    file.unlink()  # a new file, because the old one is still mapped here
    if damage == "shape":
        np.save(file, arrays()[key][:5])
    elif damage != "gone":
        file.write_bytes(
            {"cut": content[:-7], "longer": content + b"\0", "empty": b"", "garbage": b"x" * 900}[
                damage
            ]
        )
    assert data.load("cifar10", "train").fingerprint == whole
    assert file.read_bytes() == content


def test_those_who_load_at_once_parse_once(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folders[0] / "cifar10.npz", arrays())
    parse, calls = data._parse, []

    def slow(*arguments: object) -> object:
        calls.append(arguments)
        time.sleep(0.2)
        return parse(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(data, "_parse", slow)
    prints: list[str] = []
    threads = [
        threading.Thread(target=lambda: prints.append(data.load("cifar10", "train").fingerprint))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(prints) == 4
    assert len(set(prints)) == 1


def test_a_full_disk_is_said_and_leaves_nothing_behind(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(folders[0] / "cifar10.npz", arrays())
    content = source.read_bytes()

    def full(stream: object, *_: object, **__: object) -> None:
        stream.write(b"a part")  # type: ignore[attr-defined]
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(OSError, match=r"No space left.*set ULELIB_CACHE") as caught:
            data.load("cifar10", "train")
    assert caught.value.errno == errno.ENOSPC
    assert [file.name for file in folders[1].glob("*/*")] in ([], [".lock"])
    assert source.read_bytes() == content
    assert len(data.load("cifar10", "train")) == 12


def test_a_cache_that_is_no_folder_is_said(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folders[0] / "cifar10.npz", arrays())
    monkeypatch.setenv("ULELIB_CACHE", str(folders[0] / "cifar10.npz"))
    with pytest.raises(OSError, match="set ULELIB_CACHE"):
        data.load("cifar10", "train")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_train": np.zeros((12, 32, 32, 3), np.uint8)}, r"x_train is uint8 of shape \(12, 32"),
        ({"x_train": np.zeros((12, 3, 32, 32), np.float32)}, "x_train is float32"),
        ({"x_train": np.zeros((12, 3, 64, 64), np.uint8)}, r"expected uint8 of shape \(N, 3, 32"),
        ({"x_train": np.zeros((0, 3, 32, 32), np.uint8)}, r"shape \(0, 3"),
        ({"y_train": np.zeros(12, np.float64)}, "y_train is float64"),
        ({"y_train": np.zeros(11, np.int64)}, r"expected int64 of shape \(12,\)"),
        ({"y_train": np.full(12, 10)}, r"y_train runs from 10 to 10; expected labels in 0\.\.9"),
        ({"y_train": np.full(12, -1)}, "y_train runs from -1"),
        ({"y_train": None}, "y_train is not a file in the archive"),
        ({"y_train": np.array([{}] * 12)}, "Object arrays cannot be loaded"),
    ],
)
def test_wrong_content_is_refused_by_name(
    folders: tuple[Path, Path], changed: dict[str, np.ndarray | None], message: str
) -> None:
    content = {key: value for key, value in (arrays() | changed).items() if value is not None}
    source = write(folders[0] / "cifar10.npz", content)
    before = source.read_bytes()
    with pytest.raises(ValueError, match=message) as caught:
        data.load("cifar10", "train")
    assert str(source) in str(caught.value)
    assert source.read_bytes() == before
    assert not list(folders[1].glob("*/*.npy"))


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "npy", "bits"])
def test_an_unreadable_file_is_refused_by_name(folders: tuple[Path, Path], damage: str) -> None:
    source = write(folders[0] / "cifar10.npz", arrays())
    content = source.read_bytes()
    if damage == "npy":
        with source.open("wb") as stream:
            np.save(stream, np.zeros(3))
    else:
        source.write_bytes(
            {
                "cut": content[: len(content) // 2],
                "empty": b"",
                "garbage": b"no archive" * 50,
                "bits": content[:5000] + b"\xff" * 500 + content[5500:],
            }[damage]
        )
    with pytest.raises(ValueError, match=r"cifar10\.npz cannot be read .*Fetch it again"):
        data.load("cifar10", "train")


def test_unknown_names_and_splits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data set 'mnist'; choose from .*cifar10"):
        data.load("mnist", "train")
    with pytest.raises(ValueError, match="split 'val'; choose from"):
        data.load("cifar10", "val")
    with pytest.raises(ValueError, match=r"data set 'mnist'; choose from .*cifar10"):
        data.is_available("mnist")


def test_missing_data_are_said_with_the_path_and_the_way_out(
    folders: tuple[Path, Path], no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = folders[0] / "cifar10.npz"
    with pytest.raises(DataUnavailable, match=r"no network here.*profile smoke") as caught:
        data.load("cifar10", "train")
    assert str(missing) in str(caught.value)
    with pytest.raises(DataUnavailable, match="downloading is switched off"):
        data.load("cifar10", "train", download=False)
    monkeypatch.delenv("ULELIB_DATA")
    with pytest.raises(DataUnavailable, match="ULELIB_DATA is not set"):
        data.load("cifar100", "train")


def test_what_is_available(folders: tuple[Path, Path], no_network: None) -> None:
    assert data.is_available("shapes", download=False)
    assert not data.is_available("cifar10", download=False)
    assert not data.is_available("cifar10", download=True)
    write(folders[0] / "cifar10.npz", arrays())
    assert data.is_available("cifar10", download=False)
    assert not data.is_available("cifar100", download=False)


class FakeCifar:
    """What torchvision's CIFAR classes hold after a download."""

    made = 0

    def __init__(self, root: str, train: bool, download: bool) -> None:
        assert download
        type(self).made += 1
        pixels = arrays(seed=int(train))
        self.data = pixels["x_train"].transpose(0, 2, 3, 1)
        self.targets = pixels["y_train"].tolist()


def test_a_download_is_kept(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCifar, "made", 0)
    monkeypatch.setattr(datasets, "CIFAR10", FakeCifar)
    assert data.is_available("cifar10")
    assert data.is_available("cifar10", download=False)
    found = data.load("cifar10", "train", download=False)
    assert np.array_equal(found.images.numpy(), arrays(seed=1)["x_train"])
    assert found.name == "cifar10"
    assert FakeCifar.made == 2  # train and test, once
    assert data._download("cifar10", folders[1] / "cifar10.npz") == ""
    assert FakeCifar.made == 2  # another process had fetched it: nothing is fetched again
    leftovers = {file.name for file in folders[1].iterdir() if file.is_file()}
    assert leftovers <= {"cifar10.npz", "cifar10.npz.lock"}


def test_a_failed_download_leaves_nothing_and_restores_the_timeout(
    folders: tuple[Path, Path], no_network: None
) -> None:
    before = socket.getdefaulttimeout()
    assert data._download("cifar10", folders[1] / "cifar10.npz")
    assert socket.getdefaulttimeout() == before
    assert {file.name for file in folders[1].iterdir()} <= {"cifar10.npz.lock"}


@pytest.mark.skipif(not os.environ.get("ULELIB_DATA"), reason="ULELIB_DATA is not set")
def test_the_real_cifar10_has_the_official_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not data.is_available("cifar10", download=False):
        pytest.skip("there is no cifar10.npz in ULELIB_DATA")
    monkeypatch.setenv("ULELIB_CACHE", str(tmp_path))
    data.load("cifar10", "test")
    start = time.perf_counter()
    test = data.load("cifar10", "test")
    assert time.perf_counter() - start < 1
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    mean = test.images.view(10000, 3, -1).double().mean((0, 2)) / 255
    assert mean.tolist() == pytest.approx([0.4942, 0.4851, 0.4504], abs=1e-3)
