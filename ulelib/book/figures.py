"""Charts of accuracies and of the loop's errors, drawn from data that is handed in; nothing is
computed or trained here. Pictures of noise are in `noise_figures`.

Call `use_style()` once. Every function returns a closed matplotlib `Figure`: a notebook whose last
line is the call displays it once, and `figure.savefig(path)` writes it.

A defender keeps its colour, line and marker in every figure; no two differ by colour alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ulelib.book.printed import load, row_of
from ulelib.defenders import CLEAN

PALETTE = sns.color_palette("colorblind")
INK = "0.15"
_LINES: list[Any] = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2))]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<"]
_PLACES = {"clean": 0, "ULEO": 1, "ULEO-Augs": 2, "ULEO-Grays": 3, "ULEO-GrayAugs": 4}
_COLOURS = [PALETTE[place] for place in (0, 1, 2, 3, 4, 5, 8, 9, 6, 7)]
_EXPORT_STYLE = {"exact": (PALETTE[0], ""), "as_released": (PALETTE[1], "////")}
MOST_TICKS = 8  # up to so many values have a tick each; the labels of more would overlap


@dataclass
class Style:
    """What every figure of this process has in common, beside matplotlib's `rcParams`.

    Attributes:
        caption: printed small below each figure; "" for none.
    """

    caption: str = ""


STYLE = Style()  # set by `use_style`, read by `closed`


def use_style(caption: str = "") -> None:
    """Set the look of all later figures: colour-blind palette, quiet axes, 150 dots an inch.

    It holds for the whole process, in matplotlib's `rcParams` and in `STYLE`, until the next call.

    In a notebook it also chooses the backend that displays figures there: one from the environment
    variable `MPLBACKEND` might display none.

    Args:
        caption: printed small below each figure, e.g. `ulelib.book.page.caption(lab)`, so that a
            figure taken out of its page still says what it was measured on.
    """
    STYLE.caption = caption
    # IPython is of the extra `book`; where it is not loaded this is no notebook.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None and hasattr(shell, "kernel"):
        shell.run_line_magic("matplotlib", "inline")
    sns.set_theme(
        context="paper",
        style="ticks",
        palette="colorblind",
        font_scale=1.05,
        rc={
            "figure.dpi": 150,
            "savefig.dpi": 150,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "0.9",
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.5,
            "lines.markersize": 4.5,
            "hatch.linewidth": 0.6,
            "legend.frameon": False,
        },
    )


def learning_curves(
    frame: pd.DataFrame,
    panels: str | None = None,
    label: str = "defender",
    title: str | None = None,
) -> Figure:
    """Clean test accuracy after each epoch (Figs. 3, 4 and 6): every run, and the runs' mean.

    The curves are measured on a part of the test images after each epoch (`Recipe.curve_images`);
    the filled mark at the end is the mean accuracy on all of them, the number in tables.

    Args:
        frame: of `Lab.table`.
        panels: the column that gives each panel, side by side; None: one panel. Clean images are
            in every panel of "export".
        label: the column that gives each line.
        title: above all panels.

    Raises:
        ValueError: no rows, or runs of one line with different numbers of epochs.
    """
    if frame.empty:
        raise ValueError("no runs to draw")
    parts = {"": frame}
    if panels is not None:
        names = [name for name in frame[panels].unique() if name != "-"]
        parts = {name: frame[frame[panels].isin((name, "-"))] for name in names}
    size = (5.6, 3.7) if len(parts) == 1 else (3.7 * len(parts), 3.6)
    figure, axes = plt.subplots(
        1, len(parts), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    styles = _styles(frame[label].unique())
    for axis, (name, part) in zip(axes[0], parts.items(), strict=True):
        for line, runs in part.groupby(label, sort=False):
            _draw_curves(axis, str(line), runs, styles[line])
        axis.axhline(frame["chance"].iloc[0], color="0.4", linestyle=(0, (2, 2)), linewidth=1)
        axis.set(title=str(name).replace("_", " "), xlabel="epoch", ylim=(0, 100))
        axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes[0, 0].set_ylabel("clean test accuracy (%)")
    handles = [Line2D([], [], label=line, **style) for line, style in styles.items()]
    handles.append(Line2D([], [], color="0.4", linestyle=(0, (2, 2)), linewidth=1, label="chance"))
    columns = min(len(handles), 4 if size[0] > 6 else 3)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=8, handlelength=3
    )
    if title:
        figure.suptitle(title, fontsize=10)
    return closed(figure)


def _draw_curves(axis: Axes, label: str, runs: pd.DataFrame, style: dict[str, Any]) -> None:
    """One line: each run thin, their mean thick, and the mean of the final accuracies."""
    epochs = {len(curve) for curve in runs["curve"]}
    if len(epochs) != 1 or not min(epochs):
        raise ValueError(f"curves of {label!r}: {len(runs)} runs with {sorted(epochs)} epochs")
    values = np.array([*runs["curve"]])  # (runs, epochs)
    x = np.arange(1, values.shape[1] + 1)
    if len(values) > 1:
        axis.plot(x, values.T, color=style["color"], alpha=0.35, linewidth=0.6)
    axis.plot(x, values.mean(0), **style | {"marker": ""})
    axis.plot(x[-1], runs["accuracy"].mean(), **style | {"markersize": 6}, clip_on=False)


def accuracy_bars(
    frame: pd.DataFrame, printed: pd.DataFrame | None = None, title: str | None = None
) -> Figure:
    """Measured accuracies beside the published ones, a panel for each exploiter.

    Args:
        frame: of `Lab.table`: bars are means, dots single runs, hatching the export "as_released".
        printed: rows of `printed.load()`; Table 2 if left out. Hollow diamonds with one standard
            deviation as whiskers.
        title: above the panels.

    Raises:
        ValueError: no rows.
    """
    if frame.empty:
        raise ValueError("no runs to draw")
    if printed is None:
        printed = load().query("table == '2'")
    names = _in_order(frame["defender"], printed["defender"])
    panels = _in_order(frame["exploiter"], printed["exploiter"])
    printed = printed[printed["defender"].isin(map(row_of, names))]
    printed = printed[printed["exploiter"].isin(panels)]
    exports = [export for export in _EXPORT_STYLE if (frame["export"] == export).any()]
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(max(3.4 * len(panels) + 0.6, 5.0), (0.3 + 0.22 * len(exports)) * len(names) + 1.5),
        sharey=True,
        squeeze=False,
        layout=ConstrainedLayoutEngine(wspace=0.06),
    )
    height = 0.8 / (len(exports) + 1)
    for axis, exploiter in zip(axes[0], panels, strict=True):
        for place, name in enumerate(names):
            here = frame.query("defender == @name and exploiter == @exploiter")
            bars = ["-"] if name == CLEAN else exports
            first = place - height * len(bars) / 2
            for slot, export in enumerate(bars):
                values = here.loc[here["export"] == export, "accuracy"]
                if len(values):
                    _bar(axis, first + slot * height, values, height, export)
            rows = printed.query("exploiter == @exploiter")
            rows = rows[rows["defender"] == row_of(name)]
            for row in rows.itertuples():
                _diamond(axis, row.value, row.std, first + len(bars) * height)
        axis.axvline(frame["chance"].iloc[0], color="0.4", linestyle="--", linewidth=1)
        axis.set(title=exploiter, xlim=(0, 103), xlabel="clean test accuracy (%)")
        axis.grid(False, axis="y")
        axis.tick_params(axis="y", length=0)
    axes[0, 0].set(yticks=range(len(names)), yticklabels=names)
    axes[0, 0].invert_yaxis()
    handles: list[Any] = [
        Patch(facecolor=_EXPORT_STYLE[export][0], hatch=_EXPORT_STYLE[export][1],
              edgecolor="white", label=f"measured, {export}".replace("_", " "))
        for export in exports
    ]  # fmt: skip
    _bar_legend(figure, handles, frame["seed"].nunique() > 1, printed)
    if title:
        figure.suptitle(title, fontsize=10)
    return closed(figure)


def factor_dots(
    frame: pd.DataFrame,
    label: str = "defender",
    printed: pd.DataFrame | None = None,
    title: str | None = None,
) -> Figure:
    """One factor at a time: a row for each variant, a panel for each exploiter, every run a dot.

    The axes span the runs and the value to explain; chance is drawn where it is near.

    Args:
        frame: of `Lab.table`, one export alone; the rows stand in its order.
        label: the column that gives each row.
        printed: rows of `printed.load()`: the value to explain, a line across all rows with one
            standard deviation on both sides.
        title: above the panels.

    Raises:
        ValueError: no rows.
    """
    if frame.empty:
        raise ValueError("no runs to draw")
    names = list(frame[label].unique())
    panels = list(frame["exploiter"].unique())
    if printed is None:
        printed = load()[:0]
    printed = printed[printed["exploiter"].isin(panels)]
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(3.6 * len(panels) + 1.4, 0.34 * len(names) + 1.5),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout=ConstrainedLayoutEngine(wspace=0.06),
    )
    limits = _around(frame, printed)
    marks: dict[str, Any] = {}
    for axis, exploiter in zip(axes[0], panels, strict=True):
        here = frame[frame["exploiter"] == exploiter]
        for place, name in enumerate(names):
            marks |= _dots(axis, place, here.loc[here[label] == name, "accuracy"])
        for row in printed[printed["exploiter"] == exploiter].itertuples():
            marks[_published(printed)] = axis.axvline(row.value, color=PALETTE[1], linewidth=1.4)
            if not pd.isna(row.std):
                low, high = row.value - row.std, row.value + row.std
                axis.axvspan(low, high, color=PALETTE[1], alpha=0.15, linewidth=0)
        if (chance := frame["chance"].iloc[0]) >= limits[0]:
            marks["chance"] = axis.axvline(chance, color="0.4", linestyle="--", linewidth=1)
        axis.set(title=exploiter, xlim=limits, xlabel="clean test accuracy (%)")
        axis.tick_params(axis="y", length=0)
    axes[0, 0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    figure.legend(
        [*marks.values()], [*marks], loc="outside lower center", ncols=len(marks), fontsize=8
    )
    if title:
        figure.suptitle(title, fontsize=10)
    return closed(figure)


def _dots(axis: Axes, place: int, values: pd.Series[float]) -> dict[str, Any]:
    """The runs of a row, and their mean where they are several; what a legend shows, by label."""
    marks: dict[str, Any] = {}
    if len(values) > 1:
        (marks["mean"],) = axis.plot(
            values.mean(), place, "D", color=PALETTE[0], markersize=6.5, zorder=3, clip_on=False
        )
    if len(values):
        (marks["one run"],) = axis.plot(
            *(values, [place] * len(values), "o"), color=INK, markersize=3, zorder=4, clip_on=False
        )
    return marks


def _around(frame: pd.DataFrame, printed: pd.DataFrame) -> tuple[float, float]:
    """Limits of an axis that shows the accuracies of `frame` and printed ones with their spread;
    and chance, where it at most doubles what the axis spans."""
    spread = printed["std"].fillna(0)
    drawn = [*frame["accuracy"], *(printed["value"] - spread), *(printed["value"] + spread)]
    low, high = min(drawn), max(drawn)
    chance = frame["chance"].iloc[0]
    if low - chance <= high - low:
        low = min(low, chance)
    margin = max(2.0, 0.05 * (high - low))
    return max(0.0, low - margin), min(100.0, high + margin)


def _in_order(names: pd.Series[str], printed: pd.Series[str]) -> list[str]:
    """Names in the paper's order, others behind, in their own."""
    known = [name for name in printed.unique() if (names == name).any()]
    return [*known, *(name for name in names.unique() if name not in known)]


