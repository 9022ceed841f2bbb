"""The claims ledger: its data, and the rule that judges it.

Intervals by hand: three values one apart have the standard deviation 1, and Student's quantile for
three is 4.3027, so a mean of three such values is known within 4.3027 / sqrt(3) = 2.4841.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from helpers import PROJECT
from ulelib.book import claims
from ulelib.book.claims import FAILS, HOLDS, LEANS, NOT_TESTED, UNDECIDED, judge, verdicts, words
from ulelib.profiles import PROFILES

TEST: dict[str, Any] = {
    "left": {"defender": "ULEO", "export": "as_released", "exploiter": "gray"},
    "right": {"defender": "clean", "exploiter": "gray"},
    "at_least": -8.0,
}
EXACT = {**TEST, "left": {"defender": "ULEO", "export": "exact", "exploiter": "gray"}}


HALF = 2.4841  # of the interval of three values one apart


def claim(*tests: dict[str, Any], **changes: Any) -> dict[str, Any]:
    given = {"id": "a", "sentence": "S.", "source": "T", "page": "p", "fixed": "before"}
    marked = [test | ({"primary": True} if n == 0 else {}) for n, test in enumerate(tests)]
    return given | ({"test": marked} if tests else {}) | changes


def rows(defender: str, exploiter: str, *accuracies: float, **names: str) -> list[dict[str, Any]]:
    given = {"export": "-" if defender == "clean" else "as_released", "net": "n", "source": "-"}
    given |= {"chance": 10.0}  # type: ignore[dict-item]
    return [
        {"defender": defender, "exploiter": exploiter, "seed": seed, "accuracy": accuracy}
        | {"curve": (accuracy + 5, accuracy - 1), "setting": "-"}
        | given
        | names
        for seed, accuracy in enumerate(accuracies)
    ]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Judges claims by the rows of a page "p"."""

    def judge_by(results: list[dict[str, Any]], *known: dict[str, Any]) -> pd.DataFrame:
        for one in known:
            claims._check(one)
        monkeypatch.setattr(claims, "load", lambda: known)
        monkeypatch.setattr(claims.records, "pages", lambda profile: ["p"])
        frame = pd.DataFrame(results)
        monkeypatch.setattr(claims.replicates, "read", lambda page, profile: (frame, {}))
        return judge("cpu")

    return judge_by


def test_the_ledger_covers_the_papers() -> None:
    known = claims.load()
    assert len(known) >= 30
    sources = " ".join(one["source"] for one in known)
    for number in range(1, 10):
        assert re.search(rf"Tables? [\d, and]*{number}", sources), f"Table {number}"
    for part in ("Huang", "section 1", "section 7", "Figure 3", "Figure 4", "Figure 6"):
        assert part in sources
    for one in known:
        assert re.fullmatch(r"[a-z0-9-]+", one["id"]) and one["sentence"].endswith(".")


def test_every_claim_of_a_recorded_page_finds_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A selector with a slip would say "not measured" for ever; a control's, too."""
    monkeypatch.setenv("ULELIB_RESULTS", str(PROJECT / "results"))
    recorded = set(claims.records.pages("cpu"))
    pages = {one["id"]: one["page"] for one in claims.load() if "page" in one}
    assert set(pages.values()) <= {path.stem for path in (PROJECT / "notebooks").glob("*.ipynb")}
    assert len(recorded & set(pages.values())) > 10
    ledger = judge("cpu")
    missed = ledger[(ledger["n"] == 0) | ledger["why"].str.contains("not measured")]
    assert not [i for i in missed["id"] if pages[i] in recorded]


def test_every_claim_with_predicates_has_one_that_decides() -> None:
    tested = [one for one in claims.load() if "test" in one]
    assert len(tested) > 60
    for one in tested:
        first, *others = one["test"]
        assert (first.get("primary", False) or not others) and not first.get("premise")
        assert not any(test.get("primary") for test in others)


def test_no_claim_repeats_the_primary_predicate_of_another() -> None:
    """One result is one claim."""
    primary = [
        words(one["test"][0]) + str(one["test"][0]["left"].get("setting"))
        for one in claims.load()
        if "test" in one
    ]
    assert len(set(primary)) == len(primary)


