"""Settings for every test: few threads, no window, and a store and records of the tests' own; and a
browser for some."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch is not loaded yet; tests run side by side
# References are computed on the processor. With CUDA_VISIBLE_DEVICES=0 what needs a GPU runs.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
LONG = (
    "notebooks",
    "plan",
    "smoke",
    "tools",
    "wanted",
    "store",
    "book",
    "check",
    "app",
    "lab",
)  # test files
WIDTH = 1280  # pixels of a laptop's window
# Chromium's own traffic is off, and no name is known to it: a page that needs the network fails.
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    f"--window-size={WIDTH},900"
).split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: begun last, one would leave the other worker idle."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the project's `.ulelib` and `results`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ULELIB_STORE", str(tmp_path_factory.mktemp("store")))
        patch.setenv("ULELIB_RESULTS", str(tmp_path_factory.mktemp("results")))
        yield


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A selenium driver of Chromium, which reaches this computer and nothing else."""
    if not (CHROMIUM and DRIVER):
        reason = "Chromium or ChromeDriver is not installed (Debian: chromium, chromium-driver)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()
