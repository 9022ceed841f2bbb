"""Pictures from anywhere: read as a person sees them, or all refused by name in one error."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from helpers import random_images
from ulelib import data, pictures
from ulelib.data import ImageSet


def pixels(size: tuple[int, int], seed: int = 0) -> Image.Image:
    drawn = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(drawn)


def picture(
    path: Path, size: tuple[int, int], seed: int = 0, mode: str = "RGB", **options: Any
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels(size, seed).convert(mode).save(path, **options)
    return path


def one(folder: Path, size: int = 32) -> torch.Tensor:
    """The only picture of a folder, `(3, size, size)`."""
    return data.image_folder(folder, size).images[0]


# --- as a person sees them -----------------------------------------------------------------------


def test_a_folder_gives_the_pixels_that_torchvision_gives(tmp_path: Path) -> None:
    files = [
        picture(tmp_path / "ant" / "b.jpg", (50, 37)),
        picture(tmp_path / "ant" / "c.PNG", (33, 70), 1),
        picture(tmp_path / "bee" / "a.png", (16, 16), 2, "L"),
        picture(tmp_path / "bee" / "e.png", (61, 40), 4, "P"),
        picture(tmp_path / "bee" / "f.bmp", (40, 40), 5),
        picture(tmp_path / "bee" / "g.webp", (40, 44), 6),
    ]
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "ant" / "._b.jpg").write_bytes(b"left behind by an archive")
    (tmp_path / "ant" / "notes.txt").write_text("no picture")
    found = data.image_folder(tmp_path)
    assert found.classes == ("ant", "bee") and found.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert found.name == tmp_path.name
    assert found.files == (
        "ant/b.jpg",
        "ant/c.PNG",
        "bee/a.png",
        "bee/e.png",
        "bee/f.bmp",
        "bee/g.webp",
    )
    expected = v2.Compose([v2.Resize(32), v2.CenterCrop(32), v2.PILToTensor()])
    for file, image in zip(files, found.images, strict=True):
        assert torch.equal(image, expected(Image.open(file).convert("RGB"))), file.name
    assert data.image_folder(tmp_path, 20).images.shape == (6, 3, 20, 20)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_nearly_what_torchvision_gives(
    mode: str, orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = picture(tmp_path / "small.png", (20, 15))
    large = Image.open(small).resize((2003, 1501), Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "large.jpg"
    large.save(file, quality=95, exif=exif)
    found = pictures.read(file, 32)
    monkeypatch.setattr(pictures, "DRAFTED", 1000)  # so many pixels the picture does not have
    whole = pictures.read(file, 32)
    apart = np.abs(found.astype(int) - whole)
    assert apart.max() > 0 and apart.mean() < 3
    upright = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    expected = v2.Compose([v2.Resize(32), v2.CenterCrop(32)])(upright)
    assert np.array_equal(whole, np.array(expected))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_phone_picture_stands_upright(tmp_path: Path, orientation: int) -> None:
    """Saved as the camera's sensor lay, with the way it was held in its EXIF data."""
    upright = Image.new("RGB", (32, 32), "black")
    upright.paste("white", (0, 0, 32, 16))  # the sky
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    lying = upright.transpose(back[orientation]) if orientation in back else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "sky").mkdir()
    lying.save(tmp_path / "sky" / "a.png", exif=exif)
    seen = one(tmp_path)
    assert seen[:, :15].min() > 250 and seen[:, 17:].max() < 5


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_seen_on_white(tmp_path: Path, mode: str) -> None:
    """Not in the colours that happen to lie below."""
    hidden = Image.new("RGBA", (32, 32), (200, 0, 0, 0))
    hidden.paste((0, 0, 0, 255), (0, 0, 32, 16))
    (tmp_path / "ant").mkdir()
    if mode == "P":
        palette = Image.new("P", (32, 32), 1)
        palette.putpalette([0, 0, 0, 200, 0, 0])
        palette.paste(0, (0, 0, 32, 16))
        palette.save(tmp_path / "ant" / "a.png", transparency=1)
    else:
        hidden.convert(mode).save(tmp_path / "ant" / "a.png")
    seen = one(tmp_path)
    assert seen[:, :16].max() == 0 and seen[:, 16:].min() == 255


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    levels = np.full((32, 32), 32768, np.uint16)
    levels[:16] = 1000
    Image.fromarray(levels).save(tmp_path / "ant" / "a.png")
    seen = one(tmp_path)
    assert seen[:, :16].unique().tolist() == [4] and seen[:, 16:].unique().tolist() == [128]


