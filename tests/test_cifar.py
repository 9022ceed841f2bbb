"""CIFAR files: what is read, cached, downloaded and refused."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import threading
import time
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from ulelib import cifar, data
from ulelib.data import DataUnavailable

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


def arrays(n: int = 12, seed: int = 0, classes: int = 10) -> Arrays:
    rng = np.random.default_rng(seed)
    found: Arrays = {}
    for split in cifar.SPLITS:
        images = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        # In the order that reading brings about, so that what is read equals what was written.
        order = sorted(range(n), key=lambda i: hashlib.sha256(images[i].tobytes()).digest())
        found[f"x_{split}"] = images[order]
        found[f"y_{split}"] = rng.permutation(np.arange(n) % classes)
    return found


def write(path: Path, content: Arrays) -> Path:
    np.savez(path, **content)
    return path


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


def test_rows_in_the_official_order_are_found(folders: tuple[Path, Path]) -> None:
    source, content = folders[0], arrays(20)
    content["y_train"] = np.array([*cifar.FIRST_LABELS, *range(10)])
    content["x_train"] = content["x_train"][::-1].copy()  # no longer in our own order
    write(source / "cifar10.npz", content)
    rows, loaded = cifar.rows_in_file("cifar10", "train"), data.load("cifar10", "train")
    assert torch.equal(torch.from_numpy(content["x_train"])[rows], loaded.images)
    assert torch.equal(torch.from_numpy(content["y_train"])[rows], loaded.labels)
    content["y_train"] = content["y_train"][::-1].copy()
    write(source / "cifar10.npz", content)
    with pytest.raises(cifar.NotOfficial, match="cifar10.npz holds its images in another order"):
        cifar.rows_in_file("cifar10", "train")
    with pytest.raises(cifar.NotOfficial, match="CIFAR-10's training images alone"):
        cifar.rows_in_file("cifar100", "train")
    (source / "cifar10.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot be read"):
        cifar.rows_in_file("cifar10", "train")


def test_cifar_is_read_from_the_data_folder(folders: tuple[Path, Path]) -> None:
    content = arrays()
    write(folders[0] / "cifar10.npz", content)
    hundred = arrays(100, classes=100)
    write(folders[0] / "cifar100_mini.npz", hundred)
    for split in cifar.SPLITS:
        found = data.load("cifar10", split, download=False)
        assert np.array_equal(found.images.numpy(), content[f"x_{split}"])
        assert np.array_equal(found.labels.numpy(), content[f"y_{split}"])
        assert (found.name, found.classes) == ("cifar10", cifar.CIFAR10_CLASSES)
    mini = data.load("cifar100", "test", download=False)
    assert mini.name == "cifar100_mini"
    assert len(mini.classes) == 100
    folders[1].mkdir(exist_ok=True)
    fetched = folders[1] / "cifar100.npz"  # the whole set, once downloaded, comes first
    write(fetched, hundred)
    assert data.load("cifar100", "test", download=False).name == "cifar100"
    fetched.unlink()
    write(folders[0] / "cifar100.npz", hundred)
    assert data.load("cifar100", "test", download=False).name == "cifar100"


def test_cifar100_has_its_hundred_classes_in_alphabetical_order() -> None:
    assert len(set(cifar.CIFAR100_CLASSES)) == 100
    assert list(cifar.CIFAR100_CLASSES) == sorted(cifar.CIFAR100_CLASSES)


def test_the_second_load_does_not_open_the_source(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folders[0] / "cifar10.npz", arrays())
    first = data.load("cifar10", "train")

    def fail(*_: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(cifar, "_parse", fail)
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
@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "garbage", "shape", "gone", "bit"])
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
            {
                "cut": content[:-7],
                "longer": content + b"\0",
                "empty": b"",
                "garbage": b"x" * 900,
                "bit": content[:-1] + bytes([content[-1] ^ 1]),
            }[damage]
        )
    assert data.load("cifar10", "train").fingerprint == whole
    assert file.read_bytes() == content


def test_those_who_load_at_once_parse_once(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folders[0] / "cifar10.npz", arrays())
    parse, calls = cifar._parse, []

    def slow(*arguments: object) -> object:
        calls.append(arguments)
        time.sleep(0.2)
        return parse(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cifar, "_parse", slow)
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
        ({"x_train": np.zeros((0, 3, 32, 32), np.uint8)}, r"shape of \(0, 3"),
        ({"x_train": np.zeros((50_001, 1), np.uint8)}, r"declares a shape of \(50001, 1\)"),
        ({"y_train": np.zeros(12, np.float64)}, "y_train is float64"),
        ({"y_train": np.zeros(11, np.int64)}, r"expected int64 of shape \(12,\)"),
        ({"y_train": np.full(12, 3)}, r"train has no images of 9 classes, \[0, 1, 2, 4, 5\]"),
        ({"y_train": np.full(12, 10)}, r"y_train runs from 10 to 10; expected labels in 0\.\.9"),
        ({"y_train": np.full(12, -1)}, "y_train runs from -1"),
        ({"y_train": None}, "There is no item named 'y_train.npy' in the archive"),
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


def test_declared_terabytes_cost_no_memory(folders: tuple[Path, Path]) -> None:
    """A header of some bytes, no data behind it: refused before an array is made."""
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (40000000000, 3, 32, 32), }"
    header = header.ljust(117) + "\n"
    with zipfile.ZipFile(folders[0] / "cifar10.npz", "w") as archive:
        for name in ("x_train.npy", "y_train.npy"):
            archive.writestr(name, b"\x93NUMPY\x01\x00\x76\x00" + header.encode())
    with pytest.raises(ValueError, match=r"declares a shape of \(40000000000, 3"):
        data.load("cifar10", "train")


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
    assert cifar._download("cifar10", folders[1] / "cifar10.npz") == ""
    assert FakeCifar.made == 2  # another process had fetched it: nothing is fetched again
    leftovers = {file.name for file in folders[1].iterdir() if file.is_file()}
    assert leftovers <= {"cifar10.npz", "cifar10.npz.lock"}


def test_a_failed_download_leaves_nothing_and_restores_the_timeout(
    folders: tuple[Path, Path], no_network: None
) -> None:
    before = socket.getdefaulttimeout()
    assert cifar._download("cifar10", folders[1] / "cifar10.npz")
    assert socket.getdefaulttimeout() == before
    assert {file.name for file in folders[1].iterdir()} <= {"cifar10.npz.lock"}


@pytest.mark.skipif(not os.environ.get("ULELIB_DATA"), reason="ULELIB_DATA is not set")
def test_the_real_cifar10_has_the_official_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not data.is_available("cifar10", download=False):
        pytest.skip("there is no cifar10.npz in ULELIB_DATA")
    monkeypatch.setenv("ULELIB_CACHE", str(tmp_path))
    test = data.load("cifar10", "test")
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    mean = test.images.view(10000, 3, -1).double().mean((0, 2)) / 255
    assert mean.tolist() == pytest.approx([0.4942, 0.4851, 0.4504], abs=1e-3)
