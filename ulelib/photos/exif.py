"""EXIF data, changed in place: every byte that need not change stays where it was.

A camera's maker note points into itself by distances from the start of the EXIF data, and texts
have no declared encoding; so data that are decoded and encoded again are damaged.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

from ulelib.picture_files import EXIF_HEADER, SOS, jpeg_segments

ORIENTATION, EXIF, GPS, INTEROP = 0x0112, 0x8769, 0x8825, 0xA005  # tags
MAKER_NOTE = 0x927C
PREVIEW_AT, PREVIEW_SIZE = 0x0201, 0x0202  # of a JPEG
STRIPS_AT, STRIP_SIZES = 0x0111, 0x0117  # of plain pixels
TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
ENTRY = 12  # bytes of an entry of a directory
JPEG_START = b"\xd8\xff"  # without the first byte, which some cameras replace
MOST_DIRECTORIES = 16  # in a chain of previews


class Broken(ValueError):
    """The EXIF data cannot be followed, so that nothing in them can be changed safely."""


class Entry(NamedTuple):
    """An entry of a directory.

    Attributes:
        at: where it lies.
        tag, kind, length: as stored.
        value: where its value begins.
        size: of the value, in bytes; up to 4, it lies in the entry itself.
    """

    at: int
    tag: int
    kind: int
    length: int
    value: int
    size: int


class Directory(NamedTuple):
    """A list of entries. `next` is where the distance to the next directory is stored; None: the
    data end before it."""

    at: int
    entries: list[Entry]
    next: int | None

    @property
    def end(self) -> int:
        return self.at + 2 + ENTRY * len(self.entries)


class Exif:
    """EXIF data.

    Args:
        coded: the data, with or without header.

    Raises:
        Broken: they have no first directory.
    """

    def __init__(self, coded: bytes) -> None:
        while coded.startswith(EXIF_HEADER):  # some files have it twice
            coded = coded[len(EXIF_HEADER) :]
        self.data = bytearray(coded)
        orders = {b"II*\0": "<", b"MM\0*": ">"}
        if len(coded) < 8 or coded[:4] not in orders:
            raise Broken("no TIFF header")
        self.order = orders[coded[:4]]
        self.first = self._directory(self._number(4))

    def coded(self) -> bytes:
        """The data with their header; b"" if they are empty."""
        return EXIF_HEADER + bytes(self.data) if self.first.entries else b""

    @property
    def orientation(self) -> int | None:
        """How the camera was held; None: it is not said as EXIF wants it."""
        entry = self._find(self.first, ORIENTATION)
        if entry is None or (entry.kind, entry.length) != (3, 1):
            return None
        return self._number(entry.value, "H")

    def set_upright(self) -> None:
        """Let the orientation, if there is one, say that the picture is stored upright."""
        for entry in self.first.entries:
            if entry.tag == ORIENTATION and entry.size in (1, 2, 4):
                code = {1: "B", 2: "H", 4: "I"}[entry.size]
                struct.pack_into(self.order + code, self.data, entry.value, 1)

    @property
    def has_place(self) -> bool:
        return any(entry.tag == GPS for one in self._main() for entry in one.entries)

    def drop_place(self) -> None:
        """Blank the place where the picture was taken, and remove the pointer to it.

        Raises:
            Broken: the place overlaps with other data.
        """
        for directory in self._main():
            for entry in directory.entries:
                if entry.tag == GPS:
                    place = self._directory(self._number(entry.value))
                    for one in place.entries:
                        if one.size > 4:
                            self._blank(one.value, one.size)
                    self._blank(place.at, place.end - place.at)
        while (found := self._with_place()) is not None:
            self._remove(*found)

    def drop_previews(self) -> bool:
        """Blank the pictures in the data, and cut the directories that lead to them.

        Returns:
            whether there were any.

        Raises:
            Broken: a preview overlaps with other data.
        """
        found = False
        for directory in self._previews():
            found = True
            for where, sizes in ((PREVIEW_AT, PREVIEW_SIZE), (STRIPS_AT, STRIP_SIZES)):
                places = zip(
                    self._numbers(directory, where), self._numbers(directory, sizes), strict=False
                )
                for at, size in places:
                    self._blank(at, size)
        if self.first.next is not None:
            struct.pack_into("4x", self.data, self.first.next)
        for start, end in self._jpegs():
            found = True
            self.data[start:end] = bytes(end - start)
        return found

    # --- directories -----------------------------------------------------------------------------

    def _number(self, at: int, code: str = "I") -> int:
        try:
            return int(struct.unpack_from(self.order + code, self.data, at)[0])
        except struct.error:
            raise Broken("a pointer leads out of the data") from None

    def _directory(self, at: int) -> Directory:
        count = self._number(at, "H")
        end = at + 2 + ENTRY * count
        if at < 8 or end > len(self.data):
            raise Broken("a directory leads out of the data")
        entries = []
        for place in range(at + 2, end, ENTRY):
            tag, kind, number = struct.unpack_from(self.order + "HHI", self.data, place)
            size = number * TYPE_SIZES.get(kind, 0)
            value = place + 8 if size <= 4 else self._number(place + 8)
            entries.append(Entry(place, tag, kind, number, value, size))
        return Directory(at, entries, end if end + 4 <= len(self.data) else None)

    def _find(self, directory: Directory, tag: int) -> Entry | None:
        return next((entry for entry in directory.entries if entry.tag == tag), None)

    def _numbers(self, directory: Directory, tag: int) -> Iterator[int]:
        """The whole numbers of an entry."""
        entry = self._find(directory, tag)
        if entry is not None and entry.kind in (3, 4, 13):
            size = TYPE_SIZES[entry.kind]
            for at in range(entry.value, min(entry.value + entry.size, len(self.data)), size):
                yield self._number(at, "H" if size == 2 else "I")

    def _main(self) -> list[Directory]:
        """The directories about the picture itself, as far as they can be followed."""
        found = [self.first]
        for tag in (EXIF, INTEROP):
            for entry in filter(None, [self._find(one, tag) for one in found]):
                with contextlib.suppress(Broken):
                    found.append(self._directory(self._number(entry.value)))
        return found

    def _previews(self) -> Iterator[Directory]:
        """The directories after the first, as far as they can be followed."""
        last = self.first
        for _ in range(MOST_DIRECTORIES):
            at = 0 if last.next is None else self._number(last.next)
            if not at:
                return
            try:
                last = self._directory(at)
            except Broken:
                return
            yield last

    def _with_place(self) -> tuple[Directory, Entry] | None:
        for directory in self._main():
            if (entry := self._find(directory, GPS)) is not None:
                return directory, entry
        return None

    def _remove(self, directory: Directory, entry: Entry) -> None:
        """Remove an entry: those after it move up, their values stay."""
        leads_on = directory.at == self.first.at and directory.next is not None
        end = directory.end + 4 * leads_on
        rest = self.data[entry.at + ENTRY : end]
        self.data[entry.at : end] = rest + bytes(ENTRY)
        struct.pack_into(self.order + "H", self.data, directory.at, len(directory.entries) - 1)
        self.first = self._directory(self.first.at)

    # --- bytes -----------------------------------------------------------------------------------

    def _used(self, note: bool = False) -> Iterator[tuple[int, int]]:
        """Where everything lies that is neither preview nor place: start and end.

        Args:
            note: whether to include the maker note, which may hold previews.
        """
        yield 0, 8
        for directory in self._main():
            yield directory.at, directory.end
            for entry in directory.entries:
                if entry.size > 4 and (note or entry.tag != MAKER_NOTE):
                    yield entry.value, entry.value + entry.size

    def _blank(self, at: int, size: int) -> None:
        end = min(at + size, len(self.data))
        if any(at < used_end and start < end for start, used_end in self._used()):
            raise Broken("a preview or the place overlaps with other data")
        if at < end:
            self.data[at:end] = bytes(end - at)

    def _jpegs(self) -> Iterator[tuple[int, int]]:
        """JPEG pictures anywhere in the data, such as in a maker note: start and end."""
        used = [*self._used(note=True)]
        at = self.data.find(JPEG_START, 1)
        while at >= 0:
            start, end = at - 1, at + 1
            segments = [*jpeg_segments(self.data, start)]
            if any(one.kind[0] == SOS for one in segments):
                # A picture that is cut off ends with the value that holds it, or before the next.
                around = [e for s, e in used if s <= start < e] or [s for s, _ in used if s > start]
                end = min([segments[-1].end, *around])
                yield start, end
            at = self.data.find(JPEG_START, end)
