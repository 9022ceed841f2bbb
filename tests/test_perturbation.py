"""Exact values of the two exports, the bound on 8-bit images, and strangers' files."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from helpers import random_images
from ulelib import perturbation as module
from ulelib.data import ImageSet
from ulelib.perturbation import Perturbation, added_levels, apply_delta, energy_shares, sign_balance


def perturbation_for(images: ImageSet, epsilon: float = 8 / 255, channels: int = 3) -> Perturbation:
    generator = torch.Generator().manual_seed(1)
    height, width = images.images.shape[2:]
    delta = torch.rand(len(images), channels, height, width, generator=generator) * 2 - 1
    return Perturbation(
        delta * epsilon, "sample_wise", epsilon, "ULEO", images.fingerprint, (0.5, 0.005), 1.5
    )


def pixel(*levels: int) -> torch.Tensor:
    return torch.tensor(levels, dtype=torch.uint8).view(1, 3, 1, 1)


def noise(*levels: float) -> torch.Tensor:
    return torch.tensor(levels).view(1, 3, 1, 1) / 255


@pytest.mark.parametrize(
    ("before", "levels", "exact", "as_released"),
    [
        ((100, 100, 100), (3.0, -3.0, 0.0), (103, 97, 100), (103, 100, 100)),
        ((100, 100, 100), (3.4, 3.6, -3.6), (103, 104, 96), (103, 103, 100)),
        ((250, 5, 255), (8.0, -8.0, 0.4), (255, 0, 255), (255, 5, 255)),
        ((0, 255, 7), (-8.0, 8.0, 7.9), (0, 255, 15), (0, 255, 14)),
    ],
)
def test_exports_have_these_values(
    before: tuple[int, ...],
    levels: tuple[float, ...],
    exact: tuple[int, ...],
    as_released: tuple[int, ...],
) -> None:
    images, delta = pixel(*before), noise(*levels)
    assert tuple(apply_delta(images, delta, 8 / 255).flatten().tolist()) == exact
    released = apply_delta(images, delta, 8 / 255, "as_released")
    assert tuple(released.flatten().tolist()) == as_released
    assert images.dtype == released.dtype == torch.uint8


def test_noise_of_another_shape_and_images_of_another_type_are_refused() -> None:
    images = random_images(6).images
    with pytest.raises(ValueError, match="expected uint8 images and a delta of the same shape"):
        apply_delta(images, torch.zeros(1, 3, 32, 32), 8 / 255)
    with pytest.raises(ValueError, match="images are torch.float32"):
        apply_delta(images / 255, torch.zeros(6, 3, 32, 32), 8 / 255)


def test_exact_does_not_round_across_a_bound_between_two_levels() -> None:
    images = pixel(100, 100, 100)
    shown = apply_delta(images, noise(5.6, -5.6, 5.4), 5.6 / 255)
    assert shown.flatten().tolist() == [105, 95, 105]


@pytest.mark.parametrize("level", range(1, 17))
def test_a_full_epsilon_of_whole_levels_survives_both_exports(level: int) -> None:
    images = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    delta = torch.full((1, 3, 1, 1), level / 255)
    for export in ("exact", "as_released"):
        assert apply_delta(images, delta, level / 255, export).unique().tolist() == [level]


def test_as_released_equals_the_released_arithmetic() -> None:
    """Noise scaled and clamped to [0, 255], then the sum clipped and cast to uint8."""
    images = random_images(20)
    delta = perturbation_for(images).delta
    data = images.images.permute(0, 2, 3, 1).numpy().astype(np.float32)
    scaled = delta.mul(255).clamp_(0, 255).permute(0, 2, 3, 1).numpy()
    expected = np.clip(data + scaled, 0, 255).astype(np.uint8)
    shown = apply_delta(images.images, delta, 8 / 255, "as_released")
    assert np.array_equal(shown.permute(0, 2, 3, 1).numpy(), expected)


@settings(max_examples=150, deadline=None)
@given(
    epsilon=st.floats(1 / 255, 1) | st.integers(1, 255).map(lambda level: level / 255),
    seed=st.integers(0, 2**31),
    saturate=st.booleans(),
    channels=st.sampled_from([1, 3]),
    class_wise=st.booleans(),
    export=st.sampled_from(["exact", "as_released"]),
)
def test_published_images_stay_within_epsilon(
    epsilon: float, seed: int, saturate: bool, channels: int, class_wise: bool, export: str
) -> None:
    images = random_images(6, 4, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    rows = len(images.classes) if class_wise else len(images)
    delta = torch.rand(rows, channels, 4, 4, generator=generator) * 2 - 1
    delta = (delta.sign() if saturate else delta) * epsilon
    kind = "class_wise" if class_wise else "sample_wise"
    made = Perturbation(delta, kind, epsilon, "any", images.fingerprint)
    shown = made.apply(images, export)
    moved = shown.images.int() - images.images.int()
    assert shown.images.dtype == torch.uint8
    assert moved.abs().max() <= 255 * epsilon + 1e-3
    if export == "as_released":
        assert moved.min() >= 0
    assert torch.equal(shown.labels, images.labels) and shown.classes == images.classes


def test_one_channel_is_the_same_value_in_all_three() -> None:
    images = random_images(5)
    made = perturbation_for(images, channels=1)
    full = made.of(images, torch.arange(5))
    assert full.shape == images.images.shape
    assert all(torch.equal(full[:, channel], made.delta[:, 0]) for channel in range(3))


@pytest.mark.parametrize(
    ("export", "expected"),
    [
        ("exact", [98, 98, 100, 100, 102, 103]),
        ("as_released", [100, 100, 100, 100, 101, 102]),
        ("positive", [100, 100, 100, 100, 102, 103]),
        ("truncated", [97, 98, 99, 100, 101, 102]),
    ],
)
def test_an_export_keeps_one_sign_or_both_and_rounds_or_truncates(
    export: str, expected: list[int]
) -> None:
    levels = torch.tensor([-2.4, -1.7, -0.3, 0.4, 1.6, 2.6]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    images = torch.full((1, 3, 1, 6), 100, dtype=torch.uint8)
    published = apply_delta(images, levels / 255, 8 / 255, export)
    assert published[0, 0, 0].tolist() == expected


def test_the_released_index_gives_a_class_the_noise_of_one_image() -> None:
    images = random_images(9, 4, classes=3)
    noise = Perturbation(
        torch.arange(9.0).view(9, 1, 1, 1).expand(9, 3, 4, 4) / 255,
        "sample_wise",
        8 / 255,
        "identity",
        images.fingerprint,
    )
    slipped = noise.indexed_by_class(images)
    assert slipped.kind == "class_wise"
    assert torch.equal(slipped.of(images, torch.arange(9)), noise.delta[images.labels])
    with pytest.raises(ValueError, match="only sample-wise noise"):
        slipped.indexed_by_class(images)


class TestClassMeans:
    def test_are_the_means(self) -> None:
        images = random_images(9)
        noise = perturbation_for(images)
        means = noise.class_means(images)
        assert means.kind == "class_wise"
        for label in range(3):
            expected = noise.delta[images.labels == label].mean(0)
            assert torch.allclose(means.delta[label], expected, atol=1e-7)
        assert means.class_means(images) is means

    def test_of_a_class_without_images_are_refused(self) -> None:
        images = random_images(9)
        more = dataclasses.replace(images, classes=(*images.classes, "empty"))
        noise = perturbation_for(more)
        with pytest.raises(ValueError, match="no image of 'empty'"):
            noise.class_means(more)

    def test_fit_images_of_another_size_and_of_fewer_classes(self) -> None:
        images, others = random_images(9), random_images(8, size=24, classes=2, seed=3)
        means = perturbation_for(images).class_means(images)
        fitted = means.fitted_to(others)
        assert fitted.delta.shape == (2, 3, 24, 24)
        assert torch.allclose(fitted.delta.mean((2, 3)), means.delta[:2].mean((2, 3)), atol=2e-3)
        assert len(fitted.apply(others)) == 8

    def test_do_not_fit_more_classes_than_they_are(self) -> None:
        images = random_images(9)
        means = perturbation_for(images).class_means(images)
        with pytest.raises(ValueError, match="has 5 classes, but the noise has only 3"):
            means.fitted_to(random_images(10, classes=5))

    def test_sample_wise_noise_is_not_fitted(self) -> None:
        images = random_images(9)
        with pytest.raises(ValueError, match="only the images that it was made for"):
            perturbation_for(images).fitted_to(images)


def test_noise_at_another_size() -> None:
    images, larger = random_images(6), random_images(6, size=48)
    made = perturbation_for(images).resized(larger)
    assert made.delta.shape == (6, 3, 48, 48) and made.fingerprint == larger.fingerprint
    assert made.delta.abs().max() <= made.epsilon
    back = made.resized(images).delta
    both = torch.stack([back.flatten(), perturbation_for(images).delta.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.8  # each image has its own
    with pytest.raises(ValueError, match="of 6 and 5 pictures"):
        made.resized(random_images(5))
    means = perturbation_for(images).class_means(images)
    assert torch.equal(means.resized(larger).delta, means.fitted_to(larger).delta)


def test_class_wise_follows_the_labels_of_any_images() -> None:
    images, others = random_images(6), random_images(9, seed=5)
    delta = torch.stack([torch.full((3, 16, 16), value / 255) for value in (1.0, -2.0, 3.0)])
    made = Perturbation(delta, "class_wise", 8 / 255, "class-wise", images.fingerprint)
    for label, row in zip(others.labels, made.of(others, torch.arange(9)), strict=True):
        assert torch.equal(row, delta[label])
    shown = made.apply(others)
    assert torch.equal(shown.images, apply_delta(others.images, delta[others.labels], 8 / 255))


def test_images_are_protected_in_chunks_and_some_of_them_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = random_images(11)
    made = perturbation_for(images)
    whole = made.apply(images, "as_released").images
    monkeypatch.setattr(module, "CHUNK", 4)
    assert torch.equal(made.apply(images, "as_released").images, whole)
    rows = torch.tensor([7, 0, 3, 9, 1])
    some = made.apply(images, "as_released", rows)
    assert torch.equal(some.images, whole[rows])
    assert torch.equal(some.labels, images.labels[rows])


def test_applying_to_other_images_is_refused() -> None:
    images = random_images(6)
    made = perturbation_for(images)
    with pytest.raises(ValueError, match="made for other images"):
        made.apply(random_images(6, seed=9))
    with pytest.raises(ValueError, match="made for other images"):
        made.apply(images.select(torch.arange(5, -1, -1)))
    with pytest.raises(ValueError, match="is for 6 images"):
        made.apply(random_images(7))
    with pytest.raises(ValueError, match="pixels"):
        made.apply(random_images(6, size=8))
    class_wise = Perturbation(made.delta[:2], "class_wise", 8 / 255, "any", "")
    with pytest.raises(ValueError, match="2 classes"):
        class_wise.apply(images)
    with pytest.raises(ValueError, match="export 'png'; choose from"):
        made.apply(images, "png")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"epsilon": 8.0}, "epsilon is 8.0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"epsilon": 1 / 255}, "outside of epsilon"),
        ({"kind": "wise"}, "choose from"),
        ({"rounds": (float("nan"),)}, r"rounds are \(nan,\)"),
        ({"rounds": (0.5, "0.1")}, "rounds are"),
        ({"rounds": (1.5,)}, "rounds are"),
        ({"seconds": "3"}, "seconds is '3', not a number"),
        ({"epsilon": True}, "epsilon is True, not a number"),
        ({"epsilon": "0.03"}, "not a number"),
        ({"delta": torch.full((6, 3, 16, 16), torch.nan)}, "delta reaches nan"),
        ({"delta": torch.zeros(6, 3, 16, 16, dtype=torch.float64)}, "expected float32"),
        ({"delta": torch.zeros(3, 16, 16)}, "expected float32 of shape"),
        ({"delta": torch.zeros(6, 2, 16, 16)}, "2 channels"),
    ],
)
def test_values_out_of_range_are_refused(changed: dict[str, object], message: str) -> None:
    made = perturbation_for(random_images(6))
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(made, **changed)  # type: ignore[arg-type]


def test_save_and_load_keep_everything(tmp_path: Path) -> None:
    made = perturbation_for(random_images(6))
    made.save(tmp_path / "delta.safetensors")
    again = Perturbation.load(tmp_path / "delta.safetensors")
    assert torch.equal(again.delta, made.delta)
    for name in ("kind", "epsilon", "defender", "fingerprint", "rounds", "seconds"):
        assert getattr(again, name) == getattr(made, name)


class _WritesAFile:
    """Unpickled, it would write a file: what a hostile "perturbation" would do, and worse."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


