"""The machine: which device computes, in which precision, and how its memory is handed out.

These choices change how fast something is computed, and its last digits; every record says them.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

# Blocks of this size or more are returned: a large network's would leave holes that nothing else
# fills (ResNet-18, 256 images: 5.1 GiB with all kept, 2.5 so), and its steps are no slower for it.
LARGE = 32 * 2**20  # the most that glibc takes
_SEEDING = threading.Lock()


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the kernel after every batch.

    A training step frees and asks again for the same few hundred megabytes. By default each of
    those goes back to the kernel and comes back as zeroed pages, which took up to 40 % of a step of
    a small network on two cores (see `benchmarks/`). It changes the whole process, so it is for
    whoever owns one: the workers of a plan, the kernel of a page, a script. Call it before torch
    allocates its first tensor. Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    # Read once by torch, at its first allocation: back large tensors with huge pages.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3  # constants of <malloc.h>
    with contextlib.suppress(OSError, AttributeError):  # musl has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(m_mmap_threshold, LARGE)
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_top_pad, 256 * 2**20)


def use_threads(count: int | None = None) -> None:
    """Let torch compute with so many threads, in the calling thread and in those begun later.

    Several threads wait for each other many times in each step. Where other processes have the
    cores, two threads take over five times as long as one (see `benchmarks/README.md`). So a
    training gets one thread, and trainings run side by side.

    Args:
        count: None: what `OMP_NUM_THREADS` says, else one. Never more than `OMP_THREAD_LIMIT`,
            beyond which torch waits forever in its first backward pass (pytorch issue 91547).
    """
    if count is None:
        count = torch.get_num_threads() if os.environ.get("OMP_NUM_THREADS") else 1
    limit = os.environ.get("OMP_THREAD_LIMIT", "").strip()
    most = int(limit) if limit.isdecimal() and int(limit) > 0 else count
    torch.set_num_threads(min(count, most))


def cores() -> int:
    """The cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return usable or 1


def prepare() -> None:
    """Prepare a process for training: threads (`use_threads`), memory (`keep_freed_memory`) and, on
    a GPU, the same bits in every run: deterministic kernels, and float32 that is float32 (TF32
    keeps 10 of its 23 bits).

    For whoever owns the process: a worker, the kernel of a page, a script. Call it before torch
    allocates its first tensor. An operation without a deterministic kernel warns, and its bits may
    differ from run to run.
    """
    keep_freed_memory()
    use_threads()
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def device() -> torch.device:
    """The CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fastest_precision() -> str:
    """`"bfloat16"` where the processor computes it natively, else `"float32"`."""
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & _cpu_flags() else "float32"


def is_native(precision: str) -> bool:
    """Whether the device computes in it: a processor that emulates bfloat16 takes ten times as long
    as in float32."""
    return precision == "float32" or fastest_precision() == precision


READ_BY_JOBS = ("execute.py", "inputs.py")  # what makes the inputs of a computation
PRECISIONS = ("float32", "bfloat16")


def logits(model: nn.Module, images: torch.Tensor, precision: str) -> torch.Tensor:
    """`model(images)` computed in `precision`, a member of `PRECISIONS`; returned as float32."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}; choose from {PRECISIONS}")
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return model(images).float()  # type: ignore[no-any-return]


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 in [0, 255] -> float32 in [0, 1], in the memory order that convolutions want."""
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)


def seeded_model(make_model: Callable[[], nn.Module], seed: int) -> nn.Module:
    """`make_model()`, its initial weights drawn under `seed`, on the device, channels last.

    torch's own random generators are left as they were. They are the whole process's: of several
    threads (of a Dask worker, say) one at a time draws.
    """
    with _SEEDING, torch.random.fork_rng(devices=[]):  # weights are drawn on the processor
        torch.default_generator.manual_seed(seed)
        return make_model().to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload]


def describe() -> dict[str, Any]:
    """What a record says about the machine: processor, threads, versions; of a GPU the flags that
    change bits. No names, no paths."""
    where = device()
    gpu = {}
    if where.type == "cuda":
        gpu = {
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "tf32": torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32,
            "cuda_graphs": os.environ.get("ULELIB_CUDA_GRAPHS", "1") != "0",
        }
    return {
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else _cpu_name(),
        **gpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # plain, so that a checkpoint can hold it
    }


def folder(variable: str, name: str) -> Path:
    """`$variable`, else `name` in the project this package belongs to, else in the working folder.

    A notebook's working folder differs between papermill and JupyterLab, so it is the last choice.
    An empty variable counts as unset; `~` is the home folder.
    """
    if named := os.environ.get(variable):
        try:
            return Path(named).expanduser()
        except RuntimeError as error:
            raise ValueError(f"{variable} is {named!r}: {error}") from error
    project = Path(__file__).resolve().parent.parent
    return (project if (project / "pyproject.toml").exists() else Path.cwd()) / name


def made_by() -> dict[str, Any]:
    """What a record says of its making: the machine, and the commit of the code."""
    return {"machine": describe(), "commit": commit()}


def code_and_machine() -> dict[str, Any]:
    """What the bits of a computation depend on, beside its spec: the machine, and the code of the
    science, by its SHA-256."""
    return {**describe(), "code": _code()}


@functools.cache
def _code() -> str:
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in (*sorted(folder.glob("*.py")), *(folder / "jobs" / name for name in READ_BY_JOBS)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def commit() -> str | None:
    """The project's git commit, with "+" behind it where the library differs from it.

    None where the library is not part of the project's own repository, or git is missing. Asked
    once a process: what runs is the code that was imported.
    """
    project = Path(__file__).resolve().parent.parent
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10, env=plain
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != project:
            return None  # installed into somebody else's repository
        changed = git("status", "--porcelain", "--untracked-files=no", "ulelib")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _cpu_flags() -> set[str]:
    lines = [line for line in _cpuinfo().splitlines() if line.startswith("flags")]
    return set(lines[0].split()) if lines else set()


def _cpu_name() -> str:
    names = [
        ln.split(":", 1)[1].strip() for ln in _cpuinfo().splitlines() if ln.startswith("model name")
    ]
    return names[0] if names else platform.processor() or "unknown processor"
