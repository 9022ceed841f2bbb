"""Measured cells find their printed number, and the clean runs that both are measured against."""

import math
import re

import pandas as pd
import pytest
from scipy import stats

from ulelib.book.compare import (
    compare,
    comparison_table,
    looked_up,
    means,
    number_text,
    said,
    verdict_counts,
)
from ulelib.book.printed import load


def frame_of(*rows):
    """(defender, exploiter, accuracy, seed, export) as a frame of `Lab.table`."""
    names = ["defender", "exploiter", "accuracy", "seed", "export"]
    padded = [(*row, *(0, "exact")[len(row) - 3 :]) for row in rows]
    return pd.DataFrame(padded, columns=names).assign(chance=10.0)


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
    by_cell = frame.set_index([("", "defender"), ("", "export")])
    assert by_cell[("gray", "measured")].to_dict() == {
        ("clean", "-"): "91.00 (1)",
        ("ULEO", "exact"): "89.00 ± 1.41 (2)",
        ("ULEO-GrayAugs", "exact"): "80.00 (1)",
        ("ULEO-GrayAugs", "as_released"): "27.00 (1)",
        ("TUE", "exact"): "11.00 (1)",
    }
    assert by_cell.loc[("ULEO", "exact"), ("gray", "published")] == "90.06 ± 3.51 (5)"
    assert by_cell[("gray", "verdict")].to_dict() == {
        ("clean", "-"): "",  # below three runs
        ("ULEO", "exact"): "",
        ("ULEO-GrayAugs", "exact"): "",
        ("ULEO-GrayAugs", "as_released"): "",
        ("TUE", "exact"): "—",  # no number of the table
    }
    assert [*frame[("standard", "verdict")]] == ["reference", "—", "—", "—", "—"]


def test_intervals_stand_beside_verdicts_from_three_runs_on():
    more = frame_of(
        *(("clean", "standard", 93.0 + i / 10, i, "-") for i in range(3)),
        *(("ULEO-GrayAugs", "gray", 24.0 + i, i) for i in range(3)),
        *(("ULEO", "gray", 84.0 + 4 * i, i, "as_released") for i in range(3)),
    )
    frame = comparison_table(more).set_index([("", "defender"), ("", "export")])
    interval = frame.loc[("ULEO-GrayAugs", "exact"), ("gray", "interval")]
    low, high, margin = map(float, re.findall(r"[-+]?\d\.\d{3}", interval))
    assert -margin <= low < high <= margin == 0.15
    assert frame.loc[("ULEO-GrayAugs", "exact"), ("gray", "verdict")] == "reproduced"
    undecided = frame.loc[("ULEO", "as_released")]
    assert undecided[("gray", "verdict")] == "undecided"
    # The print's own spread is wider than half of its effect of 3 points.
    assert undecided[("gray", "interval")].endswith("; no number of more runs would decide")
    assert frame.loc[("clean", "-"), ("standard", "interval")] == "—"


def test_a_variant_is_compared_with_its_defenders_row():
    variant = "ULEO-GrayAugs (released loop)"
    frame = comparison_table(pd.concat([frame_of((variant, "gray", 27.0)), RESULTS]))
    row = frame[frame[("", "defender")] == variant].iloc[0]
    assert row[("gray", "published")] == "24.98 ± 5.84 (5)"


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
    frame = comparison_table(pd.DataFrame(rows), "4", ["setting", "defender"], ["exploiter"])
    texts = frame.set_index([("", "setting"), ("", "defender")]).loc[(mixed, "ULEO")]
    assert texts[("standard", "measured")] == "-12.00 (1)"
    assert texts[("standard", "published")] == "-13.55"


def test_no_effect_reproduces_no_difference():
    """Tables 4 and 9: the margin is half of the printed difference."""
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
    cell = found.loc["ULEO-GrayAugs"]
    assert cell["margin"] == pytest.approx(7.56 / 2 / (88.46 - 10))
    assert cell["label"] == "weaker"
    assert found.loc["ULEO", "label"] == "undecided"  # -0.18 in print: a margin of 0.001


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
    assert cell["retained"] == pytest.approx(25 / 35)
    assert cell["published_retained"] == pytest.approx(40.34 / 46.59)  # guessing is no floor


def test_every_printed_number_can_be_found_by_a_cell():
    """Each row of `printed.csv`, asked for under the names that a page gives it."""
    frame = load()
    for table, prints in frame.groupby("table"):
        nets = sorted({"resnet18", *prints["model"]} - {""})
        rows = [row("clean", "standard", 90, net=net) for net in nets]
        for number in prints.itertuples():
            by_source = number.setting.startswith("generator")
            known = (number.defender, number.exploiter, number.model, number.setting)
            if known[:2] == ("clean", "standard") and number.setting in ("", "ImageNet-100"):
                continue
            rows.append(
                row(
                    number.defender,
                    number.exploiter,
                    50,
                    net=number.model or "resnet18",
                    source=number.setting.removeprefix("generator ") if by_source else "-",
                    setting="-" if by_source or not number.setting else number.setting,
                )
            )
        by = ["defender", "exploiter", "net", "source", "setting"]
        found = compare(pd.DataFrame(rows).drop_duplicates(by), table, by)
        assert set(prints["value"]) == set(found["value"].dropna())


