"""The machine: which precision a processor has, what a record says of it, and where things lie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers import PROJECT, seeded, tiny_net
from ulelib import machine

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="asks about the processor")


def processor(flags: str, name: str = "Xeon(R) 9") -> str:
    """What Linux tells of two cores."""
    core = f"vendor_id\t: GenuineIntel\nmodel name\t: {name}\nflags\t\t: fpu {flags}\nbugs\t\t: \n"
    return core + "\n" + core


@without_gpu
@pytest.mark.parametrize(
    ("told", "precision"),
    [
        (processor("avx512f avx512_bf16"), "bfloat16"),
        (processor("amx_bf16 amx_tile"), "bfloat16"),
        (processor("avx512f avx2 amx_bf16_like"), "float32"),
        ("", "float32"),  # not Linux
        ("Processor\t: ARMv8\n", "float32"),
    ],
)
def test_bfloat16_only_where_the_processor_has_it(
    told: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda: told)
    assert machine.fastest_precision() == precision
    assert machine.is_native("float32")
    assert machine.is_native("bfloat16") == (precision == "bfloat16")


@without_gpu
def test_a_record_names_the_processor_and_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda: processor("", "Xeon: the 9th"))
    told = machine.describe()
    assert told["device"] == "Xeon: the 9th" and told["torch"] == torch.__version__
    assert told["threads"] == torch.get_num_threads()
    assert str(Path.home()) not in json.dumps(told)


class TestFolder:
    def test_is_the_projects_unless_another_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for unset in ("", None):
            if unset is None:
                monkeypatch.delenv("ULELIB_STORE", raising=False)
            else:
                monkeypatch.setenv("ULELIB_STORE", unset)
            assert machine.folder("ULELIB_STORE", ".ulelib") == PROJECT / ".ulelib"
        monkeypatch.setenv("ULELIB_STORE", str(tmp_path / "my store"))
        assert machine.folder("ULELIB_STORE", ".ulelib") == tmp_path / "my store"

    def test_is_the_working_folders_for_an_installed_library(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("ULELIB_STORE", raising=False)
        monkeypatch.setattr(machine, "__file__", str(tmp_path / "site-packages/ulelib/machine.py"))
        monkeypatch.chdir(tmp_path)
        assert machine.folder("ULELIB_STORE", ".ulelib") == tmp_path / ".ulelib"

    def test_home_is_the_users(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ULELIB_STORE", "~/store")
        assert machine.folder("ULELIB_STORE", ".ulelib") == Path.home() / "store"
        monkeypatch.setenv("ULELIB_STORE", "~nobody-of-that-name/store")
        with pytest.raises(ValueError, match="ULELIB_STORE is '~nobody-of-that-name/store'"):
            machine.folder("ULELIB_STORE", ".ulelib")


def test_seeded_models_are_alike_and_leave_the_generator() -> None:
    before = torch.random.get_rng_state()
    one, two, other = (machine.seeded_model(tiny_net, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert alike(one, two) and not alike(one, other)
    assert alike(one.cpu(), seeded(tiny_net, 5))


def alike(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.parameters(), other.parameters()))


def test_logits_are_float32_in_either_precision() -> None:
    model, images = seeded(tiny_net), torch.rand(4, 3, 16, 16)
    exact, rounded = (machine.logits(model, images, name) for name in machine.PRECISIONS)
    assert exact.dtype == rounded.dtype == torch.float32
    assert torch.equal(exact, model(images))
    assert torch.allclose(exact, rounded, atol=0.1) and not torch.equal(exact, rounded)
    with pytest.raises(ValueError, match=r"precision 'half'; choose from \('float32'"):
        machine.logits(model, images, "half")


def test_float_images_have_the_order_of_the_networks() -> None:
    pixels = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    images = machine.to_float(pixels)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, pixels / 255)


class TestThreads:
    @pytest.fixture(autouse=True)
    def none_set(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        yield
        torch.set_num_threads(before)

    def test_a_prepared_process_has_one(self) -> None:
        machine.prepare()
        assert torch.get_num_threads() == 1

    def test_the_user_may_choose_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "2")  # torch has read it
        machine.prepare()
        assert torch.get_num_threads() == 2
        machine.use_threads(3)
        assert torch.get_num_threads() == 3

    @pytest.mark.parametrize(("limit", "left"), [("1", 1), ("2", 2), ("", 2), ("many", 2)])
    def test_never_more_than_the_limit(
        self, limit: str, left: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OMP_THREAD_LIMIT", limit)
        machine.use_threads(2)
        assert torch.get_num_threads() == left


BACKWARD = """
from ulelib import machine
machine.prepare()
import torch
from ulelib.models import build_model
from ulelib.settings import op
net = op("resnet18", width=0.25, blocks=1)
model = machine.seeded_model(lambda: build_model(net, 10), 0)
model(torch.rand(64, 3, 32, 32)).sum().backward()
"""


def test_a_limit_of_threads_does_not_hang_training() -> None:
    """torch itself waits forever where OpenMP has fewer threads than it asks for."""
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1", "OMP_NUM_THREADS": "2"}
    subprocess.run(
        [sys.executable, "-c", BACKWARD], cwd=PROJECT, env=environment, check=True, timeout=120
    )