def test_claims_of_shares_timing_and_short_tue_are_judged_at_the_papers_size_alone() -> None:
    at_paper = {one["id"] for one in claims.load() if one.get("sizes") == ["paper"]}
    assert {i for i in at_paper if "tue" not in i} == {
        "protected-part-teaches-nothing",
        "advpois-falls-to-early-stopping",
        "class-wise-rivals-work-late",
        "mlp-noise-falls-to-early-stopping",
    }
    assert at_paper >= {one["id"] for one in claims.load() if "tue-" in one["id"]}


CLEAN = rows("clean", "gray", 80.0, 81.0, 82.0)


@pytest.mark.parametrize(
    ("accuracies", "outcome"),
    [
        ((78.0, 79.0, 80.0), "holds"),  # -2, and the interval within the bound
        ((60.0, 61.0, 62.0), FAILS),
        ((70.0, 73.0, 76.0), UNDECIDED),
        ((79.0,), LEANS[True]),
        ((60.0, 61.0), LEANS[False]),
        ((), NOT_TESTED),
    ],
)
def test_outcome_of_a_predicate(judged: Any, accuracies: tuple[float, ...], outcome: str) -> None:
    ledger = judged([*CLEAN, *rows("ULEO", "gray", *accuracies)], claim(TEST))
    assert ledger["outcome"].tolist() == [outcome]
    assert ledger["n"].tolist() == [len(accuracies)]


@pytest.mark.parametrize(
    ("beside", "why"),
    [
        ((17.0, 19.0, 18.0), "no accuracy above 10 % could fulfil it"),  # 9 less than 18
        ((18.0, 20.0, 19.0), ""),  # chance itself could
    ],
)
def test_nothing_can_lie_far_below_what_is_near_chance(
    judged: Any, beside: tuple[float, ...], why: str
) -> None:
    test = {"left": TEST["right"], "right": TEST["left"], "at_most": -9.0}
    (line,) = judged([*CLEAN, *rows("ULEO", "gray", *beside)], claim(test)).to_dict("records")
    assert (line["why"], line["outcome"]) == (why, NOT_TESTED if why else FAILS)
    assert line["difference"] == 81 - sum(beside) / 3  # what was measured is shown all the same


@pytest.mark.parametrize(
    ("clean", "most", "why"),
    [
        (
            (17.0, 18.0, 19.0),
            None,
            "every accuracy above 10 % would fulfil it",
        ),  # 8 below is chance
        ((18.0, 19.0, 20.0), None, ""),
        ((17.0, 18.0, 19.0), 8.0, ""),  # one far above would not
    ],
)
def test_no_loss_is_shown_where_clean_images_are_hardly_learned(
    judged: Any, clean: tuple[float, ...], most: float | None, why: str
) -> None:
    test = TEST | ({} if most is None else {"at_most": most})
    results = [*rows("clean", "gray", *clean), *rows("ULEO", "gray", *clean)]
    (line,) = judged(results, claim(test)).to_dict("records")
    assert (line["why"], line["outcome"]) == (why, NOT_TESTED if why else HOLDS)


def test_under_attack_accuracy_can_fall_below_guessing(judged: Any) -> None:
    """9 points below 15 % are 6 %: less than guessing, which is what attacks can do."""
    for setting, outcome in (("test clean", NOT_TESTED), ("test PGD-20", HOLDS)):
        left, right = ({**TEST[side], "setting": setting} for side in ("left", "right"))
        test = {"left": left, "right": right, "at_most": -9.0}
        results = [
            *rows("clean", "gray", 14.0, 15.0, 16.0, setting=setting),
            *rows("ULEO", "gray", 3.0, 4.0, 5.0, setting=setting),
        ]
        assert judged(results, claim(test))["outcome"].tolist() == [outcome]


