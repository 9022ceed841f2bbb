"""The claims ledger: the papers' findings as predicates, judged by the book's records.

`claims.toml` holds each claim as data: a sentence, its source, the page whose record judges it, and
predicates such as "ULEO as released, gray, less clean, gray, is at least -8 points". One predicate
of a claim is primary: its outcome alone is the verdict. The others are shown with their own.

    ledger = judge("cpu")       one row a predicate: the difference, its interval, the outcome
    verdicts(ledger)            one row a claim: the primary predicate's
    told = by_size("cpu")       the same, said of the largest size with three runs
    lists(told)                 refuted, scale-limited, undecided, held and untested claims

From three runs on the 95 % interval of the difference decides; one or two runs suggest a direction.
Runs of one seed share images, order and weights, so differences are taken seed by seed where both
sides have three seeds in common; else the interval is Welch's.

A predicate is not tested, and `why` says so, where its cells were not measured, no accuracy or
every one would fulfil it, its premise is not met, its control does the same, or its claim is judged
at other sizes only.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from ulelib.book.tables import styled, tint
from ulelib.book.verdict import ENOUGH, half_width, span
from ulelib.jobs import records, replicates
from ulelib.pgd import ATTACKS
from ulelib.profiles import OWN, PROFILES

HOLDS, FAILS, UNDECIDED, NOT_TESTED = "holds", "does not hold", "undecided", "not tested"
# With fewer runs than an interval needs:
LEANS = {True: f"{UNDECIDED}, leans to yes", False: f"{UNDECIDED}, leans to no"}
OUTCOMES = (HOLDS, FAILS, UNDECIDED, *LEANS.values(), NOT_TESTED)
PAPER = "paper"  # the profile of the papers' own size
LARGEST_FIRST = (PAPER, "quarter", "cpu", "smoke")  # profiles
BUT = "but"  # another size says otherwise
AFTER = "predicate written after its runs"  # stands behind such a sentence
# Light tints that colour-blind readers can distinguish; the cell says the word as well.
TINTS = {
    HOLDS: "#cfe4f7",
    FAILS: "#fbe3bd",
    UNDECIDED: "#ececec",
    LEANS[True]: "#e6eff7",
    LEANS[False]: "#f3ecd9",
    NOT_TESTED: "#ececec",
}
MEASURES = {
    "accuracy": lambda frame: frame["accuracy"],
    "best": lambda frame: frame["curve"].map(max),
    "last": lambda frame: frame["curve"].map(lambda curve: curve[-1]),
    "learned": lambda frame: frame["accuracy"] - frame["untrained"],  # without labels
}
# A page that measures a part of another's cells: it judges that page's claims in a profile where
# the other page has no record.
PART_OF = {"05d_full_size": "05_grayaug", "05f_quarter_width": "05_grayaug"}
SELECTORS = {
    "defender", "export", "exploiter", "setting", "net", "source", "model", "source_model"
}  # fmt: skip
# The settings of cells that were measured under attack: accuracy can fall below that of guessing.
ATTACKED = {f"test {name}" for name, attack in ATTACKS.items() if attack is not None}
EFFECT = ("difference", "low", "high", "n", "unit", "paired")  # columns


@cache
def load() -> tuple[dict[str, Any], ...]:
    """The claims of `claims.toml`, each as a dict; the primary test of each is the first.

    Raises:
        ValueError: a claim that could not be judged as it is written; names it.
    """
    text = Path(__file__).with_name("claims.toml").read_text(encoding="utf-8")
    claims: list[dict[str, Any]] = tomllib.loads(text)["claim"]
    for claim in claims:
        _check(claim)
    ids = [claim["id"] for claim in claims]
    if duplicates := sorted({one for one in ids if ids.count(one) > 1}):
        raise ValueError(f"claims.toml: several claims have one id: {duplicates}")
    return tuple(claims)


def _check(claim: Mapping[str, Any]) -> None:
    where = f"claims.toml: {claim.get('id', claim)}"
    if missing := {"id", "sentence", "source"} - set(claim):
        raise ValueError(f"{where} lacks {sorted(missing)}")
    sizes = claim.get("sizes", [])
    if "test" not in claim and "untested" not in claim:
        raise ValueError(f"{where} needs tests, or `untested` and the reason")
    if ("test" in claim and "untested" in claim) != bool(sizes):
        raise ValueError(f"{where}: with tests, `untested` needs `sizes`, and `sizes` the reason")
    if unknown := set(sizes) - set(PROFILES):
        raise ValueError(f"{where}: no profile {sorted(unknown)}")
    if "control" in claim and "defender" not in claim["control"]:
        raise ValueError(f"{where}: a control needs a defender")
    for test in claim.get("test", []):
        _check_test(where, claim, test)
    _check_primary(where, claim.get("test", []))


def _check_primary(where: str, tests: Sequence[Mapping[str, Any]]) -> None:
    """Whether one test is primary, by what of the rule in claims.toml a program can check."""
    if not tests:
        return
    marked = [test.get("primary", False) for test in tests]
    if len(tests) > 1 and marked != [True] + [False] * (len(tests) - 1):
        raise ValueError(f"{where}: the first test, and no other, needs `primary = true`")
    if tests[0].get("premise"):
        raise ValueError(f"{where}: the primary test cannot be a premise")
    defender, export = (tests[0]["left"].get(name) for name in ("defender", "export"))
    mine = [test["left"] for test in tests if test["left"].get("defender") == defender]
    if export != "exact" and "exact" in [one.get("export") for one in mine]:
        raise ValueError(f'{where}: the primary test needs export "exact", which another test has')


def _check_test(where: str, claim: Mapping[str, Any], test: Mapping[str, Any]) -> None:
    if test.get("fixed", claim.get("fixed")) not in ("before", "after") or "page" not in claim:
        raise ValueError(f'{where} needs a page, and whether it was fixed "before" or "after"')
    if not {"at_least", "at_most"} & set(test):
        raise ValueError(f"{where}: a test needs at_least or at_most")
    if "times" in test and "right" not in test:
        raise ValueError(f"{where}: `times` multiplies the right side, which is missing")
    if test.get("value", "accuracy") not in MEASURES:
        raise ValueError(f"{where}: value {test['value']!r}; choose from {sorted(MEASURES)}")
    for selector in (test.get("left", {}), test.get("right", {}), claim.get("control", {})):
        if unknown := set(selector) - SELECTORS:
            raise ValueError(f"{where}: no column {sorted(unknown)}")


def judge(profile: str, frames: Mapping[str, pd.DataFrame] | None = None) -> pd.DataFrame:
    """Every predicate of every claim, judged by the profile's records.

    Args:
        frames: results (of `Lab.table`) by page; None: those of all records of the profile.

    Returns:
        columns id; under, its condition; primary, whether it decides its claim; fixed, "before" or
        "after" its runs; predicate, in words; difference, in points, or a value in percent where
        there is no right side; low and high, its 95 % interval, NaN below three runs; n, pairs, or
        runs of the side with fewer; unit, "points" or "%"; paired, whether differences were taken
        seed by seed; outcome, one of `OUTCOMES`; and why it was not tested, though it may have a
        difference.
    """
    if frames is None:
        frames = {page: replicates.read(page, profile)[0] for page in records.pages(profile)}
    names = PROFILES[profile].names
    frames = {page: _with_models(frame, names) for page, frame in frames.items()}
    frames = {PART_OF[page]: frame for page, frame in frames.items() if page in PART_OF} | frames
    # The profile's own network may be one of the papers'; then it has that one's name.
    own = names[str(PROFILES[profile].loop.net)]
    lines = []
    for claim in load():
        tests = claim.get("test", [])
        named = [_with_own(test, own) for test in tests]
        found = _judged_claim(claim, named, frames.get(claim.get("page", "")), profile)
        lines += [
            {"id": claim["id"], "under": test.get("under", ""), "primary": place == 0}
            | {"fixed": test.get("fixed", claim.get("fixed")), "predicate": words(test)}
            | outcome
            for place, (test, outcome) in enumerate(zip(tests, found, strict=True))
        ]
    return pd.DataFrame(lines)


def verdicts(ledger: pd.DataFrame) -> pd.DataFrame:
    """One row a claim: the outcome of its primary predicate.

    Args:
        ledger: of `judge`.

    Returns:
        columns id; sentence, which says where the predicate was written after its runs; source;
        page; fixed ("" without a predicate); predicate; difference, low, high, n, unit and paired
        as in `judge`; verdict, one of `OUTCOMES`; and why it was not tested.
    """
    primary = ledger[ledger["primary"]].set_index("id")
    nothing = {"fixed": "", "predicate": "", **_nothing("")}
    lines = []
    for claim in load():
        found = dict(primary.loc[claim["id"]]) if claim["id"] in primary.index else nothing
        known = {name: claim.get(name, "") for name in ("id", "source", "page")}
        known["sentence"] = stated(claim["sentence"], found["fixed"])
        effect = {name: found[name] for name in ("fixed", "predicate", *EFFECT)}
        why = found["why"] if "test" in claim else claim["untested"]
        lines.append(known | effect | {"verdict": found["outcome"], "why": why})
    first = ["id", "sentence", "source", "page", "fixed", "predicate"]
    return pd.DataFrame(lines, columns=[*first, *EFFECT, "verdict", "why"])


def stated(sentence: str, fixed: str) -> str:
    """A claim's sentence, with `AFTER` behind it where that is so."""
    return f"{sentence} ({AFTER})" if fixed == "after" else sentence


