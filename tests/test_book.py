"""The book: built from the committed pages with no warning, and readable in a browser offline."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from helpers import tool
from ulelib.book.tables import TINTS

ROOT = Path(__file__).resolve().parent.parent
CONTENTS = (ROOT / "_toc.yml").read_text()
PAGES = [
    path
    for path in (ROOT / "book").rglob("*.ipynb")
    if "_build" not in path.relative_to(ROOT).parts
]
WIDTHS = (390, 1000, 1400)  # pixels: a phone, a tablet, a desk
BESIDE = {"primary": 960, "secondary": 1200}  # from which width on a menu is a column of the page


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


# What is wrong with a page in the theme `arguments[0]`, as the reader's window is now: one sentence
# for each fault. Folded parts are looked at by those who open them.
LOOK = r"""
const root = document.documentElement, article = document.querySelector('.bd-article-container');
const faults = [];
const style = element => getComputedStyle(element);
const words = element => element.textContent.trim().replace(/\s+/g, ' ').slice(0, 60);
const seen = element => element.checkVisibility({visibilityProperty: true, opacityProperty: true});
const folded = element => !seen(element)
    && element.closest('details:not([open]), .toggle-hidden') !== null;
const all = selector => [...article.querySelectorAll(selector)].filter(e => !folded(e));
root.dataset.theme = arguments[0];

const headings = [...document.querySelectorAll('h1')];
if (headings.length !== 1) faults.push(`${headings.length} titles on the page`);
const halves = document.title.split(/ [—-] /);
if (new Set(halves).size < halves.length) faults.push(`title of the window: ${document.title}`);

for (const e of all('img, table, math'))
    if (!seen(e)) faults.push(`hidden: ${e.outerHTML.slice(0, 60)}`);
for (const e of all('table')) if (!e.rows.length) faults.push('a table without a row');
for (const e of all('img')) {
    if (!e.complete || !e.naturalWidth) faults.push(`broken: ${e.src.slice(-40)}`);
    for (let up = e; up; up = up.parentElement)
        if (style(up).filter !== 'none' || style(up).mixBlendMode !== 'normal')
            faults.push(`altered by a filter: ${e.src.slice(-40)}`);
    if (arguments[0] === 'dark' && style(e).backgroundColor !== 'rgb(255, 255, 255)')
        faults.push(`not on white: ${e.src.slice(-40)}`);
}

const RAW = /`|\*\*|:::|\$\$|\\\(|\]\(|\{(?:glue|doc|ref|numref|eq|cite|term|math|download)\b/;
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
    const holder = texts.currentNode.parentElement, text = texts.currentNode.data;
    if (RAW.test(text) && !holder.closest('pre, code, script, style, math, noscript'))
        faults.push(`raw markup: ${words(texts.currentNode)}`);
}
for (const e of document.querySelectorAll('[alt], [title], [aria-label]'))
    for (const name of ['alt', 'title', 'aria-label'])
        if (RAW.test(e.getAttribute(name))) faults.push(`raw markup: ${e.getAttribute(name)}`);

const width = innerWidth, scrolls = e => /auto|scroll/.test(style(e).overflowX);
if (root.scrollWidth > width) faults.push(`${root.scrollWidth - width} pixels too wide`);
for (const e of all('table, img, pre, math, p, li, details, .sd-card, .admonition')) {
    if (!e.getClientRects().length || e.getBoundingClientRect().right <= width + 1) continue;
    let box = e.parentElement;
    while (box && !(scrolls(box) && box.getBoundingClientRect().right <= width + 1))
        box = box.parentElement;
    if (!box) faults.push(`past the window's edge: ${e.tagName} ${words(e)}`);
}

