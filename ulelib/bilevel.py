"""Algorithm 1: sample-wise and class-wise error-minimising perturbations.

Liu et al. 2021, appendix B and equation 3, after Huang et al., ICLR 2021:

    argmin_theta  E_(x, y) [ min_delta  L(F'(view(x) + delta; theta), y) ],  |delta|_inf <= epsilon

    repeat
        for M batches:   theta <- Optimize(view(x) + delta, y, theta)          outer step
        for all images:  delta <- delta - step * sign(gradient of L), clipped  inner step
        error <- Eval(F'(view(x) + delta; theta), y)
    until error < lambda

The four defenders of the paper differ only in `view`. Read `minimise_error` beside the algorithm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from ulelib.data import ImageSet
from ulelib.machine import autocast, device, seeded_model
from ulelib.perturbation import Perturbation
from ulelib.pgd import signed_gradient_steps
from ulelib.views import FIXED, View


@dataclass(frozen=True)
class BilevelConfig:
    """Settings of the loop; the defaults are the paper's for CIFAR-10, sample-wise (section 5.1
    and the released commands).

    Attributes:
        epsilon: L-infinity radius, in units of the pixel range [0, 1].
        step: length of an inner step, same unit.
        inner_steps: signed-gradient steps on every image, each round (class-wise: each batch).
        outer_batches: M, the training batches between two passes over delta.
        outer_batch_size: images in each of them.
        inner_batch_size: images whose delta is updated at once; changes speed, not the result
            (sample-wise, in eval mode, images do not see each other).
        stop_error: lambda; the loop ends when the source model's error is below it.
        max_rounds: rounds after which the loop gives up with `NotConverged`.
        learning_rate, momentum, weight_decay, clip: SGD of the source model, at a constant rate.
        from_scratch: start the source model anew in each round, as section 3.3 says; the released
            code, and Algorithm 1 itself, carry theta over.
        random_start: start from uniform noise, as Algorithm 1 says; the released code starts at 0.
    """

    epsilon: float = 8 / 255
    step: float = 0.8 / 255
    inner_steps: int = 20
    outer_batches: int = 10
    outer_batch_size: int = 512
    inner_batch_size: int = 512
    stop_error: float = 0.01
    max_rounds: int = 60
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 5.0
    from_scratch: bool = False
    random_start: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1:
            raise ValueError(
                f"epsilon is {self.epsilon}: it must lie in (0, 1], in units of the pixel range; "
                f"for 8 gray levels write 8 / 255"
            )
        if not 0 < self.step <= 2 * self.epsilon:
            raise ValueError(f"step is {self.step}: it must lie in (0, 2 * epsilon]")
        if not 0 < self.stop_error < 1:
            raise ValueError(f"stop_error is {self.stop_error}: an error rate lies in (0, 1)")
        sizes = (self.outer_batches, self.outer_batch_size, self.inner_batch_size, self.max_rounds)
        if min(*sizes, self.inner_steps) < 1:
            raise ValueError("steps, batches, batch sizes and rounds must be at least 1")


class NotConverged(RuntimeError):
    """The stop error was not reached; `perturbation` holds what the loop had by then."""

    def __init__(self, message: str, perturbation: Perturbation) -> None:
        super().__init__(message)
        self.perturbation = perturbation


class Diverged(RuntimeError):
    """A training loss became NaN or infinite; exploiters raise it too."""


def minimise_error(
    images: ImageSet,
    make_model: Callable[[], nn.Module],
    view: View,
    config: BilevelConfig,
    *,
    gray_delta: bool = False,
    class_wise: bool = False,
    stop_view: View | None = None,
    seed: int = 0,
    precision: str = "float32",
    name: str = "custom",
) -> Perturbation:
    """Algorithm 1: error-minimising noise for `images`.

    Args:
        images: the clean training set.
        make_model: builds an untrained source model F', from `(B, 3, H, W)` float in [0, 1] to
            logits `(B, C)`; called under `seed`.
        view: how F' sees a clean image (identity, crop+flip, gray, gray of crop+flip), drawn anew
            for every pass. One that is not in `views.FIXED` counts as random: its noise is not
            held in the pixel range of one drawn image, and Eval draws it again.
        config: the settings.
        gray_delta: one value in all three channels of a pixel (section 4.2: "restricted to have
            the same values in all three channels"); `view` must then return gray images.
        class_wise: one delta for each class instead of each image (Huang et al., section 3).
        stop_view: the view of the stop test, if not `view` (the released gray defender tests on
            colour images, its `perturbation.py:266`).
        seed: of the initial weights, the start and the views.
        precision: of the source model's passes, "float32" or "bfloat16".
        name: of the defender, for messages and records.

    Raises:
        ValueError: `gray_delta` with a view whose channels differ.
        NotConverged: `max_rounds` passed; the exception carries the partial perturbation.
        Diverged: the source model's loss is not finite.
    """
    started = time.perf_counter()
    where = device()
    generator = torch.Generator().manual_seed(seed)
    # Whole and uint8, in the memory order that convolutions want; cast batch by batch.
    pixels = images.images.to(where).contiguous(memory_format=torch.channels_last)
    labels = images.labels.to(where)
    if gray_delta:
        _check_gray(view, pixels)
    owner = labels if class_wise else torch.arange(len(images), device=where)  # row of delta
    delta = _start(len(images.classes) if class_wise else len(images), pixels, gray_delta)
    if config.random_start:
        delta.copy_((torch.rand(delta.shape, generator=generator) * 2 - 1) * config.epsilon)
    model, optimizer = _fresh(make_model, config, seed)
    outer_batches = _endless_batches(len(images), config.outer_batch_size)

    rounds: list[float] = []  # the source model's error after each
    progress = tqdm(range(config.max_rounds), desc=name, unit="round", mininterval=1)
    for _ in progress:
        # Outer step: theta <- Optimize(view(x) + delta, y, theta), for M batches.
        if config.from_scratch and rounds:
            model, optimizer = _fresh(make_model, config, _draw_seed(generator))
        model.train().requires_grad_(True)
        for _ in range(config.outer_batches):
            batch = next(outer_batches).to(where)
            x = view(_to_float(pixels[batch]), generator) + delta[owner[batch]]
            with autocast(precision):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
        if not torch.isfinite(loss):
            raise Diverged(f"{name}: the source model's loss is {loss.item()}; lower learning_rate")

        # Inner step: delta <- argmin L(F'(view(x) + delta; theta), y), clipped, for all images.
        # Eval rides along where the view shows every pass the same image: once its delta has moved,
        # this round leaves it. Random views are drawn anew for Eval, as released.
        model.eval().requires_grad_(False)
        eval_in_passing = stop_view is None and not class_wise and view in FIXED
        wrong = 0
        # Class-wise, the last batches decide, so they are drawn (as released); else order is free.
        order = torch.randperm(len(images), generator=generator) if class_wise else None
        for batch in _passes(len(images), config.inner_batch_size, where, order):
            x, y = view(_to_float(pixels[batch]), generator), labels[batch]
            moved = signed_gradient_steps(
                model,
                x,
                delta[owner[batch]],
                y,
                epsilon=config.epsilon,
                step=config.step,
                steps=config.inner_steps,
                in_range=view in FIXED,
                precision=precision,
            )
            if class_wise:
                _set_class_means(delta, moved, y)
            else:
                delta[batch] = moved
            if eval_in_passing:
                wrong += _errors(model, x + moved, y, precision)
        if not eval_in_passing:
            for batch in _passes(len(images), config.inner_batch_size, where):
                x = (stop_view or view)(_to_float(pixels[batch]), generator)
                wrong += _errors(model, x + delta[owner[batch]], labels[batch], precision)

        rounds.append(wrong / len(images))
        progress.set_postfix(error=f"{rounds[-1]:.1%}")
        if rounds[-1] < config.stop_error:
            break

    progress.close()
    perturbation = Perturbation(
        delta=delta.cpu().contiguous(),
        kind="class_wise" if class_wise else "sample_wise",
        epsilon=config.epsilon,
        defender=name,
        fingerprint=images.fingerprint,
        rounds=tuple(rounds),
        seconds=time.perf_counter() - started,
    )
    if rounds[-1] >= config.stop_error:
        raise NotConverged(
            f"{name}: after {config.max_rounds} rounds the source model still errs on "
            f"{rounds[-1]:.1%} of the protected images, not below {config.stop_error:.1%}. Allow "
            "more rounds (max_rounds) or training batches a round (outer_batches). What the loop "
            "had by then is in this exception's `perturbation`.",
            perturbation,
        )
    return perturbation


def _start(count: int, pixels: torch.Tensor, gray_delta: bool) -> torch.Tensor:
    """delta_0 = 0, `(count, 3 or 1, H, W)`, in the memory order of the images."""
    channels, height, width = 1 if gray_delta else 3, pixels.shape[2], pixels.shape[3]
    return torch.zeros(count, channels, height, width, device=pixels.device).contiguous(
        memory_format=torch.channels_last
    )


def _fresh(
    make_model: Callable[[], nn.Module], config: BilevelConfig, seed: int
) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = seeded_model(make_model, seed)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    return model, optimizer


def _check_gray(view: View, pixels: torch.Tensor) -> None:
    red, green, blue = view(_to_float(pixels[:8]), torch.Generator().manual_seed(0)).unbind(1)
    if not (torch.equal(red, green) and torch.equal(red, blue)):
        raise ValueError(
            "gray_delta keeps one value for all three channels, but the view returns colour "
            "images: take views.gray or views.gray_crop_flip, or gray_delta=False"
        )


def _draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


def _passes(
    count: int, size: int, where: torch.device, order: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """Indices of all images, in batches."""
    return (torch.arange(count) if order is None else order).to(where).split(size)


def _endless_batches(count: int, size: int) -> Iterator[torch.Tensor]:
    """Training batches in the order of the data, continuing across rounds, as released."""
    while True:
        yield from torch.arange(count).split(size)


def _to_float(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 in [0, 255] -> float32 in [0, 1]."""
    return pixels.to(torch.float32, memory_format=torch.channels_last).div_(255)


def _set_class_means(delta: torch.Tensor, moved: torch.Tensor, labels: torch.Tensor) -> None:
    """delta `(C, ...)` of each class in the batch <- mean of its images' `moved`, as released."""
    sums = torch.zeros_like(delta).index_add_(0, labels, moved)
    counts = torch.bincount(labels, minlength=len(delta))
    present = counts > 0
    delta[present] = sums[present] / counts[present].view(-1, 1, 1, 1)


@torch.no_grad()
def _errors(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, precision: str) -> int:
    with autocast(precision):
        return int((model(x).argmax(1) != labels).sum())
