"""The paper's figures, drawn from data that is handed in; nothing is computed or trained here.

Call `use_style()` once. Every function returns a closed matplotlib `Figure`: a notebook whose last
line is the call shows it once, and `figure.savefig(path)` writes it.

A defender keeps its colour, line and marker in every figure; none is told apart by colour alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.ticker import MaxNLocator

from ulelib.published import Measured, load

Pictures = torch.Tensor | np.ndarray

_PALETTE = sns.color_palette("colorblind")
_INK = "0.15"
_LINES: list[Any] = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2))]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<"]
_PLACES = {"clean": 0, "ULEO": 1, "ULEO-Augs": 2, "ULEO-Grays": 3, "ULEO-GrayAugs": 4}
_COLOURS = [_INK, _PALETTE[0], _PALETTE[1], _PALETTE[2], _PALETTE[3], _PALETTE[4], _PALETTE[5]]
_COLOURS += [_PALETTE[8], _PALETTE[9]]
_EXPORT_STYLE = {"exact": (_PALETTE[0], ""), "as_released": (_PALETTE[1], "////")}


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
    shell = get_ipython()
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
    curves: Mapping[str, Sequence[Sequence[float]]],
    title: str | None = None,
    chance: float = 10.0,
    published: Mapping[str, float] | None = None,
) -> Figure:
    """Clean test accuracy after each epoch (the form of the paper's Figures 4 and 6).

    Args:
        curves: by label, one curve a seed, each with a percent value an epoch. Several seeds give
            their mean and a band from the smallest to the largest.
        title: above the axes.
        chance: 100 / classes, percent.
        published: by label, the published last-epoch accuracy, percent: hollow markers at the
            right edge, moved apart where they would cover each other.

    Raises:
        ValueError: a label without curves, or whose seeds have different numbers of epochs.
    """
    prints = {title or "": published} if published else None
    return _curve_panels({title or "": curves}, None, chance, prints, (5.6, 3.7))


def learning_curve_panels(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
    title: str | None = None,
    chance: float = 10.0,
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Learning curves side by side (Fig. 3: the standard exploiter left, the gray one right).

    Args:
        panels: by panel title, what `learning_curves` takes.
        title: above all panels.
        chance: 100 / classes, percent.
        published: by panel title, what `learning_curves` takes.

    Raises:
        ValueError: no panel, or as `learning_curves`.
    """
    if not panels:
        raise ValueError("no panel to draw: hand in at least one, e.g. {'standard': curves}")
    return _curve_panels(panels, title, chance, published, (3.7 * len(panels), 3.6))


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
    results: Iterable[Measured],
    published: pd.DataFrame | None = None,
    chance: float = 10.0,
    title: str | None = None,
) -> Figure:
    """Measured accuracies beside the published ones, a panel for each exploiter.

    Args:
        results: e.g. of `Lab.exploit`: bars are means, dots single seeds, hatching the export
            "as_released".
        published: rows of `ulelib.published.load()`; Table 2 if left out. Hollow diamonds with one
            standard deviation as whiskers.
        chance: 100 / classes, percent.
        title: above the panels.

    Raises:
        ValueError: no results.
    """
    found = list(results)
    if not found:
        raise ValueError("no results to draw")
    if published is None:
        published = load().query("table == '2'")
    order = [*dict.fromkeys([*published["defender"], *(r.defender for r in found)])]
    names = [name for name in order if any(r.defender == name for r in found)]
    order = [*dict.fromkeys([*published["exploiter"], *(r.exploiter for r in found)])]
    panels = [name for name in order if any(r.exploiter == name for r in found)]
    exports = [x for x in _EXPORT_STYLE if any(_export(r) == x for r in found)]
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
            here = [r for r in found if (r.defender, r.exploiter) == (name, exploiter)]
            shown = [x for x in exports if name != "clean" or x == "exact"]
            first = place - height * len(shown) / 2
            for slot, export in enumerate(shown):
                values = list({r.seed: r.accuracy for r in here if _export(r) == export}.values())
                if values:
                    _bar(axis, first + slot * height, values, height, export)
            row_of = name.split(" (")[0]  # a variant stands beside its defender's number
            rows = published[
                (published["defender"] == row_of) & (published["exploiter"] == exploiter)
            ]
            for _, row in rows.iterrows():
                axis.errorbar(
                    row["value"],
                    first + len(shown) * height,
                    xerr=None if pd.isna(row["std"]) else row["std"],
                    fmt="D",
                    color=_INK,
                    markerfacecolor="white",
                    markersize=5,
                    capsize=2.5,
                    linewidth=1.0,
                    zorder=4,
                )
        axis.axvline(chance, color="0.4", linestyle="--", linewidth=1)
        axis.set(title=exploiter, xlim=(0, 103), xlabel="clean test accuracy (%)")
        axis.grid(False, axis="y")
        axis.tick_params(axis="y", length=0)
    axes[0, 0].set(yticks=range(len(names)), yticklabels=names)
    axes[0, 0].invert_yaxis()
    handles: list[Any] = [
        Patch(
            facecolor=colour, hatch=hatch, edgecolor="white", label=f"measured, {export}".rstrip()
        )
        for export, (colour, hatch) in _EXPORT_STYLE.items()
        if export in exports
    ]
    if len({r.seed for r in found}) > 1:
        handles.append(
            Line2D([], [], marker="o", linestyle="", color=_INK, markersize=3, label="one seed")
        )
    handles += [
        Line2D(
            [],
            [],
            marker="D",
            color=_INK,
            markerfacecolor="white",
            markersize=5,
            linewidth=1,
            label="published ± std",
        ),
        Line2D([], [], color="0.4", linestyle="--", linewidth=1, label="chance"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
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


def _curve_panels(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
    title: str | None,
    chance: float,
    published: Mapping[str, Mapping[str, float]] | None,
    size: tuple[float, float],
) -> Figure:
    if not all(panels.values()):
        raise ValueError("a panel has no curves to draw")
    figure, axes = plt.subplots(
        1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    styles = _styles(dict.fromkeys(label for curves in panels.values() for label in curves))
    for axis, (name, curves) in zip(axes[0], panels.items(), strict=True):
        last = max(_draw_curve(axis, label, curves[label], styles[label]) for label in curves)
        axis.axhline(chance, color="0.4", linestyle=(0, (2, 2)), linewidth=1)
        prints = (published or {}).get(name, {})
        _draw_published(axis, {k: v for k, v in prints.items() if k in styles}, styles, last)
        axis.set(title=name, xlabel="epoch", ylim=(0, 100))
        ticks = MaxNLocator(nbins=8, integer=True).tick_values(1, last)
        axis.set_xticks([tick for tick in ticks if 1 <= tick <= last] if last > 1 else [1])
    axes[0, 0].set_ylabel("clean test accuracy (%)")
    handles = [Line2D([], [], label=label, **style) for label, style in styles.items()]
    handles.append(Line2D([], [], color="0.4", linestyle=(0, (2, 2)), linewidth=1, label="chance"))
    if published:
        hollow: dict[str, Any] = {"markerfacecolor": "white", "linestyle": ""}
        handles.append(
            Line2D([], [], marker="o", color=_INK, label="published, last epoch", **hollow)
        )
    columns = min(len(handles), 4 if size[0] > 6 else 3)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=8, handlelength=3
    )
    if title:
        figure.suptitle(title, fontsize=10)
    return _closed(figure)


def _draw_curve(
    axis: Axes, label: str, runs: Sequence[Sequence[float]], style: dict[str, Any]
) -> int:
    """Draw one label; returns its last epoch."""
    epochs = {len(run) for run in runs}
    if len(epochs) != 1 or not min(epochs):
        raise ValueError(f"curves of {label!r}: {len(runs)} seeds with {sorted(epochs)} epochs")
    values = np.asarray(runs, dtype=np.float64)  # (seeds, epochs)
    x = np.arange(1, values.shape[1] + 1)
    axis.plot(x, values.mean(0), markevery=_marked(len(x)), **style)
    if len(values) > 1:
        axis.fill_between(
            x, values.min(0), values.max(0), color=style["color"], alpha=0.15, linewidth=0
        )
    return len(x)


def _draw_published(
    axis: Axes, prints: Mapping[str, float], styles: Mapping[str, dict[str, Any]], last: int
) -> None:
    """Hollow markers right of the last epoch, in as many columns as keep them apart."""
    columns: list[list[float]] = []
    step = max(last - 1, 1) * 0.045
    if prints:  # what stands right of the line is another study's, not another epoch
        axis.axvline(last + step / 3, color="0.75", linewidth=0.8)
    for label, value in sorted(prints.items(), key=lambda item: item[1]):
        free = [i for i, column in enumerate(columns) if value - column[-1] > 5]
        if not free:
            columns.append([])
        place = free[0] if free else len(columns) - 1
        columns[place].append(value)
        style = styles[label]
        axis.plot(
            last + step * (place + 1),
            value,
            marker=style["marker"],
            color=style["color"],
            markerfacecolor="white",
            markeredgewidth=1.2,
            markersize=5.5,
            linestyle="",
            zorder=5,
        )


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


def _export(result: Measured) -> str:
    return "exact" if result.defender == "clean" else result.export


def _bar(axis: Axes, y: float, values: Sequence[float], height: float, export: str) -> None:
    colour, hatch = _EXPORT_STYLE[export]
    axis.barh(y, statistics.fmean(values), height, color=colour, hatch=hatch, edgecolor="white")
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
