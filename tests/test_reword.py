"""Changed words, tags and imports reach a page; other code does not."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from helpers import PROJECT

sys.path.insert(0, str(PROJECT / "tools"))  # the tools' modules import each other
import reword
import run_notebooks as runner
import sources
from ulelib import files

new = nbformat.v4
IMPORTS = "from ulelib import figures, page, published"
MOVED = "from ulelib.book import compare, figures, page"


def test_changed_words_and_tags_reach_a_page_whose_code_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    options = SimpleNamespace(into=tmp_path / "book", profile="cpu", names=["01_a"], words=True)
    monkeypatch.setattr(runner, "_options", lambda names: options)
    seeds = new.new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
    shown = new.new_code_cell("1")
    words = new.new_markdown_cell("old")
    notebook = new.new_notebook(cells=[words, seeds, shown], metadata={"ulelib": {"seeds": 5}})
    page = tmp_path / "book" / "cpu" / "01_a.ipynb"
    page.parent.mkdir(parents=True)
    ran = new.new_code_cell("1", id=shown.id, outputs=[new.new_output("stream", text="1")])
    given = new.new_code_cell("seed = 3", metadata={"tags": ["injected-parameters"]})
    nbformat.write(new.new_notebook(cells=[words, seeds, given, ran]), page)
    words.source = "new"
    shown.metadata["tags"] = ["full-width"]
    notebook.cells.append(new.new_markdown_cell("more"))
    nbformat.write(notebook, tmp_path / "01_a.ipynb")
    assert runner.main() == 0
    after = nbformat.read(page, as_version=4)
    assert after.metadata == {}
    assert [c.source for c in after.cells] == ["new", "seed = 0", "seed = 3", "1", "more"]
    assert after.cells[3].outputs[0].text == "1"
    assert after.cells[2] == given and after.cells[3].metadata == shown.metadata
    shown.source = "2"
    nbformat.write(notebook, tmp_path / "01_a.ipynb")
    assert runner.main() == 1
    assert f"01_a is not what its page ran: cell {shown.id} has other" in capsys.readouterr().err
    assert nbformat.read(page, as_version=4) == after


def bring(folder: Path, before: list[str], after: list[str]) -> list[str] | None:
    """The sources of a page's cells after its notebook changed; None if that was refused."""
    ran = [
        new.new_code_cell(source, id=f"c{number}", outputs=[new.new_output("stream", text="1")])
        for number, source in enumerate(before)
    ]
    cells = [new.new_code_cell(source, id=f"c{number}") for number, source in enumerate(after)]
    nbformat.write(new.new_notebook(cells=ran), folder / "page.ipynb")
    nbformat.write(new.new_notebook(cells=cells), folder / "notebook.ipynb")
    brought = reword.reword(folder / "notebook.ipynb", folder / "page.ipynb")
    page = nbformat.read(folder / "page.ipynb", as_version=4)
    found = [cell.source for cell in page.cells]
    if brought:
        assert all(cell.outputs[0].text == "1" for cell in page.cells)
        return found
    assert found == before
    return None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([IMPORTS, "published.means(frame, 3)"], [MOVED, "compare.means(frame, 3)"]),
        ([IMPORTS, "published.means(frame)"], [IMPORTS, "published.means(\n    frame\n)"]),
        (
            ["from ulelib.stages import Noise, images\nimages(Noise)"],
            [
                "from ulelib.jobs.inputs import images\nfrom ulelib.specs import Noise\n"
                "images(Noise)"
            ],
        ),
        (
            [IMPORTS, "table(published.load())"],
            ["from ulelib.book import printed as paper", "table(paper.load())"],
        ),
        ([IMPORTS, "%time f()"], [MOVED, "%time f()"]),
        (
            ["import pandas as pd\n" + IMPORTS, "pd.crosstab(page.times(profile))"],
            [MOVED, "import pandas as pd\n\npd.crosstab(page.times(profile))"],
        ),
    ],
)
def test_changed_imports_reach_a_page(before: list[str], after: list[str], tmp_path: Path) -> None:
    assert bring(tmp_path, before, after) == after


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ([MOVED, "compare.means(frame, 4)"], "cell c1 has other code"),
        ([MOVED, "compare.means(other, 3)"], "cell c1 has other code"),
        ([MOVED, "compare.means(frame, n=3)"], "cell c1 has other code"),
        ([MOVED, "compare.measured(frame, 3)"], "cell c1 has other code"),
        ([MOVED, "means(frame, 3)"], "cell c1 has other code"),  # no module's
        ([MOVED, "frame.means(frame, 3)"], "cell c1 has other code"),
        ([MOVED, "%time compare.means(frame, 3)"], "cell c1 has other code"),
        ([MOVED, "compare.means(frame, 3)", "1"], "cell c2 is not in both"),
        ([MOVED], "cell c1 is not in both"),
        ([MOVED + "\nimport pandas", "compare.means(frame, 3)"], "are imported: pandas"),
        (
            [MOVED + "\nfrom ulelib.data import load", "compare.means(frame, 3)"],
            "are imported: ulelib load",
        ),
        (
            [MOVED, "from scipy import stats\ncompare.means(frame, 3)"],
            "are imported: scipy stats",
        ),
        (
            [MOVED.replace("compare, ", ""), "from pandas import compare\ncompare.means(frame, 3)"],
            "cell c1 has other code",
        ),
    ],
)
def test_other_code_is_refused(
    after: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bring(tmp_path, [IMPORTS, "published.means(frame, 3)"], after) is None
    assert f"{message}. It must be run" in capsys.readouterr().err


def test_a_name_of_the_library_is_the_same_name(tmp_path: Path) -> None:
    """`load` as `read` is not `save` as `read`."""
    before = ["from ulelib.data import load as read\nread()"]
    assert bring(tmp_path, before, ["from ulelib.files import load as read\nread()"])
    assert bring(tmp_path, before, ["from ulelib.data import save as read\nread()"]) is None


def test_a_cell_of_library_code_prints_what_runs(tmp_path: Path) -> None:
    printed = {"text/markdown": "old", "text/plain": "<Markdown>"}
    outputs = [new.new_output("execute_result", printed, execution_count=2)]
    imports = "import inspect\nfrom IPython.display import Markdown\nfrom ulelib import files"
    cells = [
        new.new_code_cell(imports, id="c0", execution_count=1),
        new.new_code_cell("Markdown(old)", id="c1", execution_count=2, outputs=outputs),
        new.new_code_cell("1 / 0", id="c2", execution_count=3),  # is not run
    ]
    nbformat.write(new.new_notebook(cells=cells), tmp_path / "page.ipynb")
    cells[1].source, cells[1].metadata = "Markdown(inspect.getsource(files.sha256))", {}
    cells[1].metadata["tags"] = ["library-code"]
    nbformat.write(new.new_notebook(cells=cells), tmp_path / "notebook.ipynb")
    assert reword.reword(tmp_path / "notebook.ipynb", tmp_path / "page.ipynb")
    page = nbformat.read(tmp_path / "page.ipynb", as_version=4)
    (output,) = page.cells[1].outputs
    assert output.data["text/markdown"] == inspect.getsource(files.sha256)
    assert output.execution_count == page.cells[1].execution_count == 2
    assert page.cells[1].source == cells[1].source
    cells[1].source = "shown = 1"
    nbformat.write(new.new_notebook(cells=cells), tmp_path / "notebook.ipynb")
    with pytest.raises(ValueError, match="c1 is tagged library-code: it must be one expression"):
        reword.reword(tmp_path / "notebook.ipynb", tmp_path / "page.ipynb")