def test_three_common_seeds_are_compared_seed_by_seed(judged: Any) -> None:
    """Differences -1, -2, -3: a spread of 1, though that of each side is ten times as large."""
    results = [*rows("clean", "gray", 60.0, 70.0, 80.0), *rows("ULEO", "gray", 59.0, 68.0, 77.0)]
    (line,) = judged(results, claim(TEST)).to_dict("records")
    assert (line["difference"], line["n"], line["paired"]) == (-2.0, 3, True)
    assert (line["low"], line["high"]) == pytest.approx((-2 - HALF, -2 + HALF), abs=1e-3)
    assert line["outcome"] == HOLDS


def test_only_common_seeds_are_compared_where_there_are_three(judged: Any) -> None:
    results = [
        *rows("clean", "gray", 80.0, 81.0, 82.0, 10.0),
        *rows("ULEO", "gray", 79.0, 79.0, 79.0),
    ]
    (line,) = judged(results, claim(TEST)).to_dict("records")
    assert (line["difference"], line["n"], line["paired"]) == (-2.0, 3, True)


def test_the_interval_is_welchs_where_seeds_are_not_shared(judged: Any) -> None:
    """Means 73 and 81, variances of the means 1/3 each, 4 degrees of freedom: 2.7764 * 0.8165."""
    ours = [row | {"seed": row["seed"] + 2} for row in rows("ULEO", "gray", 72.0, 73.0, 74.0)]
    (line,) = judged([*CLEAN, *ours], claim(TEST)).to_dict("records")
    assert (line["difference"], line["n"], line["paired"]) == (-8.0, 3, False)
    assert (line["low"], line["high"]) == pytest.approx((-8 - 2.2670, -8 + 2.2670), abs=1e-3)
    expected = stats.ttest_ind([72, 73, 74], [80, 81, 82], equal_var=False).confidence_interval(
        0.95
    )
    assert (line["low"], line["high"]) == pytest.approx((expected.low, expected.high))


def test_a_side_with_fewer_seeds_meets_the_same_ones(judged: Any) -> None:
    results = [*rows("clean", "gray", 80.0, 90.0, 100.0), *rows("ULEO", "gray", 79.0)]
    (line,) = judged(results, claim(TEST)).to_dict("records")
    assert (line["difference"], line["n"], line["outcome"]) == (-1.0, 1, LEANS[True])
    other = [row | {"seed": 7} for row in rows("ULEO", "gray", 79.0)]
    (line,) = judged([*rows("clean", "gray", 80.0), *other], claim(TEST)).to_dict("records")
    assert (line["n"], line["outcome"], line["why"]) == (0, NOT_TESTED, "not measured")


def test_one_side_alone_is_a_value(judged: Any) -> None:
    test = {"left": TEST["right"], "at_most": 90, "at_least": 70}
    (line,) = judged(CLEAN, claim(test)).to_dict("records")
    assert (line["difference"], line["high"]) == pytest.approx((81, 81 + HALF), abs=1e-3)
    assert (line["outcome"], line["unit"], line["paired"]) == (HOLDS, "%", False)


def test_what_was_learned_is_beyond_the_untrained_network(judged: Any) -> None:
    """And a share of what another side learned is a test, too, with an interval that it scales."""
    ours, clean = [50.0, 51.0, 53.0], [60.0, 62.0, 61.0]
    results = [*rows("ULEO", "gray", *ours), *rows("clean", "gray", *clean)]
    results = [row | {"untrained": 38.0 + row["seed"]} for row in results]
    test = TEST | {"value": "learned", "times": 0.75, "at_least": 0.0}
    (line,) = judged(results, claim(test)).to_dict("records")
    # 12 - 0.75 * 22, 12 - 0.75 * 23, 13 - 0.75 * 21: -4.5, -5.25, -2.75, of which by hand
    # mean -4.1667, standard deviation 1.2829, interval 4.3027 * 1.2829 / sqrt(3) = 3.1869
    assert line["difference"] == pytest.approx(-4.1667, abs=1e-4)
    assert line["high"] - line["difference"] == pytest.approx(3.1869, abs=1e-3)
    assert words(test) == (
        "points above the untrained network: ULEO, as released, gray less 0.75 times clean, gray: "
        "at least 0 points"
    )


