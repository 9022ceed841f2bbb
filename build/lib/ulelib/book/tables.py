"""Tables of the book as HTML: pandas Stylers, narrow enough for a page, verdicts tinted."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from pandas.io.formats.style import Styler

from ulelib.book.compare import ABSENT

# Light tints that colour-blind readers can distinguish; the cell says the word as well.
TINTS = {
    "reproduced": "#cfe4f7",
    "near": "#e6eff7",
    "protects more": "#fbe3bd",
    "lower": "#fbe3bd",
    "protects less": "#ecd3e4",
    "higher": "#ecd3e4",
    "far": "#f3ecd9",
    "open": "#ececec",
    "reference": "#ececec",
    "no verdict": "#ececec",
}


def style_table(frame: pd.DataFrame, caption: str | None = None) -> Styler:
    """A comparison as HTML for a page: no index; each verdict under its measured value, tinted.

    Args:
        frame: of `comparison_table`. Up to three exploiters have the published number in a column
            of its own; with more, it stands under the measured one, so that the table fits a page.
        caption: printed above the table.

    Returns:
        a pandas `Styler`; a notebook displays it as a table, narrow enough for a page.
    """
    below = {"interval": "", "verdict": ""}  # a line each, and the word before it
    if [kind for _, kind in frame.columns].count("measured") > 3:
        below = {"published": "published "} | below
    laid_out = frame[[name for name in frame.columns if name[-1] not in below]].copy()
    for first, kind in laid_out.columns:
        column = (first, kind)
        if kind == "measured":
            for name, before in below.items():
                text = frame[(first, name)]
                laid_out[column] += ("\n" + before + text).where(text != ABSENT, "")
        elif kind == "export":
            laid_out[column] = laid_out[column].str.replace("_", " ")
        elif kind == "defender":  # a variant on a line of its own
            laid_out[column] = laid_out[column].str.replace(" (", "\n(")
    rules = {
        "th, td": "padding: 0.3em 0.5em; text-align: right;",
        "th.col_heading.level0": "text-align: center;",
        "td": "white-space: pre; vertical-align: top;",
    }
    texts = [name for name in laid_out.columns if not name[0]]
    styler = styled(laid_out, caption, 0.76, rules).map(tint)
    return styler.set_properties(subset=texts, **{"text-align": "left"})


def styled(
    frame: pd.DataFrame, caption: str | None, size: float, rules: Mapping[str, str]
) -> Styler:
    """A table of the book: no index, its caption above it.

    Args:
        size: of the letters, relative to the page's (em).
        rules: CSS properties by selector.
    """
    whole = {"": f"font-size: {size}em;", **rules}
    whole["caption"] = "caption-side: top; text-align: left; padding-bottom: 0.5em;"
    styler = frame.style.hide(axis="index").set_table_styles(
        [{"selector": selector, "props": props} for selector, props in whole.items()]
    )
    return styler.set_caption(caption) if caption else styler


def tint(cell: object, tints: Mapping[str, str] = TINTS) -> str:
    """The style of a cell whose last line is a verdict, a key of `tints`; "" for any other."""
    colour = tints.get(str(cell).split("\n")[-1])
    return f"background-color: {colour}; color: #1a1a1a;" if colour else ""
