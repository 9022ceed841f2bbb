"""The step of every training: gradient, clip, optimizer, learning rate; on a GPU as one CUDA graph.

A small network's step is some hundred kernels, which a GPU computes faster than Python can launch
them. So on a GPU the step is captured once and then replayed with one launch: inputs are copied
into fixed buffers, and the learning rate is a tensor. On a processor nothing is captured.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ulelib.machine import device

EAGER_STEPS = 3  # before a capture: cuDNN chooses its kernels and the optimizer makes its buffers

Loss = Callable[..., tuple[torch.Tensor, ...]]
Replay = Callable[[], tuple[torch.Tensor, ...]]
Capture = Callable[[Replay], Replay]  # of a step, to the same step as one graph


def graphs() -> Capture | None:
    """How steps are captured here: `cuda_graph` on a GPU, unless `$ULELIB_CUDA_GRAPHS` is 0."""
    wanted = device().type == "cuda" and os.environ.get("ULELIB_CUDA_GRAPHS", "1") != "0"
    return cuda_graph if wanted else None


def sgd(
    model: nn.Module, learning_rate: float, *, rate_in_tensor: bool | None = None, **options: Any
) -> torch.optim.SGD:
    """SGD of all parameters.

    Args:
        rate_in_tensor: whether a graph can read the learning rate; None: on a GPU, also where
            steps are not captured, so that both compute the same.
        options: of `torch.optim.SGD`.
    """
    if rate_in_tensor is None:
        rate_in_tensor = device().type == "cuda"
    if not rate_in_tensor:
        return torch.optim.SGD(model.parameters(), learning_rate, **options)
    rate = torch.tensor(learning_rate, device=next(model.parameters()).device)
    return torch.optim.SGD(model.parameters(), rate, fused=True, **options)


class Schedule:
    """A learning rate over the steps of a training.

    Args:
        optimizer: whose rate it is, at its peak.
        make: one of torch's schedulers for an optimizer. It computes with Python's numbers, also
            where the optimizer's rate is a tensor on a GPU.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, make: Callable[[torch.optim.Optimizer], LRScheduler]
    ) -> None:
        self.optimizer, self.computed = optimizer, optimizer
        rate = optimizer.param_groups[0]["lr"]
        if isinstance(rate, torch.Tensor):
            self.computed = torch.optim.SGD([torch.zeros(1)], float(rate))
        self.scheduler = make(self.computed)
        self._copy()

    def step(self) -> None:
        """To the next step's rate."""
        if self.computed is not self.optimizer:
            self.computed.step()  # of nothing: torch's schedulers expect it
        self.scheduler.step()
        self._copy()

    def _copy(self) -> None:
        if self.computed is not self.optimizer:
            self.optimizer.param_groups[0]["lr"].fill_(self.computed.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        return {
            "rate": self.computed.param_groups[0]["lr"],
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state["scheduler"])
        self.computed.param_groups[0]["lr"] = state["rate"]
        self._copy()


class Step:
    """One step of training, each time it is called.

    Args:
        model: whose gradient is clipped.
        optimizer: of its parameters.
        loss_of: of a batch's tensors, the loss first and then whatever the caller wants to see. In
            a graph it must not draw random numbers or look at a value.
        clip: largest norm of the gradient; None does not clip.
        schedule: of the learning rate, moved on after each step; None: it stays.
        capture: makes a graph of a step, see `graphs`; None: steps are not captured.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_of: Loss,
        *,
        clip: float | None = None,
        schedule: Schedule | None = None,
        capture: Capture | None = None,
    ) -> None:
        self.model, self.optimizer, self.loss_of = model, optimizer, loss_of
        self.clip, self.schedule, self.capture = clip, schedule, capture
        self._taken = 0
        self._graphs: dict[tuple[torch.Size, ...], tuple[tuple[torch.Tensor, ...], Replay]] = {}

    def __call__(self, *batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Take a step on a batch.

        Returns:
            what `loss_of` gives, detached; in a graph the same tensors in every step.
        """
        if self.capture is None or self._taken < EAGER_STEPS:
            outputs = self._eager(*batch)
        else:
            outputs = self._replayed(self.capture, *batch)
        self._taken += 1
        if self.schedule is not None:
            self.schedule.step()
        return outputs

    def _eager(self, *batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.optimizer.zero_grad()
        outputs = self.loss_of(*batch)
        outputs[0].backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return tuple(one.detach() for one in outputs)

    def _replayed(self, capture: Capture, *batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shapes = tuple(one.shape for one in batch)  # the last batch of a pass may be smaller
        if shapes not in self._graphs:
            buffers = tuple(one.clone() for one in batch)
            try:
                self._graphs[shapes] = buffers, capture(lambda: self._eager(*buffers))
            except RuntimeError as error:  # of CUDA: the same is computed, step by step
                warnings.warn(f"a step cannot be captured, so it is slower: {error}", stacklevel=3)
                self.capture = None
                return self._eager(*batch)
        buffers, replay = self._graphs[shapes]
        for buffer, one in zip(buffers, batch, strict=True):
            buffer.copy_(one)
        return replay()


def cuda_graph(step: Callable[[], tuple[torch.Tensor, ...]]) -> Replay:
    """Capture a step, which computes nothing yet; the result computes it each time it is called."""
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    torch.cuda.synchronize()
    try:
        with torch.cuda.graph(graph):
            outputs = step()
    finally:  # where the capture fails, torch stays on its stream
        torch.cuda.set_stream(before)

    def replay() -> tuple[torch.Tensor, ...]:
        graph.replay()
        return outputs

    return replay