def test_a_share_of_nothing_is_not_judged(judged: Any) -> None:
    """Where nothing is learned, nothing can be taken away; an attack has no such value at all."""
    test = TEST | {"value": "learned", "times": 0.75, "at_least": 0.0}
    results = [*rows("ULEO", "gray", 37.0), *rows("clean", "gray", 38.0)]
    for untrained in (38.5, math.nan):
        given = [row | {"untrained": untrained} for row in results]
        (line,) = judged(given, claim(test)).to_dict("records")
        assert (line["outcome"], line["n"]) == (NOT_TESTED, 0)
        assert line["why"] == "nothing is learned that a share could be taken of"


def test_a_share_needs_something_to_be_one_of(judged: Any) -> None:
    test = {"left": TEST["right"], "at_most": 90, "times": 0.75}
    with pytest.raises(ValueError, match="`times` multiplies the right side, which is missing"):
        judged(CLEAN, claim(test))


def test_a_curve_has_a_best_and_a_last_point(judged: Any) -> None:
    for value, expected in (("best", 86.0), ("last", 80.0), ("accuracy", 81.0)):
        test = {"left": TEST["right"], "at_least": 0, "value": value}
        (line,) = judged(CLEAN, claim(test)).to_dict("records")
        assert line["difference"] == expected


def test_a_setting_that_is_not_named_is_the_plain_one(judged: Any) -> None:
    other = rows("clean", "gray", 10.0, 10.0, 10.0, setting="5% clean")
    test = {"left": TEST["right"], "at_least": 0}
    (line,) = judged([*CLEAN, *other], claim(test)).to_dict("records")
    assert line["difference"] == 81
    with pytest.raises(ValueError, match="several results for one seed"):
        judged([*CLEAN, *rows("clean", "gray", 5.0, net="other")], claim(test))


def test_the_verdict_is_the_primary_predicates_and_no_other_changes_it(judged: Any) -> None:
    """20 points are lost: not at least -8, whatever the others say; and the other way round."""
    never, always = {**TEST, "at_least": 5.0}, {**TEST, "at_least": -50.0}
    results = [*CLEAN, *rows("ULEO", "gray", 60.0, 61.0, 62.0)]
    for first, other, verdict in ((TEST, always, FAILS), (always, never, HOLDS)):
        ledger = judged(results, claim(first, other, {**never, "under": "b"}))
        assert ledger["primary"].tolist() == [True, False, False]
        (line,) = verdicts(ledger).to_dict("records")
        assert line["verdict"] == verdict == ledger["outcome"][0]
        assert line["predicate"] == words(first)
        assert (line["difference"], line["n"], line["unit"]) == (-20.0, 3, "points")
        assert line["low"] == line["high"] == -20.0  # every pair has the same difference


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [
        (HOLDS, "holds"),
        (FAILS, "contradicted"),
        (UNDECIDED, "undecided"),
        (LEANS[True], "undecided"),
        (LEANS[False], "undecided"),
        (NOT_TESTED, "not tested"),
    ],
)
def test_every_verdict_is_of_one_kind(verdict: str, kind: str) -> None:
    assert claims.kind(verdict) == kind


CONTROL = {"defender": "random", "export": "exact"}
PROTECTS: dict[str, Any] = {
    "left": {"defender": "ULEO", "export": "as_released", "exploiter": "gray"},
    "right": {"defender": "clean", "exploiter": "gray"},
    "at_most": -40.0,
}


@pytest.mark.parametrize(
    ("ours", "control", "outcome", "why"),
    [
        ((20.0, 21.0, 22.0), (78.0, 79.0, 80.0), HOLDS, ""),
        ((20.0, 21.0, 22.0), (12.0, 12.0, 12.0), NOT_TESTED, "random noise does the same"),
        ((20.0, 21.0, 22.0), (12.0,), NOT_TESTED, "random noise does the same"),  # one run leans
        ((20.0, 21.0, 22.0), (), NOT_TESTED, "random noise was not measured, the control"),
        ((70.0, 71.0, 72.0), (12.0, 12.0, 12.0), FAILS, ""),  # nothing that a control could explain
    ],
)
def test_an_effect_that_its_control_has_as_well_is_not_tested(
    judged: Any,
    ours: tuple[float, ...],
    control: tuple[float, ...],
    outcome: str,
    why: str,
) -> None:
    results = [
        *CLEAN,
        *rows("ULEO", "gray", *ours),
        *rows("random", "gray", *control, export="exact"),
    ]
    ledger = judged(results, claim(PROTECTS, control=CONTROL))
    (line,) = verdicts(ledger).to_dict("records")
    assert (line["verdict"], line["why"]) == (outcome, why)
    assert line["difference"] == sum(ours) / 3 - 81


