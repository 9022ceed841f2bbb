"""Comparisons as HTML: names, tints, and what is under the measured number."""

import pandas as pd

from ulelib.book.compare import comparison_table
from ulelib.book.tables import TINTS, style_table, tint
from ulelib.book.verdict import LABELS


def results(*rows):
    """(defender, exploiter, accuracy, export) as a frame of `Lab.table`, one seed."""
    frame = pd.DataFrame(rows, columns=["defender", "exploiter", "accuracy", "export"])
    return frame.assign(chance=10.0, seed=0)


RESULTS = results(
    ("clean", "standard", 93.0, "-"),
    ("clean", "gray", 91.0, "-"),
    ("ULEO", "gray", 89.0, "exact"),
    ("ULEO-GrayAugs", "gray", 80.0, "exact"),
    ("ULEO-GrayAugs (released loop)", "gray", 27.0, "as_released"),
)


def test_style_names_and_tints_verdicts():
    html = style_table(comparison_table(RESULTS), caption="A caption").to_html()
    assert "A caption" in html
    assert "\nfar" in html and "\nnear" in html
    assert html.count("background-color") >= 3
    assert 'class="row_heading' not in html
    assert "<caption" not in style_table(comparison_table(RESULTS)).to_html()


def test_a_variant_is_on_a_line_of_its_own():
    html = style_table(comparison_table(RESULTS)).to_html()
    assert "ULEO-GrayAugs\n(released loop)" in html and "as released" in html


def test_many_exploiters_have_the_published_number_under_theirs():
    few = ["standard", "gray", "mixup"]
    for exploiters in (few, [*few, "bdr-2"]):
        rows = [("clean", one, 90.0, "-") for one in exploiters]
        rows += [("ULEO", one, 50.0, "exact") for one in exploiters]
        html = style_table(comparison_table(results(*rows), table="1")).to_html()
        under = "50.00 (1)\npublished 51.01\nnear" in html
        assert under == (len(exploiters) > 3) == (">published<" not in html)


def test_every_label_has_a_tint():
    assert set(TINTS) == set(LABELS)
    assert tint("50.00 (1)\nnear") == "background-color: #e6eff7; color: #1a1a1a;"
    assert tint("50.00 (1)") == ""
