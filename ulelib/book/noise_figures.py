"""Pictures of noise: on images, beside each other, where its energy lies, and how Algorithm 1 makes
it. Drawn from data that is handed in; nothing is computed or trained here.

Call `figures.use_style()` once. Every function returns a closed matplotlib `Figure`, see `figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ulelib.book.figures import INK, PALETTE, closed
from ulelib.data import ImageSet
from ulelib.perturbation import Perturbation

Pictures = torch.Tensor | np.ndarray

_TOP, _LOW, _SIDE = 6.2, 2.0, 1.9  # of `pipeline`: centres of its two rows, side of a thumbnail


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
        delta: `(N, 3 or 1, H, W)` float in [-epsilon, epsilon]; drawn as 0.5 + delta / (2 epsilon),
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
        pictures = (
            _picture(images[row]),
            _noise_picture(delta[row], epsilon),
            _picture(protected[row]),
        )
        for column, picture in enumerate(pictures):
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
    return closed(figure)


def noise_strip(
    noises: Mapping[str, Perturbation], images: ImageSet, each: int = 3, classes: int = 2
) -> Figure:
    """A row for each noise: that of a few images of a class beside each other, class by class.

    Where the pictures of a class are alike the noise is nearly class-wise.

    Args:
        noises: by name, each made for `images`.
        images: the data set.
        each: number of images of a class.
        classes: number of classes, from the first on.
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
        deltas = noise.of(images, rows)
        for axis, delta, row in zip(line, deltas, rows.tolist(), strict=True):
            axis.imshow(_noise_picture(delta, noise.epsilon), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if place == 0:
                axis.set_title(images.classes[int(images.labels[row])], fontsize=8)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6, fontsize=8)
    return closed(figure)


def energy_bars(
    shares: Mapping[str, Mapping[str, float]], pixels: int = 32 * 32, title: str | None = None
) -> Figure:
    """Where each perturbation's energy lies: colour, and how much of it varies slowly in space.

    Args:
        shares: by defender, of `ulelib.perturbation.energy_shares`: "luminance" and "chroma", which
            add up to 1, and "tiles" and "constant", each in [0, 1].
        pixels: H W of the images; independent noise, the reference bar, is constant by 1 / pixels.
        title: above both panels.

    The numbers at the right are what the mean of a tile, and of the image, leaves.
    """
    noise = {"luminance": 1 / 3, "chroma": 2 / 3, "tiles": 1 / 16, "constant": 1 / pixels}
    bars = {**shares, "random noise": noise}
    names, y = [*bars], np.arange(len(bars))
    figure, (left, right) = plt.subplots(
        1,
        2,
        figsize=(7.2, 0.42 * len(bars) + 1.7),
        sharey=True,
        layout=ConstrainedLayoutEngine(wspace=0.06),
    )
    luminance = np.array([bar["luminance"] for bar in bars.values()])
    chroma = np.array([bar["chroma"] for bar in bars.values()])
    tiles = np.array([bar["tiles"] for bar in bars.values()])
    constant = np.array([bar["constant"] for bar in bars.values()])
    edge = {"edgecolor": "white", "height": 0.62, "linewidth": 0.8}
    left.barh(y, luminance, color="0.62", label="luminance (R = G = B)", **edge)
    left.barh(y, chroma, left=luminance, color=PALETTE[4], hatch="...", label="chroma", **edge)
    right.barh(y, tiles, color=PALETTE[9], label="mean of each 4x4 tile", **edge)
    right.barh(y, constant, color=INK, label="mean of the image", **(edge | {"height": 0.25}))
    for place, share, whole in zip(y, tiles, constant, strict=True):
        text = f"{share:.2f}, {whole:.2f}" if whole >= 0.005 else f"{share:.2f}, {whole:.3f}"
        right.text(1.03, place, text, va="center", fontsize=8)
    for axis in (left, right):
        axis.grid(False, axis="y")
        axis.axhline(len(bars) - 1.5, color="0.5", linewidth=0.8)
        axis.tick_params(axis="y", length=0)
    left.set(yticks=y, yticklabels=names, xlim=(0, 1), xlabel="share of the energy")
    right.set(xlim=(0, 1), xlabel="share left by averaging")
    left.invert_yaxis()
    for axis in (left, right):  # one below the other: beside each other they are wider than a panel
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return closed(figure)


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
    thumbnails = {
        (0.0, _TOP): (original.transpose(1, 2, 0), "image $x$"),
        (3.0, _TOP): (_noise_picture(delta_before, epsilon), "$\\delta_i$"),
        (6.0, _TOP): (added.transpose(1, 2, 0), "$x + \\delta_i$"),
        (3.0, _LOW): (_noise_picture(delta_after, epsilon), "$\\delta_{i+1}$"),
    }
    for (x, y), (picture, name) in thumbnails.items():
        box = (x, x + _SIDE, y - _SIDE / 2, y + _SIDE / 2)
        axis.imshow(picture, extent=box, interpolation="nearest", zorder=2)
        axis.text(x + _SIDE / 2, y - _SIDE / 2 - 0.15, name, ha="center", va="top", fontsize=9)
    axis.set(xlim=(-0.7, 13.3), ylim=(0.3, 8.1))  # `imshow` has changed them
    _draw_steps(axis, f"clip to $\\pm\\epsilon$ = {255 * epsilon:.3g}/255")
    return closed(figure)


