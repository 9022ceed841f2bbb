"""How well is a folder of pictures protected? Measured on the pictures themselves.

    findings = check("pictures", "protected")
    write_report(findings, "report.html")    # see `report`

Part of the clean pictures is held out. Small networks, of another architecture than the network the
noise is made with, are trained on the rest: once clean and once protected, each after a filter that
anyone can apply. Their accuracy on the held-out pictures is compared. No result means "safe": the
report has a number for each exploiter, and lists those the pictures are not protected against.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

from ulelib import data, pictures
from ulelib.data import ImageSet, is_available
from ulelib.exploiters import EXPLOITERS, Exploiter, exploit
from ulelib.jobs import execute
from ulelib.jobs.lab import Lab
from ulelib.jobs.store import Store
from ulelib.machine import device, fastest_precision
from ulelib.models import headless
from ulelib.pgd import Pgd
from ulelib.photos.copies import Pair, copies_of, examples_of, similarity
from ulelib.photos.folders import Label, Photo, Refused, find_pictures, image_set
from ulelib.pretraining import features, linear_probe
from ulelib.recipe import Recipe
from ulelib.settings import Op, op
from ulelib.specs import Run

# Not the network that the noise is made with (`profiles.CPU.loop.net`).
NET = op("resnet18", width=0.25, blocks=1)
# The usual network for photographs. Its first layers halve a picture twice, so it hardly sees fine
# noise (the book's page 14b).
USUAL = op("resnet18", width=0.5, stem="torchvision")
STEPS = 400  # least number of each training: networks learn pictures before they learn fine noise
HELD_OUT = 0.25  # of each class
FEWEST = 4  # pictures of a class that can be divided
# Protection fails where it leaves more than this share of the clean accuracy above guessing.
FAILURE = 0.5

CROP_FLIP = "cropping and mirroring"
# What an exploiter may do with the pictures first, in the words of the report.
FILTERS: dict[str, Exploiter] = {
    "nothing": Exploiter(augment=op("identity")),
    CROP_FLIP: EXPLOITERS["standard"],
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
SHARES = (0.8, 0.5)  # of the pictures that are protected, where the exploiter has the rest clean
FeatureSource = Literal["auto", "imagenet", "cifar10", "shapes"]


@dataclass(frozen=True)
class Line:
    """One exploiter's accuracy on held-out clean pictures, in percent.

    Attributes:
        does: what it does with the pictures, in words.
        clean, protected: accuracy after training on clean pictures, and on protected ones.
        left: share of the clean accuracy above guessing that is left on protected pictures; NaN
            where clean training is no better than guessing.
    """

    does: str
    clean: float
    protected: float
    left: float


@dataclass(frozen=True)
class Findings:
    """What `check` measured.

    Attributes:
        lines: one for each exploiter.
        guessing: accuracy of always naming the largest class, in percent.
        trained, held_out: numbers of pictures.
        psnr, ssim: see `similarity`.
        missing: printable names of pictures without a copy.
        unused: number of pairs that cannot be read, or are of a class with too few pictures.
        examples: a few pictures and their copies.
        features: what the network was trained on whose features the linear classifier gets.
        size: pixels a side in all trainings, except that of `USUAL`: that gets twice as many.
        seconds: duration of the check.
        among_others: whether pictures of other people were in all trainings.
        folders: of the pictures, of their copies and, if given, of the pictures of others.
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
    examples: tuple[Pair, ...]
    features: str
    size: int
    seconds: float
    among_others: bool = False
    folders: tuple[Path, ...] = ()
    seed: int = 0

    @property
    def fails(self) -> list[Line]:
        """The exploiters that the pictures are not protected against, the worst first."""
        found = [line for line in self.lines if line.left > FAILURE and line not in self.undecided]
        return sorted(found, key=lambda line: -line.left)

    @property
    def undecided(self) -> list[Line]:
        """Results that may be chance with so few held-out pictures: training on clean pictures is
        not far enough above guessing, or training on protected ones not far enough below the
        accuracy at which protection fails."""
        return [
            line
            for line in self.lines
            if line.clean - self.guessing < self.chance
            or 0 <= self._limit(line) - line.protected < self.chance
        ]

    def _limit(self, line: Line) -> float:
        """The accuracy on protected pictures above which protection fails."""
        return self.guessing + FAILURE * (line.clean - self.guessing)

    @property
    def chance(self) -> float:
        """Percentage points by which two accuracies may differ by chance."""
        return by_chance(self.held_out)


