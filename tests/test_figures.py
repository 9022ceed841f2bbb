"""Every figure draws, says what it shows, and stays small enough for a page."""

import io
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from ulelib import figures

EPSILON = 8 / 255
CURVES = {
    "clean": [[30.0, 60.0, 80.0], [32.0, 64.0, 84.0]],
    "ULEO": [[20.0, 25.0, 22.0]],
    "ULEO-GrayAugs": [[20.0, 22.0, 23.0]],
}
PUBLISHED = {"clean": 94.58, "ULEO": 24.47, "ULEO-GrayAugs": 25.98, "not drawn": 1.0}


def noise(channels):
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(3, channels, 32, 32, generator=generator) * 2 - 1) * EPSILON


def pictures():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 3, 32, 32), generator=generator, dtype=torch.uint8)


def result(defender, exploiter, accuracy, seed=0, export="exact"):
    return SimpleNamespace(
        defender=defender, exploiter=exploiter, accuracy=accuracy, seed=seed, export=export
    )


RESULTS = [
    result("clean", "standard", 93.0, export="-"),
    result("clean", "gray", 91.0, export="-"),
    result("ULEO", "standard", 21.0),
    result("ULEO", "standard", 24.0, seed=1),
    result("ULEO", "gray", 88.0, export="as_released"),
    result("another", "gray", 50.0),
]

DRAWN = {
    "learning_curves": lambda: figures.learning_curves(CURVES, "standard", published=PUBLISHED),
    "one_epoch": lambda: figures.learning_curves({"clean": [[30.0]]}, published={"clean": 94.0}),
    "panels": lambda: figures.learning_curve_panels(
        {"standard": CURVES, "gray": CURVES}, "Fig. 3", published={"gray": PUBLISHED}
    ),
    "grid": lambda: figures.perturbation_grid(
        pictures(), noise(3), pictures(), EPSILON, ["cat", "dog", "ship"], "ULEO"
    ),
    "gray_grid": lambda: figures.perturbation_grid(
        pictures(), noise(1).numpy(), pictures().numpy(), EPSILON, ["cat", "dog", "ship"]
    ),
    "pipeline": lambda: figures.pipeline(pictures()[0], noise(3)[0], noise(1)[1], EPSILON),
    "energy": lambda: figures.energy_bars(
        {"ULEO": {"luminance": 0.1, "chroma": 0.9, "tiles": 0.8, "constant": 0.6}}, title="energy"
    ),
    "bars": lambda: figures.accuracy_bars(RESULTS, title="Table 2"),
    "convergence": lambda: figures.convergence(
        {"ULEO": [0.9, 0.1, 0.0], "ULEO-Augs": (0.8, 0.2, 0.02, 0.009)}, 0.01, "rounds"
    ),
}


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        figures.use_style()
        yield


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", DRAWN)
def test_figure_is_drawn_closed_and_small(name):
    figure = DRAWN[name]()
    assert plt.get_fignums() == []
    file = io.BytesIO()
    figure.savefig(file)
    assert 5_000 < len(file.getvalue()) < 150_000


def texts(figure):
    figure.draw_without_rendering()
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    for axis in figure.axes:
        labels += [axis.get_title(), axis.get_xlabel(), axis.get_ylabel()]
        labels += [text.get_text() for text in axis.texts]
        labels += [text.get_text() for text in axis.get_yticklabels()]
    return labels


def test_curves_show_means_bands_and_published_values():
    figure = figures.learning_curves(CURVES, "standard", published=PUBLISHED)
    (axis,) = figure.axes
    clean = axis.lines[0]
    assert [*clean.get_xdata()] == [1, 2, 3]
    assert [*clean.get_ydata()] == [31.0, 62.0, 82.0]
    assert len(axis.collections) == 1  # a band only where there are several seeds
    hollow = {
        float(line.get_ydata()[0]): float(line.get_xdata()[0])
        for line in axis.lines
        if line.get_linestyle() == "None"
    }
    assert set(hollow) == {94.58, 24.47, 25.98}
    assert min(hollow.values()) > 3
    assert hollow[24.47] != hollow[25.98]  # they would cover each other
    assert {"clean", "ULEO", "chance", "published, last epoch"} <= set(texts(figure))


def test_labels_differ_by_more_than_colour():
    styles = figures._styles([*figures._PLACES, "one", "two"])
    for key in ("color", "linestyle", "marker"):
        assert len({str(style[key]) for style in styles.values()}) >= 6
    assert styles["ULEO"] == figures._styles(["ULEO"])["ULEO"]


@pytest.mark.parametrize("name", DRAWN)
def test_a_caption_stands_below_every_figure(name, monkeypatch):
    caption = "profile smoke, seed 3"
    shown = [DRAWN[name]()]
    monkeypatch.setattr(figures, "_caption", caption)
    shown.append(DRAWN[name]())
    for figure, there in zip(shown, (False, True), strict=True):
        titles = [legend.get_title().get_text() for legend in figure.legends]
        assert (caption in [*titles, figure.get_supxlabel()]) == there


def test_noise_is_gray_where_nothing_changes():
    shown = figures._noise_picture(torch.zeros(1, 4, 5), EPSILON)
    assert shown.shape == (4, 5, 3)
    assert np.all(shown == 0.5)
    assert np.all(figures._noise_picture(torch.full((3, 2, 2), EPSILON), EPSILON) > 0.999)


def test_bars_hold_only_what_was_measured():
    shown = texts(figures.accuracy_bars(RESULTS))
    assert {"standard", "gray", "clean", "ULEO", "another", "one seed"} <= set(shown)
    assert "measured, as_released" in shown
    assert "ULEO-Grays" not in shown
    alone = texts(figures.accuracy_bars(RESULTS[:3]))
    assert "measured, as_released" not in alone
    assert "one seed" not in alone


def test_energy_has_the_reference_bar():
    shares = {"luminance": 0.1, "chroma": 0.9, "tiles": 0.8, "constant": 0.6}
    shown = texts(figures.energy_bars({"ULEO": shares}))
    assert {"random noise", "0.80, 0.60", "0.06, 0.001"} <= set(shown)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="ULEO"):
        figures.learning_curves({"ULEO": [[1.0, 2.0], [1.0]]})
    with pytest.raises(ValueError, match="ULEO"):
        figures.learning_curves({"ULEO": []})
    with pytest.raises(ValueError, match="panel"):
        figures.learning_curve_panels({})
    with pytest.raises(ValueError, match="no curves"):
        figures.learning_curves({})
    with pytest.raises(ValueError, match="entries"):
        figures.perturbation_grid(pictures(), noise(3), pictures(), EPSILON, ["cat"])
    with pytest.raises(ValueError, match="no results"):
        figures.accuracy_bars([])
    with pytest.raises(ValueError, match="no rounds"):
        figures.convergence({"ULEO": []}, 0.01)
