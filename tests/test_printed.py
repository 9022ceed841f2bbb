"""The printed numbers: all there, each once, and found by their columns."""

import pytest

from helpers import PROJECT
from ulelib.book.printed import (
    SETTING,
    Published,
    load,
    published,
    reference_of,
    row_of,
    table_rows,
)

CELLS = {"1": 10, "2": 10, "3": 18, "4": 14, "5": 6, "6": 8, "7": 9, "8": 8, "9": 14}
CELLS |= {"MI-UE CIFAR-10": 4, "MI-UE CIFAR-10, adversarial training": 12, "MI-UE CIFAR-100": 3}


def test_every_cell_of_every_table_is_there_once():
    frame = load()
    assert frame.groupby("table").size().to_dict() == CELLS
    assert not frame.duplicated(["table", "defender", "exploiter", "model", "setting"]).any()
    assert frame["value"].between(-100, 100).all()
    assert set(frame.loc[frame["unit"] == "points", "table"]) == {"4", "9"}
    assert (frame.loc[frame["unit"] == "%", "value"] > 0).all()


def test_load_hands_out_a_copy():
    frame = load()
    frame["value"] = 0.0
    assert published("2", defender="clean", exploiter="gray").value == 93.04


@pytest.mark.parametrize(
    ("table", "where", "value"),
    [
        ("1", {"defender": "ULEO", "exploiter": "bdr-2"}, 41.65),
        ("8", {"defender": "ULEO", "exploiter": "bdr-2"}, 47.10),
        (
            "3",
            {"exploiter": "gray", "model": "densenet121", "setting": "generator vgg11"},
            13.26,
        ),
        (
            "4",
            {"defender": "ULEO", "exploiter": "gray", "setting": "5% clean + 30%"},
            -0.54,
        ),
        ("6", {"defender": "ULEO", "model": "vgg11"}, 81.88),
        ("7", {"defender": "ULEO", "setting": "test PGD-20"}, 40.34),
        (
            "9",
            {"defender": "ULEO-GrayAugs", "exploiter": "standard", "setting": "10% clean + 30%"},
            -5.61,
        ),
    ],
)
def test_a_number_is_found_by_its_columns(table, where, value):
    assert published(table, **where).value == value


def test_table_2_has_spread_and_runs():
    cell = published("2", defender="ULEO-Grays", exploiter="standard")
    assert cell == Published(43.34, 11.49, 5, "arXiv 2111.13244, Table 2")
    assert published("2", defender="clean", exploiter="standard").std is None
    assert published("1", defender="clean", exploiter="standard").n is None


@pytest.mark.parametrize(
    ("table", "where", "says"),
    [
        ("2", {"defender": "ULEO"}, "2 numbers"),
        ("2", {"defender": "TUE"}, "ULEO-GrayAugs"),
        ("2", {"colour": "red"}, "exploiter"),
        ("10", {}, "choose from"),
    ],
)
def test_none_or_several_say_what_there_is(table, where, says):
    with pytest.raises(ValueError, match=says):
        published(table, **where)


def test_every_number_is_measured_against_a_clean_row():
    frame = load()
    for _, row in frame.iterrows():
        reference = reference_of(row)
        assert reference["defender"] == "clean" and reference["unit"] == "%"
        assert reference["model"] == row["model"]
        assert row["chance"] in (0, reference["chance"])  # 0 under an attack
        if row["reference"] == SETTING:
            alike = ["table", "exploiter", "setting"]
            assert row[alike].tolist() == reference[alike].tolist()
    differences = frame[frame["unit"] == "points"]
    assert set(differences["reference"]) == {SETTING}


@pytest.mark.parametrize(
    ("table", "where", "value"),
    [
        ("1", {"defender": "ULEO", "exploiter": "mixup"}, 94.58),  # the standard exploiter's
        ("3", {"model": "vgg11"}, 91.66),  # of Table 6: Table 3 has no clean row
        ("4", {"defender": "ULEO", "exploiter": "gray", "setting": "5% clean + 10%"}, 81.61),
        ("4", {"defender": "clean", "exploiter": "gray", "setting": "5% clean + 10%"}, 94.58),
        ("5", {"defender": "ULEO"}, 59.66),
        ("7", {"defender": "ULEO", "setting": "test PGD-20"}, 46.59),
        ("MI-UE CIFAR-100", {"defender": "TUE"}, 76.65),
    ],
)
def test_the_reference_of_a_number(table, where, value):
    rows = table_rows(table)
    for name, wanted in where.items():
        rows = rows[rows[name] == wanted]
    assert reference_of(rows.iloc[0])["value"] == value


def test_the_cells_that_the_scoreboard_takes_are_named():
    frame = load()
    assert (frame.groupby("table")["pages"].nunique() == 1).all()
    notebooks = {path.stem for path in (PROJECT / "notebooks").glob("*.ipynb")}
    assert set(" ".join(frame["pages"]).split()) <= notebooks
    assert set(frame["export"]) == {"-", "exact", "as_released"}
    assert ((frame["export"] == "-") == (frame["defender"] == "clean")).all()
    for name in ("defender", "exploiter"):
        renamed = frame[frame[f"our_{name}"] != ""]
        assert (renamed[f"our_{name}"] != renamed[name]).all() and len(renamed)
    # Either every number of a table names a setting of ours, or none does.
    named = (frame["our_setting"] != "").groupby(frame["table"])
    assert (named.all() == named.any()).all() and named.any().any()


def test_a_variant_has_its_defenders_row():
    assert row_of("ULEO-GrayAugs (released loop)") == row_of("ULEO-GrayAugs") == "ULEO-GrayAugs"
