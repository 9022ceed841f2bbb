"""Every picture of noise draws, holds what it says, and stays small enough for a page."""

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from helpers import random_images
from ulelib.book import figures, noise_figures
from ulelib.book.noise_figures import energy_bars, noise_strip, perturbation_grid, pipeline
from ulelib.perturbation import Perturbation

EPSILON = 8 / 255


def noise(channels):
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(3, channels, 32, 32, generator=generator) * 2 - 1) * EPSILON


def pictures():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 3, 32, 32), generator=generator, dtype=torch.uint8)


IMAGES = random_images(9, size=32)
SHARED = Perturbation(noise(3), "class_wise", EPSILON, "CSD", IMAGES.fingerprint)

DRAWN = {
    "grid": lambda: perturbation_grid(
        pictures(), noise(3), pictures(), EPSILON, ["cat", "dog", "ship"], "ULEO"
    ),
    "gray_grid": lambda: perturbation_grid(
        pictures(), noise(1).numpy(), pictures().numpy(), EPSILON, ["cat", "dog", "ship"]
    ),
    "strip": lambda: noise_strip({"CSD": SHARED, "ULEO, class-wise": SHARED}, IMAGES),
    "pipeline": lambda: pipeline(pictures()[0], noise(3)[0], noise(1)[1], EPSILON),
    "energy": lambda: energy_bars(
        {"ULEO": {"luminance": 0.1, "chroma": 0.9, "tiles": 0.8, "constant": 0.6}}, title="energy"
    ),
}


@pytest.fixture(autouse=True)
def style(monkeypatch):
    monkeypatch.setattr(figures, "STYLE", figures.Style())
    with matplotlib.rc_context():
        figures.use_style()
        yield


@pytest.mark.parametrize("name", DRAWN)
def test_figure_is_drawn_closed_and_small(name):
    figure = DRAWN[name]()
    assert plt.get_fignums() == []
    file = io.BytesIO()
    figure.savefig(file)
    assert 5_000 < len(file.getvalue()) < 150_000


@pytest.mark.parametrize("name", DRAWN)
def test_a_caption_is_below_every_figure(name):
    caption = "profile smoke, seed 3"
    for expected in (False, True):
        if expected:
            figures.use_style(caption)
        figure = DRAWN[name]()
        titles = [legend.get_title().get_text() for legend in figure.legends]
        assert (caption in [*titles, figure.get_supxlabel()]) == expected


def test_a_strip_shows_noise_class_by_class():
    figure = noise_strip({"CSD": SHARED}, IMAGES, each=2, classes=3)
    heads = [axis.get_title() for axis in figure.axes]
    assert heads == [name for name in IMAGES.classes for _ in range(2)]
    pictures = [axis.images[0].get_array() for axis in figure.axes]
    assert (pictures[0] == pictures[1]).all() and (pictures[0] != pictures[2]).any()


def test_noise_is_gray_where_nothing_changes():
    picture = noise_figures._noise_picture(torch.zeros(1, 4, 5), EPSILON)
    assert picture.shape == (4, 5, 3)
    assert np.all(picture == 0.5)
    assert np.all(noise_figures._noise_picture(torch.full((3, 2, 2), EPSILON), EPSILON) > 0.999)


def test_energy_has_the_reference_bar():
    shares = {"luminance": 0.1, "chroma": 0.9, "tiles": 0.8, "constant": 0.6}
    figure = energy_bars({"ULEO": shares})
    figure.draw_without_rendering()
    labels = {text.get_text() for axis in figure.axes for text in axis.texts}
    labels |= {text.get_text() for text in figure.axes[0].get_yticklabels()}
    assert {"random noise", "0.80, 0.60", "0.06, 0.001"} <= labels


def test_legends_of_energy_cover_neither_bars_nor_each_other():
    shares = {"luminance": 0.1, "chroma": 0.9, "tiles": 1.0, "constant": 0.6}
    figure = energy_bars({"ULEO": shares, "ULEO-GrayAugs": shares}, title="energy")
    figure.draw_without_rendering()
    assert [axis.get_xlim() for axis in figure.axes] == [(0, 1), (0, 1)]
    legends = [axis.get_legend().get_window_extent() for axis in figure.axes]
    others = [axis.get_window_extent() for axis in figure.axes]
    others += [text.get_window_extent() for text in (*figure.axes[1].texts, figure._suptitle)]
    assert not legends[0].overlaps(legends[1])
    assert not any(legend.overlaps(other) for legend in legends for other in others)
    for box in (*legends, *others):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_a_grid_needs_as_many_names_as_pictures():
    with pytest.raises(ValueError, match="entries"):
        perturbation_grid(pictures(), noise(3), pictures(), EPSILON, ["cat"])
