"""The scoreboard: each printed number once, beside the cell that stands for it."""

from __future__ import annotations

import re
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml

from helpers import PROJECT
from ulelib.book import scoreboard
from ulelib.book.compare import ABSENT
from ulelib.book.printed import load
from ulelib.book.verdict import REFERENCE


def cell(defender: str, exploiter: str, accuracy: float, **names: Any) -> dict[str, Any]:
    given = {"export": "-" if defender == "clean" else "as_released", "setting": "-", "seed": 0}
    given |= {"net": "convnet (a)", "source": "-", "chance": 10.0}
    return {"defender": defender, "exploiter": exploiter, "accuracy": accuracy} | given | names


NETS = ["convnet (a)", "resnet18 (width 0.25)", "mlp", "mlp (sigmoid False)"]
PAGES = {
    "05_grayaug": [
        cell("clean", "standard", 86.0),
        cell("clean", "gray", 83.0),
        cell("ULEO", "gray", 78.0),
        cell("ULEO", "gray", 50.0, export="exact"),
        cell("ULEO (learned stem)", "gray", 82.0),
    ],
    "07_mixed_data": [
        cell("clean", "standard", 86.0),
        cell("clean", "standard", 70.0, setting="5% clean + 10%"),
        cell("ULEO", "standard", 61.5, setting="5% clean + 10%"),
    ],
    "08_imagenet": [
        cell("clean", "standard", 69.0, setting="32 pixels"),
        cell("clean", "standard", 75.0, setting="64 pixels"),
        cell("ULEO", "standard", 40.0, setting="64 pixels"),
        cell("ULEO", "standard", 20.0, setting="64 pixels, indexed by class"),
    ],
    "09_mlp": [
        *(cell("clean", "standard", 50.0, net=net) for net in NETS),
        *(
            cell("ULEO", "standard", accuracy, net=net, source=source)
            for source, accuracy in (
                ("mlp", 30.0),
                ("mlp (sigmoid False)", 40.0),
                ("convnet (a)", 20.0),
            )
            for net in NETS
        ),
    ],
    "11_transferable": [
        cell("clean", "standard", 86.0),
        cell("TUE-SimCLR", "standard", 12.0, export="exact"),
        cell("TUE-MoCo", "standard", 13.0, export="exact"),
        cell("CSD, class means", "standard", 14.0, setting="from CIFAR-100"),
        cell("clean", "standard", 30.0, setting="CIFAR-100"),
        cell("ULEO", "standard", 2.0, setting="CIFAR-100", export="exact"),
    ],
    "11c_hardened": [
        cell("clean", "standard", 86.0),
        cell("clean", "at", 13.0),
        cell("TUE-SimCLR", "at (3 steps)", 60.0, export="exact"),
        cell("TUE-SimCLR", "SimCLR", 40.0, export="exact"),
    ],
    "03_grayscale_exploiter": [
        cell("clean", "standard", 86.0),
        *(cell("clean", "gray", 83.0, seed=seed) for seed in range(3)),
        *(cell("ULEO", "gray", 70.0 + seed, seed=seed) for seed in range(3)),
        cell("AdvPois", "standard", 11.0),
        cell("AdvPois", "standard", 12.5, export="exact"),
    ],
    "04_mitigations": [
        cell("clean", "standard", 86.0),
        cell("clean", "gray", 83.0),
        cell("ULEO", "gray", 70.0),
        cell("ULEO", "mixup", 30.0),
        cell("ULEO", "mixup (released)", 40.0),
    ],
}


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    frames = {page: pd.DataFrame(rows) for page, rows in PAGES.items()}
    monkeypatch.setattr(scoreboard.records, "pages", lambda profile: list(frames))
    monkeypatch.setattr(scoreboard.replicates, "read", lambda page, profile: (frames[page], {}))
    return scoreboard.board("cpu")


def at(board: pd.DataFrame, table: str, defender: str, exploiter: str) -> dict[str, Any]:
    rows = board.query("table == @table and defender == @defender and exploiter == @exploiter")
    return dict(rows.dropna(subset="mean").iloc[0])


def test_every_number_has_one_row_measured_or_not(board: pd.DataFrame) -> None:
    assert len(board) == len(load())
    assert not board.duplicated(["table", *scoreboard.NAMES]).any()
    assert board["value"].tolist() == load()["value"].tolist()
    # Tables 2, 4, 5; clean and ULEO of two networks in 6; four of 1; clean in 8 and 9; MI-UE's.
    counted = 3 + 2 + 2 + 4 + 4 + 1 + 6
    assert board["mean"].notna().sum() == counted
    judged = board[board["n"] >= 3]  # gray on clean images and on ULEO, in Table 1
    assert len(judged) == 2 and (judged["label"] != "").all()
    few = board[board["n"] < 3]
    assert set(few["label"]) == {"", REFERENCE} and few["low"].isna().all()
    assert set(board.loc[board["table"] == "3", "label"]) == {""}


def test_the_released_export_stands_for_the_number_and_the_exact_one_beside_it(
    board: pd.DataFrame,
) -> None:
    row = at(board, "2", "ULEO", "gray")
    assert (row["value"], row["mean"], row["exact"]) == (90.06, 78.0, 50.0)
    assert row["label"] == "" and row["page"] == "05_grayaug"