def test_means_and_counts():
    assert means(RESULTS)[("ULEO", "exact", "gray")] == 89.0
    assert means(RESULTS)[("clean", "-", "gray")] == 91.0
    assert {type(mean) for mean in means(RESULTS).values()} == {float}  # `glue` takes no numpy's
    more = [row("clean", "standard", 86 + seed, seed=seed) for seed in range(3)]
    more += [row("ULEO", "standard", 24 + seed, seed=seed) for seed in range(3)]
    more += [row("ULEO-GrayAugs", "standard", 60 + seed, seed=seed) for seed in range(3)]
    counts = verdict_counts(comparison_table(pd.DataFrame(more)), "as_released")
    assert sorted(counts.split(", ")) == ["1 reproduced", "1 weaker"]
    assert verdict_counts(comparison_table(RESULTS), "exact") == ""


def keyed(rows):
    frame = pd.DataFrame(rows)
    return frame.assign(key=[f"{place:x}" for place in range(len(frame))])


def test_a_number_is_rounded_once() -> None:
    """12.7496 is 12.75 with two digits, and that rounded again 12.8."""
    rows = frame_of(("clean", "standard", 93.0, 0, "-"), ("ULEO", "gray", 12.7496))
    cell = comparison_table(rows).set_index(("", "defender")).loc["ULEO"]
    assert cell[("gray", "measured")] == "12.75 (1)" and cell[("gray", "shown")] == "12.7 (1)"
    assert number_text(-0.04, 0.12, 3, sign="+", digits=1) == "+0.0 ± 0.1 (3)"
    assert number_text(math.nan, math.nan, math.nan, sign="", digits=1) == "—"


@pytest.mark.parametrize(("clean_seeds", "text"), [(3, "-10.00 ± 1.00 (3)"), (2, "-10.50 (3)")])
def test_a_difference_has_the_deviation_of_the_differences_seed_by_seed(
    clean_seeds: int, text: str
) -> None:
    """Accuracies that scatter by 3 points, and their differences by 1; none where a run of the cell
    has no clean run of its seed."""
    mixed = "5% clean + 10%"
    rows = [row("clean", "standard", 86)]
    clean = {0: 70, 1: 73, 2: 70}
    for seed, accuracy in [*clean.items()][:clean_seeds]:
        rows.append(row("clean", "standard", accuracy, seed=seed, setting=mixed))
    for seed, accuracy in enumerate((60, 63, 63)):
        rows.append(row("ULEO", "standard", accuracy - seed, seed=seed, setting=mixed))
    frame = comparison_table(pd.DataFrame(rows), "4", ["setting", "defender"], ["exploiter"])
    cell = frame.set_index([("", "setting"), ("", "defender")]).loc[(mixed, "ULEO")]
    assert cell[("standard", "measured")] == text


def test_a_page_takes_its_verdicts_from_the_book() -> None:
    """A cell has the verdict of the cell that shares a run with it; a variant has none."""
    rows = [row("clean", "standard", 86 + seed, seed=seed) for seed in range(3)]
    rows += [row("ULEO", "standard", 24 + seed, seed=seed) for seed in range(5)]
    rows += [row("ULEO (twice)", "standard", 25 + seed, seed=seed) for seed in range(3)]
    frame = keyed(rows)
    family = compare(frame[~frame["defender"].str.contains("twice")], "2")
    part = frame[(frame["seed"] < 2) | (frame["defender"] != "ULEO")]  # two of five runs
    found = looked_up(compare(part, "2"), family).set_index("defender")
    judged = family.set_index("defender")
    assert found.loc["ULEO", "n"] == 2 and judged.loc["ULEO", "n"] == 5
    for name in ("label", "low", "high", "margin"):
        assert found.loc["ULEO", name] == judged.loc["ULEO", name]
    assert found.loc["ULEO (twice)", "label"] == "" and math.isnan(found.loc["ULEO (twice)", "low"])
    assert found.loc["clean", "label"] == "reference"
    laid_out = comparison_table(part, "2", family=family)
    laid_out = laid_out.set_index(("", "defender"))["standard"]
    assert laid_out.loc["ULEO", "verdict"] == "reproduced"
    variant = "a variant of the paper's setting: no verdict"
    assert laid_out.loc["ULEO (twice)", ["verdict", "interval"]].tolist() == ["", variant]
    few = comparison_table(part[part["seed"] < 2], "2").set_index(("", "defender"))["standard"]
    assert few.loc["ULEO", "interval"] == "fewer than three runs: no verdict"


def test_a_cell_in_a_sentence() -> None:
    rows = [row("ULEO", "gray", accuracy, seed=seed) for seed, accuracy in enumerate((50, 53, 59))]
    half = stats.t.ppf(0.975, 2) * pd.Series([50, 53, 59]).std() / math.sqrt(3)
    text = said(pd.DataFrame(rows))["ULEO", "as_released", "gray"]
    assert text == f"54.0 % (n = 3, 95 % interval {54 - half:.0f} to {54 + half:.0f})"
    assert said(pd.DataFrame(rows[:2]))["ULEO", "as_released", "gray"] == "51.5 % (n = 2)"
    alike = [row("ULEO", "gray", accuracy, seed=seed) for seed, accuracy in enumerate((10, 10.01))]
    assert said(pd.DataFrame(alike))["ULEO", "as_released", "gray"] == "10.0 % (n = 2, every run)"
    near_0 = [row("ULEO", "gray", accuracy, seed=seed) for seed, accuracy in enumerate((0, 1, 9))]
    assert "interval 0 to" in said(pd.DataFrame(near_0))["ULEO", "as_released", "gray"]
