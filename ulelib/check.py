"""What is the protection of a folder worth? Measured on the pictures themselves.

    findings = check("pictures", "protected")
    write_report(findings, "report.html")

Part of the clean pictures is held out. Small networks, of another architecture than the one that
noise is made with, are trained on the rest as it is and as it was protected, each after a filter
that anybody can apply, and measured on what was held out. Nothing here says "safe": the report has
a number for everything that it does not protect against.
"""

from __future__ import annotations

import base64
import io
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

from ulelib import __version__, data, pictures, stages
from ulelib.data import ImageSet, is_available
from ulelib.exploiters import EXPLOITERS, Exploiter, Recipe, exploit
from ulelib.lab import Lab
from ulelib.machine import device, fastest_precision
from ulelib.models import headless
from ulelib.pgd import Pgd
from ulelib.pretraining import features, linear_probe
from ulelib.protect import (
    FORMATS,
    OTHERS,
    SHORTEST,
    Photo,
    Refused,
    composed,
    find_pictures,
    folded,
    shown,
    targets_of,
    too_small,
)
from ulelib.settings import Op, op
from ulelib.stages import Run
from ulelib.store import Store, write_bytes, write_text

# Not the network that noise is made with (`profiles.CPU.loop.net`).
NET = op("resnet18", width=0.25, blocks=1)
# What people take for photographs. Its first layers halve a picture twice, so that fine noise is
# hard to see for it (the book's page 14b).
USUAL = op("resnet18", width=0.5, stem="torchvision")
STEPS = 400  # of each training, at least: networks learn pictures before they learn fine noise
HELD_OUT = 0.25  # of each class
FEWEST = 4  # pictures of a class that can be divided
COMPARED = 50  # pictures whose PSNR and SSIM are measured,
WIDEST = 1024  # pixels of their middle, a side: SSIM of a large photograph takes gigabytes
SHOWN = 3  # pictures in the report
TROUBLED = 0.5  # share of the clean accuracy above guessing, beyond which protection has failed

# What an exploiter may do with the pictures first, in the report's words.
FILTERS: dict[str, Exploiter] = {
    "nothing": Exploiter(augment=op("identity")),
    "cropping and mirroring": EXPLOITERS["standard"],
    "turning them gray": EXPLOITERS["gray"],
    "saving as JPEG of quality 90": EXPLOITERS["jpeg-90"],
    "saving as JPEG of quality 75": EXPLOITERS["jpeg-75"],
    "saving as JPEG of quality 50": EXPLOITERS["jpeg-50"],
    "saving as JPEG of quality 30": EXPLOITERS["jpeg-30"],
    "blurring them": EXPLOITERS["blur"],
    "halving their size, and doubling it again": Exploiter(prepare=(op("halved"),)),
    "taking out what a linear classifier sees": EXPLOITERS["projection"],
    "mixing them (Mixup)": EXPLOITERS["mixup"],
    "adversarial training, a short one": Exploiter(
        attack=Pgd(epsilon=8 / 255, step=4 / 255, steps=3, random_start=True)
    ),
}
SHARES = (0.8, 0.5)  # of the pictures protected, where others are to be had clean
Features = Literal["auto", "imagenet", "cifar10", "shapes"]


@dataclass(frozen=True)
class Line:
    """One exploiter: what it reaches on clean pictures that it has not seen, in percent.

    Attributes:
        does: what it does with the pictures, in words.
        clean, protected: trained on clean pictures, and on protected ones.
        left: the share of the clean accuracy above guessing that protection leaves; NaN where clean
            training reaches no more than guessing.
    """

    does: str
    clean: float
    protected: float
    left: float


