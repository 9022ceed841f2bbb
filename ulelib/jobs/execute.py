"""Execution: a stage's artifact is computed, unless the store has it, and read.

    compute(stage, store)   make its artifact, unless it is there
    find(stage, store)      where it is
    load(stage, store)      what it holds
    record(stage, store)    what is recorded of it: its numbers, and who computed them

All three are plain functions of plain data: any process on any machine can run them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ulelib import data, machine
from ulelib.bilevel import NotConverged
from ulelib.checkpoints import FileCheckpoint
from ulelib.data import ImageSet
from ulelib.exploiters import (
    SEED_OFFSET,
    Training,
    accuracy,
    exploit,
    prepared,
    prepared_test,
)
from ulelib.files import sha256, write_text
from ulelib.jobs import strips
from ulelib.jobs.inputs import images, rows_of
from ulelib.jobs.store import MANIFEST, Store, manifest
from ulelib.models import build_model, headless
from ulelib.perturbation import Perturbation
from ulelib.pretraining import Pretraining, features, linear_probe, pretrain
from ulelib.restoration import restored
from ulelib.settings import key_of
from ulelib.specs import (
    WHOLE,
    Attacked,
    Noise,
    Part,
    Pretrained,
    Refitted,
    Run,
    Seen,
    Stage,
    needs,
    noises_of,
)
from ulelib.visibility import Visibility, visibility

T = TypeVar("T")
RECORD = "record.json"  # of every stage: its numbers
UNFINISHED = "unfinished"  # the store's folder of checkpoints


def compute(stage: Stage, store: Store, *, wait: bool = True) -> bool:
    """Make a stage's artifact, and before it all that it needs; nothing where it is there.

    A long stage saves its state now and then, and goes on from there when it is asked for again on
    this store.

    Args:
        wait: for another process that is at work on it.

    Returns:
        whether it is there now: False if another process is at work and `wait` is False.

    Raises:
        what the stage raises; see `bilevel.minimise_error`, `exploiters.exploit`.
    """
    if find(stage, store):
        return True
    for needed in needs(stage):
        if not compute(needed, store, wait=wait):
            return False
    with store.claim(stage, wait) as mine:
        if not mine:
            return False
        about = {"inputs": [sha256(_found(one, store) / MANIFEST) for one in needs(stage)]}
        place = store.folder / UNFINISHED / key_of(stage)
        checkpoint = FileCheckpoint(place, machine.code_and_machine() | about)
        if not find(stage, store):  # not made while this process waited
            write = _WRITE[type(stage)]
            store.put(
                stage, lambda folder: write(stage, folder, store, checkpoint), machine.made_by()
            )
        checkpoint.remove()
    return True


def find(stage: Stage, store: Store) -> Path | None:
    """The folder of a stage's artifact; None if there is none.

    One that was computed with other noise than the store holds now, as where noise was removed and
    made again by another number of threads, is set aside.
    """
    place = store.find(stage)
    if place is None or isinstance(stage, Noise):
        return place
    try:
        used = _read_record(place)["noise"]
    except (OSError, ValueError, KeyError):  # of another version: whoever reads it will say so
        return place
    for noise in noises_of(stage):
        made = store.find(noise)
        digest = None if made is None else _read_record(made).get("sha256")
        if digest is not None and used.get(key_of(noise)) != digest:
            store.set_aside(place, ValueError("it was computed with other noise than is there now"))
            return None
    return place


def load(stage: Stage, store: Store) -> Any:
    """What a stage holds: a `Perturbation`, `Training`, `Pretraining`, `Visibility`, or an accuracy
    in percent.

    Raises:
        KeyError: it has not been computed.
        Uninterpretable: it is whole, but another version of the code wrote it.
    """
    return _interpreted(_found(stage, store), _READ[type(stage)])


# What reading may raise of a file that another version wrote; the last two of a network's weights.
NOT_UNDERSTOOD = (ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)


def _interpreted(place: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(place)
    except NOT_UNDERSTOOD as error:
        raise Uninterpretable(
            f"{place} is whole, but this version of ulelib cannot interpret it ({error!r:.300}). "
            "It stays as it is: read it with the version that wrote it, commit "
            f"{manifest(place)['made'].get('commit')}, or remove the folder"
        ) from error


class Uninterpretable(RuntimeError):
    """An artifact that is whole and that this code does not understand."""


def record(stage: Stage, store: Store) -> dict[str, Any]:
    """What is recorded of a computed stage, as plain JSON data; see `schema.check_stage`.

    Returns:
        "spec", all of it; "result": the numbers that it gave (of a `Training`; of a perturbation,
        its rounds, what it is made of, its SHA-256 and a strip of it), and under "noise" the
        SHA-256 of every perturbation that it used, by key; "made": who computed it, see
        `machine.made_by`.
    """
    place = _found(stage, store)
    if not isinstance(stage, Noise):  # who shows its numbers must be able to read them
        _interpreted(place, _READ[type(stage)])
    written, result = manifest(place), _interpreted(place, _read_record)
    return {"spec": written["spec"], "result": result, "made": written["made"]}


def _found(stage: Stage, store: Store) -> Path:
    place = store.find(stage)
    if place is None:
        raise KeyError(f"{type(stage).__name__} {key_of(stage)} is not in {store.folder}")
    return place


def network(run: Run, store: Store) -> nn.Module:
    """The trained network of a stored run, in eval mode, on the device.

    Raises:
        KeyError, Uninterpretable: see `load`.
    """
    place = _found(run, store)
    classes = len(images(run.test, "test").classes)
    model = machine.seeded_model(lambda: build_model(run.net, classes), seed=0)
    _interpreted(
        place, lambda folder: model.load_state_dict(load_file(folder / "network.safetensors"))
    )
    return model.eval().requires_grad_(False)


def published(part: Part, store: Store) -> ImageSet:
    """The images of a part as their owner publishes them, uint8.

    Raises:
        ValueError: the noise does not fit these images.
    """
    whole = images(part.data, "train")
    rows = rows_of(whole, part.take)
    if part.noise is None:
        return whole if part.take == WHOLE else whole.select(rows)
    noise: Perturbation = load(part.noise, store)
    same = part.noise.data.pictures == part.data.pictures
    made_for = rows_of(whole, part.noise.take) if same else rows
    protected = whole if len(made_for) == len(whole) else whole.select(made_for)
    if part.index == "class":
        noise = noise.indexed_by_class(protected)
    if part.index == "class mean":
        source = images(part.noise.data, "train")
        made_on = source.select(rows_of(source, part.noise.take))
        noise = noise.class_means(made_on).fitted_to(protected)
    if part.index == "resized":
        noise = noise.resized(protected)
    return noise.apply(protected, part.export, torch.searchsorted(made_for, rows))


# --- what each kind of stage writes and reads -----------------------------------------------------


def _write_noise(stage: Noise, folder: Path, store: Store, checkpoint: FileCheckpoint) -> None:
    whole = images(stage.data, "train")
    chosen = whole if stage.take == WHOLE else whole.select(rows_of(whole, stage.take))
    used = noise_digests(stage, store)
    try:
        made = stage.method.make(
            chosen,
            stage.seed,
            stage.precision,
            network=lambda run: network(run, store),
            report=lambda line: None,
            checkpoint=checkpoint,
        )
    except NotConverged as error:
        _keep_partial(error, store.folder / "partial" / f"{key_of(stage)}.safetensors")
        raise
    made.save(folder / "delta.safetensors")
    result = {"rounds": made.rounds, "made_of": made.made_of, "seconds": made.seconds}
    result |= {"sha256": made.sha256, "strip": strips.encode(made), "noise": used}
    _write_record(folder, result)


def _keep_partial(error: NotConverged, path: Path) -> None:
    """What the loop had by then; it is in the exception too, but a process may be at its end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        error.perturbation.save(path)
        error.add_note(f"It is kept in {path}, too.")
    except OSError as trouble:
        path.unlink(missing_ok=True)
        error.add_note(f"It could not be kept in {path}: {trouble}")


