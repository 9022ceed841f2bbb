"""The smoke profile as it is: what the demo shows must be the effect, not only running code."""

from __future__ import annotations

from pathlib import Path

import pytest

from ulelib.book.compare import means
from ulelib.jobs.lab import Lab


@pytest.mark.slow
def test_the_demo_shows_who_is_protected_from_whom(tmp_path: Path) -> None:
    """Clean images teach the shapes; ULEO stops the standard exploiter, ULEO-GrayAugs both."""
    lab = Lab("smoke", store=tmp_path)
    cells = lab.cells(["clean", "ULEO-GrayAugs"], ["standard", "gray"]) + lab.cells(["ULEO"])
    mean = means(lab.table(cells))
    assert mean["clean", "-", "standard"] >= 80 and mean["clean", "-", "gray"] >= 55
    assert mean["ULEO", "exact", "standard"] <= 45
    for exploiter in ("standard", "gray"):
        assert mean["ULEO-GrayAugs", "exact", exploiter] <= 45