@pytest.mark.parametrize(
    ("premise", "outcome"), [((20.0, 21.0, 22.0), HOLDS), ((70.0, 71.0, 72.0), NOT_TESTED)]
)
def test_a_claim_whose_premise_does_not_hold_is_not_tested(
    judged: Any, premise: tuple[float, ...], outcome: str
) -> None:
    """Noise that stops nobody says nothing by not stopping somebody. Other conditions stay."""
    needed = PROTECTS | {"left": TEST["left"] | {"exploiter": "standard"}, "premise": True}
    results = [*CLEAN, *rows("ULEO", "gray", 78.0, 79.0, 80.0), *rows("ULEO", "standard", *premise)]
    ledger = judged(results, claim(TEST, needed, TEST | {"under": "b"}))
    assert ledger["outcome"].tolist() == [outcome, HOLDS if outcome == HOLDS else FAILS, HOLDS]
    if outcome == NOT_TESTED:
        why = "its premise is not met: ULEO, as released, standard less clean, gray: at most -40"
        assert ledger["why"][0].startswith(why) and ledger["why"].tolist()[1:] == ["", ""]


def test_a_claim_is_not_tested_at_sizes_that_confound_it(judged: Any) -> None:
    known = claim(TEST, sizes=["paper"], untested="fewer epochs")
    (line,) = judged([*CLEAN, *rows("ULEO", "gray", 78.0, 79.0, 80.0)], known).to_dict("records")
    assert (line["outcome"], line["why"], line["difference"]) == (NOT_TESTED, "fewer epochs", -2.0)
    known["sizes"] = ["cpu"]
    ledger = judged([*CLEAN, *rows("ULEO", "gray", 78.0, 79.0, 80.0)], known)
    assert ledger["outcome"].tolist() == [HOLDS]


def test_a_predicate_written_after_its_runs_says_so_wherever_it_is_shown(judged: Any) -> None:
    """The claim's word holds for its tests, unless a test has its own."""
    results = [*CLEAN, *rows("ULEO", "gray", 78.0, 79.0, 80.0)]
    mark = "predicate written after its runs"
    for whole, first, second in (
        ("before", None, "after"),
        ("after", None, None),
        ("before", "after", None),
    ):
        tests = [
            TEST | ({"fixed": fixed} if fixed else {}) | {"at_least": -8.0 - n}
            for n, fixed in enumerate((first, second))
        ]
        ledger = judged(results, claim(*tests, fixed=whole))
        assert ledger["fixed"].tolist() == [first or whole, second or whole]
        after = (first or whole) == "after"
        (line,) = verdicts(ledger).to_dict("records")
        assert line["sentence"] == (f"S. ({mark})" if after else "S.")
        assert claims.at_sizes({"small": ledger})["sentence"][0] == line["sentence"]
        html = claims.style(ledger.assign(sentence="S.", source="T"), "").to_html()
        assert html.count(mark) == ledger["fixed"].tolist().count("after")


def ledger(outcome: str, n: int, difference: float = -2.0) -> pd.DataFrame:
    line = {"id": "a", "under": "", "primary": True, "fixed": "before", "predicate": "P"}
    line |= claims._nothing("points", "") | {"outcome": outcome, "n": n}
    second = line | {"primary": False, "outcome": FAILS, "n": 9}  # it has no say
    return pd.DataFrame([line | {"difference": difference}, second])


