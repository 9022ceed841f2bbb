"""How well is a folder of pictures protected? Measured on the pictures themselves.

    findings = check("pictures", "protected")
    write_report(findings, "report.html")    # see `report`

Part of the clean pictures is held out. Small networks, of another architecture than the network the
noise is made with, are trained on the rest: once clean and once protected, each after a filter that
anyone can apply. Their accuracy on the held-out pictures is compared. No result means "safe": the
report has a number for each exploiter, and lists those the pictures are not protected against, as
far as so many pictures can tell (`findings`).
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

from ulelib import machine, pictures
from ulelib.data import ImageSet, is_available
from ulelib.exploiters import EXPLOITERS, Exploiter, exploit
from ulelib.jobs import execute
from ulelib.jobs.lab import Lab
from ulelib.jobs.store import Store
from ulelib.machine import device, fastest_precision, logits, seeded_model, to_float
from ulelib.models import build_model, headless
from ulelib.pgd import Pgd
from ulelib.photos.copies import copies_of, examples_of, similarity
from ulelib.photos.findings import Findings, Line, foreseen
from ulelib.photos.folders import find_pictures
from ulelib.photos.trial import Read, Trial, divided, partly_protected, read
from ulelib.pretraining import features, linear_probe
from ulelib.recipe import Recipe
from ulelib.restoration import Restoration, restored
from ulelib.settings import Op, op
from ulelib.specs import Run

T = TypeVar("T")
# Not the network that the noise is made with (`profiles.CPU.loop.net`).
NET = op("resnet18", width=0.25, blocks=1)
# The usual network for photographs. Its first layers halve a picture twice, so it hardly sees fine
# noise (the book's page 14b).
USUAL = op("resnet18", width=0.5, stem="torchvision")
STEPS = 400  # least number of each training: networks learn pictures before they learn fine noise
MOST_AT_ONCE = 4  # trainings: more would wait for each other, being in one process
LARGEST_BATCH = 64
TIMED = 3  # steps
LOOK_AGAIN = 0.5  # seconds between two looks whether to end

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
# The way back: from so many of the pictures, found clean, a network learns to take the noise out of
# the others.
KNOWN = 0.2
WAY_BACK = Restoration()
Report = Callable[[str], None]
FeatureSource = Literal["auto", "imagenet", "cifar10", "shapes"]


def check(
    clean: Path | str,
    protected: Path | str,
    *,
    others: Path | str | None = None,
    size: int = 32,
    seed: int = 0,
    features_of: FeatureSource = "auto",
    store: Store | None = None,
    report: Report = lambda line: None,
    ended: Callable[[], bool] = lambda: False,
) -> Findings:
    """Train exploiters on pictures and on their protected copies, and compare.

    It first reports what can be said with so many pictures, and about how long it will take.

    Args:
        clean, protected: folders, see `copies_of`; with `others` each may be a single class.
        others: clean pictures of other people, in all trainings; only one's own are measured.
        size: pixels a side to which the exploiters scale the pictures.
        seed: of the division and of all trainings.
        features_of: data set of the network whose features a linear classifier gets; "auto":
            CIFAR-10 if it is on this machine, else drawn shapes; "imagenet": torchvision's
            ResNet-18, which is downloaded.
        store: keeps that network; None: `Lab`'s default.
        report: callback, called with lines of text about the progress.
        ended: asked after each epoch of each training whether to end.

    Raises:
        Refused: there are no pairs, or too few pictures to hold some out.
        Ended: `ended` said so.
    """
    started = time.perf_counter()
    folders = tuple(Path(one).expanduser() for one in (clean, protected, others) if one is not None)
    found, missing = copies_of(folders[0], folders[1], flat=others is not None)
    foreign = None if others is None else find_pictures(folders[2], flat=True)
    once, twice = (read(found, foreign, pixels) for pixels in (size, 2 * size))
    trial, larger = (divided(one, seed) for one in (once, twice))
    _say_first(once, trial, report)
    knows, lines = _measured(trial, larger, features_of, store, report, ended)
    psnr, ssim = similarity(once.pairs)
    return Findings(
        lines=lines,
        guessing=trial.guessing,
        trained=len(trial.clean),
        held_out=len(trial.held_out),
        own=len(once.pairs),
        psnr=psnr,
        ssim=ssim,
        missing=tuple(missing),
        bare=once.bare,
        unused=len(found) - len(once.pairs),
        examples=examples_of(once.pairs),
        features=knows,
        size=size,
        seconds=time.perf_counter() - started,
        among_others=others is not None,
        folders=folders,
        seed=seed,
    )


def _say_first(once: Read, trial: Trial, report: Report) -> None:
    """What can be said with so many pictures, and how many copies have no noise."""
    rows = len(FILTERS) + len(SHARES) + 3  # see `_begun`
    report(foreseen(len(once.pairs), len(trial.held_out), trial.guessing, rows))
    if once.bare:
        report(
            f"{len(once.bare)} of {len(once.pairs)} copies have no noise, such as {once.bare[0]}"
        )


def _measured(
    trial: Trial,
    larger: Trial,
    features_of: FeatureSource,
    store: Store | None,
    report: Report,
    ended: Callable[[], bool],
) -> tuple[str, tuple[Line, ...]]:
    """What `_backbone` knows, and a line for each exploiter."""
    with _Trainings(ended) as work:
        report(f"the trainings take some {_foreseen_time(work, trial, larger)}")
        report("getting a network that was trained on other pictures")
        knows, backbone = _backbone(features_of, store)
        begun = _begun(work, trial, larger, knows, backbone)
        results = _Results(trial.guessing, len(begun), report)
        for does, clean, protected in begun:
            results.add(does, work.result(clean), work.result(protected))
    return knows, tuple(results.lines)


# --- trainings side by side ----------------------------------------------------------------------


class Ended(Exception):
    """A check was ended before it was finished."""


class _Trainings:
    """Trainings in threads, as a context manager; leaving it ends those that are not finished.

    Threads, not processes: they need no copies of the pictures, and work in any script.

    Args:
        ended: see `check`.
    """

    def __init__(self, ended: Callable[[], bool]) -> None:
        self.ended, self.left = ended, threading.Event()
        on_cpu = device().type == "cpu"
        self.width = min(machine.cores(), MOST_AT_ONCE) if on_cpu else 1
        self.pool = ThreadPoolExecutor(self.width, initializer=machine.use_threads)

    def __enter__(self) -> _Trainings:
        return self

    def __exit__(self, *error: object) -> None:
        self.left.set()
        self.pool.shutdown(cancel_futures=True)

    def begin(self, work: Callable[..., T], *given: Any) -> Future[T]:
        return self.pool.submit(work, *given)

    def result(self, future: Future[T]) -> T:
        """What a training gave.

        Raises:
            Ended: `ended` said so.
        """
        while not self.ended():
            with contextlib.suppress(TimeoutError):
                return future.result(timeout=LOOK_AGAIN)
        raise Ended

    def accuracy(self, train: ImageSet, trial: Trial, exploiter: Exploiter, net: Op = NET) -> float:
        """Accuracy on the held-out pictures after training on `train`, in percent."""

        training, _ = exploit(
            train,
            trial.held_out,
            exploiter,
            net,
            _recipe(len(train)),
            seed=trial.seed,
            precision=fastest_precision(),
            report=self._end,
        )
        return training.accuracy

    def way_back(self, trial: Trial) -> float:
        """Accuracy after training on pictures out of which a network took the noise, in percent."""
        how = replace(WAY_BACK, pairs=max(1, round(KNOWN * len(trial.clean))))
        precision = fastest_precision()
        found = restored(trial.protected, trial.clean, how, trial.seed, precision, report=self._end)
        return self.accuracy(found, trial, EXPLOITERS["standard"])

    def _end(self, _: str) -> None:
        if self.left.is_set() or self.ended():
            raise Ended


Row = tuple[str, Future[float], Future[float]]  # what an exploiter does; clean and protected


def _begun(
    work: _Trainings, trial: Trial, larger: Trial, knows: str, backbone: nn.Module
) -> list[Row]:
    """All trainings, handed to the threads in the order of the report.

    Args:
        trial, larger: at the size of most trainings, and at that of the usual network.
        knows, backbone: see `_backbone`.
    """

    def both(does: str, exploiter: Exploiter, of: Trial, net: Op = NET) -> Row:
        sets = (of.clean, of.protected)
        first, second = (work.begin(work.accuracy, one, of, exploiter, net) for one in sets)
        return does, first, second

    standard, pixels = EXPLOITERS["standard"], larger.clean.images.shape[-1]
    rows = [both(does, exploiter, trial) for does, exploiter in FILTERS.items()]
    usual = f"a ResNet-18 with the usual first layers, at {pixels} x {pixels} pixels"
    rows.append(both(usual, standard, larger, USUAL))
    # The exploiter finds clean copies of some pictures elsewhere. Trained on all of them clean, it
    # is the one that crops and mirrors.
    clean = next(first for does, first, _ in rows if does == CROP_FLIP)
    for share in SHARES:
        mixed = work.begin(work.accuracy, partly_protected(trial, share), trial, standard)
        rows.append(
            (f"finding {1 - share:.0%} of your pictures unprotected elsewhere", clean, mixed)
        )
    learned = (
        f"learning from {KNOWN:.0%} of your pictures, found unprotected, to take the noise out"
    )
    rows.append((learned, clean, work.begin(work.way_back, trial)))
    linear = f"a linear classifier on features of a network that knows {knows}"
    sets = (trial.clean, trial.protected)
    first, second = (work.begin(_linear_classifier, one, trial.held_out, backbone) for one in sets)
    return [*rows, (linear, first, second)]


def _linear_classifier(train: ImageSet, held_out: ImageSet, backbone: nn.Module) -> float:
    """Accuracy of a linear classifier on the features of a network trained on other pictures."""
    return linear_probe(features(backbone, train), train, features(backbone, held_out), held_out)


def _foreseen_time(work: _Trainings, trial: Trial, larger: Trial) -> str:
    """About how long all trainings take, in words: some passes of each network are timed, side by
    side as the trainings will run. Each step of an attack counts as one of training."""
    seconds = {}
    for net, of in ((NET, trial), (USUAL, larger)):
        timed = [work.begin(_seconds_of_a_step, net, of) for _ in range(work.width)]
        seconds[net] = sum(map(work.result, timed)) / work.width**2
    recipe = _recipe(len(trial.clean))
    attacks = [one.attack.steps if one.attack else 0 for one in FILTERS.values()]
    small = len(SHARES) + 1 + sum(2 + 2 * attack for attack in attacks)
    steps = recipe.epochs * recipe.steps_per_epoch(trial.clean)
    # A step of the network that takes the noise out costs about as much as one of `NET`.
    once = WAY_BACK.steps * seconds[NET]
    return pictures.duration(once + steps * (small * seconds[NET] + 2 * seconds[USUAL]))


def _seconds_of_a_step(net: Op, trial: Trial) -> float:
    model = seeded_model(lambda: build_model(net, len(trial.clean.classes)), trial.seed)
    batch = to_float(trial.clean.images[:LARGEST_BATCH].to(device()))
    for _ in range(2):  # the first pass takes longer
        began = time.perf_counter()
        for _ in range(TIMED):
            logits(model, batch, fastest_precision()).sum().backward()
    return (time.perf_counter() - began) / TIMED


# --- results and networks ------------------------------------------------------------------------


class _Results:
    """The lines of the findings, each reported when it is added.

    Args:
        guessing: see `Findings`.
        total: number of lines that there will be.
        report: see `check`.
    """

    def __init__(self, guessing: float, total: int, report: Report) -> None:
        self.guessing, self.total, self.report = guessing, total, report
        self.lines: list[Line] = []
        self.began = time.monotonic()

    def add(self, does: str, clean: float, protected: float) -> None:
        """Add the accuracies of one exploiter, in percent."""
        above = clean - self.guessing
        left = (protected - self.guessing) / above if above > 0 else math.nan
        self.lines.append(Line(does, clean, protected, left))
        done, total = len(self.lines), self.total
        self.report(
            f"{does}: {clean:.1f} % on clean pictures, {protected:.1f} % on protected ones "
            f"({done} of {total}{pictures.time_left(self.began, done, total)})"
        )


def _recipe(count: int) -> Recipe:
    """How an exploiter trains on `count` pictures."""
    batch = min(LARGEST_BATCH, count)
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
