"""Checkpoints inside a long computation: a laptop's lid costs minutes, not hours.

The loop of Algorithm 1 offers its state after each inner batch, a training after each epoch. A
`FileCheckpoint` saves it where more than `EVERY` seconds went by since the last save, and gives it
back to the same computation when that begins anew. A computation that goes on gives the same bits
as one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ulelib.files import PART, sha256

EVERY = 300.0  # seconds between two saves
SUFFIX = ".checkpoint"


class Checkpoint(Protocol):
    """Where a computation leaves its state, and finds it again."""

    def restore(self) -> dict[str, Any] | None:
        """The state that was saved last; None: begin at the beginning."""

    def offer(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save `state()`, if it is time to.

        Args:
            state: gives tensors, numbers, texts, and dicts, lists and tuples of them.
        """


class NoCheckpoint:
    """Saves nothing."""

    def restore(self) -> None:
        return None

    def offer(self, state: Callable[[], dict[str, Any]]) -> None:
        return None


NO_CHECKPOINT = NoCheckpoint()


class FileCheckpoint:
    """A file `PLACE.ABOUT.SHA256.checkpoint`: its name says what it belongs to, and its checksum.

    Args:
        place: folder and first part of the name.
        about: plain data on which the bits depend beside the spec: code, machine, inputs. Only a
            state that was saved under the same is restored; others stay until `remove`.
        every: seconds between two saves; None: `$ULELIB_CHECKPOINT_SECONDS`, or `EVERY`.
    """

    def __init__(self, place: Path, about: Mapping[str, Any], every: float | None = None) -> None:
        if every is None:
            every = float(os.environ.get("ULELIB_CHECKPOINT_SECONDS") or EVERY)
        self.place, self.every = place, every
        plain = json.dumps(dict(about), sort_keys=True)
        self._prefix = f"{place.name}.{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
        self._part = place.with_name(f".{self._prefix}{PART}")
        self._saved = time.monotonic()

    def restore(self) -> dict[str, Any] | None:
        """See `Checkpoint`.

        Warns:
            UserWarning: a damaged file, which is removed; or only states of other code, another
                machine or other inputs are there, so that the computation begins anew.
        """
        for file in self._files(self._prefix):
            if file.name == self._name(sha256(file)):
                found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
                return found
            warnings.warn(f"the checkpoint {file} is damaged: removed", stacklevel=2)
            file.unlink(missing_ok=True)
        if others := self._files(self.place.name):
            warnings.warn(
                f"{others[0]} was saved by other code, on another machine, with another number of "
                "threads or for other inputs, so its bits may differ: the computation begins anew",
                stacklevel=2,
            )
        return None

    def offer(self, state: Callable[[], dict[str, Any]]) -> None:
        """See `Checkpoint`.

        Warns:
            UserWarning: it could not be saved, as on a full disk. The computation goes on.
        """
        if time.monotonic() - self._saved < self.every:
            return
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            with self._part.open("wb") as file:
                torch.save(state(), file)
                file.flush()
                os.fsync(file.fileno())
            before = self._files(self._prefix)
            new = self.place.with_name(self._name(sha256(self._part)))
            self._part.replace(new)
            for old in before:
                if old != new:
                    old.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:  # the latter of torch's writer
            warnings.warn(f"no checkpoint could be saved at {self.place}: {error}", stacklevel=2)
            self._part.unlink(missing_ok=True)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """The computation is done: no state of it is needed, whoever saved it."""
        for file in self._files(self.place.name):
            file.unlink(missing_ok=True)
        for part in self.place.parent.glob(f".{self.place.name}.*{PART}"):  # of a killed process
            part.unlink(missing_ok=True)

    def _files(self, prefix: str) -> list[Path]:
        """The saved states, latest first: two if a process was killed between save and removal."""
        found = self.place.parent.glob(f"{prefix}.*{SUFFIX}")
        return sorted(found, key=lambda file: -file.stat().st_mtime_ns)

    def _name(self, digest: str) -> str:
        return f"{self._prefix}.{digest[:16]}{SUFFIX}"


def states_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The state of networks, optimizers, generators and whatever else has a `state_dict`."""
    return {name: _state_of(part) for name, part in parts.items()}


def _state_of(part: Any) -> Any:
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, nn.Module):  # a queue of keys, for one, is not in its `state_dict`
        return dict([*part.named_parameters(), *part.named_buffers()])
    return part.state_dict()


@torch.no_grad()
def put_back(states: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Give each of `parts` its state of `states_of`."""
    for name, part in parts.items():
        if isinstance(part, torch.Generator):
            part.set_state(states[name])
        elif isinstance(part, nn.Module):
            for key, tensor in _state_of(part).items():
                tensor.copy_(states[name][key])
        elif isinstance(part, torch.optim.Optimizer):
            _load(part, states[name])
        else:
            part.load_state_dict(states[name])


def _load(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state; a learning rate in a tensor stays the same tensor, which a graph reads."""
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, torch.Tensor):
            group["lr"] = rate.copy_(group["lr"])