def test_strangers_files_are_refused_and_run_nothing(tmp_path: Path) -> None:
    made = perturbation_for(random_images(6))
    path, touched = tmp_path / "good.safetensors", tmp_path / "touched"
    made.save(path)
    whole = path.read_bytes()
    torch.save({"delta": _WritesAFile(touched)}, tmp_path / "torch.pt")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("delta", b"\0" * 100)
    files = {
        "pickle": pickle.dumps(_WritesAFile(touched)),
        "torch": (tmp_path / "torch.pt").read_bytes(),
        "zip": (tmp_path / "zip").read_bytes(),
        "empty": b"",
        "text": b"no tensors here",
        "half": whole[: len(whole) // 2],
        "nearly whole": whole[:-1],
        "header alone": whole[:100],
    }
    for name, content in files.items():
        stranger = tmp_path / f"{name}.safetensors"
        stranger.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.safetensors is not a perturbation"):
            Perturbation.load(stranger)
    with pytest.raises(FileNotFoundError):
        Perturbation.load(tmp_path / "there is none")
    assert not touched.exists()


GOOD = {
    "kind": "class_wise",
    "epsilon": 1,
    "defender": "any",
    "fingerprint": "0123456789abcdef",
    "rounds": [0.5],
    "made_of": [{"luminance": 1.0, "chroma": 0.0, "tiles": 1.0, "constant": 1.0}],
    "seconds": 0,
}
LISTS = {name: tuple(GOOD[name]) for name in ("rounds", "made_of")}  # type: ignore[arg-type]
GOOD["seal"] = Perturbation(torch.ones(2, 3, 4, 4), **GOOD | LISTS)._seal()


def with_meta(path: Path, meta: dict[str, str] | None) -> Path:
    save_file({"delta": torch.ones(2, 3, 4, 4)}, path, meta)
    return path


def test_metadata_are_read_with_their_seal_and_not_without(tmp_path: Path) -> None:
    """Without one, an edit would not be noticed."""
    found = Perturbation.load(with_meta(tmp_path / "x", {"ulelib": json.dumps(GOOD)}))
    assert found.rounds == (0.5,) and found.epsilon == 1
    bare = {name: value for name, value in GOOD.items() if name != "seal"}
    with pytest.raises(ValueError, match="and a seal"):
        Perturbation.load(with_meta(tmp_path / "y", {"ulelib": json.dumps(bare)}))


def test_noise_below_one_gray_level_is_refused() -> None:
    """Nothing of it would be left in 8-bit images, whose owner would believe them protected."""
    images = random_images(3)
    faint = perturbation_for(images, epsilon=0.9 / 255)
    for export in ("exact", "as_released"):
        with pytest.raises(ValueError, match="below one gray level"):
            faint.apply(images, export)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no file"):
        Perturbation.load(tmp_path / "pipe")


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        "17",
        "null",
        "{}",
        "[" * 100_000,
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        *(
            json.dumps(GOOD | changed)
            for changed in (
                {"kind": 1},
                {"kind": "wise"},
                {"epsilon": True},
                {"epsilon": "1"},
                {"epsilon": 1e-9},
                {"epsilon": float("nan")},
                {"epsilon": 10**400},
                {"defender": ["a"]},
                {"defender": "x" * 1000},
                {"fingerprint": "../../x"},
                {"fingerprint": 1234567812345678},
                {"rounds": "0.5"},
                {"rounds": ["0.5"]},
                {"rounds": [float("nan")]},
                {"rounds": [True]},
                {"rounds": [-1]},
                {"rounds": {"0": 0.5}},
                {"seconds": float("inf")},
                {"seconds": None},
                {"more": 1},
                {"made_of": {"tiles": 1}},
                {"made_of": [1]},
                {"made_of": [{"tiles": 1.0}]},
                {"made_of": [GOOD["made_of"][0] | {"tiles": 2}]},  # type: ignore[index]
                {"made_of": [GOOD["made_of"][0] | {"tiles": None}]},  # type: ignore[index]
                {"digest": "0" * 64},
                {"seal": "0" * 64},
                {"seal": 5},
            )
        ),
        json.dumps(GOOD).replace('"seconds": 0', '"seconds": ' + "9" * 5000),
    ],
    ids=lambda text: text[:30],
)
def test_other_metadata_are_refused(tmp_path: Path, text: str) -> None:
    path = with_meta(tmp_path / "other.safetensors", {"ulelib": text})
    with pytest.raises(ValueError, match=r"other\.safetensors is not a perturbation") as caught:
        Perturbation.load(path)
    assert ("not what was written" in str(caught.value)) == (
        '"seal": ' in text[-80:] and str(GOOD["seal"]) not in text
    )


