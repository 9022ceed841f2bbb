"""Pages told anew from their records, where nothing can be computed.

A page's tables and charts come from its record, and so can be made again on any machine; pictures
of noise need the noise itself, which no record holds. So the notebook is executed with a lab that
computes nothing: a cell that asks for more than the record has, and a cell that reads a name which
such a cell would have set, keeps the outputs that the page has, if its code is the same.
"""

from __future__ import annotations

import ast
import os
import shutil
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from pages import MAX_BYTES, clean, relative
from ulelib.book.say import MAGIC, names_in
from ulelib.files import write_text

# Runs in the page's kernel before its own cells. Whatever the page does not ask for in vain is in
# its record: so the lab has used all of it, as it had when the page was made.
REFUSE = '''
import pathlib
from ulelib.jobs import lab as _lab, plan as _plan, records as _records

class NotRecorded(RuntimeError):
    """What no record holds: it would have to be computed."""

def _refuse(wanted, *_, **__):
    raise NotRecorded("; ".join(map(_plan.title, wanted)))

def _as_recorded(self, *arguments, **options):
    _init(self, *arguments, **options)
    _, record = _records.read(PAGE, self.profile.name)
    self.__dict__["precision"] = record["precision"]  # whatever other pages were measured in
    stages = map(_records.spec_of, record["stages"].values())
    self.stages_used |= dict.fromkeys(stages)

_init, _lab.Lab.__init__ = _lab.Lab.__init__, _as_recorded
_plan.run = _refuse
'''
NOT_RECORDED = "NotRecorded"


class CannotBeRetold(RuntimeError):
    """A page that is not the record's and the old page's together; says which cell."""


def retell(source: Path, page: Path, results: Path) -> bool:
    """Execute a notebook from the records and write its page; what needs more is kept.

    Args:
        source, page: the notebook, and its page.
        results: the folder of the records, which stays as it is.

    Returns:
        whether there is a page and it changed.

    Raises:
        CannotBeRetold: a cell failed otherwise, or needs what is not recorded and has other code
            than in the page, or none.
    """
    if not page.exists():
        return False
    old, new = (nbformat.read(one, as_version=4) for one in (page, source))
    had = {cell.id: cell for cell in old.cells}
    cells = []
    for cell in new.cells:
        cells.append(cell)
        if "parameters" in cell.metadata.get("tags", []):
            cells += [one for one in old.cells if _injected(one)]
    new.cells = cells
    kept = _execute(new, had, source.stem, results)
    _number(new)
    text = nbformat.writes(clean(new)) + "\n"
    if len(text.encode()) > MAX_BYTES:
        raise CannotBeRetold(f"{source.stem} takes {len(text.encode()):,} bytes")
    if text == page.read_text(encoding="utf-8"):
        return False
    write_text(page, text)
    print(f"    {relative(str(page))}" + f", {kept} cells kept" * bool(kept))
    return True


def _injected(cell: NotebookNode) -> bool:
    return "injected-parameters" in cell.metadata.get("tags", [])


def _execute(notebook: NotebookNode, had: dict[str, NotebookNode], name: str, results: Path) -> int:
    """Run the cells that the record suffices for, and put the page's outputs into the others;
    returns how many these are.

    Args:
        had: the page's cells, by id.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copied = Path(scratch) / "results"  # a page saves its record
        shutil.copytree(results, copied)
        environment = {"ULELIB_RESULTS": str(copied), "ULELIB_STORE": str(Path(scratch) / "store")}
        quiet = ["--log-level=ERROR"]
        client = NotebookClient(
            notebook, timeout=None, kernel_name="python3", extra_arguments=quiet
        )
        with client.setup_kernel(env=os.environ | environment | {"ULELIB_KEEP": "1"}):
            notebook.cells.insert(0, nbformat.v4.new_code_cell(REFUSE.replace("PAGE", repr(name))))
            client.execute_cell(notebook.cells[0], 0)
            lost, kept = set[str](), 0  # names that kept cells would have set
            for place, cell in enumerate(notebook.cells[1:], 1):
                if cell.cell_type != "code" or not cell.source.strip():
                    continue
                loaded, stored = _names(cell.source)
                if not loaded & lost and _run(client, cell, place, name):
                    lost -= stored
                    continue
                if cell.id not in had or had[cell.id].source != cell.source:
                    raise CannotBeRetold(
                        f"{name}, cell {cell.id}, needs what is not recorded, and its code is not "
                        "the page's: the page must be run"
                    )
                cell.outputs, kept = had[cell.id].outputs, kept + 1
                lost |= stored
    del notebook.cells[0]
    return kept


def _run(client: NotebookClient, cell: NotebookNode, place: int, name: str) -> bool:
    """Execute a cell; returns False where it needs what is not recorded.

    Raises:
        CannotBeRetold: it failed otherwise.
    """
    try:
        client.execute_cell(cell, place)
    except CellExecutionError as error:
        if error.ename == NOT_RECORDED:
            return False
        raise CannotBeRetold(f"{name}, cell {cell.id}: {error.ename}: {error.evalue}") from error
    return True


def _names(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell reads, and those that it sets."""
    if source.startswith(f"%%{MAGIC}"):
        return names_in(source), set()
    loaded, stored = set[str](), set[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else stored).add(node.id)
        elif isinstance(node, ast.alias):
            stored.add((node.asname or node.name).split(".")[0])
    return loaded, stored


def _number(notebook: NotebookNode) -> None:
    """Number the cells in their order, as if the page had run alone."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    for number, cell in enumerate(code, 1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
