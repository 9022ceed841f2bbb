"""The file of a protected picture: what each format keeps, and what is noted as changed."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any
from zlib import compress, crc32

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin

from photo_files import DELTA, PROFILE, QUICK, levels, picture, saved, tagged
from ulelib.photos import encode, extras, original
from ulelib.photos.encode import protected_file
from ulelib.photos.extras import is_lossless_webp
from ulelib.photos.job import Job
from ulelib.photos.noise import spread


def written(file: Path, delta: torch.Tensor, job: Job) -> tuple[bytes, list[str]]:
    """A protected picture's file, and the notes on it."""
    made = protected_file(file, delta, job)
    return made.content, made.about.notes


class TestPicture:
    @pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
    def test_mode_size_and_bound(self, mode: str, tmp_path: Path) -> None:
        file = saved(picture((50, 37), mode), tmp_path, "a.png")
        content, about = protected_file(file, DELTA, Job(strength=8, size=16))
        made = Image.open(io.BytesIO(content))
        assert (made.mode, made.size, about.notes) == (mode, (50, 37), [])
        assert about.unprotected == (encode.GRAY if mode in ("L", "LA") else "")
        with Image.open(file) as old:
            difference = levels(made) - levels(old)
        if "A" in mode:
            assert (difference[..., -1] == 0).all()
            difference = difference[..., :-1]
        assert 3 < abs(difference).max() <= 8

    def test_a_jpeg_keeps_its_quality(self, tmp_path: Path) -> None:
        file = saved(
            picture((400, 300)), tmp_path, "a.jpg", quality=70, exif=tagged(1), icc_profile=PROFILE
        )
        data, _ = written(file, 0 * DELTA, Job())
        new = Image.open(io.BytesIO(data))
        with Image.open(file) as old:
            assert new.quantization == old.quantization  # type: ignore[attr-defined]
        assert new.info["icc_profile"] == PROFILE and dict(new.getexif())[0x010F] == "A camera"
        assert len(data) < 1.2 * file.stat().st_size

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_noise_is_upright_and_the_file_keeps_its_orientation(
        self, orientation: int, tmp_path: Path
    ) -> None:
        file = saved(picture((48, 32)), tmp_path, "a.png", exif=tagged(orientation))
        data, _ = written(file, DELTA, Job(size=16))
        new = Image.open(io.BytesIO(data))
        with Image.open(file) as old:
            assert new.size == old.size and new.getexif()[0x0112] == orientation
            moved = levels(ImageOps.exif_transpose(new)) - levels(ImageOps.exif_transpose(old))
        expected = spread(DELTA, *moved.shape[:2], 8).permute(1, 2, 0)
        assert (moved == expected.numpy()).all()

    @pytest.mark.parametrize("orientation", [6, None])
    def test_only_the_place_is_removed_on_request(
        self, orientation: int | None, tmp_path: Path
    ) -> None:
        tags = tagged(orientation or 1)
        tags[0x0110] = "Camera"
        if orientation is None:
            del tags[0x0112]
        file = saved(picture(), tmp_path, "a.jpg", exif=tags)
        kept, _ = written(file, DELTA, Job())
        assert 0x8825 in Image.open(io.BytesIO(kept)).getexif()
        dropped, notes = written(file, DELTA, Job(drop_location=True))
        exif = Image.open(io.BytesIO(dropped)).getexif()
        assert notes == [encode.NO_PLACE]
        assert exif.get(0x0110) == "Camera" and exif.get(0x0112) == orientation
        assert 0x8825 not in exif

    def test_the_first_of_a_phones_several_pictures_is_written(self, tmp_path: Path) -> None:
        file = tmp_path / "a.jpg"
        picture().save(file, "MPO", save_all=True, append_images=[picture(seed=1)])
        data, notes = written(file, 0 * DELTA, Job())
        made = Image.open(io.BytesIO(data))
        assert made.format == "JPEG" and notes == [extras.FIRST_ONLY]
        with Image.open(file) as old:
            assert np.abs(levels(made) - levels(old)).mean() < 2

    def test_a_profile_of_cmyk_is_not_kept(self, tmp_path: Path) -> None:
        file = saved(picture(mode="CMYK"), tmp_path, "a.jpg", icc_profile=PROFILE)
        data, notes = written(file, DELTA, Job())
        assert notes == ["CMYK became RGB", original.NO_PROFILE]
        assert "icc_profile" not in Image.open(io.BytesIO(data)).info

    @pytest.mark.parametrize("format", ["keep", "jpg"])
    def test_quality_and_format_are_the_jobs(self, format: str, tmp_path: Path) -> None:
        file = saved(picture((200, 200)), tmp_path, "a.jpg")
        sizes = [
            len(written(file, DELTA, Job(format=format, quality=quality))[0])  # type: ignore[arg-type]
            for quality in (30, 60, 95)
        ]
        assert sizes == sorted(set(sizes))
        lossless, _ = written(file, DELTA, Job(format="png"))
        assert Image.open(io.BytesIO(lossless)).format == "PNG"

    def test_transparent_pictures_become_white_in_jpeg(self, tmp_path: Path) -> None:
        clear = Image.new("RGBA", (40, 40), (10, 200, 30, 0))
        file = saved(clear, tmp_path, "a.png")
        data, notes = written(file, 0 * DELTA, Job(format="jpg"))
        made = Image.open(io.BytesIO(data))
        assert made.mode == "RGB" and levels(made).min() > 250
        assert notes == [original.ON_WHITE]


