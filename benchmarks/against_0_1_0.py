"""A training with its measurements, side by side with version 0.1.0, in one run.

    python benchmarks/against_0_1_0.py [--share 0.1] [--repeats 3]

Both versions train the `cpu` profile's recipe of their own on random images, each in a process of
its own, in turn: with `--share 1` on 20,000 images with 10,000 test images, otherwise on that share
of both (and of the images that measure a curve). Version 0.1.0 is taken from this repository's
history.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLD = "2099f1c"  # the last commit of version 0.1.0

RANDOM = """
import sys, time
sys.path.insert(0, sys.argv[1])
SHARE, THREADS = float(sys.argv[2]), int(sys.argv[3])
{before}
import torch
torch.set_num_threads(THREADS)
from dataclasses import replace
from ulelib.data import ImageSet
from ulelib.profiles import PROFILES
{lab}
def images(count):
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 10, tuple("0123456789"), "random")
train, test = images(int(SHARE * 20_000)), images(int(SHARE * 10_000))
profile, precision = PROFILES["cpu"], Lab("cpu").precision
"""
# The first version sets the allocator when it is imported, the other when it is asked to.
CODE = {
    "0.1.0": RANDOM.format(before="", lab="from ulelib.lab import Lab")
    + """
from ulelib.exploiters import exploit
from ulelib.models import build_model
make = lambda: build_model(profile.model, 10, **profile.model_options)
started = time.perf_counter()
exploit(train, test, make, profile.recipe, precision=precision)
print(time.perf_counter() - started)
""",
    "now": RANDOM.format(
        before="from ulelib import machine; machine.keep_freed_memory()",
        lab="from ulelib.jobs.lab import Lab",
    )
    + """
from ulelib.exploiters import EXPLOITERS, exploit
recipe = replace(profile.recipe, curve_images=int(SHARE * profile.recipe.curve_images))
started = time.perf_counter()
exploit(train, test, EXPLOITERS["standard"], profile.loop.net, recipe, precision=precision)
print(time.perf_counter() - started)
""",
}


def seconds(version: str, folder: Path, share: float, threads: int) -> float:
    """Of one training, imports not counted."""
    done = subprocess.run(
        [sys.executable, "-c", CODE[version], str(folder), str(share), str(threads)],
        env=os.environ | {"TQDM_DISABLE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{version} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    times: dict[str, list[float]] = {"0.1.0": [], "now": []}
    with tempfile.TemporaryDirectory() as name:
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", OLD, "ulelib"], capture_output=True, check=True
        )
        subprocess.run(["tar", "-x", "-C", name], input=archive.stdout, check=True)
        for _ in range(options.repeats):
            for version, folder in (("0.1.0", Path(name)), ("now", ROOT)):
                times[version].append(seconds(version, folder, options.share, options.threads))
    ratios = [new / old for new, old in zip(times["now"], times["0.1.0"], strict=True)]
    for version, values in times.items():
        print(f"{version:6} {statistics.median(values):7.1f} s  {[round(v, 1) for v in values]}")
    print(f"ratio  {statistics.median(ratios):7.3f}    {[round(r, 3) for r in ratios]}")


if __name__ == "__main__":
    main()
