"""The claims ledger: the papers' findings as predicates, judged by the book's records.

`claims.toml` holds each claim as data: a sentence, its source, the page whose record judges it, and
predicates such as "ULEO as released, gray, less clean, gray, is at least -8 points". They were
committed before the runs that judge them, except where `fixed = "after"` says otherwise.

    ledger = judge("cpu")       one row a predicate: the difference, its interval, the outcome
    verdicts(ledger)            one row a claim
    by_size("cpu")              the same, said of the largest size with three runs

The rule is that of `verdict`: from three runs on the 95 % interval decides; one or two runs suggest
a direction. A predicate that asks for an accuracy below chance is not judged: none could satisfy
it.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from ulelib.book.tables import styled, tint
from ulelib.book.verdict import ENOUGH, half_width, span
from ulelib.jobs import records
from ulelib.profiles import OWN, PROFILES

HOLDS, FAILS, OPEN = "holds", "fails", "open"
LEANS = {True: "leans to yes", False: "leans to no"}  # with fewer runs than an interval needs
NOT_TESTED = "not tested"
LARGEST_FIRST = ("paper", "cpu", "smoke")  # profiles
BUT = "but"  # another size says otherwise
NO_ROOM = "no room"  # the predicate asks for an accuracy below chance
# Light tints that colour-blind readers can distinguish; the cell says the word as well.
TINTS = {
    HOLDS: "#cfe4f7",
    FAILS: "#fbe3bd",
    OPEN: "#ececec",
    LEANS[True]: "#e6eff7",
    LEANS[False]: "#f3ecd9",
}
OUTCOMES = (HOLDS, FAILS, OPEN, *LEANS.values(), NO_ROOM, NOT_TESTED)
MEASURES = {
    "accuracy": lambda frame: frame["accuracy"],
    "best": lambda frame: frame["curve"].map(max),
    "last": lambda frame: frame["curve"].map(lambda curve: curve[-1]),
    "learned": lambda frame: frame["accuracy"] - frame["untrained"],  # without labels
}
# A page that measures a part of another's cells: it judges that page's claims in a profile where
# the other page has no record.
PART_OF = {"05d_full_size": "05_grayaug"}
SELECTORS = {
    "defender", "export", "exploiter", "setting", "net", "source", "model", "source_model"
}  # fmt: skip


@cache
def load() -> tuple[dict[str, Any], ...]:
    """The claims of `claims.toml`, each as a dict.

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
    if ("test" in claim) == ("untested" in claim):
        raise ValueError(f"{where} needs tests, or `untested` and the reason, and not both")
    for test in claim.get("test", ()):
        if claim.get("fixed") not in ("before", "after") or "page" not in claim:
            raise ValueError(f'{where} needs a page, and whether it was fixed "before" or "after"')
        if not {"at_least", "at_most"} & set(test):
            raise ValueError(f"{where}: a test needs at_least or at_most")
        if "times" in test and "right" not in test:
            raise ValueError(f"{where}: `times` multiplies the right side, which is missing")
        if test.get("value", "accuracy") not in MEASURES:
            raise ValueError(f"{where}: value {test['value']!r}; choose from {sorted(MEASURES)}")
        for side in ("left", "right"):
            if unknown := set(test.get(side, {})) - SELECTORS:
                raise ValueError(f"{where}: no column {sorted(unknown)}")


def judge(profile: str, frames: Mapping[str, pd.DataFrame] | None = None) -> pd.DataFrame:
    """Every predicate of every claim, judged by the profile's records.

    Args:
        frames: results (of `Lab.table`) by page; None: those of all records of the profile.

    Returns:
        columns id, under (the condition it belongs to), predicate (in words), difference (points;
        a value in percent where there is no right side), low, high (its 95 % interval, NaN below
        three runs), n (runs of the side with fewer) and outcome, one of `OUTCOMES`.
    """
    if frames is None:
        frames = {page: records.read(page, profile)[0] for page in records.pages(profile)}
    names = PROFILES[profile].names
    frames = {page: _with_models(frame, names) for page, frame in frames.items()}
    frames = {PART_OF[page]: frame for page, frame in frames.items() if page in PART_OF} | frames
    # The profile's own network may be one of the papers'; then it has that one's name.
    own = names[str(PROFILES[profile].loop.net)]
    lines = []
    for claim in load():
        for test in claim.get("test", ()):
            sides = {side: {**test[side]} for side in ("left", "right") if side in test}
            for selector in sides.values():
                selector |= {name: own for name, wanted in selector.items() if wanted == OWN}
            found = _judged({**test, **sides}, frames.get(claim["page"]))
            lines.append(
                {"id": claim["id"], "under": test.get("under", ""), "predicate": words(test)}
                | found
            )
    return pd.DataFrame(lines)


