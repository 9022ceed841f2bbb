"""Pictures of a ladder of sizes: every seed a point, what the noise is made of, and its strips.

Call `figures.use_style()` once. Every function returns a closed matplotlib `Figure`, see `figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ulelib.book.figures import INK, PALETTE, closed

MARKS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p"]


def dots(
    points: pd.DataFrame, columns: Mapping[str, str], xlabel: str, row: str = "size"
) -> Figure:
    """A row for each size, a panel for each number: every run a dot, their mean a diamond.

    Args:
        points: one row a run; a number that was not measured is NaN. The rows of the figure stand
            in its order.
        columns: the heading of each panel, by the column of `points`; all numbers are shares.
        xlabel: what the numbers are, below each panel.
        row: the column that gives the rows.

    Raises:
        ValueError: no rows.
    """
    _check(points)
    names = list(points[row].unique())
    figure, axes = plt.subplots(
        1,
        len(columns),
        figsize=(2.1 * len(columns) + 1.9, 0.36 * len(names) + 1.3),
        sharey=True,
        squeeze=False,
        layout=ConstrainedLayoutEngine(wspace=0.05),
    )
    for axis, (column, heading) in zip(axes[0], columns.items(), strict=True):
        for place, name in enumerate(names):
            values = points.loc[points[row] == name, column].dropna()
            axis.plot(values, [place] * len(values), "o", color="0.45", markersize=3.5, zorder=3)
            if len(values) > 1:
                axis.plot(values.mean(), place, "D", color=PALETTE[0], markersize=5.5, zorder=4)
        axis.set(xlim=(-0.03, 1.06), xlabel=xlabel)
        axis.set_title(heading, fontsize=9)
        axis.grid(True, axis="y")
        axis.tick_params(axis="y", length=0)
    axes[0, 0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    marks = [
        Line2D([], [], marker="D", color=PALETTE[0], linestyle="", label="mean"),
        Line2D([], [], marker="o", color="0.45", linestyle="", markersize=3.5, label="one run"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8)
    return closed(figure)


def predicted(
    points: pd.DataFrame, columns: Mapping[str, str], y: str, ylabel: str, label: str = "size"
) -> Figure:
    """What noise is made of against what it leaves: a panel for each share, every noise a mark.

    Args:
        points: one row a noise; those that lack `y` are left out, and with none left the panels
            are empty.
        columns: the label of each panel's axis, by the column of `points`.
        y, ylabel: the column on the vertical axis, and its label.
        label: the column that gives colour and mark.

    Raises:
        ValueError: no rows.
    """
    _check(points)
    points = points.dropna(subset=[y])
    figure, axes = plt.subplots(
        1,
        len(columns),
        figsize=(3.4 * len(columns) + 0.6, 3.7),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    names = list(points[label].unique())
    for axis, (column, heading) in zip(axes[0], columns.items(), strict=True):
        for place, name in enumerate(names):
            here = points[points[label] == name]
            style = {"color": PALETTE[place % len(PALETTE)], "marker": MARKS[place % len(MARKS)]}
            axis.plot(here[column], here[y], linestyle="", markersize=6, label=name, **style)
        axis.set(xlabel=heading, xlim=(0, None), ylim=(0, 1.08))
        axis.axhline(1, color="0.4", linestyle="--", linewidth=1)
    axes[0, 0].set_ylabel(ylabel)
    handles = axes[0, 0].get_legend_handles_labels()[0]
    handles.append(Line2D([], [], color="0.4", linestyle="--", linewidth=1, label="unprotected"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    return closed(figure)


def after_each_round(lines: pd.DataFrame, columns: Mapping[str, str], colour: str) -> Figure:
    """What noise is made of after each round: a panel for each share, every noise a line.

    Args:
        lines: one row a noise and round: "round", from 1 on, "noise", which, and the columns.
        columns: the label of each panel's axis, by the column of `lines`.
        colour: the column whose values have a colour and a line of their own.

    Raises:
        ValueError: no rows.
    """
    _check(lines)
    figure, axes = plt.subplots(
        1,
        len(columns),
        figsize=(3.4 * len(columns) + 0.6, 3.4),
        squeeze=False,
        layout="constrained",
    )
    kinds = list(lines[colour].unique())
    for axis, (column, heading) in zip(axes[0], columns.items(), strict=True):
        for _, one in lines.groupby("noise", sort=False):
            place = kinds.index(one[colour].iloc[0])
            axis.plot(
                one["round"],
                one[column],
                color=PALETTE[place % len(PALETTE)],
                marker=MARKS[place % len(MARKS)],
                linewidth=1,
            )
        axis.set(xlabel="round", ylabel=heading, ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [
        Line2D(
            [], [], color=PALETTE[n % len(PALETTE)], marker=MARKS[n % len(MARKS)], label=str(kind)
        )
        for n, kind in enumerate(kinds)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return closed(figure)


def strips(pictures: Mapping[str, Sequence[np.ndarray]], heads: Sequence[str]) -> Figure:
    """A row for each size, a column for each seed: the noise of the same three images.

    Args:
        pictures: of each row, `(H, W, 3)` uint8, of `jobs.strips.decode`; a row may be shorter.
        heads: of the columns.

    Raises:
        ValueError: no pictures, or a row longer than `heads`.
    """
    if not pictures or max(map(len, pictures.values())) > len(heads):
        raise ValueError(f"{len(pictures)} rows of pictures, {len(heads)} heads")
    figure, axes = plt.subplots(
        len(pictures),
        len(heads),
        figsize=(1.85 * len(heads) + 1.9, 0.66 * len(pictures) + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for line, (name, row) in zip(axes, pictures.items(), strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            axis.grid(False)
        for axis, picture in zip(line, row, strict=False):
            axis.imshow(picture, interpolation="nearest")
        line[0].set_ylabel(
            name, rotation=0, ha="right", va="center", labelpad=6, fontsize=8, color=INK
        )
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(head, fontsize=8)
    return closed(figure)


def _check(points: pd.DataFrame) -> None:
    if points.empty:
        raise ValueError("no runs to draw")
