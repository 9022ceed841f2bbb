"""The paper's figures, drawn from data that is handed in; nothing is computed or trained here.

Call `use_style()` once. Every function returns a closed matplotlib `Figure`: a notebook whose last
line is the call shows it once, and `figure.savefig(path)` writes it.

A defender keeps its colour, line and marker in every figure; none is told apart by colour alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.ticker import MaxNLocator

from ulelib.data import ImageSet
from ulelib.perturbation import Perturbation
from ulelib.published import load, row_of

Pictures = torch.Tensor | np.ndarray

_PALETTE = sns.color_palette("colorblind")
_INK = "0.15"
_LINES: list[Any] = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2))]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<"]
_PLACES = {"clean": 0, "ULEO": 1, "ULEO-Augs": 2, "ULEO-Grays": 3, "ULEO-GrayAugs": 4}
_COLOURS = [_INK, _PALETTE[0], _PALETTE[1], _PALETTE[2], _PALETTE[3], _PALETTE[4], _PALETTE[5]]
_COLOURS += [_PALETTE[8], _PALETTE[9]]
_EXPORT_STYLE = {"exact": (_PALETTE[0], ""), "as_released": (_PALETTE[1], "////")}
MOST_TICKS = 8  # of values that each have one; more would run into each other


_caption = ""


def use_style(caption: str = "") -> None:
    """Set the look of every figure: colour-blind palette, quiet axes, 150 dots an inch.

    `caption` is printed small below each figure, e.g. `ulelib.page.caption(lab)`, so that a figure
    taken out of its page still says what it was measured on.

    In a notebook also choose the backend that shows figures there, which an `MPLBACKEND` set for
    the whole machine would otherwise replace by one that shows none.
    """
    global _caption
    _caption = caption
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
    the filled mark at the end is the mean accuracy on all of them, the number that tables show.

    Args:
        frame: of `Lab.table`.
        panels: the column that gives each panel, side by side; None: one panel. Clean images are
            shown in every panel of "export".
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
    return _closed(figure)


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


def perturbation_grid(
    images: Pictures,
    delta: Pictures,
    protected: Pictures,
    epsilon: float,
    labels: Sequence[str],
    title: str | None = None,
) -> Figure:
    """One row an image: original, perturbation, protected (Figs. 1, 7, 9, 10).

    Args:
        images, protected: `(N, 3, H, W)` uint8.
        delta: `(N, 3 or 1, H, W)` float in [-epsilon, epsilon]; shown as 0.5 + delta / (2 epsilon),
            so that gray is no change.
        epsilon: in units of the pixel range [0, 1].
        labels: N names, at the left of the rows.
        title: above the grid.

    Raises:
        ValueError: different numbers of images, perturbations, protected images and names.
    """
    numbers = [len(images), len(delta), len(protected), len(labels)]
    if len(set(numbers)) != 1 or not numbers[0]:
        raise ValueError(f"images, delta, protected and labels have {numbers} entries")
    n = len(labels)
    figure, axes = plt.subplots(
        n, 3, figsize=(4.4, 1.17 * n + (0.7 if title else 0.4)), squeeze=False, layout="constrained"
    )
    radius = f"$\\epsilon$ = {255 * epsilon:.3g}/255"
    heads = ("original", f"perturbation\n({radius})", "protected")
    for row in range(n):
        shown = (
            _picture(images[row]),
            _noise_picture(delta[row], epsilon),
            _picture(protected[row]),
        )
        for column, picture in enumerate(shown):
            axis = axes[row, column]
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if row == 0:
                axis.set_title(heads[column], fontsize=9)
        axes[row, 0].set_ylabel(
            labels[row], rotation=0, ha="right", va="center", labelpad=6, fontsize=9
        )
    if title:
        figure.suptitle(title, fontsize=10)
    return _closed(figure)


def noise_strip(
    noises: Mapping[str, Perturbation], images: ImageSet, each: int = 3, classes: int = 2
) -> Figure:
    """A row for each noise: that of a few images of a class beside each other, class by class.

    Where the pictures of a class are alike the noise is nearly class-wise.

    Args:
        noises: by name, each made for `images`.
        images: whose classes are shown.
        each: images of a class.
        classes: how many, the first.
    """
    rows = torch.cat([(images.labels == label).nonzero()[:each, 0] for label in range(classes)])
    figure, axes = plt.subplots(
        len(noises),
        len(rows),
        figsize=(1.9 + 0.75 * len(rows), 0.85 * len(noises) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for place, (name, noise) in enumerate(noises.items()):
        line = axes[place]
        shown = noise.of(images, rows)
        for axis, delta, row in zip(line, shown, rows.tolist(), strict=True):
            axis.imshow(_noise_picture(delta, noise.epsilon), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if place == 0:
                axis.set_title(images.classes[int(images.labels[row])], fontsize=8)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6, fontsize=8)
    return _closed(figure)


def pipeline(
    image: Pictures, delta_before: Pictures, delta_after: Pictures, epsilon: float
) -> Figure:
    """The bi-level optimization (Fig. 8): outer step above, inner step below, one round.

    Args:
        image: `(3, H, W)` uint8.
        delta_before, delta_after: `(3 or 1, H, W)` float in [-epsilon, epsilon], of one image
            before and after the round.
        epsilon: in units of the pixel range [0, 1].
    """
    figure, axis = plt.subplots(figsize=(7.4, 4.15), layout="constrained")
    axis.set(xlim=(-0.7, 13.3), ylim=(0.3, 8.1), aspect="equal")
    axis.axis("off")
    original = np.asarray(image, dtype=np.float64) / 255
    added = np.clip(original + np.asarray(delta_before, dtype=np.float64), 0, 1)
    top, low, side = 6.2, 2.0, 1.9
    thumbnails = {
        (0.0, top): (original.transpose(1, 2, 0), "image $x$"),
        (3.0, top): (_noise_picture(delta_before, epsilon), "$\\delta_i$"),
        (6.0, top): (added.transpose(1, 2, 0), "$x + \\delta_i$"),
        (3.0, low): (_noise_picture(delta_after, epsilon), "$\\delta_{i+1}$"),
    }
    for (x, y), (picture, name) in thumbnails.items():
        box = (x, x + side, y - side / 2, y + side / 2)
        axis.imshow(picture, extent=box, interpolation="nearest", zorder=2)
        axis.text(x + side / 2, y - side / 2 - 0.15, name, ha="center", va="top", fontsize=9)
    axis.set(xlim=(-0.7, 13.3), ylim=(0.3, 8.1))
    outer, inner = _PALETTE[0], _PALETTE[3]
    _box(axis, 9.5, top, "train $F'$ on\n$M$ batches", outer)
    _box(axis, 9.5, low, "$F'$ is fixed:\nloss of $x + \\delta$", inner)
    axis.text(-0.6, 7.75, "Outer step: the model learns", color=outer, fontsize=10, weight="bold")
    axis.text(
        -0.6,
        low,
        "Inner step:\nthe noise learns",
        color=inner,
        fontsize=10,
        weight="bold",
        va="center",
    )
    for x, sign in ((2.45, "+"), (5.45, "=")):
        axis.text(x, top, sign, ha="center", va="center", fontsize=15, color=_INK)
    _arrow(axis, (8.0, top), (9.4, top), outer)
    _arrow(axis, (11.2, top - 0.8), (11.2, low + 0.8), _INK, dashed=True)
    axis.text(11.5, 3.85, "weights $\\theta_{i+1}$", ha="left", va="center", fontsize=9)
    _arrow(axis, (9.4, low), (5.1, low), inner)
    axis.text(
        7.25, low + 0.15, "signed-gradient steps,", ha="center", va="bottom", fontsize=9, color=_INK
    )
    axis.text(
        7.25,
        low - 0.2,
        f"clip to $\\pm\\epsilon$ = {255 * epsilon:.3g}/255",
        ha="center",
        va="top",
        fontsize=9,
        color=_INK,
    )
    _arrow(axis, (3.0 + side / 2, 3.05), (3.0 + side / 2, 4.6), _INK, dashed=True)
    axis.text(
        4.3,
        3.85,
        "next round, until the error\nof $F'$ on $x + \\delta$ is below $\\lambda$",
        ha="left",
        va="center",
        fontsize=9,
    )
    return _closed(figure)


def energy_bars(
    shares: Mapping[str, Mapping[str, float]], pixels: int = 32 * 32, title: str | None = None
) -> Figure:
    """Where each perturbation's energy lies: colour, and how much of it varies slowly in space.

    Args:
        shares: by defender, of `ulelib.perturbation.energy_shares`: "luminance" and "chroma", which
            add up to 1, and "tiles" and "constant", each in [0, 1].
        pixels: H W of the images; independent noise, the reference bar, is constant by 1 / pixels.
        title: above both panels.
    """
    noise = {"luminance": 1 / 3, "chroma": 2 / 3, "tiles": 1 / 16, "constant": 1 / pixels}
    bars = {**shares, "random noise": noise}
    names, y = [*bars], np.arange(len(bars))
    figure, (left, right) = plt.subplots(
        1,
        2,
        figsize=(7.2, 0.42 * len(bars) + 1.5),
        sharey=True,
        layout=ConstrainedLayoutEngine(wspace=0.06),
    )
    luminance = np.array([bar["luminance"] for bar in bars.values()])
    chroma = np.array([bar["chroma"] for bar in bars.values()])
    tiles = np.array([bar["tiles"] for bar in bars.values()])
    constant = np.array([bar["constant"] for bar in bars.values()])
    edge = {"edgecolor": "white", "height": 0.62, "linewidth": 0.8}
    left.barh(y, luminance, color="0.62", label="luminance (R = G = B)", **edge)
    left.barh(y, chroma, left=luminance, color=_PALETTE[4], hatch="...", label="chroma", **edge)
    right.barh(y, tiles, color=_PALETTE[9], label="mean of each 4x4 tile", **edge)
    right.barh(y, constant, color=_INK, label="mean of the image", **(edge | {"height": 0.25}))
    for place, share, whole in zip(y, tiles, constant, strict=True):
        text = f"{share:.2f}, {whole:.2f}" if whole >= 0.005 else f"{share:.2f}, {whole:.3f}"
        right.text(min(share, 1.0) + 0.02, place, text, va="center", fontsize=8)
    for axis in (left, right):
        axis.grid(False, axis="y")
        axis.axhline(len(bars) - 1.5, color="0.5", linewidth=0.8)
        axis.tick_params(axis="y", length=0)
    left.set(yticks=y, yticklabels=names, xlim=(0, 1), xlabel="share of the energy")
    right.set(xlim=(0, 1.28), xticks=np.linspace(0, 1, 6), xlabel="share left by averaging")
    left.invert_yaxis()
    for axis in (left, right):
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return _closed(figure)


def accuracy_bars(
    frame: pd.DataFrame, printed: pd.DataFrame | None = None, title: str | None = None
) -> Figure:
    """Measured accuracies beside the published ones, a panel for each exploiter.

    Args:
        frame: of `Lab.table`: bars are means, dots single runs, hatching the export "as_released".
        printed: rows of `ulelib.published.load()`; Table 2 if left out. Hollow diamonds with one
            standard deviation as whiskers.
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
            shown = ["-"] if name == "clean" else exports
            first = place - height * len(shown) / 2
            for slot, export in enumerate(shown):
                values = here.loc[here["export"] == export, "accuracy"]
                if len(values):
                    _bar(axis, first + slot * height, values, height, export)
            rows = printed.query("exploiter == @exploiter")
            rows = rows[rows["defender"] == row_of(name)]
            for row in rows.itertuples():
                _diamond(axis, row.value, row.std, first + len(shown) * height)
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
    _bar_legend(figure, handles, several=frame["seed"].nunique() > 1)
    if title:
        figure.suptitle(title, fontsize=10)
    return _closed(figure)


