"""Throughput of a profile's trainings and generations against bare passes of the same network.

    python benchmarks/throughput.py --profile cpu

Ratios of medians within one run, on random images: see README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from torch import nn
from torch.nn import functional as F

WHERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Cast = Callable[[], contextlib.AbstractContextManager[Any]]


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, cast: Cast) -> None:
    """Forward, backward and SGD step, always on the batch that lies ready."""
    model.train().requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    for _ in range(steps):
        with cast():
            logits = model(x)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), y).backward()
        optimizer.step()


def gradients(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, cast: Cast) -> None:
    """Forward, and backward to the input alone."""
    model.eval().requires_grad_(False)
    x = x.clone().requires_grad_()
    for _ in range(steps):
        with cast():
            logits = model(x)
        torch.autograd.grad(F.cross_entropy(logits.float(), y, reduction="sum"), x)


def batch_of(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(size, 3, 32, 32, device=WHERE), torch.arange(size, device=WHERE) % 10


def medians(repeats: int, **tasks: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each task; in each repetition all run once, and once before to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats + 1):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if WHERE.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def torch_defaults(order: dict[str, Any]) -> None:
    """In a process of its own: float32, contiguous, the allocator as torch sets it."""
    from ulelib.models import build_model
    from ulelib.profiles import PROFILES

    torch.set_num_threads(order["threads"])
    model = build_model(PROFILES[order["profile"]].loop.net, 10).to(WHERE)
    shown, inner, cast = batch_of(order["batch"]), batch_of(order["inner"]), contextlib.nullcontext
    times = medians(
        order["repeats"],
        training=lambda: train(model, *shown, order["steps"], cast),
        gradients=lambda: gradients(model, *inner, order["inner_steps"], cast),
    )
    print(json.dumps(times))


def benchmark(profile_name: str, images: int, repeats: int) -> None:
    from ulelib import bilevel, machine

    machine.prepare()  # as the workers of a plan do
    from ulelib.data import ImageSet
    from ulelib.exploiters import Exploiter, exploit
    from ulelib.jobs.lab import Lab
    from ulelib.learners import Classifier
    from ulelib.models import build_model
    from ulelib.pgd import CLAMPS, signed_gradient_steps
    from ulelib.profiles import PROFILES
    from ulelib.settings import op
    from ulelib.views import view

    profile = PROFILES[profile_name]
    loop, recipe = profile.loop, replace(profile.recipe, epochs=1)
    precision = Lab(profile_name).precision
    batch, inner = recipe.batch_size, min(loop.inner_batch_size, images)
    outer, steps = min(loop.outer_batch_size, inner), max(1, images // batch)

    def random_set(count: int) -> ImageSet:
        pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        return ImageSet(pixels, torch.arange(count) % 10, tuple("0123456789"), "random")

    def make_model() -> nn.Module:
        model = build_model(loop.net, 10)
        return model.to(WHERE, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def cast() -> torch.autocast:
        return torch.autocast(WHERE.type, torch.bfloat16, enabled=precision == "bfloat16")

    def prepared(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = batch_of(size)
        return x.contiguous(memory_format=torch.channels_last), y

    def pipeline() -> None:
        """What `exploit` does to the images in an epoch."""
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(pixels), generator=generator).to(WHERE)
        for part in augment(pixels[order], generator).split(batch):
            machine.to_float(part)

    def generation_round() -> None:
        once = replace(loop, max_rounds=1, stop_error=1e-9)
        with contextlib.suppress(bilevel.NotConverged):
            bilevel.minimise_error(inner_set, once, seed=0, precision=precision)

    def inner_steps() -> None:
        added = CLAMPS["view"](inner_batch[0], loop.inner.epsilon)
        source = Classifier(frozen, precision)
        loss = source.objective(added, inner_batch[1], torch.Generator())
        signed_gradient_steps(
            loss, zero, step=loop.inner.step, steps=loop.inner.steps, add=added.add
        )

    augment, model, frozen = view(op("crop_flip", padding=4)), make_model(), make_model()
    frozen.eval().requires_grad_(False)
    train_set, few, inner_set = random_set(steps * batch), random_set(10), random_set(inner)
    pixels = train_set.images.to(WHERE).contiguous(memory_format=torch.channels_last)
    train_batch, outer_batch, inner_batch = prepared(batch), prepared(outer), prepared(inner)
    zero = torch.zeros_like(inner_batch[0])
    ours = medians(
        repeats,
        epoch=lambda: exploit(train_set, few, Exploiter(), loop.net, recipe, precision=precision),
        bare_epoch=lambda: train(model, *train_batch, steps, cast),
        pipeline=pipeline,
        inner=inner_steps,
        bare_inner=lambda: gradients(frozen, *inner_batch, loop.inner.steps, cast),
        round=generation_round,
        bare_outer=lambda: train(model, *outer_batch, loop.outer_batches, cast),
    )
    order = {"profile": profile_name, "repeats": repeats, "threads": torch.get_num_threads()}
    order |= {"batch": batch, "inner": inner, "steps": steps, "inner_steps": loop.inner.steps}
    plain = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    command = [sys.executable, __file__, "--torch-defaults", json.dumps(order)]
    answer = subprocess.run(command, env=plain, stdout=subprocess.PIPE, text=True, check=True)
    defaults = json.loads(answer.stdout)

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # given in KiB on Linux
    if WHERE.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    bare_round = ours["bare_outer"] + ours["bare_inner"]
    print(f"profile {profile.name}: {loop.net}, {precision}, {machine.describe()['device']}")
    for name, value, unit in (
        ("exploiter, an epoch", len(train_set) / ours["epoch"], "images/s"),
        ("  of bare training steps", 100 * ours["bare_epoch"] / ours["epoch"], "%"),
        ("  of the same in torch's defaults", 100 * defaults["training"] / ours["epoch"], "%"),
        ("  share of the data pipeline", 100 * ours["pipeline"] / ours["epoch"], "%"),
        ("inner loop", inner * loop.inner.steps / ours["inner"], "gradients/s"),
        ("  of bare input gradients", 100 * ours["bare_inner"] / ours["inner"], "%"),
        ("  of the same in torch's defaults", 100 * defaults["gradients"] / ours["inner"], "%"),
        ("round of Algorithm 1", inner / ours["round"], "images/s"),
        ("  of its bare steps and gradients", 100 * bare_round / ours["round"], "%"),
        ("peak memory of this process", peak, "MiB"),
    ):
        print(f"{name:36s}{value:9.1f} {unit}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="cpu", choices=["smoke", "cpu", "paper"])
    parser.add_argument("--images", type=int, default=500, help="in the timed epoch")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--torch-defaults", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.torch_defaults:
        torch_defaults(arguments.torch_defaults)
    else:
        benchmark(arguments.profile, arguments.images, arguments.repeats)
