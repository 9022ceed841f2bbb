"""The app: protect a folder of pictures, compare before and after, download, and measure.

    App()    # the last line of a cell: notebook 14, or `make app`

These are the controls; `protect.protect` and `check.check` do the work. Everything is computed
where the kernel runs, and nothing is sent anywhere else.
"""

from __future__ import annotations

import base64
import contextlib
import html
import itertools
import operator
import os
import re
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets
import torch

from ulelib import machine
from ulelib.photos.check import Ended, check
from ulelib.photos.copies import copies_of, examples_of
from ulelib.photos.folders import Refused
from ulelib.photos.job import Job
from ulelib.photos.names import printable
from ulelib.photos.picker import STYLE, FolderPicker
from ulelib.photos.preview import Preview, preview
from ulelib.photos.protect import protect
from ulelib.photos.report import AMPLIFIED, check_writable, data_url, side_by_side, write_report
from ulelib.photos.uploads import unpack

EMBEDDED = 100 * 2**20  # bytes of a zip file that the page itself may contain
STRENGTHS = (2, 32)  # range of the slider
OWN_SIZE = 0  # the method's own; a dropdown shows nothing for None
PATTERNS = {
    OWN_SIZE: "what suits the noise",
    8: "large soft clouds (8)",
    16: "clouds (16)",
    32: "fine grain (32)",
    64: "finer grain (64)",
    128: "finest grain (128)",
}
NOISES = {  # the methods of `Job`, by what a person can choose by
    "CSD": "Quick: seconds; turning gray undoes it (CSD)",
    "ULEO-GrayAugs": "Withstands gray: minutes; a blur undoes it (ULEO-GrayAugs)",
    "ULEO": "Learned: minutes (ULEO)",
    "ULEO-Augs": "Learned, against cropping: minutes (ULEO-Augs)",
    "ULEO-Grays": "Learned, against turning gray: minutes (ULEO-Grays)",
    "ULEO class-wise": "Learned, one for each person: minutes (ULEO class-wise)",
}
FILES = {"keep": "as the pictures have it", "png": "PNG", "jpg": "JPEG"}
# The last level of a strength that is described so. What protects less is CSD (page 14b).
VISIBLE = (
    (4, "faint; protects least"),
    (8, "can be seen in flat areas (sky, skin); the quick noise protects far less"),
    (15, "visible in flat areas (sky, skin)"),
    (32, "plainly visible in flat areas (sky, skin)"),
)
WIDE = "min(47%, 40em)"  # of a picture before and after; they are displayed enlarged
# Lines of progress, of which only the latest is displayed.
MAKING = "making the noise: "
PROGRESS = re.compile(
    rf"{MAKING}(round|pass) \d+|[\d,]+ of [\d,]+ pictures are (read|written)(?:$|, )"
    r"|(strength) \d+, with"
)
# What is measured of a round of the noise says nothing to a photographer.
ROUND = re.compile(r"^(round|pass) (\d+ of \d+): [^,]*")
UNFINISHED = (
    "Stopped. The folder is not finished: do not publish it. Protect continues the work, with the "
    "same pictures and settings."
)
HERE, UPLOADED = "A folder on this computer", "Upload pictures"
ADVICE = (
    "One folder for each person or thing, with its pictures. Pictures of one person alone need "
    "pictures of others beside them, which stay as they are."
)
ERROR_COLOUR = "#b00020"


Say = Callable[[str], None]  # displays a line of text


class Stopped(Exception):
    """The button "Stop" was pressed."""


@contextlib.contextmanager
def _stoppable(stopping: threading.Event) -> Iterator[None]:
    """Within it, each pass of this thread through a network ends with `Stopped` once `stopping` is
    set: a round of training reports its progress only at its end."""
    mine = threading.get_ident()

    def ask(*_: Any) -> None:
        if threading.get_ident() == mine and stopping.is_set():
            raise Stopped

    hook = torch.nn.modules.module.register_module_forward_pre_hook(ask)
    try:
        yield
    finally:
        hook.remove()