def _published(printed: pd.DataFrame) -> str:
    """What a legend calls printed numbers: with their spread where one is drawn."""
    return "published ± std" if printed["std"].notna().any() else "published"


def _bar_legend(figure: Figure, handles: list[Any], several: bool, printed: pd.DataFrame) -> None:
    hollow: dict[str, Any] = {"marker": "D", "markerfacecolor": "white", "markersize": 5}
    if several:
        handles.append(
            Line2D([], [], marker="o", linestyle="", color=INK, markersize=3, label="one run")
        )
    if len(printed):
        label = _published(printed)
        handles.append(Line2D([], [], color=INK, linewidth=1, label=label, **hollow))
    handles.append(Line2D([], [], color="0.4", linestyle="--", linewidth=1, label="chance"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)


def _diamond(axis: Axes, value: float, std: float, y: float) -> None:
    """A published number."""
    axis.errorbar(
        value,
        y,
        xerr=None if pd.isna(std) else std,
        fmt="D",
        color=INK,
        markerfacecolor="white",
        markersize=5,
        capsize=2.5,
        linewidth=1.0,
        zorder=4,
    )


def sweep(
    frame: pd.DataFrame, x: str, label: str = "defender", xlabel: str | None = None
) -> Figure:
    """Clean test accuracy over a quantity, e.g. the share of protected data: every run, and means.

    Args:
        frame: of `Lab.table`, with a column of numbers `x`.
        x: that column.
        label: the column that gives each line.
        xlabel: of the axis; the column's name if None.

    Raises:
        ValueError: no rows.
    """
    if frame.empty:
        raise ValueError("no runs to draw")
    figure, axis = plt.subplots(figsize=(5.6, 3.7), layout="constrained")
    styles = _styles(frame[label].unique())
    for line, runs in frame.groupby(label, sort=False):
        style, mean = styles[str(line)], runs.groupby(x)["accuracy"].mean()
        axis.plot(mean.index, mean, label=str(line), **style)
        axis.plot(
            runs[x], runs["accuracy"], linestyle="", marker=".", color=style["color"], alpha=0.5
        )
    chance = frame["chance"].iloc[0]
    axis.axhline(chance, color="0.4", linestyle=(0, (2, 2)), linewidth=1, label="chance")
    axis.set(xlabel=xlabel or x, ylabel="clean test accuracy (%)", ylim=(0, 100))
    if len(values := sorted(frame[x].unique())) <= MOST_TICKS:
        axis.set_xticks(values)
    columns = min(frame[label].nunique() + 1, 3)
    figure.legend(loc="outside lower center", ncols=columns, fontsize=8, handlelength=3)
    return closed(figure)


def convergence(
    rounds: Mapping[str, Sequence[float]], stop: float, title: str | None = None
) -> Figure:
    """Error of the source model after each round of Algorithm 1, and where it stops.

    Args:
        rounds: by defender, errors as fractions in [0, 1], `Perturbation.rounds`. An error of 0
            has no place on a logarithmic axis and is drawn at its lower edge.
        stop: the stop error, a fraction.
        title: above the axes.

    Raises:
        ValueError: no rounds at all.
    """
    errors = [error for series in rounds.values() for error in series]
    if not errors:
        raise ValueError("no rounds to draw")
    floor = min([stop, *filter(None, errors)]) / 2
    figure, axis = plt.subplots(figsize=(5.6, 3.5), layout="constrained")
    for label, style in _styles(rounds).items():
        series = np.maximum(np.asarray(rounds[label], dtype=np.float64), floor)
        x = np.arange(1, len(series) + 1)
        axis.plot(x, series, label=label, markevery=_marked(len(x)), clip_on=False, **style)
    axis.axhline(stop, color="0.4", linestyle="--", linewidth=1, label=f"stop error {stop:g}")
    axis.set(yscale="log", ylim=(floor, 1.15), xlabel="round", ylabel="error of the source model")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, handlelength=3)
    if title:
        axis.set_title(title, fontsize=10)
    return closed(figure)


