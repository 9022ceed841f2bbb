"""What strengths look like on one of one's own pictures, before anything is protected.

    shown = preview("pictures", Job())
    shown.strip.save("strengths.png")

One image: the original, and the picture as `protect` would write it at several strengths, without
contrast masking and with it. Each is displayed whole, and at its flattest part and the part with
most texture.
"""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F

from ulelib import pictures
from ulelib.files import write_bytes
from ulelib.masking import edges
from ulelib.photos.contrast import contrast_of
from ulelib.photos.copies import WIDEST, likeness, upright
from ulelib.photos.encode import protected_file
from ulelib.photos.folders import Photo, Refused
from ulelib.photos.job import Job
from ulelib.photos.names import printable
from ulelib.photos.protect import noise_for, read_all
from ulelib.visibility import SSIM_WINDOW

STRENGTHS = (4, 8, 16, 32)
# Pictures of each class, and classes, that the noise is made for: with more it looks the same.
FEW, FEW_CLASSES = 4, 10
PART = 1 / 3  # of the shorter side, of the two parts that are displayed
TILE, GAP, LINE = 240, 10, 20  # pixels of the strip
HEAD = (
    "From top to bottom: the whole picture, its flattest part, its part with most texture. "
    "Lower PSNR and SSIM mean more visible."
)
KINDS = {
    False: "Without masking",
    True: "With contrast masking: less noise where the picture is flat",
}

Box = tuple[int, int, int, int]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Look:
    """How a picture looks at a strength.

    Attributes:
        strength, masking: see `Job`.
        psnr, ssim: of the picture as it would be written, scaled to fit into a screen of `WIDEST`
            pixels; see `copies.likeness`.
    """

    strength: int
    masking: bool
    psnr: float
    ssim: float

    def __str__(self) -> str:
        return f"PSNR {self.psnr:.1f} dB, SSIM {self.ssim:.3f}"


@dataclass(frozen=True)
class Preview:
    """What `preview` made.

    Attributes:
        name: printable name of the picture.
        strip: the image, RGB.
        looks: what it shows, weakest first, without masking first.
    """

    name: str
    strip: Image.Image
    looks: tuple[Look, ...]

    def lines(self) -> list[str]:
        """The numbers as lines of text."""
        return [
            f"strength {look.strength}{', with masking' * look.masking}: {look}"
            for look in self.looks
        ]

    def save(self, out: Path) -> None:
        """Write the strip as a PNG file.

        Raises:
            OSError: it cannot be written.
        """
        file = io.BytesIO()
        self.strip.save(file, "PNG")
        write_bytes(out, file.getvalue())


def check_new(out: Path, *folders: Path | None) -> None:
    """Check that a strip replaces no file and counts as none of the pictures.

    Raises:
        Refused: the file exists, its folder does not, or it lies among the pictures.
    """
    if out.exists():
        raise Refused(f"{out} exists: name a new file with --out")
    if not out.resolve().parent.is_dir():
        raise Refused(f"there is no folder {out.parent}")
    for folder in filter(None, folders):
        if out.resolve().is_relative_to(folder.resolve()):
            raise Refused(f"{out} lies in {folder}, among the pictures: name it somewhere else")


def preview(
    folder: Path | str,
    job: Job | None = None,
    others: Path | str | None = None,
    picture: Path | str | None = None,
    report: Progress = lambda line: None,
) -> Preview:
    """Show a picture of a folder at `STRENGTHS` and at the job's strength; writes no file.

    The noise is made for this picture among a few others, at the largest strength, and scaled down.
    So `protect` adds another pattern, which looks alike.

    Args:
        folder, others, report: see `protect.protect`.
        job: method, working size and format; None: the defaults.
        picture: one in the folder; None: the first that can be read.

    Raises:
        Refused: there is no such picture, it cannot be read, or see `protect.protect`.
    """
    job = job or Job()
    folder = Path(folder).expanduser()
    others = None if others is None else Path(others).expanduser()
    for one in filter(None, (folder, others)):
        if not one.is_dir():
            raise Refused(f"{one} is not a folder")
    wanted = None if picture is None else Path(picture).expanduser()
    sources = read_all(folder, others, job.pixels, report, lambda found: _some(found, wanted))
    photo = sources.photos[0]
    if wanted is not None and not photo.file.samefile(wanted):
        reasons = [why for name, why in sources.left_out.items() if Path(name).name == wanted.name]
        raise Refused(f"{wanted} cannot be shown: {[*reasons, 'it is not in the folder'][0]}")
    strengths = sorted({*STRENGTHS, job.strength})
    noise = noise_for(sources, replace(job, strength=strengths[-1]), report)
    (delta,) = noise.of(sources.images, torch.tensor([0]))
    before = upright(photo.file)
    boxes = _parts(before)
    tiles, looks = {False: [_tiles(before, boxes)], True: [_tiles(before, boxes)]}, []
    for masking in KINDS:
        for strength in strengths:
            report(f"strength {strength}, {KINDS[masking].lower()}")
            own = replace(job, strength=strength, masking=masking)
            after = _written(photo.file, delta * (strength / strengths[-1]), own)
            looks.append(Look(strength, masking, *likeness(_on_screen(before), _on_screen(after))))
            tiles[masking].append(_tiles(after, boxes))
    return Preview(printable(photo.name), _drawn(tiles, looks), tuple(looks))


