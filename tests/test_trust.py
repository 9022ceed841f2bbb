"""What a person trusts, whatever the file: it is written upright, with the right colours and with
what it carried, or it is named; and nothing is touched outside of the output folder."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from photo_files import (
    DELTA,
    PROFILE,
    chunk,
    contents,
    four_channel_bmp,
    levels,
    picture,
    save_each,
    tagged,
    with_chunk,
)
from test_exif import camera_data, preview
from ulelib import pictures
from ulelib.photos.encode import protected_file
from ulelib.photos.job import Job
from ulelib.photos.noise import Noise
from ulelib.photos.protect import protect

JOB = Job(strength=8, size=16)
WITHIN = settings(max_examples=150, deadline=None, derandomize=True, database=None,
                  suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip


def seeds(folder: Path) -> dict[str, bytes]:
    """A file of each kind, with everything it can carry."""
    folder.mkdir(exist_ok=True)
    camera = b"Exif\0\0" + bytes(camera_data("<").data)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "hello")
    wide = picture((52, 36))
    wide.save(folder / "camera.jpg", exif=camera, icc_profile=PROFILE, comment=b"hello")
    wide.save(folder / "phone.jpg", "MPO", save_all=True, append_images=[wide], exif=tagged(8))
    wide.convert("L").save(folder / "gray.jpg", exif=tagged(3))
    wide.save(folder / "web.png", exif=camera, icc_profile=PROFILE, dpi=(72, 72), pnginfo=texts)
    with_chunk(folder / "web.png", chunk(b"cICP", bytes([9, 16, 0, 1])))
    wide.quantize(8).save(folder / "palette.png", transparency=1)
    picture((52, 36), "RGBA").save(folder / "glass.png", exif=tagged(5))
    wide.save(folder / "web.webp", lossless=True, exif=camera)
    wide.save(folder / "lossy.webp", quality=80, exif=tagged(2))
    four_channel_bmp(folder / "zero.bmp", lambda row, column: 0)
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return seeds(tmp_path_factory.mktemp("seeds"))


def damaged(content: bytes, seed: int) -> bytes:
    """A few bytes of a file changed, removed, repeated or cut off; more often in its header."""
    draw, made = random.Random(seed), bytearray(content)
    for _ in range(draw.choice([0, 1, 1, 2, 5])):
        at = draw.randrange(min(len(made), draw.choice([60, 400, len(made)])))
        what = draw.randrange(5)
        if what == 0:
            made[at] ^= 1 << draw.randrange(8)
        elif what == 1:
            made[at : at + 4] = draw.choice([bytes(4), b"\xff" * 4, draw.randbytes(4)])
        elif what == 2:
            del made[at : at + draw.randrange(1, 20)]
        elif what == 3:
            made[at:at] = made[at : at + draw.randrange(1, 20)]
        elif draw.random() < 0.3:
            del made[at:]
        if not made:
            break
    return bytes(made)


def upright(content: bytes) -> Image.Image:
    """A picture as a viewer shows it, by Pillow alone."""
    opened = Image.open(io.BytesIO(content))
    try:
        return ImageOps.exif_transpose(opened).convert("RGBA")
    except Exception:  # Pillow encodes the EXIF data anew, which damaged data refuse
        turned = pictures.upright(opened, pictures.orientation_of(opened))
        return turned.convert("RGBA")


def seen(content: bytes) -> np.ndarray[Any, Any]:
    picture = upright(content)
    white = Image.new("RGBA", picture.size, "white")
    return levels(Image.alpha_composite(white, picture).convert("RGB"))


def check_written(before: bytes, file: Path, format: str) -> None:
    """The new file shows the old picture, upright; or the old one is refused by both functions."""
    try:
        as_read = pictures.read(file, 16)
    except ValueError as error:
        assert file.name in str(error) and len(str(error)) < 400
        return
    assert as_read.shape == (16, 16, 3)
    made = protected_file(file, DELTA, Job(strength=8, size=16, format=format))  # type: ignore[arg-type]
    with pictures.decoded(file, None) as (stored, _):
        orientation = pictures.orientation_of(stored)
        old = levels(pictures.upright(pictures.as_seen(stored), orientation))
    new = seen(made.content)
    assert new.shape == old.shape
    lossless = Image.open(io.BytesIO(made.content)).format in ("PNG", "BMP")
    apart = np.abs(new - old)
    assert apart.max() <= 8 if lossless else apart.mean() < 30
    noise = Noise(DELTA, (old.shape[1], old.shape[0]), 8).strip(0, old.shape[0])
    if lossless and not made.about.unprotected:
        levels_of = noise.permute(1, 2, 0).numpy().astype(int)
        moved = (new - old) * np.sign(levels_of)
        assert moved.min() >= -1 and moved.max() > 0  # the noise is upright, too
    assert preview() not in made.content


@WITHIN
@given(st.integers(0, 10**6), st.sampled_from(["keep", "png", "jpg"]))
@example(0, "keep")
def test_a_damaged_file_is_written_upright_or_named(
    files: dict[str, bytes], tmp_path: Path, seed: int, format: str
) -> None:
    name = sorted(files)[seed % len(files)]
    file = tmp_path / name
    file.write_bytes(damaged(files[name], seed))
    with pictures.quiet():
        check_written(file.read_bytes(), file, format)


@pytest.mark.parametrize("format", ["keep", "png", "jpg"])
def test_every_whole_file_is_written_with_what_it_carried(
    files: dict[str, bytes], format: Any, tmp_path: Path
) -> None:
    for name, content in files.items():
        file = tmp_path / name
        file.write_bytes(content)
        check_written(content, file, format)
        made = protected_file(file, DELTA, Job(strength=8, size=16, format=format))
        new, old = Image.open(io.BytesIO(made.content)), Image.open(io.BytesIO(content))
        if old.getexif():
            assert dict(new.getexif()) == dict(old.getexif()), name
        if "icc_profile" in old.info:
            assert new.info["icc_profile"] == PROFILE


@settings(WITHIN, max_examples=6, phases=[Phase.generate])  # to shrink it would take minutes
@given(st.lists(st.integers(0, 10**6), min_size=30, max_size=30, unique=True))
def test_every_file_of_a_folder_is_written_or_named(
    files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, drawn: list[int]
) -> None:
    root = tmp_path_factory.mktemp("folder")
    save_each(root / "in", ["a/whole.png", "b/whole.png"])
    names = set()
    for seed in drawn:
        name = sorted(files)[seed % len(files)]
        names.add(f"{'ab'[seed % 2]}/{seed} {name}")
        (root / "in" / f"{'ab'[seed % 2]}/{seed} {name}").write_bytes(damaged(files[name], seed))
    before = contents(root)
    report = protect(root / "in", root / "out", JOB)
    after = contents(root)
    written = {name.removeprefix("out/") for name in after if name.startswith("out/")}
    assert {name: digest for name, digest in after.items() if not name.startswith("out/")} == before
    assert len(written) == report.written and not written & report.left_out.keys()
    assert written | report.left_out.keys() == {"a/whole.png", "b/whole.png", *names}
    assert not any(name.startswith(".") for name in (one.name for one in (root / "out").iterdir()))
