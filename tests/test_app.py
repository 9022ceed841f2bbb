"""The app: what its controls do, and once in a browser from upload to download."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from helpers import PROJECT, tool
from photo_files import file_names, uploaded, zipped
from ulelib.photos import app as module
from ulelib.photos import check, protect
from ulelib.photos.app import FILES, HERE, NOISES, UPLOADED, App
from ulelib.photos.folders import Refused
from ulelib.photos.job import FORMATS, METHODS, Job
from ulelib.photos.picker import FolderPicker


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
        assert quick.check_button.disabled
        (folder.parent / "mine protected.zip").write_bytes(b"of somebody")
        quick.protect_button.click()
        quick.join()
        out = Path(quick.out.value)
        assert file_names(out) == set(pictures()) == in_download(quick)
        (untouched,) = folder.parent.glob("*.zip")
        assert untouched.read_bytes() == b"of somebody"
        assert "16 pictures protected" in quick.messages.value
        assert "no &lt;b&gt;picture" in quick.messages.value  # names are not HTML
        assert (
            quick.comparison.value.count("<img") == 3 * 3
            and "röt &amp; co/" in quick.comparison.value
        )
        assert not quick.protect_button.disabled and not quick.check_button.disabled

    def test_protects_what_is_uploaded(self, quick: App) -> None:
        quick.source.value = UPLOADED
        files = {f"my pictures/{name}": content for name, content in pictures().items()}
        quick.own_files.value = (uploaded("my pictures.zip", zipped(files)),)
        quick.protect_button.click()
        quick.join()
        assert in_download(quick) == set(pictures())

    def test_protects_one_person_among_others(self, quick: App) -> None:
        quick.source.value, quick.method.value = UPLOADED, "ULEO"
        red = [content for name, content in pictures().items() if name.startswith("r")]
        quick.own_files.value = tuple(uploaded(f"{n}.png", one) for n, one in enumerate(red))
        quick.other_files.value = (uploaded("them.zip", zipped(pictures())),)
        quick.protect_button.click()
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
        quick.masking.value = True
        quick.protect_button.click()
        quick.join()
        job = Job("ULEO", 5, 64, masking=True, format="png", drop_location=True)
        assert given == [folder, Path("/out"), job, Path("/them")]

    def test_a_check_uses_the_same_others(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[object] = []

        def refused(folder: Path, out: Path, others: Path, report: object, ended: object) -> None:
            given.extend((folder, out, others))
            raise Refused("seen")

        monkeypatch.setattr(module, "check", refused)
        quick._done = folder, Path("/out"), Path("/them")
        quick.check_button.disabled = False
        quick.check_button.click()
        quick.join()
        assert given == [folder, Path("/out"), Path("/them")]

    def test_nothing_chosen_is_shown_by_name(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A list shows nothing for the value None."""
        given: list[Job] = []

        def refused(folder: Path, out: Path, job: Job, others: Path, report: object) -> None:
            given.append(job)
            raise Refused("seen")

        monkeypatch.setattr(module, "protect", refused)
        app = App(str(folder))
        assert app.size.label == "what suits the noise" and app.method.label.startswith("Quick")
        app.protect_button.click()
        app.join()
        assert given == [Job()]

    def test_every_choice_of_a_job_has_a_name(self) -> None:
        assert (tuple(NOISES), tuple(FILES)) == (METHODS, FORMATS)
        assert all(method in name for method, name in NOISES.items())

    def test_says_how_visible_a_strength_is(self, quick: App) -> None:
        said = {4: "faint", 8: "can be seen", 9: "visible", 16: "plainly visible", 32: "plainly"}
        for strength, begin in said.items():
            quick.strength.value = strength
            assert quick.seen.value.startswith(begin)

    def test_shows_what_it_will_look_like_before_anything_is_written(
        self, quick: App, folder: Path
    ) -> None:
        quick.folder.value, quick.strength.value = str(folder), 12
        before = file_names(folder.parent)
        quick.preview_button.click()
        assert quick.protect_button.disabled and not quick.stop_button.disabled
        quick.join()
        assert file_names(folder.parent) == before
        assert quick.strengths.value.count("<img") == 1 and "blue/0.png" in quick.strengths.value
        for line in ("strength 12: PSNR", "strength 16, with masking: PSNR"):
            assert line in quick.strengths.value
        assert quick.messages.value.count("strength ") == 1  # only the latest is displayed
        assert "Nothing is written yet" in quick.messages.value
        assert not quick.preview_button.disabled and quick.check_button.disabled

    def test_shows_an_uploaded_picture_and_then_protects_the_upload(self, quick: App) -> None:
        quick.source.value = UPLOADED
        quick.own_files.value = (uploaded("mine.zip", zipped(pictures())),)
        quick.preview_button.click()
        quick.join()
        assert "<img" in quick.strengths.value
        quick.masking.value = True
        quick.protect_button.click()
        quick.join()
        assert in_download(quick) == set(pictures())

    def test_a_preview_can_be_stopped_and_names_what_is_missing(
        self, quick: App, folder: Path
    ) -> None:
        quick.preview_button.click()
        quick.join()
        assert "name the folder" in quick.messages.value and not quick.strengths.value
        quick.folder.value = str(folder)
        quick.messages.observe(lambda _: quick.stop_button.click(), "value")
        quick.preview_button.click()
        quick.join()
        assert "Stopped." in quick.messages.value and not quick.strengths.value

    def test_says_what_loose_pictures_are_taken_for(self, quick: App) -> None:
        quick.own_files.value = (uploaded("a.zip", b""),)
        assert quick.hint.value == ""
        quick.own_files.value = (uploaded("a.png", b""),)
        assert "count as one person" in quick.hint.value and "other people" in quick.hint.value
        quick.other_files.value = (uploaded("b.png", b""),)
        assert "other people" not in quick.hint.value

    def test_measures_of_the_noise_are_not_displayed(self, quick: App, folder: Path) -> None:
        quick.folder.value = str(folder)
        sent: list[str] = []
        quick.messages.observe(lambda change: sent.append(change["new"]), "value")
        quick.protect_button.click()
        quick.join()
        assert any("making the noise: pass 1 of" in text for text in sent)
        assert not any("another class" in text for text in sent)

    def test_work_has_one_thread(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        threads: list[int] = []

        def refused(*_: object) -> None:
            threads.append(torch.get_num_threads())
            raise Refused("seen")

        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(module, "protect", refused)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        quick.folder.value = str(folder)
        quick.protect_button.click()
        quick.join()
        torch.set_num_threads(before)
        assert threads == [1]

    def test_stop_ends_the_training_of_a_network(self, quick: App, folder: Path) -> None:
        """Within a round, long before it reports its progress."""
        passes: list[int] = []

        def counted(*_: Any) -> None:
            if threading.current_thread() is quick._worker:  # pictures are read in others
                passes.append(1)
                quick.stop_button.click()

        quick.folder.value, quick.method.value = str(folder), "ULEO"
        hook = torch.nn.modules.module.register_module_forward_pre_hook(counted)
        quick.protect_button.click()
        quick.join()
        hook.remove()
        assert "Stopped. The folder is not finished" in quick.messages.value
        assert "making the noise" not in quick.messages.value and len(passes) <= 2

    def test_stop_ends_a_check(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(check, "STEPS", 10**6)
        monkeypatch.setattr(check, "_foreseen_time", lambda *_: "forever")
        monkeypatch.setattr(check, "_backbone", lambda *_: ("nothing", torch.nn.Flatten()))
        begun, trained = threading.Event(), check._Trainings.accuracy

        def accuracy(*arguments: Any) -> float:
            begun.set()
            return trained(*arguments)

        monkeypatch.setattr(check._Trainings, "accuracy", accuracy)
        quick._done = folder, folder, None
        quick.check_button.disabled = False
        quick.check_button.click()
        assert begun.wait(60)
        quick.stop_button.click()
        quick.join()
        assert "Stopped. No report." in quick.messages.value

    def test_shows_only_the_controls_of_one_source(self, quick: App) -> None:
        boxes = [quick._here, quick._upload]
        for source, displayed in ((HERE, ["", "none"]), (UPLOADED, ["none", ""])):
            quick.source.value = source
            assert [box.layout.display for box in boxes] == displayed

    @pytest.mark.parametrize(
        ("source", "message"), [(HERE, "name the folder"), (UPLOADED, "upload your pictures")]
    )
    def test_displays_what_is_missing(self, quick: App, source: str, message: str) -> None:
        quick.source.value = source
        quick.protect_button.click()
        quick.join()
        assert message in quick.messages.value
        assert (
            quick.check_button.disabled
            and not quick.protect_button.disabled
            and not quick.download.value
        )

    def test_displays_an_error_and_forgets_the_last_result(self, quick: App, folder: Path) -> None:
        quick.folder.value = str(folder)
        quick.protect_button.click()
        quick.join()
        quick.protect_button.click()
        quick.join()
        assert "is not empty" in quick.messages.value
        assert (
            quick.check_button.disabled and not quick.download.value and not quick.comparison.value
        )

    def test_can_be_stopped_and_continued(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ulelib.pictures.REPORT_EVERY", 0.0)
        made = protect.protected_file

        def stopped(*arguments: Any) -> Any:
            quick.stop_button.click()
            return made(*arguments)

        quick.folder.value = str(folder)
        with monkeypatch.context() as patch:
            patch.setattr(protect, "protected_file", stopped)
            quick.protect_button.click()
            first = quick._worker
            quick.protect_button.click()
            assert quick._worker is first  # and nothing else is
            quick.join()
        assert "Stopped. The folder is not finished" in quick.messages.value
        assert (
            quick.stop_button.disabled
            and quick.check_button.disabled
            and not quick.protect_button.disabled
        )
        assert quick.stop_button.description == "Stop"
        assert not quick.download.value and len(file_names(Path(quick.out.value))) < 16 + 3
        quick.protect_button.click()
        quick.join()
        assert "16 pictures protected" in quick.messages.value and quick.stop_button.disabled
        assert file_names(Path(quick.out.value)) == set(pictures())

    def test_running_the_cell_again_stops_the_work_before_it(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ulelib.pictures.REPORT_EVERY", 0.0)
        made, again = protect.protected_file, threading.Event()

        def waiting(*arguments: Any) -> Any:
            assert again.wait(60)
            return made(*arguments)

        monkeypatch.setattr(protect, "protected_file", waiting)
        quick.folder.value = str(folder)
        quick.protect_button.click()
        App(str(folder))
        again.set()
        quick.join()
        assert "Stopped. The folder is not finished" in quick.messages.value

    def test_stop_does_not_undo_finished_work(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = protect.protected_file

        def stopped(*arguments: Any) -> Any:
            quick.stop_button.click()
            return made(*arguments)

        monkeypatch.setattr(protect, "protected_file", stopped)
        quick.folder.value = str(folder)
        quick.protect_button.click()
        quick.join()
        assert "16 pictures protected" in quick.messages.value
        assert in_download(quick) == set(pictures()) and not quick.check_button.disabled

    def test_uploads_can_be_continued_after_a_stop(
        self, quick: App, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ulelib.pictures.REPORT_EVERY", 0.0)
        made, coded = protect.protected_file, []

        def stopped(file: Path, *others: Any) -> Any:
            quick.stop_button.click()
            coded.append(file)
            return made(file, *others)

        quick.source.value = UPLOADED
        quick.own_files.value = (uploaded("mine.zip", zipped(pictures())),)
        monkeypatch.setattr(protect, "protected_file", stopped)
        for _ in range(16):
            quick.protect_button.click()
            quick.join()
            if "Stopped" not in quick.messages.value:
                break
        assert in_download(quick) == set(pictures())
        assert len(coded) == len(set(coded)) == 16

    def test_names_of_pictures_are_not_taken_for_progress(self, quick: App, folder: Path) -> None:
        (folder / "round 1").mkdir()
        for name in ("round 2.png", "round 3.png", "1 of 2 pictures are written.png"):
            (folder / "round 1" / name).write_bytes(b"")
        quick.folder.value = str(folder)
        quick.protect_button.click()
        quick.join()
        assert quick.messages.value.count("round 1/") == 3

    def test_displays_only_the_latest_round(self, quick: App, folder: Path) -> None:
        quick.folder.value, quick.method.value = str(folder), "ULEO class-wise"
        quick.protect_button.click()
        quick.join()
        assert (
            quick.messages.value.count("round ") == 1
            and "making the noise: round 20 of 20<" in quick.messages.value
        )
        assert "reading the pictures" in quick.messages.value

    def test_large_results_stay_where_they_are(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "EMBEDDED", 100)
        quick.folder.value = str(folder)
        quick.protect_button.click()
        quick.join()
        assert "base64" not in quick.download.value and quick.out.value in quick.download.value
        assert file_names(Path(quick._uploads.name)) == set()  # nor is a zip file left

    def test_nothing_is_trained_if_no_report_can_be_written(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quick.folder.value = str(folder)
        quick.protect_button.click()
        quick.join()

        def refused(**_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(module.tempfile, "TemporaryFile", refused)
        monkeypatch.setattr(module, "check", None)  # not called
        quick.check_button.click()
        quick.join()
        assert "Permission denied" in quick.messages.value

    def test_displays_the_whole_report_at_once(self, quick: App, folder: Path) -> None:
        """The browser gets the whole log each time it changes."""
        for number in range(30):
            (folder / "blue" / f"{number}.gif").write_bytes(b"")
        sent: list[str] = []
        quick.messages.observe(lambda change: sent.append(change["new"]), "value")
        quick.folder.value = str(folder)
        quick.protect_button.click()
        quick.join()
        assert sent[-1].count(".gif:") == 30 and len(sent) < 10

    def test_shows_the_report(
        self, quick: App, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(check, "STEPS", 5)
        monkeypatch.setattr(check, "FILTERS", {
            name: check.FILTERS[name] for name in ("nothing", check.CROP_FLIP)
        })  # fmt: skip
        monkeypatch.setattr(check, "_backbone", lambda *_: ("nothing", torch.nn.Flatten()))
        quick.folder.value = str(folder)
        quick.protect_button.click()
        quick.join()
        quick.check_button.click()
        quick.join()
        assert "<iframe" in quick.report.value and "does not protect" in quick.report.value
        assert Path(f"{quick.out.value}.html").is_file()
        assert not quick.check_button.disabled


class TestFolderPicker:
    def test_takes_a_folder_from_the_list(self, tmp_path: Path) -> None:
        for name in ("b <1>", "a", ".hidden"):
            (tmp_path / "pictures" / name).mkdir(parents=True)
        (tmp_path / "pictures" / "file.png").write_bytes(b"")
        picker = FolderPicker("Pictures", str(tmp_path / "pictures" / "none"), "")
        assert picker.list.layout.display == "none"
        picker.browse.click()
        assert picker.list.layout.display == "" and str(tmp_path) in picker.here.value
        assert [text for text, _ in picker.inside.options] == ["..", "a", "b <1>"]
        picker.inside.value = 2
        assert "b &lt;1&gt;" in picker.here.value
        assert [text for text, _ in picker.inside.options] == [".."]
        picker.inside.value = 0
        picker.inside.value = 1
        picker.take.click()
        assert picker.field.value == str(tmp_path / "pictures" / "a")
        assert picker.list.layout.display == "none"

    def test_an_empty_field_begins_at_home(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        picker = FolderPicker("Pictures", "", "")
        picker.browse.click()
        assert str(tmp_path) in picker.here.value
        picker.close.click()
        assert picker.field.value == ""


def test_the_running_app_shows_no_dead_links_and_no_missing_controls() -> None:
    module = tool("app")
    notebook = nbformat.read(module.NOTEBOOK, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert module.NO_CONTROLS in text and "](14b_what_it_is_worth)" in text
    made = module.as_app(None, notebook=notebook, cwd="")
    text = "\n".join(cell.source for cell in made.cells)
    assert "controls above" not in text and "](" not in text and "What the settings mean" in text
    assert "What is protecting photographs worth?" in text


def test_names_that_are_not_utf8_can_be_downloaded(tmp_path: Path) -> None:
    (tmp_path / "in" / "anna").mkdir(parents=True)
    for name in (b"a\xff.jpg", "\u00e4.jpg".encode()):
        Path(os.fsdecode(os.fsencode(tmp_path / "in" / "anna") + b"/" + name)).write_bytes(b"x")
    packed = module._zipped(tmp_path / "in", tmp_path / "out.zip")
    assert set(zipfile.ZipFile(packed).namelist()) == {"anna/a%xff.jpg", "anna/\u00e4.jpg"}


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
    output = []
    for line in server.stdout:
        output.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+/\?token=\w+", line):
            break
    assert found, "".join(output)
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
        assert 0 < np.abs(first - second).max() <= Job.strength


@pytest.mark.slow
def test_only_with_the_token(address: str) -> None:
    with urllib.request.urlopen(address) as page:
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        assert b"Protect your own pictures" in page.read()
    with urllib.request.urlopen(address.split("?")[0]) as page:
        assert "/login" in page.url and b"Protect your own pictures" not in page.read()
