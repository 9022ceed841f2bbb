"""Compute what the notebooks need as one plan, then execute them as pages of the book.

    python tools/run_notebooks.py --profile cpu [--seed 0] [--n-seeds 2] [05_grayaug ...]
    python tools/run_notebooks.py --profile cpu --keep --seed 0,3,4 11_transferable
    python tools/run_notebooks.py --profile cpu --scheduler tcp://HOST:PORT
    python tools/run_notebooks.py --profile cpu --words [05_grayaug ...]

Each notebook states its stages in cells tagged `plan`. They are collected without repetition and
run by a pool of processes, or on a Dask cluster; then papermill executes the notebooks, which find
their numbers in the store. A run that was stopped goes on where it was. A page is replaced only by
one that ran to its end; a notebook that fails is reported and the others go on.

`--words` runs nothing: it brings changed prose, and the cells' tags, into the pages whose code is
still the notebook's.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from nbformat import NotebookNode

from ulelib import machine, plan, results
from ulelib.lab import Lab, noises_of
from ulelib.profiles import PROFILES
from ulelib.stages import Attacked, Noise, Stage
from ulelib.store import Store, write_text

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
BOOK = ROOT / "book"
FAILED = ROOT / "_build" / "failed"
TOC = ROOT / "_toc.yml"
# as the paper, and what is measured beside it; two of the longest; the other pages take the
# profile's number, and smoke's
N_SEEDS = {"05_grayaug": 5, "05c_precision": 5, "11b_without_labels": 2}
FIRST = "intro"  # it shows, as the README does, what HEADLINE measured in SHOWN
HEADLINE, SHOWN = "05_grayaug", "cpu"
AT_TOP = ["report", FIRST]  # they read the records of SHOWN, as this one those of its profile:
SCOREBOARD = "13_scoreboard"
NEED_PHOTOGRAPHS = {  # and say so
    "05b_what_decides",
    "08_imagenet",
    "12_released_code_audit",
    "14b_what_it_is_worth",
}
# What a profile's book leaves out, unless it is asked for by name: in `cpu` the page at the papers'
# own size would repeat a part of the headline's.
LEFT_OUT = {"smoke": NEED_PHOTOGRAPHS, "cpu": {"05d_full_size"}, "paper": set[str]()}
MAX_BYTES = 1_500_000
PROGRESS = re.compile(r"\d+%\|.*\||\d+it \[|\bit/s\b|\bs/it\b")
TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
WIDGET = "application/vnd.jupyter.widget-view+json"
TABLE_ID = re.compile(r"\bT_[0-9a-f]{5}(?![0-9a-f])")  # pandas draws one for each styled table
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def main() -> int:
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    options = _options(names)
    if options.words:
        return 0 if all([reword(name, options) for name in options.names or names]) else 1
    # Pages and the records that they write and read belong together.
    records = ROOT / "results" if options.into == BOOK else options.into / "results"
    os.environ.setdefault("ULELIB_RESULTS", str(records))
    if options.keep:
        os.environ["ULELIB_KEEP"] = "1"
    jobs = {name: _parameters(name, options) for name in chosen(names, options)}
    before, wanted = results.known(options.profile), len(jobs)
    failed = compute(jobs, options)
    for name in failed:
        print(f"{name} cannot be made: it needs stages that failed", file=sys.stderr)
    jobs = {name: parameters for name, parameters in jobs.items() if name not in failed}
    for number, (name, parameters) in enumerate(jobs.items(), 1):
        print(f"[{number}/{len(jobs)}] {name}: {_shown(parameters)}", flush=True)
        start = time.perf_counter()
        try:
            page = run(NOTEBOOKS / f"{name}.ipynb", folder_of(name, options), parameters)
        except Exception as error:  # whatever a notebook raises; the next one may still run
            failed.append(name)
            print(f"{error}\n{name} failed", file=sys.stderr, flush=True)
        else:
            print(f"    {time.perf_counter() - start:.0f} s -> {_relative(str(page))}", flush=True)
            if options.into == BOOK and page.parent != BOOK:
                list_page(page.relative_to(BOOK).with_suffix("").as_posix())
    if options.into == BOOK and FIRST in jobs and FIRST not in failed:
        subprocess.run([sys.executable, str(ROOT / "tools" / "headline.py")], check=True)
    made = [name for name in jobs if name not in failed]
    for name in others_that_changed(options.profile, before, made):
        print(f"{name} shows other numbers of stages that are in its record: make it again")
    if failed:
        print(f"{len(failed)} of {wanted} notebooks failed: {', '.join(failed)}")
    return 1 if failed else 0


def chosen(names: list[str], options: argparse.Namespace) -> list[str]:
    """The notebooks to run: those that were asked for, or all that fit the profile.

    The pages that show records of others are made with any page of their profile, after it.
    """
    readers = [SCOREBOARD, *AT_TOP]
    wanted = options.names or [name for name in names if name not in LEFT_OUT[options.profile]]
    if options.into != BOOK:
        return sorted(wanted, key=lambda name: name in readers)
    pages = [name for name in wanted if name not in readers]
    recorded = (ROOT / "results" / SHOWN / f"{HEADLINE}.json").exists() or HEADLINE in wanted
    shows = options.profile == SHOWN and recorded
    return [*pages, SCOREBOARD, *(AT_TOP if shows else [])]


def list_page(page: str) -> None:
    """Add a page, "PROFILE/NAME", to the book's table of contents, unless it is there.

    Every profile has a part of its own; `SHOWN` has the first.
    """
    profile = page.split("/")[0]
    caption = "The experiments" + ("" if profile == SHOWN else f", profile {profile}")
    head, text = TOC.read_text(encoding="utf-8").split("\n", 1)  # the first line is a comment
    contents = yaml.safe_load(text)
    parts = {part["caption"]: part for part in contents["parts"]}
    if caption not in parts:
        parts[caption] = {"caption": caption, "chapters": []}
        contents["parts"].insert(len(contents["parts"]) - 1, parts[caption])
    files = {chapter["file"] for chapter in parts[caption]["chapters"]}
    if page not in files:
        parts[caption]["chapters"] = [{"file": file} for file in sorted(files | {page})]
        TOC.write_text(f"{head}\n{yaml.safe_dump(contents, sort_keys=False)}", encoding="utf-8")


def compute(jobs: dict[str, dict[str, Any]], options: argparse.Namespace) -> list[str]:
    """Run the stages that the notebooks state, before any of them is executed.

    Returns:
        the notebooks that need stages that failed; the others can be made.
    """
    stages = _stated(jobs)
    store = Store(machine.folder("ULELIB_STORE", ".ulelib"))
    needed = plan.stages_of(one for mine in stages.values() for one in mine)
    missing = [stage for stage in needed if not store.find(stage)]
    print(f"{len(jobs)} notebooks need {len(needed)} stages; {len(missing)} are to be computed")
    if not missing:
        return []
    if emulated := [one for one in missing if not machine.is_native(_precision(one))]:
        print(
            f"{len(emulated)} of them in bfloat16, as the records that are kept: this processor "
            "only emulates it, and takes ten times as long as in float32"
        )
    try:
        if options.scheduler:
            with plan.dask_executor(options.scheduler, store) as executor:
                plan.run(missing, store, executor)
        else:
            with plan.pool(options.workers) as executor:
                plan.run(missing, store, executor)
    except plan.PlanFailed as error:
        for one in error.exceptions:
            print("; ".join([str(one), *getattr(one, "__notes__", [])]), file=sys.stderr)
        lost = {stage for stage in missing if not store.find(stage)}
        return [name for name, mine in stages.items() if lost & set(plan.stages_of(mine))]
    return []


def _stated(jobs: dict[str, dict[str, Any]]) -> dict[str, list[Stage]]:
    """What each notebook states; says why one cannot: its page will fail, the others need not."""
    left, made = dict(jobs), set[Noise]()
    while True:  # noise that one page makes is beside what another one would keep
        stages: dict[str, list[Stage]] = {}
        for name, parameters in list(left.items()):
            try:
                stages[name] = stated(NOTEBOOKS / f"{name}.ipynb", parameters, made)
            except Exception as error:  # whatever data and cells raise
                print(f"{name}: {error}", file=sys.stderr)
                del left[name]
        new = noises_of(one for mine in stages.values() for one in mine) - made
        if not new or os.environ.get("ULELIB_KEEP") != "1":
            return stages
        made |= new


def others_that_changed(
    profile: str, before: dict[str, dict[str, Any]], made: Sequence[str]
) -> list[str]:
    """Recorded pages that were not made now, of whose stages the record now has other numbers.

    Args:
        before: `results.known`, as it was.
        made: the pages that were.
    """
    now = results.known(profile)
    changed = {key for key in before.keys() & now.keys() if before[key] != now[key]}
    if not changed:  # as always where records are kept: no page need be read
        return []
    return [
        name
        for name in results.pages(profile)
        if name not in made and changed & results.read(name, profile)[1]["stages"].keys()
    ]


def stated(notebook: Path, parameters: dict[str, Any], made: Iterable[Noise] = ()) -> list[Stage]:
    """The stages that a notebook's cells tagged `plan` state, as `cells` and `noises`.

    Args:
        made: noise that is made for other notebooks, see `Lab.unknown`.

    They are the project's own code, and see nothing but `lab` and each other.
    """
    sources = [
        cell.source
        for cell in nbformat.read(notebook, as_version=4).cells
        if "plan" in cell.metadata.get("tags", [])
    ]
    if not sources:
        return []
    told: dict[str, Any] = {"lab": Lab(**parameters)}
    exec("\n".join(sources), told)
    lab, noises = told["lab"], told.get("noises", [])
    return [*lab.unknown((cell.stage for cell in told["cells"]), [*noises, *made]), *noises]


def _precision(stage: Stage) -> str:
    return _precision(stage.run) if isinstance(stage, Attacked) else stage.precision


def folder_of(name: str, options: argparse.Namespace) -> Path:
    """Where a page goes: an experiment to its profile's folder, the first page to the top."""
    into: Path = options.into
    return into / options.profile if name[0].isdigit() else into