def _write_run(stage: Run, folder: Path, store: Store, checkpoint: FileCheckpoint) -> None:
    used = noise_digests(stage, store)
    train, added_last = _mixed(stage.train, store), None
    if stage.noise_after:
        clean = _clean(stage.train, store)
        added_last, train = train.images.to(torch.int16) - clean.images, clean
    if stage.restore is not None:
        clean, seed = _clean(stage.train, store), stage.seed + SEED_OFFSET
        train = restored(train, clean, stage.restore, seed, stage.precision)
    training, model = exploit(
        train,
        images(stage.test, "test"),
        stage.exploiter,
        stage.net,
        stage.recipe,
        seed=stage.seed,
        precision=stage.precision,
        added_last=added_last,
        start=None if stage.start is None else network(stage.start, store),
        checkpoint=checkpoint,
    )
    _write_trained(folder, model, training, used)


def _write_pretrained(
    stage: Pretrained, folder: Path, store: Store, checkpoint: FileCheckpoint
) -> None:
    used = noise_digests(stage, store)
    pretraining, backbone = pretrain(
        _mixed(stage.train, store),
        images(stage.test, "train"),
        images(stage.test, "test"),
        stage.contrastive,
        stage.net,
        stage.recipe,
        seed=stage.seed,
        precision=stage.precision,
        checkpoint=checkpoint,
    )
    _write_trained(folder, backbone, pretraining, used)


