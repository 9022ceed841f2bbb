"""Differences of runs with equal seeds, and their intervals."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from scipy import stats

from ulelib.book.effects import (
    answer,
    change,
    interval,
    intervals,
    machines,
    of_exports,
    of_precision,
    of_variants,
)

# standard, gray of each export; a seed adds what it adds to all of them
ACCURACIES = {
    "exact": (10.0, 50.0),
    "positive": (12.0, 70.0),
    "truncated": (11.0, 54.0),
    "as_released": (15.0, 80.0),
}


def frame(seeds: int = 3) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"defender": "ULEO", "export": export, "exploiter": exploiter, "seed": seed}
            | {"accuracy": accuracy + 5 * seed}
            for export, pair in ACCURACIES.items()
            for exploiter, accuracy in zip(("standard", "gray"), pair, strict=True)
            for seed in range(seeds)
        ]
    )


def test_the_share_of_the_sign_is_taken_seed_by_seed() -> None:
    """Of 65 points that the filter recovers as released, the sign explains 20."""
    assert answer(frame(1)) == (
        "Of the 65.0 points that the gray filter recovers on images published as released, "
        "dropping negative noise is worth +20.0 (1 run): in per cent, seed by seed, +30.8 "
        "(1 run); n = 1."
    )
    one = frame(3)
    released = (one["export"] == "as_released") & (one["exploiter"] == "gray") & (one["seed"] == 2)
    one.loc[released, "accuracy"] += 10  # 75 points; the sign explains 25 of them
    assert "+21.7" in answer(one) and "+31.6" in answer(one)


def test_the_share_of_the_sign_is_of_the_seeds_that_have_all_exports() -> None:
    more = frame(5)
    lacking = (more["seed"] >= 3) & (more["export"] == "truncated")
    released = (more["seed"] >= 3) & (more["export"] == "as_released")
    more.loc[released & (more["exploiter"] == "gray"), "accuracy"] += 20
    assert answer(more[~lacking]) == answer(frame(3)) and answer(frame(3)).endswith("; n = 3.")


def test_the_two_switches_of_an_export_have_their_own_effects() -> None:
    table = of_exports(frame(1))
    assert table["standard"].to_dict() == {
        "dropping negative noise": "+3.0 (1 run)",  # (12 - 10 + 15 - 11) / 2
        "truncating": "+2.0 (1 run)",
        "both, as released": "+5.0 (1 run)",
    }
    assert table.loc["dropping negative noise", "gray"] == "+23.0 (1 run)"
    assert table.loc["dropping negative noise", "gray less standard"] == "+20.0 (1 run)"
    assert table["n"].tolist() == ["1"] * 3
    # Each seed adds the same to both sides, so it is no part of a difference.
    assert of_exports(frame())["standard"].iloc[0] == "+3.0 (+3.0 to +3.0)"
    with pytest.raises(ValueError, match="all four exports are needed"):
        of_exports(frame().query("export != 'truncated'"))


def test_variants_are_compared_with_their_own_defender() -> None:
    base = frame(2).query("export == 'as_released'")
    variant = base.assign(defender="ULEO (twice the step)", accuracy=base["accuracy"] - 4)
    other = base.assign(defender="ULEO-Augs (twice the step)")
    table = of_variants(pd.concat([base, variant, other]), "ULEO")
    assert table.index.tolist() == ["ULEO (twice the step)"]
    assert table.loc["ULEO (twice the step)"].tolist() == ["-4.0 (2 runs)"] * 2 + ["2"]


def test_the_interval_is_students() -> None:
    values = [3.0, 5.0, 4.5, 1.0]
    half = stats.t.ppf(0.975, 3) * pd.Series(values).std() / math.sqrt(4)
    mean = sum(values) / 4
    assert interval(values) == f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"
    with pytest.raises(ValueError, match="no two runs of equal seeds"):
        interval([])


def test_a_change_in_a_sentence_is_taken_seed_by_seed() -> None:
    one = frame(3)
    gray = one["exploiter"] == "gray"
    one.loc[gray & (one["seed"] == 2) & (one["export"] == "exact"), "accuracy"] -= 6
    exact, released = ({"export": name, "exploiter": "gray"} for name in ("exact", "as_released"))
    half = stats.t.ppf(0.975, 2) * pd.Series([-30, -30, -36]).std() / math.sqrt(3)
    assert change(one, exact, released) == (
        f"-32.0 points (n = 3, 95 % interval {-32 - half:+.1f} to {-32 + half:+.1f})"
    )
    assert change(frame(1), exact, released) == "-30.0 points (n = 1)"
    with pytest.raises(ValueError, match="no seed has both"):
        change(one[(one["seed"] == 0) == (one["export"] == "exact")], exact, released)


def test_no_difference_is_minus_nothing() -> None:
    alike = pd.DataFrame(
        [
            {"export": "exact", "exploiter": exploiter, "seed": 0, "accuracy": accuracy}
            for exploiter, accuracy in (("standard", 50.0), ("gray", 49.96))
        ]
    )
    gray, standard = ({"exploiter": name} for name in ("gray", "standard"))
    assert change(alike, gray, standard).startswith("+0.0 points")
    assert interval([-0.04]) == "+0.0 (1 run)"
    assert interval([-0.04, -0.03, -0.02]).startswith("+0.0 (-0.1 to")


def test_the_intervals_of_a_table_are_simultaneous() -> None:
    """Holm: the surer of two has half of the level, and the other one all of it if that holds."""
    sure, loose = pd.Series([10.0, 10.1, 10.2]), pd.Series([-1.0, 2.0, 4.0])
    changes = {"gray": {"sure": sure, "loose": loose, "few": sure[:2]}, "blur": {"few": sure[:1]}}
    assert intervals(changes)["n"].to_dict() == {"sure": "3", "loose": "3", "few": "1 to 2"}
    table = intervals(changes)["gray"]
    for name, values, level in (("sure", sure, 0.025), ("loose", loose, 0.05)):
        half = stats.t.isf(level / 2, 2) * values.std() / math.sqrt(3)
        mean = values.mean()
        assert table[name] == f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"
    assert table["few"] == "+10.1 (2 runs)"
    other = intervals({"gray": {"one": loose, "two": 2 * loose}})["gray"]  # neither is sure
    half = stats.t.isf(0.025 / 2, 2) * loose.std() / math.sqrt(3)
    assert other["one"].endswith(f"to {loose.mean() + half:+.1f})")
    assert other["two"].endswith(f"to {2 * (loose.mean() + half):+.1f})")


def test_a_caption_warns_of_two_kinds_of_processor() -> None:
    alone = pd.DataFrame({"device": ["A", "A"]})
    assert machines(alone) == ""
    both = pd.DataFrame({"device": ["B", "A", "B"], "defender": ["ULEO", "ULEO (x)", "clean"]})
    assert "computed on A and B, which" in machines(both)
    assert machines(both, "ULEO") and not machines(both, "clean")


def precisions(single: list[float], half: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"defender": "ULEO", "exploiter": "gray", "setting": name, "accuracy": accuracy}
            for name, runs in (("float32", single), ("bfloat16", half))
            for accuracy in runs
        ]
    )


@pytest.mark.parametrize("single", [[61.0], [60.0, 63.5, 58.0]])
def test_a_precision_is_compared_as_two_samples_of_one_variance(single: list[float]) -> None:
    half = [50.0, 52.0, 57.0, 49.5]
    text = of_precision(precisions(single, half)).loc["ULEO", "gray"]
    mean = sum(single) / len(single) - sum(half) / len(half)
    if len(single) > 1:
        low, high = stats.ttest_ind(single, half).confidence_interval(0.95)
    else:  # the interval in which one more run of the others is expected
        spread = pd.Series(half).std() * math.sqrt(1 + 1 / len(half)) * stats.t.ppf(0.975, 3)
        low, high = mean - spread, mean + spread
    assert text == f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def test_a_precision_alone_is_compared_with_nothing() -> None:
    assert of_precision(precisions([61.0], [])).loc["ULEO", "gray"] == ""
    assert of_precision(precisions([61.0], [60.0])).loc["ULEO", "gray"] == "+1.0"


def test_two_exports_are_not_averaged() -> None:
    variant = frame().assign(defender="ULEO (variant)")
    with pytest.raises(ValueError, match="several results of one seed"):
        of_variants(pd.concat([frame(), variant]), "ULEO")
