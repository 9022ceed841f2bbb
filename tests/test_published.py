"""The printed numbers and the rule that compares ours with them."""

import math

import pandas as pd
import pytest
from scipy import stats

from ulelib import published as module
from ulelib.published import (
    LABELS,
    Published,
    compare,
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
CELLS |= {"MI-UE CIFAR-10": 4, "MI-UE CIFAR-10, adversarial training": 12, "MI-UE CIFAR-100": 3}


def frame_of(*rows):
    """(defender, exploiter, accuracy, seed, export) as a frame of `Lab.table`."""
    names = ["defender", "exploiter", "accuracy", "seed", "export"]
    padded = [(*row, *(0, "exact")[len(row) - 3 :]) for row in rows]
    return pd.DataFrame(padded, columns=names).assign(chance=10.0)


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
    assert retained(10, 90, 10) == 0
    assert retained(90, 90, 10) == 1
    assert retained(50.5, 100, chance=1) == 0.5
    with pytest.raises(ValueError, match="not above chance"):
        retained(10, 10, 10)


def cell(value, std=None, n=None):
    return Published(value, std, n, "a test")


def told(values, printed, clean=90.0, **options):
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
        found = told(values, printed)
        assert found.label == label
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
    found = told(values, printed)
    assert found.label == label
    assert found.low < found.retained - found.published_retained < found.high


def test_the_interval_is_welchs():
    """Against scipy's test of the same two samples: it is rejected where 0 lies outside."""
    ours, theirs = [50.0, 53.0, 58.0, 57.0], [44.0, 47.0, 42.0, 49.0, 46.0]
    series = pd.Series(theirs)
    found = told(ours, cell(series.mean(), series.std(), len(theirs)))
    interval = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert (80 * found.low, 80 * found.high) == pytest.approx((interval.low, interval.high))


def test_a_printed_single_run_is_taken_to_vary_as_ours():
    few = told([49.0, 50.0, 51.0], cell(50))
    half = stats.t.ppf(0.975, 2 * (1 + 3) ** 2 / (1 + 9)) * math.sqrt(1 / 3 + 1) / 80
    assert few.high - few.low == pytest.approx(2 * half)
    # A spread that was found on many runs is as good as known.
    known = told([49.0, 50.0, 51.0], cell(50), pooled=(10.0, 10**6))
    assert known.high - known.low == pytest.approx(2 * 1.96 * math.sqrt(1 / 3 + 100) / 80, rel=1e-3)
    # Five runs of which only the mean was printed.
    several = told([49.0, 50.0, 51.0], cell(50, n=5), pooled=(10.0, 10**6))
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
        told([], cell(24))


def test_nothing_protects_clean_images():
    runs = [59.0, 60.0, 61.0]
    assert told(runs, cell(90, 0.2, 5), protected=False).label == "lower"
    assert told([88.0, 89.0, 90.0], cell(60, 0.2, 5), protected=False).label == "higher"


def test_chance_of_each_study():
    found = verdict([50.0], 99.0, 1.0, cell(30), 59.0, 1.0)
    assert found.retained == found.published_retained == 0.5


RESULTS = frame_of(
    ("ULEO-GrayAugs", "gray", 27.0, 0, "as_released"),
    ("ULEO", "gray", 88.0),
    ("ULEO", "gray", 90.0, 1),
    ("ULEO-GrayAugs", "gray", 80.0),
    ("clean", "standard", 93.0, 0, "-"),
    ("clean", "gray", 91.0, 0, "-"),
    ("TUE", "gray", 11.0),
)


def test_comparison_is_in_the_papers_order():
    frame = comparison_table(RESULTS)
    assert [*frame[("", "defender")]] == ["clean", "ULEO", "ULEO-GrayAugs", "ULEO-GrayAugs", "TUE"]
    assert sorted(frame[("", "export")]) == ["-", "as_released", "exact", "exact", "exact"]
    shown = frame.set_index([("", "defender"), ("", "export")])
    told = shown[("gray", "measured")].to_dict()
    assert told == {
        ("clean", "-"): "91.00 (1)",
        ("ULEO", "exact"): "89.00 ± 1.41 (2)",
        ("ULEO-GrayAugs", "exact"): "80.00 (1)",
        ("ULEO-GrayAugs", "as_released"): "27.00 (1)",
        ("TUE", "exact"): "11.00 (1)",
    }
    assert shown.loc[("ULEO", "exact"), ("gray", "published")] == "90.06 ± 3.51 (5)"
    assert shown[("gray", "verdict")].to_dict() == {
        ("clean", "-"): "near",
        ("ULEO", "exact"): "near",
        ("ULEO-GrayAugs", "exact"): "far",
        ("ULEO-GrayAugs", "as_released"): "near",
        ("TUE", "exact"): "—",
    }
    assert [*frame[("standard", "verdict")]] == ["reference", "—", "—", "—", "—"]


def test_intervals_stand_beside_verdicts_from_three_runs_on():
    more = frame_of(
        *(("clean", "standard", 93.0 + i / 10, i, "-") for i in range(3)),
        *(("ULEO", "gray", 89.0 + i, i) for i in range(3)),
    )
    frame = comparison_table(more).set_index([("", "defender"), ("", "export")])
    interval = frame.loc[("ULEO", "exact"), ("gray", "interval")]
    low, high = map(float, interval.split(" to "))
    assert -0.15 <= low < high <= 0.15
    assert frame.loc[("ULEO", "exact"), ("gray", "verdict")] == "reproduced"
    assert frame.loc[("clean", "-"), ("standard", "interval")] == "—"


def test_a_variant_is_compared_with_its_defenders_row():
    variant = "ULEO-GrayAugs (released loop)"
    frame = comparison_table(pd.concat([frame_of((variant, "gray", 27.0)), RESULTS]))
    row = frame[frame[("", "defender")] == variant].iloc[0]
    assert row[("gray", "published")] == "24.98 ± 5.84 (5)"
    assert row[("gray", "verdict")] == "near"
    assert "ULEO-GrayAugs\n(released loop)" in style_table(frame).to_html()


def test_comparison_ignores_the_order_of_the_runs():
    first, second = comparison_table(RESULTS), comparison_table(RESULTS[::-1])
    by = [("", "defender"), ("", "export")]
    columns = first.columns
    assert first.sort_values(by, ignore_index=True).equals(
        second[columns].sort_values(by, ignore_index=True)
    )


def test_comparison_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="clean"):
        comparison_table(RESULTS[:2])
    with pytest.raises(ValueError, match="several results"):
        comparison_table(pd.concat([RESULTS, frame_of(("ULEO", "gray", 50.0))]))
    with pytest.raises(ValueError, match="no Table '11'"):
        comparison_table(RESULTS, table="11")
    mixed = RESULTS.assign(setting="5% clean + 10%").query("defender == 'ULEO'")
    with pytest.raises(ValueError, match="no result on clean images for gray, 5% clean"):
        whole = RESULTS.query("defender == 'clean'").assign(setting="-")
        comparison_table(pd.concat([whole, mixed]), table="4")


