"""The rule that compares measured accuracies with a published one."""

import math

import pandas as pd
import pytest
from scipy import stats

from ulelib.book.printed import Published
from ulelib.book.verdict import LABELS, retained, span, verdict


def test_retained_is_0_at_chance_and_1_at_clean():
    assert retained(10, 90, 10) == 0
    assert retained(90, 90, 10) == 1
    assert retained(50.5, 100, chance=1) == 0.5
    with pytest.raises(ValueError, match="not above chance"):
        retained(10, 10, 10)


def cell(value, std=None, n=None):
    return Published(value, std, n, "a test")


def judged(values, printed, clean=90.0, **options):
    """The verdict in two studies of ten classes, whose clean accuracy is 90 %."""
    return verdict(values, clean, 10.0, printed, 90.0, 10.0, **options)


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ([50.0], "near"),
        ([58.0], "near"),  # exactly the tolerance: 0.10 x 80 points
        ([42.0], "near"),
        ([58.1], "far"),
        ([41.9], "far"),
        ([56.0, 64.0], "far"),  # two runs that lie far apart excuse nothing
        ([46.0, 54.0], "near"),
    ],
)
def test_below_three_runs_near_or_far_and_no_more(values, label):
    for printed in (cell(50), cell(50, std=20.0, n=5)):
        found = judged(values, printed)
        assert found.label == label and label in LABELS
        assert found.low is None and found.high is None


@pytest.mark.parametrize(
    ("values", "printed", "label"),
    [
        ([49.0, 50.0, 51.0], cell(50, 1.0, 5), "reproduced"),
        # All of the interval must lie within 0.15 of 80 points, not only the mean.
        ([59.0, 60.0, 61.0], cell(50, 1.0, 5), "reproduced"),
        ([60.0, 61.0, 62.0], cell(50, 1.0, 5), "protects less"),
        ([38.0, 39.0, 40.0], cell(50, 1.0, 5), "protects more"),
        # Runs that lie far apart say that more are needed, whatever their mean.
        ([30.0, 50.0, 70.0], cell(50, 1.0, 5), "open"),
        ([50.0, 65.0, 80.0], cell(50, 1.0, 5), "open"),
        # A difference that is certain and small is no other finding.
        ([52.0, 52.1, 52.2], cell(50, 0.1, 5), "reproduced"),
        # ... and so is it where the paper prints one run.
        ([49.0, 50.0, 51.0], cell(50), "reproduced"),
        ([30.0, 50.0, 70.0], cell(50), "open"),
    ],
)
def test_from_three_runs_on_the_interval_decides(values, printed, label):
    found = judged(values, printed)
    assert found.label == label and label in LABELS
    assert found.low < found.retained - found.published_retained < found.high


def test_the_interval_is_welchs():
    """Against scipy's test of the same two samples: it is rejected where 0 lies outside."""
    ours, theirs = [50.0, 53.0, 58.0, 57.0], [44.0, 47.0, 42.0, 49.0, 46.0]
    series = pd.Series(theirs)
    found = judged(ours, cell(series.mean(), series.std(), len(theirs)))
    interval = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert (80 * found.low, 80 * found.high) == pytest.approx((interval.low, interval.high))


def test_a_printed_single_run_is_taken_to_vary_as_ours():
    few = judged([49.0, 50.0, 51.0], cell(50))
    half = stats.t.ppf(0.975, 2 * (1 + 3) ** 2 / (1 + 9)) * math.sqrt(1 / 3 + 1) / 80
    assert few.high - few.low == pytest.approx(2 * half)
    # A spread that was found on many runs is as good as known.
    known = judged([49.0, 50.0, 51.0], cell(50), pooled=(10.0, 10**6))
    assert known.high - known.low == pytest.approx(2 * 1.96 * math.sqrt(1 / 3 + 100) / 80, rel=1e-3)
    # Five runs of which only the mean was printed.
    several = judged([49.0, 50.0, 51.0], cell(50, n=5), pooled=(10.0, 10**6))
    assert several.high - several.low == pytest.approx(
        2 * 1.96 * math.sqrt(1 / 3 + 20) / 80, rel=1e-2
    )


def test_each_study_is_scaled_by_its_own_clean_accuracy():
    found = verdict([30.0, 34.0], 50.0, 10.0, cell(54, std=6.0), 90.0, 10.0)
    assert found.retained == pytest.approx(22 / 40)
    assert found.published_retained == pytest.approx(44 / 80)
    assert found.std == pytest.approx(math.sqrt(8))
    assert found.label == "near"


def test_no_verdict_where_nothing_was_learned():
    stuck = verdict([10.0], 10.0, 10.0, cell(24), 94.0, 10.0)
    assert stuck.label == "no verdict"
    assert stuck.std is None and math.isnan(stuck.retained)
    with pytest.raises(ValueError, match="at least one"):
        judged([], cell(24))


def test_nothing_protects_clean_images():
    runs = [59.0, 60.0, 61.0]
    assert judged(runs, cell(90, 0.2, 5), protected=False).label == "lower"
    assert judged([88.0, 89.0, 90.0], cell(60, 0.2, 5), protected=False).label == "higher"


def test_chance_of_each_study():
    found = verdict([50.0], 99.0, 1.0, cell(30), 59.0, 1.0)
    assert found.retained == found.published_retained == 0.5


def test_an_interval_as_text():
    assert span(-0.1, 0.052) == "-0.10 to +0.05"
    assert span(1.0, 2.25, digits=1) == "+1.0 to +2.2"
    assert span(math.nan, math.nan) == ""
