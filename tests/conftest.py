"""Settings for every test: few threads, no window, and a store and records of the tests' own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch is not loaded yet; tests run side by side
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the project's `.ulelib` and `results`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ULELIB_STORE", str(tmp_path_factory.mktemp("store")))
        patch.setenv("ULELIB_RESULTS", str(tmp_path_factory.mktemp("results")))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT
