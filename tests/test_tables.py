"""Tables as HTML: one cell a number, tints and marks of verdicts; long ones, with and without the
script that makes them searchable and sortable."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from helpers import PROJECT
from ulelib.book.claims import FAILS, HOLDS, LEANS, NOT_TESTED
from ulelib.book.compare import ABSENT, comparison_table
from ulelib.book.tables import MARKS, TINTS, download, legend, long, mark, style_table, styled, tint
from ulelib.book.verdict import LABELS

STATIC = PROJECT / "book" / "_static"
KINDS = ("measured", "shown", "published", "verdict", "interval")


def table(**cells: tuple[str, ...]) -> pd.DataFrame:
    """A frame as of `comparison_table`, one row; the cells by exploiter."""
    line = {("", "defender"): "ULEO", ("", "export"): "as_released"}
    for head, texts in cells.items():
        line |= {(head, kind): text for kind, text in zip(KINDS, texts, strict=True)}
    return pd.DataFrame([line])


STRONGER = (
    *("12.95 ± 0.52 (5)", "12.9 ± 0.5 (5)", "51.01 ± 4.41 (5)"),
    *("stronger", "-0.500 to -0.300, margin 0.150"),
)
FEW = ("50.00 (1)", "50.0 (1)", "51.01", "", "fewer than three runs: no verdict")
NOTHING = (ABSENT,) * 5


def cells(html: str) -> list[str]:
    return re.findall(r"<td[^>]*>(.*?)</td>", html, re.DOTALL)


def csv_in(html: str) -> pd.DataFrame:
    coded = html.split("data:text/csv;base64,")[1].split('"')[0]
    return pd.read_csv(io.BytesIO(base64.b64decode(coded)))


def test_a_cell_is_one_number_with_mark_and_tint_the_interval_in_its_tooltip() -> None:
    html = style_table(table(gray=STRONGER), "A caption").to_html()
    defender, export, gray = cells(html)
    assert (defender, export) == ("ULEO", "as released")
    shown = re.sub(r"<[^>]*>", "", gray)
    assert shown == "▼ 12.9 ± 0.5 (5) 51.01"
    assert '<span role="img" aria-label="stronger">' in gray
    (title,) = re.findall('title="([^"]*)"', gray)
    assert title == (
        "measured 12.95 ± 0.52 (5), published 51.01 ± 4.41 (5); stronger; "
        "-0.500 to -0.300, margin 0.150"
    )
    assert f"background-color: {TINTS['stronger']}" in html
    assert "<caption>A caption<br>" in html and 'class="row_heading' not in html


def test_a_cell_without_a_verdict_has_no_mark_and_no_tint() -> None:
    html = style_table(table(gray=FEW, blur=NOTHING)).to_html()
    *_, gray, blur = cells(html)
    assert re.sub(r"<[^>]*>", "", gray) == "50.0 (1) 51.01"
    assert "fewer than three runs" in gray and "role=" not in gray
    assert blur == ABSENT
    assert "background-color" not in html


def test_with_many_exploiters_the_published_number_is_below() -> None:
    heads = ["standard", "gray", "mixup", "blur"]
    for few in (3, 4):
        html = style_table(table(**dict.fromkeys(heads[:few], STRONGER))).to_html()
        assert ("(5)<br><small" in html) == (few > 3)


def test_names_are_text_and_not_html() -> None:
    frame = table(gray=STRONGER).replace("ULEO", "<b>&")
    assert cells(style_table(frame).to_html())[0] == "&lt;b&gt;&amp;"


def test_the_legend_has_the_verdicts_that_occur() -> None:
    html = style_table(table(gray=STRONGER, standard=FEW)).to_html()
    caption = html.split("<caption>")[1].split("</caption>")[0]
    assert "▼ stronger than printed" in caption and "reproduced" not in caption
    assert legend(pd.Series(["", ABSENT])) == ""


def test_the_csv_file_has_every_text() -> None:
    frame = table(gray=STRONGER)
    html = style_table(frame, csv_name="one.csv").to_html()
    assert 'download="one.csv"' in html
    found = csv_in(html)
    kinds = [kind for kind in KINDS if kind != "shown"]
    assert found.columns.tolist() == ["defender", "export", *(f"gray, {kind}" for kind in kinds)]
    texts = [text for (_, kind), text in frame.iloc[0].items() if kind != "shown"]
    assert found.iloc[0].tolist() == texts


def test_a_comparison_of_results_is_laid_out() -> None:
    rows = [
        ("clean", "standard", 93.0, "-"),
        ("clean", "gray", 91.0, "-"),
        ("ULEO", "gray", 89.0, "exact"),
        ("ULEO-GrayAugs (released loop)", "gray", 27.0, "as_released"),
    ]
    frame = pd.DataFrame(rows, columns=["defender", "exploiter", "accuracy", "export"])
    html = style_table(comparison_table(frame.assign(chance=10.0, seed=0))).to_html()
    assert "○" in html and "ULEO-GrayAugs (released loop)" in html and ">as released<" in html


def test_every_verdict_and_outcome_has_a_tint_and_every_verdict_a_mark() -> None:
    assert set(LABELS) - {""} == set(MARKS) <= set(TINTS)
    assert {HOLDS, FAILS, NOT_TESTED, *LEANS.values()} <= set(TINTS)
    assert tint("50.00 (1)\nstronger") == "background-color: #fbe3bd; color: #1a1a1a;"
    assert tint('holds only under "exact"') == tint("holds") != tint("does not hold") != ""
    assert tint(LEANS[True]) != tint(LEANS[False]) != tint("undecided, otherwise") != ""
    assert tint("50.00 (1)") == tint("") == tint("holdsome") == ""
    assert mark("") == "" and mark("reproduced").endswith("</span> ")


def test_marks_of_verdicts_that_differ_in_direction_differ() -> None:
    """Not the colour alone says it."""
    signs = {name: sign for name, (sign, _) in MARKS.items()}
    assert signs["stronger"] == signs["lower"] != signs["weaker"] == signs["higher"]
    assert len(set(signs.values())) == len(signs) - 2


def test_a_tint_that_hides_the_ground_has_a_dark_text() -> None:
    """Else the dark theme's pale text would stand on it."""
    for name, colour in TINTS.items():
        assert ("color: #1a1a1a" in tint(name)) == (len(colour) == 7)


