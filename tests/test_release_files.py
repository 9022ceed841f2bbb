"""Authors' files: every format gives the same rows, and a hostile file runs and takes nothing."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import random_images
from ulelib.release_files import Wanted, read

IMAGES = random_images(12, size=16)
PIXELS, LABELS = IMAGES.images, IMAGES.labels
ROWS = PIXELS.permute(0, 2, 3, 1).numpy()  # (N, H, W, 3)
WANTED = Wanted((12, 3), (16, 16))


def png(row: np.ndarray[Any, Any], **options: Any) -> bytes:
    into = io.BytesIO()
    Image.fromarray(row).save(into, "PNG", **options)
    return into.getvalue()


def folder(path: Path, name: Callable[[int], str]) -> Path:
    for number, row in enumerate(ROWS):
        file = path / name(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(row))
    return path


def zipped(path: Path, files: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def npy(array: Any, **options: Any) -> bytes:
    into = io.BytesIO()
    np.save(into, array, **options)
    return into.getvalue()


def saved(path: Path, what: Any) -> Path:
    torch.save(what, path)
    return path


def as_npz(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def as_npy(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


FORMATS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda at: folder(at / "p", "{}.png".format),
    "folder from 1": lambda at: folder(at / "p", lambda n: f"{n + 1:05d}.png"),
    "folder of classes": lambda at: folder(at / "p", lambda n: f"{LABELS[n]}/img_{n:05d}.png"),
    "zip": lambda at: zipped(
        at / "p.zip", {f"top/{n}.png": png(row) for n, row in enumerate(ROWS)}
    ),
    "npy": lambda at: as_npy(at / "p.npy", ROWS),
    "npy by channels": lambda at: as_npy(at / "p.npy", PIXELS.numpy()),
    "npy by columns": lambda at: as_npy(at / "p.npy", np.asfortranarray(ROWS)),
    "npz": lambda at: as_npz(at / "p.npz", data=ROWS, targets=LABELS.numpy()),
    "npz, flat": lambda at: as_npz(at / "p.npz", data=PIXELS.flatten(1).numpy()),
    "npz, unnamed": lambda at: as_npz(at / "p.npz", arr_0=ROWS, labels=LABELS.numpy()),
    "pt": lambda at: saved(at / "p.pt", PIXELS),
    "pt, part of more": lambda at: saved(at / "p.pth", torch.cat([PIXELS, PIXELS])[12:]),
    "pt, dictionary": lambda at: saved(at / "p.pt", {"data": PIXELS, "labels": LABELS}),
    "pt, list of labels": lambda at: saved(
        at / "p.pt", OrderedDict(data=torch.nn.Parameter(PIXELS.float()), labels=LABELS.tolist())
    ),
}


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_every_format_has_the_same_rows(make: Callable[[Path], Path], tmp_path: Path) -> None:
    found = read(make(tmp_path), WANTED)
    assert torch.equal(found.values.to(torch.uint8), PIXELS) and found.ordered
    assert found.labels is None or torch.equal(found.labels, LABELS)


def test_numbers_that_begin_again_in_each_class_are_no_order(tmp_path: Path) -> None:
    found = read(folder(tmp_path / "p", lambda n: f"{LABELS[n]}/{n // 3}.png"), WANTED)
    assert not found.ordered and len(found.values) == 12


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint16", ">i2", "float16", "float64"])
def test_numbers_of_any_kind(dtype: str, tmp_path: Path) -> None:
    levels = (ROWS.astype(np.int64) % 100).astype(dtype)
    found = read(as_npy(tmp_path / "p.npy", levels), WANTED)
    assert torch.equal(found.values.double(), PIXELS.double() % 100)


# --- hostile files -------------------------------------------------------------------------------


class Attack:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def attacked(at: Path) -> dict[str, Path]:
    """Files whose unpickling would make the folder `at/ran`."""
    code = pickle.dumps(Attack(at / "ran"))
    objects = np.array([Attack(at / "ran")], dtype=object)
    found = {name: at / name for name in ("a.pkl", "b.npy", "c.pt", "d.bin")}
    for path in found.values():
        path.write_bytes(code)
    found["e.npy"] = at / "e.npy"
    found["e.npy"].write_bytes(npy(objects, allow_pickle=True))
    found["f.npz"] = at / "f.npz"
    np.savez(found["f.npz"], data=objects)
    found["g.npz"] = at / "g.npz"
    np.savez(found["g.npz"], data=ROWS, targets=objects)
    found["h.pt"] = saved(at / "h.pt", {"data": PIXELS, "more": Attack(at / "ran")})
    found["i.pt"] = zipped(at / "i.pt", {"i/data.pkl": code}, zipfile.ZIP_STORED)
    protocol_2 = pickle.dumps(Attack(at / "ran"), protocol=2)
    found["j.pt"] = zipped(at / "j.pt", {"i/data.pkl": protocol_2}, zipfile.ZIP_STORED)
    found["k.pt"] = saved(at / "k.pt", {"data": ROWS})  # numpy's arrays are unpickled, too
    found["l.pt"] = at / "l.pt"
    torch.save(PIXELS, found["l.pt"], _use_new_zipfile_serialization=False)
    return found


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    for name, path in attacked(tmp_path).items():
        with pytest.raises(ValueError, match=f"{name} cannot be taken") as refused:
            read(path, WANTED)
        assert not (tmp_path / "ran").exists()
        assert "save" in str(refused.value)  # what to do instead
    pickle.loads((tmp_path / "a.pkl").read_bytes())
    assert (tmp_path / "ran").exists()  # it would have been


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    into = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        into, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return into.getvalue()


def giant_pickle(at: Path) -> Path:
    """A tensor file that asks for 100 GB of zeros: torch allows bytearray."""
    code = b"\x80\x02c__builtin__\nbytearray\n\x8a\x05" + (10**11).to_bytes(5, "little")
    return zipped(at / "p.pt", {"p/data.pkl": code + b"\x85R."}, zipfile.ZIP_STORED)


def giant_storage(at: Path) -> Path:
    """A tensor file whose storage is said to be larger than it is."""
    path = saved(at / "q.pt", PIXELS[:, :1, :1, :1].clone())
    with zipfile.ZipFile(path) as archive:
        parts = {one.filename: archive.read(one) for one in archive.infolist()}
    code = parts["q/data.pkl"]
    shape = b"(K\x0cK\x01K\x01K\x01t"
    assert shape in code
    parts["q/data.pkl"] = code.replace(shape, b"(K\x0cK\x03K\x10K\x10t")
    return zipped(at / "p.pt", parts, zipfile.ZIP_STORED)


def many_entries(at: Path) -> Path:
    """A zip file that says of itself, in 64 bits, that its table of contents has 10 TB."""
    path = zipped(at / "p.zip", {"0.png": b""})
    whole = path.read_bytes()
    end = len(whole) - 22
    large = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 10**13, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    path.write_bytes(whole[:end] + large + locator + whole[end:])
    return path


def long_header(at: Path) -> Path:
    """An npz file of 29 kB with a header of 30 MB."""
    start = b"\x93NUMPY\x02\x00" + struct.pack("<I", 3 * 10**7)
    return zipped(at / "p.npz", {"data.npy": start + bytes(3 * 10**7)})


def nested_labels(at: Path) -> Path:
    """A tensor file of kilobytes whose labels are 27 million: lists of the same lists."""
    labels: list[Any] = [0] * 300
    for _ in range(2):
        labels = [labels] * 300
    return saved(at / "p.pt", {"data": PIXELS, "labels": labels})


def expanded_labels(at: Path) -> Path:
    labels = torch.zeros(1, dtype=torch.int64).expand(10**7)
    return saved(at / "p.pt", {"data": PIXELS, "labels": labels})


BOMBS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "npy header": (
        lambda at: write(at / "p.npy", header((10**12, 3, 16, 16), "|u1")),
        r"its shape is \(1000000000000, 3, 16, 16\); expected 12 or 3 rows of 3x16x16",
    ),
    "npy of long values": (
        lambda at: write(at / "p.npy", header((12, 3, 16, 16), "|S99999")), "its values are",
    ),
    "npz": (
        lambda at: zipped(at / "p.npz", {"data.npy": header((10**9, 1), "<f8") + bytes(10**7)}),
        "its shape is",
    ),
    "npz of labels": (
        lambda at: zipped(
            at / "p.npz", {"data.npy": npy(ROWS), "targets.npy": header((10**9,), "<i8")}
        ),
        "labels of shape",
    ),
    "npz of a long header": (long_header, r"npy format \(2, 0\)"),
    "pt of nested labels": (nested_labels, "its labels are a list of something else"),
    "pt of expanded labels": (expanded_labels, "it has 10,000,000 labels"),
    "zip of a large picture": (
        lambda at: zipped(at / "p.zip", {f"{n}.png": bytes(10**8) for n in range(3)}),
        "its file has more than",
    ),
    "zip of a picture of many pixels": (
        lambda at: zipped(
            at / "p.zip", {f"{n}.png": png(np.zeros((3000, 3000), np.uint8)) for n in range(3)}
        ),
        "it has 3000x3000 pixels; expected 16x16",
    ),
    "zip of many": (many_entries, "its table of contents takes 10,000,000,000,000 bytes"),
    "pt, compressed": (
        lambda at: zipped(at / "p.pt", {"p/data.pkl": b"\x80\x02N.", "p/data/0": bytes(10**7)}),
        "is compressed",
    ),
    "pt, other parts": (
        lambda at: zipped(at / "p.pt", {"p/data.pkl": b"", "p/code/x.py": b""}, 0), "it has a part",
    ),
    "pt, bytearray": (giant_pickle, "it names __builtin__.bytearray"),
    "pt, storage": (giant_storage, "torch cannot read it"),
    "pt, expanded": (
        lambda at: saved(at / "p.pt", torch.zeros(1).expand(10**9, 3, 16, 16)), "its shape is",
    ),
}  # fmt: skip


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("make", "message"), BOMBS.values(), ids=BOMBS)
def test_sizes_are_judged_before_memory_is_used(
    make: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    path = make(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            read(path, WANTED)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "count": (lambda at: as_npy(at / "p", ROWS[:11]), "expected 12 or 3 rows of 3x16x16"),
    "size": (lambda at: as_npy(at / "p", ROWS[:, :15]), "expected 12 or 3 rows of 3x16x16"),
    "one number": (lambda at: as_npy(at / "p", np.float32(1)), "its shape is"),
    "complex": (lambda at: as_npy(at / "p", ROWS.astype(complex)), "its values are complex128"),
    "records": (
        lambda at: as_npy(at / "p", np.zeros(12, dtype=[("a", "u1")])), "expected whole",
    ),
    "two arrays": (lambda at: as_npz(at / "p", a=ROWS, b=ROWS), "it holds a, b; expected `data`"),
    "labels": (lambda at: as_npz(at / "p", data=ROWS, targets=np.arange(3)), "it has 3 labels"),
    "labels that are fractions": (
        lambda at: as_npz(at / "p", data=ROWS, targets=LABELS.numpy() / 2), "whole numbers",
    ),
    "a truth value": (lambda at: saved(at / "p.pt", PIXELS > 3), "BoolStorage"),
    "text": (lambda at: saved(at / "p.pt", "hello"), "it holds a str; expected a tensor"),
    "list": (lambda at: saved(at / "p.pt", [PIXELS]), "it holds a list; expected a tensor"),
    "nothing": (lambda at: write(at / "p.npy", b""), "it is neither"),
    "pictures too few": (lambda at: folder(at / "p", lambda n: f"{n % 5}.png"), "5 files"),
    "pictures with gaps": (
        lambda at: folder(at / "p", lambda n: f"{2 * n}.png"), "numbered 0 to 22: expected 0 to 11",
    ),
    "pictures without numbers": (lambda at: folder(at / "p", lambda n: f"{'abcdefghijkl'[n]}.png"),
                                 "has no number"),
    "pictures with loss": (
        lambda at: folder(at / "p", lambda n: f"{n}.png{'.jpg' * (n == 3)}"), "is no PNG file",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_what_is_something_else_is_named(
    make: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    path = make(tmp_path)
    path = path if path.exists() else next(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message) as refused:
        read(path, WANTED)
    assert str(refused.value).startswith(f"{path.name} cannot be taken: ")


@pytest.mark.parametrize("name", ["npy", "npz", "zip", "pt"])
def test_cut_off_and_changed_files_are_read_as_they_are_or_named(name: str, tmp_path: Path) -> None:
    whole = FORMATS[name](tmp_path).read_bytes()
    draw, path = np.random.default_rng(0), tmp_path / "damaged"
    for trial in range(60):
        damaged = bytearray(whole)
        if trial % 2:
            del damaged[draw.integers(len(whole)) :]
        else:
            damaged[draw.integers(len(whole))] ^= int(draw.integers(1, 256))
        path.write_bytes(damaged)
        try:
            read(path, WANTED)
        except ValueError as error:
            assert "damaged cannot be taken" in str(error)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "p", "{}.png".format)
    whole = (path / "7.png").read_bytes()
    (path / "7.png").write_bytes(whole[: len(whole) // 2])
    (path / "9.png").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ValueError, match=r"2 of 12 pictures cannot be read: 7.png"):
        read(path, WANTED)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.npy")
    with pytest.raises(ValueError, match="no file and no folder"):
        read(tmp_path / "p.npy", WANTED)
    for number in range(3):
        os.mkfifo(tmp_path / f"{number}.png")
    (tmp_path / "p.npy").unlink()
    with pytest.raises(ValueError, match="not a file"):
        read(tmp_path, WANTED)


def test_hidden_files_and_texts_are_left_out(tmp_path: Path) -> None:
    path = folder(tmp_path / "p", "{}.png".format)
    for name in (".DS_Store", "readme.txt"):
        (path / name).write_text("x")
    (path / "__MACOSX").mkdir()
    (path / "__MACOSX" / "0.png").write_text("x")
    assert torch.equal(read(path, WANTED).values, PIXELS)


def test_too_many_files_are_not_all_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path / "p", "{}.png".format)
    with pytest.raises(ValueError, match="it holds more than 6 files"):
        read(path, Wanted((3,), (16, 16)))
    (path / "deeper").symlink_to(path, target_is_directory=True)
    listed: list[Path] = []
    whole = Path.iterdir

    def counted(folder: Path) -> Iterator[Path]:
        for entry in whole(folder):
            listed.append(entry)
            yield entry

    monkeypatch.setattr(Path, "iterdir", counted)
    with pytest.raises(ValueError, match="it holds more than 6 files"):
        read(path, Wanted((3,), (16, 16)))
    assert len(listed) <= 2 * (6 + 1)
