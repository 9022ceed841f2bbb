"""Pages get changed words, tags and imports of their notebooks, and are not run again.

A cell whose code is the same but for imports keeps its outputs. Cells tagged `library-code` only
print the library's own source text: their outputs are made anew, since no computation is in them.
"""

from __future__ import annotations

import ast
import itertools
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.formatters import DisplayFormatter
from nbformat import NotebookNode

import ulelib
from pages import relative
from sources import run_as_module
from ulelib.files import write_text

LIBRARY_CODE = "library-code"
# What has nothing but modules in it.
PACKAGES = {"ulelib"} | {
    f"ulelib.{found.name}" for found in pkgutil.iter_modules(ulelib.__path__) if found.ispkg
}


def reword(source: Path, page: Path) -> bool:
    """Bring a notebook's prose, tags and imports into its page, where there is one.

    Returns:
        whether the page is now the notebook's; if not, says what differs.
    """
    if not page.exists():
        return True
    old, new = (nbformat.read(one, as_version=4) for one in (page, source))
    ran = [cell for cell in _code(old) if not _has(cell, "injected-parameters")]
    injected = [cell for cell in _code(old) if _has(cell, "injected-parameters")]
    if other := _other_code(_code(new), ran):
        print(f"{source.stem} is not what its page ran: {other}. It must be run", file=sys.stderr)
        return False
    outputs = {cell.id: cell for cell in ran}
    cells = []
    for cell in new.cells:
        if cell.cell_type == "code":
            brought = {"source": cell.source, "metadata": cell.metadata}
            if _has(cell, LIBRARY_CODE):
                brought["outputs"] = _printed(cell, _code(new), outputs[cell.id])
            cells.append(NotebookNode(outputs[cell.id], **brought))
        else:
            cells.append(cell)
        cells += injected * _has(cell, "parameters")
    if cells != old.cells:
        old.cells = cells
        write_text(page, nbformat.writes(old) + "\n")
        print(f"    {relative(str(page))}")
    return True


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _has(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def _other_code(new: list[NotebookNode], ran: list[NotebookNode]) -> str | None:
    """What is not the same in both: a code cell, or the names that are imported; None if all is."""
    modules = _modules(new), _modules(ran)
    for one, other in itertools.zip_longest(new, ran):
        if one is None or other is None or one.id != other.id:
            return f"cell {(one or other).id} is not in both"
        same = one.source == other.source or _has(one, LIBRARY_CODE)
        moved = [own - (modules[0] & modules[1]) for own in modules]  # a module of both is itself
        if not same and _reduced(one.source, moved[0]) != _reduced(other.source, moved[1]):
            return f"cell {one.id} has other code"
    if changed := _imported(new) ^ _imported(ran):
        return f"other names are imported: {', '.join(sorted(changed))}"
    return None


def _imports(cells: Iterable[NotebookNode]) -> Iterator[tuple[str, ast.alias]]:
    """What cells import: from which module ("" for a module itself), and what."""
    for cell in cells:
        for node in ast.walk(_parsed(cell.source)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    yield (getattr(node, "module", None) or "", alias)


def _modules(cells: Iterable[NotebookNode]) -> set[str]:
    """The names under which cells import modules of the library."""
    return {alias.asname or alias.name for home, alias in _imports(cells) if home in PACKAGES}


def _imported(cells: Iterable[NotebookNode]) -> set[str]:
    """What else they import; of a name of the library, not from where."""
    return {
        f"{'ulelib' if home.split('.')[0] == 'ulelib' else home} {ast.unparse(alias)}".strip()
        for home, alias in _imports(cells)
        if home not in PACKAGES
    }


def _reduced(source: str, modules: set[str]) -> str:
    """A cell's syntax tree without imports, in which it does not matter in which module of the
    library a name stands: `published.means` and `compare.means` are the same."""
    return ast.dump(_Reducer(modules).visit(_parsed(source)))


def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError:  # a magic, or a shell's command: compared as text
        return ast.Module([ast.Expr(ast.Constant(source))], [])


class _Reducer(ast.NodeTransformer):
    """Takes out imports, and modules of the library where their names are used."""

    def __init__(self, modules: set[str]) -> None:
        self.modules = modules

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id in self.modules:
            return ast.Attribute(ast.Name("ulelib", ast.Load()), node.attr, node.ctx)
        return self.generic_visit(node)


def _printed(cell: NotebookNode, code: list[NotebookNode], old: NotebookNode) -> list[NotebookNode]:
    """The output of a cell that prints the library's source text.

    Raises:
        ValueError: the cell is more than one expression.
    """
    body = _parsed(cell.source).body
    if len(body) != 1 or not isinstance(body[0], ast.Expr):
        raise ValueError(f"cell {cell.id} is tagged {LIBRARY_CODE}: it must be one expression")
    imports = [
        node
        for one in code
        for node in _parsed(one.source).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    shown = ast.Assign([ast.Name("shown", ast.Store())], body[0].value)
    tree = ast.fix_missing_locations(ast.Module([*imports, shown], []))
    names: dict[str, Any] = run_as_module("library_code", ast.unparse(tree))
    data, metadata = DisplayFormatter().format(names["shown"])
    return [
        nbformat.v4.new_output(
            "execute_result", data, metadata=metadata, execution_count=old.execution_count
        )
    ]