@pytest.mark.parametrize(
    ("large", "small", "expected"),
    [
        ((HOLDS, 3), (FAILS, 5), (HOLDS, "large", "but small: does not hold (n = 5)")),
        (
            (LEANS[True], 2),
            (FAILS, 3),
            (FAILS, "small", "but large: undecided, leans to yes (n = 2)"),
        ),
        (
            (LEANS[True], 1),
            (HOLDS, 3),
            (HOLDS, "small", "also large: undecided, leans to yes (n = 1)"),
        ),
        ((UNDECIDED, 3), (HOLDS, 3), (UNDECIDED, "large", "small: holds (n = 3)")),
        (
            (LEANS[True], 1),
            (LEANS[True], 2),
            (LEANS[True], "large", "also small: undecided, leans to yes (n = 2)"),
        ),
        ((NOT_TESTED, 0), (UNDECIDED, 3), (UNDECIDED, "small", "")),
        ((NOT_TESTED, 3), (HOLDS, 3), (HOLDS, "small", "")),
        ((NOT_TESTED, 0), (NOT_TESTED, 0), (NOT_TESTED, "", "")),
    ],
)
def test_a_verdict_is_that_of_the_largest_size_with_three_runs(
    large: tuple[str, int],
    small: tuple[str, int],
    expected: tuple[str, str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "load", lambda: (claim(TEST),))
    (line,) = claims.at_sizes({"large": ledger(*large), "small": ledger(*small)}).to_dict("records")
    assert (line["verdict"], line["size"], line["other"]) == expected
    assert line["disputed"] == ("but" in expected[2])


def test_the_effect_is_that_of_the_size_whose_verdict_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "load", lambda: (claim(TEST),))
    told = claims.at_sizes({"large": ledger(LEANS[True], 1, 3.0), "small": ledger(HOLDS, 4, 5.0)})
    assert told[["difference", "n", "size"]].to_numpy().tolist() == [[5.0, 4, "small"]]


def test_a_confounded_size_says_why_where_the_larger_one_measured_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "load", lambda: (claim(TEST),))
    nothing, short = ledger(NOT_TESTED, 0), ledger(NOT_TESTED, 3).assign(why="too few epochs")
    (line,) = claims.at_sizes({"large": nothing, "small": short}).to_dict("records")
    assert (line["verdict"], line["why"], line["size"]) == (NOT_TESTED, "too few epochs", "")


def test_refuted_scale_limited_and_undecided_are_lists_of_their_own() -> None:
    paper, small = PROFILES["paper"].scale, PROFILES["cpu"].scale
    expected = {
        "refuted": [(FAILS, paper)],
        "scale-limited": [(FAILS, small)],
        UNDECIDED: [(UNDECIDED, paper), (LEANS[True], small), (LEANS[False], paper)],
        HOLDS: [(HOLDS, small), (HOLDS, paper)],
        NOT_TESTED: [(NOT_TESTED, "")],
    }
    every = [pair for pairs in expected.values() for pair in pairs]
    told = pd.DataFrame(every[::-1], columns=["verdict", "size"])
    found = claims.lists(told)
    assert list(found) == list(expected)
    for name, pairs in expected.items():
        assert sorted(map(tuple, found[name].to_numpy())) == sorted(pairs)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ((-71.24, -73.1, -69.38, "points"), "-71.2 points (-73.1 to -69.4)"),
        ((3.0, math.nan, math.nan, "points"), "+3.0 points"),
        ((10.4, 10.1, 10.7, "%"), "10.4 % (10.1 to 10.7)"),
        ((math.nan, math.nan, math.nan, "points"), ""),
    ],
)
def test_an_effect_in_words(line: tuple[float, float, float, str], text: str) -> None:
    given = dict(zip(("difference", "low", "high", "unit"), line, strict=True))
    assert claims.effect(given) == text


def test_a_claim_that_cannot_be_tested_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "load", lambda: (claim(untested="needs faces"),))
    lines = verdicts(ledger(HOLDS, 3).assign(id="b")).to_dict("records")
    assert [(one["verdict"], one["why"]) for one in lines] == [(NOT_TESTED, "needs faces")]
    assert (lines[0]["sentence"], lines[0]["n"], lines[0]["predicate"]) == ("S.", 0, "")


