"""The project's own rules: notebooks, pages, committed files, packages, style and types."""

from __future__ import annotations

import ast
import functools
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import nbformat
import papermill
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ulelib.lab import read_results
from ulelib.perturbation import EXPORTS
from ulelib.profiles import PROFILES
from ulelib.published import comparison_table, means, published
from ulelib.store import canonical

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted((ROOT / "book").glob("*.ipynb"))
REQUIRED = [
    "README.md",
    "LICENSE",
    "CITATION.cff",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Makefile",
    "environment.yml",
    "pyproject.toml",
    "requirements.lock",
    ".ci/run",
    "_config.yml",
    "_toc.yml",
]
MAX_LINES = 15  # of a code cell
MAX_BYTES = 1_500_000  # of a committed file
# Spelt in pieces, so that this file does not hold what it looks for.
FOREIGN = re.compile(
    r"(?<![\w.~/:<-])/(?:home|root|work|tmp|Users)/(?=\w)|/opt/"
    + "pypi|pypi"
    + r"\.org|index-"
    + "url"
)


@functools.cache
def committed() -> list[Path]:
    """Every file that is, or would be, committed."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git working tree")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def cells(path: Path, kind: str = "code") -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def sources(path: Path) -> list[tuple[str, str]]:
    """Kind and source of every cell, but for those that papermill put in."""
    return [
        (cell.cell_type, cell.source)
        for cell in nbformat.read(path, as_version=4).cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {
        "00_quickstart",
        "02_uleo",
        "03_grayscale_exploiter",
        "05_grayaug",
        "05b_released_loop",
        "intro",
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_is_valid_and_holds_no_outputs(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3"
        for cell in cells(path):
            assert cell.outputs == [] and cell.execution_count is None

    def test_has_one_cell_of_literal_parameters(self, path: Path) -> None:
        tagged = [cell for cell in cells(path) if "parameters" in cell.metadata.get("tags", [])]
        assert len(tagged) == 1
        for statement in ast.parse(tagged[0].source).body:
            assert isinstance(statement, ast.Assign | ast.AnnAssign)
            assert statement.value is not None
            ast.literal_eval(statement.value)
        known = set(papermill.inspect_notebook(str(path)))
        assert "profile" in known
        if path.stem[0].isdigit():  # an experiment, not the page that shows the stored results
            assert {"profile", "seed", "n_seeds"} <= known
        # papermill only warns of a parameter that a notebook does not have.
        assert re.search(r"\b(open_lab|check_parameters)\(", path.read_text())

    def test_cells_are_short_and_leave_the_work_to_the_library(self, path: Path) -> None:
        for cell in cells(path):
            lines = cell.source.splitlines()
            assert len(lines) <= MAX_LINES, cell.source
            tree = ast.parse("\n".join(line for line in lines if not line.startswith(("%", "!"))))
            for node in ast.walk(tree):
                assert not isinstance(node, ast.ClassDef | ast.While), cell.source
                called = getattr(node, "attr", "")
                assert called not in {"backward", "zero_grad"}, f"training in a cell: {cell.source}"

    def test_begins_with_a_heading(self, path: Path) -> None:
        kind, source = sources(path)[0]
        assert kind == "markdown" and source.startswith("# ")

    def test_page_is_of_this_notebook(self, path: Path) -> None:
        page = ROOT / "book" / path.name
        assert page.is_file(), f"no page yet: make reproduce NAMES={path.stem}"
        assert sources(page) == sources(path), f"stale page: make reproduce NAMES={path.stem}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
class TestPage:
    def test_ran_from_top_to_bottom_without_an_error(self, path: Path) -> None:
        assert (ROOT / "notebooks" / path.name).is_file(), "a page without a notebook"
        counts = [cell.execution_count for cell in cells(path) if cell.source.strip()]
        assert counts == list(range(1, len(counts) + 1))
        for cell in cells(path):
            assert all(output.output_type != "error" for output in cell.outputs)
            assert [output.text for output in cell.outputs if output.get("name") == "stderr"] == []

    def test_holds_no_clock_times_paths_or_progress_bars(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        assert set(notebook.metadata) <= {"kernelspec", "language_info"}
        for cell in notebook.cells:
            assert set(cell.metadata) <= {"tags"}
        assert not re.search(r"\d+%\|", path.read_text())


def shown_html(name: str) -> str:
    outputs = [output for cell in cells(ROOT / "book" / f"{name}.ipynb") for output in cell.outputs]
    return "".join(output.get("data", {}).get("text/html", "") for output in outputs)


@pytest.mark.parametrize(
    ("page", "record", "table", "where"),
    [
        ("intro", "05_grayaug", "2", {}),
        ("03_grayscale_exploiter", "03_grayscale_exploiter", "1", {"setting": ""}),
        ("05_grayaug", "05_grayaug", "2", {}),
        ("05b_released_loop", "05b_released_loop", "2", {}),
    ],
)
def test_tables_show_the_committed_records(
    page: str, record: str, table: str, where: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(ROOT / "results"))
    results, _ = read_results(record, "cpu")
    shown = shown_html(page)
    frame = comparison_table(results, table, **where)
    place = 0
    for _, row in frame.iterrows():
        for exploiter in ("standard", "gray"):
            cell = f"{row[(exploiter, 'measured')]}\n{row[(exploiter, 'verdict')]}"
            place = shown.find(cell, place)
            assert place >= 0, f"{page} does not show {cell!r}: make reproduce, {record} and {page}"


def test_what_05_says_of_the_cpu_profile_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its section "What holds" is prose about the committed record."""
    monkeypatch.setenv("ULELIB_RESULTS", str(ROOT / "results"))
    results, record = read_results("05_grayaug", "cpu")
    assert len(record["seeds"]) == 2 and record["images"]["train"][:2] == ["cifar10", 20_000]
    mean = means(results)
    clean_gray = mean["clean", "-", "gray"]
    frame = comparison_table(results, "2").set_index([("", "defender"), ("", "export")])
    for export in EXPORTS:  # gray defeats ULEO
        assert mean["ULEO", export, "gray"] > clean_gray - 10
        assert frame.loc[("ULEO", export), ("gray", "verdict")] == "reproduced"
    for exploiter in ("standard", "gray"):
        printed = published("2", defender="ULEO-GrayAugs", exploiter=exploiter).value
        verdicts = frame[(exploiter, "verdict")]
        assert verdicts["ULEO-GrayAugs", "exact"] == "reproduced"
        assert mean["ULEO-GrayAugs", "as_released", exploiter] > 1.5 * printed
        # Gray alone protects as well with both signs, and better as released.
        exact = [mean[f"ULEO-Gray{end}", "exact", exploiter] for end in ("s", "Augs")]
        assert abs(exact[0] - exact[1]) < 2
        assert verdicts["ULEO-Grays", "as_released"] == "reproduced"
        assert verdicts["ULEO-Grays", "exact"] != "reproduced"
        released = [mean[f"ULEO-Gray{end}", "as_released", exploiter] for end in ("s", "Augs")]
        assert released[0] < released[1] - 5


