"""The claims and their predicates as long tables: searchable, sortable, with links to the pages.

ledger.claims_table(claims.by_size(profile), profile)
ledger.predicates_table(claims.judge(profile), profile)
"""

from __future__ import annotations

import re
from html import escape

import pandas as pd
from IPython.display import HTML

from ulelib.book import claims
from ulelib.book.scoreboard import linked
from ulelib.book.tables import long, styled, tint
from ulelib.jobs import records
from ulelib.profiles import PROFILES

RULES = {
    "td, th": "text-align: left; vertical-align: top; padding: 0.3em 0.5em;",
    "td.col0": "min-width: 20em;",
}


def claims_table(told: pd.DataFrame, profile: str) -> HTML:
    """One row a claim, folded: sentence, verdict, effect, size, other sizes, source and page.

    Args:
        told: of `claims.by_size`.
        profile: whose pages are meant where no size was tested.
    """
    beside = told["other"].where(told["why"] == "", told["why"])
    sizes = {one.scale: name for name, one in PROFILES.items()}
    shown = pd.DataFrame(
        {
            "claim": told["sentence"].map(_html),
            "verdict": told["verdict"].map(_html),
            "measured": [claims.effect(line) for line in told.to_dict("records")],
            "runs": told["n"],
            "size": told["size"],
            "page": [
                _page(page, sizes.get(size, profile))
                for page, size in zip(told["page"], told["size"], strict=True)
            ],
            "other sizes; why not tested": beside.map(_html),
            "source": told["source"].map(_html),
        }
    )
    styler = styled(shown, None, 0.8, {**RULES, "td.col2": "white-space: nowrap;"})
    styler.apply(lambda _: told["verdict"].map(tint), subset=["verdict"])
    caption = (
        "Every claim, judged by its deciding predicate at the largest size that has three runs; in "
        "brackets the 95 % interval."
    )
    fold = f"All {len(told)} claims, with their verdicts"
    return long(styler, caption, f"claims_{profile}.csv", told, fold)


def predicates_table(ledger: pd.DataFrame, profile: str) -> HTML:
    """One row a predicate, folded: claim, predicate, whether it decides, effect and outcome.

    Args:
        ledger: of `claims.judge` of the profile.
        profile: whose records judged them.
    """
    known = pd.DataFrame([*claims.load()])[["id", "sentence", "page"]]
    lines = ledger.merge(known, on="id", how="left")
    shown = pd.DataFrame(
        {
            "claim": lines["sentence"].map(_html),
            "predicate": [
                _html(claims.stated(*one))
                for one in zip(lines["predicate"], lines["fixed"], strict=True)
            ],
            "role": lines["primary"].map({True: "decides", False: "also tested"}),
            "measured": [claims.effect(line) for line in lines.to_dict("records")],
            "runs": lines["n"],
            "outcome": lines["outcome"].map(_html),
            "why not tested": lines["why"].map(_html),
            "page": lines["page"].map({page: _page(page, profile) for page in set(lines["page"])}),
        }
    )
    rules = {**RULES, "td.col1": "min-width: 16em;", "td.col3": "white-space: nowrap;"}
    styler = styled(shown, None, 0.8, rules)
    styler.apply(lambda _: lines["outcome"].map(tint), subset=["outcome"])
    caption = (
        f"Every predicate, judged by the records of profile {profile}; in brackets the 95 % "
        "interval. One predicate decides each claim."
    )
    fold = f"All {len(lines)} predicates behind them, judged in profile {profile}"
    return long(styler, caption, f"predicates_{profile}.csv", ledger, fold)


def _page(page: str, profile: str) -> str:
    """A link to the page whose record judges a claim in a profile; "" for none.

    A profile may have recorded only a part of a page's cells, under another name (`PART_OF`).
    """
    recorded = records.pages(profile)
    parts = [part for part, whole in claims.PART_OF.items() if whole == page and part in recorded]
    return linked(parts[0] if parts and page not in recorded else page, profile) if page else ""


def _html(text: str) -> str:
    """Text of claims.toml as HTML, with `names` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
