"""The printed numbers and the rule that compares ours with them."""

import math
from types import SimpleNamespace

import pytest

from ulelib import published as module
from ulelib.published import (
    LABELS,
    Published,
    comparison_table,
    load,
    means,
    published,
    retained,
    style_table,
    verdict,
    verdict_counts,
)

CELLS = {"1": 10, "2": 10, "3": 18, "4": 14, "5": 6, "6": 8, "7": 9, "8": 8, "9": 14}


def result(defender, exploiter, accuracy, seed=0, export="exact"):
    return SimpleNamespace(
        defender=defender, exploiter=exploiter, accuracy=accuracy, seed=seed, export=export
    )


def test_every_cell_of_every_table_is_there_once():
    frame = load()
    assert frame.groupby("table").size().to_dict() == CELLS
    assert not frame.duplicated(["table", "defender", "exploiter", "model", "setting"]).any()
    assert frame["value"].between(-100, 100).all()
    assert set(frame.loc[frame["unit"] == "points", "table"]) == {"4", "9"}
    assert (frame.loc[frame["unit"] == "%", "value"] > 0).all()


def test_load_hands_out_a_copy():
    frame = load()
    frame["value"] = 0.0
    assert published("2", defender="clean", exploiter="gray").value == 93.04


@pytest.mark.parametrize(
    ("table", "where", "value"),
    [
        ("1", {"defender": "ULEO", "exploiter": "bdr-2"}, 41.65),
        ("8", {"defender": "ULEO", "exploiter": "bdr-2"}, 47.10),
        (
            "3",
            {"exploiter": "gray", "model": "densenet121", "setting": "generator vgg11"},
            13.26,
        ),
        (
            "4",
            {"defender": "ULEO", "exploiter": "gray", "setting": "5% clean + 30%"},
            -0.54,
        ),
        ("6", {"defender": "ULEO", "model": "vgg11"}, 81.88),
        ("7", {"defender": "ULEO", "setting": "test PGD-20"}, 40.34),
        (
            "9",
            {"defender": "ULEO-GrayAugs", "exploiter": "standard", "setting": "10% clean + 30%"},
            -5.61,
        ),
    ],
)
def test_a_number_is_found_by_its_columns(table, where, value):
    assert published(table, **where).value == value


def test_table_2_has_spread_and_runs():
    cell = published("2", defender="ULEO-Grays", exploiter="standard")
    assert cell == Published(43.34, 11.49, 5, "arXiv 2111.13244, Table 2")
    assert published("2", defender="clean", exploiter="standard").std is None
    assert published("1", defender="clean", exploiter="standard").n is None


@pytest.mark.parametrize(
    ("table", "where", "says"),
    [
        ("2", {"defender": "ULEO"}, "2 numbers"),
        ("2", {"defender": "TUE"}, "ULEO-GrayAugs"),
        ("2", {"colour": "red"}, "exploiter"),
        ("10", {}, "choose from"),
    ],
)
def test_none_or_several_say_what_there_is(table, where, says):
    with pytest.raises(ValueError, match=says):
        published(table, **where)


def test_retained_is_0_at_chance_and_1_at_clean():
    assert retained(10, 90) == 0
    assert retained(90, 90) == 1
    assert retained(50.5, 100, chance=1) == 0.5
    with pytest.raises(ValueError, match="not above chance"):
        retained(10, 10)


def cell(value, std=None):
    return Published(value, std, None, "a test")


@pytest.mark.parametrize(
    ("values", "printed", "label"),
    [
        ([50.0], cell(50), "reproduced"),
        ([58.0], cell(50), "reproduced"),  # exactly the tolerance: 0.10 x 80 points
        ([58.1], cell(50), "protects less"),
        ([41.9], cell(50), "protects more"),
        ([58.0], cell(50, std=5.0), "reproduced"),
        ([58.1], cell(50, std=5.0), "within spread"),
        ([60.0], cell(50, std=5.0), "within spread"),  # 2 x 5 points
        ([60.1], cell(50, std=5.0), "protects less"),
        ([40.0], cell(50, std=5.0), "within spread"),
        ([39.9], cell(50, std=5.0), "protects more"),
        ([56.0, 64.0], cell(50), "within spread"),  # sample std 5.66 points
    ],
)
def test_the_rule(values, printed, label):
    assert verdict(values, 90.0, printed, 90.0).label == label


def test_each_study_is_scaled_by_its_own_clean_accuracy():
    found = verdict([30.0, 34.0], 50.0, cell(54, std=6.0), 90.0)
    assert found.retained == pytest.approx(22 / 40)
    assert found.published_retained == pytest.approx(44 / 80)
    assert found.std == pytest.approx(math.sqrt(8))
    assert found.spread == pytest.approx(2 * math.hypot(math.sqrt(8) / 40, 6 / 80))
    assert found.label == "reproduced"
    assert found.label in found.explanation