def test_what_05b_says_of_the_cpu_profile_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(ROOT / "results"))
    results, record = read_results("05b_released_loop", "cpu")
    assert len(record["seeds"]) == 2 and record["images"]["train"][:2] == ["cifar10", 20_000]
    stated, released = "ULEO-GrayAugs", "ULEO-GrayAugs (released loop)"
    cells: dict[tuple[str, str, str], list[float]] = {}
    for one in results:
        cells.setdefault((one.defender, one.export, one.exploiter), []).append(one.accuracy)
    for exploiter in ("standard", "gray"):
        for export in EXPORTS:  # the loop: each mean lies among the other's seeds, or close by
            first, second = cells[stated, export, exploiter], cells[released, export, exploiter]
            assert abs(fmean(first) - fmean(second)) < max(stdev(first), stdev(second))
        for defender in (stated, released):  # the export
            exact, as_released = (cells[defender, export, exploiter] for export in EXPORTS)
            assert min(as_released) > max(exact) + 10


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*/*.json")), ids=str)
def test_record_is_of_its_profile(path: Path) -> None:
    record = json.loads(path.read_text())
    assert record["profile"] == json.loads(canonical(PROFILES[path.parent.name])), (
        f"the profile has changed since: make reproduce PROFILE={path.parent.name}"
    )
    assert record["name"] == path.stem
    assert record["generations"]
    protected = {(row["defender"], row["seed"]) for row in record["results"]} - {
        ("clean", seed) for seed in record["seeds"]
    }
    made = {(row["defender"], row["seed"]) for row in record["generations"].values()}
    assert protected <= made


def test_committed_files_are_small_and_belong_to_no_machine() -> None:
    for path in committed():
        assert path.stat().st_size <= MAX_BYTES, f"{path.relative_to(ROOT)} is too large"
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        text = re.sub(r'"image/png": "[^"]*"', "", text)
        found = FOREIGN.search(text)
        assert not found, f"{path.relative_to(ROOT)} holds {text[found.start() :][:60]!r}"


def test_required_files_are_there() -> None:
    for name in REQUIRED:
        assert (ROOT / name).is_file(), name
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    named = {item["value"] for reference in references for item in reference["identifiers"]}
    assert named == {"arXiv:2101.04898", "arXiv:2111.13244", "arXiv:2210.10114"}


def locked() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def test_lock_agrees_with_the_ranges() -> None:
    pins = locked()
    for pin in pins.values():
        assert re.fullmatch(r"==[\w.!+]+", str(pin.specifier)), f"{pin} is not exact"
        if pin.name.startswith(("nvidia-", "cuda-", "triton")):
            assert 'platform_system == "Linux"' in str(pin.marker)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(text)
        (version,) = [pin.version for pin in pins[canonicalize_name(wanted.name)].specifier]
        assert version in wanted.specifier, f"{text}, but the lock has {version}"


def test_environment_agrees_with_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, *_ = [item for item in environment["dependencies"] if str(item).startswith("python")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert python.removeprefix("python=") in SpecifierSet(project["requires-python"])
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert pip == ["-r requirements.lock", "-e ."]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["ruff check --no-cache .", "ruff format --no-cache --check .", "mypy"],
)
def test_style_and_types(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
