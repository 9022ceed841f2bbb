"""Figures of the arena: who retains what, what one countermeasure undoes, and the price."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ulelib.book.figures import closed

WHOLE = "as on clean images"


def heat_map(laid_out: pd.DataFrame, bold: Collection[str] = ()) -> Figure:
    """What each countermeasure retains of each defender's images.

    Args:
        laid_out: of `arena.heat`, or alike: a row a defender, a column a countermeasure, shares.
        bold: rows whose names are printed bold.
    """
    rows, columns = laid_out.shape
    figure, axis = plt.subplots(
        figsize=(3.0 + 0.62 * columns, 2.1 + 0.3 * rows), layout="constrained"
    )
    sns.heatmap(
        laid_out.astype(float),
        ax=axis,
        vmin=0,
        vmax=1,
        cmap="cividis",
        annot=True,
        fmt=".2f",
        annot_kws={"fontsize": 7},
        linewidths=0.5,
        cbar_kws={"shrink": 0.9},
    )
    axis.set(xlabel="", ylabel="", title="Retained: 0 is chance, 1 unprotected")
    axis.title.set_fontsize(9)
    axis.grid(False)
    axis.set_xticklabels(axis.get_xticklabels(), rotation=40, ha="right", fontsize=8)
    axis.set_yticklabels(axis.get_yticklabels(), rotation=0, fontsize=8)
    for label in axis.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in bold else "normal")
    return closed(figure)


def undone(cells: pd.DataFrame) -> Figure:
    """What one countermeasure undoes: a line each, with every defender as a dot and their mean.

    Args:
        cells: of `arena.retained`.
    """
    order = cells.groupby("column")["retained"].mean().sort_values(ascending=False).index
    figure, axis = _lines(len(order))
    for place, column in enumerate(order):
        values = cells.loc[cells["column"] == column, "retained"].to_numpy()
        axis.plot(values, np.full(len(values), place), "o", color="C0", alpha=0.55, markersize=4)
        axis.plot(values.mean(), place, marker="d", color="C3", markersize=6, linestyle="")
    _named(axis, [*order])
    _legend(figure, axis, {"one defender": ("o", "C0"), "their mean": ("d", "C3")})
    return closed(figure)


def withstood(cells: pd.DataFrame) -> Figure:
    """What a defender withstands: a line each, with every countermeasure as a dot; the one that
    undoes most is named.

    Args:
        cells: of `arena.retained`.
    """
    worst = cells.groupby("row")["retained"].max().sort_values()
    figure, axis = _lines(len(worst))
    for place, row in enumerate(worst.index):
        own = cells[cells["row"] == row].set_index("column")["retained"]
        axis.plot([own.min(), own.max()], [place, place], color="0.8", linewidth=1, zorder=1)
        axis.plot(own, np.full(len(own), place), "o", color="C0", alpha=0.55, markersize=4)
        if "none" in own:
            axis.plot(own["none"], place, marker="s", color="C1", markersize=5, linestyle="")
        axis.plot(own.max(), place, marker="d", color="C3", markersize=6, linestyle="")
        axis.annotate(
            str(own.idxmax()),
            (max(1.0, worst.max()) + 0.05, place),
            va="center",
            fontsize=7,
            color="0.25",
        )
    _named(axis, [*worst.index])
    axis.set_xlim(right=max(1.0, worst.max()) + 0.45)  # for the names
    _legend(
        figure,
        axis,
        {
            "one countermeasure": ("o", "C0"),
            "none": ("s", "C1"),
            "the one that undoes most": ("d", "C3"),
        },
    )
    return closed(figure)


def price(ranking: pd.DataFrame, costs: pd.DataFrame) -> Figure:
    """Worst case and visibility of each defender side by side, the one that withstands most on top.

    Args:
        ranking: of `arena.ranking`.
        costs: of `arena.costs`.
    """
    both = ranking.merge(costs, on="row")
    panels = {"worst": "retained in the worst case", "SSIM": "SSIM (1: unchanged)"}
    figure, axes = plt.subplots(
        1, 2, figsize=(6.4, 1.4 + 0.24 * len(both)), sharey=True, layout="constrained"
    )
    for axis, (column, label) in zip(axes, panels.items(), strict=True):
        axis.plot(both[column], range(len(both)), "o", color="C0", markersize=5)
        axis.axvline(1, color="0.4", linestyle=(0, (5, 1)), linewidth=1)
        axis.set_xlabel(label)
        _named(axis, both["row"].tolist())
    axes[0].set_xlim(left=min(0.0, float(both["worst"].min()) - 0.05))
    return closed(figure)


def _lines(count: int) -> tuple[Figure, Axes]:
    figure, axis = plt.subplots(figsize=(6.4, 1.4 + 0.24 * count), layout="constrained")
    for share, style in ((0.0, (0, (2, 2))), (1.0, (0, (5, 1)))):
        axis.axvline(share, color="0.4", linestyle=style, linewidth=1)
    axis.set_xlabel(f"retained (0: chance, 1: {WHOLE})")
    return figure, axis


def _named(axis: Axes, names: list[str]) -> None:
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.invert_yaxis()
    axis.grid(axis="y")


def _legend(figure: Figure, axis: Axes, marks: dict[str, tuple[str, str]]) -> None:
    handles = [
        axis.plot([], [], marker=marker, color=colour, linestyle="", label=name)[0]
        for name, (marker, colour) in marks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
