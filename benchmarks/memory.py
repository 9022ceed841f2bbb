"""Peak memory of Algorithm 1 with the paper's network: one round on 256 images.

    python benchmarks/memory.py [--steps 20] [--threads 2]

ResNet-18 at full width, one training batch of 256 images, the inner steps on all of them, each way
to hand out memory in a process of its own. The released generator of *Going Grayscale* takes
2.4 GiB for it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = """
import resource, sys, time
sys.path.insert(0, sys.argv[1])
from ulelib import machine
if sys.argv[2] == "kept":
    machine.keep_freed_memory()
import torch
torch.set_num_threads(int(sys.argv[4]))
from ulelib.bilevel import Bilevel, NotConverged, minimise_error
from ulelib.data import ImageSet
from ulelib.pgd import Pgd
pixels = torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8)
images = ImageSet(pixels, torch.arange(256) % 10, tuple("0123456789"), "random")
once = Bilevel(
    inner=Pgd(steps=int(sys.argv[3])), outer_batches=1, outer_batch_size=256,
    inner_batch_size=256, max_rounds=1, stop_error=1e-9,
)
started = time.perf_counter()
try:
    minimise_error(images, once, seed=0)
except NotConverged:
    pass
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # given in KiB on Linux
print(f"{peak:.2f} GiB, {time.perf_counter() - started:.0f} s")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for way in ("as the C library hands it out", "kept"):
        arguments = [str(ROOT), way, str(options.steps), str(options.threads)]
        done = subprocess.run(
            [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True
        )
        print(f"freed memory {way}: {done.stdout.strip()}")


if __name__ == "__main__":
    main()
