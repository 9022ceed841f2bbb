"""The command `ulelib`, also `python -m ulelib`."""

from __future__ import annotations

import sys
from importlib.util import find_spec

NEEDED = ("click", "jinja2", "torchmetrics")  # of the extra `photos`


def main() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(f"the command line needs {', '.join(missing)}: pip install 'ulelib[photos]'")
    from ulelib.book.arena_command import arena_command
    from ulelib.photos.commands import commands

    commands.add_command(arena_command)
    commands()


if __name__ == "__main__":
    main()