def _parameters(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The parameters that a notebook has, of those that were asked for."""
    seeds = PROFILES[options.profile].seeds
    if options.profile != "smoke":
        seeds = N_SEEDS.get(name, seeds)
    wanted = {
        "profile": options.profile,
        "seed": options.seed,
    }
    if not isinstance(options.seed, list):  # a list names all of them
        wanted["n_seeds"] = seeds if options.n_seeds is None else options.n_seeds
    known = papermill.inspect_notebook(str(NOTEBOOKS / f"{name}.ipynb"))
    return {key: value for key, value in wanted.items() if key in known}


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
    made = papermill.execute_notebook(
        str(notebook),
        str(raw),
        parameters,
        progress_bar=False,
        extra_arguments=["--log-level=ERROR"],
        stdout_file=sys.stdout,
        stderr_file=sys.stderr,
    )
    text = nbformat.writes(clean(made)) + "\n"
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(
            f"{notebook.stem} takes {len(text.encode()):,} bytes, more than {MAX_BYTES:,}: show "
            f"fewer or smaller figures"
        )
    write_text(into / notebook.name, text)
    raw.unlink(missing_ok=True)
    return into / notebook.name


def reword(name: str, options: argparse.Namespace) -> bool:
    """Bring a notebook's prose and its cells' tags into its page, where there is one.

    Returns:
        whether page and notebook are now the same; where not even their code is, says so.
    """
    source = NOTEBOOKS / f"{name}.ipynb"
    path = folder_of(name, options) / source.name
    if not path.exists():
        return True
    page, new = (nbformat.read(one, as_version=4) for one in (path, source))
    ran = {cell.id: cell for cell in page.cells if cell.cell_type == "code"}
    injected = [
        one for one in ran.values() if "injected-parameters" in one.metadata.get("tags", [])
    ]
    code = [(cell.id, cell.source) for cell in new.cells if cell.cell_type == "code"]
    if code != [(key, cell.source) for key, cell in ran.items() if cell not in injected]:
        print(f"{name} has other code than its page: it must be run", file=sys.stderr)
        return False
    cells = []
    for cell in new.cells:
        cells.append(NotebookNode(ran.get(cell.id, cell), metadata=cell.metadata))
        cells += injected * ("parameters" in cell.metadata.get("tags", []))
    if cells != page.cells:
        page.cells = cells
        write_text(path, nbformat.writes(page) + "\n")
        print(f"    {_relative(str(path))}")
    return True


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
            tags.append("hide-input")
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
        output.text = _relative("".join(lines))
        return output if output.text.strip() else None
    data = output.get("data", {})
    if WIDGET in data:
        return None
    for kind, content in data.items():
        if kind.startswith("text/"):
            data[kind] = ADDRESS.sub("", TABLE_ID.sub(numbered, _relative(content)))
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
    parser.add_argument("--seed", type=_seed, default=0, help="the first seed; or all, as 0,3,4")
    parser.add_argument("--n-seeds", type=_whole, help="how many seeds; else the page's own")
    parser.add_argument("--workers", type=_some, help="processes; else as the machine has it")
    parser.add_argument("--scheduler", help="of a Dask cluster, tcp://HOST:PORT")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="take what the records hold instead of computing it again, e.g. to add seeds",
    )
    parser.add_argument(
        "--words", action="store_true", help="run nothing; bring changed prose into the pages"
    )
    parser.add_argument(
        "--into", type=Path, help="folder of the pages; else book/, and _build/smoke for smoke"
    )
    parser.add_argument("names", nargs="*", help=f"all, or some of: {', '.join(names)}")
    options = parser.parse_args()
    if options.into is not None:
        options.into = options.into.expanduser().resolve()
    else:  # drawn images do not replace the book's pages
        options.into = ROOT / "_build" / "smoke" if options.profile == "smoke" else BOOK
    if isinstance(options.seed, list) and options.n_seeds is not None:
        parser.error("--n-seeds counts from one seed: with a list of seeds leave it away")
    unknown = sorted(set(options.names) - set(names))
    if unknown:
        parser.error(f"no such notebook: {', '.join(unknown)}; choose from {', '.join(names)}")
    return options


def _whole(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {least} or more")
    return int(text)


def _seed(text: str) -> int | list[int]:
    first, *more = [_whole(one) for one in text.split(",")]
    return [first, *more] if more else first


def _some(text: str) -> int:
    return _whole(text, 1)


if __name__ == "__main__":
    sys.exit(main())
