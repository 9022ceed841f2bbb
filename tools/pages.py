"""Pages: notebooks executed by papermill, cleaned, and listed in the book."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from nbformat import NotebookNode

from sources import ROOT, path_of
from ulelib.files import write_text

BOOK = ROOT / "book"
FAILED = ROOT / "_build" / "failed"
TOC = ROOT / "_toc.yml"
NEW = "New pages"  # the part of pages that no one has put into another yet
SHOWN = "cpu"  # the profile whose records the pages at the book's top show
MAX_BYTES = 1_500_000
PROGRESS = re.compile(r"\d+%\|.*\||\d+it \[|\bit/s\b|\bs/it\b")
TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
WIDGET = "application/vnd.jupyter.widget-view+json"
TABLE_ID = re.compile(r"\bT_[0-9a-f]{5}(?![0-9a-f])")  # pandas draws one for each styled table
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def folder_of(name: str, into: Path, profile: str) -> Path:
    """Where a page goes: an experiment to its profile's folder, the others to the top."""
    return into / profile if name[0].isdigit() else into


def run(notebook: Path, into: Path, parameters: dict[str, Any]) -> Path:
    """Execute `notebook` and write the cleaned copy to `into`; returns its path.

    Args:
        notebook: source notebook, with a cell tagged `parameters`.
        into: folder of the executed copy.
        parameters: values to inject.

    Raises:
        papermill.PapermillExecutionError: a cell failed; the copy stays below `_build/failed`.
        ValueError: the copy is larger than `MAX_BYTES`.
    """
    raw = FAILED / into.name / notebook.name  # a profile's own, since two may run at once
    raw.parent.mkdir(parents=True, exist_ok=True)
    try:
        made = papermill.execute_notebook(
            str(notebook),
            str(raw),
            parameters,
            progress_bar=False,
            extra_arguments=["--log-level=ERROR"],
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )
    except KeyboardInterrupt:  # no failure: nobody looks for a copy
        raw.unlink(missing_ok=True)
        raise
    text = nbformat.writes(clean(made)) + "\n"
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(
            f"{notebook.stem} takes {len(text.encode()):,} bytes, more than {MAX_BYTES:,}: show "
            f"fewer or smaller figures"
        )
    write_text(into / notebook.name, text)
    raw.unlink(missing_ok=True)
    return into / notebook.name


def clean(notebook: NotebookNode) -> NotebookNode:
    """`notebook` without what differs between equal runs, or belongs to this machine alone.

    Goes: papermill's and Jupyter's clock times and paths, progress bars, widgets, the project's
    folder and the home folder in outputs, addresses in memory; pandas' tables are numbered. Stays:
    sources, cell ids, tags and every other output.
    """
    tables = dict[str, str]()
    for key in set(notebook.metadata) - {"kernelspec", "language_info"}:
        del notebook.metadata[key]
    for cell in notebook.cells:
        tags = list(cell.metadata.get("tags", []))
        if "injected-parameters" in tags:
            tags += ["remove-cell"] * ("remove-cell" not in tags)
            cell.id = "injected-parameters"  # papermill draws one
        cell.metadata = NotebookNode({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            joined = _join_streams(cell.outputs)
            cell.outputs = [kept for output in joined if (kept := _clean_output(output, tables))]
    return notebook


def _join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs with each run of pieces of the same stream as one."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == "stream" and output.name == last.get("name"):
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _clean_output(output: NotebookNode, tables: dict[str, str]) -> NotebookNode | None:
    """One output, or None if nothing of it stays; `tables` has the numbers of tables so far."""

    def numbered(drawn: re.Match[str]) -> str:
        return tables.setdefault(drawn.group(), f"T_{len(tables):05d}")

    if output.output_type == "stream":
        # A carriage return starts a line anew: what stands last is what a terminal shows.
        lines = re.split("(?<=\n)", TERMINAL_CODE.sub("", output.text).replace("\r\n", "\n"))
        lines = [line.split("\r")[-1] for line in lines]
        if output.name == "stderr":
            lines = [line for line in lines if not PROGRESS.search(line)]
        output.text = relative("".join(lines))
        return output if output.text.strip() else None
    data = output.get("data", {})
    if WIDGET in data:
        return None
    for kind, content in data.items():
        if kind.startswith("text/"):
            data[kind] = ADDRESS.sub("", TABLE_ID.sub(numbered, relative(content)))
    return output


def relative(text: str) -> str:
    """`text` with the project's folder written as `.` and the home folder as `~`."""
    for folder, short in ((str(ROOT), "."), (str(Path.home()), "~")):
        text = re.sub(re.escape(folder) + r"(?![\w-])", short, text)
    return text


def list_page(page: str) -> None:
    """Add a page, "PROFILE/NAME", to the book's table of contents, unless it is there.

    It comes behind the page that another profile has of the same notebook, else into `NEW`.
    """
    profile, name = page.split("/")
    head, text = TOC.read_text(encoding="utf-8").split("\n", 1)  # the first line is a comment
    contents = yaml.safe_load(text)
    parts = contents["parts"]
    listed = {
        chapter["file"]: (part["chapters"], place)
        for part in parts
        for place, chapter in enumerate(part["chapters"], 1)
    }
    if page in listed:
        return
    same = [where for file, where in listed.items() if file.split("/")[-1] == name]
    if same:
        chapters, place = same[-1]
        chapters.insert(place, {"file": page, "title": f"{_title(name)} (profile {profile})"})
    else:
        if NEW not in [part["caption"] for part in parts]:
            parts.insert(len(parts) - 1, {"caption": NEW, "chapters": []})
        chapters = next(part["chapters"] for part in parts if part["caption"] == NEW)
        chapters.append({"file": page})
    TOC.write_text(f"{head}\n{yaml.safe_dump(contents, sort_keys=False)}", encoding="utf-8")


def _title(name: str) -> str:
    """The first heading of a notebook."""
    first: str = nbformat.read(path_of(name), as_version=4).cells[0].source
    return first.splitlines()[0].lstrip("# ")
