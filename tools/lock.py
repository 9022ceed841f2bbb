"""Write requirements.lock: the exact version of every package that pyproject.toml leads to.

Taken from the environment that runs this script, so that a lock is always one that was installed.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Written by `make lock` from the ranges in pyproject.toml. Python 3.11 or newer.\n"
CUDA_MARKER = '; platform_system == "Linux" and platform_machine == "x86_64"'


def closure(requirements: list[str]) -> dict[str, str]:
    """Package name -> installed version, for everything that `requirements` leads to here.

    Raises:
        SystemExit: one of `requirements` itself is not installed.
    """
    versions: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [Requirement(text) for text in requirements]
    direct = {requirement.name for requirement in queue}
    while queue:
        wanted = queue.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            found = distribution(wanted.name)
        except PackageNotFoundError:
            if wanted.name in direct:
                raise SystemExit(f"{wanted.name} is not installed; install it first") from None
            continue  # needed on another platform only
        versions[key[0]] = found.version
        for text in found.requires or []:
            child = Requirement(text)
            extras = wanted.extras or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": e}) for e in extras):
                queue.append(child)
    return versions


def render(versions: dict[str, str]) -> str:
    """The lock's text. CUDA packages exist, and are required by torch, on Linux only."""
    cuda = ("nvidia-", "cuda-", "triton")
    return HEADER + "".join(
        f"{name}=={version}{CUDA_MARKER if name.startswith(cuda) else ''}\n"
        for name, version in sorted(versions.items())
    )


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    (ROOT / "requirements.lock").write_text(render(closure(wanted)))


if __name__ == "__main__":
    main()
