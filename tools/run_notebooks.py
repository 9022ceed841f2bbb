"""Compute what the notebooks need as one plan, then execute them as pages of the book.

    python tools/run_notebooks.py --profile cpu [--seed 0] [--n-seeds 2] [05_grayaug ...]
    python tools/run_notebooks.py --profile cpu --keep --seed 0,3,4 11_transferable
    python tools/run_notebooks.py --profile cpu --scheduler tcp://HOST:PORT
    python tools/run_notebooks.py --profile paper --minutes 15
    python tools/run_notebooks.py --profile cpu --arena [--minutes 60]
    python tools/run_notebooks.py --profile cpu --words [05_grayaug ...]
    python tools/run_notebooks.py --profile cpu --retell [05_grayaug ...]

Each notebook states its stages in cells tagged `plan`. They are collected without repetition and
run by a pool of processes, or on a Dask cluster; then papermill executes the notebooks, which find
their numbers in the store. A run that was stopped goes on where it was. A page is replaced only by
one that ran to its end; a notebook that fails is reported and the others go on.

`--minutes` computes the most wanted stages that fit into that time, and executes no page; so does
`--arena` with those of the arena, all of them where no time is given.

`--words` runs nothing: it brings changed prose, tags and imports into the pages whose code is
otherwise the notebook's. `--retell` executes pages from their records, and computes nothing: see
`retell.py`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import collect
import pages
import retell
import reword
import sources
import wanted
from ulelib import machine
from ulelib.book import arena
from ulelib.files import check_writable
from ulelib.jobs import records
from ulelib.profiles import PROFILES

FIRST = "intro"  # shows, as the README does, what HEADLINE measured in the profile `pages.SHOWN`
HEADLINE = "05_grayaug"


def main() -> int:
    names = sorted(path.stem for path in sources.FOLDER.glob("*.ipynb"))
    options = _options(names)
    if options.words:
        reworded = [
            reword.reword(sources.path_of(name), _folder(name, options) / f"{name}.ipynb")
            for name in options.names or names
        ]
        return 0 if all(reworded) else 1
    if options.retell:
        return 0 if all([_retell(name, options) for name in options.names or names]) else 1
    # Pages and the records that they write and read belong together.
    results = sources.ROOT / "results" if options.into == pages.BOOK else options.into / "results"
    os.environ.setdefault("ULELIB_RESULTS", str(results))
    if options.keep:
        os.environ["ULELIB_KEEP"] = "1"
    try:
        _check_folders(options)
    except OSError as error:
        print(error.strerror, file=sys.stderr)
        return 1
    if options.minutes is not None or options.arena:
        return 0 if _within(options) else 1
    return _reproduce(names, options)


def _check_folders(options: argparse.Namespace) -> None:
    """Check that stages, records and pages can be written, before any is computed.

    Raises:
        OSError: they cannot; says which and what to do.
    """
    records.check_writable(options.profile)
    store = machine.folder("ULELIB_STORE", ".ulelib")
    check_writable(store, "set ULELIB_STORE to a folder that you may write")
    if options.minutes is None:
        check_writable(options.into, "name another folder with --into")
        check_writable(pages.FAILED, "copy the project into a folder that you may write")


def _retell(name: str, options: argparse.Namespace) -> bool:
    page = _folder(name, options) / f"{name}.ipynb"
    try:
        retell.retell(sources.path_of(name), page, sources.ROOT / "results")
    except retell.CannotBeRetold as error:
        print(error, file=sys.stderr)
        return False
    return True


def _reproduce(names: list[str], options: argparse.Namespace) -> int:
    """Compute the stages of the chosen notebooks and execute them."""
    jobs = {name: _parameters(name, options) for name in chosen(names, options)}
    before, number = records.known(options.profile), len(jobs)
    failed = collect.compute(jobs, options.scheduler, options.workers)
    for name in failed:
        print(f"{name} cannot be made: it needs stages that failed", file=sys.stderr)
    jobs = {name: parameters for name, parameters in jobs.items() if name not in failed}
    failed += _execute(jobs, options)
    if options.into == pages.BOOK and FIRST in jobs and FIRST not in failed:
        tool = sources.ROOT / "tools" / "headline.py"
        subprocess.run([sys.executable, str(tool)], check=True)
    made = [name for name in jobs if name not in failed]
    for name in collect.others_that_changed(options.profile, before, made):
        print(f"{name} shows other numbers of stages that are in its record: make it again")
    if failed:
        print(f"{len(failed)} of {number} notebooks failed: {', '.join(failed)}")
    return 1 if failed else 0


def _execute(jobs: dict[str, dict[str, Any]], options: argparse.Namespace) -> list[str]:
    """Execute notebooks as pages; returns those that failed."""
    failed = []
    for number, (name, parameters) in enumerate(jobs.items(), 1):
        shown = ", ".join(f"{key} {value}" for key, value in parameters.items())
        print(f"[{number}/{len(jobs)}] {name}: {shown}", flush=True)
        start = time.perf_counter()
        try:
            page = pages.run(sources.path_of(name), _folder(name, options), parameters)
        except Exception as error:  # whatever a notebook raises; the next one may still run
            failed.append(name)
            print(f"{error}\n{name} failed", file=sys.stderr, flush=True)
        else:
            seconds = time.perf_counter() - start
            print(f"    {seconds:.0f} s -> {pages.relative(str(page))}", flush=True)
            if options.into == pages.BOOK and page.parent != pages.BOOK:
                pages.list_page(page.relative_to(pages.BOOK).with_suffix("").as_posix())
    return failed


def _within(options: argparse.Namespace) -> bool:
    """Compute what fits into the minutes; returns whether no stage failed."""
    if options.arena:
        ring = wanted.of_arena(options.profile, options.seed, options.n_seeds or arena.N_SEEDS)
        return wanted.compute(ring, options.minutes, options.scheduler, options.workers)
    most = wanted.of_list(options.profile)
    if most is not None and (options.seed != 0 or options.n_seeds is not None):
        sys.exit("tools/wanted.toml lists the seeds: leave --seed and --n-seeds away")
    if most is None:
        needs = sources.stated(HEADLINE, _parameters(HEADLINE, options))
        assert needs is not None
        most = wanted.Wanted(needs.lab, needs.stages, needs.cells)
    return wanted.compute(most, options.minutes, options.scheduler, options.workers)


def chosen(names: list[str], options: argparse.Namespace) -> list[str]:
    """The notebooks to run: those that were asked for, or all of the profile.

    Those that show records of others are run with any notebook of their profile, after it.
    """
    readers = [
        name
        for name in names
        if sources.making(name).reads_records and sources.is_of(name, options.profile)
    ]
    asked = options.names or [name for name in names if sources.is_of(name, options.profile)]
    if options.into != pages.BOOK:
        return sorted(asked, key=lambda name: name in readers)
    record = sources.ROOT / "results" / pages.SHOWN / f"{HEADLINE}.json"
    at_top = options.profile == pages.SHOWN and (record.exists() or HEADLINE in asked)
    return [name for name in asked if name not in readers] + [
        name for name in readers if at_top or _folder(name, options) != pages.BOOK
    ]


def _folder(name: str, options: argparse.Namespace) -> Path:
    return pages.folder_of(name, options.into, options.profile)


def _parameters(name: str, options: argparse.Namespace) -> dict[str, Any]:
    return sources.parameters(name, options.profile, options.seed, options.n_seeds)


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
        "--minutes", type=_minutes, help="compute the most wanted stages that fit, and no page"
    )
    parser.add_argument("--arena", action="store_true", help="compute the arena, and no page")
    parser.add_argument(
        "--words", action="store_true", help="run nothing; bring changed prose into the pages"
    )
    parser.add_argument(
        "--retell", action="store_true", help="make tables and charts anew, from the records alone"
    )
    parser.add_argument(
        "--into", type=Path, help="folder of the pages; else book/, and _build/smoke for smoke"
    )
    parser.add_argument("names", nargs="*", help=f"all, or some of: {', '.join(names)}")
    options = parser.parse_args()
    if options.into is not None:
        options.into = options.into.expanduser().resolve()
    else:  # drawn images do not replace the book's pages
        smoke = sources.ROOT / "_build" / "smoke"
        options.into = smoke if options.profile == "smoke" else pages.BOOK
    if isinstance(options.seed, list) and options.n_seeds is not None:
        parser.error("--n-seeds counts from one seed: with a list of seeds leave it away")
    if (options.minutes is not None or options.arena) and (options.names or options.words):
        parser.error("--minutes and --arena make no page: name none, and leave --words away")
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


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0")
    return minutes


if __name__ == "__main__":
    sys.exit(main())
