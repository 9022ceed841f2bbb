"""The store under kill, damage, rivals and a full disk."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import time
import warnings
from pathlib import Path

import pytest

from helpers import QUICK_LAB, kill_at, run_python, start_python
from ulelib.store import MANIFEST, Store, canonical, key_of, write_text

SPEC = {"seed": 3}


def compute(folder: Path) -> None:
    (folder / "value.txt").write_text("seventeen")


def load(folder: Path) -> str:
    return (folder / "value.txt").read_text()


def must_not_compute(folder: Path) -> None:
    raise AssertionError("computed again")


def artifact(store: Store) -> Path:
    return store.folder / "number" / key_of(SPEC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def files_below(folder: Path) -> set[str]:
    """Everything that the store holds, but for its lock files."""
    paths = (path for path in folder.rglob("*") if path.suffix != ".lock" and path.is_file())
    return {str(path.relative_to(folder)) for path in paths}


def test_what_was_computed_is_found_again(store: Store) -> None:
    assert store.get("number", SPEC, compute, load) == "seventeen"
    assert store.get("number", SPEC, must_not_compute, load) == "seventeen"
    assert Store(store.folder).get("number", SPEC, must_not_compute, load) == "seventeen"
    manifest = json.loads((artifact(store) / MANIFEST).read_text())
    assert manifest["spec"] == SPEC and list(manifest["sha256"]) == ["value.txt"]


def test_kind_and_spec_both_count(store: Store) -> None:
    made: list[Path] = []

    def counted(folder: Path) -> None:
        made.append(folder)
        compute(folder)

    for kind, spec in (("a", SPEC), ("b", SPEC), ("a", {"seed": 4}), ("a", SPEC)):
        store.get(kind, spec, counted, load)
    assert len(made) == 3


def test_canonical_form_forgets_order_and_class_but_no_value() -> None:
    @dataclasses.dataclass(frozen=True)
    class Spec:
        seed: int
        names: tuple[str, ...]

    assert canonical(Spec(3, ("a",))) == canonical({"names": ["a"], "seed": 3})
    assert key_of(Spec(3, ("a",))) != key_of(Spec(3, ("b",)))
    assert key_of({"seed": 1}) != key_of({"seed": 1.5})
    assert len(key_of(SPEC)) == 16
    with pytest.raises(ValueError, match="JSON"):
        key_of({"epsilon": float("nan")})


def test_failed_computation_leaves_nothing(store: Store) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get("number", SPEC, fails, load)
    assert files_below(store.folder) == set()
    assert store.get("number", SPEC, compute, load) == "seventeen"


@pytest.mark.parametrize("file", ["value.txt", MANIFEST])
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "empty", "other JSON"])
def test_damage_is_seen_set_aside_and_mended(store: Store, file: str, damage: str) -> None:
    store.get("number", SPEC, compute, load)
    path = artifact(store) / file
    content = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(content[:-3])
        case "changed":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "other JSON":
            path.write_bytes(b"[]")
    damaged = files_below(artifact(store))
    with pytest.warns(
        UserWarning, match="is damaged .*set aside as .*damaged-0 and computed again"
    ):
        assert store.get("number", SPEC, compute, load) == "seventeen"
    aside = artifact(store).with_name(artifact(store).name + ".damaged-0")
    assert files_below(aside) == damaged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.get("number", SPEC, must_not_compute, load) == "seventeen"


def test_second_damage_is_set_aside_beside_the_first(store: Store) -> None:
    for number in range(2):
        store.get("number", SPEC, compute, load)
        (artifact(store) / "value.txt").unlink()
        with pytest.warns(UserWarning, match=f"damaged-{number}"):
            store.get("number", SPEC, compute, load)


def test_full_disk_says_what_to_do_and_loses_nothing(store: Store) -> None:
    def full(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    store.get("number", {"seed": 1}, compute, load)
    before = files_below(store.folder)
    with pytest.raises(OSError, match="free some space, or set ULELIB_STORE") as caught:
        store.get("number", SPEC, full, load)
    assert caught.value.errno == errno.ENOSPC
    assert files_below(store.folder) == before
    assert store.get("number", {"seed": 1}, must_not_compute, load) == "seventeen"
    assert store.get("number", SPEC, compute, load) == "seventeen"


def test_full_disk_at_the_manifest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ulelib.store.write_text", full)
    with pytest.raises(OSError, match="What was finished before is kept"):
        store.get("number", SPEC, compute, load)
    assert files_below(store.folder) == set()


def test_other_io_errors_pass_through(store: Store) -> None:
    def denied(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError, match="Permission denied"):
        store.get("number", SPEC, denied, load)


def test_a_store_that_cannot_be_written_says_what_to_do(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(PermissionError, match="Set ULELIB_STORE to a folder that can"):
        store.get("number", SPEC, compute, load)


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"sha256": []}', "17"])
def test_a_manifest_of_another_form_is_damage(store: Store, manifest: str) -> None:
    store.get("number", SPEC, compute, load)
    (artifact(store) / "artifact.json").write_text(manifest)
    with pytest.warns(UserWarning, match="is damaged"):
        assert store.get("number", SPEC, compute, load) == "seventeen"


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


# A computation that says that it has begun, counts itself, and dawdles until it is let go.
WORKER = """
import os, sys, time
from pathlib import Path
from ulelib.store import Store
folder = Path(os.environ["WORK"])
def compute(place):
    (place / "value.txt").write_text("half")
    with (folder / "count").open("a") as file:
        file.write("1")
    (folder / "begun").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)
    (place / "value.txt").write_text("seventeen")
