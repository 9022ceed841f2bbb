"""The house: a thin core and three wings, and what each of them needs."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ulelib
from helpers import run_python
from ulelib.bilevel import minimise_error

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "ulelib"
FILES = sorted(LIBRARY.rglob("*.py"))
WINGS = ("jobs", "book", "photos")
MAY_IMPORT = {  # by wing; "" is the core
    "": {""},
    "jobs": {"", "jobs"},
    "book": {"", "jobs", "book"},
    "photos": {"", "jobs", "photos"},
}
ENTRANCE = (
    "__main__.py"  # of the command line: it opens the doors of all wings, and nobody imports it
)
MOST_LINES, LONGEST = 500, 60
ALGORITHM_1 = minimise_error.__name__
EXTRAS = {
    "": ("", "jobs"),
    "book": ("book",),
    "photos": ("photos",),
}  # and the wings that they open


def wing_of(path: Path) -> str:
    inside = path.relative_to(LIBRARY).parts
    return inside[0] if inside[0] in WINGS else ""


def imported(path: Path) -> set[str]:
    """The modules that a file imports from anywhere, in functions, too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(LIBRARY)))
class TestFile:
    def test_imports_go_from_the_wings_to_the_core(self, path: Path) -> None:
        ours = [name.split(".")[1] for name in imported(path) if name.startswith("ulelib.")]
        assert "__main__" not in ours
        if path.name != ENTRANCE:
            wings = {name if name in WINGS else "" for name in ours}
            assert wings <= MAY_IMPORT[wing_of(path)]

    def test_is_short_and_so_are_its_functions(self, path: Path) -> None:
        text = path.read_text()
        assert len(text.splitlines()) <= MOST_LINES
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name != ALGORITHM_1:
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < LONGEST, node.name

    def test_says_what_it_is_for(self, path: Path) -> None:
        assert ast.get_docstring(ast.parse(path.read_text()))


# --- what is to be installed ---------------------------------------------------------------------


def closure(extra: str) -> set[str]:
    """The distributions that `pip install ".[EXTRA]"` brings, without those of other extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    queue = [*project["dependencies"], *project["optional-dependencies"].get(extra, [])]
    found: set[tuple[str, frozenset[str]]] = set()
    while queue:
        wanted = Requirement(queue.pop())
        key = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if key not in found:
            found.add(key)
            for text in distribution(wanted.name).requires or []:
                child = Requirement(text)
                extras = wanted.extras or {""}
                if not child.marker or any(child.marker.evaluate({"extra": e}) for e in extras):
                    queue.append(text)
    return {name for name, _ in found}


LOOK = """
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
print("loaded", *sorted(set(sys.modules) & {watched!r}))
"""


def fresh(extra: str, folder: Path) -> Path:
    """A folder with what `pip install ".[EXTRA]"` brings into an empty environment, and no more: as
    links into this one."""
    folder.mkdir()
    for name in closure(extra):
        for file in distribution(name).files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    (folder / "ulelib").symlink_to(LIBRARY)
    return folder


def in_fresh(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python without site-packages of its own."""
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        env=os.environ | {"PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def modules_of(wing: str) -> list[str]:
    package = importlib.import_module(f"ulelib.{wing}" if wing else "ulelib")
    inside = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    return [one.name for one in inside if one.name != "ulelib.__main__"]


DRAWING = {"matplotlib", "seaborn", "scipy", "jinja2", "IPython", "click", "torchmetrics"}


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_its_wing_imports(extra: str, tmp_path: Path) -> None:
    modules = [name for wing in EXTRAS[extra] for name in modules_of(wing)]
    look = LOOK.format(modules=modules, watched=DRAWING)
    done = in_fresh(fresh(extra, tmp_path / "site"), "-c", look)
    assert done.returncode == 0, done.stderr
    if not extra:
        assert done.stdout.split() == ["loaded"]  # the science and the lab draw nothing
        done = in_fresh(tmp_path / "site", "-m", "ulelib", "protect")
        assert done.returncode == 1 and "ulelib[photos]" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_nothing_is_imported_that_no_extra_declares() -> None:
    declared = set().union(*map(closure, ("", "book", "photos", "cluster")))
    known = packages_distributions()
    for path in FILES:
        for name in imported(path):
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top != "ulelib":
                assert {canonicalize_name(one) for one in known[top]} & declared, (path, name)


def test_import_changes_nothing_in_the_process() -> None:
    printed = run_python(
        "import os, torch; before = dict(os.environ), torch.get_num_threads(); "
        "import ulelib, ulelib.jobs.lab, ulelib.book.figures; "
        "print(before == (dict(os.environ), torch.get_num_threads()))"
    )
    assert printed.split()[-1] == "True"


def test_the_version_is_one() -> None:
    assert ulelib.__version__ == distribution("ulelib").version