def verdicts(ledger: pd.DataFrame) -> pd.DataFrame:
    """One row a claim.

    Args:
        ledger: of `judge`.

    Returns:
        columns id, sentence, source, page, fixed, verdict, and why: the reason where it was not
        tested. A verdict is "holds"; 'holds only under "CONDITION"', where it fails under the
        others; 'holds under "CONDITION", fails under "CONDITION", else open', or one of the two;
        "does not hold"; "open"; "open, leans to yes" (or no, or both ways) where too few runs
        decide; or "not tested".
    """
    lines = []
    for claim in load():
        tests = ledger[ledger["id"] == claim["id"]]
        conditions = {
            str(under): _together(part["outcome"].tolist())
            for under, part in tests.groupby("under", sort=False)
        }
        lines.append(
            {name: claim.get(name, "") for name in ("id", "sentence", "source", "page", "fixed")}
            | {"verdict": _verdict(conditions), "why": claim.get("untested", "")}
        )
    return pd.DataFrame(lines)


def by_size(profile: str) -> pd.DataFrame:
    """`at_sizes` of a profile and of the larger ones that have records."""
    larger = LARGEST_FIRST[: LARGEST_FIRST.index(profile)]
    chosen = [*(name for name in larger if records.pages(name)), profile]
    return at_sizes({PROFILES[name].scale: judge(name) for name in chosen})


