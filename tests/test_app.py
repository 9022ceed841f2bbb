"""The app: what its controls do, uploaded files, and once in a browser from upload to download."""

from __future__ import annotations

import base64
import datetime
import io
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import PROJECT
from ulelib import app as module
from ulelib import check, protect
from ulelib.app import HERE, UPLOADED, App, unpack
from ulelib.protect import Job, Refused


def coloured(colour: tuple[int, int, int], seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(-20, 20, (24, 24, 3))
    file = io.BytesIO()
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def pictures() -> dict[str, bytes]:
    colours = {"röt & co": (200, 60, 60), "blue": (60, 60, 200)}
    return {
        f"{label}/{number}.png": coloured(colour, number)
        for label, colour in colours.items()
        for number in range(8)
    }


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return file.getvalue()


def uploaded(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "type": "", "size": len(content), "content": content,
            "last_modified": datetime.datetime.now(datetime.UTC)}  # fmt: skip


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def in_download(app: App) -> set[str]:
    (data,) = re.findall(r"base64,([^\"]+)", app.download.value)
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(data))) as packed:
        return {one.filename for one in packed.infolist() if not one.is_dir()}


@pytest.fixture
def quick() -> App:
    app = App()
    app.method.value, app.size.value = "CSD", 32
    return app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in pictures().items():
        target = tmp_path / "mine" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return tmp_path / "mine"