def test_the_profiles_own_network_goes_by_the_papers_name_where_it_is_one(
    judged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = {"left": {"defender": "ULEO", "source_model": "convnet"}, "at_least": 0}
    results = rows("ULEO", "standard", 50.0, source=str(PROFILES["cpu"].loop.net))
    assert judged(results, claim(test))["n"].tolist() == [1]
    monkeypatch.setitem(PROFILES, "cpu", PROFILES["paper"])
    results = rows("ULEO", "standard", 50.0, source="resnet18")
    assert judged(results, claim(test))["n"].tolist() == [1]


@pytest.mark.parametrize(("part", "whole"), claims.PART_OF.items())
def test_a_part_of_a_page_judges_its_claims_where_the_whole_has_no_record(
    part: str, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "load", lambda: (claim(TEST, page=whole),))
    frames = {part: pd.DataFrame([*CLEAN, *rows("ULEO", "gray", 78.0)])}
    assert judge("paper", frames)["difference"].tolist() == [-2.0]
    frames[whole] = pd.DataFrame([*CLEAN, *rows("ULEO", "gray", 60.0)])
    assert judge("paper", frames)["difference"].tolist() == [-20.0]


def test_predicates_in_words() -> None:
    assert words(TEST) == "ULEO, as released, gray less clean, gray: at least -8 points"
    best = {"left": {"defender": "clean"}, "at_least": 5, "at_most": 7.5, "value": "best"}
    assert words(best) == "the best point of the curve of clean: at least 5 % and at most 7.5 %"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sentence": None}, "lacks"),
        ({"test": [{"left": {}}]}, "needs at_least or at_most"),
        ({"test": [TEST | {"value": "worst"}]}, "value 'worst'; choose from"),
        ({"test": [TEST | {"left": {"colour": "red"}}]}, r"no column \['colour'\]"),
        ({"fixed": "later"}, "fixed"),
        ({"untested": "why"}, "needs `sizes`"),
        ({"sizes": ["paper"]}, "`sizes` the reason"),
        ({"test": None}, "needs tests, or `untested` and the reason"),
        ({"untested": "why", "sizes": ["huge"]}, r"no profile \['huge'\]"),
        ({"test": [TEST, TEST]}, "the first test, and no other, needs `primary = true`"),
        ({"test": [TEST, TEST | {"primary": True}]}, "the first test, and no other"),
        ({"test": [TEST | {"primary": True}] * 2}, "the first test, and no other"),
        ({"test": [TEST | {"premise": True}]}, "the primary test cannot be a premise"),
        ({"test": [TEST | {"primary": True}, EXACT]}, 'the primary test needs export "exact"'),
        ({"control": {"export": "exact"}}, "a control needs a defender"),
        ({"control": {"defender": "random", "colour": "red"}}, r"no column \['colour'\]"),
    ],
)
def test_claims_that_cannot_be_judged_are_refused(changed: dict[str, Any], message: str) -> None:
    written = {name: value for name, value in (claim(TEST) | changed).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        claims._check(written)


def test_the_table_of_a_page_shows_each_claim_once(judged: Any) -> None:
    known = claim(TEST, {**TEST, "at_least": -50})
    ledger = judged([*CLEAN, *rows("ULEO", "gray", 60.0, 61.0, 62.0)], known)
    html = claims.style(ledger.assign(sentence="S.", source="T"), "A caption").to_html()
    assert html.count(">S.<") == 1 and "A caption" in html
    assert ">does not hold<" in html and ">holds<" in html and "-20.0" in html
    assert html.count(">decides<") == html.count(">also tested<") == 1
    assert "why not tested" not in html
    accuracy = {name: value for name, value in TEST.items() if name != "right"} | {"at_least": 50}
    alone = judged(rows("ULEO", "gray", 60.0, 61.0, 62.0), claim(accuracy))
    html = claims.style(alone.assign(sentence="S.", source="T"), "").to_html()
    assert ">61.0<" in html and f">{61 - HALF:.1f} to {61 + HALF:.1f}<" in html  # no plus sign
    known |= {"sizes": ["paper"], "untested": "fewer epochs"}
    ledger = judged([*CLEAN, *rows("ULEO", "gray", 60.0, 61.0, 62.0)], known)
    html = claims.style(ledger.assign(sentence="S.", source="T"), "A caption").to_html()
    assert html.count("fewer epochs") == 2 and "why not tested" in html
