"""Algorithm 1: sample-wise and class-wise error-minimising perturbations.

Liu et al. 2021, appendix B and equation 3, after Huang et al., ICLR 2021:

    argmin_theta  E_(x, y) [ min_delta  L(F'(view(x) + delta; theta), y) ],  |delta|_inf <= epsilon

    repeat
        for M batches:   theta <- Optimize(view(x) + delta, y, theta)          outer step
        for all images:  delta <- delta - step * sign(gradient of L), clipped  inner step
        error <- Eval(F'(view(x) + delta; theta), y)
    until error < lambda

The four defenders of the paper differ in `view`, and in the bounds of delta that go with it.
Others differ in L, which is settings, too: `learners.py`, `contrastive.py`, `hardened.py`,
`informative.py`.
Read `minimise_error` beside the algorithm. The paper calls M "epochs"; in the released code, and
here, it counts batches.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from ulelib.checkpoints import NO_CHECKPOINT, Checkpoint, put_back, states_of
from ulelib.data import ImageSet, check_classes
from ulelib.deltas import DELTAS, Batches, Pass
from ulelib.learners import Learning, Supervised
from ulelib.machine import device, to_float
from ulelib.models import check_net
from ulelib.perturbation import Perturbation
from ulelib.pgd import CLAMPS, Diverged, Pgd, signed_gradient_steps
from ulelib.settings import (
    BelowOne,
    Count,
    NotNegative,
    Op,
    Positive,
    Seed,
    at_default,
    op,
    settings,
)
from ulelib.step import Step, graphs, sgd
from ulelib.views import view


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
        outer_epochs: passes over all training images in place of M batches; None: M batches.
        outer_batch_size: images in each of them.
        inner_batch_size: images whose delta is updated at once. Sample-wise it changes speed and
            memory, not the result: in eval mode, images do not see each other. But where `learning`
            or a view sees them `together`, it does change it, and is part of the key.
        stop_error: lambda; the loop ends when the source model's error is below it.
        max_rounds: rounds after which the loop gives up with `NotConverged`; not in the key.
        learning_rate, momentum, weight_decay, clip: SGD of the source model, at a constant rate;
            clip is the largest norm of its gradient, None: any.
        from_scratch: start the source model anew in each round, as section 3.3 says; the released
            code, and Algorithm 1 itself, carry theta over.
        learning: what the source model minimises, and what the noise does with it; Ren et al.'s is
            `contrastive.Transferable`.
        rounds: exactly so many, without a stop test, as Ren et al. do; None: until stop_error.
        optimizer: "sgd", or "adam", which has no use for momentum.
        only: labels of the classes that are protected; the others' images stay clean, and their
            delta 0, as where one person's pictures lie among those of others. None: all.
        weights_seed: of the source model's initial weights; None: the loop's own seed.
        fold_norms: in inner step and stop test, fold each batch norm into the convolution before it
            (`models.fused`): faster, with other last digits. For learning with labels.
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
    outer_epochs: Count | None = None
    outer_batch_size: Count = 512
    inner_batch_size: Count = 512
    stop_error: Annotated[float, Field(gt=0, lt=1)] = 0.01
    max_rounds: Count = 60
    learning_rate: Positive = 0.1
    momentum: BelowOne = 0.9
    weight_decay: NotNegative = 5e-4
    clip: Positive | None = 5.0
    from_scratch: bool = False
    learning: Learning = field(default=Supervised())
    rounds: Count | None = None
    optimizer: Literal["sgd", "adam"] = "sgd"
    only: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    weights_seed: Seed | None = None
    fold_norms: bool = False

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
        if self.learning.together and self.fold_norms:
            raise ValueError(
                f"Bilevel.fold_norms is for Supervised, not for {type(self.learning).__name__}"
            )
        if self.learning.together and self.wise == "class":
            raise ValueError(
                f"Bilevel.learning is {type(self.learning).__name__}, whose noise is sample-wise: "
                'take wise="sample"'
            )
        if self.learning.together and self.only is not None:
            raise ValueError(
                f"Bilevel.only is {self.only}, but {type(self.learning).__name__} sees the images "
                "of all classes together: clean ones among them would have none"
            )

    def not_in_key(self) -> frozenset[str]:
        """See `settings.key_of`."""
        views = (self.view, self.inner_view or self.view, self.stop_view or self.view)
        together = self.learning.together or any(view(one).together for one in views)
        outside = at_default(self, "learning", "rounds", "optimizer", "only", "fold_norms")
        outside |= at_default(self, "weights_seed", "outer_epochs") | {"max_rounds"}
        if self.outer_epochs is not None:
            outside |= {"outer_batches"}
        if self.wise == "sample" and not together:
            outside |= {"inner_batch_size"}
        if self.rounds is not None:
            outside |= {"stop_error"}
        return outside

    def batches_a_round(self, batches: Batches) -> int:
        """M, for training batches that have this order."""
        epochs = self.outer_epochs
        return self.outer_batches if epochs is None else epochs * len(batches.batches)

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
        checkpoint: Checkpoint = NO_CHECKPOINT,
    ) -> Perturbation:
        """`minimise_error`, called as every method is (`specs.Method`)."""
        return minimise_error(
            images, self, seed=seed, precision=precision, report=report, checkpoint=checkpoint
        )


class NotConverged(RuntimeError):
    """The stop error was not reached; `perturbation` holds what the loop had by then."""

    def __init__(self, message: str, perturbation: Perturbation) -> None:
        super().__init__(message)
        self.perturbation = perturbation

    def __reduce__(self) -> tuple[Any, ...]:  # a worker's way to the plan is by pickle
        return type(self), (*self.args, self.perturbation), self.__dict__


def minimise_error(
    images: ImageSet,
    loop: Bilevel,
    *,
    seed: int = 0,
    precision: str = "float32",
    report: Callable[[str], None] = lambda line: None,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> Perturbation:
    """Algorithm 1: an error-minimising perturbation for `images`.

    Args:
        images: the clean training set.
        loop: settings of the loop; see `Bilevel`.
        seed: of the initial weights, the order of the images, the start and the views.
        precision: of the source model's passes, "float32" or "bfloat16".
        report: callback, called with one line of text per round.
        checkpoint: saves the state after each inner batch, and restores it.

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
    outer, inner = view(loop.view), view(loop.inner_view or loop.view)
    stop = view(loop.stop_view or loop.view)
    clamp, pgd, together = CLAMPS[loop.clamp], loop.inner, loop.learning.together
    delta = DELTAS[loop.wise](images, loop.channels, loop.only)
    if pgd.random_start:
        delta.draw(pgd.epsilon, generator)
    weights_seed = seed if loop.weights_seed is None else loop.weights_seed
    source = _SourceModel(loop, images, weights_seed, precision, generator)
    batches = Batches(len(images), loop.outer_batch_size, generator, together)
    inner_pass, errors = Pass(), list[float]()  # the source model's error after each round
    parts = {"delta": delta, "batches": batches, "pass": inner_pass, "generator": generator}
    if saved := checkpoint.restore():
        put_back(saved["parts"], parts | {"source": source})
        errors, started = saved["errors"], started - saved["seconds"]

    def state() -> dict[str, Any]:
        seconds, now = time.perf_counter() - started, states_of(parts | {"source": source})
        return {"parts": now, "errors": errors, "seconds": seconds}

    def perturbation() -> Perturbation:
        seconds = time.perf_counter() - started
        return delta.perturbation(images, pgd.epsilon, str(loop.view), seconds, errors)

    while not loop.done(errors):
        if loop.rounds is None and len(errors) == loop.max_rounds:
            raise _not_converged(loop, perturbation())

        if not inner_pass.under_way:
            if loop.from_scratch and errors:
                source = _SourceModel(loop, images, _draw_seed(generator), precision, generator)

            # Outer step: theta <- Optimize(view(x) + delta, y, theta), for M batches.
            source.model.train().requires_grad_(True)
            for batch in itertools.islice(batches, loop.batches_a_round(batches)):
                x = outer(to_float(pixels[batch]), generator) + delta.of(batch)
                loss = source.optimize(x, labels[batch])
            if not torch.isfinite(loss):
                raise Diverged(f"the source model's loss is {loss.item()}; lower learning_rate")
            inner_pass.begin(delta.passes(loop.inner_batch_size, generator, together))

        # Inner step: delta <- argmin L(F'(view(x) + delta; theta), y), clipped, for all images.
        source.learner.freeze(loop.fold_norms)
        for batch in inner_pass:
            added = clamp(inner(to_float(pixels[batch]), generator), pgd.epsilon)
            loss_of = source.learner.objective(added, labels[batch], generator)
            moved = signed_gradient_steps(
                loss_of, delta.of(batch), step=pgd.step, steps=pgd.steps, add=added.add
            )
            delta.set(batch, moved)
            checkpoint.offer(state)

        # Eval(F'(view(x) + delta; theta), y).
        protected = (
            (stop(to_float(pixels[batch]), generator) + delta.of(batch), labels[batch])
            for batch in delta.rows.split(loop.inner_batch_size)
        )
        errors.append(source.learner.error(protected, delta))
        delta.end_round()
        inner_pass.end()
        of = "" if loop.rounds is None else f" of {loop.rounds}"
        report(f"round {len(errors)}{of}: error {errors[-1]:.1%}")

    return perturbation()