(folder / f"ready-{os.getpid()}").touch()
print(Store(folder / "store").get(
    "number", {"seed": 3}, compute, lambda place: (place / "value.txt").read_text()
))
"""


def test_killed_computation_leaves_nothing_half_made(store: Store, tmp_path: Path) -> None:
    kill_at(tmp_path / "begun", start_python(WORKER, WORK=tmp_path))
    assert not artifact(store).exists()
    assert store.get("number", SPEC, compute, load) == "seventeen"
    assert files_below(store.folder / "number") == {
        f"{key_of(SPEC)}/{name}" for name in ("value.txt", MANIFEST)
    }


def test_rivals_compute_once(tmp_path: Path) -> None:
    rivals = [start_python(WORKER, WORK=tmp_path) for _ in range(2)]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ready-*"))) < 2 or not (tmp_path / "begun").exists():
        assert all(rival.poll() is None for rival in rivals) and time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(3)  # the second one is at the lock by now, and has said so
    (tmp_path / "go").touch()
    outputs = [rival.communicate(timeout=60)[0] for rival in rivals]
    first, second = sorted((output.strip() for output in outputs), key=len)
    assert first == "seventeen"
    assert re.fullmatch(r"another process computes number \w+; waiting for it\nseventeen", second)
    assert (tmp_path / "count").read_text() == "1"


# A real, small Lab that reports the stages it begins, and dawdles in one of the kind STOP.
STAGES = (
    QUICK_LAB
    + """
import os, time
from pathlib import Path
folder = Path(os.environ["WORK"])
def reported(name, module, attribute):
    inner = getattr(module, attribute)
    def wrapped(*arguments, **options):
        log = folder / "log"
        with log.open("a") as file:
            file.write(name + "\\n")
        if os.environ.get("STOP") == name:
            # Not at the start: when the first round, or epoch, is measured, it waits to be killed.
            from ulelib import bilevel, exploiters
            last = {"generation": (bilevel, "_errors"), "training": (exploiters, "accuracy")}[name]
            def at_the_end_of_a_pass(*a, **k):
                (folder / "marker").touch()
                time.sleep(120)
            setattr(*last, at_the_end_of_a_pass)
        return inner(*arguments, **options)
    setattr(module, attribute, wrapped)
from ulelib import defenders
reported("generation", defenders, "minimise_error")
reported("training", lab_module, "exploit")
lab = lab_module.Lab("smoke", store=folder / "store")
print(lab.exploit().accuracy, lab.exploit("ULEO").accuracy)
"""
)


@pytest.mark.slow
def test_killed_lab_loses_the_stage_under_way_alone(tmp_path: Path) -> None:
    """Killed in the first training, then in the generation: what was finished is not made again."""
    log, marker = tmp_path / "log", tmp_path / "marker"

    def stages() -> list[str]:
        """Those that were begun since the last call."""
        begun = log.read_text().split()
        log.unlink()
        return begun

    kill_at(marker, start_python(STAGES, WORK=tmp_path, STOP="training"))
    assert stages() == ["training"]
    marker.unlink()
    kill_at(marker, start_python(STAGES, WORK=tmp_path, STOP="generation"))
    assert stages() == ["training", "generation"]
    run_python(STAGES, WORK=tmp_path)
    assert stages() == ["generation", "training"]
    kept = sorted(path.parent.name for path in (tmp_path / "store").rglob(MANIFEST))
    assert len(kept) == 3 and not list((tmp_path / "store").rglob("*.tmp-*"))
