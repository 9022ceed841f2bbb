"""The store under kill, damage, rivals and a full disk."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from helpers import MADE_BY, QUICK_LAB, kill_at, run_python, start_python
from ulelib.files import write_text
from ulelib.jobs import store as store_module
from ulelib.jobs.store import MANIFEST, Store, manifest, pack, unpack
from ulelib.settings import key_of, settings


@settings
class Number:
    """A spec for these tests."""

    seed: int = 3


SPEC = Number()


def fill(folder: Path) -> None:
    (folder / "value.txt").write_text("seventeen")


def must_not_fill(folder: Path) -> None:
    raise AssertionError("computed again")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def made(store: Store, spec: Number = SPEC) -> Path:
    with store.claim(spec) as mine:
        assert mine
        return store.put(spec, fill, MADE_BY)


def files_below(folder: Path) -> set[str]:
    """Everything that the store holds, but for its lock files."""
    paths = (path for path in folder.rglob("*") if path.suffix != ".lock" and path.is_file())
    return {str(path.relative_to(folder)) for path in paths}


def test_what_was_put_is_found_again(store: Store) -> None:
    assert store.find(SPEC) is None
    place = made(store)
    assert place == store.place(SPEC) == store.folder / "number" / key_of(SPEC)
    assert store.find(SPEC) == Store(store.folder).find(SPEC) == place
    told = manifest(place)
    assert told["spec"] == {"type": "Number", "seed": 3} and list(told["sha256"]) == ["value.txt"]
    assert told["made"] == MADE_BY
    assert store.find(Number(4)) is None


def test_a_failed_computation_leaves_nothing(store: Store) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), store.claim(SPEC):
        store.put(SPEC, fails, MADE_BY)
    assert files_below(store.folder) == set()
    assert made(store)


@pytest.mark.parametrize("file", ["value.txt", MANIFEST])
@pytest.mark.parametrize(
    "damage",
    ["truncated", "changed", "missing", "empty", "other JSON", "a folder", "a link", "deep"],
)
def test_damage_is_seen_set_aside_and_mended(store: Store, file: str, damage: str) -> None:
    path = made(store) / file
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "truncated":
            path.write_bytes(content[:-3])
        case "changed":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "empty":
            path.write_bytes(b"")
        case "other JSON":
            path.write_bytes(b"[]")
        case "deep":
            path.write_bytes(b"[" * 100_000)
        case "a folder":
            path.mkdir()
        case "a link":
            path.symlink_to(os.devnull)
    with pytest.warns(UserWarning, match="is damaged .*set aside as .*damaged-0"):
        assert store.find(SPEC) is None
    aside = store.place(SPEC).with_name(store.place(SPEC).name + ".damaged-0")
    assert aside.is_dir()
    made(store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.find(SPEC)


@pytest.mark.parametrize(
    "broken",
    [
        {"made": None},
        {"made": {}},
        {"made": {"machine": 5, "commit": "x"}},
        {"made": MADE_BY | {"commit": 7}},
        {"made": MADE_BY | {"machine": {"device": "x", "threads": "two"}}},
        {"spec": 5},
        {"sha256": "x"},
    ],
    ids=str,
)
def test_a_manifest_with_a_broken_part_is_damage(store: Store, broken: dict[str, object]) -> None:
    path = made(store) / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | broken))
    with pytest.warns(UserWarning, match="is damaged"):
        assert store.find(SPEC) is None


@pytest.mark.parametrize("text", ["{}", '{"sha256": []}', "17", '{"sha256": {}, "keyed": 1}'])
def test_a_manifest_of_another_form_is_damage(store: Store, text: str) -> None:
    (made(store) / MANIFEST).write_text(text)
    with pytest.warns(UserWarning, match="is damaged"):
        assert store.find(SPEC) is None


def test_a_file_is_read_once_until_it_changes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A perturbation may have hundreds of megabytes, and is looked for many times a run."""
    place = made(store)
    monkeypatch.setattr("ulelib.files.SETTLED", -1.0)  # as if they had been written a while ago
    assert store.find(SPEC)
    read: list[str] = []
    digest = hashlib.file_digest

    def noted(file: Any, name: str) -> Any:
        read.append(file.name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", noted)
    assert store.find(SPEC) and read == []
    (place / "value.txt").write_text("seventeen")  # at another time
    assert store.find(SPEC) and [Path(name).name for name in read] == ["value.txt"]
    (place / "value.txt").write_text("changed!!")
    with pytest.warns(UserWarning, match="does not have the checksum"):
        assert store.find(SPEC) is None


def test_an_artifact_under_another_key_is_damage(store: Store) -> None:
    """Asked for one defender, it must not return another."""
    shutil.copytree(made(store), store.place(Number(4)))
    with pytest.warns(UserWarning, match="computed from another spec"):
        assert store.find(Number(4)) is None
    assert store.find(SPEC)


def test_a_file_too_many_is_damage(store: Store) -> None:
    (made(store) / "more.txt").write_text("more")
    with pytest.warns(UserWarning, match="more.txt"):
        assert store.find(SPEC) is None


@pytest.mark.parametrize("kind", ["file", "dangling link", "link to a folder"])
def test_what_is_no_folder_is_set_aside_before_anything_is_computed(
    store: Store, kind: str, tmp_path: Path
) -> None:
    place = store.place(SPEC)
    place.parent.mkdir(parents=True)
    if kind == "file":
        place.write_text("in the way")
    else:
        place.symlink_to(tmp_path / ("nowhere" if kind == "dangling link" else "."))
    with pytest.warns(UserWarning, match="set aside"):
        assert store.find(SPEC) is None
    assert made(store) == store.find(SPEC)


def test_second_damage_is_set_aside_beside_the_first(store: Store) -> None:
    for number in range(2):
        (made(store) / "value.txt").unlink()
        with pytest.warns(UserWarning, match=f"damaged-{number}"):
            store.find(SPEC)


def test_damage_that_two_find_at_once_is_set_aside_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made(store) / "value.txt").write_text("changed")
    verify = store_module._verify

    def slowly(place: Path, spec: Any) -> None:
        monkeypatch.setattr(store_module, "_verify", verify)
        try:
            verify(place, spec)
        finally:
            with pytest.warns(UserWarning, match="damaged-0"):
                assert store.find(spec) is None  # the other one

    monkeypatch.setattr(store_module, "_verify", slowly)
    assert store.find(SPEC) is None
    assert made(store) == store.find(SPEC)


