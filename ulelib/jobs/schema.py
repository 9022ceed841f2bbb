"""What a record is: the shape of the JSON that stores and records hold, and that damage lacks."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from ulelib.jobs import strips

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Strip = Annotated[str, Field(max_length=strips.LONGEST, pattern=r"^[A-Za-z0-9+/]+=*$")]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
NamedCount = Annotated[tuple[str, int], Strict(False)]  # a set of images, and how many
Digests = dict[Key, Digest]  # of the noise that was used, by the key of its stage


@with_config(STRICT)
class Machine(TypedDict):
    """`machine.describe`; older records have fewer entries, later ones may have more."""

    device: str
    threads: Annotated[int, Field(ge=1, le=100_000)]


@with_config(STRICT)
class MadeBy(TypedDict):
    """`machine.made_by`."""

    machine: Machine
    commit: str | None


@with_config(STRICT)
class Shares(TypedDict):
    """`perturbation.energy_shares`."""

    luminance: Annotated[float, Field(ge=-1e-6, le=1 + 1e-6)]
    chroma: Annotated[float, Field(ge=-1e-6, le=1 + 1e-6)]
    tiles: Annotated[float, Field(ge=-1e-6, le=1 + 1e-6)]
    constant: Annotated[float, Field(ge=-1e-6, le=1 + 1e-6)]


@with_config(STRICT)
class NoiseResult(TypedDict):
    """Of a perturbation. Version 0.4 noted no digests, not what it is made of, and no strip."""

    rounds: list[Share]
    seconds: Seconds
    made_of: NotRequired[list[Shares]]
    sha256: NotRequired[Digest]
    strip: NotRequired[Strip]
    noise: NotRequired[Digests]


@with_config(STRICT)
class AttackedResult(TypedDict):
    """Of an attack on a trained network, or of its new last layer."""

    accuracy: Percent
    chance: Percent
    seconds: Seconds
    noise: NotRequired[Digests]


@with_config(STRICT)
class RunResult(AttackedResult):
    """Of a training: `exploiters.Training`."""

    train_accuracy: Percent
    curve: list[Percent]


@with_config(STRICT)
class PretrainedResult(AttackedResult):
    """Of a training without labels: `pretraining.Pretraining`."""

    knn: Percent
    untrained: Percent
    spread: Annotated[float, Field(ge=0, le=1e6)]
    curve: list[Percent]


@with_config(STRICT)
class SeenResult(TypedDict):
    """Of published pictures: `visibility.Visibility`; None where it has NaN."""

    largest: Annotated[int, Field(ge=0, le=255)]
    l2: Annotated[float, Field(ge=0, le=1e6)]
    psnr: Annotated[float, Field(ge=-100, le=1000)] | None
    ssim: Annotated[float, Field(ge=-1, le=1)] | None
    unchanged: Share
    seconds: Seconds
    noise: Digests


@with_config(STRICT)
class Cell(TypedDict):
    """A cell of a page: its names, and the key of the stage that measured it."""

    defender: str
    export: str
    exploiter: str
    seed: Annotated[int, Field(ge=0)]
    key: Key


@with_config(STRICT)
class Page(TypedDict):
    """A page's record, `results/PROFILE/PAGE.json`."""

    page: str
    profile: str
    seeds: list[Annotated[int, Field(ge=0)]]
    train: NamedCount
    test: NamedCount
    cells: list[Cell]
    stages: list[Key]
    machine: Machine
    commit: str | None


RESULTS: dict[str, TypeAdapter[Any]] = {
    "Noise": TypeAdapter(NoiseResult),
    "Run": TypeAdapter(RunResult),
    "Pretrained": TypeAdapter(PretrainedResult),
    "Attacked": TypeAdapter(AttackedResult),
    "Refitted": TypeAdapter(AttackedResult),
    "Seen": TypeAdapter(SeenResult),
}
MADE_BY, PAGE = TypeAdapter(MadeBy), TypeAdapter(Page)


def check_made_by(made: Any) -> None:
    """Raises ValueError where it does not say who computed something."""
    _check(MADE_BY, made)


def check_page(page: Any) -> None:
    """Raises ValueError where it is no page's record."""
    _check(PAGE, page)


def check_stage(stage: Any) -> None:
    """Raises ValueError where it is no record of a stage, as `execute.record` gives it."""
    if not isinstance(stage, dict) or set(stage) != {"spec", "result", "made"}:
        raise ValueError("a stage is recorded as spec, result and made")
    kind = stage["spec"].get("type") if isinstance(stage["spec"], dict) else None
    if kind not in RESULTS:
        raise ValueError(f"its spec is of type {kind!r:.100}; choose from {[*RESULTS]}")
    _check(RESULTS[kind], stage["result"])
    check_made_by(stage["made"])


def _check(shape: TypeAdapter[Any], data: Any) -> None:
    try:
        shape.validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"{place} is {first['input']!r:.100}: {first['msg'].lower()}") from None
