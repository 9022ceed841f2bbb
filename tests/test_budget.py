"""How much memory pictures take at a time: a budget decides how many are open."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import run_python
from photo_files import picture
from ulelib import budget
from ulelib.budget import Budget

MEGAPIXELS, COUNT = 4, 5

MEASURE = """
import os, resource, sys
from pathlib import Path
os.cpu_count = lambda: {threads}
from ulelib import budget
from ulelib.photos.job import Job
from ulelib.photos.protect import protect

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

budget.PICTURES = budget.Budget({most})
folder = Path({folder!r})
protect(folder / "small", folder / "warm {name}", Job())  # loads the modules
before = peak()
protect(folder / "large", folder / "out {name}", Job())
print("MB", peak() - before)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small pictures, and large RGBA ones."""
    side = round((MEGAPIXELS * 1e6) ** 0.5)
    large = picture((side, side), "RGBA")
    for index in range(COUNT):
        for name in ("small", "large"):
            (tmp_path / name / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        picture((60, 60), "RGBA", index).save(tmp_path / "small" / "ab"[index % 2] / f"{index}.png")
        file = tmp_path / "large" / "ab"[index % 2] / f"{index}.png"
        large.save(file, compress_level=1)
    return tmp_path


def peak(folder: Path, most: int, threads: int) -> int:
    """Megabytes that protecting large pictures takes beyond the library itself."""
    name = f"{most} {threads}"
    code = MEASURE.format(folder=str(folder), most=most, threads=threads, name=name)
    return int(run_python(code).split("MB")[-1])


def test_large_pictures_are_open_one_by_one(folder: Path) -> None:
    """At most 14 bytes a pixel of one picture, whatever the number of threads: 88 megapixels take
    1.2 GB. (Two such RGBA pictures took 7.5 GB once.)"""
    one = budget.WRITING_OTHERS * MEGAPIXELS
    assert peak(folder, most=1, threads=COUNT) <= 1.5 * one


class TestBudget:
    def test_what_does_not_fit_waits(self) -> None:
        given, order, most = Budget(100), list[str](), list[int]()

        def hold(name: str, size: int) -> None:
            with given.reserve(size):
                most.append(given._used)
                order.append(name)
                time.sleep(0.05)

        with given.reserve(60):
            threads = [threading.Thread(target=hold, args=one) for one in (("a", 60), ("b", 40))]
            for thread in threads:
                thread.start()
            time.sleep(0.2)
            assert order == ["b"]
        for thread in threads:
            thread.join()
        assert order == ["b", "a"] and max(most) == 100

    def test_what_is_larger_than_everything_is_alone(self) -> None:
        given = Budget(100)
        with given.reserve(1000):
            thread = threading.Thread(target=lambda: given.reserve(1).__enter__(), daemon=True)
            thread.start()
            thread.join(0.1)
            assert thread.is_alive()
        thread.join(5)
        assert not thread.is_alive()

    def test_an_error_gives_its_memory_back(self) -> None:
        given = Budget(100)
        with pytest.raises(OSError), given.reserve(100):
            raise OSError
        with given.reserve(100):
            pass


def test_strips_are_as_good_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are converted and get their noise in strips."""
    import torch

    from ulelib import pictures
    from ulelib.photos import contrast, noise

    whole, striped = picture((50, 37), "RGBA"), picture((50, 37), "RGBA")
    seen = np.array(pictures.as_seen(whole))
    delta = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.1 - 0.05
    noise.add_noise(whole, delta, 12, 6)
    monkeypatch.setattr(contrast, "STRIP", 5)
    monkeypatch.setattr(pictures, "STRIP", 5)
    assert (np.array(pictures.as_seen(striped)) == seen).all()
    noise.add_noise(striped, delta, 12, 6)
    assert (np.array(striped) == np.array(whole)).all()
    white = Image.new("RGBA", striped.size, "white")
    flat = Image.alpha_composite(white, picture((50, 37), "RGBA")).convert("RGB")
    assert (seen == np.array(flat)).all()
