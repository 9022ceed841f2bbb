"""Uploaded files: unpacked into a folder, or refused."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import pytest

from photo_files import file_names, uploaded, zipped
from ulelib.photos import uploads
from ulelib.photos.folders import Refused
from ulelib.photos.uploads import unpack


class TestUnpack:
    def test_finds_the_classes_in_a_packed_folder(self, tmp_path: Path) -> None:
        pictures = {"röt & co/0.png": b"x", "blue/0.png": b"y"}
        files = {f"a/b/{name}": content for name, content in pictures.items()}
        files |= {"__MACOSX/a/b/._0.png": b"x", "a/.DS_Store": b"x"}
        found = unpack([uploaded("a.ZIP", zipped(files))], tmp_path / "new")
        assert found == tmp_path / "new" / "a" / "b" and file_names(found) == set(pictures)

    def test_one_class_stays_a_folder(self, tmp_path: Path) -> None:
        found = unpack([uploaded("a.zip", zipped({"red/0.png": b"x"}))], tmp_path / "new")
        assert file_names(found) == {"red/0.png"}

    @pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/out.png"])
    def test_nothing_leads_outside(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(Refused, match="outside of"):
            unpack([uploaded("a.zip", zipped({name: b"x"}))], tmp_path / "new")
        assert file_names(tmp_path) == set()

    def test_names_of_uploads_lead_to_no_other_folder(self, tmp_path: Path) -> None:
        found = unpack(
            [uploaded("..\\..\\0.png", b"x"), uploaded("/a/1.png", b"y")], tmp_path / "n"
        )
        assert file_names(tmp_path) == {"n/0.png", "n/1.png"} and found == tmp_path / "n"

    @pytest.mark.parametrize(
        ("packed", "system", "unpacked"),
        [
            ("Änne/ü.png", 3, "Änne/ü.png"),  # as macOS packs it
            ("caf\xe9/a.png", 3, "caf\xe9/a.png"),
            ("a\\b.png", 0, "a/b.png"),  # as some Windows programs do
            ("a\\b.png", 3, "a\\b.png"),
        ],
    )
    def test_names_are_those_that_were_packed(
        self, packed: str, system: int, unpacked: str, tmp_path: Path
    ) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as made:
            entry = zipfile.ZipInfo(packed)
            entry.create_system = system
            made.writestr(entry, b"x")
            made.writestr("other/c.png", b"x")
        marked = file.getvalue()
        content = bytearray(marked)
        for head, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            content[content.index(head) + flags + 1] &= ~0x08 & 0xFF  # the mark of UTF-8
        for number, one in enumerate((marked, bytes(content))):
            folder = unpack([{"name": "a.zip", "content": one}], tmp_path / str(number))
            assert (folder / unpacked).read_bytes() == b"x"

    def test_a_file_and_a_folder_of_one_name_are_refused(self, tmp_path: Path) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("a", b"x")
            made.writestr("a/b.png", b"x")
        with pytest.raises(Refused, match="cannot be unpacked"):
            unpack([{"name": "a.zip", "content": file.getvalue()}], tmp_path / "in")

    def test_links_are_left_out(self, tmp_path: Path) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as packed:
            link = zipfile.ZipInfo("a/link.png")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            packed.writestr(link, "/etc/passwd")
            packed.writestr("b/0.png", b"x")
        found = unpack([uploaded("a.zip", file.getvalue())], tmp_path / "new")
        assert file_names(found) == {"b/0.png"}

    def test_damaged_and_huge_ones_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(Refused, match="cannot be unpacked"):
            unpack([uploaded("a.zip", b"PK no more")], tmp_path / "a")
        whole = bytearray(zipped({"a/0.png": b"0123456789" * 50}))
        whole[60] ^= 1
        with pytest.raises(Refused, match="cannot be unpacked"):
            unpack([uploaded("a.zip", bytes(whole))], tmp_path / "b")
        corrupt = io.BytesIO()
        with zipfile.ZipFile(corrupt, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("a/0.png", bytes(range(256)) * 20)
        stream = bytearray(corrupt.getvalue())
        stream[37:45] = b"\xff" * 8  # within the coded bytes
        with pytest.raises(Refused, match="cannot be unpacked"):
            unpack([uploaded("a.zip", bytes(stream))], tmp_path / "d")
        monkeypatch.setattr(uploads, "MOST_BYTES", 100)
        with pytest.raises(Refused, match="unpacks to 1 files"):
            unpack([uploaded("a.zip", zipped({"a/0.png": b"0" * 101}))], tmp_path / "c")
        two = [uploaded(f"{n}.zip", zipped({f"a/{n}.png": b"0" * 51})) for n in range(2)]
        with pytest.raises(Refused, match=r"1\.zip unpacks to 1 files"):  # together too much
            unpack(two, tmp_path / "e")

    def test_an_encrypted_one_says_what_to_do(self, tmp_path: Path) -> None:
        content = bytearray(zipped({"a/0.png": b"x"}))
        for entry, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            content[content.index(entry) + flags] |= 1
        with pytest.raises(Refused, match=r"a\.zip is encrypted: unpack it") as refused:
            unpack([uploaded("a.zip", bytes(content))], tmp_path / "a")
        assert "ZipInfo" not in str(refused.value)

    def test_names_that_are_too_long_are_refused(self, tmp_path: Path) -> None:
        long = f"{300 * 'a'}.png"
        for number, file in enumerate(
            (uploaded(long, b"x"), uploaded("a.zip", zipped({long: b"x"})))
        ):
            with pytest.raises(Refused, match="has a name"):
                unpack([file], tmp_path / str(number))

    def test_two_zip_files_with_one_name_in_both_are_refused(self, tmp_path: Path) -> None:
        files = [uploaded(f"{n}.zip", zipped({"anna/1.jpg": b"%d" % n})) for n in range(2)]
        with pytest.raises(Refused, match="two files are named anna/1.jpg"):
            unpack(files, tmp_path / "new")

    def test_two_files_of_one_name_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(Refused, match="two files are named 0.png"):
            unpack([uploaded("0.png", b"x"), uploaded("0.png", b"y")], tmp_path / "a")