def test_an_edited_shape_is_noticed(tmp_path: Path) -> None:
    """The header says how the numbers lie: other channels of the same bytes are other noise."""
    path = with_meta(tmp_path / "x", {"ulelib": json.dumps(GOOD)})
    content = path.read_bytes()
    assert b'"shape":[2,3,4,4]' in content
    path.write_bytes(content.replace(b"[2,3,4,4]", b"[6,1,4,4]"))
    with pytest.raises(ValueError, match="not what was written"):
        Perturbation.load(path)


def test_noise_of_another_version_says_so(tmp_path: Path) -> None:
    old = {name: value for name, value in GOOD.items() if name not in ("seal", "made_of")}
    path = with_meta(tmp_path / "x", {"ulelib": json.dumps(old | {"digest": "0" * 64})})
    with pytest.raises(ValueError, match=r"version 0\.4"):
        Perturbation.load(path)


def test_a_file_without_metadata_or_delta_is_refused(tmp_path: Path) -> None:
    save_file({"noise": torch.ones(2)}, tmp_path / "b", {"ulelib": json.dumps(GOOD)})
    for path in (with_meta(tmp_path / "a", None), tmp_path / "b"):
        with pytest.raises(ValueError, match="is not a perturbation"):
            Perturbation.load(path)


@pytest.mark.parametrize("old", ['sample_wise"', "defender", "0.25"])
def test_an_edited_file_is_refused(tmp_path: Path, old: str) -> None:
    """Class-wise noise fits any images: an edit of the kind must not get round the fingerprint."""
    made = dataclasses.replace(perturbation_for(random_images(3)), rounds=(0.25,))
    path = tmp_path / "x.safetensors"
    made.save(path)
    new = {'sample_wise"': 'class_wise" ', "defender": "defendor", "0.25": "0.75"}[old]
    content = path.read_bytes()
    edited = content.replace(old.encode(), new.encode())
    if old == 'sample_wise"':
        edited = content.replace(b'sample_wise\\"', b'class_wise\\" ')
    assert edited != content
    path.write_bytes(edited)
    with pytest.raises(ValueError, match="is not a perturbation"):
        Perturbation.load(path)