class App(widgets.VBox):
    """Controls to choose pictures, protect, compare and download them, and measure the protection.

    The work is done in a thread, so that it can be stopped: it ends the next time it reports its
    progress, or a network gets its next batch. Running the cell again stops the work of the app
    before it, since its button is gone.

    Args:
        folder, others: initial content of the fields for pictures, and for pictures of others.
    """

    _latest: ClassVar[App | None] = None  # of this kernel

    def __init__(self, folder: str = "", others: str = "") -> None:
        self._uploads = tempfile.TemporaryDirectory(prefix="ulelib-")
        self._numbers = itertools.count(1)
        self._done: tuple[Path, Path, Path | None] | None = None  # pictures, protected, others
        self._worker, self._stopping = threading.Thread(), threading.Event()
        # The uploads; the folders of one's own and of others' pictures, and the folder around them.
        self._unpacked: tuple[tuple[Any, Any], tuple[Path, Path | None, Path]] | None = None

        self._make_sources(folder, others)
        self._make_settings()
        self._make_buttons()
        self.messages, self.strengths, self.comparison = (widgets.HTML() for _ in range(3))
        self.download, self.report = widgets.HTML(), widgets.HTML()
        self._name_out()
        self._show_source()
        super().__init__(
            [
                widgets.HTML(f"<p>{ADVICE}</p>"),
                self.source,
                self._here,
                self._upload,
                self.method,
                widgets.HBox([self.strength, self.seen]),
                widgets.HBox([self.masking, self.preview_button]),
                self.size,
                widgets.HBox([self.format, self.drop_location]),
                widgets.HBox([self.protect_button, self.stop_button]),
                self.messages,
                self.strengths,
                self.comparison,
                self.download,
                self.check_button,
                self.report,
            ]
        )
        if App._latest is not None:
            App._latest._stop()
        App._latest = self

    # --- controls ----------------------------------------------------------------------------

    def _make_sources(self, folder: str, others: str) -> None:
        """Where the pictures are, and where to write: a folder, or uploads."""
        self.source = widgets.ToggleButtons(
            options=[HERE, UPLOADED], style={"button_width": "15em"}
        )
        own = FolderPicker("Pictures", folder, "such as ~/Pictures/to publish")
        theirs = FolderPicker("Of other people", others, "if yours are of one person alone")
        out = FolderPicker("Write to", "", "a new folder")
        self.folder, self.others, self.out = own.field, theirs.field, out.field
        self.own_files = _file_upload("Pictures, or a zip file")
        self.other_files = _file_upload("Of other people")
        self.hint = widgets.HTML()
        self._here = widgets.VBox([own, theirs, out])
        self._upload = widgets.VBox([self.own_files, self.other_files, self.hint])
        for files in (self.own_files, self.other_files):
            files.observe(self._show_hint, "value")
        self.source.observe(self._show_source, "value")
        self.folder.observe(self._name_out, "value")

    def _make_settings(self) -> None:
        """The fields of `Job`."""
        self.method = _dropdown("Noise (method)", NOISES, Job.method)
        self.format = _dropdown("Files (format)", FILES, Job.format)
        self.size = _dropdown("Pattern (working size)", PATTERNS, OWN_SIZE)
        half = widgets.Layout(width="30em")
        self.strength = widgets.IntSlider(
            Job.strength, *STRENGTHS, description="Strength (gray levels)", style=STYLE, layout=half
        )
        self.seen = widgets.HTML()
        self.strength.observe(self._show_seen, "value")
        self._show_seen()
        self.masking = widgets.Checkbox(
            False, description="Less noise in flat areas (masking)", indent=False, layout=half
        )
        self.drop_location = widgets.Checkbox(
            False, description="Leave out where pictures were taken", indent=False, layout=half
        )

    def _make_buttons(self) -> None:
        self.protect_button = widgets.Button(
            description="Protect", button_style="primary", icon="lock"
        )
        self.stop_button = widgets.Button(description="Stop", icon="stop", disabled=True)
        wide = widgets.Layout(width="auto")
        self.preview_button = widgets.Button(
            description="Show what it will look like", icon="eye", layout=wide
        )
        self.check_button = widgets.Button(description="Measure protection", disabled=True)
        self.protect_button.on_click(lambda _: self._work(self._protect, UNFINISHED))
        self.preview_button.on_click(lambda _: self._work(self._preview, "Stopped."))
        self.stop_button.on_click(lambda _: self._stop())
        self.check_button.on_click(lambda _: self._work(self._check, "Stopped. No report."))

    def _show_source(self, *_: Any) -> None:
        self._here.layout.display = "" if self.source.value == HERE else "none"
        self._upload.layout.display = "none" if self.source.value == HERE else ""

    def _show_seen(self, *_: Any) -> None:
        self.seen.value = next(text for most, text in VISIBLE if self.strength.value <= most)

    def _show_hint(self, *_: Any) -> None:
        """What loose pictures are taken for, as soon as they are chosen."""
        self.hint.value = ""
        if any(not file["name"].lower().endswith(".zip") for file in self.own_files.value):
            missing = not self.other_files.value
            self.hint.value = (
                "These pictures are not in folders, so they count as one person or thing. "
                + "Upload pictures of other people as well, or a zip file with a folder for each "
                "person or thing." * missing
            )

    def _name_out(self, *_: Any) -> None:
        """Name the output folder after the folder of pictures, beside it."""
        name = self.folder.value.rstrip("/")
        self.out.value = f"{name} protected" if name else ""

    def join(self) -> None:
        """Wait until the work has ended."""
        if self._worker.is_alive():
            self._worker.join()

    def _work(self, work: Callable[[Say, Say], None], stopped: str) -> None:
        """Do something long in a thread, with its lines and errors in the log.

        Args:
            work: called with two functions that display a line; the second raises `Stopped` if the
                user wants to stop.
            stopped: the line displayed in that case.
        """
        if self._worker.is_alive():  # a second click, before the button was disabled
            return
        lines: list[str] = []
        activity: str | None = None  # of which the last line reports the progress

        def say(line: str, colour: str = "inherit") -> None:
            nonlocal activity
            line = ROUND.sub(rf"{MAKING}\1 \2", line)
            found = PROGRESS.match(line)
            before, activity = activity, found and next(filter(None, found.groups()))
            if activity and activity == before:
                lines.pop()
            inside = html.escape(line).replace("\n", "<br>")
            lines.append(f'<span style="color: {colour}">{inside}</span>')
            self.messages.value = f'<div style="line-height: 1.4">{"<br>".join(lines)}</div>'

        def say_or_stop(line: str) -> None:
            if self._stopping.is_set():
                raise Stopped
            say(line)

        def run() -> None:
            machine.use_threads()
            try:
                with _stoppable(self._stopping):
                    work(say, say_or_stop)
            except (Stopped, Ended):
                say(stopped)
            except (ValueError, OSError, RuntimeError) as error:
                say(str(error), ERROR_COLOUR)
            except Exception as error:  # otherwise lost, in a thread
                say(f"this should not happen: {error!r}", ERROR_COLOUR)
                raise
            finally:
                self.stop_button.disabled, self.stop_button.description = True, "Stop"
                self.protect_button.disabled = self.preview_button.disabled = False
                self.check_button.disabled = self._done is None

        self._stopping.clear()
        for button in (self.protect_button, self.preview_button, self.check_button):
            button.disabled = True
        self.stop_button.disabled = False
        self._worker = threading.Thread(target=run, daemon=True)
        self._worker.start()

    def _stop(self) -> None:
        if not self._worker.is_alive():
            return
        self._stopping.set()
        self.stop_button.disabled, self.stop_button.description = True, "Stopping"

    def _job(self) -> Job:
        """The settings as the controls have them now."""
        return Job(
            method=self.method.value,
            strength=self.strength.value,
            size=self.size.value or None,
            masking=self.masking.value,
            format=self.format.value,
            drop_location=self.drop_location.value,
        )

    def _preview(self, say: Say, say_or_stop: Say) -> None:
        self.strengths.value = ""
        job = self._job()
        folder, others, _ = self._folders(job)
        say("reading some of the pictures")
        self.strengths.value = _previewed(preview(folder, job, others, report=say_or_stop))
        say("See below what it looks like. Nothing is written yet.")

    def _protect(self, say: Say, say_or_stop: Say) -> None:
        self.comparison.value = self.download.value = self.report.value = ""
        self._done = None
        kept = self.source.value == HERE  # read now: the user may change it
        job = self._job()
        folder, others, out = self._folders(job)
        say("reading the pictures")
        report = protect(folder, out, job, others, say_or_stop)
        self._unpacked = None  # the same uploads once more are a new job
        say("\n".join(report.lines()))  # at once: the browser gets the whole log each time
        self._done = folder, out, others
        pairs, _ = copies_of(folder, out, flat=others is not None)
        self.comparison.value = "".join(map(_compared, map(side_by_side, examples_of(pairs))))
        packed = Path(self._uploads.name) / f"{next(self._numbers)} packed"
        self.download.value = _link(out, packed, kept)

    def _check(self, say: Say, say_or_stop: Say) -> None:
        assert self._done is not None
        folder, out, others = self._done
        page = out.resolve().with_name(f"{out.resolve().name}.html")
        check_writable(page)
        say("training on clean and on protected pictures")
        ended = self._stopping.is_set
        findings = check(folder, out, others=others, report=say_or_stop, ended=ended)
        page, _ = write_report(findings, page)
        inside = html.escape(page.read_text(encoding="utf-8"))
        self.report.value = (
            f'<iframe title="How well are these pictures protected?" srcdoc="{inside}" '
            'style="width: 100%; height: 50em; border: 1px solid #ccc"></iframe>'
        )
        say(findings.verdict)
        say(f"the report: {page}")

    def _folders(self, job: Job) -> tuple[Path, Path | None, Path]:
        """The folders of pictures, of others' pictures, and to write to.

        Uploads are unpacked first, once until they are protected, so that stopped work can resume.

        Raises:
            Refused: no folder or file is given, or an uploaded file cannot be used.
        """
        if self.source.value == HERE:
            if not self.folder.value.strip() or not self.out.value.strip():
                raise Refused("name the folder of your pictures, and one to write to")
            theirs = self.others.value.strip()
            return (
                Path(self.folder.value.strip()).expanduser(),
                Path(theirs).expanduser() if theirs else None,
                Path(self.out.value.strip()).expanduser(),
            )
        if not self.own_files.value:
            raise Refused("upload your pictures first: a zip file with a folder for each person")
        files = self.own_files.value, self.other_files.value
        if self._unpacked is None or any(map(operator.is_not, files, self._unpacked[0])):
            place = Path(self._uploads.name) / str(next(self._numbers))
            own = unpack(files[0], place / "pictures")
            others = unpack(files[1], place / "others") if files[1] else None
            self._unpacked = files, (own, others, place)
        own, others, place = self._unpacked[1]
        return own, others, place / f"protected {' '.join(map(str, astuple(job)))}"