def row(defender, exploiter, accuracy, seed=0, net="convnet (a)", source="-", setting="-"):
    columns = ["defender", "exploiter", "accuracy", "seed", "net", "source", "setting"]
    values = [defender, exploiter, accuracy, seed, net, source, setting]
    export = "-" if defender == "clean" else "as_released"
    return dict(zip(columns, values, strict=True)) | {"export": export, "chance": 10.0}


def test_source_and_exploiter_networks_find_their_number():
    """Table 3: a narrow network stands for the whole one, and is measured by its own clean row."""
    narrow = {"resnet18": "resnet18 (width 0.25)", "vgg11": "vgg11 (width 0.25)"}
    rows = [
        row("clean", "standard", 80 if m == "vgg11" else 90, net=net) for m, net in narrow.items()
    ]
    rows += [
        row("ULEO-GrayAugs", exploiter, 30 if source == "vgg11" else 50, net=net, source=source)
        for source in narrow.values()
        for net in narrow.values()
        for exploiter in ("standard", "gray")
    ]
    by = ["defender", "source", "net", "exploiter"]
    found = compare(pd.DataFrame(rows), "3", by).set_index(["source", "net", "exploiter"])
    assert found["value"].to_dict() == pytest.approx(
        {
            ("-", narrow["resnet18"], "standard"): math.nan,
            ("-", narrow["vgg11"], "standard"): math.nan,
            (narrow["resnet18"], narrow["resnet18"], "standard"): 28.35,
            (narrow["resnet18"], narrow["resnet18"], "gray"): 28.97,
            (narrow["resnet18"], narrow["vgg11"], "standard"): 33.07,
            (narrow["resnet18"], narrow["vgg11"], "gray"): 28.78,
            (narrow["vgg11"], narrow["resnet18"], "standard"): 11.47,
            (narrow["vgg11"], narrow["resnet18"], "gray"): 11.14,
            (narrow["vgg11"], narrow["vgg11"], "standard"): 14.50,
            (narrow["vgg11"], narrow["vgg11"], "gray"): 13.23,
        },
        nan_ok=True,
    )
    cell = found.loc[(narrow["resnet18"], narrow["vgg11"], "gray")]
    assert cell["retained"] == pytest.approx(40 / 70)  # of the VGG's own 80 %
    assert cell["published_retained"] == pytest.approx((28.78 - 10) / (91.66 - 10))  # Table 6
    laid_out = comparison_table(pd.DataFrame(rows), "3", ["source"], ["net", "exploiter"])
    assert ("vgg11 (width 0.25), gray", "published") in laid_out.columns


