"""Run the notebooks through papermill and keep their executed copies as pages of the book.

    python tools/run_notebooks.py --profile cpu [--seed 0] [--n-seeds 2] [05_grayaug ...]

What a notebook computes lies in the store, so a run that was stopped goes on where it was. A page
is replaced only by one that ran to its end; a notebook that fails is reported and the others go on.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbformat import NotebookNode

from ulelib.profiles import PROFILES

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
BOOK = ROOT / "book"
FAILED = ROOT / "_build" / "failed"
NEED_PHOTOGRAPHS = {"05b_released_loop"}  # says so itself in the smoke profile
MAX_BYTES = 1_500_000
PROGRESS = re.compile(r"\d+%\|.*\||\d+it \[|\bit/s\b|\bs/it\b")
TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
WIDGET = "application/vnd.jupyter.widget-view+json"


def main() -> int:
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    options = _options(names)
    # Pages and the records that they write and read belong together.
    records = ROOT / "results" if options.into == BOOK else options.into / "results"
    os.environ.setdefault("ULELIB_RESULTS", str(records))
    n_seeds = PROFILES[options.profile].seeds if options.n_seeds is None else options.n_seeds
    parameters = {"profile": options.profile, "seed": options.seed, "n_seeds": n_seeds}
    chosen = options.names or [
        name for name in names if options.profile != "smoke" or name not in NEED_PHOTOGRAPHS
    ]
    failed = []
    for number, name in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {name}: {_shown(parameters)}", flush=True)
        start = time.perf_counter()
        try:
            page = run(NOTEBOOKS / f"{name}.ipynb", options.into, parameters)
        except Exception as error:  # whatever a notebook raises; the next one may still run
            failed.append(name)
            print(f"{error}\n{name} failed", file=sys.stderr, flush=True)
        else:
            print(f"    {time.perf_counter() - start:.0f} s -> {_relative(str(page))}", flush=True)
    if failed:
        print(f"{len(failed)} of {len(chosen)} notebooks failed: {', '.join(failed)}")
    return 1 if failed else 0


def run(notebook: Path, into: Path, parameters: dict[str, Any]) -> Path:
    """Execute `notebook` and write the cleaned copy to `into`; returns its path.

    Args:
        notebook: source notebook, with a cell tagged `parameters`.
        into: folder of the executed copy.
        parameters: values to inject; those that the notebook does not have are left out.

    Raises:
        papermill.PapermillExecutionError: a cell failed; the copy stays in `_build/failed`.
        ValueError: the copy is larger than `MAX_BYTES`.
    """
    known = papermill.inspect_notebook(str(notebook))
    raw = FAILED / notebook.name
    raw.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        str(notebook),
        str(raw),
        {key: value for key, value in parameters.items() if key in known},
        progress_bar=False,
        extra_arguments=["--log-level=ERROR"],
        stdout_file=sys.stdout,
        stderr_file=sys.stderr,
    )
    text = nbformat.writes(clean(nbformat.read(raw, as_version=4))) + "\n"
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(
            f"{notebook.stem} takes {len(text.encode()):,} bytes, more than {MAX_BYTES:,}: show "
            f"fewer or smaller figures"
        )
    into.mkdir(parents=True, exist_ok=True)
    part = into / f".{notebook.name}.part"
    part.write_text(text)
    os.replace(part, into / notebook.name)
    raw.unlink()
    return into / notebook.name


def clean(notebook: NotebookNode) -> NotebookNode:
    """`notebook` without what differs between equal runs, or belongs to this machine alone.

    Goes: papermill's and Jupyter's clock times and paths, progress bars, widgets, the project's
    folder and the home folder in outputs. Stays: sources, cell ids, tags and every other output.
    """
    for key in set(notebook.metadata) - {"kernelspec", "language_info"}:
        del notebook.metadata[key]
    for cell in notebook.cells:
        tags = list(cell.metadata.get("tags", []))
        if "injected-parameters" in tags:
            tags.append("hide-input")
        cell.metadata = NotebookNode({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            joined = _join_streams(cell.outputs)
            cell.outputs = [kept for output in joined if (kept := _clean_output(output))]
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


def _clean_output(output: NotebookNode) -> NotebookNode | None:
    if output.output_type == "stream":
        # A carriage return starts a line anew: what stands last is what a terminal shows.
        lines = re.split("(?<=\n)", TERMINAL_CODE.sub("", output.text).replace("\r\n", "\n"))
        lines = [line.split("\r")[-1] for line in lines]
        if output.name == "stderr":
            lines = [line for line in lines if not PROGRESS.search(line)]
        output.text = _relative("".join(lines))
        return output if output.text.strip() else None
    data = output.get("data", {})
    if WIDGET in data:
        return None
    for kind, content in data.items():
        if kind.startswith("text/"):
            data[kind] = _relative(content)
    return output


def _relative(text: str) -> str:
    """`text` with the project's folder written as `.` and the home folder as `~`."""
    for folder, short in ((str(ROOT), "."), (str(Path.home()), "~")):
        text = re.sub(re.escape(folder) + r"(?![\w-])", short, text)
    return text


def _shown(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in parameters.items())


def _options(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", choices=list(PROFILES), default="cpu")
    parser.add_argument("--seed", type=_whole, default=0, help="the first seed")
    parser.add_argument("--n-seeds", type=_whole, help="how many seeds; else the profile's own")
    parser.add_argument(
        "--into", type=Path, help="folder of the pages; else book/, and _build/smoke for smoke"
    )
    parser.add_argument("names", nargs="*", help=f"all, or some of: {', '.join(names)}")
    options = parser.parse_args()
    if options.into is not None:
        options.into = options.into.resolve()
    else:  # drawn images do not replace the book's pages
        options.into = ROOT / "_build" / "smoke" if options.profile == "smoke" else BOOK
    unknown = sorted(set(options.names) - set(names))
    if unknown:
        parser.error(f"no such notebook: {', '.join(unknown)}; choose from {', '.join(names)}")
    return options


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