@dataclass(frozen=True)
class Findings:
    """What `check` found.

    Attributes:
        lines: one for each exploiter.
        guessing: percent, of always naming the largest class.
        trained, held_out: how many pictures.
        psnr, ssim: means over some of the pictures, at their own size, `WIDEST` pixels at most.
        missing: names of pictures without a copy.
        unused: pairs that cannot be read, or are of a class with too few pictures.
        shown: a few pictures and their copies.
        features: which network's features the linear classifier had.
        size: pixels at which all were trained, but for `USUAL`: that has twice as many.
        seconds: of all.
        among_others: whether pictures of other people were in all trainings.
        folders: of the pictures, of their copies and, if there are, of those of others.
        seed: of the division and of all trainings.
    """

    lines: tuple[Line, ...]
    guessing: float
    trained: int
    held_out: int
    psnr: float
    ssim: float
    missing: tuple[str, ...]
    unused: int
    shown: tuple[tuple[Path, Path, str], ...]
    features: str
    size: int
    seconds: float
    among_others: bool = False
    folders: tuple[Path, ...] = ()
    seed: int = 0

    @property
    def fails(self) -> list[Line]:
        """What it does not protect against, the worst first."""
        found = [line for line in self.lines if line.left > TROUBLED and line not in self.undecided]
        return sorted(found, key=lambda line: -line.left)

    @property
    def undecided(self) -> list[Line]:
        """What chance may have done with so few held-out pictures: clean pictures taught no more
        above guessing, or protected ones not that much less than would be a failure."""
        return [
            line
            for line in self.lines
            if line.clean - self.guessing < self.chance
            or 0 <= self._limit(line) - line.protected < self.chance
        ]

    def _limit(self, line: Line) -> float:
        """The accuracy on protected pictures beyond which protection has failed."""
        return self.guessing + TROUBLED * (line.clean - self.guessing)

    @property
    def chance(self) -> float:
        """Points by which two accuracies may differ by chance."""
        return by_chance(self.held_out)


def by_chance(count: int) -> float:
    """Points by which two accuracies on `count` pictures may differ by chance."""
    return 100 / math.sqrt(count)


