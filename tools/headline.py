"""Write the headline into README.md: the table and figure of Table 2, from the committed record.

python tools/headline.py            # writes README.md and book/_static/headline.png
python tools/headline.py --check    # fails if README.md differs from what it would write
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from ulelib.book import figures, page, robustness
from ulelib.book.compare import comparison_table
from ulelib.jobs import records, replicates

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
FIGURE = ROOT / "book" / "_static" / "headline.png"
BEGIN, END = "<!-- {}: written by tools/headline.py -->\n", "<!-- end of {} -->\n"
PROFILE = "cpu"
MIDDLE, MIDDLE_PAGE = "quarter", "05f_quarter_width"  # the largest size with three runs


def main() -> int:
    os.environ["ULELIB_RESULTS"] = str(ROOT / "results")
    frame, record = records.read("05_grayaug", PROFILE)
    before = README.read_text(encoding="utf-8")
    readme = replaced(replaced(before, "headline", headline(frame, record)), "minutes", minutes())
    if "--check" in sys.argv:
        if readme != before:
            print("README.md differs from the records: run python tools/headline.py")
            return 1
        return 0
    README.write_text(readme, encoding="utf-8")
    figures.use_style()
    figures.accuracy_bars(frame).savefig(FIGURE)
    return 0


def replaced(text: str, name: str, block: str) -> str:
    """`text` with another block between the marks of that name."""
    begin, end = BEGIN.format(name), END.format(name)
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return before + begin + block + end + after


def headline(frame: pd.DataFrame, record: dict[str, Any]) -> str:
    """What the README shows first: the finding at three sizes, and Table 2."""
    found = robustness.numbers(robustness.judged())
    full = found["ResNet-18, the paper's size", "ULEO, as released, standard"]
    gray = {
        export: found["ResNet-18, the paper's size", f"ULEO, {export}, gray"]
        for export in ("as released", "exact")
    }
    middle, its = replicates.read(MIDDLE_PAGE, MIDDLE)
    (train, n_train), seeds = record["train"], ", ".join(map(str, record["seeds"]))
    return (
        f"At the paper's own size a network that trained on ULEO reaches {full} "
        "([the page](book/paper/05d_full_size.ipynb)). Turned gray, the same images teach it "
        f"{gray['as released']} as the released code publishes them. With both signs of the noise "
        f"they teach it {gray['exact']}. *n* is the number of runs.\n\n"
        f"On the paper's network at a quarter of its width ({its['train'][1]:,} images, "
        f"[the page](book/{MIDDLE}/{MIDDLE_PAGE}.ipynb)):\n\n"
        f"{table(comparison_table(middle, '2'))}\n\n"
        f"The whole table, on a small network ({n_train:,} images of {train}, seeds {seeds}). "
        "[Other networks and sizes](book/intro.ipynb) say partly otherwise:\n\n"
        f"{table(comparison_table(frame, '2'))}\n"
    )


def minutes() -> str:
    """How long the pages took, one seed each."""
    took = page.times(PROFILE).data.set_index("page")
    each = ", ".join(f"`{name}` {row['minutes a seed']:.0f}" for name, row in took.iterrows())
    threads = " or ".join(took["threads a stage"].unique())
    return (
        f"One seed of a page takes so many minutes on {threads}, one stage after the other, with "
        f"the stages that it shares with other pages: {each}.\n"
    )


def table(compared: pd.DataFrame) -> str:
    """A comparison as a table in Markdown."""
    lines = [
        "| defender | export | standard | verdict | paper | gray | verdict | paper |",
        "|:--|:--|--:|:--|--:|--:|:--|--:|",
    ]
    for _, row in compared.iterrows():
        cells = [row[("", "defender")], row[("", "export")].replace("_", " ")]
        for exploiter in ("standard", "gray"):
            cells += [row[(exploiter, name)] for name in ("measured", "verdict", "published")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
