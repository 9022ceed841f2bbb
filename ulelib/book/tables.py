"""Tables of the book as HTML: verdicts tinted and marked, long ones searchable, each with its CSV.

style_table(comparison_table(...), caption)      measured beside published, one cell a number
long(styler, caption, "claims.csv")              a long table in a scrolling box
styled(frame, caption, 0.8, {}), tint            what other tables are made of

A long table is a plain table in a box. In the book, `book/_static/tables.js` adds a search box and
sortable heads; in JupyterLab and without scripts, the table and its CSV link are there.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from html import escape

import pandas as pd
from IPython.display import HTML
from pandas.io.formats.style import Styler

from ulelib.book.compare import ABSENT

AS_PRINTED, LESS, MORE = "#cfe4f7", "#fbe3bd", "#ecd3e4"
NOTHING = "#80808030"  # lets the page's ground through, light or dark
INK = "#1a1a1a"  # on every other tint, in both themes
# Light tints that colour-blind readers can distinguish; each cell has the word or a mark as well.
TINTS = {
    "reproduced": AS_PRINTED,
    "stronger": LESS,
    "lower": LESS,
    "weaker": MORE,
    "higher": MORE,
    "undecided": NOTHING,
    "reference": NOTHING,
    "no verdict": NOTHING,
    # of claims
    "holds": AS_PRINTED,
    "does not hold": LESS,
    "fails": LESS,
    "undecided, leans to yes": "#e6eff7",
    "undecided, leans to no": "#f3ecd9",
    "not tested": NOTHING,
}
# The mark of a verdict, which says where the measured accuracy lies, and its line in a legend.
MARKS = {
    "reproduced": ("✓", "reproduced"),
    "stronger": ("▼", "stronger than printed"),
    "weaker": ("▲", "weaker than printed"),
    "lower": ("▼", "lower than printed"),
    "higher": ("▲", "higher than printed"),
    "undecided": ("?", "undecided"),
    "reference": ("○", "what the others are measured against"),
    "no verdict": ("×", "no verdict"),
}
BESIDE = 3  # exploiters up to which a published number stands beside the measured one
LONG_NAME = 18  # characters from which on a name may take two lines


def style_table(
    frame: pd.DataFrame, caption: str | None = None, csv_name: str = "comparison.csv"
) -> Styler:
    """A comparison as HTML for a page: one cell a number, tinted and marked by its verdict.

    A cell reads "✓ 12.9 ± 0.5 (5)", and the published number small and gray: beside it with up to
    `BESIDE` exploiters, else below it. Its tooltip has both with all digits, the verdict and the
    interval.

    Args:
        frame: of `comparison_table`, with columns ("", name) and (head, kind), where kind is
            measured, shown (the same with one digit), published, verdict or interval.
        caption: HTML, printed above the table; a legend and a link to the CSV file follow.
        csv_name: of the file behind that link, which has every text of `frame` but those shown.

    Returns:
        a pandas `Styler`; a notebook displays it as a table, narrow enough for a page.

    Raises:
        KeyError: a head has no published number, verdict or interval.
    """
    heads = [head for head, kind in frame.columns if kind == "measured"]
    names = [name for head, name in frame.columns if not head]
    shown = pd.DataFrame(index=frame.index)
    for name in names:
        plain = frame[("", name)].astype(str)
        shown[name] = (plain.str.replace("_", " ") if name == "export" else plain).map(escape)
    for head in heads:
        kinds = ["measured", "shown", "published", "verdict", "interval"]
        texts = frame[[(head, kind) for kind in kinds]].replace(ABSENT, "")
        below = len(heads) > BESIDE
        shown[head] = [_cell(*cell, below=below) for cell in texts.itertuples(index=False)]
    verdicts = pd.DataFrame("", shown.index, shown.columns)
    verdicts[heads] = frame[[(head, "verdict") for head in heads]].to_numpy()
    rules = {
        "th, td": "padding: 0.3em 0.5em; text-align: right; vertical-align: top;",
        "td": "white-space: nowrap;",
        ".printed": "opacity: 0.75; font-size: 0.9em; display: inline-block; min-width: 3.2em;",
        "td span[title]": "cursor: help;",
    }
    for place, name in enumerate(names):
        long_one = shown[name].str.len().max() > LONG_NAME
        wrapped = f" white-space: normal; min-width: {LONG_NAME / 2}em;" * bool(long_one)
        rules[f"td.col{place}, th.col{place}"] = f"text-align: left;{wrapped}"
    parts = [caption, _legend(verdicts[heads]), download(_flat(frame), csv_name)]
    styler = styled(shown, "<br>".join(filter(None, parts)), 0.76, rules)
    return styler.apply(lambda _: verdicts.map(tint), axis=None)


def _cell(
    measured: str, shown: str, published: str, verdict: str, interval: str, *, below: bool
) -> str:
    """A cell of `style_table` as HTML; the arguments are texts of `comparison_table`, or ""."""
    if not published:
        return escape(shown) or ABSENT
    told = [f"measured {measured}, published {published}", verdict, interval]
    title = escape("; ".join(filter(None, told)))
    printed = f'<small class="printed">{escape(published.split(" ")[0])}</small>'
    return (
        f'<span title="{title}">{mark(verdict)}{escape(shown)}{"<br>" if below else " "}'
        f"{printed}</span>"
    )


def mark(verdict: str) -> str:
    """The mark of a verdict as HTML, read aloud as the verdict; "" for one without a mark."""
    if verdict not in MARKS:
        return ""
    return f'<span role="img" aria-label="{verdict}">{MARKS[verdict][0]}</span> '


def legend(verdicts: pd.Series[str]) -> str:
    """HTML: the marks of the verdicts that occur, each on its tint and with its meaning."""
    found = set(verdicts)
    return " ".join(
        f'<span style="{tint(name)} padding: 0 0.3em; white-space: nowrap;">{sign} {meaning}</span>'
        for name, (sign, meaning) in MARKS.items()
        if name in found
    )


def _legend(verdicts: pd.DataFrame) -> str:
    """What the cells of `style_table` are: mean, spread and runs, the published number, marks."""
    marks = legend(pd.Series(verdicts.to_numpy().ravel(), dtype=str))
    words = "Mean ± standard deviation (runs); small: the published number."
    return f"{words} {marks}".strip()


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with one level of columns, "gray, measured", for a file; without the short texts."""
    return pd.DataFrame(
        {
            ", ".join(filter(None, [head, kind])): texts
            for (head, kind), texts in frame.items()
            if kind != "shown"
        }
    )


