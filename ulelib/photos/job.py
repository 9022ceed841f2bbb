"""How pictures are protected: the settings of `protect`."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from ulelib.settings import Seed, settings

# The defenders that need nothing except the pictures.
MethodName = Literal["CSD", "ULEO-GrayAugs", "ULEO", "ULEO-Augs", "ULEO-Grays", "ULEO class-wise"]
Format = Literal["keep", "png", "jpg"]
METHODS, FORMATS = get_args(MethodName), get_args(Format)
SIZE, SIZES = 32, {"CSD": 8}  # default working size in pixels, and the methods that have another
SMALLEST_FOR_NETWORKS = 16  # pixels: the source network of all methods but CSD halves its input


@settings
class Job:
    """How pictures are protected.

    Attributes:
        method: one of `METHODS`. The default has the best worst case on the book's page 14b, over
            the networks and sizes of exploiters that filter nothing.
        strength: the most that a channel of a pixel changes, in gray levels, in the written picture
            (before lossy coding). The default is *Going Grayscale*'s bound on ImageNet; it is
            plainly visible in flat areas, such as sky and skin. Half of it is still seen there, and
            lets exploiters learn half of what clean pictures teach (14b).
        size: working size: the noise is made for squares of so many pixels a side; None: `SIZES`.
            A small working size gives smooth noise, which also works on networks that see little
            detail. A gray filter undoes CSD of 8 or 16 pixels (14b).
        masking: contrast masking: whether flat areas get less noise, down to a quarter of the
            strength (`ulelib.masking`).
        format: of the written files: "keep", each picture's own; "png"; or "jpg".
        quality: of JPEG and WebP, 1 to 100. None: a JPEG keeps its own; a lossy WebP gets the
            quality, 50 to 95, at which the original has its file size; others get 95.
        drop_location: whether to remove the place where a picture was taken (GPS in EXIF).
        seed: of everything that is drawn at random.

    Raises:
        ValueError: a value out of range, or a size too small for the method.
    """

    method: MethodName = "CSD"
    strength: Annotated[int, Field(ge=1, le=64)] = 16
    size: Annotated[int, Field(ge=8, le=512)] | None = None
    masking: bool = False
    format: Format = "keep"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    drop_location: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.method not in SIZES and self.pixels < SMALLEST_FOR_NETWORKS:
            raise ValueError(
                f"Job.size is {self.size}: {self.method} needs at least {SMALLEST_FOR_NETWORKS}, "
                "because its network halves the pictures several times"
            )

    @property
    def pixels(self) -> int:
        """The working size in pixels: `size`, or the method's default."""
        return self.size or SIZES.get(self.method, SIZE)
