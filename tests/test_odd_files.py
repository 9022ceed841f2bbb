"""Intact pictures in odd files: they are written, or refused in words that a person understands;
and what of a file is lost is told."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any
from zlib import compress

import numpy as np
import pytest
from PIL import Image, ImageOps

from photo_files import (
    DELTA,
    QUICK,
    chunk,
    four_channel_bmp,
    levels,
    picture,
    save_each,
    saved,
    tagged,
    with_chunk,
)
from ulelib import pictures
from ulelib.photos import encode, extras, original
from ulelib.photos.copies import copies_of, upright
from ulelib.photos.encode import Protected, protected_file
from ulelib.photos.job import Job
from ulelib.photos.protect import protect


def opened(made: Protected) -> Any:
    return Image.open(io.BytesIO(made.content))


def near(made: Protected, colours: Image.Image) -> bool:
    """Whether a protected picture is, upright, these colours and noise."""
    seen = ImageOps.exif_transpose(opened(made)).convert("RGB")
    return seen.size == colours.size and np.abs(levels(seen) - levels(colours)).max() <= 16


# --- transparency --------------------------------------------------------------------------------


class TestFourthChannel:
    def test_of_zeros_in_a_bmp_is_not_transparency(self, tmp_path: Path) -> None:
        colours = four_channel_bmp(tmp_path / "a.bmp", lambda row, column: 0)
        made = protected_file(tmp_path / "a.bmp", DELTA, Job())
        assert near(made, colours) and made.about.notes == []
        assert pictures.read(tmp_path / "a.bmp", 16).max() < 250  # white would be 255

    def test_of_some_other_value_in_a_bmp_is_transparency(self, tmp_path: Path) -> None:
        four_channel_bmp(tmp_path / "a.bmp", lambda row, column: 255 * (row < 10))
        made = protected_file(tmp_path / "a.bmp", DELTA, Job())
        assert levels(opened(made))[20:].min() > 230 and made.about.notes == [original.ON_WHITE]

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_that_is_opaque_is_not_told_of(self, mode: str, tmp_path: Path) -> None:
        opaque = picture(mode=mode)
        opaque.putalpha(255)
        file = saved(opaque, tmp_path, "a.png")
        assert protected_file(file, DELTA, Job(format="jpg")).about.notes == []


# --- intact, but refused -------------------------------------------------------------------------


class TestDamagedTexts:
    @pytest.mark.parametrize("damage", ["checksum", "long", "bomb"])
    def test_are_left_out_of_a_png(self, damage: str, tmp_path: Path) -> None:
        """Pillow refuses the whole file (#8363)."""
        file = saved(picture((48, 32)), tmp_path, "a.png", exif=tagged(6), dpi=(300, 300))
        text = chunk(b"tEXt", b"Comment\0hello")
        if damage == "checksum":
            text = text[:-4] + b"\0\0\0\0"
        elif damage == "long":
            text = chunk(b"iTXt", b"Comment\0\0\0\0\0" + b"x" * 2_000_000)
            text += chunk(b"zTXt", b"More\0\0" + compress(bytes(2_000_000)))
        else:
            text = chunk(b"zTXt", b"Comment\0\0" + compress(bytes(100_000_000)))
        with_chunk(file, text)
        made = protected_file(file, DELTA, Job())
        assert near(made, picture((48, 32)).transpose(Image.Transpose.ROTATE_270))
        assert made.about.notes == [extras.DAMAGED_PARTS]
        new = opened(made)
        assert new.getexif()[0x010F] == "A camera" and round(new.info["dpi"][0]) == 300
        assert (pictures.read(file, 16) == pictures.read(clean(file, tmp_path), 16)).all()

    def test_exif_data_with_a_wrong_checksum_are_not_believed(self, tmp_path: Path) -> None:
        file = saved(picture((48, 32)), tmp_path, "a.png", exif=tagged(6))
        content = file.read_bytes()
        at = content.index(b"eXIf")
        file.write_bytes(content[: at + 10] + b"?" + content[at + 11 :])
        made = protected_file(file, DELTA, Job())
        assert near(made, picture((48, 32))) and made.about.notes == [extras.DAMAGED_PARTS]
        assert "exif" not in opened(made).info

    def test_do_not_keep_a_picture_out_of_a_folder(self, tmp_path: Path) -> None:
        save_each(tmp_path / "in", ["a/0.png", "b/0.png"])
        with_chunk(
            tmp_path / "in" / "a" / "0.png", chunk(b"tEXt", b"Comment\0hello")[:-4] + bytes(4)
        )
        report = protect(tmp_path / "in", tmp_path / "out", QUICK)
        assert report.written == 2 and report.changed == {"a/0.png": extras.DAMAGED_PARTS}
        pairs, missing = copies_of(tmp_path / "in", tmp_path / "out")
        assert len(pairs) == 2 and missing == []
        assert np.abs(levels(upright(pairs[0].picture)) - levels(upright(pairs[0].copy))).max() <= 8

    def test_pixels_with_a_wrong_checksum_are_refused(self, tmp_path: Path) -> None:
        file = saved(picture(), tmp_path, "a.png")
        content = file.read_bytes()
        at = content.index(b"IDAT")
        file.write_bytes(content[: at + 50] + b"\xff\xff" + content[at + 52 :])
        with pytest.raises(ValueError, match="a.png: "):
            pictures.read(file, 16)


def clean(file: Path, folder: Path) -> Path:
    return saved(picture((48, 32)), folder, "clean.png", exif=tagged(6))


class TestRefused:
    def test_a_jpeg_of_12_bits_is_called_so(self, tmp_path: Path) -> None:
        file = saved(picture(), tmp_path, "a.jpg")
        content = bytearray(file.read_bytes())
        content[content.index(b"\xff\xc0") + 4] = 12
        file.write_bytes(content)
        with pytest.raises(ValueError, match="a JPEG with 12 bits a colour.*: save it as PNG"):
            pictures.read(file, 16)

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (b"\0\0\0\x18ftypheic" + bytes(20), "a HEIC"),
            (b"\0\0\0\x18ftypavif" + bytes(20), "an AVIF"),
            (b"\0\0\0\x18ftypmp42" + bytes(20), "a video"),
            (b"II*\0" + bytes(20), "a TIFF"),
            (b"", "empty"),
        ],
    )
    def test_other_formats_by_the_name_of_jpeg_are_called_so(
        self, content: bytes, kind: str, tmp_path: Path
    ) -> None:
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(ValueError, match=f"a.jpg: it is {kind}"):
            pictures.read(tmp_path / "a.jpg", 16)