def factor_dots(
    frame: pd.DataFrame,
    label: str = "defender",
    printed: pd.DataFrame | None = None,
    title: str | None = None,
) -> Figure:
    """One factor at a time: a row for each variant, a panel for each exploiter, every run a dot.

    Args:
        frame: of `Lab.table`, one export alone; the rows stand in its order.
        label: the column that gives each row.
        printed: rows of `ulelib.published.load()`: the value to explain, a line across all rows
            with one standard deviation on both sides.
        title: above the panels.

    Raises:
        ValueError: no rows.
    """
    if frame.empty:
        raise ValueError("no runs to draw")
    names = list(frame[label].unique())
    panels = list(frame["exploiter"].unique())
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(3.6 * len(panels) + 1.4, 0.34 * len(names) + 1.5),
        sharey=True,
        squeeze=False,
        layout=ConstrainedLayoutEngine(wspace=0.06),
    )
    for axis, exploiter in zip(axes[0], panels, strict=True):
        here = frame[frame["exploiter"] == exploiter]
        for place, name in enumerate(names):
            values = here.loc[here[label] == name, "accuracy"]
            axis.plot(values, [place] * len(values), "o", color="0.45", markersize=3, zorder=3)
            axis.plot(values.mean(), place, "D", color=_PALETTE[0], markersize=6, zorder=4)
        if printed is not None:
            for row in printed[printed["exploiter"] == exploiter].itertuples():
                axis.axvline(row.value, color=_PALETTE[1], linewidth=1.4)
                if not pd.isna(row.std):
                    low, high = row.value - row.std, row.value + row.std
                    axis.axvspan(low, high, color=_PALETTE[1], alpha=0.15, linewidth=0)
        axis.axvline(frame["chance"].iloc[0], color="0.4", linestyle="--", linewidth=1)
        axis.set(title=exploiter, xlim=(0, 100), xlabel="clean test accuracy (%)")
        axis.tick_params(axis="y", length=0)
    axes[0, 0].set(yticks=range(len(names)), yticklabels=names)
    axes[0, 0].invert_yaxis()
    marks: list[Any] = [
        Line2D([], [], marker="D", color=_PALETTE[0], linestyle="", label="mean"),
        Line2D([], [], marker="o", color="0.45", linestyle="", markersize=3, label="one run"),
        Line2D([], [], color="0.4", linestyle="--", linewidth=1, label="chance"),
    ]
    if printed is not None:
        marks.insert(2, Line2D([], [], color=_PALETTE[1], label="published ± std"))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return _closed(figure)


