"""A budget of memory for pictures: how many are open at a time."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

# Bytes a pixel that a picture takes at most while it is read, and while its protected copy is
# written; measured with 20 megapixels. WebP's own library needs far more.
READING, WRITING = {"WEBP": 18}, {"WEBP": 42}
READING_OTHERS, WRITING_OTHERS = 12, 14
LARGE = 16 << 20  # bytes: what is less is left to the C library
FILE = 2  # times that a file's bytes are held while its picture is open


def needed(kind: str | None, pixels: int, size: int, writing: bool) -> int:
    """Bytes of memory that a picture needs.

    Args:
        kind: its format.
        pixels: their number.
        size: of its file, in bytes.
        writing: whether a protected copy of it is written.
    """
    each = (
        WRITING.get(str(kind), WRITING_OTHERS)
        if writing
        else (READING.get(str(kind), READING_OTHERS))
    )
    return each * pixels + FILE * size


class Budget:
    """Lets as many pictures be open at a time as fit into it, and a larger one alone.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self.most, self._used = most, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Wait until there is room for `size` bytes, or nothing else is open, and hold them."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self.most)
            self._used += size
        try:
            yield
        finally:
            if size >= LARGE:
                give_back()
            with self._changed:
                self._used -= size
                self._changed.notify_all()


def give_back() -> None:
    """Let the system have the memory that this process has freed. glibc keeps it by itself, once
    for each thread."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another system's C library
        ctypes.CDLL(None).malloc_trim(0)


PICTURES = Budget(1 << 30)
