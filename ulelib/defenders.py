"""The named defenders, each a few lines of settings; and the methods that need no loop.

The paper's four (section 4) are one loop with four views of the clean image:

    ULEO             F'(x + delta)                  Huang et al., ICLR 2021
    ULEO-Augs        F'(Aug(x) + delta)
    ULEO-Grays       F'(Gray(x) + delta)            delta equal in all three channels
    ULEO-GrayAugs    F'(Gray(Aug(x)) + delta)       delta equal in all three channels

Beside them AdvPois (Fowl et al., NeurIPS 2021), an attack on a trained network; the noises of
*Transferable Unlearnable Examples* (Ren et al., ICLR 2023); PIL (Liu et al., ICLR 2026); and noise
without a model: LSP, AR, OPS, CUDA (`patterns.py`, `shortcuts.py`), region and random noise.
A new defender is a function from a `Setting` to a method, and a line in `DEFENDERS`; a new method
is settings with a function `make` (`specs.Method`), here or in a file of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from ulelib.bilevel import Bilevel
from ulelib.checkpoints import NO_CHECKPOINT, Checkpoint, put_back, states_of
from ulelib.data import ImageSet, check_classes
from ulelib.deltas import DELTAS
from ulelib.linearized import Linearized
from ulelib.machine import device, to_float
from ulelib.patterns import Autoregressive, LinearlySeparable, Region, perturbation
from ulelib.perturbation import Perturbation
from ulelib.pgd import Pgd, adversarial
from ulelib.profiles import Profile
from ulelib.settings import Radius, at_default, op, settings
from ulelib.shortcuts import ClassConvolution, OnePixel
from ulelib.specs import Data, Method, Part, Precision, Run


@dataclass(frozen=True)
class Setting:
    """What a defender knows: whose images, and the budget.

    Attributes:
        data: the images to protect.
        profile: the settings of Algorithm 1 (its source network among them), of attacks, of
            trainings.
        seed, precision: of the stage.
    """

    data: Data
    profile: Profile
    seed: int
    precision: Precision

    @property
    def loop(self) -> Bilevel:
        """Algorithm 1's settings, for ULEO."""
        return self.profile.loop


# --- methods without a loop -----------------------------------------------------------------------


