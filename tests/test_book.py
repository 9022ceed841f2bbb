"""The book: built from the committed pages with no warning, and readable in a browser offline."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers import tool

ROOT = Path(__file__).resolve().parent.parent
CONTENTS = (ROOT / "_toc.yml").read_text()
PAGES = [
    path
    for path in (ROOT / "book").rglob("*.ipynb")
    if "_build" not in path.relative_to(ROOT).parts
]


def pages() -> list[str]:
    """Names of the book's pages, in the order of its table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"], *(page["file"] for part in toc["parts"] for page in part["chapters"])]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The demo's tool, with a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made := tool("demo"), "FOLDER", tmp_path_factory.mktemp("demo"))
        yield made


@pytest.fixture(scope="module")
def html(demo: Any) -> Path:
    """The folder of the built pages and the demo's, built from a copy: nothing of an older build is
    used. A warning would end it."""
    (demo.FOLDER / "pages" / "smoke").mkdir(parents=True)
    page = ROOT / "book" / "cpu" / f"{demo.NOTEBOOK}.ipynb"  # any executed page will do
    shutil.copy(page, demo.FOLDER / "pages" / "smoke")
    demo.stage(demo.FOLDER / "book")
    folder: Path = demo.build(demo.FOLDER / "book").parent
    log = (demo.FOLDER / "build.log").read_text()
    assert "WARNING" not in log and "ERROR" not in log, log[-5000:]
    return folder


def test_configuration_of_the_book_is_the_one_at_the_root() -> None:
    for name in ("_config.yml", "_toc.yml"):
        assert (ROOT / "book" / name).resolve() == ROOT / name
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert config["execute"]["execute_notebooks"] == "off"


def test_book_lists_every_page_that_was_made() -> None:
    made = {str(path.relative_to(ROOT / "book").with_suffix("")) for path in PAGES}
    assert made and made == {name for name in pages() if (ROOT / f"book/{name}.ipynb").exists()}


def test_book_builds_without_a_warning(html: Path) -> None:
    assert (html / "index.html").is_file()
    for name in pages():
        assert (html / f"{name}.html").is_file()


def test_the_demo_adds_its_page_to_a_copy(html: Path, demo: Any) -> None:
    shown = (html / f"{demo.PAGE}.html").read_text()
    assert "Made on this machine" in shown and "Table 2" in shown
    assert (ROOT / "_toc.yml").read_text() == CONTENTS
    assert (html / "index.html").is_file() and (html / "intro.html").is_file()
    assert not (ROOT / "book" / f"{demo.PAGE}.ipynb").exists()


def test_a_book_with_a_broken_link_is_not_built(tmp_path: Path, demo: Any) -> None:
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    (tmp_path / "_config.yml").write_text("title: Broken\n")
    (tmp_path / "intro.md").write_text("# Intro\n\n[](nowhere)\n")
    with pytest.raises(SystemExit, match="the book was not built"):
        demo.build(tmp_path)


def test_no_page_loads_anything_from_the_network(html: Path) -> None:
    for name in pages():
        text = (html / f"{name}.html").read_text()
        for tag in ('src="http', 'src="//', 'rel="stylesheet" href="http'):
            assert tag not in text, f"{name} has {tag}"


MEASURE = """
const article = document.querySelector('article');
const shown = element => element.getClientRects().length > 0
    && getComputedStyle(element).visibility === 'visible';
const folded = element => element.closest('details:not([open]), .toggle-hidden, .hide') !== null;
const all = selector => Array.from(article.querySelectorAll(selector)).filter(e => !folded(e));
return {
    heading: article.querySelector('h1').innerText,
    brokenImages: all('img').filter(e => !e.complete || e.naturalWidth === 0).map(e => e.outerHTML),
    hiddenImages: all('img').filter(e => !shown(e)).length,
    hiddenTables: all('table').filter(e => !shown(e) || e.rows.length === 0).length,
    hiddenFormulas: all('math').filter(e => !shown(e)).length,
    rawFormulas: article.innerText.match(/\\\\\\(|\\$\\$/g),
    wider: document.documentElement.scrollWidth - window.innerWidth,
};
"""

CONTRAST = """
const rgb = colour => colour.match(/[\\d.]+/g).map(Number);
const luminance = colour => {
    const [r, g, b] = rgb(colour).slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const background = element => {
    for (let e = element; e; e = e.parentElement) {
        const colour = getComputedStyle(e).backgroundColor, parts = rgb(colour);
        if (parts.length === 3 || parts[3] > 0.5) return colour;
    }
    return 'rgb(255, 255, 255)';
};
document.documentElement.dataset.theme = arguments[0];
document.documentElement.dataset.mode = arguments[0];
const low = [];
for (const e of document.querySelectorAll('article p, article td, article th, article math')) {
    if (!e.getClientRects().length || !e.textContent.trim()) continue;
    const pair = [luminance(getComputedStyle(e).color), luminance(background(e))].sort();
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) low.push([ratio, e.textContent.slice(0, 60)]);
}
return low;
"""


@pytest.mark.browser
@pytest.mark.parametrize("name", pages())
def test_page_in_a_browser(browser: Any, html: Path, name: str) -> None:
    browser.get((html / f"{name}.html").as_uri())
    seen = browser.execute_script(MEASURE)
    assert seen["heading"]
    assert seen["brokenImages"] == []
    assert seen["hiddenImages"] == seen["hiddenTables"] == seen["hiddenFormulas"] == 0
    assert not seen["rawFormulas"]
    assert seen["wider"] <= 0, f"{seen['wider']} pixels wider than the window"
    for theme in ("light", "dark"):
        low = browser.execute_script(CONTRAST, theme)
        assert low == [], f"hard to read in the {theme} theme"
    log = browser.get_log("browser")
    assert [entry for entry in log if entry["level"] == "SEVERE"] == []
