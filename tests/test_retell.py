"""Pages told anew from their records: what is run, what is kept, what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers import PROJECT

sys.path.insert(0, str(PROJECT / "tools"))

import retell


def cell(name: str, source: str, output: str = "", tag: str = "") -> nbformat.NotebookNode:
    shown = [new_output("stream", text=output)] if output else []
    made = new_code_cell(source, outputs=shown, metadata={"tags": [tag]} if tag else {})
    made.id = name
    return made


def written(path: Path, *cells: nbformat.NotebookNode) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[*cells]), path)
    return path


NEEDS_NOISE = "from ulelib.jobs import plan\nnoise = plan.run([])"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "kept.json").write_text("{}")
    return folder


def outputs(page: Path) -> dict[str, str]:
    cells = nbformat.read(page, as_version=4).cells
    return {one.id: "".join(out.text for out in one.get("outputs", [])) for one in cells}


@pytest.mark.slow
def test_what_the_record_has_is_run_and_the_rest_is_kept(tmp_path: Path, results: Path) -> None:
    words = new_markdown_cell("new words")
    source = written(
        tmp_path / "a.ipynb",
        words,
        cell("parameters", "seed = 0", tag="parameters"),
        cell("table", "print('new table of seed', seed)\nnoise = 1"),
        cell("noise", NEEDS_NOISE),
        cell("picture", "print(noise)"),  # `noise` is another one now
        cell("again", "noise = 2\nprint('is set again')"),
        cell("last", "import os\nprint(noise, os.environ['ULELIB_RESULTS'] != 'x')"),
    )
    page = written(
        tmp_path / "book" / "a.ipynb",
        new_markdown_cell("old words"),
        cell("parameters", "seed = 0", tag="parameters"),
        cell("any", "seed = 7", tag="injected-parameters"),
        cell("table", "print('table')", "old table"),
        cell("noise", NEEDS_NOISE, "old noise"),
        cell("picture", "print(noise)", "old picture"),
        cell("last", "print(1)", "old last"),
    )
    assert retell.retell(source, page, results)
    assert outputs(page) == {
        words.id: "",
        "parameters": "",
        "injected-parameters": "",
        "table": "new table of seed 7\n",
        "noise": "old noise",
        "picture": "old picture",
        "again": "is set again\n",
        "last": "2 True\n",
    }
    cells = nbformat.read(page, as_version=4).cells
    counts = [one.execution_count for one in cells if one.cell_type == "code"]
    assert counts == [*range(1, 8)]
    assert json.loads((results / "kept.json").read_text()) == {} and [*results.iterdir()]
    assert not retell.retell(source, page, results)  # a second time nothing changes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([cell("noise", NEEDS_NOISE + "  # changed")], "needs what is not recorded, and its code"),
        ([cell("other", "1 / 0")], "other: ZeroDivisionError: division by zero"),
    ],
)
def test_what_cannot_be_told_leaves_the_page(
    tmp_path: Path, results: Path, cells: list[nbformat.NotebookNode], message: str
) -> None:
    source = written(tmp_path / "a.ipynb", *cells)
    page = written(tmp_path / "book" / "a.ipynb", cell("noise", NEEDS_NOISE, "old noise"))
    before = page.read_bytes()
    with pytest.raises(retell.CannotBeRetold, match=message):
        retell.retell(source, page, results)
    assert page.read_bytes() == before


def test_a_notebook_without_a_page_is_not_told(tmp_path: Path, results: Path) -> None:
    source = written(tmp_path / "a.ipynb", cell("other", "1 / 0"))
    assert not retell.retell(source, tmp_path / "book" / "a.ipynb", results)


def test_names_that_a_cell_reads_and_sets() -> None:
    source = "import a.b\nfrom c import d as e\nx = f(y)\nfor z in x: w[z] = lambda v: v\n"
    assert retell._names(source) == ({"f", "y", "x", "w", "z", "v"}, {"a", "e", "x", "z"})