def check(
    clean: Path | str,
    protected: Path | str,
    *,
    others: Path | str | None = None,
    size: int = 32,
    seed: int = 0,
    features_of: Features = "auto",
    store: Store | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Findings:
    """Train exploiters on pictures and on their protected copies, and compare.

    Args:
        clean, protected: folders `CLASS/FILE`; a picture and its copy have the same name, but for
            the suffix. With `others` their own pictures may be one class themselves.
        others: clean pictures of other people, among which the exploiter finds these. Then it is
            measured how many of the held-out pictures are told from those of others.
        size: pixels a side to which the exploiters scale them.
        seed: of the division and of all trainings.
        features_of: on which data the network was trained whose features a linear classifier
            gets; "auto": CIFAR-10 if it is at hand, else drawn shapes; "imagenet": torchvision's
            ResNet-18, which is downloaded.
        store: keeps that network; None: `Lab`'s.
        report: is told what goes on, in words.

    Raises:
        Refused: no pairs, or too few pictures to hold some out.
    """
    started = time.perf_counter()
    found, missing = copies_of(
        Path(clean).expanduser(), Path(protected).expanduser(), flat=others is not None
    )
    foreign = [] if others is None else find_pictures(Path(others).expanduser(), flat=True)
    theirs = [(photo.file, photo.file, f"{OTHERS}{photo.label}") for photo in foreign]
    every = [*found, *theirs]
    before, after, pairs = _read(every, size)
    train, test = _divided(before, seed)
    mine = torch.tensor([not name.startswith(OTHERS) for name in before.classes])
    if not mine.any():
        raise Refused(f"there must be {FEWEST} or more readable pictures of your own in a class")
    if others is not None and mine.all():
        raise Refused(f"there must be {FEWEST} or more readable pictures of others in a class")
    test = test[mine[before.labels[test]]]
    own, test_set = before.select(train), before.select(test)
    copies = after.select(train)
    guessing = _guessing(own if theirs else test_set, mine)
    pairs = [pair for pair in pairs if not pair[2].startswith(OTHERS)]
    lines: list[Line] = []
    how_many = len(FILTERS) + len(SHARES) + 2  # of lines: what they take differs by machine
    if (chance := by_chance(len(test_set))) > 100 - guessing:
        report(
            f"with {len(test_set)} held-out pictures the report cannot say anything: results "
            f"differ by up to {chance:.0f} points by chance, and there are {100 - guessing:.0f} "
            "between guessing and naming all rightly. Take more pictures"
        )
    report("getting a network that was trained on other pictures")
    named, backbone = _backbone(features_of, store)
    began = time.monotonic()

    def measured(
        some: ImageSet, exploiter: Exploiter, net: Op = NET, on: ImageSet = test_set
    ) -> float:
        training, _ = exploit(
            some,
            on,
            exploiter,
            net,
            _recipe(len(some)),
            seed=seed,
            precision=fastest_precision(),
        )
        return training.accuracy

    def line(does: str, first: float, second: float) -> None:
        left = (second - guessing) / (first - guessing) if first > guessing else math.nan
        lines.append(Line(does, first, second, left))
        time_left = pictures.time_left(began, len(lines), how_many)
        report(
            f"{does}: {first:.1f} % on clean pictures, {second:.1f} % on protected ones "
            f"({len(lines)} of {how_many}{time_left})"
        )

    for does, exploiter in FILTERS.items():
        line(does, measured(own, exploiter), measured(copies, exploiter))
    whole = next(entry.clean for entry in lines if entry.does == "cropping and mirroring")
    larger = [some.select(rows) for some in _read(every, 2 * size)[:2] for rows in (train, test)]
    line(
        f"a ResNet-18 with the usual first layers, at {2 * size} x {2 * size} pixels",
        *(measured(some, EXPLOITERS["standard"], USUAL, larger[1]) for some in larger[::2]),
    )
    for share in SHARES:
        mixed = _partly(own, copies, share, seed)
        does = f"finding {1 - share:.0%} of your pictures unprotected elsewhere"
        line(does, whole, measured(mixed, EXPLOITERS["standard"]))
    seen = features(backbone, test_set)
    probes = [
        linear_probe(features(backbone, some), some, seen, test_set) for some in (own, copies)
    ]
    line(f"a linear classifier on features of a network that knows {named}", *probes)
    psnr, ssim = _alike(pairs[:: math.ceil(len(pairs) / COMPARED)])
    return Findings(
        tuple(lines),
        guessing,
        len(own),
        len(test_set),
        psnr,
        ssim,
        tuple(missing),
        len(found) - len(pairs),
        tuple(pairs[:: max(1, len(pairs) // SHOWN)][:SHOWN]),
        named,
        size,
        time.perf_counter() - started,
        bool(theirs),
        tuple(Path(one).expanduser() for one in (clean, protected, others) if one is not None),
        seed,
    )


Pair = tuple[Path, Path, str]  # a picture, its protected copy, their class


def copies_of(clean: Path, protected: Path, flat: bool = False) -> tuple[list[Pair], list[str]]:
    """Pictures with their copies, and the names of those without.

    Args:
        flat: whether the folders' own pictures are a class, too.

    Raises:
        Refused: there is no pair.
    """
    for folder in (clean, protected):
        if not folder.is_dir():
            raise Refused(f"{folder} is not a folder")
    left_out: dict[str, str] = {}  # what cannot be protected is published as it is, if at all
    own, copies = find_pictures(clean, left_out, flat), find_pictures(protected, flat=flat)
    # Under the name that `protect` would give it, in any format; or, if the copies were converted
    # by somebody else, under its own with another suffix.
    exact = {photo.name: photo for photo in copies}
    by_name = {composed(name): photo for name, photo in exact.items()}
    by_stem = {composed(photo.name.with_suffix("")): photo for photo in copies}
    # Names that two pictures might have are given to those that can be protected.
    stems = {photo: folded(photo.name.with_suffix("")) for photo in own}
    often = Counter(stems.values())
    refused = _refused([photo for photo in own if often[stems[photo]] > 1])
    own = [photo for photo in own if photo not in refused]
    alike = Counter(stems[photo] for photo in own)
    pairs, missing, used = [], [shown(photo.name) for photo in refused], set()
    for photo, *targets in zip(own, *(targets_of(own, one) for one in FORMATS), strict=True):
        found = [*map(exact.get, targets), *map(by_name.get, map(composed, targets))]
        found.append(by_stem.get(composed(photo.name)))
        if alike[stems[photo]] == 1:
            found.append(by_stem.get(composed(photo.name.with_suffix(""))))
        copy = next((one for one in found if one is not None and one.file not in used), None)
        if copy is None:
            missing.append(shown(photo.name))
        else:
            used.add(copy.file)
            pairs.append((photo.file, copy.file, photo.label))
    if not pairs:
        raise Refused(f"{protected} has no copy of a picture of {clean}")
    return pairs, sorted([*missing, *left_out])


def _refused(photos: list[Photo]) -> set[Photo]:
    """Those that `protect` leaves out for what they are."""
    _, unread = pictures.read_each([photo.file for photo in photos], SHORTEST)
    return {photo for place, photo in enumerate(photos) if place in unread or too_small(photo.file)}


def _read(pairs: list[Pair], size: int) -> tuple[ImageSet, ImageSet, list[Pair]]:
    """Both, as an exploiter scales them, of the pairs that can be used; and those pairs."""
    files = list(dict.fromkeys(file for pair in pairs for file in pair[:2]))  # others' are both
    pixels, wrong = pictures.read_each(files, size)
    place_of = {file: place for place, file in enumerate(files)}
    sides = [(place_of[clean], place_of[copy]) for clean, copy, _ in pairs]
    kept = [place for place, both in enumerate(sides) if not wrong.keys() & both]
    names = [pairs[place][2] for place in kept]
    counts = {name: names.count(name) for name in sorted(set(names))}
    classes = tuple(name for name, count in counts.items() if count >= FEWEST)
    if len(classes) < 2:
        raise Refused(
            f"there must be two classes or more with {FEWEST} readable pictures each, to train on "
            f"some and hold others out; there are {counts or 'none'}"
        )
    kept = [place for place in kept if pairs[place][2] in classes]
    labels = torch.tensor([classes.index(pairs[place][2]) for place in kept])
    first, second = zip(*(sides[place] for place in kept), strict=True)
    return (
        ImageSet(pixels[list(first)], labels, classes, "clean pictures"),
        ImageSet(pixels[list(second)], labels, classes, "protected pictures"),
        [pairs[place] for place in kept],
    )


def _guessing(images: ImageSet, mine: torch.Tensor) -> float:
    """Percent that naming the largest class of one's own would reach, or drawing one's own among
    those of others as often as they are there."""
    counts = torch.bincount(images.labels, minlength=len(mine))
    return 100 * float(counts[mine].max()) / len(images)


def _divided(images: ImageSet, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to train on, and rows held out, of each class."""
    generator = torch.Generator().manual_seed(seed)
    train, test = [], []
    for label in range(len(images.classes)):
        rows = (images.labels == label).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        count = max(1, round(HELD_OUT * len(rows)))
        test.append(rows[:count])
        train.append(rows[count:])
    order = torch.cat(train)
    return order[torch.randperm(len(order), generator=generator)], torch.cat(test)


def _partly(clean: ImageSet, protected: ImageSet, share: float, seed: int) -> ImageSet:
    """A share of the pictures protected, the others clean."""
    rows = torch.randperm(len(clean), generator=torch.Generator().manual_seed(seed))
    count = round(share * len(clean))
    return data.mix(protected.select(rows[:count]), clean.select(rows[count:]))


def _recipe(count: int) -> Recipe:
    batch = min(64, count)
    return Recipe(
        epochs=math.ceil(STEPS / (count // batch)),
        batch_size=batch,
        learning_rate=0.1,
        schedule="one_cycle",
        nesterov=True,
        label_smoothing=0.1,
        flip_at_test=True,
    )


def _backbone(wanted: Features, store: Store | None) -> tuple[str, nn.Module]:
    """A network that was trained on other pictures, without its last layer; and what it knows."""
    if wanted == "imagenet":
        weights = ResNet18_Weights.DEFAULT
        whole = nn.Sequential(weights.transforms(antialias=True), resnet18(weights=weights))
        return "ImageNet", headless(whole)[0].to(device()).eval()
    if wanted == "auto":
        wanted = "cifar10" if is_available("cifar10", download=False) else "shapes"
    folder = None if store is None else store.folder
    lab = Lab({"cifar10": "cpu", "shapes": "smoke"}[wanted], store=folder)
    run = lab.cell("clean").stage
    stages.compute(run, lab.store)
    names = {"cifar10": "the ten classes of CIFAR-10", "shapes": "ten drawn shapes"}
    assert isinstance(run, Run)
    return names[wanted], headless(stages.network(run, lab.store))[0]


def _alike(pairs: list[Pair]) -> tuple[float, float]:
    """Mean PSNR in decibels and mean SSIM of pictures and copies, of their middle."""
    from torchmetrics.functional import image as metrics  # Lightning comes with it, slowly

    found = []
    for first, second, _ in pairs:
        picture, copy = _upright(first), _upright(second)
        if picture.size != copy.size or min(picture.size) < 11:  # SSIM's window
            continue
        both = [
            torch.from_numpy(np.array(_middle(one, WIDEST)))[None].permute(0, 3, 1, 2).float()
            for one in (picture, copy)
        ]
        psnr = metrics.peak_signal_noise_ratio(both[1], both[0], data_range=255.0)
        ssim = metrics.structural_similarity_index_measure(both[1], both[0], data_range=255.0)
        if torch.isfinite(psnr):  # it is infinite where both are equal
            found.append([float(psnr), float(ssim)])  # type: ignore[arg-type]
    if not found:
        return math.nan, math.nan
    means = torch.tensor(found).mean(0)
    return float(means[0]), float(means[1])


def _upright(file: Path) -> Image.Image:
    with Image.open(file, formats=pictures.FORMATS) as opened:
        return pictures.as_seen(ImageOps.exif_transpose(opened))


# --- the report ----------------------------------------------------------------------------------

CUT = 256  # pixels of the middle of a picture that the report shows, each as a pixel of the screen
AMPLIFIED = 10  # the difference of picture and copy, as the report shows it


def check_writable(page: Path) -> None:
    """Whether a report can be written there: to be asked before all the trainings.

    Raises:
        Refused: there is no such folder.
        OSError: nothing can be written in it.
    """
    folder = page.expanduser().parent
    if not folder.is_dir():
        raise Refused(f"there is no folder {page.parent} for the report")
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_report(findings: Findings, page: Path | str) -> tuple[Path, Path]:
    """One HTML page without anything outside of it, and the same numbers as JSON beside it.

    Args:
        page: where to write the page; the JSON file has its name with ".json" behind it.

    Returns:
        both.

    Raises:
        OSError: they cannot be written.
    """
    page = Path(page).expanduser()
    numbers = page.with_name(page.name + ".json")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        files("ulelib").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    told = {name: value for name, value in asdict(findings).items() if name != "shown"}
    told["lines"] = [
        asdict(line) | {"left": _number(line.left), "undecided": line in findings.undecided}
        for line in findings.lines
    ]
    told["folders"] = [shown(folder) for folder in findings.folders]
    told |= {"fails": [line.does for line in findings.fails], "chance": findings.chance}
    told |= {"version": __version__, "date": date.today().isoformat()}
    told = {name: _number(value) for name, value in told.items()}
    text = json.dumps(told, indent=1, allow_nan=False) + "\n"
    write_text(numbers, text)
    made = template.render(
        findings=findings,
        pictures=[side_by_side(pair) for pair in findings.shown],
        folders=told["folders"],
        date=told["date"],
        version=__version__,
        steps=STEPS,
        amplified=AMPLIFIED,
        widest=WIDEST,
    )
    write_bytes(page, made.encode("utf-8", "replace"))
    return page, numbers


def _number(value: Any) -> Any:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def side_by_side(pair: Pair) -> dict[str, str]:
    """A picture, its copy and their difference around gray, the middle of each at 1:1.

    Returns:
        "name", and as data URLs of PNG pictures "before", "after" and "difference" (times
        `AMPLIFIED`).
    """
    first, second = (_middle(_upright(file), CUT) for file in pair[:2])
    if first.size != second.size:
        second = second.resize(first.size)
    difference = np.asarray(second, int) - np.asarray(first, int)
    gray = (128 + AMPLIFIED * difference).clip(0, 255).astype(np.uint8)
    return {
        "name": shown(Path(pair[2]) / pair[0].name),
        "before": _embedded(first),
        "after": _embedded(second),
        "difference": _embedded(Image.fromarray(gray)),
    }


def _middle(picture: Image.Image, most: int) -> Image.Image:
    width, height = (min(most, side) for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _embedded(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