# --- helpers --------------------------------------------------------------------------------------


class _SourceModel:
    """F' with the optimizer of its parameters theta."""

    def __init__(
        self,
        loop: Bilevel,
        images: ImageSet,
        seed: int,
        precision: str,
        generator: torch.Generator,
    ) -> None:
        learner = self.learner = loop.learning.start(loop.net, images, seed, precision)
        self.model, decay = self.learner.model, loop.weight_decay
        self.optimizer: torch.optim.Optimizer
        if loop.optimizer == "adam":
            parameters = self.model.parameters()
            self.optimizer = torch.optim.Adam(parameters, lr=loop.learning_rate, weight_decay=decay)
        else:
            self.optimizer = sgd(
                self.model, loop.learning_rate, momentum=loop.momentum, weight_decay=decay
            )
        self._step = Step(
            self.model,
            self.optimizer,
            lambda x, labels: (learner.loss(x, labels, generator),),
            clip=loop.clip,
            capture=graphs() if self.learner.capturable and loop.optimizer == "sgd" else None,
        )

    def optimize(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One step on protected images `(B, 3, H, W)`; their loss before it."""
        (loss,) = self._step(x, labels)
        self.learner.stepped()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return states_of({"model": self.model, "optimizer": self.optimizer})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        put_back(state, {"model": self.model, "optimizer": self.optimizer})


def _draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


def _not_converged(loop: Bilevel, partial: Perturbation) -> NotConverged:
    return NotConverged(
        f"after {loop.max_rounds} rounds the source model still errs on "
        f"{partial.rounds[-1]:.1%} of the protected images, not below {loop.stop_error:.1%}. "
        "Allow more rounds (max_rounds) or training batches a round (outer_batches). What the loop "
        "had by then is in this exception's `perturbation`.",
        partial,
    )
