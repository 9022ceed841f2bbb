"""Noise that attacks trained networks: AdvPois, error-maximising noise, and later work.

    AdvPois     towards the next label (Fowl et al., NeurIPS 2021)
    error-max   away from the true label (Huang et al., ICLR 2021)
    AAP         towards the next label, behind an augmentation (Wang et al., NeurIPS 2024)
    HYPO        towards the true label (Tao et al., 2022)
    SEP         towards another label, on networks from several epochs (Chen et al., ICLR 2023)
    EntF        among the features of other classes (Wen et al., ICLR 2023)

All networks are trained first (`specs.Run`); then the noise of each image takes signed steps.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from ulelib.checkpoints import NO_CHECKPOINT, Checkpoint, put_back, states_of
from ulelib.data import ImageSet, check_classes
from ulelib.deltas import DELTAS
from ulelib.machine import device, logits, to_float
from ulelib.models import headless
from ulelib.perturbation import CHUNK, Perturbation
from ulelib.pgd import Pgd, attacked
from ulelib.settings import Op, at_default, op, settings
from ulelib.specs import Run
from ulelib.views import smooth_view

BatchSize = Annotated[int, Field(ge=1, le=100_000)]
# Of images with their noise `(B, 3, H, W)` and the rows `(B,)` that they are: a scalar, summed.
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@settings
class Poison:
    """Noise that attacks a trained network: AdvPois, error-maximising noise, AAP, HYPO, SEP.

    Fowl et al. take the best of eight starts, shift and flip the pictures while the noise is made,
    and train the victim for 40 epochs; here it is one start, the pictures as they are, and the
    exploiters' training.

    Attributes:
        victim: the training whose network is attacked.
        inner: the steps on every image.
        shift: towards which label, counted from the true one and less than the number of classes:
            1 is Fowl et al.'s targeted AdvPois, (y + 1) mod C; 0 moves away from the true label:
            their untargeted one, and the error-maximising noise that Huang et al. compare with.
        wise: "sample", or "class": one pass over all images in batches drawn under the seed, each
            moving its classes' noise by `inner` to the mean over their images. Huang et al. repeat
            the passes until the network errs on 90 % of the images, class-wise on 80 %.
        batch_size: images moved at once; sample-wise it changes speed, not the result, but where
            something is drawn in each step.
        augment: the view of image and noise together through which the network is attacked, drawn
            anew in each step: a key of `views.VIEWS` that a gradient passes through. AAP (Wang et
            al., *Efficient Availability Attacks against Supervised and Contrastive Learning
            Simultaneously*, NeurIPS 2024) has that of a contrastive learner, with which its victim
            was trained, too.
        own_label: towards the true label: the hypocritical perturbations of HYPO (Tao et al., *Can
            Adversarial Training Be Manipulated By Non-Robust Features?*, NeurIPS 2022), whose
            victim is trained adversarially. The noise strengthens what this network already reads
            as the image's class. `shift` is then 0.
        also: more trainings. Each step then follows the mean gradient over all networks: SEP,
            *Self-Ensemble Protection: Training Checkpoints Are Good Data Protectors* (Chen et al.,
            ICLR 2023), where they are one training at several epochs (`Recipe.stop_after`).
    """

    victim: Run
    inner: Pgd = Pgd(step=0.4 / 255, steps=250, random_start=True)
    shift: Annotated[int, Field(ge=0, le=100_000)] = 1
    batch_size: BatchSize = 500
    wise: Literal["sample", "class"] = "sample"
    augment: Op = op("identity")
    own_label: bool = False
    also: tuple[Run, ...] = ()

    def __post_init__(self) -> None:
        smooth_view(self.augment, "Poison.augment")
        if self.own_label and self.shift:
            raise ValueError(
                f"Poison.own_label is True, towards the true label: shift is {self.shift}, not 0"
            )

    def not_in_key(self) -> frozenset[str]:
        """See `settings.key_of`."""
        outside = at_default(self, "augment", "own_label", "also")
        if self.wise == "sample":
            drawn = smooth_view(self.augment, "augment").random
            outside |= {"wise"} if drawn else {"wise", "batch_size"}
        return outside

    def make(
        self,
        images: ImageSet,
        seed: int,
        precision: str,
        *,
        network: Callable[[Run], nn.Module],
        report: Callable[[str], None],
        checkpoint: Checkpoint = NO_CHECKPOINT,
    ) -> Perturbation:
        """See `specs.Method`.

        Raises:
            ValueError: `shift` names no class.
            Diverged: see `pgd.signed_gradient_steps`.
        """
        check_classes(images)
        if self.shift >= len(images.classes):
            raise ValueError(
                f"Poison.shift is {self.shift}, but there are {len(images.classes)} classes"
            )
        generator = torch.Generator().manual_seed(seed)
        models = [network(run) for run in (self.victim, *self.also)]
        augment = smooth_view(self.augment, "augment")
        targets = (images.labels.to(device()) + self.shift) % len(images.classes)

        def loss(seen: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            seen = augment(seen, generator)
            losses = [
                F.cross_entropy(logits(model, seen, precision), targets[rows], reduction="sum")
                for model in models
            ]
            return sum(losses[1:], losses[0])

        return moved(
            images,
            loss,
            self.inner,
            generator,
            defender=self.defender,
            wise=self.wise,
            batch_size=self.batch_size,
            direction=-1 if self.shift or self.own_label else 1,
            report=report,
            checkpoint=checkpoint,
        )

    @property
    def defender(self) -> str:
        """How it is called in a `Perturbation`."""
        if self.own_label:
            return "HYPO"
        if self.also:
            return "SEP"
        if self.augment != op("identity"):
            return "AAP"
        return "AdvPois" if self.shift else "error-max"


@settings
class Entangled:
    """EntF: features of all classes entangled (Wen et al., *Is Adversarial Training Really a Silver
    Bullet for Mitigating Data Poisoning?*, ICLR 2023).

    The noise moves the features of an image, behind a shift and a flip drawn in each step, away
    from the mean features of its class ("push"), or towards the nearest of the other classes' means
    ("pull"), found anew in each step. Features are what the network's last layer is given, means
    those of the clean images, distance the mean square. L-infinity, sample-wise. Published with a
    network trained adversarially within 4/255 for 100 epochs, and 300 steps of 0.4/255.

    Attributes:
        victim: the training whose network gives the features; it must end in a linear layer.
        how: "push" or "pull".
        inner: the steps on every image.
        batch_size: images moved at once.
        augment: see `Poison.augment`.
    """

    victim: Run
    how: Literal["push", "pull"] = "push"
    inner: Pgd = Pgd(step=0.4 / 255, steps=300, random_start=True)
    batch_size: BatchSize = 500
    augment: Op = op("crop_flip", padding=4)

    def __post_init__(self) -> None:
        smooth_view(self.augment, "Entangled.augment")

    def make(
        self,
        images: ImageSet,
        seed: int,
        precision: str,
        *,
        network: Callable[[Run], nn.Module],
        report: Callable[[str], None],
        checkpoint: Checkpoint = NO_CHECKPOINT,
    ) -> Perturbation:
        """See `specs.Method`.

        Raises:
            ValueError: the network does not end in a linear layer.
            Diverged: see `pgd.signed_gradient_steps`.
        """
        check_classes(images)
        generator = torch.Generator().manual_seed(seed)
        augment = smooth_view(self.augment, "augment")
        backbone, _ = headless(copy.deepcopy(network(self.victim)))
        labels, count = images.labels.to(device()), len(images.classes)
        means = class_means(backbone, images, precision)

        def loss(seen: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            features = logits(backbone, augment(seen, generator), precision)
            goal = means[labels[rows]]
            if self.how == "pull":
                apart = torch.cdist(features.detach(), means)
                own = F.one_hot(labels[rows], count).bool()
                goal = means[apart.masked_fill(own | apart.isnan(), torch.inf).argmin(1)]
            return (features - goal).square().mean(1).sum()

        return moved(
            images,
            loss,
            self.inner,
            generator,
            defender=f"EntF-{self.how}",
            batch_size=self.batch_size,
            direction=1 if self.how == "push" else -1,
            report=report,
            checkpoint=checkpoint,
        )


@torch.no_grad()
def class_means(backbone: nn.Module, images: ImageSet, precision: str) -> torch.Tensor:
    """The mean features of each class's images, `(C, F)` float32; NaN where a class has none.

    Args:
        backbone: from images `(B, 3, H, W)` float in [0, 1] to features `(B, F)`.
    """
    pixels, labels = images.images.to(device()), images.labels.to(device())
    parts = zip(pixels.split(CHUNK), labels.split(CHUNK), strict=True)
    sums: torch.Tensor | None = None
    for some, of in parts:
        features = logits(backbone, to_float(some), precision)
        if sums is None:
            sums = features.new_zeros(len(images.classes), features.shape[1])
        sums.index_add_(0, of, features)
    assert sums is not None
    return sums / torch.bincount(labels, minlength=len(sums))[:, None]


def moved(
    images: ImageSet,
    loss: Loss,
    inner: Pgd,
    generator: torch.Generator,
    *,
    defender: str,
    batch_size: int,
    direction: int,
    report: Callable[[str], None],
    checkpoint: Checkpoint,
    wise: str = "sample",
) -> Perturbation:
    """Noise that begins at 0 and takes the steps of `inner` on every image, in one pass.

    Args:
        images: `(N, 3, H, W)` uint8, clean.
        loss: see `Loss`; it may draw from `generator`, whose state is in the checkpoint.
        defender: see `Perturbation`.
        wise, batch_size: see `Poison`.
        direction: 1 maximises the loss, -1 minimises it.

    Raises:
        Diverged: see `pgd.signed_gradient_steps`.
    """
    started, delta = time.perf_counter(), DELTAS[wise](images, 3)
    pixels = images.images.to(device())
    rows, done = torch.cat(delta.passes(batch_size, generator)), 0  # images moved
    parts = {"delta": delta, "generator": generator}
    if saved := checkpoint.restore():
        put_back(saved["parts"], parts)
        done, started = saved["done"], started - saved["seconds"]

    def state() -> dict[str, Any]:
        seconds = time.perf_counter() - started
        return {"parts": states_of(parts), "done": done, "seconds": seconds}

    while done < len(rows):
        batch = rows[done : done + batch_size]
        noise = attacked(
            lambda seen, batch=batch: loss(seen, batch),  # type: ignore[misc]
            to_float(pixels[batch]),
            inner,
            generator,
            start=delta.of(batch),
            direction=direction,
        )
        delta.set(batch, noise)
        done += len(batch)
        report(f"{done} of {len(rows)} images moved")
        checkpoint.offer(state)
    delta.end_round()
    return delta.perturbation(images, inner.epsilon, defender, time.perf_counter() - started)
