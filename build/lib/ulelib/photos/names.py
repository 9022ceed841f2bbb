"""File names: printed, given to protected pictures, and kept apart on disks that confuse them."""

from __future__ import annotations

import errno
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ulelib.photos.job import Format

SUFFIX = {"png": ".png", "jpg": ".jpg"}
# Errors of the file system that concern the name of a file; free space would not solve them.
NAME_ERRORS = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}


def printable(name: Path) -> str:
    """A name as printable text: bytes that are not UTF-8 become U+FFFD, and control characters
    (line ends, terminal commands) are escaped."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def composed(name: Path | str) -> str:
    """A name with each umlaut as one character (NFC); some disks and zip programs write two."""
    return unicodedata.normalize("NFC", str(name))


def folded(name: Path) -> str:
    """A form that is the same for all names which some file system confuses with each other."""
    return composed(composed(name).casefold())


def output_names(names: Iterable[Path], format: Format) -> list[Path]:
    """The names of the protected pictures, in the same order.

    Where the new suffix would give two pictures the same name, they keep the old one before it:
    `x.bmp.jpg` and `x.png.jpg`.

    Args:
        names: of the original pictures.
        format: of the written files.
    """
    names = list(names)
    if format == "keep":
        return names
    plain = [name.with_suffix(SUFFIX[format]) for name in names]
    counts = Counter(map(folded, plain))
    taken = {name for name, count in counts.items() if count == 1}
    outputs: list[Path] = []
    for output, name in zip(plain, names, strict=True):
        if counts[folded(output)] > 1:
            numbers = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
            longer = (name.with_name(name.name + n + SUFFIX[format]) for n in numbers)
            output = next(one for one in longer if folded(one) not in taken)
        taken.add(folded(output))
        outputs.append(output)
    return outputs


def confused_names(names: Sequence[Path], folder: Path) -> dict[int, int]:
    """Names that the disk takes for an earlier one.

    Args:
        names: any.
        folder: an existing folder on that disk; a file is made in it to find out.

    Returns:
        the index of each such name, and the index of the earlier name.
    """
    first: dict[str, int] = {}
    earliest = [first.setdefault(folded(name), place) for place, name in enumerate(names)]
    confused = {place: earlier for place, earlier in enumerate(earliest) if earlier != place}
    return confused if confused and confuses_names(folder) else {}


def confuses_names(folder: Path) -> bool:
    """Whether the disk ignores upper case, or the two ways to write an umlaut."""
    (folder / "\u00fc").touch()
    return any((folder / name).exists() for name in ("\u00dc", "u\u0308"))
