"""Every notebook through papermill, as its reader would run it, in a small smoke profile.

The first run is the README's command, word for word, with nothing at hand: no data, no cache, no
network. The others find its perturbations and results in the store. The profile is that of
`helpers.quick_profile`, which every Python process of these tests finds in the place of smoke.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from helpers import PROJECT

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
PHOTOGRAPHS = [path for path in NOTEBOOKS if "page.needs_photographs(" in path.read_text()]
APP = PROJECT / "notebooks" / "14_protect_your_pictures.ipynb"  # see test_app.py
HEADLINE = PROJECT / "notebooks" / "05_grayaug.ipynb"
DRAWN = [path for path in NOTEBOOKS if path not in (*PHOTOGRAPHS, APP, HEADLINE)]
PAPERMILL = Path(sys.executable).parent / "papermill"
each_notebook = pytest.mark.parametrize("notebook", DRAWN, ids=lambda path: path.stem)


# Python imports this at its start: once `ulelib.profiles` is imported, smoke is the quick profile,
# and the drawn images are few.
SITE = """
import importlib.util, sys

class Quick:
    def find_spec(self, name, path, target=None):
        if name != "ulelib.profiles":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def then_patch(module):
            execute(module)
            from helpers import quick_profile
            from ulelib import data
            data.SHAPES = {"train": (400, 0), "test": (200, 1)}
            module.PROFILES["smoke"] = quick_profile()

        spec.loader.exec_module = then_patch
        return spec

sys.meta_path.insert(0, Quick())
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A machine without data, cache and network, and with a store and results of its own."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "cache").mkdir()
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITE)
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "ftp_proxy"), "http://127.0.0.1:9")
    return {
        **{name: value for name, value in os.environ.items() if name != "ULELIB_DATA"},
        **nowhere,
        **{name.upper(): address for name, address in nowhere.items()},
        "ULELIB_CACHE": str(folder / "cache"),
        "ULELIB_STORE": str(folder / "store"),
        "ULELIB_RESULTS": str(folder / "results"),
        "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(PROJECT / "tests")]),
        "CUDA_VISIBLE_DEVICES": "",
        "MPLBACKEND": "Agg",  # as on many servers; the pages must show their figures all the same
    }


def run_papermill(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """From the repository root, as the README says."""
    return subprocess.run(
        [PAPERMILL, *arguments],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def headline(environment: dict[str, str]) -> dict[str, Any]:
    """The executed notebook that the README's command prints."""
    run = run_papermill(environment, "notebooks/05_grayaug.ipynb", "-p", "seed", "3")
    assert run.returncode == 0, run.stderr[-3000:]
    executed: dict[str, Any] = json.loads(run.stdout)
    return executed


def outputs_of(executed: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in executed["cells"] for output in cell.get("outputs", [])]


def ran_whole(executed: dict[str, Any]) -> None:
    assert not [output for output in outputs_of(executed) if output["output_type"] == "error"]
    code = [cell for cell in executed["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)


def shown(executed: dict[str, Any]) -> str:
    """All that a reader of the outputs sees as text."""
    texts = [
        output.get("text", output.get("data", {}).get(kind, ""))
        for output in outputs_of(executed)
        for kind in ("text/markdown", "text/html", "text/plain")
    ]
    return "\n".join("".join(text) for text in texts)


@pytest.mark.slow
def test_command_runs_with_nothing_at_hand_and_says_so(
    headline: dict[str, Any], environment: dict[str, str]
) -> None:
    ran_whole(headline)
    text = shown(headline)
    assert "CIFAR-10 is neither in `ULELIB_DATA` nor to be downloaded" in text
    assert "`smoke` profile" in text and "seed 3" in text
    assert any("image/png" in output.get("data", {}) for output in outputs_of(headline))
    (record,) = Path(environment["ULELIB_RESULTS"]).glob("smoke/0*.json")
    assert json.loads(record.read_text())["seeds"] == [3]


@pytest.mark.slow
@each_notebook
def test_notebook_runs_in_the_smoke_profile(
    notebook: Path, headline: dict[str, Any], environment: dict[str, str], tmp_path: Path
) -> None:
    """By papermill's function: its start would take as long as many a page."""
    parameters: dict[str, Any] = {"profile": "smoke"}
    if "seed" in papermill.inspect_notebook(notebook):  # the intro page reads the records alone
        parameters["seed"] = 3
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ULELIB_DATA", raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        target = str(tmp_path / notebook.name)
        executed = papermill.execute_notebook(
            str(notebook), target, parameters, progress_bar=False, cwd=str(PROJECT)
        )
    ran_whole(executed)
    if "seed" in parameters:  # it measures, and says in which profile
        assert "smoke" in shown(executed)


@pytest.mark.parametrize("notebook", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_a_page_that_needs_photographs_says_so_at_once(notebook: Path) -> None:
    parameters, first, *_ = [
        cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"
    ]
    names: dict[str, Any] = {}
    exec(parameters, names)
    names["profile"] = "smoke"
    with pytest.raises(ValueError, match=r"this page needs photographs.*ULELIB_DATA"):
        exec(first, names)


def test_unknown_parameter_fails_before_anything_is_computed(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """papermill itself only warns of it."""
    store = tmp_path / "store"
    run = run_papermill(
        environment | {"ULELIB_STORE": str(store)},
        str(HEADLINE),
        str(tmp_path / "out.ipynb"),
        "-p",
        "sed",
        "3",
    )
    assert run.returncode != 0
    assert "unknown notebook parameter(s) ['sed']" in run.stderr
    assert not list(store.rglob("*.*"))