class TestApp:
    def test_protects_a_folder(self, quick: App, folder: Path) -> None:
        quick.folder.value = f"{folder}/"
        assert quick.out.value == f"{folder} protected"
        (folder / "blue" / "no <b>picture.png").write_bytes(b"")
        assert quick.ask.disabled
        (folder.parent / "mine protected.zip").write_bytes(b"of somebody")
        quick.start.click()
        quick.join()
        out = Path(quick.out.value)
        assert names(out) == set(pictures()) == in_download(quick)
        (untouched,) = folder.parent.glob("*.zip")
        assert untouched.read_bytes() == b"of somebody"
        assert "16 pictures protected" in quick.said.value
        assert "no &lt;b&gt;picture" in quick.said.value  # names are strangers', and no code
        assert quick.shown.value.count("<img") == 3 * 3 and "röt &amp; co/" in quick.shown.value
        assert not quick.start.disabled and not quick.ask.disabled

    def test_protects_what_is_uploaded(self, quick: App) -> None:
        quick.source.value = UPLOADED
        files = {f"my pictures/{name}": content for name, content in pictures().items()}
        quick.own_files.value = (uploaded("my pictures.zip", zipped(files)),)
        quick.start.click()
        quick.join()
        assert in_download(quick) == set(pictures())

    def test_protects_one_person_among_others(self, quick: App) -> None:
        quick.source.value, quick.method.value = UPLOADED, "ULEO"
        red = [content for name, content in pictures().items() if name.startswith("r")]
        quick.own_files.value = tuple(uploaded(f"{n}.png", one) for n, one in enumerate(red))
        quick.other_files.value = (uploaded("them.zip", zipped(pictures())),)
        quick.start.click()
        quick.join()
        assert in_download(quick) == {f"{number}.png" for number in range(8)}

    def test_every_control_reaches_the_work(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[object] = []

        def refused(folder: Path, out: Path, job: Job, others: Path, report: object) -> None:
            given.extend((folder, out, job, others))
            raise Refused("seen")

        monkeypatch.setattr(module, "protect", refused)
        quick.folder.value, quick.others.value, quick.out.value = str(folder), "/them", "/out"
        quick.method.value, quick.strength.value, quick.size.value = "ULEO", 5, 64
        quick.format.value, quick.drop_location.value = "png", True
        quick.start.click()
        quick.join()
        job = Job(method="ULEO", strength=5, size=64, format="png", drop_location=True)
        assert given == [folder, Path("/out"), job, Path("/them")]

    def test_a_check_is_among_the_same_others(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[object] = []

        def refused(folder: Path, out: Path, others: Path, report: object) -> None:
            given.extend((folder, out, others))
            raise Refused("seen")

        monkeypatch.setattr(module, "check", refused)
        quick._done = folder, Path("/out"), Path("/them")
        quick.ask.disabled = False
        quick.ask.click()
        quick.join()
        assert given == [folder, Path("/out"), Path("/them")]

    def test_shows_only_the_controls_of_one_source(self, quick: App) -> None:
        boxes = [quick._here, quick._upload]
        for source, shown in ((HERE, ["", "none"]), (UPLOADED, ["none", ""])):
            quick.source.value = source
            assert [box.layout.display for box in boxes] == shown

    @pytest.mark.parametrize(
        ("source", "said"), [(HERE, "name the folder"), (UPLOADED, "upload your pictures")]
    )
    def test_says_what_is_missing(self, quick: App, source: str, said: str) -> None:
        quick.source.value = source
        quick.start.click()
        quick.join()
        assert said in quick.said.value
        assert quick.ask.disabled and not quick.start.disabled and not quick.download.value

    def test_says_what_was_refused_and_forgets_the_last_result(
        self, quick: App, folder: Path
    ) -> None:
        quick.folder.value = str(folder)
        quick.start.click()
        quick.join()
        quick.start.click()
        quick.join()
        assert "is not empty" in quick.said.value
        assert quick.ask.disabled and not quick.download.value and not quick.shown.value

    def test_can_be_stopped_and_goes_on(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ulelib.pictures.TELL_EACH", 0.0)
        made = protect.protected_file

        def stopped(*arguments: Any) -> Any:
            quick.stop.click()
            return made(*arguments)

        quick.folder.value = str(folder)
        with monkeypatch.context() as patch:
            patch.setattr(protect, "protected_file", stopped)
            quick.start.click()
            first = quick._worker
            quick.start.click()
            assert quick._worker is first  # and nothing else is
            quick.join()
        assert "Stopped. The folder is not finished" in quick.said.value
        assert quick.stop.disabled and quick.ask.disabled and not quick.start.disabled
        assert quick.stop.description == "Stop"
        assert not quick.download.value and len(names(Path(quick.out.value))) < 16 + 3
        quick.start.click()
        quick.join()
        assert "16 pictures protected" in quick.said.value and quick.stop.disabled
        assert names(Path(quick.out.value)) == set(pictures())

    def test_the_cell_run_again_stops_what_nobody_sees_any_more(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ulelib.pictures.TELL_EACH", 0.0)
        made, again = protect.protected_file, threading.Event()

        def waiting(*arguments: Any) -> Any:
            assert again.wait(60)
            return made(*arguments)

        monkeypatch.setattr(protect, "protected_file", waiting)
        quick.folder.value = str(folder)
        quick.start.click()
        App(str(folder))
        again.set()
        quick.join()
        assert "Stopped. The folder is not finished" in quick.said.value

    def test_stop_comes_too_late_for_what_is_done(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = protect.protected_file

        def stopped(*arguments: Any) -> Any:
            quick.stop.click()
            return made(*arguments)

        monkeypatch.setattr(protect, "protected_file", stopped)
        quick.folder.value = str(folder)
        quick.start.click()
        quick.join()
        assert "16 pictures protected" in quick.said.value
        assert in_download(quick) == set(pictures()) and not quick.ask.disabled

    def test_uploads_go_on_after_a_stop(self, quick: App, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ulelib.pictures.TELL_EACH", 0.0)
        made, coded = protect.protected_file, []

        def stopped(file: Path, *others: Any) -> Any:
            quick.stop.click()
            coded.append(file)
            return made(file, *others)

        quick.source.value = UPLOADED
        quick.own_files.value = (uploaded("mine.zip", zipped(pictures())),)
        monkeypatch.setattr(protect, "protected_file", stopped)
        for _ in range(16):
            quick.start.click()
            quick.join()
            if "Stopped" not in quick.said.value:
                break
        assert in_download(quick) == set(pictures())
        assert len(coded) == len(set(coded)) == 16

    def test_names_of_pictures_are_no_progress(self, quick: App, folder: Path) -> None:
        (folder / "round 1").mkdir()
        for name in ("round 2.png", "round 3.png", "1 of 2 pictures are written.png"):
            (folder / "round 1" / name).write_bytes(b"")
        quick.folder.value = str(folder)
        quick.start.click()
        quick.join()
        assert quick.said.value.count("round 1/") == 3

    def test_shows_of_all_rounds_the_latest(self, quick: App, folder: Path) -> None:
        quick.folder.value, quick.method.value = str(folder), "ULEO class-wise"
        quick.start.click()
        quick.join()
        assert quick.said.value.count("round ") == 1 and "round 20 of 20: " in quick.said.value
        assert "reading the pictures" in quick.said.value

    def test_large_results_stay_where_they_are(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "EMBEDDED", 100)
        quick.folder.value = str(folder)
        quick.start.click()
        quick.join()
        assert "base64" not in quick.download.value and quick.out.value in quick.download.value
        assert names(Path(quick._uploads.name)) == set()  # nor is there a zip file of nobody's

    def test_where_no_report_can_be_written_none_is_made(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quick.folder.value = str(folder)
        quick.start.click()
        quick.join()

        def refused(**_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(module.tempfile, "TemporaryFile", refused)
        monkeypatch.setattr(module, "check", None)  # it is not asked
        quick.ask.click()
        quick.join()
        assert "Permission denied" in quick.said.value

    def test_says_all_that_was_changed_at_once(self, quick: App, folder: Path) -> None:
        """Each time the browser gets everything that was said before, too."""
        for number in range(30):
            (folder / "blue" / f"{number}.gif").write_bytes(b"")
        said: list[str] = []
        quick.said.observe(lambda change: said.append(change["new"]), "value")
        quick.folder.value = str(folder)
        quick.start.click()
        quick.join()
        assert said[-1].count(".gif:") == 30 and len(said) < 10

    def test_shows_the_report(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(check, "STEPS", 5)
        monkeypatch.setattr(check, "FILTERS", {
            name: check.FILTERS[name] for name in ("nothing", "cropping and mirroring")
        })  # fmt: skip
        monkeypatch.setattr(check, "_backbone", lambda *_: ("nothing", torch.nn.Flatten()))
        quick.folder.value = str(folder)
        quick.start.click()
        quick.join()
        quick.ask.click()
        quick.join()
        assert "<iframe" in quick.report.value and "does not protect" in quick.report.value
        assert Path(f"{quick.out.value}.html").is_file()
        assert not quick.ask.disabled


class TestUnpack:
    def test_finds_the_classes_in_a_packed_folder(self, tmp_path: Path) -> None:
        files = {f"a/b/{name}": content for name, content in pictures().items()}
        files |= {"__MACOSX/a/b/._0.png": b"x", "a/.DS_Store": b"x"}
        found = unpack([uploaded("a.ZIP", zipped(files))], tmp_path / "new")
        assert found == tmp_path / "new" / "a" / "b" and names(found) == set(pictures())

    def test_one_class_stays_a_folder(self, tmp_path: Path) -> None:
        found = unpack([uploaded("a.zip", zipped({"red/0.png": b"x"}))], tmp_path / "new")
        assert names(found) == {"red/0.png"}

    @pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/out.png"])
    def test_nothing_leads_outside(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(Refused, match="outside of itself"):
            unpack([uploaded("a.zip", zipped({name: b"x"}))], tmp_path / "new")
        assert names(tmp_path) == set()

    def test_a_name_is_a_name(self, tmp_path: Path) -> None:
        found = unpack(
            [uploaded("..\\..\\0.png", b"x"), uploaded("/a/1.png", b"y")], tmp_path / "n"
        )
        assert names(tmp_path) == {"n/0.png", "n/1.png"} and found == tmp_path / "n"

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
        said = file.getvalue()
        content = bytearray(said)
        for head, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # UTF-8, without a word of it
            content[content.index(head) + flags + 1] &= ~0x08 & 0xFF
        for number, one in enumerate((said, bytes(content))):
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
        assert names(found) == {"b/0.png"}

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
        monkeypatch.setattr(module, "MOST_BYTES", 100)
        with pytest.raises(Refused, match="unpacks to 1 files"):
            unpack([uploaded("a.zip", zipped({"a/0.png": b"0" * 101}))], tmp_path / "c")
        two = [uploaded(f"{n}.zip", zipped({f"a/{n}.png": b"0" * 51})) for n in range(2)]
        with pytest.raises(Refused, match=r"1\.zip unpacks to 1 files"):  # together too much
            unpack(two, tmp_path / "e")

    def test_names_that_are_too_long_are_refused(self, tmp_path: Path) -> None:
        long = f"{300 * 'a'}.png"
        for number, file in enumerate(
            (uploaded(long, b"x"), uploaded("a.zip", zipped({long: b"x"})))
        ):
            with pytest.raises(Refused, match="has a name that no file here can have"):
                unpack([file], tmp_path / str(number))

    def test_two_zip_files_with_one_name_in_both_are_refused(self, tmp_path: Path) -> None:
        files = [uploaded(f"{n}.zip", zipped({"anna/1.jpg": b"%d" % n})) for n in range(2)]
        with pytest.raises(Refused, match="two files are named anna/1.jpg"):
            unpack(files, tmp_path / "new")

    def test_names_that_are_no_text_are_packed(self, tmp_path: Path) -> None:
        (tmp_path / "in" / "anna").mkdir(parents=True)
        for name in (b"a\xff.jpg", "\u00e4.jpg".encode()):
            Path(os.fsdecode(os.fsencode(tmp_path / "in" / "anna") + b"/" + name)).write_bytes(b"x")
        packed = module._zipped(tmp_path / "in", tmp_path / "out.zip")
        assert set(zipfile.ZipFile(packed).namelist()) == {"anna/a%xff.jpg", "anna/\u00e4.jpg"}

    def test_two_files_of_one_name_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(Refused, match="two files are named 0.png"):
            unpack([uploaded("0.png", b"x"), uploaded("0.png", b"y")], tmp_path / "a")


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of the app, as `make app` starts it."""
    environment = {**os.environ, "ULELIB_STORE": str(tmp_path / "store")}
    server = subprocess.Popen(
        [sys.executable, "tools/app.py", "--no-browser", f"--port={free_port()}"],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert server.stdout is not None
    said = []
    for line in server.stdout:
        said.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+/\?token=\w+", line):
            break
    assert found, "".join(said)
    yield found.group()
    os.killpg(server.pid, signal.SIGTERM)
    server.communicate(timeout=30)


@pytest.mark.slow
@pytest.mark.browser
def test_in_a_browser_from_upload_to_download(browser: Any, address: str, tmp_path: Path) -> None:
    from selenium.webdriver.support.expected_conditions import (
        element_to_be_clickable,
        presence_of_element_located,
    )
    from selenium.webdriver.support.ui import WebDriverWait

    waiting = WebDriverWait(browser, 120)

    def click(xpath: str) -> None:
        waiting.until(element_to_be_clickable(("xpath", xpath))).click()

    (tmp_path / "mine.zip").write_bytes(zipped(pictures()))
    into = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", into)
    browser.get(address)
    button = "//button[contains(normalize-space(.), '{}')]"
    click(button.format(UPLOADED))
    # The control opens the system's own dialog, which nobody can drive: show its input instead.
    browser.execute_script(
        "HTMLInputElement.prototype.click = function() { document.body.append(this); }"
    )
    click(button.format("zip file"))
    found = presence_of_element_located(("xpath", "//input[@type='file']"))
    waiting.until(found).send_keys(str(tmp_path / "mine.zip"))
    waiting.until(element_to_be_clickable(("xpath", button.format("zip file (1)"))))
    click("//button[normalize-space(.)='Protect']")
    click("//a[@download]")
    made = tmp_path / "protected.zip"
    waiting.until(lambda _: made.exists())
    # Voila asks for a style sheet elsewhere, which the policy forbids; nothing else goes wrong.
    wrong = [one["message"] for one in browser.get_log("browser") if one["level"] == "SEVERE"]
    assert [one for one in wrong if "Content Security Policy" not in one] == []
    before = pictures()
    with zipfile.ZipFile(made) as packed:
        after = {one.filename: packed.read(one) for one in packed.infolist() if not one.is_dir()}
    assert after.keys() == before.keys()
    for name in before:
        first, second = (
            np.array(Image.open(io.BytesIO(files[name]))).astype(int) for files in (before, after)
        )
        assert 0 < np.abs(first - second).max() <= protect.Job.strength


@pytest.mark.slow
def test_only_with_the_token(address: str) -> None:
    with urllib.request.urlopen(address) as told:
        assert "default-src 'self'" in told.headers["Content-Security-Policy"]
        assert b"Protect your own pictures" in told.read()
    with urllib.request.urlopen(address.split("?")[0]) as told:
        assert "/login" in told.url and b"Protect your own pictures" not in told.read()