def long(
    table: Styler | pd.DataFrame,
    caption: str,
    csv_name: str,
    data: pd.DataFrame | None = None,
    fold: str | None = None,
) -> HTML:
    """A long table in a box of limited height, with a link that saves it as a CSV file.

    In the book the box has a search field and sortable heads (`book/_static/tables.js`).

    Args:
        table: of text or numbers; a Styler keeps its tints, and its cells are HTML.
        caption: HTML, printed above the box.
        csv_name: of the file.
        data: what the file has; None: the table's own frame.
        fold: the line that opens the table, which is then closed at first; None: it is open.

    Returns:
        what a notebook displays.
    """
    if isinstance(table, pd.DataFrame):
        table = styled(table, None, 0.8, {"td, th": "text-align: left;"}).format(escape="html")
    shown = table.to_html()
    # Cells are found by their column; a class for the row alone would take half of the page.
    shown = re.sub(r'class="data row\d+ (col\d+)"', r'class="data \1"', shown)
    shown = re.sub(r"\n\s+<", "\n<", shown)
    link = download(table.data if data is None else data, csv_name)
    spoken = escape(re.sub(r"<[^>]*>", "", caption))
    box = (
        f'<div class="long-table"><p class="long-table-caption">{caption}</p>'
        f'<div class="long-table-tools">{link}</div>'
        f'<div class="long-table-box" role="region" tabindex="0" aria-label="{spoken}" '
        f'style="max-height: 70vh; overflow: auto;">{shown}</div></div>'
    )
    if fold is None:
        return HTML(box)
    return HTML(f'<details class="long-table-fold"><summary>{fold}</summary>{box}</details>')


def download(frame: pd.DataFrame, name: str) -> str:
    """HTML of a link that saves a table as the CSV file `name`; the link contains the table."""
    coded = base64.b64encode(frame.to_csv(index=False, float_format="%.6g").encode()).decode()
    return f'<a download="{name}" href="data:text/csv;base64,{coded}">Table as CSV</a>'


def styled(
    frame: pd.DataFrame, caption: str | None, size: float, rules: Mapping[str, str]
) -> Styler:
    """A table of the book: no index, its caption above it.

    Args:
        caption: HTML.
        size: of the letters, relative to the page's (em).
        rules: CSS properties by selector.
    """
    whole = {"": f"font-size: {size}em;", **rules}
    whole["caption"] = "caption-side: top; text-align: left; padding-bottom: 0.5em;"
    styler = Styler(frame, cell_ids=False).hide(axis="index")
    styler.set_table_styles(
        [{"selector": selector, "props": props} for selector, props in whole.items()]
    )
    styler.set_table_attributes('class="dataframe"')  # the theme's tables, light and dark
    return styler.set_caption(caption) if caption else styler


def tint(cell: object, tints: Mapping[str, str] = TINTS) -> str:
    """The style of a cell whose last line is a key of `tints`, or begins with one and goes on with
    a comma or a condition: 'holds only under "exact"'. "" for any other."""
    last = str(cell).split("\n")[-1]
    colour = tints.get(last) or tints.get(re.split(", | only under | under ", last)[0])
    if not colour:
        return ""
    return f"background-color: {colour};" + f" color: {INK};" * (len(colour) == len("#rrggbb"))