def by_chance(count: int) -> float:
    """Percentage points by which two accuracies on `count` pictures may differ by chance."""
    return 100 / math.sqrt(count)


def check(
    clean: Path | str,
    protected: Path | str,
    *,
    others: Path | str | None = None,
    size: int = 32,
    seed: int = 0,
    features_of: FeatureSource = "auto",
    store: Store | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Findings:
    """Train exploiters on pictures and on their protected copies, and compare.

    Args:
        clean, protected: folders, see `copies_of`; with `others` each may be a single class.
        others: clean pictures of other people, which every exploiter has, too. Only one's own
            pictures are held out and measured.
        size: pixels a side to which the exploiters scale the pictures.
        seed: of the division and of all trainings.
        features_of: data set of the network whose features a linear classifier gets; "auto":
            CIFAR-10 if it is on this machine, else drawn shapes; "imagenet": torchvision's
            ResNet-18, which is downloaded.
        store: keeps that network; None: `Lab`'s default.
        report: callback, called with lines of text about the progress.

    Raises:
        Refused: there are no pairs, or too few pictures to hold some out.
    """
    started = time.perf_counter()
    folders = tuple(Path(one).expanduser() for one in (clean, protected, others) if one is not None)
    found, missing = copies_of(folders[0], folders[1], flat=others is not None)
    foreign = None if others is None else find_pictures(folders[2], flat=True)
    read = _read(found, foreign, size)
    trial = _divided(read, seed)
    _warn_of_chance(trial, report)
    report("getting a network that was trained on other pictures")
    knows, backbone = _backbone(features_of, store)
    results = _Results(trial.guessing, report)
    _train_after_each_filter(trial, results)
    _train_usual_network(_divided(_read(found, foreign, 2 * size), seed), 2 * size, results)
    _train_on_partly_protected(trial, results)
    _train_linear_classifier(trial, knows, backbone, results)
    psnr, ssim = similarity(read.pairs)
    return Findings(
        lines=tuple(results.lines),
        guessing=trial.guessing,
        trained=len(trial.clean),
        held_out=len(trial.held_out),
        psnr=psnr,
        ssim=ssim,
        missing=tuple(missing),
        unused=len(found) - len(read.pairs),
        examples=examples_of(read.pairs),
        features=knows,
        size=size,
        seconds=time.perf_counter() - started,
        among_others=others is not None,
        folders=folders,
        seed=seed,
    )


# --- reading and dividing ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """All pictures, as an exploiter scales them.

    Attributes:
        clean, protected: in the same order; pictures of others are the same in both.
        own: labels of one's own classes.
        pairs: one's own pictures that are in both.
    """

    clean: ImageSet
    protected: ImageSet
    own: tuple[int, ...]
    pairs: list[Pair]


def _read(own: list[Pair], others: list[Photo] | None, size: int) -> _Read:
    """Read pictures and copies; leave out what cannot be read and classes with too few pictures.

    Raises:
        Refused: fewer than two classes are left, or none of one's own, or none of others.
    """
    every = [(pair.picture, pair.copy, Label(pair.label, own=True)) for pair in own]
    every += [(photo.file, photo.file, Label(photo.label, own=False)) for photo in others or ()]
    files = list(dict.fromkeys(file for row in every for file in row[:2]))
    pixels, problems = pictures.read_each(files, size)
    index_of = {file: index for index, file in enumerate(files)}
    sides = [(index_of[picture], index_of[copy]) for picture, copy, _ in every]
    labels = [label for *_, label in every]
    readable = [row for row, both in enumerate(sides) if not problems.keys() & both]
    counts = Counter(labels[row] for row in readable)
    kept = [row for row in readable if counts[labels[row]] >= FEWEST]
    if len({labels[row] for row in kept}) < 2:
        have = ", ".join(sorted(f"{label}: {count}" for label, count in counts.items()))
        raise Refused(
            f"there must be two classes or more with {FEWEST} readable pictures each, to train on "
            f"some and hold others out; readable are {have or 'none'}"
        )
    if not any(labels[row].own for row in kept):
        raise Refused(f"there must be {FEWEST} or more readable pictures of your own in a class")
    if others is not None and all(labels[row].own for row in kept):
        raise Refused(f"there must be {FEWEST} or more readable pictures of others in a class")
    first, second = ([sides[row][side] for row in kept] for side in (0, 1))
    kept_labels = [labels[row] for row in kept]
    clean, own_labels = image_set(pixels[first], kept_labels, "clean pictures")
    protected, _ = image_set(pixels[second], kept_labels, "protected pictures")
    return _Read(clean, protected, own_labels, [own[row] for row in kept if row < len(own)])


@dataclass(frozen=True)
class _Trial:
    """What exploiters are trained and measured on.

    Attributes:
        clean, protected: the pictures to train on; those of others are clean in both.
        held_out: clean pictures of one's own, in neither.
        guessing: see `Findings`.
        seed: of the division, and of the trainings.
    """

    clean: ImageSet
    protected: ImageSet
    held_out: ImageSet
    guessing: float
    seed: int


def _divided(read: _Read, seed: int) -> _Trial:
    """Hold out pictures of each of one's own classes."""
    train, test = _training_and_held_out_rows(read.clean, seed)
    own = torch.tensor(read.own)
    clean = read.clean.select(train)
    held_out = read.clean.select(test[torch.isin(read.clean.labels[test], own)])
    among_others = len(own) < len(read.clean.classes)
    guessing = _guessing(clean if among_others else held_out, own)
    return _Trial(clean, read.protected.select(train), held_out, guessing, seed)


def _training_and_held_out_rows(images: ImageSet, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to train on and rows held out, of every class."""
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


def _guessing(images: ImageSet, own: torch.Tensor) -> float:
    """Share of the largest of one's own classes, in percent: the accuracy of always naming it; or,
    among others, of naming each class as often as it occurs."""
    counts = torch.bincount(images.labels, minlength=len(images.classes))
    return 100 * float(counts[own].max()) / len(images)


def _warn_of_chance(trial: _Trial, report: Callable[[str], None]) -> None:
    """Say so if there are too few pictures for any result."""
    chance, room = by_chance(len(trial.held_out)), 100 - trial.guessing
    if chance > room:
        report(
            f"with {len(trial.held_out)} held-out pictures the report cannot say anything: results "
            f"differ by up to {chance:.0f} points by chance, and guessing is only {room:.0f} "
            "points below perfect. Use more pictures"
        )


# --- exploiters ----------------------------------------------------------------------------------


class _Results:
    """The lines of the findings, each reported when it is added.

    Args:
        guessing: see `Findings`.
        report: see `check`.
    """

    def __init__(self, guessing: float, report: Callable[[str], None]) -> None:
        self.guessing, self.report = guessing, report
        self.lines: list[Line] = []
        self.began = time.monotonic()

    def add(self, does: str, clean: float, protected: float) -> None:
        """Add the accuracies of one exploiter, in percent."""
        above = clean - self.guessing
        left = (protected - self.guessing) / above if above > 0 else math.nan
        self.lines.append(Line(does, clean, protected, left))
        done, total = len(self.lines), len(FILTERS) + len(SHARES) + 2
        self.report(
            f"{does}: {clean:.1f} % on clean pictures, {protected:.1f} % on protected ones "
            f"({done} of {total}{pictures.time_left(self.began, done, total)})"
        )


def _accuracy(train: ImageSet, trial: _Trial, exploiter: Exploiter, net: Op = NET) -> float:
    """Accuracy on the held-out pictures after training on `train`, in percent."""
    training, _ = exploit(
        train,
        trial.held_out,
        exploiter,
        net,
        _recipe(len(train)),
        seed=trial.seed,
        precision=fastest_precision(),
    )
    return training.accuracy


def _accuracies(trial: _Trial, exploiter: Exploiter, net: Op = NET) -> tuple[float, float]:
    """`_accuracy` after training on clean pictures, and on protected ones."""
    clean = _accuracy(trial.clean, trial, exploiter, net)
    return clean, _accuracy(trial.protected, trial, exploiter, net)


def _train_after_each_filter(trial: _Trial, results: _Results) -> None:
    for does, exploiter in FILTERS.items():
        results.add(does, *_accuracies(trial, exploiter))


def _train_usual_network(trial: _Trial, size: int, results: _Results) -> None:
    does = f"a ResNet-18 with the usual first layers, at {size} x {size} pixels"
    results.add(does, *_accuracies(trial, EXPLOITERS["standard"], USUAL))


def _train_on_partly_protected(trial: _Trial, results: _Results) -> None:
    """The exploiter finds clean copies of some pictures elsewhere. Trained on all of them clean, it
    is the one that crops and mirrors."""
    clean = next(line.clean for line in results.lines if line.does == CROP_FLIP)
    for share in SHARES:
        mixed = _partly_protected(trial, share)
        does = f"finding {1 - share:.0%} of your pictures unprotected elsewhere"
        results.add(does, clean, _accuracy(mixed, trial, EXPLOITERS["standard"]))


def _partly_protected(trial: _Trial, share: float) -> ImageSet:
    """The training pictures, a share of them protected and the others clean."""
    generator = torch.Generator().manual_seed(trial.seed)
    rows = torch.randperm(len(trial.clean), generator=generator)
    count = round(share * len(trial.clean))
    return data.mix(trial.protected.select(rows[:count]), trial.clean.select(rows[count:]))


def _train_linear_classifier(
    trial: _Trial, knows: str, backbone: nn.Module, results: _Results
) -> None:
    """A linear classifier on the features of a network that was trained on other pictures."""
    held_out = features(backbone, trial.held_out)
    probes = [
        linear_probe(features(backbone, train), train, held_out, trial.held_out)
        for train in (trial.clean, trial.protected)
    ]
    results.add(f"a linear classifier on features of a network that knows {knows}", *probes)


def _recipe(count: int) -> Recipe:
    """How an exploiter trains on `count` pictures."""
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


def _backbone(source: FeatureSource, store: Store | None) -> tuple[str, nn.Module]:
    """A network that was trained on other pictures, without its last layer; and what it knows."""
    if source == "imagenet":
        weights = ResNet18_Weights.DEFAULT
        whole = nn.Sequential(weights.transforms(antialias=True), resnet18(weights=weights))
        return "ImageNet", headless(whole)[0].to(device()).eval()
    if source == "auto":
        source = "cifar10" if is_available("cifar10", download=False) else "shapes"
    folder = None if store is None else store.folder
    lab = Lab({"cifar10": "cpu", "shapes": "smoke"}[source], store=folder)
    run = lab.cell("clean").stage
    assert isinstance(run, Run)
    execute.compute(run, lab.store)
    names = {"cifar10": "the ten classes of CIFAR-10", "shapes": "ten drawn shapes"}
    return names[source], headless(execute.network(run, lab.store))[0]