def test_differences_are_measured_by_the_clean_row_of_their_setting():
    """Tables 4 and 9."""
    mixed = "5% clean + 10%"
    rows = [
        row("clean", "standard", 86),
        row("clean", "standard", 60, setting="5% clean"),
        row("clean", "standard", 70, setting=mixed),
        row("clean", "gray", 65, setting=mixed),
        row("ULEO", "standard", 58, setting=mixed),
        row("ULEO", "gray", 64, setting=mixed),
    ]
    by = ["defender", "setting", "exploiter"]
    found = compare(pd.DataFrame(rows), "4", by).set_index(by)
    cell = found.loc[("ULEO", mixed, "standard")]
    assert (cell["points"], cell["value"], cell["unit"]) == (-12, -13.55, "points")
    assert cell["retained"] == pytest.approx(48 / 60)
    assert cell["published_retained"] == pytest.approx((80.83 - 13.55 - 10) / (80.83 - 10))
    assert found.loc[("ULEO", mixed, "gray"), "points"] == -1
    assert found.loc[("clean", "5% clean", "standard"), "value"] == 63.89
    assert found.loc[("clean", mixed, "standard"), "retained"] == pytest.approx(60 / 76)
    shown = comparison_table(pd.DataFrame(rows), "4", ["setting", "defender"], ["exploiter"])
    told = shown.set_index([("", "setting"), ("", "defender")]).loc[(mixed, "ULEO")]
    assert told[("standard", "measured")] == "-12.00 (1)"
    assert told[("standard", "published")] == "-13.55"


def test_no_effect_reproduces_no_difference():
    """Tables 4 and 9 have narrower limits: -7.56 points are 0.09 of the clean accuracy."""
    setting = "10% clean + 30%"
    rows = [
        row(defender, exploiter, 80.0 + seed / 10, seed=seed, setting=where)
        for seed in range(3)
        for defender, exploiter, where in (
            ("clean", "standard", "-"),
            ("clean", "gray", setting),
            ("ULEO", "gray", setting),
            ("ULEO-GrayAugs", "gray", setting),
        )
    ]
    by = ["defender", "setting", "exploiter"]
    found = compare(pd.DataFrame(rows), "9", by).set_index("defender")
    assert found.loc["ULEO-GrayAugs", "value"] == -7.56
    assert found.loc["ULEO-GrayAugs", "label"] == "protects less"
    assert found.loc["ULEO", "label"] == "reproduced"  # -0.18 in print


