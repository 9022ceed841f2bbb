"""EXIF data are changed in place: what a photographer and a camera wrote stays byte for byte."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from photo_files import DELTA, picture, saved, tagged
from ulelib.photos import encode
from ulelib.photos.encode import protected_file
from ulelib.photos.exif import Broken, Exif
from ulelib.photos.job import Job

ARTIST = "Zoë Müller".encode()
COPYRIGHT = "© 2026 Jürgen Ångström".encode()
LATIN = "Café à Genève".encode("latin-1")  # older programs write it
ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 2, 3, 4, 5, 7


def preview() -> bytes:
    small = io.BytesIO()
    picture((16, 12)).save(small, "JPEG")
    return small.getvalue()


class Block:
    """Builds EXIF data: directories, whose values lie behind them."""

    def __init__(self, order: str) -> None:
        self.order = order
        self.data = bytearray({"<": b"II*\0", ">": b"MM\0*"}[order] + bytes(4))
        self.places: dict[str, tuple[int, int]] = {}

    def number(self, at: int, value: int) -> None:
        struct.pack_into(self.order + "I", self.data, at, value)

    def directory(self, name: str, entries: list[tuple[int, int, Any]]) -> int:
        """Append a directory of (tag, kind, value) and return where it begins."""
        at = len(self.data)
        self.data += struct.pack(self.order + "H", len(entries)) + bytes(12 * len(entries) + 4)
        for index, (tag, kind, value) in enumerate(entries):
            size = {ASCII: 1, UNDEFINED: 1, SHORT: 2, LONG: 4, RATIONAL: 8}[kind]
            if isinstance(value, int):
                value = struct.pack(self.order + ("H" if kind == SHORT else "I"), value)
            place = at + 2 + 12 * index
            struct.pack_into(self.order + "HHI", self.data, place, tag, kind, len(value) // size)
            if len(value) <= 4:
                self.data[place + 8 : place + 8 + len(value)] = value
            else:
                self.number(place + 8, len(self.data))
                self.places[f"{name} {tag:04x}"] = len(self.data), len(self.data) + len(value)
                self.data += value
        self.places[name] = at, at + 2 + 12 * len(entries)
        return at


def camera_data(order: str, orientation: int = 6, deep: bytes = b"") -> Block:
    """EXIF data like a camera's: texts, a maker note that points into itself, place and preview.

    Args:
        deep: a picture in the maker note.
    """
    block = Block(order)
    note = b"Nikon\0\2\x11\0\0" + deep + struct.pack(order + "I", 0xDEAD) + bytes(range(200))
    first = block.directory("first", [
        (0x010E, ASCII, LATIN + b"\0"), (0x010F, ASCII, b"A camera\0"),
        (0x0112, SHORT, orientation), (0x013B, ASCII, ARTIST + b"\0"),
        (0x8298, ASCII, COPYRIGHT + b"\0"), (0x8769, LONG, 0), (0x8825, LONG, 0),
    ])  # fmt: skip
    block.number(4, first)
    exif = block.directory("exif", [
        (0x829A, RATIONAL, struct.pack(order + "II", 1, 250)), (0x927C, UNDEFINED, note),
    ])  # fmt: skip
    degrees = struct.pack(order + "6I", 48, 1, 8, 1, 0, 1)
    place = block.directory("place", [(1, ASCII, b"N\0"), (2, RATIONAL, degrees)])
    small = preview()
    second = block.directory("second", [(0x0201, LONG, 0), (0x0202, LONG, len(small))])
    block.number(second + 2 + 8, len(block.data))
    block.places["preview"] = len(block.data), len(block.data) + len(small)
    block.data += small
    block.number(first + 2 + 5 * 12 + 8, exif)
    block.number(first + 2 + 6 * 12 + 8, place)
    block.number(block.places["first"][1], second)
    return block


def changed(before: bytes, after: bytes) -> set[int]:
    assert len(before) == len(after)
    return {at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}


def within(block: Block, *names: str) -> set[int]:
    return {at for name in names for at in range(*block.places[name])}


@pytest.mark.parametrize("order", "<>")
class TestInPlace:
    def test_texts_and_maker_note_stay_where_they_were(self, order: str, tmp_path: Path) -> None:
        """In a file with a preview, as cameras write them (Pillow #5273)."""
        block = camera_data(order)
        file = saved(picture(), tmp_path, "a.jpg", exif=b"Exif\0\0" + bytes(block.data))
        made = protected_file(file, DELTA, Job())
        found = Image.open(io.BytesIO(made.content)).info["exif"][6:]
        end = block.places["first"][1]  # where the distance to the preview's directory lies
        assert changed(block.data, found) <= within(block, "preview") | {*range(end, end + 4)}
        assert preview() not in made.content and made.about.notes == [encode.NO_PREVIEW]
        for text in (ARTIST, COPYRIGHT, LATIN):
            assert text in found
        assert made.about.placed

    @pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
    def test_only_the_place_is_removed(self, order: str, kind: str, tmp_path: Path) -> None:
        block = camera_data(order)
        file = saved(picture(), tmp_path, f"a.{kind}", exif=b"Exif\0\0" + bytes(block.data))
        made = protected_file(file, DELTA, Job(drop_location=True))
        opened = Image.open(io.BytesIO(made.content))
        found = opened.info["exif"].removeprefix(b"Exif\0\0")
        first = block.places["first"]
        may = within(block, "first", "preview", "place", "place 0002")
        assert changed(block.data, found) <= may | {*range(first[1], first[1] + 4)}
        assert made.about.notes == [encode.NO_PREVIEW, encode.NO_PLACE] and not made.about.placed
        assert struct.pack(order + "6I", 48, 1, 8, 1, 0, 1) not in found
        tags = opened.getexif()
        assert {*tags} == {0x010E, 0x010F, 0x0112, 0x013B, 0x8298, 0x8769}
        assert tags[0x0112] == 6 and tags.get_ifd(0x8769)[0x829A] == 1 / 250
        assert ARTIST in found and COPYRIGHT in found

    def test_a_picture_in_the_maker_note_is_blanked_alone(self, order: str, tmp_path: Path) -> None:
        block = camera_data(order, deep=preview())
        file = saved(picture(), tmp_path, "a.jpg", exif=b"Exif\0\0" + bytes(block.data))
        made = protected_file(file, DELTA, Job())
        found = Image.open(io.BytesIO(made.content)).info["exif"][6:]
        assert preview() not in made.content
        assert struct.pack(order + "I", 0xDEAD) + bytes(range(200)) in found
        assert made.about.notes == [encode.NO_PREVIEW]

    def test_a_cut_off_picture_takes_nothing_else_with_it(self, order: str) -> None:
        block = camera_data(order, deep=preview()[:-40])
        exif = Exif(bytes(block.data))
        assert exif.drop_previews()
        note = block.places["exif 927c"]
        assert (
            exif.data[note[1] : block.places["preview"][0]]
            == (block.data[note[1] : block.places["preview"][0]])
        )
        assert preview()[:100] not in exif.data


class TestOddData:
    def test_the_last_entry_may_be_the_place(self) -> None:
        block = Block("<")
        place = block.directory("place", [(1, ASCII, b"N\0")])
        block.number(4, block.directory("first", [(0x8825, LONG, place)]))
        exif = Exif(bytes(block.data))
        assert exif.has_place
        exif.drop_place()
        assert exif.coded() == b"" and not exif.has_place

    @pytest.mark.parametrize(
        "coded",
        [b"", b"Exif\0\0", b"II*\0\x08\0", b"no data at all", b"II*\0\xff\xff\0\0" + bytes(20),
         b"MM\0*\0\0\0\x08\xff\xff" + bytes(40)],
    )  # fmt: skip
    def test_what_cannot_be_followed_is_told(self, coded: bytes, tmp_path: Path) -> None:
        with pytest.raises(Broken):
            Exif(coded)
        if coded not in (b"", b"Exif\0\0"):
            file = saved(picture(), tmp_path, "a.png", exif=coded)
            made = protected_file(file, DELTA, Job())
            assert made.about.notes == [encode.NO_EXIF]
            assert "exif" not in Image.open(io.BytesIO(made.content)).info

    def test_a_preview_over_other_data_is_not_blanked(self, tmp_path: Path) -> None:
        block = camera_data("<")
        second = block.places["second"][0]
        block.number(second + 2 + 8, block.places["first 8298"][0])
        file = saved(picture(), tmp_path, "a.jpg", exif=b"Exif\0\0" + bytes(block.data))
        made = protected_file(file, DELTA, Job())
        exif = Image.open(io.BytesIO(made.content)).getexif()
        assert dict(exif) == {0x0112: 6} and made.about.notes == [encode.ONLY_ORIENTATION]
        assert preview() not in made.content

    def test_a_value_that_others_cannot_read_is_kept_and_told(self, tmp_path: Path) -> None:
        block = Block("<")
        odd = struct.pack("<ii", -1, 0)
        block.number(4, block.directory("first", [(0x0112, SHORT, 6), (0x011A, RATIONAL, odd)]))
        struct.pack_into("<H", block.data, block.places["first"][0] + 2 + 12 + 2, 10)  # signed
        file = tmp_path / "a.jpg"
        saved(picture(), tmp_path, "a.jpg", exif=b"Exif\0\0" + bytes(block.data))
        made = protected_file(file, DELTA, Job())
        assert made.about.notes == [encode.ODD_EXIF]
        opened = Image.open(io.BytesIO(made.content))
        assert opened.info["exif"][6:] == block.data and opened.getexif()[0x0112] == 6

    def test_exif_data_in_a_text_of_a_png_are_kept(self, tmp_path: Path) -> None:
        """As ImageMagick writes them."""
        coded = tagged(6).tobytes()
        texts = PngImagePlugin.PngInfo()
        texts.add_text(
            "Raw profile type exif", f"\nexif\n{len(coded):8}\n{coded.hex()}\n", zip=True
        )
        file = saved(picture(), tmp_path, "a.png", pnginfo=texts)
        made = protected_file(file, DELTA, Job())
        assert Image.open(io.BytesIO(made.content)).info["exif"] == coded
        assert made.about.notes == []
