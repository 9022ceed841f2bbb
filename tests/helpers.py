"""Small images and networks, and Python in a process of its own, for the tests."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ulelib import models
from ulelib.bilevel import Bilevel
from ulelib.contrastive import Transferable
from ulelib.csd import Separation
from ulelib.data import ImageSet
from ulelib.exploiters import Recipe
from ulelib.pgd import Pgd
from ulelib.profiles import SMOKE, Profile
from ulelib.settings import op

PROJECT = Path(__file__).resolve().parent.parent

# A Lab whose smoke profile takes seconds; run before anything else in a test's own process.
QUICK_LAB = """
import torch
torch.set_num_threads(1)
import sys
sys.path.insert(0, "tests")
from helpers import quick_profile
from ulelib.jobs import lab as lab_module
from ulelib import profiles
profiles.PROFILES["smoke"] = quick_profile()
"""


def quick_profile(**changes: Any) -> Profile:
    """The smoke profile with 100 images and a network of some thousand parameters."""
    loop = Bilevel(
        net=op("convnet", widths=(4, 6, 8)),
        inner=Pgd(step=4 / 255, steps=2),
        outer_batches=2,
        outer_batch_size=50,
        stop_error=0.99,
    )
    contrastive = {
        name: dataclasses.replace(learner, hidden=16, dim=8, queue=50)
        for name, learner in SMOKE.contrastive.items()
    }
    start = Pgd(step=4 / 255, steps=2, random_start=True)
    quick: dict[str, Any] = {
        "n_train": 100,
        "loop": loop,
        "contrastive": contrastive,
        "transferable": {
            name: dataclasses.replace(loop, learning=Transferable(learner), inner=start, rounds=2)
            for name, learner in contrastive.items()
        },
        "separation": Separation(start, passes=2, batch_size=50),
        "pretraining": Recipe(epochs=1, batch_size=50, curve_images=50),
        "poison": Pgd(step=4 / 255, steps=2, random_start=True),
        "recipe": Recipe(epochs=2, batch_size=10, schedule="one_cycle", curve_images=100),
        "precision": "float32",
    }
    profile = dataclasses.replace(SMOKE, **(quick | changes))
    longer = dataclasses.replace(profile, loop=dataclasses.replace(loop, outer_batches=3))
    return dataclasses.replace(profile, ladder={"small": profile, "3 batches a round": longer})


def random_images(
    count: int = 24, size: int = 16, classes: int = 3, seed: int = 0, name: str = "noise"
) -> ImageSet:
    """Random pixels, `(count, 3, size, size)`; labels 0, 1, 2, 0, 1, ..."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % classes
    return ImageSet(pixels, labels, tuple(f"class {i}" for i in range(classes)), name)


def tiny_net(classes: int = 3) -> nn.Module:
    """Some hundred parameters, with batch norm; smooth, so that no gradient is exactly zero."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


# What an artifact says of its making, as `machine.made_by` gives it.
MADE_BY = {"machine": {"device": "a processor", "threads": 1}, "commit": "old"}

models.MODELS["tiny"] = tiny_net  # so that specs can name it: op("tiny")


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """`make()` with the initial weights of `seed`."""
    torch.manual_seed(seed)
    return make()


def differing_share(first: torch.Tensor, second: torch.Tensor, tolerance: float = 1e-6) -> float:
    """Share of entries further apart than `tolerance`.

    Float32 sums in another order differ in their last digits, and where a gradient is next to zero
    its sign then differs too: two right implementations agree in nearly all entries, not in all.
    """
    return ((first - second).abs() > tolerance).double().mean().item()


def tool(name: str) -> ModuleType:
    """`tools/NAME.py` as a module; `tools` is no package."""
    spec = spec_from_file_location(name, PROJECT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start_python(code: str, **environment: str | Path) -> subprocess.Popen[str]:
    """`code` in a new Python process, with `environment` on top of this one's."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env=os.environ | {key: str(value) for key, value in environment.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_python(code: str, **environment: str | Path) -> str:
    """What `code` prints, run to its end in a new process."""
    process = start_python(code, **environment)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def kill_at(marker: Path, process: subprocess.Popen[str]) -> None:
    """Kill `process` (SIGKILL) as soon as it has written `marker`."""
    deadline = time.monotonic() + 120
    while not marker.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"{marker.name} was not reached: {process.communicate()[0]}")
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -9