const parts = colour => colour.match(/[\d.]+/g).map(Number);
const luminance = colour => {
    const [r, g, b] = colour.map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const over = (colour, ground) => {
    const [r, g, b, alpha = 1] = parts(colour);
    return [r, g, b].map((v, place) => alpha * v + (1 - alpha) * ground[place]);
};
const grounds = new Map();
const ground = e => {
    if (!e) return [255, 255, 255];
    if (!grounds.has(e)) grounds.set(e, over(style(e).backgroundColor, ground(e.parentElement)));
    return grounds.get(e);
};
const read = 'p, li, dt, dd, td, th, caption, figcaption, summary, math, h1, h2, h3, td span, '
    + 'caption span, a:not(.headerlink)';
for (const e of all(read)) {
    if (!seen(e) || !e.textContent.trim()) continue;
    const pair = [luminance(over(style(e).color, ground(e))), luminance(ground(e))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) faults.push(`contrast ${ratio.toFixed(1)}: ${e.tagName} ${words(e)}`);
}
return [...new Set(faults)];
"""

ASKED = """
return performance.getEntries().map(entry => entry.name)
    .filter(name => name.includes(':') && !/^(file|data|blob|visible-state):/.test(name));
"""


class Reader:
    """A browser with one window, whose width changes; it waits for what it asks for."""

    def __init__(self, browser: Any, html: Path) -> None:
        self.browser, self.html = browser, html

    def look(self, theme: str) -> list[str]:
        faults: list[str] = self.run(LOOK, theme)
        return faults

    def resize(self, width: int) -> None:
        window = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)

    def prefer(self, theme: str) -> None:
        wish = [{"name": "prefers-color-scheme", "value": theme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wish})

    def open(self, name: str) -> None:
        self.browser.get((self.html / f"{name}.html").as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def wait(self, script: str, *arguments: Any) -> None:
        """Until `script` is true."""
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.browser, 5, 0.02).until(lambda _: self.run(script, *arguments), script)

    def shown(self, selector: str) -> list[Any]:
        """The elements that can be seen, once there are some."""
        from selenium.webdriver.support.wait import WebDriverWait

        wait = WebDriverWait(self.browser, 5, 0.02)
        found: list[Any] = wait.until(lambda _: self.shown_now(selector), selector)
        return found

    def shown_now(self, selector: str) -> list[Any]:
        found = self.browser.find_elements("css selector", selector)
        return [element for element in found if element.is_displayed()]

    def press(self, key: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        chain = ActionChains(self.browser, duration=0)
        if key.startswith("Control+"):
            chain.key_down(Keys.CONTROL).send_keys(key[-1]).key_up(Keys.CONTROL).perform()
        else:
            chain.send_keys(getattr(Keys, key)).perform()

    def focused(self, element: Any) -> bool:
        held: bool = self.run("return document.activeElement === arguments[0]", element)
        return held

    def menu(self, button: Any, side: str) -> list[Any]:
        """Open a menu with the mouse, close it by Escape, and open it by Enter. Its links."""
        dialog = self.browser.find_element("css selector", f"#pst-{side}-sidebar-modal")
        stands = (
            "const box = arguments[0].getBoundingClientRect();"
            "return arguments[0].open && arguments[0].contains(document.activeElement)"
            " && box.left >= 0 && box.right <= innerWidth && box.height > innerHeight / 2"
        )
        closed = "return !arguments[0].open && document.activeElement === arguments[1]"
        assert button.get_attribute("aria-expanded") == "false"
        button.click()
        self.wait(stands, dialog)
        assert button.get_attribute("aria-expanded") == "true"
        self.press("ESCAPE")
        self.wait(closed, dialog, button)
        assert button.get_attribute("aria-expanded") == "false"
        away = {"type": "mouseMoved", "x": 20, "y": 450}
        self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", away)
        self.press("ENTER")
        self.wait(stands, dialog)
        return self.shown(f"#pst-{side}-sidebar-modal nav a")

    def complaints(self) -> list[str]:
        """Errors since the last call, and what the page asked the network for."""
        log = self.browser.get_log("browser")
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"] + self.run(ASKED)


@pytest.fixture
def reader(browser: Any, html: Path) -> Iterator[Reader]:
    """A reader of the book; no test of hers may end with an error or a request to the network."""
    reader = Reader(browser, html)
    reader.complaints()
    yield reader
    complaints = reader.complaints()
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert complaints == []


@pytest.mark.browser
@pytest.mark.parametrize("name", [*pages(), "search", "genindex"])
def test_page_in_a_browser(reader: Reader, name: str) -> None:
    reader.open(name)
    # The theme fades from colour to colour; nobody waits for that here.
    still = "*, ::before, ::after { transition: none !important; animation: none !important; }"
    reader.run(
        "document.head.append(Object.assign(document.createElement('style'),"
        "{textContent: arguments[0]}))",
        still,
    )
    for width in WIDTHS:
        reader.resize(width)
        for theme in ("light", "dark"):
            assert reader.look(theme) == [], f"{name}, {width} pixels, {theme}"


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["intro", "cpu/05_grayaug"])
def test_menu_of_the_book(reader: Reader, name: str, width: int) -> None:
    reader.resize(width)
    reader.open(name)
    (button,) = reader.shown(".primary-toggle")
    if width < BESIDE["primary"]:
        links = reader.menu(button, "primary")
        assert len(links) >= len(pages())
        links[-1].click()
        reader.wait("return location.pathname.endsWith('/references.html')")
        return
    column = "#pst-primary-sidebar .bd-links a"
    before = reader.run("return document.querySelector('article').clientWidth")
    assert len(reader.shown(column)) >= len(pages())
    assert button.get_attribute("aria-expanded") == "true"
    button.click()
    reader.wait("return document.querySelector('article').clientWidth > arguments[0]", before)
    reader.wait("return arguments[0].getAttribute('aria-expanded') === 'false'", button)
    reader.wait(
        "return ![...document.querySelectorAll(arguments[0])]"
        ".some(link => link.checkVisibility({visibilityProperty: true}))",
        column,
    )
    assert reader.focused(button)
    assert len(reader.shown(".search-button__button")) == 1
    reader.press("ENTER")
    reader.wait("return document.querySelector('article').clientWidth === arguments[0]", before)
    assert len(reader.shown(column)) >= len(pages())


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["intro", "cpu/05_grayaug"])
def test_menu_of_the_page(reader: Reader, name: str, width: int) -> None:
    reader.resize(width)
    reader.open(name)
    if width < BESIDE["secondary"]:
        (button,) = reader.shown(".secondary-toggle")
        links = reader.menu(button, "secondary")
    else:
        links = reader.shown("#pst-secondary-sidebar nav a")
        assert reader.shown_now(".secondary-toggle") == []
    assert len(links) > 2
    target = links[2].get_attribute("href").split("#")[1]
    links[2].click()
    reader.wait("return location.hash === '#' + arguments[0]", target)
    reader.wait("return document.querySelector('dialog[open]') === null")
    reader.wait(
        "const heading = document.getElementById(arguments[0]).querySelector('h2, h3');"
        "const box = heading.getBoundingClientRect();"
        "const top = document.elementFromPoint(box.x + 5, box.y + box.height / 2);"
        "return box.top >= 0 && box.bottom <= innerHeight && heading.contains(top)",
        target,
    )


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
def test_search(reader: Reader, width: int) -> None:
    reader.resize(width)
    reader.open("cpu/05_grayaug")
    assert reader.run("return document.querySelector('#pst-header').offsetHeight") == 0
    (button,) = reader.shown(".search-button__button")  # one, at every width
    button.click()
    (field,) = reader.shown("#pst-search-dialog[open] input")
    reader.wait("return document.activeElement === arguments[0]", field)
    reader.press("ESCAPE")
    reader.wait("return document.querySelector('dialog[open]') === null")
    reader.press("Control+k")
    reader.wait("return document.activeElement === arguments[0]", field)
    field.send_keys("grayscale")
    reader.press("ENTER")
    found = "#search-results ul.search a"
    reader.wait("return document.querySelectorAll(arguments[0]).length > 2", found)
    reader.wait("return /found \\d+ page/.test(document.body.innerText)")
    assert reader.complaints() == []
    reader.shown(found)[0].click()
    reader.wait("return document.querySelector('article h1') !== null && !/search/.test(location)")


def inside(png: bytes) -> bytes:
    """The colours of a picture without its edges, where it mixes with what lies behind it."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    return picture.crop((2, 2, picture.width - 2, picture.height - 2)).tobytes()


@pytest.mark.browser
def test_dark_page_shows_figures_as_they_are_and_tints_of_its_own(reader: Reader) -> None:
    figures: dict[str, list[bytes]] = {}
    tints: dict[str, list[str]] = {}
    for theme in ("light", "dark"):
        reader.prefer(theme)
        reader.open("cpu/05_grayaug")
        reader.wait("return document.documentElement.dataset.theme === arguments[0]", theme)
        figures[theme] = []
        for image in reader.browser.find_elements("css selector", ".cell_output img"):
            reader.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", image)
            if image.size["height"] < 700:  # the page's bar stands in front of higher ones
                figures[theme].append(inside(image.screenshot_as_png))
        tints[theme] = reader.run(
            "return [...new Set([...document.querySelectorAll('td[id], caption span[style]')]"
            ".map(cell => getComputedStyle(cell).backgroundColor))]"
        )
    assert figures["light"] == figures["dark"] and len(figures["dark"]) > 2
    assert len(tints["light"]) == len(tints["dark"]) > 1
    assert not {"rgb(207, 228, 247)", "rgb(251, 227, 189)"} & set(tints["dark"])


def test_every_tint_of_the_book_has_a_dark_one(html: Path) -> None:
    used = {
        tint
        for name in pages()
        for tint in re.findall(r"var\(--tint-(\w+),", (html / f"{name}.html").read_text())
    }
    used |= {tint[1:] for tint in TINTS.values() if re.fullmatch(r"#[0-9a-f]{6}", tint)}
    styles = (ROOT / "book" / "_static" / "ulelib.css").read_text()
    assert "ink" in used and {name for name in used if f"--tint-{name}:" not in styles} == set()


def test_primes_stand_on_the_line_of_a_formula(html: Path) -> None:
    text = (html / "how_it_works.html").read_text()
    assert "<mi>&#x02032;</mi>" in text and not re.search(r"<msup><mi>.</mi>.{0,6}&#x02032;", text)


@pytest.mark.browser
@pytest.mark.parametrize("name", ["cpu/13_scoreboard", "paper/13_scoreboard"])
def test_long_tables_are_searchable_and_the_page_is_short(
    browser: Any, html: Path, name: str
) -> None:
    browser.get((html / f"{name}.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollHeight") < 4000
    boxes, fields, heads = (
        len(browser.find_elements("css selector", f"article .long-table {what}"))
        for what in (".long-table-box", "label input[type=search]", "th[aria-sort] button")
    )
    assert boxes == fields == 3 and heads > 20
    higher = browser.execute_script(
        "return [...document.querySelectorAll('.long-table-box')]"
        ".filter(box => box.offsetHeight > 0.75 * window.innerHeight).length"
    )
    assert higher == 0
