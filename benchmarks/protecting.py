"""How long `ulelib protect` takes on the photographs of a phone; see README.md in this folder.

python benchmarks/protecting.py [--pictures 60]
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ulelib.photos.protect import WRITERS, protect

SIZE, QUALITY = (4000, 3000), 90
MANY = 2000  # pictures, for which the time is extrapolated


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=60, help="of 12 megapixels each")
    count = parser.parse_args().pictures
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        for number in range(count):
            file = folder / f"class {number % 2}" / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            photograph(number).save(file, quality=QUALITY)
        files = sorted(folder.rglob("*.jpg"))
        size = sum(file.stat().st_size for file in files) / count
        recoding = seconds_of(lambda: recode(files))
        protecting = seconds_of(lambda: protect(folder, Path(place) / "protected"))
    print(f"{count} JPEG of {SIZE[0]} x {SIZE[1]} pixels, {size / 1e6:.1f} MB each")
    print(f"protected                 {protecting / count:8.2f} s a picture")
    print(f"  of decoding and coding  {100 * protecting / recoding:8.0f} %")
    print(f"  {MANY:,} of them         {MANY * protecting / count / 60:8.1f} minutes")


def photograph(seed: int) -> Image.Image:
    """A drawing of large shapes, edges and grain, whose JPEG is as large as a photograph's."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    shapes = np.asarray(Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC))
    grain = rng.normal(0, 5, (SIZE[1], SIZE[0], 1))
    return Image.fromarray((shapes + grain).clip(0, 255).astype(np.uint8))


def recode(files: list[Path]) -> None:
    """Decode and encode each picture as it was, in as many threads as `protect` writes with."""

    def one(file: Path) -> None:
        with Image.open(file) as opened:
            opened.save(io.BytesIO(), "JPEG", quality="keep")

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(one, files))


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