def test_reference_and_no_verdict():
    assert verdict([90.0], 90.0, cell(94), 94.0, reference=True).label == "reference"
    stuck = verdict([10.0], 10.0, cell(24), 94.0)
    assert stuck.label == "no verdict"
    assert stuck.std is None
    assert math.isnan(stuck.retained)
    with pytest.raises(ValueError, match="at least one"):
        verdict([], 90.0, cell(24), 94.0)


def test_nothing_protects_clean_images():
    assert verdict([60.0], 90.0, cell(93), 94.0, protected=False).label == "lower"
    assert verdict([90.0], 90.0, cell(60), 94.0, protected=False).label == "higher"
    assert verdict([89.0], 90.0, cell(93), 94.0, protected=False).label == "reproduced"


def test_chance_of_each_study():
    found = verdict([50.0], 99.0, cell(30), 59.0, chance=1.0, published_chance=1.0)
    assert found.retained == found.published_retained == 0.5


RESULTS = [
    result("ULEO-GrayAugs", "gray", 27.0, export="as_released"),
    result("ULEO", "gray", 88.0),
    result("ULEO", "gray", 90.0, seed=1),
    result("ULEO-GrayAugs", "gray", 80.0),
    result("clean", "standard", 93.0, export="-"),
    result("clean", "gray", 91.0, export="-"),
    result("TUE", "gray", 11.0),
]


def test_comparison_is_in_the_papers_order():
    frame = comparison_table(RESULTS)
    assert [*frame[("", "defender")]] == ["clean", "ULEO", "ULEO-GrayAugs", "ULEO-GrayAugs", "TUE"]
    assert [*frame[("", "export")]] == ["-", "exact", "exact", "as_released", "exact"]
    assert [*frame.columns.get_level_values(0).unique()] == ["", "standard", "gray"]
    assert [*frame[("gray", "measured")]] == [
        "91.00 (1)",
        "89.00 ± 1.41 (2)",
        "80.00 (1)",
        "27.00 (1)",
        "11.00 (1)",
    ]
    assert frame[("gray", "published")][1] == "90.06 ± 3.51 (5)"
    assert [*frame[("gray", "verdict")]] == [
        "reproduced",
        "reproduced",
        "protects less",
        "reproduced",
        "—",
    ]
    assert [*frame[("standard", "verdict")]] == ["reference", "—", "—", "—", "—"]


def test_a_variant_is_compared_with_its_defenders_row():
    variant = "ULEO-GrayAugs (released loop)"
    frame = comparison_table([result(variant, "gray", 27.0), *RESULTS])
    assert [*frame[("", "defender")]][2:5] == ["ULEO-GrayAugs", "ULEO-GrayAugs", variant]
    row = frame.iloc[4]
    assert row[("gray", "published")] == "24.98 ± 5.84 (5)"
    assert row[("gray", "verdict")] == "reproduced"
    assert "ULEO-GrayAugs\n(released loop)" in style_table(frame).to_html()


def test_comparison_ignores_order_and_repetition():
    assert comparison_table([*RESULTS[::-1], *RESULTS]).equals(comparison_table(RESULTS))


def test_comparison_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="clean"):
        comparison_table(RESULTS[:2])
    with pytest.raises(ValueError, match="two accuracies"):
        comparison_table([*RESULTS, result("ULEO", "gray", 50.0)])
    with pytest.raises(ValueError, match="several numbers"):
        comparison_table(RESULTS, table="3")
    with pytest.raises(ValueError, match="differences"):
        comparison_table(RESULTS, table="4", setting="5% clean + 10%")


def test_another_table_by_its_setting():
    frame = comparison_table(
        RESULTS, table="3", model="resnet18", setting="generator resnet18"
    ).set_index([("", "defender"), ("", "export")])
    assert frame.loc[("ULEO-GrayAugs", "exact"), ("gray", "published")] == "28.97"
    assert frame.loc[("clean", "-"), ("standard", "verdict")] == "reference"


def test_style_names_and_tints_verdicts():
    html = style_table(comparison_table(RESULTS), caption="A caption").to_html()
    assert "A caption" in html
    assert "\nprotects less" in html
    assert html.count("background-color") >= 3
    assert 'class="row_heading' not in html
    assert "<caption" not in style_table(comparison_table(RESULTS)).to_html()


def test_means_and_counts():
    assert means(RESULTS)[("ULEO", "exact", "gray")] == 89.0
    assert means(RESULTS)[("clean", "-", "gray")] == 91.0
    counts = verdict_counts(comparison_table(RESULTS), "exact")
    assert counts == "2 reproduced, 1 protects less"
    assert verdict_counts(comparison_table(RESULTS), "as_released") == "2 reproduced"


def test_every_label_has_a_tint():
    assert set(module._TINTS) == set(LABELS)
