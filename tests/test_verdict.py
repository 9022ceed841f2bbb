"""The rule that compares measured accuracies with a published one."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from scipy import stats

from ulelib.book.printed import Published
from ulelib.book.verdict import LABELS, decide, extent, measured, p_value, retained, span


def test_retained_is_0_at_chance_and_1_at_clean():
    assert retained(10, 90, 10) == 0
    assert retained(90, 90, 10) == 1
    assert retained(50.5, 100, chance=1) == 0.5
    with pytest.raises(ValueError, match="not above chance"):
        retained(10, 10, 10)


def cell(value, std=None, n=None):
    return Published(value, std, n, "a test")


def beside(values, printed, clean=90.0, **options):
    """A cell in two studies of ten classes, whose clean accuracy is 90 %."""
    return measured(values, clean, 10.0, printed, 90.0, 10.0, **options)


def judged(*arguments, **options):
    """The verdict of a table of one cell."""
    (found,) = decide([beside(*arguments, **options)])
    return found


@pytest.mark.parametrize("values", [[50.0], [46.0, 54.0], [90.0, 90.0]])
def test_below_three_runs_there_is_a_number_and_no_verdict(values):
    found = judged(values, cell(50, 20.0, 5))
    assert found.label == "" and found.low is None and found.high is None
    assert found.mean == sum(values) / len(values) and found.n == len(values)


@pytest.mark.parametrize(
    ("values", "printed", "label"),
    [
        ([49.0, 50.0, 51.0], cell(50, 1.0, 5), "reproduced"),
        # All of the interval must lie within 0.15 of 80 points, not only the mean.
        ([60.0, 61.0, 62.0], cell(50, 1.0, 5), "undecided"),
        ([59.0, 60.0, 61.0], cell(50, 1.0, 5), "reproduced"),
        # A difference that excludes 0 and lies within the margin is none of the three.
        ([61.0, 61.5, 62.0], cell(50, 1.0, 5), "undecided"),
        ([66.0, 67.0, 68.0], cell(50, 1.0, 5), "weaker"),
        ([32.0, 33.0, 34.0], cell(50, 1.0, 5), "stronger"),
        ([30.0, 50.0, 70.0], cell(50, 1.0, 5), "undecided"),
        # A difference that is certain and small is no other finding.
        ([52.0, 52.1, 52.2], cell(50, 0.1, 5), "reproduced"),
        # ... and so is it where the paper prints one run.
        ([49.0, 50.0, 51.0], cell(50), "reproduced"),
        ([30.0, 50.0, 70.0], cell(50), "undecided"),
    ],
)
def test_from_three_runs_on_the_interval_decides(values, printed, label):
    found = judged(values, printed)
    assert found.label == label and label in LABELS
    assert found.low < found.difference < found.high


def test_the_margin_is_half_of_the_printed_effect():
    """A method without any effect never reproduces one."""
    small = judged([89.9, 90.0, 90.1], cell(82, 0.1, 5))
    assert small.margin == pytest.approx(0.05)  # half of 8 points of 80
    assert small.label == "weaker"
    assert judged([82.0, 82.1, 82.2], cell(82, 0.1, 5)).label == "reproduced"
    assert judged([50.0, 50.1, 50.2], cell(50, 0.1, 5)).margin == 0.15  # 40 points
    # The exploiter's own cost is no effect of the protection.
    filtered = judged([79.9, 80.0, 80.1], cell(76, 0.1, 5), unprotected=80.0)
    assert filtered.margin == pytest.approx(0.025) and filtered.label == "weaker"
    assert judged([88.0, 88.1, 88.2], cell(89, 0.1, 5), protected=False).margin == 0.15


def test_the_interval_is_welchs():
    """Against scipy's test of the same two samples: it is rejected where 0 lies outside."""
    ours, theirs = [50.0, 53.0, 58.0, 57.0], [44.0, 47.0, 42.0, 49.0, 46.0]
    series = pd.Series(theirs)
    found = judged(ours, cell(series.mean(), series.std(), len(theirs)))
    interval = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert (80 * found.low, 80 * found.high) == pytest.approx((interval.low, interval.high))


def test_without_a_printed_spread_it_is_a_prediction_interval():
    few = judged([49.0, 50.0, 51.0], cell(50))
    half = stats.t.ppf(0.975, 2 * (1 + 3) ** 2 / (1 + 9)) * math.sqrt(1 / 3 + 1) / 80
    assert few.high - few.low == pytest.approx(2 * half)
    several = judged([49.0, 50.0, 51.0], cell(50, n=5))  # whose mean alone was printed
    assert several.high - several.low < few.high - few.low


