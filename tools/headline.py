"""Write the headline into README.md: the table and figure of Table 2, from the committed record.

python tools/headline.py            # writes README.md and book/_static/headline.png
python tools/headline.py --check    # fails if README.md differs from what it would write
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pandas as pd

from ulelib.book import figures, page, robustness
from ulelib.book.compare import comparison_table, means
from ulelib.jobs import records

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
FIGURE = ROOT / "book" / "_static" / "headline.png"
BEGIN, END = "<!-- headline: written by tools/headline.py -->\n", "<!-- end of headline -->\n"
PROFILE = "cpu"


def main() -> int:
    os.environ["ULELIB_RESULTS"] = str(ROOT / "results")
    frame, record = records.read("05_grayaug", PROFILE)
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    (train, n_train), seeds = record["train"], ", ".join(map(str, record["seeds"]))
    full, whole = records.read("05d_full_size", "paper")
    mean = {" ".join(names): f"{value:.1f}" for names, value in means(full).items()}
    took = page.times(PROFILE).data.set_index("page")
    minutes = ", ".join(f"`{name}` {row['minutes a seed']:.0f}" for name, row in took.iterrows())
    threads = " or ".join(took["threads a stage"].unique())
    text = (
        f"Profile `{PROFILE}`: {n_train:,} images of {train}, a small network; seeds {seeds}.\n\n"
        f"{table(comparison_table(frame, '2'))}\n\n"
        "These verdicts are about a small network. The same claims on every network and at every "
        "size that measured them: accuracy on protected images, *of* that on clean ones, the "
        "number of runs in brackets, and whether the claim holds there "
        "([which claims](book/report.ipynb)):\n\n"
        f"{by_place(robustness.judged())}\n\n"
        f"At the paper's own size ({whole['train'][1]:,} images, ResNet-18; "
        f"n = {len(whole['seeds'])}, on a GPU), standard / gray: "
        f"{mean['clean - standard']} / {mean['clean - gray']} on clean images, "
        f"{mean['ULEO as_released standard']} / {mean['ULEO as_released gray']} on ULEO as "
        f"released, and gray {mean['ULEO exact gray']} with the exact export: "
        "[the page](book/paper/05d_full_size.ipynb).\n\n"
        f"Minutes that a seed of each page took, one stage after the other on {threads}, with "
        f"those that it shares with other pages: {minutes}.\n"
    )
    readme = before + BEGIN + text + END + after
    if "--check" in sys.argv:
        if readme != README.read_text(encoding="utf-8"):
            print("README.md differs from the records: run python tools/headline.py")
            return 1
        return 0
    README.write_text(readme, encoding="utf-8")
    figures.use_style()
    figures.accuracy_bars(frame).savefig(FIGURE)
    return 0


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


def by_place(found: pd.DataFrame) -> str:
    """The robustness table in Markdown, a line a network and size.

    Args:
        found: of `robustness.judged`.
    """
    laid_out = robustness.table(found)
    lines = ["| " + " | ".join(laid_out.columns) + " |", "|:--" * len(laid_out.columns) + "|"]
    for row in laid_out.itertuples(index=False):
        lines.append("| " + " | ".join(text.replace("\n", " ") for text in row) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
