"""The report on a protection: an HTML page, and the same numbers as JSON."""

from __future__ import annotations

import base64
import io
import json
import math
import tempfile
from dataclasses import asdict
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from ulelib import __version__
from ulelib.files import write_bytes, write_text
from ulelib.photos.check import STEPS
from ulelib.photos.copies import WIDEST, Pair, middle, upright
from ulelib.photos.findings import Findings
from ulelib.photos.folders import Refused
from ulelib.photos.names import printable

CUT = 256  # pixels a side of the middle of a picture that is displayed at 1:1
AMPLIFIED = 10  # factor by which the difference of picture and copy is displayed


def check_writable(page: Path) -> None:
    """Check that a report can be written, before hours of training.

    Raises:
        Refused: the folder does not exist.
        OSError: nothing can be written in it.
    """
    folder = page.expanduser().parent
    if not folder.is_dir():
        raise Refused(f"there is no folder {page.parent} for the report")
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_report(findings: Findings, page: Path | str) -> tuple[Path, Path]:
    """Write one HTML page that needs no other file, and beside it the numbers as JSON.

    Args:
        findings: of `check`.
        page: path of the page; the JSON file gets this name and ".json".

    Returns:
        the paths of both.

    Raises:
        OSError: they cannot be written.
    """
    page = Path(page).expanduser()
    json_file = page.with_name(page.name + ".json")
    numbers = _numbers(findings)
    write_text(json_file, json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        files("ulelib.photos").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    text = template.render(
        findings=findings,
        undecided=findings.undecided,
        pictures=[side_by_side(pair) for pair in findings.examples],
        folders=numbers["folders"],
        date=numbers["date"],
        version=__version__,
        steps=STEPS,
        amplified=AMPLIFIED,
        widest=WIDEST,
    )
    write_bytes(page, text.encode("utf-8", "replace"))
    return page, json_file


def _numbers(findings: Findings) -> dict[str, Any]:
    """The content of the JSON file."""
    numbers = {name: value for name, value in asdict(findings).items() if name != "examples"}
    undecided = findings.undecided
    numbers["lines"] = [
        asdict(line) | {"left": _or_null(line.left), "undecided": line in undecided}
        for line in findings.lines
    ]
    numbers["folders"] = [printable(folder) for folder in findings.folders]
    numbers |= {"verdict": findings.verdict, "fails": [line.does for line in findings.fails]}
    numbers |= {"withstood": [line.does for line in findings.withstood]}
    numbers |= {"version": __version__, "date": date.today().isoformat()}
    return {name: _or_null(value) for name, value in numbers.items()}


def _or_null(value: Any) -> Any:
    """None in place of NaN, which JSON does not have."""
    return None if isinstance(value, float) and math.isnan(value) else value


def side_by_side(pair: Pair) -> dict[str, str]:
    """A picture, its copy, and their difference around gray; the middle of each at 1:1.

    Returns:
        "name"; and as data URLs of PNG files "before", "after" and "difference" (times
        `AMPLIFIED`).
    """
    before, after = (middle(upright(file), CUT) for file in (pair.picture, pair.copy))
    if before.size != after.size:
        after = after.resize(before.size)
    difference = np.asarray(after, int) - np.asarray(before, int)
    gray = (128 + AMPLIFIED * difference).clip(0, 255).astype(np.uint8)
    return {
        "name": printable(Path(pair.label) / pair.picture.name),
        "before": data_url(before),
        "after": data_url(after),
        "difference": data_url(Image.fromarray(gray)),
    }


def data_url(picture: Image.Image) -> str:
    """A picture as a PNG file in a URL."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