def test_the_intervals_of_a_table_are_simultaneous():
    """Holm's method, with p-values worked out by scipy."""
    tables = [[66.0, 67.0, 68.0], [49.0, 50.0, 51.0], [60.0, 61.0, 62.0], [50.0]]
    cells = [beside(values, cell(50, 1.0, 5)) for values in tables]
    found = decide(cells)
    ps = {}
    for place, values in enumerate(tables[:3]):
        ours, theirs = pd.Series(values).std() / math.sqrt(3), 1 / math.sqrt(5)
        error = math.hypot(ours, theirs)
        freedom = error**4 / (ours**4 / 2 + theirs**4 / 4)
        distance = abs(sum(values) / 3 - 50)  # the margin is 12 points
        room = distance if distance > 12 else 12 - distance
        ps[place] = 2 * stats.t.sf(room / error, freedom)
        assert p_value(cells[place]) == pytest.approx(ps[place])
    order = sorted(ps, key=ps.get)
    assert [found[place].level for place in order] == pytest.approx([0.05 / 3, 0.05 / 2, 0.05])
    assert [one.label for one in found] == ["weaker", "reproduced", "undecided", ""]


def test_behind_an_undecided_cell_none_is_decided():
    """Alone the cell would be decided; in a table of four its level is a quarter."""
    scattered = [57.0, 60.0, 63.0]
    edge = beside([58.3, 59.3, 60.3], cell(50, 1.0, 5))
    assert 0.0125 < p_value(edge) < 0.05 and decide([edge])[0].label == "reproduced"
    found = decide([edge, *(beside(scattered, cell(50, 1.0, 5)) for _ in range(3))])
    assert [one.label for one in found] == ["undecided"] * 4
    assert [one.level for one in found] == [0.0125] * 4


def test_what_is_undecided_says_how_many_runs_would_decide():
    found = judged([50.0, 55.0, 60.0], cell(50, 1.0, 5))
    assert found.label == "undecided" and found.further is not None
    single = found.ours[0] * math.sqrt(3)
    for runs, decided in ((found.further + 3, True), (found.further + 2, False)):
        more = replace(found, n=runs, ours=(single / math.sqrt(runs), runs - 1))
        assert (p_value(more) <= 0.05) is decided
    hopeless = judged([60.0, 61.0, 62.0], cell(50, 40.0, 2))  # the print's own spread
    assert hopeless.label == "undecided" and hopeless.further is None
    assert judged([49.0, 50.0, 51.0], cell(50, 1.0, 5)).further is None


def test_a_knife_edge_is_called_so():
    """A spread is found at which the p-value is its level; a fifth more or less tells."""

    def p_of(spread):
        return p_value(beside([60.0 - spread, 60.0, 60.0 + spread], cell(50, 1.0, 5)))

    low, high = 0.01, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if p_of(middle) > 0.05 else (middle, high)
    assert judged([60.0 - low, 60.0, 60.0 + low], cell(50, 1.0, 5)).knife_edge
    assert not judged([60.0 - 3 * low, 60.0, 60.0 + 3 * low], cell(50, 1.0, 5)).knife_edge
    assert not judged([49.0, 50.0, 51.0], cell(50, 1.0, 5)).knife_edge


def test_each_study_is_scaled_by_its_own_clean_accuracy():
    found = measured([30.0, 34.0], 50.0, 10.0, cell(54, std=6.0), 90.0, 10.0)
    assert found.retained == pytest.approx(22 / 40)
    assert found.published_retained == pytest.approx(44 / 80)
    assert found.std == pytest.approx(math.sqrt(8))


def test_no_verdict_where_nothing_was_learned():
    stuck = measured([10.0], 10.0, 10.0, cell(24), 94.0, 10.0)
    assert stuck.label == "no verdict" and decide([stuck]) == [stuck]
    assert stuck.std is None and math.isnan(stuck.retained)
    with pytest.raises(ValueError, match="at least one"):
        beside([], cell(24))


def test_nothing_protects_clean_images():
    assert judged([59.0, 60.0, 61.0], cell(90, 0.2, 5), protected=False).label == "lower"
    assert judged([88.0, 89.0, 90.0], cell(60, 0.2, 5), protected=False).label == "higher"


def test_chance_of_each_study():
    found = measured([50.0], 99.0, 1.0, cell(30), 59.0, 1.0)
    assert found.retained == found.published_retained == 0.5


def test_runs_without_any_spread_are_decided_by_their_mean():
    assert judged([50.0, 50.0, 50.0], cell(50, 0.0, 5)).label == "reproduced"
    assert judged([70.0, 70.0, 70.0], cell(50, 0.0, 5)).label == "weaker"


def test_an_interval_as_text():
    assert span(-0.1, 0.052) == "-0.10 to +0.05"
    assert span(1.0, 2.25, digits=1) == "+1.0 to +2.2"
    assert span(math.nan, math.nan) == ""
    assert span(-0.04, 0.04, digits=1) == "+0.0 to +0.0"  # no "-0.0"
    assert span(57.0, 68.25, digits=1, sign="") == "57.0 to 68.2"


def test_numbers_are_summed_up_by_their_extent() -> None:
    assert (extent([5, 3, 4]), extent([5, 5]), extent([1])) == ("3 to 5", "5", "1")