def _some(found: list[Photo], wanted: Path | None) -> list[Photo]:
    """A few pictures of a few classes; the wanted one, if it is there, first."""
    if wanted is not None and wanted.exists():
        found = sorted(found, key=lambda photo: not photo.file.samefile(wanted))
    labels = [*dict.fromkeys(photo.label for photo in found)][:FEW_CLASSES]
    taken: Counter[str] = Counter()
    some = []
    for photo in found:
        if photo.label in labels and taken[photo.label] < FEW:
            taken[photo.label] += 1
            some.append(photo)
    return some


def _written(file: Path, delta: torch.Tensor, job: Job) -> Image.Image:
    """The picture as `protect` would write it, upright.

    Raises:
        Refused: it cannot be encoded.
    """
    with tempfile.TemporaryDirectory(prefix="ulelib-") as folder, pictures.quiet():
        copy = Path(folder) / "copy"
        try:
            copy.write_bytes(protected_file(file, delta, job).content)
        except Exception as error:  # an encoder may refuse what could be read
            raise Refused(f"{file} cannot be shown: {str(error) or repr(error)}") from error
        return upright(copy)


def _on_screen(picture: Image.Image) -> Image.Image:
    """A picture scaled down to at most `WIDEST` pixels a side, of which the shorter one has enough
    for SSIM."""
    factor = min(1.0, WIDEST / max(picture.size))
    size = [max(SSIM_WINDOW, round(factor * side)) for side in picture.size]
    return picture.resize((size[0], size[1]), Image.Resampling.BOX)


def _parts(picture: Image.Image) -> tuple[Box, Box]:
    """The flattest square of `PART` of the shorter side, and the one with the most texture."""
    shorter = min(picture.size)
    side = max(SSIM_WINDOW, round(PART * shorter))
    contrast = contrast_of(picture)
    columns, rows = (edges(length, shorter) for length in picture.size)
    cells = min(*contrast.shape, max(1, round(PART * min(contrast.shape))))
    means = F.avg_pool2d(contrast[None, None], cells, stride=1)[0, 0]

    def square(place: int) -> Box:
        row, column = divmod(place, means.shape[1])
        left = min(int(columns[column]), picture.width - side)
        top = min(int(rows[row]), picture.height - side)
        return left, top, left + side, top + side

    return square(int(means.argmin())), square(int(means.argmax()))


# --- drawing -------------------------------------------------------------------------------------


def _tiles(picture: Image.Image, boxes: tuple[Box, Box]) -> list[Image.Image]:
    """The whole picture and its parts, each scaled to fit into a tile."""
    tiles = []
    for part in (picture, *map(picture.crop, boxes)):
        factor = TILE / max(part.size)
        width, height = (max(1, round(factor * side)) for side in part.size)
        how = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST
        tiles.append(part.resize((width, height), how))
    return tiles


def _drawn(tiles: dict[bool, list[list[Image.Image]]], looks: list[Look]) -> Image.Image:
    """The strip: a block of rows for each kind, a column for the original and each strength."""
    whole_height = tiles[False][0][0].height
    heights = (whole_height, TILE, TILE)
    block = 3 * LINE + sum(heights) + len(heights) * GAP
    width = GAP + len(tiles[False]) * (TILE + GAP)
    strip = Image.new("RGB", (width, 2 * LINE + 2 * block), "white")
    draw = ImageDraw.Draw(strip)
    font, bold = ImageFont.load_default(15), ImageFont.load_default(17)
    draw.text((GAP, GAP), HEAD, "black", font)
    for number, (masking, columns) in enumerate(tiles.items()):
        top = 2 * LINE + number * block
        draw.text((GAP, top), KINDS[masking], "black", bold)
        mine = [look for look in looks if look.masking == masking]
        captions = [("original", ""), *((f"strength {one.strength}", str(one)) for one in mine)]
        for place, (column, caption) in enumerate(zip(columns, captions, strict=True)):
            left, down = GAP + place * (TILE + GAP), top + LINE + GAP // 2
            for tile, height in zip(column, heights, strict=True):
                strip.paste(tile, (left + (TILE - tile.width) // 2, down))
                down += height + GAP
            for text in caption:
                draw.text((left, down - GAP), text, "black", font)
                down += LINE - 2
    return strip