def by_size(profile: str) -> pd.DataFrame:
    """`at_sizes` of a profile and of the larger ones that have records."""
    larger = LARGEST_FIRST[: LARGEST_FIRST.index(profile)]
    chosen = [*(name for name in larger if records.pages(name)), profile]
    return at_sizes({PROFILES[name].scale: judge(name) for name in chosen})


def at_sizes(sizes: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`verdicts`, each said of the largest size that has three runs of the primary predicate.

    Args:
        sizes: ledgers of `judge` by the words for their size, the largest first.

    Returns:
        the columns of `verdicts`; size, "" where none tested the claim; other, what the other sizes
        that tested it say, "but at the paper's size: undecided, leans to yes (n = 1)", or
        "also ..." where they say the same; and disputed, whether one of them says otherwise. Where
        no size has three runs, the verdict is that of the largest which tested the claim.
    """
    told = {size: verdicts(ledger).set_index("id") for size, ledger in sizes.items()}
    lines = []
    for claim in load():
        here = {size: told[size].loc[claim["id"]] for size in sizes}
        tested = [size for size in sizes if here[size]["verdict"] != NOT_TESTED]
        enough = [size for size in tested if here[size]["n"] >= ENOUGH]
        measured = [size for size in sizes if here[size]["n"]]  # and say why it is not tested
        chosen = next(iter([*enough, *tested, *measured, *sizes]))
        said = here[chosen]["verdict"]
        beside = {size: here[size] for size in tested if size != chosen}
        words = {size: _beside(other["verdict"], said) for size, other in beside.items()}
        other = "; ".join(
            f"{words[size]} {size}: {one['verdict']} (n = {one['n']})".strip()
            for size, one in beside.items()
        )
        lines.append(
            {"id": claim["id"], **here[chosen]}
            | {"size": chosen if tested else "", "other": other}
            | {"disputed": BUT in words.values()}
        )
    return pd.DataFrame(lines)


def lists(told: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The claims in five lists, by what the evidence allows to say.

    Args:
        told: of `by_size`.

    Returns:
        rows of `told` by list. "refuted": does not hold at the paper's size, in three runs or more.
        "scale-limited": does not hold in three runs or more of a smaller size, and the paper's size
        has fewer, or none. "undecided": runs too few or too scattered. "holds". "not tested".
    """
    against, at_papers = told["verdict"] == FAILS, told["size"] == PROFILES[PAPER].scale
    return {
        "refuted": told[against & at_papers],
        "scale-limited": told[against & ~at_papers],
        UNDECIDED: told[told["verdict"].map(kind) == UNDECIDED],
        HOLDS: told[told["verdict"] == HOLDS],
        NOT_TESTED: told[told["verdict"] == NOT_TESTED],
    }


def kind(verdict: str) -> str:
    """A verdict in one of four words: "holds", "contradicted", "undecided" or "not tested"."""
    return {HOLDS: HOLDS, FAILS: "contradicted", NOT_TESTED: NOT_TESTED}.get(verdict, UNDECIDED)


def effect(line: Mapping[str, Any]) -> str:
    """A difference in words: "-71.2 points (-73.1 to -69.3)"; "" where nothing was measured.

    Args:
        line: with the columns difference, low, high and unit of `judge`.
    """
    difference, interval = _texts(line)
    return difference and f"{difference} {line['unit']}" + f" ({interval})" * bool(interval)


def _texts(line: Mapping[str, Any]) -> tuple[str, str]:
    """A difference and its interval; accuracies without a plus sign. "" where there is none."""
    sign = "+" if line["unit"] == "points" else ""
    difference = "" if math.isnan(line["difference"]) else f"{line['difference']:{sign}z.1f}"
    return difference, span(line["low"], line["high"], 1, sign)


def style(lines: pd.DataFrame, caption: str) -> Styler:
    """Judged predicates as a table: each with its claim, difference, interval and outcome.

    Args:
        lines: of `judge`, with the claim's sentence and source.
    """
    texts = [_texts(line) for line in lines.to_dict("records")]
    written = lines["fixed"].map(lambda fixed: f" ({AFTER})" if fixed == "after" else "")
    laid_out = pd.DataFrame(
        {
            "claim": lines["sentence"].where(~lines["id"].duplicated(), ""),
            "source": lines["source"].where(~lines["id"].duplicated(), ""),
            "": lines["primary"].map({True: "decides", False: "also tested"}),
            "predicate": lines["predicate"] + written,
            "measured": [difference for difference, _ in texts],
            "95 % interval": [interval for _, interval in texts],
            "n": lines["n"],
            "outcome": lines["outcome"],
            "why not tested": lines["why"],
        }
    )
    if not lines["why"].any():
        laid_out = laid_out.drop(columns="why not tested")
    rules = {"td, th": "text-align: left; vertical-align: top;"}
    return styled(laid_out, caption, 0.8, rules).map(tint, subset=["outcome"], tints=TINTS)


def words(test: Mapping[str, Any]) -> str:
    """A predicate in words: "ULEO, as released, gray less clean, gray: at least -8 points"."""
    what = {
        "best": "the best point of the curve of ",
        "last": "the last point of the curve of ",
        "learned": "points above the untrained network: ",
    }
    left = what.get(test.get("value", ""), "") + _named(test["left"])
    signed, unit = "right" in test, _unit(test)
    bounds = [
        f"{name.replace('_', ' ')} {test[name]:{'+' if signed and test[name] else ''}g} {unit}"
        for name in ("at_least", "at_most")
        if name in test
    ]
    times = f"{test['times']:g} times " if "times" in test else ""
    against = f" less {times}{_named(test['right'])}" if signed else ""
    return f"{left}{against}: {' and '.join(bounds)}"


def _unit(test: Mapping[str, Any]) -> str:
    return "points" if "right" in test else "%"


def _named(selector: Mapping[str, str]) -> str:
    return ", ".join(value.replace("_", " ") for value in selector.values() if value != "-")


def _with_models(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """`frame` with columns model and source_model: the networks' names in the profile."""
    if frame.empty:
        return frame
    model, source = (frame[column].replace({**names}) for column in ("net", "source"))
    return frame.assign(model=model, source_model=source, setting=frame.get("setting", "-"))


def _with_own(test: Mapping[str, Any], own: str) -> dict[str, Any]:
    """A test whose selectors name the profile's own network by the name that its rows have."""
    sides = {side: {**test[side]} for side in ("left", "right") if side in test}
    for selector in sides.values():
        selector |= {name: own for name, wanted in selector.items() if wanted == OWN}
    return {**test, **sides}


def _judged_claim(
    claim: Mapping[str, Any],
    tests: Sequence[Mapping[str, Any]],
    frame: pd.DataFrame | None,
    profile: str,
) -> list[dict[str, Any]]:
    """What `_judged` finds of each test, after the claim's sizes, control and premises."""
    found = [_with_control(test, claim.get("control"), frame) for test in tests]
    unmet = {
        test.get("under", ""): f"its premise is not met: {words(test)} ({one['outcome']})"
        for test, one in zip(tests, found, strict=True)
        if test.get("premise") and _side(one["outcome"]) != "for"
    }
    for test, one in zip(tests, found, strict=True):
        if profile not in claim.get("sizes", [profile]):
            one |= {"outcome": NOT_TESTED, "why": claim["untested"]}
        elif not test.get("premise") and test.get("under", "") in unmet and one["n"]:
            one |= {"outcome": NOT_TESTED, "why": unmet[test.get("under", "")]}
    return found


def _with_control(
    test: Mapping[str, Any], control: Mapping[str, str] | None, frame: pd.DataFrame | None
) -> dict[str, Any]:
    """`_judged`; not tested where the control fulfils the predicate as well, or has no rows."""
    found = _judged(test, frame)
    if control is None or _side(found["outcome"]) != "for":
        return found
    beside = _judged({**test, "left": {**test["left"], **control}}, frame)
    if beside["n"] and _side(beside["outcome"]) != "for":
        return found
    what = "does the same" if beside["n"] else "was not measured, the control"
    return found | {"outcome": NOT_TESTED, "why": f"{control['defender']} noise {what}"}


def _nothing(unit: str, why: str = "not measured") -> dict[str, Any]:
    edges = {"difference": math.nan, "low": math.nan, "high": math.nan}
    return edges | {"n": 0, "unit": unit, "paired": False, "outcome": NOT_TESTED, "why": why}


def _judged(test: Mapping[str, Any], frame: pd.DataFrame | None) -> dict[str, Any]:
    """The difference of a test with its interval, and the outcome that this gives."""
    nothing = _nothing(_unit(test))
    if frame is None or frame.empty:
        return nothing
    rows = [_rows(frame, test[side]) for side in ("left", "right") if side in test]
    if any(side.empty for side in rows):
        return nothing
    measure = MEASURES[test.get("value", "accuracy")]
    sides = [measure(side).dropna().astype(float) for side in rows]
    if "times" in test:
        if not sides[1].mean() > 0:
            return _nothing(_unit(test), "nothing is learned that a share could be taken of")
        sides[1] = test["times"] * sides[1]
    found = nothing | {"why": ""} | _estimate(sides)
    if not found["n"]:
        return nothing
    bounds = test.get("at_least", -math.inf), test.get("at_most", math.inf)
    beside = math.nan if len(sides) < 2 or test.get("value") == "learned" else sides[1].mean()
    why = _foregone(beside, *bounds, _floor(rows[0]))
    return found | ({"why": why} if why else {"outcome": _outcome(found, *bounds)})


def _rows(frame: pd.DataFrame, selector: Mapping[str, str]) -> pd.DataFrame:
    """The rows that a selector names, by seed; without a setting it names "-".

    Raises:
        ValueError: it names several rows for one seed.
    """
    rows = frame
    for column, wanted in ({"setting": "-"} | dict(selector)).items():
        rows = rows[rows[column] == wanted]
    if rows["seed"].duplicated().any():
        raise ValueError(f"claims.toml: {dict(selector)} names several results for one seed")
    return rows.set_index("seed")


def _floor(rows: pd.DataFrame) -> float:
    """The lowest accuracy that says anything, percent: that of guessing, or 0 under attack."""
    chance = rows["chance"].where(~rows["setting"].isin(ATTACKED), 0.0)
    return float(chance.min())


def _foregone(beside: float, least: float, most: float, floor: float) -> str:
    """Why no accuracy, or every one, lies within bounds counted from `beside`; "" elsewhere.

    Args:
        beside: accuracy of the right side, percent; NaN where the bounds are not counted from one.
    """
    if beside + most < floor:
        return f"no accuracy above {floor:g} % could fulfil it"
    if most == math.inf and beside + least <= floor:
        return f"every accuracy above {floor:g} % would fulfil it"
    return ""


def _estimate(sides: Sequence[pd.Series[float]]) -> dict[str, Any]:
    """The mean of one side, or the difference of the means of two, with its 95 % interval.

    Args:
        sides: values by seed.

    Returns:
        difference, low, high, n and paired as in `judge`; {"n": 0} where two sides with fewer than
        three runs have no seed in common.
    """
    paired = False
    if len(sides) == 2:
        pairs = (sides[0] - sides[1]).dropna()
        paired = len(pairs) >= ENOUGH or min(map(len, sides)) < ENOUGH
        sides = [pairs] if paired else sides
    n = min(map(len, sides))
    if not n:
        return {"n": 0}
    difference = float(sides[0].mean() - (sides[1].mean() if len(sides) == 2 else 0))
    found = {"difference": difference, "n": n, "paired": paired}
    if n < ENOUGH:
        return found
    half = half_width(*((float(s.std()) / math.sqrt(len(s)), len(s) - 1) for s in sides))
    return found | {"low": difference - half, "high": difference + half}


def _outcome(found: Mapping[str, Any], least: float, most: float) -> str:
    """The outcome of a difference whose bounds are given."""
    if found["n"] < ENOUGH:
        return LEANS[least <= found["difference"] <= most]
    if least <= found["low"] and found["high"] <= most:
        return HOLDS
    return FAILS if found["high"] < least or found["low"] > most else UNDECIDED


def _side(verdict: str) -> str:
    """Whether a verdict is for the claim, against it, or neither: ""."""
    sides = {HOLDS: "for", LEANS[True]: "for", FAILS: "against", LEANS[False]: "against"}
    return sides.get(verdict, "")


def _beside(verdict: str, of_the_largest: str) -> str:
    """The word before another size's verdict: "also", "but", or "" where it is for neither side."""
    sides = [_side(verdict), _side(of_the_largest)]
    if "" in sides:
        return ""
    return "also" if sides[0] == sides[1] else BUT
