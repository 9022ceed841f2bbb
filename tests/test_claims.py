"""The claims ledger: its data, and the rule that judges it."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from helpers import PROJECT
from ulelib.book import claims
from ulelib.book.claims import LEANS, NO_ROOM, judge, verdicts, words
from ulelib.profiles import PROFILES

TEST = {
    "left": {"defender": "ULEO", "export": "as_released", "exploiter": "gray"},
    "right": {"defender": "clean", "exploiter": "gray"},
    "at_least": -8.0,
}


def claim(*tests: dict[str, Any], **changes: Any) -> dict[str, Any]:
    given = {"id": "a", "sentence": "S.", "source": "T", "page": "p", "fixed": "before"}
    return given | ({"test": list(tests)} if tests else {}) | changes


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
        monkeypatch.setattr(claims.records, "read", lambda page, profile: (frame, {}))
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
    """A selector with a slip would say "not tested" for ever."""
    monkeypatch.setenv("ULELIB_RESULTS", str(PROJECT / "results"))
    recorded = set(claims.records.pages("cpu"))
    pages = {one["id"]: one["page"] for one in claims.load() if "page" in one}
    assert set(pages.values()) <= {path.stem for path in (PROJECT / "notebooks").glob("*.ipynb")}
    assert len(recorded & set(pages.values())) > 10
    ledger = judge("cpu")
    missed = ledger[ledger["outcome"] == claims.NOT_TESTED]
    assert not [i for i in missed["id"] if pages[i] in recorded]


CLEAN = rows("clean", "gray", 80.0, 81.0, 82.0)


@pytest.mark.parametrize(
    ("accuracies", "outcome"),
    [
        ((78.0, 79.0, 80.0), "holds"),  # -2, and the interval within the bound
        ((60.0, 61.0, 62.0), "fails"),
        ((70.0, 73.0, 76.0), "open"),
        ((79.0,), LEANS[True]),
        ((60.0, 61.0), LEANS[False]),
        ((), "not tested"),
    ],
)
def test_outcome_of_a_predicate(judged: Any, accuracies: tuple[float, ...], outcome: str) -> None:
    ledger = judged([*CLEAN, *rows("ULEO", "gray", *accuracies)], claim(TEST))
    assert ledger["outcome"].tolist() == [outcome]
    assert ledger["n"].tolist() == [len(accuracies)]


@pytest.mark.parametrize(
    ("accuracies", "outcome"), [((17.0, 19.0, 18.0), "no room"), ((19.0, 21.0, 20.0), "fails")]
)
def test_nothing_can_lie_far_below_what_is_near_chance(
    judged: Any, accuracies: tuple[float, ...], outcome: str
) -> None:
    test = {"left": TEST["right"], "right": TEST["left"], "at_most": -9.0}
    ledger = judged([*CLEAN, *rows("ULEO", "gray", *accuracies)], claim(test))
    assert ledger["outcome"].tolist() == [outcome]


def test_the_interval_is_welchs(judged: Any) -> None:
    ours = [70.0, 73.0, 77.0, 71.0]
    (line,) = judged([*CLEAN, *rows("ULEO", "gray", *ours)], claim(TEST)).to_dict("records")
    expected = stats.ttest_ind(ours, [80.0, 81.0, 82.0], equal_var=False).confidence_interval(0.95)
    assert (line["low"], line["high"]) == pytest.approx((expected.low, expected.high))
    assert line["difference"] == pytest.approx(72.75 - 81)


def test_a_side_with_fewer_seeds_meets_the_same_ones(judged: Any) -> None:
    results = [*rows("clean", "gray", 80.0, 90.0, 100.0), *rows("ULEO", "gray", 79.0)]
    (line,) = judged(results, claim(TEST)).to_dict("records")
    assert (line["difference"], line["n"], line["outcome"]) == (-1.0, 1, LEANS[True])


def test_one_side_alone_is_a_value(judged: Any) -> None:
    test = {"left": TEST["right"], "at_most": 90, "at_least": 70}
    (line,) = judged(CLEAN, claim(test)).to_dict("records")
    half = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert (line["difference"], line["high"]) == pytest.approx((81, 81 + half))
    assert line["outcome"] == "holds"


def test_what_was_learned_is_beyond_the_untrained_network(judged: Any) -> None:
    """And a share of what another side learned is a test, too, with an interval that it scales."""
    ours, clean = [50.0, 51.0, 53.0], [60.0, 62.0, 61.0]
    results = [*rows("ULEO", "gray", *ours), *rows("clean", "gray", *clean)]
    results = [row | {"untrained": 38.0 + row["seed"]} for row in results]
    test = TEST | {"value": "learned", "times": 0.75, "at_least": 0.0}
    (line,) = judged(results, claim(test)).to_dict("records")
    left = [value - 38 - seed for seed, value in enumerate(ours)]
    right = [0.75 * (value - 38 - seed) for seed, value in enumerate(clean)]
    expected = stats.ttest_ind(left, right, equal_var=False).confidence_interval(0.95)
    assert (line["low"], line["high"]) == pytest.approx((expected.low, expected.high))
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
        assert judged(given, claim(test))["outcome"].tolist() == [claims.NOT_TESTED]


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


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ({"": ["holds"]}, "holds"),
        ({"": ["holds", "fails"]}, "does not hold"),
        ({"": ["holds", "open"]}, "open"),
        ({"exact": ["fails"], "as released": ["holds", "holds"]}, 'holds only under "as released"'),
        ({"exact": ["holds"], "as released": ["holds"]}, "holds"),
        ({"exact": ["fails"], "as released": ["open"]}, 'fails under "exact", else open'),
        (
            {"exact": [LEANS[True]], "as released": ["fails"]},
            'fails under "as released", else open',
        ),
        ({"exact": ["holds"], "as released": ["open"]}, 'holds under "exact", else open'),
        ({"exact": ["holds"], "as released": [NO_ROOM]}, 'holds under "exact", else open'),
        (
            {"a": ["holds"], "b": ["fails"], "c": ["open"]},
            'holds under "a", fails under "b", else open',
        ),
        ({"": [LEANS[True], LEANS[True]]}, "open, leans to yes"),
        ({"": [LEANS[True], LEANS[False]]}, "open, leans to no"),
        ({"a": [LEANS[True]], "b": [LEANS[False]]}, "open, leans both ways"),
        ({"a": [LEANS[True]], "b": ["open"]}, "open"),
        ({"": ["holds", "not tested"]}, "not tested"),
        ({"": [NO_ROOM, NO_ROOM]}, "not tested"),
        ({"": [NO_ROOM, "open"]}, "open"),
    ],
)
def test_verdict_of_a_claim(
    outcomes: dict[str, list[str]], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "load", lambda: (claim(TEST),))
    lines = [
        {"id": "a", "under": under, "outcome": outcome}
        for under, found in outcomes.items()
        for outcome in found
    ]
    assert verdicts(pd.DataFrame(lines))["verdict"].tolist() == [verdict]


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [
        ("holds", "holds"),
        ("does not hold", "contradicted"),
        ('holds only under "a"', "in part"),
        ('fails under "a", else open', "in part"),
        ("open", "undecided"),
        ("open, leans to no", "undecided"),
        ("not tested", "not tested"),
    ],
)
def test_every_verdict_is_of_one_kind(verdict: str, kind: str) -> None:
    assert claims.kind(verdict) == kind


def ledger(outcome: str, n: int, under: str = "") -> pd.DataFrame:
    return pd.DataFrame([{"id": "a", "under": under, "outcome": outcome, "n": n}])


@pytest.mark.parametrize(
    ("large", "small", "expected"),
    [
        (("holds", 3), ("fails", 5), ("holds", "large", "but small: does not hold (n = 5)")),
        (
            (LEANS[True], 2),
            ("fails", 3),
            ("does not hold", "small", "but large: open, leans to yes (n = 2)"),
        ),
        (
            (LEANS[True], 1),
            ("holds", 3),
            ("holds", "small", "also large: open, leans to yes (n = 1)"),
        ),
        (("open", 1), ("holds", 3), ("holds", "small", "large: open (n = 1)")),
        ((LEANS[True], 1), (LEANS[True], 2), ("open, leans to yes", "large", "also small: open, "
                                              "leans to yes (n = 2)")),
        ((claims.NOT_TESTED, 0), ("open", 3), ("open", "small", "")),
        ((claims.NOT_TESTED, 0), (claims.NOT_TESTED, 0), ("not tested", "", "")),
    ],
)  # fmt: skip
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


def test_a_claim_that_cannot_be_tested_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "load", lambda: (claim(untested="needs faces"),))
    lines = verdicts(pd.DataFrame(columns=["id", "under", "outcome"])).to_dict("records")
    assert [(one["verdict"], one["why"]) for one in lines] == [("not tested", "needs faces")]


def test_the_profiles_own_network_goes_by_the_papers_name_where_it_is_one(
    judged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = {"left": {"defender": "ULEO", "source_model": "convnet"}, "at_least": 0}
    results = rows("ULEO", "standard", 50.0, source=str(PROFILES["cpu"].loop.net))
    assert judged(results, claim(test))["n"].tolist() == [1]
    monkeypatch.setitem(PROFILES, "cpu", PROFILES["paper"])
    results = rows("ULEO", "standard", 50.0, source="resnet18")
    assert judged(results, claim(test))["n"].tolist() == [1]


def test_a_part_of_a_page_judges_its_claims_where_the_whole_has_no_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ((part, whole),) = claims.PART_OF.items()
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
        ({"untested": "why"}, "and not both"),
    ],
)
def test_claims_that_cannot_be_judged_are_refused(changed: dict[str, Any], message: str) -> None:
    written = {name: value for name, value in (claim(TEST) | changed).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        claims._check(written)


def test_the_table_of_a_page_shows_each_claim_once(judged: Any) -> None:
    known = claim(TEST, {**TEST, "at_least": -90})
    ledger = judged([*CLEAN, *rows("ULEO", "gray", 60.0, 61.0, 62.0)], known)
    html = claims.style(ledger.assign(sentence="S.", source="T"), "A caption").to_html()
    assert html.count(">S.<") == 1 and "A caption" in html
    assert ">fails<" in html and ">holds<" in html and "-20.0" in html
