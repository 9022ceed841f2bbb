"""The app: protect a folder of pictures, look at them, take them home, ask what it is worth.

    App()    # the last line of a cell: notebook 14, or `make app`

The work is done by `protect.protect` and `check.check`; here are the controls around them. All of
it happens where the kernel runs, and nothing is sent anywhere else.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import itertools
import operator
import os
import re
import stat
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import ipywidgets as widgets

from ulelib.check import (
    AMPLIFIED,
    SHOWN,
    check,
    check_writable,
    copies_of,
    side_by_side,
    write_report,
)
from ulelib.cifar import ZIP_ERRORS
from ulelib.protect import FORMATS, METHODS, OF_ITS_NAME, Job, Refused, protect, shown

MOST_BYTES = 4 * 2**30  # of what an uploaded zip file unpacks to
MOST_FILES = 50_000
EMBEDDED = 100 * 2**20  # bytes of a zip file that the page itself may hold
# Lines of which the latest is enough.
PROGRESS = re.compile(r"(round|pass) \d+|[\d,]+ of [\d,]+ pictures are (read|written)(?:$|, )")
UNFINISHED = (
    "Stopped. The folder is not finished: do not publish it. Protect goes on where it was, with "
    "the same pictures and settings."
)
HERE, UPLOADED = "A folder on this computer", "Upload pictures"
ADVICE = (
    "One folder for each person or thing, with its pictures. Pictures of one person alone need "
    "pictures of others beside them, which stay as they are."
)


Say = Callable[[str], None]


class Stopped(Exception):
    """The button "Stop" was pressed."""


class App(widgets.VBox):
    """Choose pictures, protect them, see them before and after, download them, ask for the report.

    The work is done in a thread, so that it can be stopped: it ends where it next says something.
    Running the cell again stops what the app before it does, since its button is gone.

    Args:
        folder, others: what the fields for pictures, and for those of other people, say at first.
    """

    _latest: ClassVar[App | None] = None  # of this kernel

    def __init__(self, folder: str = "", others: str = "") -> None:
        self._uploads = tempfile.TemporaryDirectory(prefix="ulelib-")
        self._numbers = itertools.count(1)
        self._done: tuple[Path, Path, Path | None] | None = None  # pictures, protected, others
        self._worker, self._stopping = threading.Thread(), threading.Event()
        # What was uploaded; the folders of one's own and of others' pictures, and the one around.
        self._unpacked: tuple[tuple[Any, Any], tuple[Path, Path | None, Path]] | None = None

        wide, half = widgets.Layout(width="95%"), widgets.Layout(width="30em")
        style = {"description_width": "11em"}

        def text(described: str, value: str, hint: str) -> widgets.Text:
            return widgets.Text(
                value, description=described, placeholder=hint, layout=wide, style=style
            )

        def files(described: str) -> widgets.FileUpload:
            return widgets.FileUpload(
                accept=".zip,image/*",
                multiple=True,
                description=described,
                layout=widgets.Layout(width="20em"),
            )

        self.source = widgets.ToggleButtons(
            options=[HERE, UPLOADED], style={"button_width": "15em"}
        )
        self.folder = text("Pictures", folder, "such as ~/Pictures/to publish")
        self.others = text("Of other people", others, "if the pictures are of one person alone")
        self.out = text("Write to", "", "a new folder")
        self.own_files = files("Pictures, or a zip file")
        self.other_files = files("Of other people")
        self.method = widgets.Dropdown(
            options=METHODS, value=Job.method, description="Method", style=style
        )
        self.strength = widgets.IntSlider(
            Job.strength, 2, 32, description="Strength", style=style, layout=half
        )
        self.strength.tooltip = (
            "Gray levels. 16 may show; 8 is hard to see, and CSD then protects far less."
        )
        sizes = [("the method's own", None), *((str(size), size) for size in (8, 16, 32, 64, 128))]
        self.size = widgets.Dropdown(
            options=sizes, value=Job.size, description="Working size", style=style
        )
        self.format = widgets.Dropdown(
            options=FORMATS, value=Job.format, description="Format", style=style
        )
        self.drop_location = widgets.Checkbox(
            False, description="Leave out where pictures were taken", indent=False, layout=half
        )
        self.start = widgets.Button(description="Protect", button_style="primary", icon="lock")
        self.stop = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.ask = widgets.Button(description="What is it worth?", disabled=True)
        self.said = widgets.HTML()
        self.shown = widgets.HTML()
        self.download = widgets.HTML()
        self.report = widgets.HTML()

        self._here = widgets.VBox([self.folder, self.others, self.out])
        self._upload = widgets.VBox([self.own_files, self.other_files])
        self.source.observe(self._choose, "value")
        self.folder.observe(self._name_out, "value")
        self.start.on_click(lambda _: self._work(self._protect, UNFINISHED))
        self.stop.on_click(lambda _: self._stop())
        self.ask.on_click(lambda _: self._work(self._check, "Stopped. There is no report."))
        self._name_out()
        self._choose()
        super().__init__(
            [
                widgets.HTML(f"<p>{ADVICE}</p>"),
                self.source,
                self._here,
                self._upload,
                widgets.HBox([self.method, self.size, self.format]),
                widgets.HBox([self.strength, self.drop_location]),
                widgets.HBox([self.start, self.stop]),
                self.said,
                self.shown,
                self.download,
                self.ask,
                self.report,
            ]
        )
        if App._latest is not None:
            App._latest._stop()
        App._latest = self

    # --- what the controls do ----------------------------------------------------------------

    def _choose(self, *_: Any) -> None:
        self._here.layout.display = "" if self.source.value == HERE else "none"
        self._upload.layout.display = "none" if self.source.value == HERE else ""

    def _name_out(self, *_: Any) -> None:
        """The output folder follows the pictures' own, beside which it lies."""
        name = self.folder.value.rstrip("/")
        self.out.value = f"{name} protected" if name else ""

    def join(self) -> None:
        """Wait until what is under way has ended."""
        if self._worker.is_alive():
            self._worker.join()

    def _work(self, work: Callable[[Say, Say], None], stopped: str) -> None:
        """Do something long: the other buttons rest, its lines are shown, its errors are told.

        Args:
            work: is given what shows a line, and what also ends the work if that was asked for.
            stopped: what is said then.
        """
        if self._worker.is_alive():  # a second click, before the button rested
            return
        lines: list[str] = []
        going: str | None = None

        def say(line: str, colour: str = "inherit") -> None:
            nonlocal going
            found = PROGRESS.match(line)
            before, going = going, found and (found[1] or found[2])
            if going and going == before:  # how far it is now, in the place of how far it was
                lines.pop()
            inside = html.escape(line).replace("\n", "<br>")
            lines.append(f'<span style="color: {colour}">{inside}</span>')
            self.said.value = f'<div style="line-height: 1.4">{"<br>".join(lines)}</div>'

        def say_or_stop(line: str) -> None:
            if self._stopping.is_set():
                raise Stopped
            say(line)

        def whole() -> None:
            try:
                work(say, say_or_stop)
            except Stopped:
                say(stopped)
            except (ValueError, OSError, RuntimeError) as error:
                say(str(error), "#b00020")
            except Exception as error:  # nobody would see it in a thread
                say(f"this should not happen: {error!r}", "#b00020")
                raise
            finally:
                self.stop.disabled, self.stop.description = True, "Stop"
                self.start.disabled, self.ask.disabled = False, self._done is None

        self._stopping.clear()
        self.start.disabled = self.ask.disabled = True
        self.stop.disabled = False
        self._worker = threading.Thread(target=whole, daemon=True)
        self._worker.start()

    def _stop(self) -> None:
        if not self._worker.is_alive():
            return
        self._stopping.set()
        self.stop.disabled, self.stop.description = True, "Stopping"

    def _protect(self, say: Say, say_or_stop: Say) -> None:
        self.shown.value = self.download.value = self.report.value = ""
        self._done = None
        kept = self.source.value == HERE  # read now: the controls are not at rest
        job = Job(
            method=self.method.value,
            strength=self.strength.value,
            size=self.size.value,
            format=self.format.value,
            drop_location=self.drop_location.value,
        )
        folder, others, out = self._folders(job)
        say("reading the pictures")
        report = protect(folder, out, job, others, say_or_stop)
        self._unpacked = None  # the same uploads once more are another work
        say("\n".join(report.lines()))  # at once: each time the browser gets all that was said
        self._done = folder, out, others
        pairs, _ = copies_of(folder, out, flat=others is not None)
        step = max(1, len(pairs) // SHOWN)
        self.shown.value = "".join(_compared(side_by_side(pair)) for pair in pairs[::step][:SHOWN])
        packed = Path(self._uploads.name) / f"{next(self._numbers)} packed"
        self.download.value = _link(out, packed, kept)

    def _check(self, say: Say, say_or_stop: Say) -> None:
        assert self._done is not None
        folder, out, others = self._done
        page = out.resolve().with_name(f"{out.resolve().name}.html")
        check_writable(page)
        say("training on clean and on protected pictures; this takes minutes, or an hour")
        findings = check(folder, out, others=others, report=say_or_stop)
        page, _ = write_report(findings, page)
        inside = html.escape(page.read_text(encoding="utf-8"))
        self.report.value = (
            f'<iframe title="What is this protection worth?" srcdoc="{inside}" '
            'style="width: 100%; height: 50em; border: 1px solid #ccc"></iframe>'
        )
        say(f"the report: {page}")

    def _folders(self, job: Job) -> tuple[Path, Path | None, Path]:
        """Pictures, those of others, and where to write; uploaded ones are unpacked first, once
        until they are protected, so that a stopped work goes on.

        Raises:
            Refused: nothing was chosen, or an uploaded file cannot be used.
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


def unpack(files: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write uploaded files into a new folder, zip files unpacked.

    Args:
        files: of `ipywidgets.FileUpload`, each with "name" and "content".

    Returns:
        the folder with the pictures: that one, or the only one in it, as where a whole folder was
        packed.

    Raises:
        Refused: two files of one name; a zip file that is damaged or encrypted, unpacks to too
            much, or names a place outside of itself.
    """
    folder.mkdir(parents=True)
    room = [MOST_FILES, MOST_BYTES]
    for file in files:
        name, content = PurePosixPath(file["name"].replace("\\", "/")).name, file["content"]
        with _named(name):
            if name.lower().endswith(".zip"):
                _unzip(name, content, folder, room)
            elif (folder / name).exists():
                raise Refused(
                    f"two files are named {name}: rename one, or upload a zip with folders"
                )
            else:
                (folder / name).write_bytes(content)
    while len(inside := [one for one in folder.iterdir() if not _hidden(one.name)]) == 1:
        only = inside[0]
        if not only.is_dir() or not any(one.is_dir() for one in only.iterdir()):
            break
        folder = only
    return folder


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """A name that this computer's disk does not take is said to be one."""
    try:
        yield
    except OSError as error:
        if error.errno not in OF_ITS_NAME:
            raise
        raise Refused(f"{name}, or a file in it, has a name that no file here can have") from error


def _unzip(name: str, content: Any, folder: Path, room: list[int]) -> None:
    """Unpack a zip file.

    Args:
        room: for how many files and bytes there is room; less those of this one afterwards.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            for one in packed.infolist():
                one.filename = _name_of(one)
            wanted = [one for one in packed.infolist() if not one.filename.endswith("/")]
            size = sum(one.file_size for one in wanted)
            room[:] = room[0] - len(wanted), room[1] - size
            if min(room) < 0:
                raise Refused(
                    f"{name} unpacks to {len(wanted):,} files and {size / 2**30:.1f} GiB; all that "
                    f"is uploaded may be {MOST_FILES:,} files and {MOST_BYTES / 2**30:.0f} GiB: "
                    "unpack it, and name the folder"
                )
            for one in wanted:
                parts = PurePosixPath(one.filename).parts
                if ".." in parts or PurePosixPath(one.filename).is_absolute():
                    raise Refused(f"{name} has a file {one.filename!r}, outside of itself")
                linked = stat.S_ISLNK(one.external_attr >> 16)
                if linked or any(map(_hidden, parts)):
                    continue
                if folder.joinpath(*parts).exists():
                    raise Refused(f"two files are named {one.filename}: rename one")
                packed.extract(one, folder)
    except (*ZIP_ERRORS, EOFError, NotADirectoryError, FileExistsError) as error:  # or encrypted
        raise Refused(f"{name} cannot be unpacked: {error}") from error


def _name_of(packed: zipfile.ZipInfo) -> str:
    """macOS packs names in UTF-8 without saying so, some Windows programs with backslashes."""
    name = packed.filename
    if not packed.flag_bits & 0x800:  # Python took the bytes for those of old PCs
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/") if packed.create_system == 0 else name


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _compared(pictures: Mapping[str, str]) -> str:
    figures = [
        ("before", pictures["name"]),
        ("after", "protected"),
        ("difference", f"difference, times {AMPLIFIED}"),
    ]
    return (
        "<p>"
        + "".join(
            '<span style="display: inline-block; margin-right: 0.5em">'
            f'<img alt="{key}" src="{pictures[key]}" style="image-rendering: pixelated"><br>'
            f"<small>{html.escape(told)}</small></span>"
            for key, told in figures
        )
        + "</p>"
    )


def _zipped(folder: Path, target: Path) -> Path:
    """A zip file of a folder; in names that are no text, a percent sign and the byte."""
    with zipfile.ZipFile(target, "w", strict_timestamps=False) as packed:  # pictures are compressed
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = os.fsencode(file.relative_to(folder)).decode("utf-8", "backslashreplace")
            packed.write(file, name.replace("\\", "%"))
    return target


def _link(out: Path, zip_name: Path, kept: bool) -> str:
    """A link to a zip file of the protected pictures, or where to find them.

    Args:
        zip_name: where to pack them, without ".zip": not beside the pictures, where a file of
            that name may lie.
        kept: whether `out` outlasts the page.
    """
    place = f"<p>They are in <code>{html.escape(shown(out))}</code>.</p>" if kept else ""
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