# --- a full disk, a folder that cannot be used ---------------------------------------------------


def test_full_disk_says_what_to_do_and_loses_nothing(store: Store) -> None:
    def full(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    made(store, Number(1))
    before = files_below(store.folder)
    with pytest.raises(OSError, match="free some space, or set ULELIB_STORE") as caught:
        store.put(SPEC, full, MADE_BY)
    assert caught.value.errno == errno.ENOSPC
    assert files_below(store.folder) == before
    assert store.find(Number(1)) and made(store)


def test_full_disk_at_the_manifest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ulelib.jobs.store.write_text", full)
    with pytest.raises(OSError, match="What was finished before is kept"):
        made(store)
    assert files_below(store.folder) == set()


def test_other_errors_of_a_computation_pass_through(store: Store) -> None:
    def denied(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "a file elsewhere")

    with pytest.raises(PermissionError, match="a file elsewhere") as caught:
        store.put(SPEC, denied, MADE_BY)
    assert "ULELIB_STORE" not in str(caught.value)


def test_a_store_where_something_else_stands_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    for use in (made, lambda store: store.find(SPEC)):
        with pytest.raises(OSError, match="Set ULELIB_STORE to a folder that can"):
            use(Store(tmp_path / "store"))


def test_a_disk_without_locks_says_what_to_do(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        pytest.raises(OSError, match=r"cannot lock files .*set ULELIB_STORE to a folder on a disk"),
        store.claim(SPEC),
    ):
        pass


def test_a_home_folder_is_a_home_folder() -> None:
    assert Store(Path("~/somewhere")).folder == Path.home() / "somewhere"


def test_write_text_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "record.json"
    write_text(path, "first ε")
    assert path.read_text(encoding="utf-8") == "first ε"

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "second")
    assert path.read_text(encoding="utf-8") == "first ε"
    assert os.listdir(path.parent) == ["record.json"]


# --- artifacts that travel -----------------------------------------------------------------------


def test_what_was_packed_is_whole_elsewhere(store: Store, tmp_path: Path) -> None:
    made(store)
    other = Store(tmp_path / "other")
    unpack(SPEC, other, pack(SPEC, store))
    unpack(SPEC, other, {})  # there already
    place = other.find(SPEC)
    assert place and (place / "value.txt").read_text() == "seventeen"
    (place / ".ipynb_checkpoints").mkdir()  # what looks into a folder may leave something there
    assert pack(SPEC, other) == pack(SPEC, store)
    with pytest.raises(KeyError, match="is not in"):
        pack(Number(4), store)


@pytest.mark.parametrize("name", ["../value.txt", "/value.txt", "a/b", "..", ""])
def test_a_packed_file_cannot_leave_its_folder(store: Store, tmp_path: Path, name: str) -> None:
    made(store)
    files = {**pack(SPEC, store), name: b"x"}
    with pytest.raises(ValueError, match="not the name of a file"):
        unpack(SPEC, Store(tmp_path / "other"), files)
    assert files_below(tmp_path / "other") == set()


def test_a_pack_of_another_spec_is_refused(store: Store, tmp_path: Path) -> None:
    made(store)
    with pytest.raises(ValueError, match="another spec"):
        unpack(Number(4), Store(tmp_path / "other"), pack(SPEC, store))


# --- kills and rivals ----------------------------------------------------------------------------