def test_a_print_picture_has_its_colours(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "ant" / "a.jpg")
    red, green, blue = one(tmp_path).float().mean((1, 2)).tolist()
    assert red > 240 and green < 20 and blue < 20


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "ant" / "a.png")
    assert one(tmp_path, 4)[:, 0, 0].tolist() == [9, 8, 7]


# --- refused by name -----------------------------------------------------------------------------


def png_of(width: int, height: int) -> bytes:
    """A PNG file that declares this size and holds nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    empty = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + empty


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n(x) run\n"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut.png", None, "truncated|broken"),
        ("text.jpg", b"no picture", "not a picture in one of the formats JPEG, PNG, BMP, WEBP"),
        ("empty.webp", b"", "not a picture"),
        ("program.jpg", EPS, "not a picture in one of the formats"),
        ("gif.png", b"GIF89a" + bytes(50), "it is a GIF, whatever its name says: save it as PNG"),
        ("strip.png", png_of(2_000_000, 1), "2,000,000 x 1 pixels are a strip"),
        ("giant.png", png_of(60_000, 60_000), "decompression bomb"),
    ],
)
def test_what_is_no_picture_is_named(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    whole = picture(tmp_path / "ant" / "a.png", (40, 40))
    broken = whole.with_name(name)
    broken.write_bytes(whole.read_bytes()[:2000] if content is None else content)
    with pytest.raises(
        ValueError, match=f"1 of 2 pictures cannot be read: ant/{name}: .*({reason})"
    ):
        data.image_folder(tmp_path)
    broken.unlink()
    assert len(data.image_folder(tmp_path)) == 1


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_an_animated_picture_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "ant").mkdir()
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "ant" / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=rf"ant/a\.{suffix}: it is animated"):
        data.image_folder(tmp_path)


def test_pictures_that_would_be_left_out_are_an_error(tmp_path: Path) -> None:
    """Their owner would believe that they are protected."""
    picture(tmp_path / "ant" / "a.png", (40, 40))
    for name in ("ant/b.gif", "ant/c.HEIC", "beside.jpg", "ant/d.tiff"):
        (tmp_path / name).write_bytes(b"")
    picture(tmp_path / "ant" / "more" / "e.png", (40, 40))
    with pytest.raises(ValueError, match="cannot be read") as caught:
        data.image_folder(tmp_path)
    message = str(caught.value)
    for name in ("ant/b.gif", "ant/c.HEIC", "beside.jpg", "ant/d.tiff", "ant/more"):
        assert name in message


@pytest.mark.parametrize("name", ["@eaDir", "ant/@eaDir", "#recycle", "__MACOSX"])
def test_thumbnails_and_deleted_pictures_are_no_class(name: str, tmp_path: Path) -> None:
    picture(tmp_path / "ant" / "a.png", (40, 40))
    picture(tmp_path / name / "a.png", (40, 40))
    with pytest.raises(ValueError, match=f"{name} is a folder of thumbnails or deleted"):
        data.image_folder(tmp_path)


def test_what_is_no_file_is_refused_without_being_opened(tmp_path: Path) -> None:
    picture(tmp_path / "ant" / "a.png", (40, 40))
    os.mkfifo(tmp_path / "ant" / "pipe.png")  # to open it is to wait without end
    (tmp_path / "ant" / "link.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(
        ValueError, match=r"ant/link\.png: it is not a file.*ant/pipe\.png: it is not a file"
    ):
        data.image_folder(tmp_path)


def test_many_problems_are_counted(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    for number in range(15):
        (tmp_path / "ant" / f"{number:02}.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="15 of 15 pictures .*; and 5 more"):
        data.image_folder(tmp_path)


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        data.image_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no classes"):
        data.image_folder(tmp_path)
    (tmp_path / "ant").mkdir()
    with pytest.raises(ValueError, match="the class ant holds no pictures"):
        data.image_folder(tmp_path)
    for size in (0, 5000):
        with pytest.raises(ValueError, match=f"size is {size}"):
            data.image_folder(tmp_path, size)


def test_the_warning_filters_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(8):
        picture(tmp_path / "ant" / f"{index}.png", (20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = list(warnings.filters)
        with pytest.raises(ValueError, match=r"ant/\d\.png: .*decompression bomb"):
            data.image_folder(tmp_path)
        assert warnings.filters == before


# --- written back --------------------------------------------------------------------------------


def test_saved_pictures_are_read_back_under_their_names(tmp_path: Path) -> None:
    for name, seed in (("bee/IMG_2.jpg", 1), ("ant/x.png", 2), ("bee/IMG_1.JPG", 3)):
        picture(tmp_path / "own" / name, (32, 32), seed)
    own = data.image_folder(tmp_path / "own")
    data.save_folder(own, tmp_path / "new")
    again = data.image_folder(tmp_path / "new")
    assert again.files == ("ant/x.png", "bee/IMG_1.png", "bee/IMG_2.png")
    assert torch.equal(again.images, own.images) and torch.equal(again.labels, own.labels)
    with pytest.raises(FileExistsError, match="is not empty"):
        data.save_folder(own, tmp_path / "new")


def test_names_that_would_meet_are_kept_apart(tmp_path: Path) -> None:
    picture(tmp_path / "own" / "ant" / "a.png", (32, 32), 1)
    picture(tmp_path / "own" / "ant" / "a.jpg", (32, 32), 2)
    own = data.image_folder(tmp_path / "own")
    data.save_folder(own, tmp_path / "new")
    again = data.image_folder(tmp_path / "new")
    assert again.files == ("ant/a.jpg.png", "ant/a.png.png")
    assert torch.equal(again.images, own.images)


def test_images_that_were_no_files_are_numbered(tmp_path: Path) -> None:
    data.save_folder(random_images(4, classes=2), tmp_path / "new")
    found = data.image_folder(tmp_path / "new").files
    assert found == (
        "class 0/000000.png",
        "class 0/000002.png",
        "class 1/000001.png",
        "class 1/000003.png",
    )


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/b", "..", ".", "", "a\\b", "a:b"])
def test_a_class_name_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    images = random_images(2, classes=2)
    evil = ImageSet(images.images, images.labels, ("ant", name), "evil")
    with pytest.raises(ValueError, match="is not the name of a class"):
        data.save_folder(evil, tmp_path / "deep" / "new")
    assert not list(tmp_path.rglob("*.png"))


def test_only_four_decoders_are_tried() -> None:
    assert set(pictures.FORMATS) == {"JPEG", "PNG", "BMP", "WEBP"}


@pytest.mark.parametrize(
    "name", ["IMG_0001", "a.jpg~", "b.jpg.bak", "c.mpo", "d.arw", "e.jpg_large", "f.exr"]
)
def test_what_may_be_a_picture_is_not_passed_over(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "ant" / "a.png", (40, 40))
    (tmp_path / "ant" / name).write_bytes(b"?")
    with pytest.raises(ValueError, match=f"ant/{name}: its format is not supported"):
        data.image_folder(tmp_path)


def test_names_that_some_systems_do_not_allow_are_refused_before_anything_is_computed(
    tmp_path: Path,
) -> None:
    for name in ("ant/12:30.png", "what?/b.png"):
        picture(tmp_path / name, (40, 40))
    with pytest.raises(ValueError, match=r"'ant/12:30\.png' has a character.*'what\?' has a") as e:
        data.image_folder(tmp_path)
    assert "rename it" in str(e.value)


def test_the_first_of_several_pictures_in_a_jpeg_is_seen(tmp_path: Path) -> None:
    """As some cameras write them, with a small one for their display."""
    (tmp_path / "ant").mkdir()
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("white", "black")]
    frames[0].save(
        tmp_path / "ant" / "a.jpg", format="MPO", save_all=True, append_images=frames[1:]
    )
    assert one(tmp_path).min() > 250


def test_a_transparent_level_of_sixteen_bits_is_white(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    levels = np.full((32, 32), 1000, np.uint16)
    levels[:16] = 5000
    Image.fromarray(levels).save(tmp_path / "ant" / "a.png", transparency=1000)
    seen = one(tmp_path)
    assert seen[:, :16].unique().tolist() == [19] and seen[:, 16:].min() == 255