def _styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, line and marker by label; the paper's defenders always have their own."""
    styles = {}
    others = len(_PLACES)
    for label in labels:
        place = _PLACES.get(label, others)
        others += label not in _PLACES
        styles[label] = {
            "color": _colour(place),
            "linestyle": _LINES[place % len(_LINES)],
            "marker": _MARKERS[place % len(_MARKERS)],
        }
    return styles


def _colour(place: int) -> Any:
    """Near black for clean images, then the palette, and darker each time that it is used up."""
    if place == 0:
        return INK
    turn, hue = divmod(place - 1, len(_COLOURS))
    return tuple(0.55**turn * part for part in _COLOURS[hue])


def _marked(points: int) -> list[int]:
    """The points of a line that get a marker: every so many, counted back from the last."""
    return [*range(points - 1, -1, -max(1, math.ceil(points / 12)))]


def _bar(axis: Axes, y: float, values: pd.Series[float], height: float, export: str) -> None:
    colour, hatch = _EXPORT_STYLE.get(export, _EXPORT_STYLE["exact"])
    axis.barh(y, values.mean(), height, color=colour, hatch=hatch, edgecolor="white")
    if len(values) > 1:
        axis.plot(values, [y] * len(values), "o", color=INK, markersize=2.5, zorder=4)


def closed(figure: Figure) -> Figure:
    """The figure with the style's caption, and closed for pyplot, so that a notebook that returns
    it displays it once."""
    caption = STYLE.caption
    if caption and figure.legends:  # a legend outside of the axes would cover a label there
        figure.legends[0].set_title(caption, prop=FontProperties(size=6.5))
        figure.legends[0].get_title().set_color("0.35")
    elif caption:
        figure.supxlabel(caption, fontsize=6.5, color="0.35")
    plt.close(figure)
    return figure
