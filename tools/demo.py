"""The demo: one page made here and now, its table in the terminal, and the book with it.

Runs `05_grayaug` in the `smoke` profile, prints what it measured, and builds the book from a copy
of `book/` to which the new page is added. All goes to `_build/demo`; no committed file changes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import yaml

from ulelib.book import compare
from ulelib.jobs import records

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "_build" / "demo"
NOTEBOOK = "05_grayaug"
PAGE = f"cpu/demo_{NOTEBOOK}"  # beside the pages that it has links to


def main() -> int:
    start = time.perf_counter()
    os.environ["ULELIB_RESULTS"] = str(FOLDER / "results")
    command = [sys.executable, str(ROOT / "tools" / "run_notebooks.py"), "--profile", "smoke"]
    if subprocess.run([*command, "--into", str(FOLDER / "pages"), NOTEBOOK]).returncode:
        return 1
    frame, _ = records.read(NOTEBOOK, "smoke")
    print(f"\n{table(frame)}\n")
    print("Percent of the clean test images that the exploiter's network gets right. Chance is 10.")
    print(f"Lower is better protected. {sentence(frame)}")
    print("Drawn images and a tiny network, though: what a paper found is in the book's pages.")
    print("Building the book ...", flush=True)
    stage(FOLDER / "book")
    index = build(FOLDER / "book")
    print(f"Done in {time.perf_counter() - start:.0f} seconds. Open in a browser:")
    print(f"    {index.parent.joinpath(PAGE + '.html').as_uri()}   (the page just made)")
    print(f"    {index.as_uri()}   (the whole book)")
    return 0


def table(frame: pd.DataFrame) -> str:
    """Mean accuracies: a row for each defender and export, a column for each exploiter.

    Args:
        frame: of `records.read`.
    """
    shown = frame.assign(export=frame["export"].str.replace("_", " "))
    pivot = shown.pivot_table("accuracy", ["defender", "export"], "exploiter", sort=False)
    return pivot[["standard", "gray"]].to_string(float_format="{:.1f}".format)


def sentence(frame: pd.DataFrame) -> str:
    """What the table shows, in a sentence with its numbers.

    Args:
        frame: of `records.read`.
    """
    mean = compare.means(frame)
    return (
        f"Of {mean['clean', '-', 'standard']:.0f} %, ULEO (exact) leaves the standard exploiter "
        f"{mean['ULEO', 'exact', 'standard']:.0f} %;\nof {mean['clean', '-', 'gray']:.0f} %, "
        f"ULEO-GrayAugs leaves the gray one {mean['ULEO-GrayAugs', 'exact', 'gray']:.0f} %."
    )


def stage(folder: Path) -> None:
    """Copy `book/` to `folder`, links followed, and add the demo's page as a part of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "book", folder, ignore=shutil.ignore_patterns("_build", ".*"))
    shutil.copy(FOLDER / "pages" / "smoke" / f"{NOTEBOOK}.ipynb", folder / f"{PAGE}.ipynb")
    contents = yaml.safe_load((folder / "_toc.yml").read_text())
    page = {"file": PAGE, "title": "Demo: 05_grayaug on drawn images"}
    contents["parts"].insert(0, {"caption": "Made on this machine", "chapters": [page]})
    (folder / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False))


def build(folder: Path) -> Path:
    """Build the book in `folder`; returns the path of its first page.

    Raises:
        SystemExit: the build failed; the message has the end of its log.
    """
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    command = [str(jupyter_book), "build", "-W", "-n", "--keep-going", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (FOLDER / "build.log").write_text(done.stdout)
    if done.returncode:
        raise SystemExit(f"the book was not built:\n{done.stdout[-3000:]}")
    return folder / "_build" / "html" / "index.html"


if __name__ == "__main__":
    sys.exit(main())