def test_a_table_of_two_pages_has_the_runs_of_both_each_once(board: pd.DataFrame) -> None:
    row = at(board, "1", "ULEO", "gray")
    assert (row["mean"], row["n"]) == (71.0, 3)
    assert row["page"] == "03_grayscale_exploiter, 04_mitigations"


def test_a_difference_is_shown_in_points(board: pd.DataFrame) -> None:
    row = at(board, "4", "ULEO", "standard")
    assert (row["value"], row["points"], row["unit"]) == (-13.55, -8.5, "points")
    assert ">-8.5 (1)<" in scoreboard.style(board, "cpu").data


def test_the_deviation_of_a_difference_is_not_that_of_the_accuracies(board: pd.DataFrame) -> None:
    row = board["points"].notna()
    shown = board.assign(std=7.0, points_std=board["points_std"].mask(row, 0.5))
    assert ">-8.5 ± 0.5 (1)<" in scoreboard.style(shown, "cpu").data


def test_rows_whose_settings_are_chosen_are_judged_as_they_are() -> None:
    """Page 08 asks for a table of the rows that already stand for it."""
    rows = pd.DataFrame(PAGES["08_imagenet"])
    chosen = scoreboard.of_table(rows, "5")
    assert scoreboard.judged_in(chosen, "5").equals(scoreboard.judged_in(rows, "5"))


def test_table_5_is_of_the_largest_pictures_indexed_by_class(board: pd.DataFrame) -> None:
    assert at(board, "5", "ULEO", "standard")["mean"] == 20.0
    assert at(board, "5", "clean", "standard")["mean"] == 75.0


def test_the_papers_own_readings_stand_for_its_numbers(board: pd.DataFrame) -> None:
    """Of several networks and mixups that go by one name."""
    assert at(board, "1", "ULEO", "mixup")["mean"] == 40.0  # the released one
    mlp = board.query("table == '6' and defender == 'ULEO' and model in ('mlp', 'resnet18')")
    assert mlp["mean"].tolist() == [30.0, 30.0]  # made with the released MLP


def test_transferable_noise_keeps_both_signs_and_one_source_model_stands_for_it(
    board: pd.DataFrame,
) -> None:
    assert at(board, "MI-UE CIFAR-10", "TUE", "standard")["mean"] == 12.0
    assert at(board, "MI-UE CIFAR-10", "AdvPois", "standard")["mean"] == 12.5  # of another page
    assert at(board, "MI-UE CIFAR-100", "ULEO", "standard")["mean"] == 2.0
    hardened = at(board, "MI-UE CIFAR-10, adversarial training", "TUE", "at")
    assert (hardened["mean"], hardened["page"]) == (60.0, "11c_hardened")


def body(board: pd.DataFrame, profile: str = "cpu") -> list[list[str]]:
    """The cells of the board's rows, as HTML."""
    html = scoreboard.style(board, profile).data.split("<tbody>")[1]
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]


def test_the_table_has_one_line_a_number_and_says_what_is_not_measured(
    board: pd.DataFrame,
) -> None:
    rows = body(board)
    assert len(rows) == len(board) and {len(row) for row in rows} == {8}
    assert not any("<br>" in cell or "\n" in cell for row in rows for cell in row)
    measured = [row[4] for row in rows]
    assert measured.count(ABSENT) == board["mean"].isna().sum() >= 80
    assert "78.0 (1)" in measured and "71.0 ± 1.0 (3)" in measured
    verdicts = [row[5] for row in rows]
    assert verdicts.count(ABSENT) == (board["label"] == "").sum()


def test_the_interval_of_a_verdict_is_its_tooltip(board: pd.DataFrame) -> None:
    judged = board[board["low"].notna()]
    titles = [re.findall('title="([^"]*)"', row[5]) for row in body(board)]
    assert len(judged) == sum(map(len, titles)) > 0
    assert all("margin" in title for found in titles for title in found)


def test_page_names_are_links_to_pages_that_have_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"cpu": ["a", "b"], "paper": ["b"]}
    monkeypatch.setattr(scoreboard.records, "pages", known.__getitem__)
    assert scoreboard.linked("a, b, c", "paper") == (
        '<a href="../cpu/a.html">a</a>, <a href="../paper/b.html">b</a>, c'
    )


@pytest.mark.parametrize("profile", ["cpu", "paper"])
def test_links_of_the_committed_boards_lead_to_pages_of_the_book(profile: str) -> None:
    page = nbformat.read(PROJECT / "book" / profile / "13_scoreboard.ipynb", 4)
    shown = "".join(
        "".join(output["data"].get("text/html", ""))
        for cell in page.cells
        for output in cell.get("outputs", [])
    )
    toc = yaml.safe_load((PROJECT / "_toc.yml").read_text())
    listed = {one["file"] for part in toc["parts"] for one in part["chapters"]}
    links = set(re.findall(r'href="\.\./([^"]*)\.html"', shown))
    assert len(links) > 10 and links <= listed
    assert shown.count('class="long-table-box"') == shown.count("download=") == 3
    prose = [one.source for one in page.cells if one.cell_type == "markdown"]
    titles = re.findall("^# ", "\n".join(prose), re.MULTILINE)
    assert len(titles) == 1