def test_a_resolution_that_no_file_can_have_is_not_written(tmp_path: Path) -> None:
    file = saved(picture(), tmp_path, "a.png")
    with_chunk(file, chunk(b"pHYs", struct.pack(">IIB", 2**31, 2**31, 1)))
    made = protected_file(file, DELTA, Job(format="jpg"))
    assert opened(made).format == "JPEG" and encode.NO_EXIF not in made.about.notes


# --- what a file holds besides the picture -------------------------------------------------------

PQ = bytes([9, 16, 0, 1])  # colours of HDR: BT.2020, PQ
FTYP = b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(400)
XMP = b"http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version='1.0' a='http://ns.adobe.com/hdr-gain-map/1.0/'/>"


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segment(file: Path, new: bytes) -> Path:
    """Insert a segment into a JPEG file, behind its start."""
    content = file.read_bytes()
    file.write_bytes(content[:2] + new + content[2:])
    return file


def behind(file: Path, rest: bytes) -> Path:
    file.write_bytes(file.read_bytes() + rest)
    return file


class TestExtras:
    def test_colours_without_a_profile_are_kept_or_told(self, tmp_path: Path) -> None:
        file = saved(picture(), tmp_path, "a.png")
        light = struct.pack(">II", 10_000_000, 4_000_000)
        with_chunk(file, chunk(b"cLLI", light))
        with_chunk(file, chunk(b"cICP", PQ))
        made = protected_file(file, DELTA, Job())
        assert chunk(b"cICP", PQ) in made.content and chunk(b"cLLI", light) in made.content
        assert made.content.index(b"cICP") < made.content.index(b"IDAT") and made.about.notes == []
        assert protected_file(file, DELTA, Job(format="jpg")).about.notes == [extras.NO_COLOURS]

    def test_the_video_of_a_motion_photo_is_told_of(self, tmp_path: Path) -> None:
        file = behind(saved(picture(), tmp_path, "a.jpg"), FTYP)
        made = protected_file(file, DELTA, Job())
        assert made.about.notes == [extras.NO_VIDEO] and b"ftyp" not in made.content

    def test_anything_else_behind_a_picture_is_told_of(self, tmp_path: Path) -> None:
        file = behind(saved(picture(), tmp_path, "a.jpg"), b"SEFH and more of a camera's own")
        assert protected_file(file, DELTA, Job()).about.notes == [extras.NO_REST]
        file = behind(saved(picture(), tmp_path, "b.jpg"), bytes(300))  # filling
        assert protected_file(file, DELTA, Job()).about.notes == []

    @pytest.mark.parametrize("known", [True, False])
    def test_a_gain_map_is_told_of_as_what_it_is(self, known: bool, tmp_path: Path) -> None:
        """Pillow sees two pictures; phones show one, with more brightness."""
        file = tmp_path / "a.jpg"
        picture().save(file, "MPO", save_all=True, append_images=[picture((20, 15), "L")])
        if known:
            with_segment(file, segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0"))
        made = protected_file(file, DELTA, Job())
        assert made.about.notes == [extras.NO_GAIN_MAP if known else extras.FIRST_ONLY]

    def test_a_gain_map_that_only_xmp_data_name(self, tmp_path: Path) -> None:
        file = tmp_path / "a.jpg"
        picture().save(file, "MPO", save_all=True, append_images=[picture((20, 15), "L")])
        made = protected_file(with_segment(file, segment(0xE1, XMP)), DELTA, Job())
        assert made.about.notes == [extras.NO_TEXTS, extras.NO_GAIN_MAP]

    @pytest.mark.parametrize("kind", ["jpg", "png"])
    def test_content_credentials_are_told_of(self, kind: str, tmp_path: Path) -> None:
        file = saved(picture(), tmp_path, f"a.{kind}")
        if kind == "jpg":
            with_segment(file, segment(0xEB, b"JP\0\1\0\0\0\1jumb" + bytes(30)))
        else:
            with_chunk(file, chunk(b"caBX", b"jumb" + bytes(30)))
        assert protected_file(file, DELTA, Job()).about.notes == [extras.NO_CREDENTIALS]

    @pytest.mark.parametrize("lossless", [True, False])
    def test_a_webp_of_one_frame_stays_lossless(self, lossless: bool, tmp_path: Path) -> None:
        plain = saved(picture(), tmp_path, "a.webp", lossless=lossless, quality=80).read_bytes()
        frame = bytes(6) + bytes([39, 0, 0, 29, 0, 0]) + b"\x64\0\0\x02" + plain[12:]
        body = b"WEBP" + webp_chunk(b"VP8X", b"\x02\0\0\0" + bytes([39, 0, 0, 29, 0, 0]))
        body += webp_chunk(b"ANIM", b"\xff\xff\xff\xff\0\0") + webp_chunk(b"ANMF", frame)
        (tmp_path / "a.webp").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
        made = protected_file(tmp_path / "a.webp", DELTA, Job())
        assert extras.is_lossless_webp(made.content) == lossless and made.about.notes == []
        assert not lossless or near(made, picture())


def webp_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
