"""The project's own rules: notebooks, pages, committed files, packages, style and types."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from helpers import tool
from ulelib import bilevel, pgd
from ulelib.book import scoreboard
from ulelib.book.compare import number_text
from ulelib.book.page import spent_on
from ulelib.jobs import records
from ulelib.profiles import PROFILES
from ulelib.settings import described, key_of
from ulelib.specs import Noise, needs

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted(
    path
    for path in (ROOT / "book").rglob("*.ipynb")
    if "_build" not in path.relative_to(ROOT).parts
)
RECORDS = sorted(
    path
    for path in (ROOT / "results").glob("*/*.json")
    if path.stem != records.WANTED and path.name != records.REPLACED
)
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
APP = "14_protect_your_pictures"  # a tool, which has no numbers
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


def sources(path: Path) -> list[tuple[str, str, list[str]]]:
    """Kind, source and tags of every cell, but for those that papermill put in."""
    return [
        (cell.cell_type, cell.source, cell.metadata.get("tags", []))
        for cell in nbformat.read(path, as_version=4).cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {
        "00_quickstart",
        "01_unlearnable_examples",
        "02_uleo",
        "03_grayscale_exploiter",
        "05_grayaug",
        "05b_what_decides",
        "05c_precision",
        "05d_full_size",
        "05e_what_scale_changes",
        "05f_quarter_width",
        "06_cross_model",
        "07_mixed_data",
        "08_imagenet",
        "09_mlp",
        "10_adversarial_training",
        "04_mitigations",
        "12_released_code_audit",
        "11_transferable",
        "11b_without_labels",
        "11c_hardened",
        "11d_two_losses",
        "13_scoreboard",
        APP,
        "14b_what_it_is_worth",
        "14c_masking",
        "how_it_works",
        "intro",
        "report",
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
        assert "profile" in known or path.stem == APP
        if "open_lab(" in path.read_text():  # an experiment, not a page that shows the records
            assert {"profile", "seed", "n_seeds"} <= known
        # papermill only warns of a parameter that a notebook does not have.
        assert re.search(r"\b(open_lab|check_parameters)\(", path.read_text())

    def test_cells_are_short_and_leave_the_work_to_the_library(self, path: Path) -> None:
        for cell in cells(path):
            lines = cell.source.splitlines()
            assert len(lines) <= MAX_LINES, cell.source
            if lines[:1] == ["%%say"]:  # prose with numbers
                continue
            tree = ast.parse("\n".join(line for line in lines if not line.startswith(("%", "!"))))
            for node in ast.walk(tree):
                assert not isinstance(node, ast.ClassDef | ast.While), cell.source
                called = getattr(node, "attr", "")
                assert called not in {"backward", "zero_grad"}, f"training in a cell: {cell.source}"

    def test_begins_with_a_heading(self, path: Path) -> None:
        kind, source, _ = sources(path)[0]
        assert kind == "markdown" and source.startswith("# ")

    def test_headings_stand_in_markdown_cells(self, path: Path) -> None:
        """One that a `%%say` cell prints is in no table of contents."""
        for cell in cells(path):
            if cell.source.startswith("%%say"):
                assert not re.search(r"^#+ ", cell.source, re.MULTILINE), cell.source

    def test_page_is_of_this_notebook(self, path: Path) -> None:
        pages = [page for page in PAGES if page.name == path.name]
        assert pages, f"no page: make reproduce NAMES={path.stem}"
        for page in pages:
            assert sources(page) == sources(path), f"stale page: make reproduce NAMES={path.stem}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.stem}")
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


def shown_html(page: Path) -> str:
    outputs = [output for cell in cells(page) for output in cell.outputs]
    return "".join(output.get("data", {}).get("text/html", "") for output in outputs)


def recorded(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ULELIB_RESULTS", str(ROOT / "results"))
        return records.read(path.stem, path.parent.name)


@pytest.mark.parametrize("profile", ["cpu", "paper"])
def test_pages_show_what_stands_beside_printed_numbers(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(ROOT / "results"))
    board = scoreboard.board(profile)
    # Page 03 measures AdvPois and shows no number of that paper.
    elsewhere = (board["table"] == "MI-UE CIFAR-10") & (board["defender"] == "AdvPois")
    measured = board[board["n"].notna() & ~elsewhere]
    assert len(measured) > 3
    for pages, rows in measured.groupby("page"):
        paths = [ROOT / "book" / profile / f"{page}.ipynb" for page in pages.split(", ")]
        shown = "".join(map(shown_html, paths))
        for row in rows.itertuples():
            number = (row.mean, row.std, row.n)
            if row.unit == "points":
                number = (row.points, row.points_std, row.n)
            text = number_text(*number, sign="+" * (row.unit == "points"), digits=2)
            assert f"measured {text}, published " in shown, f"{pages}: {text}, Table {row.table}"


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}/{path.stem}")
class TestRecord:
    def test_page_tells_the_stages_that_are_recorded(self, path: Path) -> None:
        """Pages share stages: who measures one again has to execute all pages that show it."""
        page = ROOT / "book" / path.parent.name / path.name.replace(".json", ".ipynb")
        _, record = recorded(path)
        assert spent_on(record["stages"].values()) in page.read_text(encoding="utf-8"), (
            f"make reproduce NAMES={path.stem}"
        )

    def test_is_of_its_profile_and_of_known_code(self, path: Path) -> None:
        profile = PROFILES[path.parent.name]
        frame, record = recorded(path)
        assert (record["page"], record["profile"]) == (path.stem, profile.name)
        assert set(frame.get("seed", [])) <= set(record["seeds"])  # a page may have noise alone
        for key, stage in record["stages"].items():
            assert re.fullmatch(r"[0-9a-f]{16}", key)
            assert re.fullmatch(r"[0-9a-f]{12}", stage["made"]["commit"]), "of changed code"
        for row in frame.itertuples():
            # A variant may be one of the recipe; a training on few or on other images is longer.
            other = getattr(row, "data", record["train"][0]) != record["train"][0]
            if " (" not in row.defender and getattr(row, "setting", "-") == "-" and not other:
                own = (profile.recipe, replace(profile.recipe, learning_rate=profile.nets_rate))
                if row.exploiter in profile.contrastive:
                    own = (profile.pretraining_for(row.exploiter),)
                if row.exploiter == "at (3 steps)":  # page 11c
                    own = (replace(profile.recipe, epochs=5 * profile.recipe.epochs // 2),)
                spec = record["stages"][row.key]["spec"]
                used = spec.get("run", spec)[
                    "recipe"
                ].items()  # of a last layer that is learned anew
                assert any(described(one, keyed=True).items() <= used for one in own), (
                    f"the profile has changed since: make reproduce PROFILE={profile.name}"
                )

    def test_every_stage_is_under_the_key_of_its_spec(self, path: Path) -> None:
        _, record = recorded(path)
        for key, stage in record["stages"].items():
            assert key_of(records.spec_of(stage)) == key

    def test_holds_the_noise_behind_every_training(self, path: Path) -> None:
        """Made on the same kind of processor: another one makes other noise of the same seed. Where
        digests are noted, they are those of the noise that is recorded."""
        _, record = recorded(path)
        stages = record["stages"]
        assert any(stage["spec"]["type"] == "Noise" for stage in stages.values())
        for stage in stages.values():
            for noise in needs(records.spec_of(stage)):
                if isinstance(noise, Noise):
                    made = stages[key_of(noise)]
                    assert made["made"]["machine"]["device"] == stage["made"]["machine"]["device"]
                    digests = stage["result"].get("noise", {})
                    known = made["result"].get("sha256")
                    assert digests.get(key_of(noise), known) in (known, None)


def test_the_page_of_algorithm_1_prints_the_code_that_runs() -> None:
    printed = [
        told.removeprefix("```python").removesuffix("```")
        for cell in cells(ROOT / "book" / "cpu" / "02_uleo.ipynb")
        for output in cell.outputs
        if (told := output.get("data", {}).get("text/markdown", "")).startswith("```python")
    ]
    runs = [inspect.getsource(one) for one in (bilevel.minimise_error, pgd.signed_gradient_steps)]
    assert [without_words(one) for one in printed] == [without_words(one) for one in runs], (
        "make page 02 again"
    )


def without_words(source: str) -> str:
    """Code without its docstrings and comments."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            del node.body[0]
    return ast.unparse(tree)


def test_readme_shows_the_committed_headline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", "set by the tool")
    monkeypatch.setattr(sys, "argv", ["headline.py", "--check"])
    assert tool("headline").main() == 0


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
    for text in sum(project["optional-dependencies"].values(), project["dependencies"]):
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