def test_a_network_without_its_clean_run_is_not_measured_by_another():
    rows = [row("clean", "standard", 90, net=net) for net in ("resnet18 (a)", "mlp (b)")]
    rows.append(row("ULEO", "standard", 50, net="vgg11 (c)", source="mlp"))
    with pytest.raises(ValueError, match=r"no result of the standard exploiter with vgg11 \(c\)"):
        compare(pd.DataFrame(rows), "6", ["defender", "net"])


def test_attacked_networks_are_measured_by_that_of_clean_images():
    """Table 7."""
    rows = [row("clean", "standard", 86)]
    for defender, accuracies in (("clean", (70, 40, 35)), ("ULEO", (69, 38, 25))):
        settings = ("test clean", "test FGSM", "test PGD-20")
        rows += [
            row(defender, "at", accuracy, setting=setting)
            for accuracy, setting in zip(accuracies, settings, strict=True)
        ]
    found = compare(pd.DataFrame(rows), "7", ["defender", "exploiter", "setting"])
    cell = found.set_index(["defender", "setting"]).loc[("ULEO", "test PGD-20")]
    assert cell["value"] == 40.34
    assert cell["retained"] == pytest.approx(15 / 25)
    assert cell["published_retained"] == pytest.approx(30.34 / 36.59)


def test_every_printed_number_can_be_found_by_a_cell():
    """Each row of `published.csv`, asked for under the names that a page gives it."""
    frame = load()
    for table, prints in frame.groupby("table"):
        nets = sorted({"resnet18", *prints["model"]} - {""})
        rows = [row("clean", "standard", 90, net=net) for net in nets]
        for there in prints.itertuples():
            by_source = there.setting.startswith("generator")
            known = (there.defender, there.exploiter, there.model, there.setting)
            if known[:2] == ("clean", "standard") and there.setting in ("", "ImageNet-100"):
                continue
            rows.append(
                row(
                    there.defender,
                    there.exploiter,
                    50,
                    net=there.model or "resnet18",
                    source=there.setting.removeprefix("generator ") if by_source else "-",
                    setting="-" if by_source or not there.setting else there.setting,
                )
            )
        by = ["defender", "exploiter", "net", "source", "setting"]
        found = compare(pd.DataFrame(rows).drop_duplicates(by), table, by)
        assert set(prints["value"]) == set(found["value"].dropna())


def test_style_names_and_tints_verdicts():
    html = style_table(comparison_table(RESULTS), caption="A caption").to_html()
    assert "A caption" in html
    assert "\nfar" in html and "\nnear" in html
    assert html.count("background-color") >= 3
    assert 'class="row_heading' not in html
    assert "<caption" not in style_table(comparison_table(RESULTS)).to_html()


def test_many_exploiters_have_the_published_number_under_theirs():
    few = ["standard", "gray", "mixup"]
    for exploiters in (few, [*few, "bdr-2"]):
        rows = [("clean", one, 90.0, 0, "-") for one in exploiters]
        rows += [("ULEO", one, 50.0) for one in exploiters]
        html = style_table(comparison_table(frame_of(*rows), table="1")).to_html()
        under = "50.00 (1)\npublished 51.01\nnear" in html
        assert under == (len(exploiters) > 3) == (">published<" not in html)


def test_means_and_counts():
    assert means(RESULTS)[("ULEO", "exact", "gray")] == 89.0
    assert means(RESULTS)[("clean", "-", "gray")] == 91.0
    assert {type(mean) for mean in means(RESULTS).values()} == {float}  # `glue` takes no numpy's
    counts = verdict_counts(comparison_table(RESULTS), "exact")
    assert counts == "1 near, 1 far"  # the clean row is near, too
    assert verdict_counts(comparison_table(RESULTS), "as_released") == "1 near"


def test_every_label_has_a_tint():
    assert set(module._TINTS) == set(LABELS)
