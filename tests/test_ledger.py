"""The claims and predicates as long tables: each once, tinted, with a link to its page."""

from __future__ import annotations

import re
from functools import cache

import pandas as pd
import pytest

from test_tables import csv_in
from ulelib.book import claims, ledger
from ulelib.jobs import records


@cache
def frame(defender: str = "ULEO") -> pd.DataFrame:
    names = {"net": "n", "source": "-", "setting": "-", "seed": 0, "chance": 10.0, "curve": (1.0,)}
    rows = [("clean", "-", "gray", 94.0), (defender, "exact", "gray", 92.0)]
    return pd.DataFrame(
        [
            dict(zip(("defender", "export", "exploiter", "accuracy"), row, strict=True)) | names
            for row in rows
        ]
    )


def judged() -> pd.DataFrame:
    return claims.judge("smoke", {"05_grayaug": frame()})


def test_every_claim_has_a_row_and_its_csv_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "pages", lambda profile: ["05_grayaug"] * (profile == "cpu"))
    told = claims.at_sizes({"on a small network": judged()})
    html = ledger.claims_table(told, "smoke").data
    assert html.startswith("<details") and f"All {len(claims.load())} claims" in html
    assert html.count("<tr>") == 1 + len(told)
    assert csv_in(html)["id"].tolist() == told["id"].tolist()
    assert "undecided, leans to yes" in html and "-2.0 points" in html


def test_every_predicate_has_a_row_that_names_its_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "pages", lambda profile: ["05_grayaug"] * (profile == "cpu"))
    lines = judged()
    html = ledger.predicates_table(lines, "smoke").data
    assert html.count("<tr>") == 1 + len(lines)
    rows = re.findall(r"<tr>\n(.*?)</tr>", html.split("<tbody>")[1], re.DOTALL)
    assert all(re.match(r"<td[^>]*>[^<]+", row) for row in rows)  # no claim is left out
    assert html.count(">decides<") == lines["primary"].sum()


def test_a_claim_leads_to_the_page_that_judged_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"cpu": ["05_grayaug", "09_mlp"], "paper": ["05d_full_size"], "smoke": []}
    monkeypatch.setattr(records, "pages", known.__getitem__)
    link = '<a href="../{}.html">{}</a>'
    assert ledger._page("05_grayaug", "paper") == link.format(
        "paper/05d_full_size", "05d_full_size"
    )
    assert ledger._page("05_grayaug", "cpu") == link.format("cpu/05_grayaug", "05_grayaug")
    assert ledger._page("09_mlp", "paper") == link.format("cpu/09_mlp", "09_mlp")
    assert ledger._page("nowhere", "cpu") == "nowhere" and ledger._page("", "cpu") == ""


def test_text_is_shown_as_it_is_and_names_as_code() -> None:
    assert ledger._html("`a_b` < 3 & `c`") == "<code>a_b</code> &lt; 3 &amp; <code>c</code>"