@settings
class Poison:
    """Noise that attacks a trained network: AdvPois, and error-maximising noise.

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
        batch_size: images moved at once; sample-wise it changes speed, not the result.
    """

    victim: Run
    inner: Pgd = Pgd(step=0.4 / 255, steps=250, random_start=True)
    shift: Annotated[int, Field(ge=0, le=100_000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 500
    wise: Literal["sample", "class"] = "sample"

    def not_in_key(self) -> frozenset[str]:
        """See `settings.key_of`."""
        return frozenset({"wise", "batch_size"}) if self.wise == "sample" else frozenset()

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
        """See `specs.Method`."""
        check_classes(images)
        if self.shift >= len(images.classes):
            raise ValueError(
                f"Poison.shift is {self.shift}, but there are {len(images.classes)} classes"
            )
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(seed)
        model, delta = network(self.victim), DELTAS[self.wise](images, 3)
        pixels, labels = images.images.to(device()), images.labels.to(device())
        targets = (labels + self.shift) % len(images.classes)
        rows, done = torch.cat(delta.passes(self.batch_size, generator)), 0  # images moved
        parts = {"delta": delta, "generator": generator}
        if saved := checkpoint.restore():
            put_back(saved["parts"], parts)
            done, started = saved["done"], started - saved["seconds"]

        def state() -> dict[str, Any]:
            seconds = time.perf_counter() - started
            return {"parts": states_of(parts), "done": done, "seconds": seconds}

        while done < len(rows):
            batch = rows[done : done + self.batch_size]
            moved = adversarial(
                model,
                to_float(pixels[batch]),
                targets[batch],
                self.inner,
                generator,
                start=delta.of(batch),
                direction=-1 if self.shift else 1,
                precision=precision,
            )
            delta.set(batch, moved)
            done += len(batch)
            report(f"{done} of {len(rows)} images moved")
            checkpoint.offer(state)
        delta.end_round()
        defender = "AdvPois" if self.shift else "error-max"
        seconds = time.perf_counter() - started
        return delta.perturbation(images, self.inner.epsilon, defender, seconds)


@settings
class Random:
    """Noise drawn uniformly from [-epsilon, epsilon], for each image or each class.

    Attributes:
        one_sided: from [0, epsilon], as released (`dataset.py:431` of Unlearnable-Examples).
    """

    epsilon: Radius = 8 / 255
    wise: Literal["sample", "class"] = "sample"
    one_sided: bool = False

    def not_in_key(self) -> frozenset[str]:
        """See `settings.key_of`."""
        return at_default(self, "one_sided")

    def make(self, images: ImageSet, seed: int, precision: str, **_: Any) -> Perturbation:
        """See `specs.Method`."""
        count = len(images) if self.wise == "sample" else len(images.classes)
        generator = torch.Generator().manual_seed(seed)
        delta = torch.rand(count, *images.images.shape[1:], generator=generator)
        if not self.one_sided:
            delta.mul_(2).sub_(1)
        delta.mul_(self.epsilon)
        return perturbation(delta, images, f"{self.wise}_wise", "random", epsilon=self.epsilon)


# --- named defenders ------------------------------------------------------------------------------


def uleo(setting: Setting) -> Method:
    """Huang et al.: F'(x + delta)."""
    return setting.loop


def uleo_augs(setting: Setting) -> Method:
    """F'(Aug(x) + delta), section 4.2."""
    return replace(setting.loop, view=op("crop_flip", padding=4), clamp="none")


def uleo_grays(setting: Setting) -> Method:
    """F'(Gray(x) + delta), section 4.2."""
    return replace(setting.loop, view=op("gray"), channels=1)


def uleo_grayaugs(setting: Setting) -> Method:
    """F'(Gray(Aug(x)) + delta), section 4.2: the paper's proposal."""
    return replace(
        setting.loop,
        view=op("gray_crop_flip", padding=4),
        channels=1,
        clamp="none",
    )


def released_grayaugs(setting: Setting) -> Method:
    """ULEO-GrayAugs with the loop as released: three times the step, since the gradient's signs are
    added over the channels (ULE-GrayAug `toolbox.py:50`); crop plus noise clamped in every step
    (`toolbox.py:27-63`, see `pgd.ReleasedGray`); and colour crops in inner step and stop test
    (`toolbox.py:41`, `perturbation.py:266`)."""
    stated, crops = setting.loop.inner, op("crop_flip", padding=4)
    return replace(
        setting.loop,
        view=op("gray_crop_flip", padding=4),
        channels=1,
        inner=replace(stated, step=min(3 * stated.step, 2 * stated.epsilon)),
        inner_view=crops,
        stop_view=crops,
        clamp="released",
    )


def uleo_class_wise(setting: Setting) -> Method:
    """Huang et al., one delta a class. With the setting's inner steps, on all images; the released
    command takes one step a batch, on a fifth of the images."""
    return replace(setting.loop, wise="class")


def adv_pois(setting: Setting) -> Method:
    """Fowl et al., targeted: every image moved towards the next label of a network that was trained
    on the clean images, under a seed that no exploiter has."""
    return Poison(_victim(setting), setting.profile.poison)


def error_max(setting: Setting) -> Method:
    """Huang et al.'s error-maximising noise, sample-wise: twenty steps away from the true label."""
    epsilon = setting.loop.inner.epsilon
    return Poison(_victim(setting), Pgd(epsilon, epsilon / 10, 20), shift=0)


def error_max_class_wise(setting: Setting) -> Method:
    """The same, one delta a class: one step a batch."""
    epsilon = setting.loop.inner.epsilon
    return Poison(
        _victim(setting),
        Pgd(epsilon, epsilon / 10, 1),
        shift=0,
        wise="class",
        batch_size=setting.loop.inner_batch_size,
    )


def csd(setting: Setting) -> Method:
    """Ren et al. as their commands for SimCLR and SimSiam have it: CSD alone, spreads fixed."""
    return setting.profile.separation


def csd_moving(setting: Setting) -> Method:
    """CSD alone, as the paper's equation has it: the gradient passes through the spreads, too."""
    return replace(setting.profile.separation, spread="moving")


def tue_simclr(setting: Setting) -> Method:
    """Ren et al.'s equation: contrastive loss and CSD, with SimCLR for a source model."""
    return replace(setting.profile.transferable["SimCLR"], net=setting.loop.net)


def tue_moco(setting: Setting) -> Method:
    """The same with MoCo v2."""
    return replace(setting.profile.transferable["MoCo"], net=setting.loop.net)


def tue_simsiam(setting: Setting) -> Method:
    """The same with SimSiam."""
    return replace(setting.profile.transferable["SimSiam"], net=setting.loop.net)


def _victim(setting: Setting) -> Run:
    """A training on the clean images, whose network is attacked."""
    return Run(
        train=(Part(setting.data),),
        test=setting.data,
        net=setting.loop.net,
        recipe=setting.profile.recipe,
        seed=setting.seed + VICTIM_OFFSET,
        precision=setting.precision,
    )


def random(setting: Setting) -> Method:
    """Uniform noise, sample-wise: what an equally large change does that nobody optimised."""
    return Random(setting.loop.inner.epsilon)


def random_class_wise(setting: Setting) -> Method:
    """Uniform noise, one delta a class (Huang et al.)."""
    return Random(setting.loop.inner.epsilon, "class")


def lsp(setting: Setting) -> Method:
    """Yu et al.: one Gaussian cluster a class, in blocks of 8 pixels; L2 bound, sample-wise."""
    return LinearlySeparable()


def autoregressive(setting: Setting) -> Method:
    """Sandoval-Segura et al.: one autoregressive process a class; L2 bound, sample-wise."""
    return Autoregressive()


def one_pixel(setting: Setting) -> Method:
    """Wu et al.: one pixel of one colour a class; L0 bound of one pixel."""
    return OnePixel()


def class_convolution(setting: Setting) -> Method:
    """Sadasivan et al.: one blurring filter a class; no bound."""
    return ClassConvolution()


def region(side: int) -> Callable[[Setting], Method]:
    """Region noise of `side` x `side` squares: class-wise, a control for what blocks do."""
    return lambda setting: Region(setting.loop.inner.epsilon, side)


def pil(setting: Setting) -> Method:
    """Liu et al.: noise that a linear model reads as the label."""
    epsilon = setting.loop.inner.epsilon
    return Linearized(Pgd(epsilon, epsilon / 10, 30, random_start=True))


CLEAN = "clean"  # stands in tables where a defender would: nobody protected these images
VICTIM_OFFSET = 500_000  # an exploiter of the same seed must not start from the victim's weights

DEFENDERS: dict[str, Callable[[Setting], Method]] = {
    "ULEO": uleo,
    "ULEO-Augs": uleo_augs,
    "ULEO-Grays": uleo_grays,
    "ULEO-GrayAugs": uleo_grayaugs,
    "ULEO-GrayAugs (released loop)": released_grayaugs,
    "ULEO class-wise": uleo_class_wise,
    "AdvPois": adv_pois,
    "error-max": error_max,
    "error-max class-wise": error_max_class_wise,
    "CSD": csd,
    "CSD (moving spreads)": csd_moving,
    "TUE-SimCLR": tue_simclr,
    "TUE-MoCo": tue_moco,
    "TUE-SimSiam": tue_simsiam,
    "PIL": pil,
    "LSP": lsp,
    "AR": autoregressive,
    "OPS": one_pixel,
    "CUDA": class_convolution,
    **{f"region-{side**2}": region(side) for side in (2, 4, 8)},
    "random": random,
    "random class-wise": random_class_wise,
}