# A computation that says that it has begun, counts itself, and dawdles until it is let go.
WORKER = """
import os, time
from pathlib import Path
from ulelib.settings import settings
from ulelib.jobs.store import Store

@settings
class Number:  # as above: that one's module would import torch
    seed: int = 3

SPEC = Number()
folder = Path(os.environ["WORK"])
def fill(place):
    (place / "value.txt").write_text("half")
    with (folder / "count").open("a") as file:
        file.write("1")
    (folder / "begun").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)
    (place / "value.txt").write_text("seventeen")
store = Store(folder / "store")
(folder / f"ready-{os.getpid()}").touch()
with store.claim(SPEC, wait=os.environ["WAIT"] == "yes") as mine:
    if mine and not store.find(SPEC):
        store.put(SPEC, fill, {"machine": {"device": "", "threads": 1}, "commit": None})
place = store.find(SPEC)
print((place / "value.txt").read_text() if place else "under way elsewhere")
"""


def test_a_killed_computation_leaves_nothing_half_made(store: Store, tmp_path: Path) -> None:
    kill_at(tmp_path / "begun", start_python(WORKER, WORK=tmp_path, WAIT="yes"))
    assert store.find(SPEC) is None
    made(store)
    assert files_below(store.folder / "number") == {
        f"{key_of(SPEC)}/{name}" for name in ("value.txt", MANIFEST)
    }


def test_rivals_compute_once(tmp_path: Path) -> None:
    rivals = [start_python(WORKER, WORK=tmp_path, WAIT="yes") for _ in range(2)]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ready-*"))) < 2 or not (tmp_path / "begun").exists():
        assert all(rival.poll() is None for rival in rivals) and time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(1)  # the second one is at the lock by now
    assert "elsewhere" in run_python(WORKER, WORK=tmp_path, WAIT="no")
    (tmp_path / "go").touch()
    assert [rival.communicate(timeout=60)[0].strip() for rival in rivals] == ["seventeen"] * 2
    assert (tmp_path / "count").read_text() == "1"


# A real, small Lab that reports the stages it begins, and dawdles in one of the kind STOP.
STAGES = (
    QUICK_LAB
    + """
import os, time
from pathlib import Path
from ulelib import defenders
from ulelib.jobs import execute
folder = Path(os.environ["WORK"])
def reported(name, module, attribute, last):
    inner = getattr(module, attribute)
    def wrapped(*arguments, **options):
        log = folder / "log"
        with log.open("a") as file:
            file.write(name + "\\n")
        if os.environ.get("STOP") == name:
            # Not at the start: in the first round, or after the first epoch, it waits to be killed.
            def at_the_end_of_a_pass(*a, **k):
                (folder / "marker").touch()
                time.sleep(120)
            inner.__globals__[last] = at_the_end_of_a_pass
        return inner(*arguments, **options)
    setattr(module, attribute, wrapped)
reported("generation", defenders.Bilevel, "make", "signed_gradient_steps")
reported("training", execute, "exploit", "accuracy")
lab = lab_module.Lab("smoke", store=folder / "store")
print(lab.table([lab.cell("clean"), lab.cell("ULEO")]).accuracy.tolist())
"""
)


@pytest.mark.slow
def test_killed_lab_loses_the_stage_under_way_alone(tmp_path: Path) -> None:
    """Killed in the first training, then in the generation: what was finished is not made again."""
    log, marker = tmp_path / "log", tmp_path / "marker"

    def begun() -> list[str]:
        """The stages that were begun since the last call."""
        names = log.read_text().split()
        log.unlink()
        return names

    kill_at(marker, start_python(STAGES, WORK=tmp_path, STOP="training"))
    assert begun() == ["training"]
    marker.unlink()
    kill_at(marker, start_python(STAGES, WORK=tmp_path, STOP="generation"))
    assert begun() == ["training", "generation"]
    told = run_python(STAGES, WORK=tmp_path)
    assert begun() == ["generation", "training"]
    kept = sorted(path.parent.name for path in (tmp_path / "store").rglob(MANIFEST))
    assert len(kept) == 3 and not list((tmp_path / "store").rglob("*.tmp-*"))
    assert told.splitlines()[-1] == run_python(STAGES, WORK=tmp_path).splitlines()[-1]


def test_files_of_a_file_manager_are_no_damage(store: Store) -> None:
    place = made(store)
    (place / ".DS_Store").write_bytes(b"looked at")
    assert store.find(SPEC) == place


def test_whoever_may_enter_the_store_may_read_what_it_holds(store: Store) -> None:
    """Safetensors makes files for their writer alone; several people may share a store."""

    def secretive(folder: Path) -> None:
        fill(folder)
        (folder / "value.txt").chmod(0o600)

    before = os.umask(0o022)
    try:
        with store.claim(SPEC):
            place = store.put(SPEC, secretive, MADE_BY)
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o777 == 0o755
    assert (place / "value.txt").stat().st_mode & 0o777 == 0o644


def test_an_error_that_names_another_folder_keeps_its_words(store: Store) -> None:
    def full_cache(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "no space for the cache: set ULELIB_CACHE")

    with pytest.raises(OSError, match="set ULELIB_CACHE"), store.claim(SPEC):
        store.put(SPEC, full_cache, MADE_BY)