def _draw_steps(axis: Axes, clip: str) -> None:
    """The boxes, arrows and texts of `pipeline`.

    Args:
        clip: how the inner step clips, in words.
    """
    outer, inner = PALETTE[0], PALETTE[3]
    _box(axis, 9.5, _TOP, "train $F'$ on\n$M$ batches", outer)
    _box(axis, 9.5, _LOW, "$F'$ is fixed:\nloss of $x + \\delta$", inner)
    head: dict[str, Any] = {"fontsize": 10, "weight": "bold"}
    axis.text(-0.6, 7.75, "Outer step: the model learns", color=outer, **head)
    axis.text(-0.6, _LOW, "Inner step:\nthe noise learns", color=inner, va="center", **head)
    for x, sign in ((2.45, "+"), (5.45, "=")):
        axis.text(x, _TOP, sign, ha="center", va="center", fontsize=15, color=INK)
    _arrow(axis, (8.0, _TOP), (9.4, _TOP), outer)
    _arrow(axis, (11.2, _TOP - 0.8), (11.2, _LOW + 0.8), INK, dashed=True)
    axis.text(11.5, 3.85, "weights $\\theta_{i+1}$", ha="left", va="center", fontsize=9)
    _arrow(axis, (9.4, _LOW), (5.1, _LOW), inner)
    middle: dict[str, Any] = {"ha": "center", "fontsize": 9, "color": INK}
    axis.text(7.25, _LOW + 0.15, "signed-gradient steps,", va="bottom", **middle)
    axis.text(7.25, _LOW - 0.2, clip, va="top", **middle)
    _arrow(axis, (3.0 + _SIDE / 2, 3.05), (3.0 + _SIDE / 2, 4.6), INK, dashed=True)
    again = "next round, until the error\nof $F'$ on $x + \\delta$ is below $\\lambda$"
    axis.text(4.3, 3.85, again, ha="left", va="center", fontsize=9)


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


def _picture(image: Pictures) -> np.ndarray:
    """`(3, H, W)` uint8 -> `(H, W, 3)` uint8."""
    return np.asarray(image).transpose(1, 2, 0)


def _noise_picture(delta: Pictures, epsilon: float) -> np.ndarray:
    """`(3 or 1, H, W)` in [-epsilon, epsilon] -> `(H, W, 3)` in [0, 1]."""
    levels = 0.5 + np.asarray(delta, dtype=np.float64) / (2 * epsilon)
    return np.broadcast_to(np.clip(levels, 0, 1), (3, *levels.shape[1:])).transpose(1, 2, 0)
