"""The machine: which device computes, in which precision, and how its memory is handed out.

These choices change how fast something is computed, and its last digits; every record says them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the kernel after every batch.

    A training step frees and asks again for the same few hundred megabytes. By default each of
    those goes back to the kernel and comes back as zeroed pages, which took up to 40 % of a step of
    a small network on two cores (see `benchmarks/`). Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # constants of <malloc.h>
    with contextlib.suppress(OSError, AttributeError):  # musl has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_top_pad, 256 * 2**20)


def device() -> torch.device:
    """The CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fastest_precision() -> str:
    """`"bfloat16"` where the processor computes it natively, else `"float32"`."""
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & _cpu_flags() else "float32"


def autocast(precision: str) -> torch.autocast:
    """The context in which a forward pass runs in `precision` (`"float32"` or `"bfloat16"`)."""
    return torch.autocast(device().type, torch.bfloat16, enabled=precision == "bfloat16")


def seeded_model(make_model: Callable[[], nn.Module], seed: int) -> nn.Module:
    """`make_model()`, its initial weights drawn under `seed`, on the device, channels last.

    torch's own random generators are left as they were.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make_model().to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload]


def describe() -> dict[str, Any]:
    """What a record says about the machine: processor, threads, versions. No names, no paths."""
    where = device()
    return {
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _cpu_flags() -> set[str]:
    lines = [line for line in _cpuinfo().splitlines() if line.startswith("flags")]
    return set(lines[0].split()) if lines else set()


def _cpu_name() -> str:
    names = [
        ln.split(":")[1].strip() for ln in _cpuinfo().splitlines() if ln.startswith("model name")
    ]
    return names[0] if names else platform.processor() or "unknown processor"