def _in_order(names: pd.Series[str], printed: pd.Series[str]) -> list[str]:
    """Names in the paper's order, others behind, in their own."""
    known = [name for name in printed.unique() if (names == name).any()]
    return [*known, *(name for name in names.unique() if name not in known)]


def _bar_legend(figure: Figure, handles: list[Any], several: bool) -> None:
    hollow: dict[str, Any] = {"marker": "D", "markerfacecolor": "white", "markersize": 5}
    if several:
        handles.append(
            Line2D([], [], marker="o", linestyle="", color=_INK, markersize=3, label="one run")
        )
    handles.append(Line2D([], [], color=_INK, linewidth=1, label="published ± std", **hollow))
    handles.append(Line2D([], [], color="0.4", linestyle="--", linewidth=1, label="chance"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)


def _diamond(axis: Axes, value: float, std: float, y: float) -> None:
    """A published number."""
    axis.errorbar(
        value,
        y,
        xerr=None if pd.isna(std) else std,
        fmt="D",
        color=_INK,
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
    return _closed(figure)


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
    return _closed(figure)


def _styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, line and marker by label; the paper's defenders always have their own."""
    styles = {}
    others = len(_PLACES)
    for label in labels:
        place = _PLACES.get(label, others)
        others += label not in _PLACES
        styles[label] = {
            "color": _COLOURS[place % len(_COLOURS)],
            "linestyle": _LINES[place % len(_LINES)],
            "marker": _MARKERS[place % len(_MARKERS)],
        }
    return styles


def _marked(points: int) -> list[int]:
    """The points of a line that get a marker: every so many, counted back from the last."""
    return [*range(points - 1, -1, -max(1, math.ceil(points / 12)))]


def _bar(axis: Axes, y: float, values: pd.Series[float], height: float, export: str) -> None:
    colour, hatch = _EXPORT_STYLE.get(export, _EXPORT_STYLE["exact"])
    axis.barh(y, values.mean(), height, color=colour, hatch=hatch, edgecolor="white")
    if len(values) > 1:
        axis.plot(values, [y] * len(values), "o", color=_INK, markersize=2.5, zorder=4)


def _picture(image: Pictures) -> np.ndarray:
    """`(3, H, W)` uint8 -> `(H, W, 3)` uint8."""
    return np.asarray(image).transpose(1, 2, 0)


def _noise_picture(delta: Pictures, epsilon: float) -> np.ndarray:
    """`(3 or 1, H, W)` in [-epsilon, epsilon] -> `(H, W, 3)` in [0, 1]."""
    shown = 0.5 + np.asarray(delta, dtype=np.float64) / (2 * epsilon)
    return np.broadcast_to(np.clip(shown, 0, 1), (3, *shown.shape[1:])).transpose(1, 2, 0)


def _box(axis: Axes, x: float, y: float, text: str, colour: Any) -> None:
    axis.add_patch(
        FancyBboxPatch(
            (x, y - 0.7),
            3.4,
            1.4,
            boxstyle="round,pad=0.05,rounding_size=0.2",
            facecolor="white",
            edgecolor=colour,
            linewidth=1.6,
        )
    )
    axis.text(x + 1.7, y, text, ha="center", va="center", fontsize=9.5)


def _arrow(
    axis: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: Any,
    dashed: bool = False,
) -> None:
    axis.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=12,
            color=colour,
            linewidth=1.4,
            linestyle=(0, (3, 2)) if dashed else "-",
            shrinkA=0,
            shrinkB=0,
        )
    )


def _closed(figure: Figure) -> Figure:
    """With the caption; closed for pyplot, so that a notebook shows the returned figure once."""
    if _caption and figure.legends:  # a legend outside of the axes would cover a label there
        figure.legends[0].set_title(_caption, prop=FontProperties(size=6.5))
        figure.legends[0].get_title().set_color("0.35")
    elif _caption:
        figure.supxlabel(_caption, fontsize=6.5, color="0.35")
    plt.close(figure)
    return figure
