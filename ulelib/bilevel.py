"""Algorithm 1: sample-wise and class-wise error-minimising perturbations.

Liu et al. 2021, appendix B and equation 3, after Huang et al., ICLR 2021:

    argmin_theta  E_(x, y) [ min_delta  L(F'(view(x) + delta; theta), y) ],  |delta|_inf <= epsilon

    repeat
        for M batches:   theta <- Optimize(view(x) + delta, y, theta)          outer step
        for all images:  delta <- delta - step * sign(gradient of L), clipped  inner step
        error <- Eval(F'(view(x) + delta; theta), y)
    until error < lambda

The four defenders of the paper differ in `view`, and in the bounds of the noise that go with it.
Those of Ren et al. differ in L: their source model learns without labels (`contrastive.py`).
Read `minimise_error` beside the algorithm. The paper calls M "epochs"; in the released code, and
here, it counts batches.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from ulelib.data import ImageSet, check_classes
from ulelib.machine import device, logits, seeded_model, to_float
from ulelib.models import build_model, check_net, check_size
from ulelib.perturbation import Perturbation
from ulelib.pgd import CLAMPS, Clamp, Diverged, Pgd, random_start, signed_gradient_steps
from ulelib.settings import (
    LATER,
    NO_KEY,
    BelowOne,
    Count,
    NotNegative,
    Op,
    Positive,
    op,
    settings,
)
from ulelib.views import view


class Learner(Protocol):
    """The source model F', and what it minimises."""

    @property
    def model(self) -> nn.Module:
        """All its parameters; the loop switches its modes and steps its optimizer."""

    def loss(
        self, x: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """L of the outer step: of protected images `(B, 3, H, W)`, a mean over the batch."""

    def stepped(self) -> None:
        """Told after each of the optimizer's steps."""

    def objective(
        self, added: Clamp, labels: torch.Tensor, generator: torch.Generator
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """L of the inner step, as a function of delta `(B, 3 or 1, H, W)`, a scalar."""

    def error(self, shown: Iterable[tuple[torch.Tensor, torch.Tensor]], noise: SampleWise) -> float:
        """What the stop test compares with lambda: a share, in [0, 1].

        Args:
            shown: all protected images in batches, with their labels.
            noise: of all images.
        """


@runtime_checkable
class Learning(Protocol):
    """What the source model learns: settings with this one function.

    Attributes:
        together: whether an image's loss depends on the others of its batch. Then batches are drawn
            anew for each pass, and have the same size to one image.
    """

    together: ClassVar[bool]

    def start(self, net: Op, images: ImageSet, seed: int, precision: str) -> Learner:
        """An untrained source model for these images."""


@settings
class Supervised:
    """L is the cross-entropy of the labels, as in Algorithm 1."""

    together: ClassVar[bool] = False

    def start(self, net: Op, images: ImageSet, seed: int, precision: str) -> Learner:
        """See `Learning`."""
        model = seeded_model(lambda: build_model(net, len(images.classes)), seed)
        check_size(model, net, images.images)
        return Classifier(model, precision)


@settings
class Bilevel:
    """Settings of the loop; the defaults are the paper's for CIFAR-10, sample-wise (section 5.1
    and the released commands).

    Attributes:
        net: the source model F', a key of `models.MODELS`.
        view: how F' sees a clean image, drawn anew for every pass: a key of `views.VIEWS`.
        channels: 3, or 1 for one value in all three channels of a pixel (section 4.2: "restricted
            to have the same values in all three channels"); the view must then be gray.
        wise: "sample", one delta an image; "class", one a class (Huang et al., section 3).
        inner: the signed-gradient steps on every image in each round (class-wise: in each batch).
        clamp: how noise and picture are added in the inner step, a key of `pgd.CLAMPS`: "view" for
            fixed views, "none" for random ones, "released" for the released gray loop.
        inner_view, stop_view: the view of the inner step and of the stop test, if not `view`: the
            released gray loop crops colour images in both (`toolbox.py:41`, `perturbation.py:266`).
        outer_batches: M, the training batches between two passes over delta.
        outer_batch_size: images in each of them.
        inner_batch_size: images whose delta is updated at once. Sample-wise it changes speed and
            memory, not the result: in eval mode, images do not see each other. But where `learning`
            or a view sees them `together`, it does change it, and is part of the key.
        stop_error: lambda; the loop ends when the source model's error is below it.
        max_rounds: rounds after which the loop gives up with `NotConverged`.
        learning_rate, momentum, weight_decay, clip: SGD of the source model, at a constant rate;
            clip is the largest norm of its gradient, None: any.
        from_scratch: start the source model anew in each round, as section 3.3 says; the released
            code, and Algorithm 1 itself, carry theta over.
        learning: what the source model minimises; Ren et al.'s is `contrastive.Transferable`.
        rounds: exactly so many, without a stop test, as Ren et al. do; None: until stop_error.
        optimizer: "sgd", or "adam", which has no use for momentum.
        only: labels of the classes that are protected; the others' images stay clean, and their
            delta 0, as where one person's pictures lie among those of others. None: all.
    """

    net: Op = op("resnet18")
    view: Op = op("identity")
    channels: Literal[1, 3] = 3
    wise: Literal["sample", "class"] = "sample"
    inner: Pgd = Pgd()
    clamp: Literal["view", "none", "released"] = "view"
    inner_view: Op | None = None
    stop_view: Op | None = None
    outer_batches: Count = 10
    outer_batch_size: Count = 512
    inner_batch_size: Count = 512
    stop_error: Annotated[float, Field(gt=0, lt=1)] = 0.01
    max_rounds: Count = field(default=60, metadata=NO_KEY)
    learning_rate: Positive = 0.1
    momentum: BelowOne = 0.9
    weight_decay: NotNegative = 5e-4
    clip: Positive | None = 5.0
    from_scratch: bool = False
    learning: Learning = field(default=Supervised(), metadata=LATER)
    rounds: Count | None = field(default=None, metadata=LATER)
    optimizer: Literal["sgd", "adam"] = field(default="sgd", metadata=LATER)
    only: tuple[Annotated[int, Field(ge=0)], ...] | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        check_net(self.net)
        seen, inner = view(self.view), view(self.inner_view or self.view)
        view(self.stop_view or self.view)
        if self.channels == 1 and not seen.gray:
            raise ValueError(
                f"Bilevel.channels is 1, one value for all three channels, but the view {self.view}"
                " shows colour images: take gray or gray_crop_flip, or channels=3"
            )
        if self.clamp == "released" and (self.channels != 1 or inner.gray):
            raise ValueError(
                'Bilevel.clamp "released" is the loop of gray noise on colour pictures, which it '
                "turns gray itself: channels must be 1, and inner_view a view in colour"
            )
        if self.clamp == "view" and (inner.random or (self.channels == 1 and not inner.gray)):
            raise ValueError(
                'Bilevel.clamp "view" keeps noise within the pixel range of the picture that the '
                f"inner step sees, but {self.inner_view or self.view} draws another one for every "
                'pass, or shows colours to gray noise: take clamp="none"'
            )
        if isinstance(self.learning, type):
            raise ValueError(f"Bilevel.learning is {self.learning}: settings, not their class")
        if self.learning.together and self.wise == "class":
            raise ValueError(
                f"Bilevel.learning is {type(self.learning).__name__}, whose noise is sample-wise: "
                "its classes come apart by themselves"
            )
        if self.learning.together and self.only is not None:
            raise ValueError(
                f"Bilevel.only is {self.only}, but {type(self.learning).__name__} parts the noises "
                "of all classes from each other: clean ones among them would have none"
            )

    @property
    def immaterial(self) -> frozenset[str]:
        """What cannot change the result, beside `max_rounds`."""
        views = (self.view, self.inner_view or self.view, self.stop_view or self.view)
        together = self.learning.together or any(view(one).together for one in views)
        alone = self.wise == "sample" and not together
        untested = () if self.rounds is None else ("stop_error",)
        return frozenset((*untested, *(["inner_batch_size"] if alone else ())))

    def done(self, rounds: list[float]) -> bool:
        """Whether the loop ends after these rounds' errors."""
        if self.rounds is not None:
            return len(rounds) == self.rounds
        return bool(rounds) and rounds[-1] < self.stop_error

    def make(
        self,
        images: ImageSet,
        seed: int,
        precision: str,
        *,
        network: Callable[..., nn.Module],
        report: Callable[[str], None],
    ) -> Perturbation:
        """`minimise_error`, called as every method is (`stages.Method`)."""
        return minimise_error(images, self, seed=seed, precision=precision, report=report)


class NotConverged(RuntimeError):
    """The stop error was not reached; `perturbation` holds what the loop had by then."""

    def __init__(self, message: str, perturbation: Perturbation) -> None:
        super().__init__(message)
        self.perturbation = perturbation

    def __reduce__(self) -> tuple[Any, ...]:  # a worker's way to the plan is by pickle
        return type(self), (*self.args, self.perturbation), self.__dict__


def minimise_error(
    images: ImageSet,
    settings: Bilevel,
    *,
    seed: int = 0,
    precision: str = "float32",
    report: Callable[[str], None] = lambda line: None,
) -> Perturbation:
    """Algorithm 1: error-minimising noise for `images`.

    Args:
        images: the clean training set.
        settings: of the loop; see `Bilevel`.
        seed: of the initial weights, the order of the images, the start and the views.
        precision: of the source model's passes, "float32" or "bfloat16".
        report: is told each round's error, in words.

    Raises:
        ValueError: images of one class, of a size that the source model does not take, or fewer
            than a contrastive learner's queue holds; or no images of a class of `only`.
        NotConverged: `max_rounds` passed; the exception carries the partial perturbation.
        Diverged: the source model's loss or its gradient is not finite.
    """
    check_classes(images)
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    pixels, labels = images.images.to(device()), images.labels.to(device())
    outer, inner = view(settings.view), view(settings.inner_view or settings.view)
    stop = view(settings.stop_view or settings.view)
    clamp, steps = CLAMPS[settings.clamp], settings.inner
    noise = NOISE[settings.wise](images, settings.channels, settings.only)
    if steps.random_start:
        noise.start(steps.epsilon, generator)
    learner, optimizer = _fresh(settings, images, seed, precision)
    together = settings.learning.together
    outer_batches = _endless(len(images), settings.outer_batch_size, generator, together)

    rounds: list[float] = []  # the source model's error after each

    def made() -> Perturbation:
        return noise.perturbation(images, steps.epsilon, str(settings.view), started, rounds)

    while not settings.done(rounds):
        if settings.rounds is None and len(rounds) == settings.max_rounds:
            raise _not_converged(settings, made())
        if settings.from_scratch and rounds:
            learner, optimizer = _fresh(settings, images, _draw_seed(generator), precision)

        # Outer step: theta <- Optimize(view(x) + delta, y, theta), for M batches.
        learner.model.train().requires_grad_(True)
        for batch in itertools.islice(outer_batches, settings.outer_batches):
            x = outer(to_float(pixels[batch]), generator) + noise.of(batch)
            loss = learner.loss(x, labels[batch], generator)
            optimizer.zero_grad()
            loss.backward()
            if settings.clip is not None:
                nn.utils.clip_grad_norm_(learner.model.parameters(), settings.clip)
            optimizer.step()
            learner.stepped()
        if not torch.isfinite(loss):
            raise Diverged(f"the source model's loss is {loss.item()}; lower learning_rate")

        # Inner step: delta <- argmin L(F'(view(x) + delta; theta), y), clipped, for all images.
        learner.model.eval().requires_grad_(False)
        for batch in noise.passes(settings.inner_batch_size, generator, together):
            added = clamp(inner(to_float(pixels[batch]), generator), steps.epsilon)
            loss_of = learner.objective(added, labels[batch], generator)
            moved = signed_gradient_steps(
                loss_of, noise.of(batch), step=steps.step, steps=steps.steps, add=added.add
            )
            noise.set(batch, moved)

        # Eval(F'(view(x) + delta; theta), y).
        shown = (
            (stop(to_float(pixels[batch]), generator) + noise.of(batch), labels[batch])
            for batch in noise.rows.split(settings.inner_batch_size)
        )
        rounds.append(learner.error(shown, noise))
        of = "" if settings.rounds is None else f" of {settings.rounds}"
        report(f"round {len(rounds)}{of}: error {rounds[-1]:.1%}")

    return made()


class Classifier:
    """The source model of Algorithm 1: it learns labels."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        self.model, self.precision = model, precision

    def loss(
        self, x: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Cross-entropy."""
        return F.cross_entropy(logits(self.model, x, self.precision), labels)

    def stepped(self) -> None:
        """Nothing more to do."""

    def objective(
        self, added: Clamp, labels: torch.Tensor, generator: torch.Generator
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """L(F'(view(x) + delta; theta), y), summed: no image scales another's gradient."""

        def loss_of(delta: torch.Tensor) -> torch.Tensor:
            predicted = logits(self.model, added.shown(delta), self.precision)
            return F.cross_entropy(predicted, labels, reduction="sum")

        return loss_of

    def error(self, shown: Iterable[tuple[torch.Tensor, torch.Tensor]], noise: SampleWise) -> float:
        """The share of the protected images that it gets wrong."""
        wrong = 0
        for x, labels in shown:
            with torch.no_grad():
                wrong += int((logits(self.model, x, self.precision).argmax(1) != labels).sum())
        return wrong / len(noise.rows)


# --- whose noise a row of delta is ----------------------------------------------------------------


class SampleWise:
    """One delta an image.

    Attributes:
        delta: `(N, 3 or 1, H, W)`, at first 0.
        labels: `(N,)` of all images.
        rows: `(M,)` of those that are protected.
        kind: `Perturbation.kind`.
    """

    kind: ClassVar[str] = "sample_wise"

    def __init__(
        self, images: ImageSet, channels: int, only: tuple[int, ...] | None = None
    ) -> None:
        self.labels = images.labels.to(device())
        self.rows = torch.arange(len(images), device=device())
        if only is not None:
            if absent := sorted(set(only) - set(images.labels.tolist())):
                raise ValueError(f"only is {only}: {images.name} has no images of class {absent}")
            self.rows = self.rows[torch.isin(self.labels, torch.tensor(only, device=device()))]
        count, (height, width) = self._deltas(images), images.images.shape[2:]
        self.delta = torch.zeros(count, channels, height, width, device=device())

    def _deltas(self, images: ImageSet) -> int:
        return len(images)

    def start(self, epsilon: float, generator: torch.Generator) -> None:
        """Anywhere in the ball, for what is protected."""
        for part in self.delta.split(100):  # the whole may be most of the memory
            part.copy_(random_start(part, epsilon, generator))
        left = torch.ones(len(self.delta), dtype=torch.bool, device=self.delta.device)
        left[self._place(self.rows)] = False
        self.delta[left] = 0

    def _place(self, batch: torch.Tensor) -> torch.Tensor:
        """Which rows of delta the images `batch` have."""
        return batch

    def of(self, batch: torch.Tensor) -> torch.Tensor:
        """The noise of the images `batch` `(B,)`, in the memory order that convolutions want."""
        return self.delta[batch].contiguous(memory_format=torch.channels_last)

    def set(self, batch: torch.Tensor, moved: torch.Tensor) -> None:
        self.delta[batch] = moved

    def passes(
        self, size: int, generator: torch.Generator, alike: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """What is protected once, in batches: in order where it is all one, and if they have to be
        `alike`, drawn under the seed and as large as each other, to one image."""
        return _batches(self._drawn(generator) if alike else self.rows, size, alike)

    def _drawn(self, generator: torch.Generator) -> torch.Tensor:
        """The rows of what is protected, in an order of its own."""
        return self.rows[torch.randperm(len(self.rows), generator=generator).to(device())]

    def perturbation(
        self,
        images: ImageSet,
        epsilon: float,
        defender: str,
        started: float,
        rounds: Sequence[float] = (),
    ) -> Perturbation:
        """This noise as it is now; `started` when `time.perf_counter` said so."""
        return Perturbation(
            delta=self.delta.cpu(),
            kind=self.kind,
            epsilon=epsilon,
            defender=defender,
            fingerprint=images.fingerprint,
            rounds=tuple(rounds),
            seconds=time.perf_counter() - started,
        )


class ClassWise(SampleWise):
    """One delta a class: after each batch, the mean of what its images' deltas would be.

    So the last batches decide, and they are drawn; both as released (`perturbation.py:166-223`).
    """

    kind = "class_wise"

    def _deltas(self, images: ImageSet) -> int:
        return len(images.classes)

    def _place(self, batch: torch.Tensor) -> torch.Tensor:
        return self.labels[batch]

    def of(self, batch: torch.Tensor) -> torch.Tensor:
        return super().of(self._place(batch))

    def set(self, batch: torch.Tensor, moved: torch.Tensor) -> None:
        labels = self.labels[batch]
        sums = torch.zeros_like(self.delta).index_add_(0, labels, moved)
        counts = torch.bincount(labels, minlength=len(self.delta))
        present = counts > 0
        self.delta[present] = sums[present] / counts[present].view(-1, 1, 1, 1)

    def passes(
        self, size: int, generator: torch.Generator, alike: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """What is protected once, in batches drawn under the seed."""
        return _batches(self._drawn(generator), size, alike)


NOISE: dict[str, type[SampleWise]] = {"sample": SampleWise, "class": ClassWise}


# --- the loop's small change ----------------------------------------------------------------------


def _fresh(
    settings: Bilevel, images: ImageSet, seed: int, precision: str
) -> tuple[Learner, torch.optim.Optimizer]:
    """An untrained source model and its optimizer."""
    learner = settings.learning.start(settings.net, images, seed, precision)
    parameters, rate, decay = (
        learner.model.parameters(),
        settings.learning_rate,
        settings.weight_decay,
    )
    if settings.optimizer == "adam":
        return learner, torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    return learner, torch.optim.SGD(
        parameters, lr=rate, momentum=settings.momentum, weight_decay=decay
    )


def _batches(order: torch.Tensor, size: int, alike: bool) -> tuple[torch.Tensor, ...]:
    """All of `order` in batches: of `size` but for the last, or as many `alike` to one image."""
    return order.tensor_split(math.ceil(len(order) / size)) if alike else order.split(size)


def _draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


def _endless(
    count: int, size: int, generator: torch.Generator, whole: bool = False
) -> Iterator[torch.Tensor]:
    """Training batches, continuing across rounds, always in the same order, as released.

    The order is drawn once: the released one is that of the data set, and pictures of a folder
    that stand sorted by class would come one class a batch.

    Args:
        whole: batches of one size, drawn anew for each pass (see `Learning.together`).
    """
    order = torch.randperm(count, generator=generator).to(device())
    alone = count % size == 1  # the last image of all; batch norm cannot train on one
    while True:
        yield from _batches(order, size, whole or alone)
        if whole:
            order = torch.randperm(count, generator=generator).to(device())


def _not_converged(settings: Bilevel, partial: Perturbation) -> NotConverged:
    return NotConverged(
        f"after {settings.max_rounds} rounds the source model still errs on "
        f"{partial.rounds[-1]:.1%} of the protected images, not below {settings.stop_error:.1%}. "
        "Allow more rounds (max_rounds) or training batches a round (outer_batches). What the loop "
        "had by then is in this exception's `perturbation`.",
        partial,
    )