def at_sizes(sizes: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`verdicts`, each said of the largest size that has three runs of every predicate.

    Args:
        sizes: ledgers of `judge` by the words for their size, the largest first.

    Returns:
        the columns of `verdicts`; size; other, what the other sizes that tested the claim say of
        it, "but at the paper's size: open, leans to yes (n = 1)", or "also ..." where they say the
        same; and disputed, whether one of them says otherwise. Where no size has three runs,
        the verdict is that of the largest which tested the claim.
    """
    told = {size: verdicts(ledger).set_index("id") for size, ledger in sizes.items()}
    runs = {size: _runs(ledger) for size, ledger in sizes.items()}
    lines = []
    for claim in load():
        said = {size: str(told[size].loc[claim["id"], "verdict"]) for size in sizes}
        tested = [size for size in sizes if said[size] != NOT_TESTED]
        enough = [size for size in tested if runs[size][claim["id"]] >= ENOUGH]
        chosen = next(iter([*enough, *tested, *sizes]))
        words = {size: _beside(said[size], said[chosen]) for size in tested if size != chosen}
        other = "; ".join(
            f"{word} {size}: {said[size]} (n = {runs[size][claim['id']]})".strip()
            for size, word in words.items()
        )
        lines.append(
            {"id": claim["id"], **told[chosen].loc[claim["id"]]}
            | {"size": chosen if tested else "", "other": other}
            | {"disputed": BUT in words.values()}
        )
    return pd.DataFrame(lines)


def _beside(verdict: str, of_the_largest: str) -> str:
    """The word before another size's verdict: "also", "but", or "" where it is for neither side."""
    sides = [_side(verdict), _side(of_the_largest)]
    if "" in sides:
        return ""
    return "also" if sides[0] == sides[1] else BUT


def _runs(ledger: pd.DataFrame) -> dict[str, int]:
    """The fewest runs behind a predicate of each claim, of those that were tested."""
    tested: pd.DataFrame = ledger[ledger["outcome"] != NOT_TESTED]
    return {str(name): int(n) for name, n in tested.groupby("id")["n"].min().items()}


def _side(verdict: str) -> str:
    """Whether a verdict is for the claim, against it, or neither."""
    against = "does not hold" in verdict or FAILS in verdict or LEANS[False] in verdict
    for_it = "holds" in verdict or LEANS[True] in verdict
    return "both" if against and for_it else "against" if against else "for" if for_it else ""


def kind(verdict: str) -> str:
    """A verdict in one of five words: "holds", "in part" (under some of its conditions),
    "contradicted", "undecided" or "not tested"."""
    if verdict == NOT_TESTED:
        return NOT_TESTED
    if verdict.startswith(OPEN):
        return "undecided"
    return {HOLDS: HOLDS, "does not hold": "contradicted"}.get(verdict, "in part")


def style(lines: pd.DataFrame, caption: str) -> Styler:
    """Judged predicates as a table: each with its claim, difference, interval and outcome.

    Args:
        lines: of `judge`, with the claim's sentence and source.
    """
    interval = [span(*edges, digits=1) for edges in zip(lines["low"], lines["high"], strict=True)]
    laid_out = pd.DataFrame(
        {
            "claim": lines["sentence"].where(~lines["id"].duplicated(), ""),
            "source": lines["source"].where(~lines["id"].duplicated(), ""),
            "predicate": lines["predicate"],
            "measured": lines["difference"].map(
                lambda value: "" if math.isnan(value) else f"{value:+.1f}"
            ),
            "95 % interval": interval,
            "n": lines["n"],
            "outcome": lines["outcome"],
        }
    )
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
    signed, unit = "right" in test, "points" if "right" in test else "%"
    bounds = [
        f"{name.replace('_', ' ')} {test[name]:{'+' if signed and test[name] else ''}g} {unit}"
        for name in ("at_least", "at_most")
        if name in test
    ]
    times = f"{test['times']:g} times " if "times" in test else ""
    against = f" less {times}{_named(test['right'])}" if signed else ""
    return f"{left}{against}: {' and '.join(bounds)}"


def _named(selector: Mapping[str, str]) -> str:
    return ", ".join(value.replace("_", " ") for value in selector.values() if value != "-")


def _with_models(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """`frame` with columns model and source_model: the networks' names in the profile."""
    if frame.empty:
        return frame
    model, source = (frame[column].replace({**names}) for column in ("net", "source"))
    return frame.assign(model=model, source_model=source, setting=frame.get("setting", "-"))


def _judged(test: Mapping[str, Any], frame: pd.DataFrame | None) -> dict[str, Any]:
    nothing = {"difference": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    if frame is None or frame.empty:
        return nothing | {"outcome": NOT_TESTED}
    sides = [_values(frame, test[side], test) for side in ("left", "right") if side in test]
    if "times" in test:
        if sides[1].mean() <= 0:  # a share of nothing
            return nothing | {"outcome": NOT_TESTED}
        sides[1] = test["times"] * sides[1]
    if min(map(len, sides)) < ENOUGH:  # one run is compared with that of the same seed
        common = set.intersection(*(set(side.index) for side in sides))
        sides = [side.loc[sorted(common)] for side in sides]
    if any(side.empty for side in sides):
        return nothing | {"outcome": NOT_TESTED}
    least, most = test.get("at_least", -math.inf), test.get("at_most", math.inf)
    difference = float(sides[0].mean() - (sides[1].mean() if len(sides) > 1 else 0))
    n = min(map(len, sides))
    found = {**nothing, "difference": difference, "n": n}
    undercut = len(sides) > 1 and most < 0 and test.get("value") != "learned"
    if undercut and sides[1].mean() + most < frame["chance"].min():
        return found | {"outcome": NO_ROOM}
    if n < ENOUGH:
        return found | {"outcome": LEANS[least <= difference <= most]}
    means = [(float(side.std()) / math.sqrt(len(side)), len(side) - 1) for side in sides]
    half = half_width(*means)
    low, high = difference - half, difference + half
    if least <= low and high <= most:
        outcome = HOLDS
    else:
        outcome = FAILS if high < least or low > most else OPEN
    return found | {"low": low, "high": high, "outcome": outcome}


def _values(frame: pd.DataFrame, selector: Mapping[str, str], test: Mapping[str, Any]) -> Any:
    """The values, by seed, of the rows that a selector names; without a setting it names "-".

    Raises:
        ValueError: it names several rows for one seed.
    """
    rows = frame
    for column, wanted in ({"setting": "-"} | dict(selector)).items():
        rows = rows[rows[column] == wanted]
    if rows["seed"].duplicated().any():
        raise ValueError(f"claims.toml: {dict(selector)} names several results for one seed")
    return MEASURES[test.get("value", "accuracy")](rows.set_index("seed")).dropna()


def _together(outcomes: list[str]) -> str:
    """The outcome of one condition, from those of its tests."""
    for outcome in (FAILS, NOT_TESTED, LEANS[False], OPEN, NO_ROOM, LEANS[True]):
        if outcome in outcomes:
            return outcome
    return HOLDS


def _verdict(conditions: Mapping[str, str]) -> str:
    found = set(conditions.values())

    def under(outcome: str) -> str:
        named = " and ".join(f'"{name}"' for name, one in conditions.items() if one == outcome)
        return f"{outcome} under {named}"

    if found <= {NOT_TESTED, NO_ROOM}:
        return NOT_TESTED
    if found == {HOLDS}:
        return HOLDS
    if found == {FAILS}:
        return "does not hold"
    if found == {HOLDS, FAILS}:
        return under(HOLDS).replace(HOLDS, "holds only", 1)
    if decided := [under(outcome) for outcome in (HOLDS, FAILS) if outcome in found]:
        return ", ".join([*decided, f"else {OPEN}"])
    if found <= set(LEANS.values()):
        return f"{OPEN}, {found.pop() if len(found) == 1 else 'leans both ways'}"
    return OPEN
