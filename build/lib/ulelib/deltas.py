"""Delta while it is made: one for each image, or one for each class.

A method holds it as `delta` and moves it batch by batch:

    for batch in delta.passes(size, generator):
        delta.set(batch, moved(delta.of(batch)))
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

from ulelib.data import ImageSet
from ulelib.machine import device
from ulelib.perturbation import Perturbation, energy_shares, sample_of
from ulelib.pgd import random_start


class SampleWise:
    """One delta an image.

    Attributes:
        delta: `(N, 3 or 1, H, W)`, at first 0.
        labels: `(N,)` of all images.
        rows: `(M,)` of those that are protected.
        made_of: `energy_shares` after each round.
        kind: `Perturbation.kind`.
    """

    kind: ClassVar[str] = "sample_wise"

    def __init__(
        self, images: ImageSet, channels: int, only: tuple[int, ...] | None = None
    ) -> None:
        self.labels = images.labels.to(device())
        self.rows = torch.arange(len(images), device=device())
        if only is not None:
            if absent := sorted(set(only) - set(images.labels.tolist())):
                raise ValueError(f"only is {only}: {images.name} has no images of class {absent}")
            self.rows = self.rows[torch.isin(self.labels, torch.tensor(only, device=device()))]
        self.made_of: list[dict[str, float]] = []
        count, (height, width) = self._deltas(images), images.images.shape[2:]
        self.delta = torch.zeros(count, channels, height, width, device=device())

    def _deltas(self, images: ImageSet) -> int:
        return len(images)

    def draw(self, epsilon: float, generator: torch.Generator) -> None:
        """Begin anywhere in the ball, for what is protected."""
        for part in self.delta.split(100):  # the whole may be most of the memory
            part.copy_(random_start(part, epsilon, generator))
        left = torch.ones(len(self.delta), dtype=torch.bool, device=self.delta.device)
        left[self._place(self.rows)] = False
        self.delta[left] = 0

    def _place(self, batch: torch.Tensor) -> torch.Tensor:
        """Which rows of delta the images `batch` have."""
        return batch

    def of(self, batch: torch.Tensor) -> torch.Tensor:
        """The noise of the images `batch` `(B,)`, in the memory order that convolutions want."""
        return self.delta[batch].contiguous(memory_format=torch.channels_last)

    def set(self, batch: torch.Tensor, moved: torch.Tensor) -> None:
        self.delta[batch] = moved

    def passes(
        self, size: int, generator: torch.Generator, alike: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """Batches of the protected rows: in order; or, if `alike`, shuffled and of equal size, to
        one image."""
        return _batches(self._drawn(generator) if alike else self.rows, size, alike)

    def _drawn(self, generator: torch.Generator) -> torch.Tensor:
        """The rows of what is protected, in an order of its own."""
        return self.rows[torch.randperm(len(self.rows), generator=generator).to(device())]

    def end_round(self) -> None:
        """Note what delta is made of now."""
        rows = self._place(self.rows).unique()
        self.made_of.append(energy_shares(sample_of(self.delta, rows)))

    def perturbation(
        self,
        images: ImageSet,
        epsilon: float,
        defender: str,
        seconds: float,
        rounds: Sequence[float] = (),
    ) -> Perturbation:
        """The perturbation as it is now."""
        return Perturbation(
            delta=self.delta.cpu(),
            kind=self.kind,
            epsilon=epsilon,
            defender=defender,
            fingerprint=images.fingerprint,
            rounds=tuple(rounds),
            made_of=tuple(self.made_of),
            seconds=seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"delta": self.delta, "made_of": self.made_of}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.delta.copy_(state["delta"])
        self.made_of = list(state["made_of"])


class ClassWise(SampleWise):
    """One delta a class: after each batch, the mean of what its images' deltas would be.

    So the last batches decide, and they are drawn; both as released (`perturbation.py:166-223`).
    """

    kind = "class_wise"

    def _deltas(self, images: ImageSet) -> int:
        return len(images.classes)

    def _place(self, batch: torch.Tensor) -> torch.Tensor:
        return self.labels[batch]

    def of(self, batch: torch.Tensor) -> torch.Tensor:
        return super().of(self._place(batch))

    def set(self, batch: torch.Tensor, moved: torch.Tensor) -> None:
        labels = self.labels[batch]
        sums = torch.zeros_like(self.delta).index_add_(0, labels, moved)
        counts = torch.bincount(labels, minlength=len(self.delta))
        present = counts > 0
        self.delta[present] = sums[present] / counts[present].view(-1, 1, 1, 1)

    def passes(
        self, size: int, generator: torch.Generator, alike: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """What is protected once, in batches drawn under the seed."""
        return _batches(self._drawn(generator), size, alike)


DELTAS: dict[str, type[SampleWise]] = {"sample": SampleWise, "class": ClassWise}


class Batches:
    """Training batches without end, continuing across rounds.

    The order is drawn once, as released: there it is that of the data set, and pictures of a folder
    that stand sorted by class would come one class a batch.

    Args:
        together: batches of one size, drawn anew for each pass (see `Learning.together`).
    """

    def __init__(self, count: int, size: int, generator: torch.Generator, together: bool) -> None:
        self.count, self.size, self.generator, self.together = count, size, generator, together
        self.order, self.place = torch.empty(0), 0
        self.batches: tuple[torch.Tensor, ...] = ()
        self._draw()

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> torch.Tensor:
        if self.place == len(self.batches):
            if self.together:
                self._draw()
            self.place = 0
        self.place += 1
        return self.batches[self.place - 1]

    def _draw(self) -> None:
        self._order(torch.randperm(self.count, generator=self.generator))

    def _order(self, order: torch.Tensor) -> None:
        self.order, self.place = order, 0
        alone = self.count % self.size == 1  # the last image; batch norm cannot train on one
        self.batches = _batches(order.to(device()), self.size, self.together or alone)

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.order, "place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._order(state["order"])
        self.place = state["place"]


class Pass:
    """A pass over all that is protected, batch by batch; it can be stopped after any of them."""

    def __init__(self) -> None:
        self.batches: tuple[torch.Tensor, ...] = ()
        self.place, self.under_way = 0, False

    def begin(self, batches: tuple[torch.Tensor, ...]) -> None:
        self.batches, self.place, self.under_way = batches, 0, True

    def __iter__(self) -> Iterator[torch.Tensor]:
        """The batches that are left."""
        while self.place < len(self.batches):
            self.place += 1
            yield self.batches[self.place - 1]

    def end(self) -> None:
        self.under_way = False

    def state_dict(self) -> dict[str, Any]:
        batches = [batch.cpu() for batch in self.batches] if self.under_way else []
        return {"batches": batches, "place": self.place, "under_way": self.under_way}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches = tuple(batch.to(device()) for batch in state["batches"])
        self.place, self.under_way = state["place"], state["under_way"]


def _batches(order: torch.Tensor, size: int, alike: bool) -> tuple[torch.Tensor, ...]:
    """All of `order` in batches: of `size` but for the last, or as many `alike` to one image."""
    return order.tensor_split(math.ceil(len(order) / size)) if alike else order.split(size)
