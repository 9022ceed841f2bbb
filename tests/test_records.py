"""Records: what is damaged is named, whatever is wrong with it."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import PROJECT
from ulelib.book import claims, scoreboard
from ulelib.jobs import records, replicates
from ulelib.settings import key_of

PROFILE, PAGE = "paper", "05d_full_size"
STRANGE: list[Any] = [
    *(None, True, -1, 0, 1e308, "text", "", [], {}, [[]], {"a": {}}, 10**30, [1, "a"]),
    {"type": "Run"},
]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the committed records of a profile."""
    shutil.copytree(PROJECT / "results" / PROFILE, tmp_path / PROFILE)
    monkeypatch.setenv("ULELIB_RESULTS", str(tmp_path))
    return tmp_path / PROFILE


def places(data: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in JSON data."""
    inside = data.items() if isinstance(data, dict) else enumerate(data)
    for name, value in inside:
        yield (*place, name)
        if isinstance(value, dict | list):
            yield from places(value, (*place, name))


def mutated(data: Any, draw: random.Random) -> Any:
    """The same with something else, or nothing, in one place."""
    changed = copy.deepcopy(data)
    *outer, last = draw.choice([*places(changed)])
    inside = changed
    for name in outer:
        inside = inside[name]
    if draw.random() < 0.2:
        del inside[last]
    else:
        inside[last] = draw.choice(STRANGE)
    return changed


def test_every_committed_record_is_under_the_key_of_its_spec() -> None:
    found = 0
    for path in sorted((PROJECT / "results").glob("*/stages/*.json")):
        for key, stage in json.loads(path.read_text()).items():
            assert key_of(records.spec_of(stage)) == key and path.stem == key[0]
            found += 1
    assert found > 1000


def test_mutated_records_are_named_or_read(results: Path) -> None:
    """200 records of another shape: each is read as what it says, or named as damaged."""
    files = [results / f"{PAGE}.json", *sorted((results / "stages").glob("*.json"))]
    draw, named = random.Random(0), 0
    for number in range(200):
        path = files[number % len(files)]
        whole = path.read_text()
        path.write_text(json.dumps(mutated(json.loads(whole), draw)))
        try:
            records.known(PROFILE)
            records.pages(PROFILE)
            frame, _ = records.read(PAGE, PROFILE)
            claims.judge(PROFILE, {PAGE: frame})
        except ValueError as error:
            assert str(results) in str(error) and "make reproduce" in str(error)
            named += 1
        path.write_text(whole)
    assert 100 < named < 200


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "17", '"x"', "null", "{}x"),
        "[" * 100_000,
        '{"a":' * 50_000 + "1" + "}" * 50_000,
    ],
    ids=lambda text: text[:10],
)
def test_what_is_no_record_is_named(text: str, results: Path) -> None:
    for path in (results / f"{PAGE}.json", sorted((results / "stages").glob("*.json"))[0]):
        whole = path.read_text()
        path.write_text(text)
        with pytest.raises(ValueError, match=path.name):
            records.read(PAGE, PROFILE)
        path.write_text(whole)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("result", "accuracy"), 1e308),
        (("result", "accuracy"), float("nan")),
        (("result", "accuracy"), "90"),
        (("result", "accuracy"), 100.5),
        (("result", "seconds"), -1),
        (("made", "machine", "threads"), 0),
        (("made",), None),
        (("spec", "type"), "Walk"),
    ],
)
def test_impossible_numbers_are_damage(place: tuple[str, ...], value: Any, results: Path) -> None:
    for path in sorted((results / "stages").glob("*.json")):
        stages = json.loads(path.read_text())
        for stage in stages.values():
            if stage["spec"]["type"] == "Run":
                inside = stage
                for name in place[:-1]:
                    inside = inside[name]
                inside[place[-1]] = value
                path.write_text(json.dumps(stages))
                with pytest.raises(ValueError, match=rf"{path.name} is damaged"):
                    records.known(PROFILE)
                return
    raise AssertionError("no training is recorded")


def test_the_committed_boards_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULELIB_RESULTS", str(PROJECT / "results"))
    assert len(scoreboard.board(PROFILE)) > 100


def test_a_result_that_another_one_replaces_stays_as_a_further_run(results: Path) -> None:
    frame, record = records.read(PAGE, PROFILE)
    stages = copy.deepcopy(record["stages"])
    key = frame["key"].iloc[-1]
    first, second = stages[key]["result"]["accuracy"], 12.5
    page = {name: value for name, value in record.items() if name != "stages"}
    for accuracy in (first, second, second, 13.5):
        stages[key]["result"]["accuracy"] = accuracy
        stages[key]["made"]["machine"]["device"] = f"processor {accuracy}"
        records.save(page, copy.deepcopy(stages))
    again, _ = records.read(PAGE, PROFILE)
    found = replicates.replaced(again, PROFILE)
    assert found["key"].unique().tolist() == [key]
    assert found["accuracy"].tolist() == [13.5, first, second]
    assert found["replaced"].tolist() == [False, True, True]
    assert found["device"].tolist()[::2] == ["processor 13.5", "processor 12.5"]
    assert replicates.replaced(again[again["key"] != key], PROFILE).empty
    (results / records.REPLACED).write_text('{"a": [{"result": {"accuracy": 1e308}}]}')
    with pytest.raises(ValueError, match=records.REPLACED):
        replicates.replaced(again, PROFILE)
