"""Which pictures are found, what is said of others, and how names are printed and kept apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from photo_files import mixed_folder, save_each
from ulelib.photos.copies import copies_of
from ulelib.photos.folders import Label, find_pictures, image_set
from ulelib.photos.names import folded, output_names, printable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return mixed_folder(tmp_path / "My pictures")


class TestFindPictures:
    def test_a_folder_without_pictures_is_reported(self, folder: Path) -> None:
        (folder / "empty" / "inside").mkdir(parents=True)
        (folder / ".hidden").mkdir()
        (folder / "only broken").mkdir()
        (folder / "only broken" / "a.gif").write_bytes(b"")
        left_out: dict[str, str] = {}
        find_pictures(folder, left_out)
        assert "no pictures" in left_out["empty"]
        assert not {"only broken", "others", ".hidden"} & left_out.keys()

    def test_a_folder_that_cannot_be_read_is_reported(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(place: str) -> None:
            raise PermissionError(13, "Permission denied", str(place))

        left_out: dict[str, str] = {}
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", refused)
            assert find_pictures(folder, left_out) == []
        assert left_out.keys() == {"."} and "Permission denied" in left_out["."]

    def test_folders_of_a_nas_or_a_system_are_left_out_and_told(self, folder: Path) -> None:
        """Their thumbnails would become a class, and what was deleted would be published."""
        before = find_pictures(folder)
        names = ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX",
                 ".thumbnails")  # fmt: skip
        save_each(folder, [f"{name}/IMG.jpg/THUMB.jpg" for name in names])
        save_each(folder, ["others/@eaDir/0.png/THUMB.jpg", "others/@eaDir/x.jpg"])
        left_out: dict[str, str] = {}
        assert find_pictures(folder, left_out) == before
        for name in names:
            assert "thumbnails or deleted files" in left_out[name]
        assert left_out["@eaDir"].endswith(", and 1 more of this name")
        assert "others/@eaDir" not in left_out and "more" not in left_out["#recycle"]

    def test_a_class_of_nothing_but_thumbnails_is_told_of(self, folder: Path) -> None:
        save_each(folder, ["cat/@eaDir/0.jpg"])
        left_out: dict[str, str] = {}
        find_pictures(folder, left_out)
        assert "thumbnails" in left_out["cat/@eaDir"]

    def test_thumbnails_are_no_pictures_without_a_copy(self, tmp_path: Path) -> None:
        save_each(tmp_path, ["mine/a/0.png", "mine/@eaDir/0.png/THUMB.jpg", "made/a/0.png"])
        pairs, missing = copies_of(tmp_path / "mine", tmp_path / "made")
        assert len(pairs) == 1 and missing == []

    def test_links_to_folders_are_not_followed_but_reported(self, folder: Path) -> None:
        before = find_pictures(folder)
        (folder / "linked").symlink_to(folder / "others", target_is_directory=True)
        left_out: dict[str, str] = {}
        assert find_pictures(folder, left_out) == before
        assert "link" in left_out["linked"]

    def test_pictures_of_a_flat_folder_are_a_class(self, tmp_path: Path) -> None:
        save_each(tmp_path / "me", ["0.png", "summer/1.png"])
        left_out: dict[str, str] = {}
        assert [one.label for one in find_pictures(tmp_path / "me", left_out)] == ["summer"]
        assert left_out.keys() == {"0.png"}
        found = find_pictures(tmp_path / "me", flat=True)
        assert [(str(one.name), one.label) for one in found] == [
            ("0.png", "me"), ("summer/1.png", "summer"),
        ]  # fmt: skip


class TestImageSet:
    def test_own_and_foreign_classes_of_a_name_are_two(self) -> None:
        labels = [Label("a", True), Label("a", False), Label("a", True)]
        images, own = image_set(torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8), labels, "x")
        assert images.labels.tolist() == [0, 1, 0] and own == (0,)

    def test_no_name_makes_an_own_class_foreign(self) -> None:
        """Whatever the folder is called, such as the printed name of a foreign class."""
        labels = [Label(str(Label("x", False)), True), Label("x", False)]
        images, own = image_set(torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8), labels, "x")
        assert str(labels[0]) == str(labels[1]) and len(images.classes) == 2
        assert own == (int(images.labels[0]),)


class TestNames:
    def test_a_name_cannot_command_a_terminal(self) -> None:
        assert printable(Path("a\nb\x1b[31mé ü.png")) == r"a\nb\x1b[31mé ü.png"

    def test_output_names_differ_from_those_made_for_others(self) -> None:
        outputs = output_names([Path("a", n) for n in ("x.png", "x.bmp", "x.png.bmp")], "jpg")
        assert len(set(outputs)) == 3 and all(output.suffix == ".jpg" for output in outputs)

    def test_output_names_differ_in_more_than_how_an_umlaut_is_written(self) -> None:
        outputs = output_names([Path("a", n) for n in ("\u00fc.png", "u\u0308.bmp")], "jpg")
        assert len({folded(one) for one in outputs}) == 2