def _write_attacked(stage: Attacked, folder: Path, store: Store, checkpoint: object) -> None:
    started, used = time.perf_counter(), noise_digests(stage, store)
    test = images(stage.run.test, "test")
    reached = accuracy(
        network(stage.run, store),
        prepared_test(test, stage.run.exploiter),
        attack=stage.attack,
        seed=stage.seed,
    )
    _write_reached(folder, reached, test, started, used)


def _write_refitted(stage: Refitted, folder: Path, store: Store, checkpoint: object) -> None:
    started, used, run = time.perf_counter(), noise_digests(stage, store), stage.run
    every = images(run.test, "train")
    if len(every) < stage.images:
        raise ValueError(f"Refitted.images is {stage.images}, of {len(every)} in {every.name}")
    rows = torch.randperm(len(every), generator=torch.Generator().manual_seed(stage.seed))
    known = prepared(every.select(rows[: stage.images]), run.exploiter.prepare)
    seen = prepared_test(images(run.test, "test"), run.exploiter)
    backbone, _ = headless(network(run, store))
    taught, asked = (features(backbone, one, run.precision) for one in (known, seen))
    reached = linear_probe(taught, known, asked, seen)
    _write_reached(folder, reached, seen, started, used)


def _write_seen(stage: Seen, folder: Path, store: Store, checkpoint: object) -> None:
    started, used, part = time.perf_counter(), noise_digests(stage, store), stage.part
    clean = _clean([part], store)
    result = visibility(clean.images, published(part, store).images).numbers
    _write_record(folder, result | {"seconds": time.perf_counter() - started, "noise": used})


def _read_seen(place: Path) -> Visibility:
    return Visibility.of(_read_record(place))


def _write_reached(
    folder: Path, reached: float, test: ImageSet, started: float, noise: dict[str, str]
) -> None:
    """What a stored network reaches on test images, in percent."""
    result = {"accuracy": reached, "chance": 100 / len(test.classes)}
    _write_record(folder, result | {"seconds": time.perf_counter() - started, "noise": noise})


def _read_reached(place: Path) -> float:
    return float(_read_record(place)["accuracy"])


def noise_digests(stage: Stage, store: Store) -> dict[str, str]:
    """The SHA-256 of every perturbation that a stage used, by key: those inside of it, and those
    that a network which it attacks was trained on."""
    digests: dict[str, str] = {}
    for needed in needs(stage):
        digests |= _interpreted(_found(needed, store), lambda place: _read_record(place)["noise"])
        if isinstance(needed, Noise):
            made = _interpreted(_found(needed, store), lambda place: _read_record(place)["sha256"])
            digests[key_of(needed)] = made
    return digests


def _mixed(parts: Iterable[Part], store: Store) -> ImageSet:
    """The published images of all parts, one behind the other."""
    return functools.reduce(data.mix, (published(part, store) for part in parts))


def _clean(parts: Iterable[Part], store: Store) -> ImageSet:
    """The images of all parts as they were before any noise, in the same order."""
    return _mixed([Part(part.data, part.take) for part in parts], store)


def _write_trained(
    folder: Path, model: nn.Module, measured: Training | Pretraining, noise: dict[str, str]
) -> None:
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "network.safetensors")
    _write_record(folder, dataclasses.asdict(measured) | {"noise": noise})


def _read_trained(kind: Callable[..., T]) -> Callable[[Path], T]:
    """Reads a `Training` or a `Pretraining`."""

    def read(place: Path) -> T:
        result = _read_record(place)
        del result["noise"]
        return kind(**{**result, "curve": tuple(result["curve"])})

    return read


def _write_record(folder: Path, result: dict[str, Any]) -> None:
    write_text(folder / RECORD, json.dumps(result))


def _read_record(place: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((place / RECORD).read_text(encoding="utf-8"))
    return result


_WRITE: dict[type, Callable[..., None]] = {
    Noise: _write_noise,
    Run: _write_run,
    Pretrained: _write_pretrained,
    Attacked: _write_attacked,
    Refitted: _write_refitted,
    Seen: _write_seen,
}
_READ: dict[type, Callable[[Path], Any]] = {
    Noise: lambda place: Perturbation.load(place / "delta.safetensors"),
    Run: _read_trained(Training),
    Pretrained: _read_trained(Pretraining),
    Attacked: _read_reached,
    Refitted: _read_reached,
    Seen: _read_seen,
}