def test_a_sparse_giant_is_refused_before_it_is_read(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "__metadata__": {"ulelib": json.dumps(GOOD)},
            "delta": {"dtype": "F32", "shape": [2**28, 3, 32, 32], "data_offsets": [0, 2**40 * 3]},
        }
    ).encode()
    path = tmp_path / "giant.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        try:
            file.truncate(8 + len(header) + 2**40 * 3)
        except OSError:
            pytest.skip("this file system has no sparse files of that size")
    with pytest.raises(ValueError, match=r"is not a perturbation.*(too large|mmap)"):
        Perturbation.load(path)


def test_what_cannot_be_opened_is_not_called_missing(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        Perturbation.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        Perturbation.load(tmp_path / "nothing")


def test_saving_onto_a_full_disk_is_an_oserror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors has its own class for it, which the store would not know."""
    from safetensors import SafetensorError

    def full(*arguments: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("ulelib.perturbation.save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        perturbation_for(random_images(6)).save(tmp_path / "delta.safetensors")
    assert caught.value.errno == 28


def test_sign_balance_of_a_constructed_delta() -> None:
    delta = torch.full((2, 3, 10, 12), -2 / 255)
    delta[:, :, 4:-4, 4:-4] = 1 / 255
    told = sign_balance(delta)
    assert told["positive, inside"] == 1 and told["positive, border"] == 0
    assert told["mean, inside"] == pytest.approx(1) and told["mean, border"] == pytest.approx(-2)
    for border in (0, 5):
        with pytest.raises(ValueError, match=f"a border of {border} pixels"):
            sign_balance(delta, border)


def test_energy_shares_of_constructed_deltas() -> None:
    generator = torch.Generator().manual_seed(0)
    gray = torch.randn(8, 1, 16, 16, generator=generator)
    varying = gray - gray.mean((2, 3), keepdim=True)
    flat = torch.randn(8, 3, 1, 1, generator=generator).expand(-1, -1, 16, 16)
    colour = torch.randn(8, 3, 16, 16, generator=generator)
    chroma = colour - colour.mean(1, keepdim=True)
    assert energy_shares(gray)["luminance"] == pytest.approx(1)
    assert energy_shares(gray)["chroma"] == pytest.approx(0, abs=1e-6)
    assert energy_shares(varying)["constant"] == pytest.approx(0, abs=1e-6)
    assert energy_shares(flat)["constant"] == pytest.approx(1)
    assert energy_shares(chroma)["chroma"] == pytest.approx(1)
    red = torch.zeros(1, 3, 2, 2)
    red[:, 0] = 1  # one primary: a third luminance, two thirds chroma
    assert energy_shares(red) == pytest.approx(
        {"luminance": 1 / 3, "chroma": 2 / 3, "tiles": 1, "constant": 1}
    )
    assert set(energy_shares(torch.zeros(2, 3, 4, 4)).values()) == {0.0}


def test_energy_of_tiles() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(8, 3, 3, 3, generator=generator)
    coarse = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)  # 12x12
    assert energy_shares(coarse)["tiles"] == pytest.approx(1)
    assert energy_shares(coarse[:, :, :, :10])["tiles"] == pytest.approx(1)  # tiles cut in half
    board = torch.arange(12)[:, None] + torch.arange(12)
    fine = (2.0 * board.remainder(2) - 1).expand(1, 3, -1, -1)
    assert energy_shares(fine)["tiles"] == pytest.approx(0, abs=1e-6)
    assert energy_shares(coarse + fine)["tiles"] == pytest.approx(
        (coarse.square().sum() / (coarse.square().sum() + 8 * fine.square().sum())).item()
    )


def test_energy_shares_of_independent_noise() -> None:
    delta = torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    shares = energy_shares(delta)
    assert shares["luminance"] == pytest.approx(1 / 3, abs=0.01)
    assert shares["chroma"] == pytest.approx(2 / 3, abs=0.01)
    assert shares["tiles"] == pytest.approx(1 / 16, abs=0.005)
    assert shares["constant"] == pytest.approx(1 / 64, abs=0.005)


def test_added_levels_of_hand_made_noise() -> None:
    clean = torch.full((1200, 3, 4, 4), 100, dtype=torch.uint8)  # more than one batch
    brighter = added_levels(clean, clean + 3)
    assert brighter == pytest.approx(
        {"colour": 3, "gray": 3, "gray, varying": 0, "brightening": 3}, abs=1e-6
    )
    board = 2 * (torch.arange(4)[:, None] + torch.arange(4)).remainder(2).byte()  # 0 and 2
    checked = added_levels(clean, clean - 1 + board)
    assert checked == pytest.approx(
        {"colour": 1, "gray": 1, "gray, varying": 1, "brightening": 0}, abs=1e-6
    )
    blue = clean.clone()
    blue[:, 2] += 1
    coloured = added_levels(clean, blue)
    assert coloured["colour"] == pytest.approx((1 / 3) ** 0.5)
    assert coloured["gray"] == 0  # 0.114 of a level rounds away