def _file_upload(label: str) -> widgets.FileUpload:
    return widgets.FileUpload(
        accept=".zip,image/*",
        multiple=True,
        description=label,
        layout=widgets.Layout(width="20em"),
    )


def _dropdown(label: str, named: Mapping[Any, str], value: Any) -> widgets.Dropdown:
    """A list of values, each displayed as its name."""
    options = [(name, value) for value, name in named.items()]
    wide = widgets.Layout(width="40em")
    return widgets.Dropdown(
        options=options, value=value, description=label, style=STYLE, layout=wide
    )


def _compared(pictures: Mapping[str, str]) -> str:
    """HTML of what `side_by_side` returns."""
    figures = [
        ("before", WIDE, pictures["name"]),
        ("after", WIDE, "protected"),
        ("difference", "12em", f"difference, times {AMPLIFIED}"),
    ]
    return (
        "<p>"
        + "".join(
            f'<span style="display: inline-block; margin-right: 0.5em; width: {width}">'
            f'<img alt="{key}" src="{pictures[key]}" style="width: 100%"><br>'
            f"<small>{html.escape(caption)}</small></span>"
            for key, width, caption in figures
        )
        + "</p>"
    )


def _previewed(shown: Preview) -> str:
    """HTML of a preview."""
    numbers = "<br>".join(map(html.escape, shown.lines()))
    return (
        f'<p><img alt="{html.escape(shown.name)} at several strengths" style="max-width: 100%" '
        f'src="{data_url(shown.strip)}"><br><small>{html.escape(shown.name)}<br>{numbers}</small>'
        "</p>"
    )