@pytest.mark.parametrize(("kind", "channels", "mode"), [(2, 3, "RGB"), (4, 2, "LA")])
def test_colours_of_16_bits_become_8_with_a_note(
    kind: int, channels: int, mode: str, tmp_path: Path
) -> None:
    """Pillow silently reads them as 8 bits and cannot write them, so the file is made here."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    rows = np.random.default_rng(0).integers(20_000, 40_000, (30, 40 * channels)).astype(">u2")
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", 40, 30, 16, kind, 0, 0, 0)
    file = tmp_path / "deep.png"
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", compress(pixels))
        + chunk(b"IEND", b"")
    )  # fmt: skip
    data, notes = written(file, DELTA, QUICK)
    assert notes == [original.SIXTEEN_BITS]
    made = Image.open(io.BytesIO(data))
    assert made.mode == mode
    moved = levels(made) - levels(Image.open(file).convert(mode))
    assert 0 < np.abs(moved).max() <= QUICK.strength
    assert mode == "RGB" or not moved[..., 1].any()


def test_the_gamma_of_a_png_is_kept(tmp_path: Path) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", struct.pack(">I", 100_000))
    file = saved(picture(), tmp_path, "a.png", pnginfo=chunks)
    data, notes = written(file, DELTA, Job())
    assert Image.open(io.BytesIO(data)).info["gamma"] == 1.0 and notes == []
    _, notes = written(file, DELTA, Job(format="jpg"))
    assert notes == [encode.NO_GAMMA]


def test_iptc_data_are_left_out_with_a_note(tmp_path: Path) -> None:
    file = saved(picture(), tmp_path, "a.jpg")
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x08\x1c\x02P\0\x03Bob"
    whole = file.read_bytes()
    part = b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc
    file.write_bytes(whole[:2] + part + whole[2:])
    _, notes = written(file, DELTA, Job())
    assert notes == [extras.NO_TEXTS]


def test_exif_data_keep_their_bytes(tmp_path: Path) -> None:
    exif = tagged(6)
    exif[0x010E] = "Zo## at sea"
    coded = exif.tobytes().replace(b"Zo##", "Zoë".encode())  # Pillow would write question marks
    file = saved(picture(), tmp_path, "a.jpg", exif=coded)
    data, notes = written(file, DELTA, Job())
    with Image.open(file) as old, Image.open(io.BytesIO(data)) as new:
        assert "Zoë".encode() in old.info["exif"] and new.info["exif"] == old.info["exif"]
    assert not notes


def test_no_preview_of_the_clean_picture_is_published(tmp_path: Path) -> None:
    small = io.BytesIO()
    picture((16, 12)).save(small, "JPEG")
    preview = small.getvalue()

    def entry(tag: int, kind: int, value: bytes) -> bytes:
        return struct.pack(">HHI", tag, kind, 1) + value

    first = struct.pack(">H", 1) + entry(0x0112, 3, struct.pack(">HH", 6, 0))
    second_at = 8 + len(first) + 4
    second = (
        struct.pack(">H", 2)
        + entry(0x0201, 4, struct.pack(">I", second_at + 2 + 2 * 12 + 4))
        + entry(0x0202, 4, struct.pack(">I", len(preview)))
    )
    coded = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + first + struct.pack(">I", second_at)
    file = saved(picture(), tmp_path, "a.jpg", exif=coded + second + bytes(4) + preview)
    assert preview in file.read_bytes()
    data, notes = written(file, DELTA, Job())
    assert preview not in data and b"\xff\xd8\xff" not in data[3:]
    assert notes == [encode.NO_PREVIEW]
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6


def test_no_uncoded_preview_is_published(tmp_path: Path) -> None:
    """The second EXIF directory may hold a preview as plain pixels."""
    pixels = bytes(range(1, 193))
    second_at = 8 + 2 + 12 + 4
    tags = [(0x0103, 1), (0x0111, second_at + 2 + 3 * 12 + 4), (0x0117, len(pixels))]
    second = struct.pack(">H", len(tags))
    second += b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    first = struct.pack(">HHHIHH", 1, 0x0112, 3, 1, 6, 0) + struct.pack(">I", second_at)
    coded = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + first + second + bytes(4) + pixels
    file = saved(picture(), tmp_path, "a.jpg", exif=coded)
    assert pixels in file.read_bytes()
    data, notes = written(file, DELTA, Job())
    assert pixels not in data and notes == [encode.NO_PREVIEW]
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6


def test_an_orientation_from_xmp_data_is_kept(tmp_path: Path) -> None:
    """XMP data are not written, so the picture is stored upright."""
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    file = saved(picture((48, 32)), tmp_path, "a.jpg", exif=exif, xmp=xmp)
    with Image.open(file) as opened:
        assert opened.getexif()[0x0112] == 6
    data, notes = written(file, DELTA, Job())
    assert notes == [extras.NO_TEXTS]
    new = Image.open(io.BytesIO(data))
    assert new.size == (32, 48) and dict(new.getexif()) == {0x010F: "A camera"}


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
@pytest.mark.parametrize("format", ["keep", "png", "jpg"])
def test_a_turned_picture_stands_upright_in_every_format(
    kind: str, format: Any, tmp_path: Path
) -> None:
    file = saved(picture((48, 32)), tmp_path, f"a.{kind}", exif=tagged(6))
    data, _ = written(file, DELTA, Job(format=format))
    new = Image.open(io.BytesIO(data))
    assert (new.size, new.getexif()[0x0112], new.getexif()[0x010F]) == ((48, 32), 6, "A camera")


@pytest.mark.parametrize("quality", [55, 75])
def test_lossy_webp_is_as_large_as_it_was(quality: int, tmp_path: Path) -> None:
    rough = np.random.default_rng(0).normal(0, 20, (200, 300, 3)) + levels(picture((300, 200)))
    rough_picture = Image.fromarray(rough.clip(0, 255).astype(np.uint8))
    file = saved(rough_picture, tmp_path, "a.webp", quality=quality)
    data, _ = written(file, 0 * DELTA, Job())
    assert 0.9 < len(data) / file.stat().st_size < 1.3
    whole, _ = written(file, 0 * DELTA, Job(quality=95))
    assert len(whole) > 1.3 * len(data)


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_stays_lossless_or_lossy(lossless: bool, tmp_path: Path) -> None:
    file = saved(picture((60, 40)), tmp_path, "a.webp", lossless=lossless, icc_profile=PROFILE)
    data, _ = written(file, DELTA, Job())
    assert is_lossless_webp(data) == is_lossless_webp(file.read_bytes()) == lossless
    if lossless:
        moved = levels(Image.open(io.BytesIO(data))) - levels(Image.open(file))
        assert 0 < np.abs(moved).max() <= 8


@pytest.mark.parametrize("mode", ["1", "I;16"])
def test_transparency_that_cannot_be_kept_is_noted(mode: str, tmp_path: Path) -> None:
    whole = picture(mode="L") if mode == "1" else Image.new("I;16", (40, 30), 30_000)
    file = saved(whole.convert("1") if mode == "1" else whole, tmp_path, "a.png", transparency=0)
    _, notes = written(file, DELTA, Job())
    assert original.ON_WHITE in notes


def test_of_exif_data_that_are_too_long_the_orientation_is_kept(tmp_path: Path) -> None:
    exif = tagged(6)
    exif[0x9286] = b"x" * 70_000  # a comment longer than a JPEG's EXIF data may be
    file = saved(picture((60, 40)), tmp_path, "a.png", exif=exif)
    data, notes = written(file, DELTA, Job(format="jpg"))
    assert dict(Image.open(io.BytesIO(data)).getexif()) == {0x0112: 6}
    assert notes == [encode.ONLY_ORIENTATION]


class TestSpread:
    def test_noise_of_the_middle_square_survives_scaling_down(self) -> None:
        smooth = torch.nn.functional.avg_pool2d(DELTA[None], 3, 1, 1)[0]
        large = spread(smooth, 160, 240, 8)[:, :, 40:200].float()
        back = torch.nn.functional.interpolate(
            large[None], [16, 16], mode="bilinear", antialias=True
        )[0]
        assert torch.corrcoef(torch.stack([back.flatten(), smooth.flatten()]))[0, 1] > 0.95

    def test_noise_is_mirrored_beyond_the_middle_square(self) -> None:
        made = spread(DELTA, 16, 40, 8)
        middle = made[:, :, 12:28]
        assert torch.equal(middle, (255 * DELTA).round().to(torch.int8))
        assert torch.equal(made[:, :, :12], middle[:, :, :12].flip(2))
        assert torch.equal(made[:, :, 28:], middle[:, :, 4:].flip(2))