def test_a_table_can_be_downloaded() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x, y", "é"], "c": [0.5, None]})
    link = download(frame, "table.csv")
    assert link.startswith('<a download="table.csv"')
    assert csv_in(link).equals(frame)


# --- long tables ---------------------------------------------------------------------------------


NUMBERS = pd.DataFrame(
    {
        "name": ["b <1>", "a", "c10", "c9"],
        "measured": ["✓ 9.5 ± 0.1 (3)", "-12.0 (1)", ABSENT, "80.0"],
        "verdict": ["reproduced", "", "stronger", "reproduced"],
    }
)


def test_a_long_table_is_a_table_in_a_box_with_its_csv_file() -> None:
    html = long(NUMBERS, "A <i>caption</i>", "numbers.csv").data
    assert html.count("<table") == 1 and html.count("<tr>") == 1 + len(NUMBERS)
    assert 'style="max-height: 70vh; overflow: auto;"' in html  # in JupyterLab as well
    assert 'aria-label="A caption"' in html and 'tabindex="0"' in html
    assert "b &lt;1&gt;" in html and "<details" not in html
    assert 'download="numbers.csv"' in html
    assert csv_in(html)["name"].tolist() == NUMBERS["name"].tolist()


def test_a_long_table_keeps_tints_and_may_be_folded_and_have_other_data() -> None:
    styler = styled(NUMBERS, None, 0.8, {"td.col0": "color: red;"}).map(tint, subset=["verdict"])
    html = long(styler, "A caption", "a.csv", pd.DataFrame({"x": [7]}), "All numbers").data
    assert html.startswith('<details class="long-table-fold"><summary>All numbers</summary>')
    assert csv_in(html)["x"].tolist() == [7]
    tinted = re.findall(r'<td id="(T_\w+_row\d_col2)" class="data col2"', html)
    assert len(tinted) == 3 and all(f"#{name}" in html for name in tinted)
    assert 'class="data col0"' in html and "td.col0" in html


