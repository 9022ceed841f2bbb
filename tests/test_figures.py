"""Every chart draws, holds what it says, and stays small enough for a page."""

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ulelib.book import figures
from ulelib.book.printed import load


def run(defender, exploiter="standard", accuracy=50.0, seed=0, export="exact", curve=None):
    return {
        "defender": defender,
        "exploiter": exploiter,
        "accuracy": accuracy,
        "seed": seed,
        "export": "-" if defender == "clean" else export,
        "curve": curve or (accuracy / 2, accuracy - 1, accuracy + 1),
        "chance": 10.0,
    }


RESULTS = pd.DataFrame(
    [
        run("clean", "standard", 82.0, curve=(30.0, 60.0, 80.0)),
        run("clean", "standard", 86.0, seed=1, curve=(32.0, 64.0, 84.0)),
        run("clean", "gray", 81.0),
        run("ULEO", "standard", 21.0),
        run("ULEO", "standard", 24.0, seed=1),
        run("ULEO", "gray", 78.0, export="as_released"),
        run("another", "gray", 50.0),
    ]
)
STANDARD = RESULTS.query("exploiter == 'standard'")
TABLE_2 = load().query("table == '2' and defender == 'ULEO'")

DRAWN = {
    "sweep": lambda: figures.sweep(STANDARD.assign(share=[0, 0, 100, 100]), "share", xlabel="%"),
    "learning_curves": lambda: figures.learning_curves(STANDARD, title="standard"),
    "one_epoch": lambda: figures.learning_curves(pd.DataFrame([run("clean", curve=(30.0,))])),
    "panels": lambda: figures.learning_curves(RESULTS, "exploiter", title="Fig. 3"),
    "bars": lambda: figures.accuracy_bars(RESULTS, title="Table 2"),
    "factors": lambda: figures.factor_dots(RESULTS, printed=TABLE_2, title="factors"),
    "convergence": lambda: figures.convergence(
        {"ULEO": [0.9, 0.1, 0.0], "ULEO-Augs": (0.8, 0.2, 0.02, 0.009)}, 0.01, "rounds"
    ),
}


@pytest.fixture(autouse=True)
def style(monkeypatch):
    monkeypatch.setattr(figures, "STYLE", figures.Style())
    with matplotlib.rc_context():
        figures.use_style()
        yield
    plt.close("all")  # a figure that was refused while it was drawn


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


def test_curves_show_every_run_their_mean_and_the_accuracy_of_the_tables():
    figure = figures.learning_curves(STANDARD)
    (axis,) = figure.axes
    lines = {tuple(line.get_ydata()): line for line in axis.lines}
    assert {(30.0, 60.0, 80.0), (32.0, 64.0, 84.0), (31.0, 62.0, 82.0)} <= set(lines)
    mean = lines[31.0, 62.0, 82.0]
    assert [*mean.get_xdata()] == [1, 2, 3]
    assert mean.get_linewidth() > lines[30.0, 60.0, 80.0].get_linewidth()
    assert (84.0,) in lines  # mean accuracy on all test images, not the end of the curve
    assert {"clean", "ULEO", "chance"} <= set(texts(figure))


def test_clean_images_are_in_every_panel_of_exports():
    figure = figures.learning_curves(RESULTS.query("exploiter == 'gray'"), "export")
    assert len(figure.axes) == 2
    for axis in figure.axes:
        assert any(tuple(line.get_ydata()) == (40.5, 80.0, 82.0) for line in axis.lines)


def test_factors_show_every_run_in_the_order_of_the_rows():
    figure = figures.factor_dots(STANDARD, printed=TABLE_2)
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["clean", "ULEO"]
    dots = {
        round(float(x), 1) for part in axis.collections for x, _ in np.asarray(part.get_offsets())
    } | {round(float(x), 1) for line in axis.lines for x in line.get_xdata()}
    assert {82.0, 86.0, 21.0, 24.0} <= dots


