"""What the documentation shows runs as it stands there."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from helpers import PROJECT, quick_profile
from ulelib import data
from ulelib.book import claims
from ulelib.defenders import DEFENDERS
from ulelib.exploiters import EXPLOITERS
from ulelib.perturbation import Perturbation
from ulelib.profiles import PROFILES
from ulelib.views import VIEWS


def example(path: str, begins: str) -> str:
    """The one Python block of a page that begins so."""
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / path).read_text(), re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(begins)]
    return str(found)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(PROFILES, "smoke", quick_profile())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ULELIB_STORE", str(tmp_path / "store"))


def test_own_pictures_are_protected_as_how_to_says(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for number in range(60):
        pixels = torch.randint(0, 256, (40, 48, 3), generator=generator, dtype=torch.uint8)
        folder = tmp_path / "my_pictures" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(folder / f"IMG_{number}.jpg")
    exec(example("book/how_to.md", "from ulelib.bilevel"), {})
    clean = data.image_folder("my_pictures")
    protected = data.image_folder("my_protected_pictures")
    stems = [[Path(file).with_suffix("") for file in one.files] for one in (clean, protected)]
    assert stems[0] == stems[1]
    moved = (protected.images.int() - clean.images.int()).abs()
    assert 0 < moved.max() <= 8 and (moved.flatten(1).max(1).values > 0).all()
    noise = Perturbation.load(tmp_path / "my_noise.safetensors")
    assert torch.equal(noise.apply(clean).images, protected.images)


def test_own_pictures_are_tried_as_how_to_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = torch.Generator().manual_seed(0)
    for number in range(120):
        split, label = ("train", "train", "test")[number % 3], ("cat", "dog")[number % 2]
        folder = tmp_path / "pets" / split / label
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (40, 40, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    monkeypatch.setenv("ULELIB_DATA", str(tmp_path))
    exec(example("book/how_to.md", "from ulelib.jobs.inputs"), {})
    shown = capsys.readouterr().out
    assert "jpeg-50" in shown and "ULEO-GrayAugs" in shown


def test_the_worked_examples_of_extending_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exploiter and a defender, each under 30 lines, measured; and the test shown beside one."""
    page = (PROJECT / "book/extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for block in blocks:
        assert len([line for line in block.splitlines() if line.strip()]) < 30
    module = ModuleType("example")  # dataclasses look up the module that they stand in
    monkeypatch.setitem(sys.modules, "example", module)
    try:
        for block in blocks:
            exec(block, vars(module))
        module.test_band_blanks_some_rows()
    finally:
        for table in (VIEWS, EXPLOITERS, DEFENDERS):
            for name in ("band", "stripes", "ULEO-Band"):
                table.pop(name, None)  # type: ignore[attr-defined]
    shown = capsys.readouterr().out
    assert "band" in shown and "stripes" in shown and "projection" in shown


def test_the_claim_of_extending_is_one() -> None:
    page = (PROJECT / "book/extending.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (claim,) = tomllib.loads(text)["claim"]
    claims._check(claim)


def test_the_readmes_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(example("README.md", "from ulelib.jobs.lab"), {})
    assert "ULEO-GrayAugs" in capsys.readouterr().out