def test_the_script_is_small_and_asks_for_nothing() -> None:
    script = (STATIC / "tables.js").read_text()
    assert len(script.splitlines()) <= 150
    for word in ("http", "import", "fetch", "innerHTML", "eval"):
        assert not re.search(rf"\b{word}\b", script), word
    assert "http" not in (STATIC / "tables.css").read_text()


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Any:
    """A page with two long tables, one folded, in the browser."""
    boxes = [
        long(NUMBERS, "First", "first.csv").data,
        long(NUMBERS, "Second", "second.csv", fold="More").data,
    ]
    head = (
        f'<link rel="stylesheet" href="{(STATIC / "tables.css").as_uri()}">'
        f'<script src="{(STATIC / "tables.js").as_uri()}"></script>'
    )
    path = tmp_path / "page.html"
    path.write_text(
        f'<html><head><meta charset="utf-8">{head}</head><body>{"".join(boxes)}</body></html>',
        encoding="utf-8",
    )
    browser.get(path.as_uri())
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def column(page: Any, place: int) -> list[str]:
    """The texts of a column of the first table, of the rows that are shown."""
    return page.execute_script(
        "return [...document.querySelector('table').tBodies[0].rows].filter(row => !row.hidden)"
        ".map(row => row.cells[arguments[0]].innerText)",
        place,
    )


@pytest.mark.browser
def test_heads_sort_numbers_as_numbers_and_missing_ones_last(page: Any) -> None:
    head = page.find_elements("css selector", "th")[1]
    button = head.find_element("tag name", "button")
    before = column(page, 1)
    assert head.get_attribute("aria-sort") == "none" and button.text.startswith("measured")
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, 1) == ["-12.0 (1)", "✓ 9.5 ± 0.1 (3)", "80.0", ABSENT]
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, 1) == ["80.0", "✓ 9.5 ± 0.1 (3)", "-12.0 (1)", ABSENT]
    button.click()
    assert head.get_attribute("aria-sort") == "none" and column(page, 1) == before


@pytest.mark.browser
def test_one_head_at_a_time_sorts_and_the_keyboard_does_it_too(page: Any) -> None:
    name, measured, _ = page.find_elements("css selector", ".long-table-sort")[:3]
    measured.click()
    page.execute_script("arguments[0].focus()", name)
    page.switch_to.active_element.send_keys("\ue007")  # Enter
    assert column(page, 0) == ["a", "b <1>", "c9", "c10"]
    states = [one.get_attribute("aria-sort") for one in page.find_elements("css selector", "th")]
    assert states[:3] == ["ascending", "none", "none"]


@pytest.mark.browser
def test_the_labelled_field_leaves_the_rows_with_every_word(page: Any) -> None:
    label = page.find_element("css selector", ".long-table-tools label")
    field = label.find_element("tag name", "input")
    count = page.find_element("css selector", "[role=status]")
    assert label.text.strip() == "Search" and count.text == "4 rows"
    field.send_keys("REPROduced 80")
    assert column(page, 0) == ["c9"] and count.text == "1 of 4 rows"
    field.clear()
    field.send_keys("nowhere")
    assert column(page, 0) == [] and count.text == "0 of 4 rows"
    second = page.find_elements("css selector", "table")[1]
    assert not second.find_elements("css selector", "tr[hidden]")  # a field has its own table


@pytest.mark.browser
def test_the_head_of_a_long_table_stays_in_sight(page: Any) -> None:
    gone = page.execute_script(
        "const box = document.querySelector('.long-table-box'); box.style.maxHeight = '4em';"
        "box.scrollTop = 50; const head = box.querySelector('th').getBoundingClientRect();"
        "return [box.scrollTop, head.top - box.getBoundingClientRect().top]"
    )
    assert gone[0] > 0 and abs(gone[1]) <= 2