def _zipped(folder: Path, target: Path) -> Path:
    """Pack a folder into a zip file. Bytes of names that are not UTF-8 become %x and two digits."""
    # Stored, not compressed: pictures are compressed already.
    with zipfile.ZipFile(target, "w", strict_timestamps=False) as packed:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = os.fsencode(file.relative_to(folder)).decode("utf-8", "backslashreplace")
            packed.write(file, name.replace("\\", "%"))
    return target


def _link(out: Path, zip_name: Path, kept: bool) -> str:
    """HTML with a link to a zip file of the protected pictures, or with the place of their folder.

    Args:
        out: the folder of protected pictures.
        zip_name: path of the zip file, without ".zip"; not beside the pictures, where a file may
            have this name.
        kept: whether `out` still exists after the page is closed.
    """
    place = f"<p>They are in <code>{html.escape(printable(out))}</code>.</p>" if kept else ""
    if kept and sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) > EMBEDDED:
        return place
    packed = _zipped(out, zip_name.with_name(f"{zip_name.name}.zip"))
    if packed.stat().st_size > EMBEDDED:
        return place + f"<p>Until this page is closed: <code>{html.escape(str(packed))}</code></p>"
    data = base64.b64encode(packed.read_bytes()).decode()
    packed.unlink()
    return (
        f'{place}<p><a download="protected.zip" href="data:application/zip;base64,{data}" '
        'style="text-decoration: underline">Download them as a zip file</a></p>'
    )