def test_labels_differ_by_more_than_colour():
    styles = figures._styles([*figures._PLACES, "one", "two"])
    for key in ("color", "linestyle", "marker"):
        assert len({str(style[key]) for style in styles.values()}) >= 6
    assert styles["ULEO"] == figures._styles(["ULEO"])["ULEO"]


def test_no_two_labels_have_one_colour():
    """Neither many unknown ones beside the paper's, nor many seeds."""
    styles = figures._styles([*figures._PLACES, *map(str, range(19))]).values()
    colours = [matplotlib.colors.to_hex(style["color"]) for style in styles]
    assert len(set(colours)) == len(colours) == 24
    assert len({(str(style["linestyle"]), style["marker"]) for style in styles}) == 24
    seeds = figures.convergence({f"ULEO, seed {seed}": [0.5, 0.1] for seed in range(6)}, 0.01)
    drawn = {matplotlib.colors.to_hex(line.get_color()) for line in seeds.axes[0].lines[:6]}
    assert len(drawn) == 6 and matplotlib.colors.to_hex(figures.INK) not in drawn


def test_the_axes_of_factors_span_the_runs_and_what_they_are_compared_with():
    near = pd.DataFrame([run("ULEO", accuracy=a, seed=i) for i, a in enumerate((70.0, 80.0))])
    figure = figures.factor_dots(near)
    assert figure.axes[0].get_xlim() == (68, 82)
    assert {"mean", "one run"} <= set(texts(figure)) and "chance" not in texts(figure)
    low, high = figures.factor_dots(near, printed=TABLE_2).axes[0].get_xlim()
    assert low < 10 and high > 82  # 24.47 ± 4.41 in print; then chance is near
    alone = texts(figures.factor_dots(near[:1]))
    assert "mean" not in alone and "one run" in alone


def test_legends_tell_of_a_spread_where_one_is_drawn():
    table_1 = load().query("table == '1' and defender == 'ULEO'")
    for draw in (figures.accuracy_bars, figures.factor_dots):
        assert "published ± std" in texts(draw(RESULTS, printed=TABLE_2))
        assert "published" in texts(draw(RESULTS, printed=table_1))
        alone = set(texts(draw(RESULTS[RESULTS["defender"] == "another"], printed=TABLE_2[:0])))
        assert not {"published", "published ± std"} & alone


@pytest.mark.parametrize("name", DRAWN)
def test_a_caption_is_below_every_figure(name):
    caption = "profile smoke, seed 3"
    for expected in (False, True):
        if expected:
            figures.use_style(caption)
        figure = DRAWN[name]()
        titles = [legend.get_title().get_text() for legend in figure.legends]
        assert (caption in [*titles, figure.get_supxlabel()]) == expected


def test_bars_hold_only_what_was_measured():
    drawn = texts(figures.accuracy_bars(RESULTS))
    assert {"standard", "gray", "clean", "ULEO", "another", "one run"} <= set(drawn)
    assert "measured, as released" in drawn
    assert "ULEO-Grays" not in drawn
    alone = texts(figures.accuracy_bars(RESULTS.iloc[[0, 2, 3]]))
    assert "measured, as released" not in alone
    assert "one run" not in alone


def test_what_cannot_be_drawn_is_refused():
    other = pd.DataFrame([run("ULEO"), run("ULEO", seed=1, curve=(1.0,))])
    with pytest.raises(ValueError, match="ULEO"):
        figures.learning_curves(other)
    with pytest.raises(ValueError, match="ULEO"):
        figures.learning_curves(pd.DataFrame([run("ULEO") | {"curve": ()}]))
    for draw in (figures.learning_curves, figures.accuracy_bars, figures.factor_dots):
        with pytest.raises(ValueError, match="no runs"):
            draw(RESULTS[:0])
    with pytest.raises(ValueError, match="no rounds"):
        figures.convergence({"ULEO": []}, 0.01)
