"""The named defenders, each a few lines of settings; and the methods that need no loop.

The paper's four (section 4) are one loop with four views of the clean image:

    ULEO             F'(x + delta)                  Huang et al., ICLR 2021
    ULEO-Augs        F'(Aug(x) + delta)
    ULEO-Grays       F'(Gray(x) + delta)            delta equal in all three channels
    ULEO-GrayAugs    F'(Gray(Aug(x)) + delta)       delta equal in all three channels

In the same loop, with other learners: *Transferable Unlearnable Examples* (Ren et al., ICLR 2023;
`contrastive.py`); AUE (`learners.py`); SEM and a cut REM (`hardened.py`); MI-UE (`informative.py`).
Beside the loop attacks on trained networks: AdvPois (Fowl et al., NeurIPS 2021), AAP, HYPO, SEP and
EntF (`poisons.py`); PIL (Liu et al., ICLR 2026); and noise without a model: LSP, AR, OPS, CUDA
(`patterns.py`, `shortcuts.py`), region and random noise.
A new defender is a function from a `Setting` to a method, and a line in `DEFENDERS`; a new method
is settings with a function `make` (`specs.Method`), here or in a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from ulelib.bilevel import Bilevel
from ulelib.data import ImageSet
from ulelib.exploiters import Exploiter
from ulelib.hardened import Hardened
from ulelib.informative import Informative
from ulelib.learners import Augmented, Learning
from ulelib.linearized import Linearized
from ulelib.patterns import Autoregressive, LinearlySeparable, Region, perturbation
from ulelib.perturbation import Perturbation
from ulelib.pgd import Pgd
from ulelib.poisons import Entangled, Poison
from ulelib.profiles import Profile
from ulelib.settings import Op, Radius, at_default, op, settings
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


def aap(setting: Setting) -> Method:
    """Wang et al., targeted: AdvPois behind their augmentation, of strength 0.4. Cut: the victim's
    own training (40 epochs at a rate of 0.5), which is the exploiters' with that augmentation; and
    the steps (250), which are the profile's for AdvPois."""
    augment = contrastive_view(0.4)
    victim = _victim(setting, exploiter=Exploiter(augment=augment))
    return Poison(victim, setting.profile.poison, augment=augment)


def hypo(setting: Setting) -> Method:
    """Tao et al. (2022): towards the true label of an adversarially trained network, shifted and
    flipped in each step. Cut: three steps of its adversaries; at most the profile's steps for
    AdvPois (published: 100)."""
    inner = _steps(setting, part=1 / 10, steps=min(100, setting.profile.poison.steps))
    augment = op("crop_flip", padding=8)
    return Poison(_hardened_victim(setting, 2), inner, shift=0, own_label=True, augment=augment)


def entf(how: Literal["push", "pull"]) -> Callable[[Setting], Method]:
    """Wen et al.: features pushed away from those of the image's class, or pulled to another's.
    Cut: three steps of the adversaries that the network learns from, the length of its training,
    and the steps of the noise, which are the profile's for AdvPois."""

    def defender(setting: Setting) -> Method:
        return Entangled(_hardened_victim(setting, 4), how, setting.profile.poison)

    defender.__doc__ = entf.__doc__
    return defender


def sep(setting: Setting) -> Method:
    """Chen et al.: towards the fifth label after the true one, on the mean gradient of five
    networks from one training. Cut: five networks of 30; the length of the training (120 epochs);
    and the steps (30 of 1/255), which take at most as many gradients as AdvPois does. Each network
    is a stage of its own that starts anew: for a training of 10 epochs, 30 are computed."""
    poison, count = setting.profile.poison, 5
    steps = min(30, max(1, poison.steps // count))
    inner = Pgd(poison.epsilon, min(poison.step * count / 2, 2 * poison.epsilon), steps)
    last, recipe = _victim(setting), setting.profile.recipe
    stops = {math.ceil(recipe.epochs * part / count) for part in range(1, count)} - {recipe.epochs}
    early = (replace(last, recipe=replace(recipe, stop_after=stop)) for stop in sorted(stops))
    return Poison(last, inner, shift=5, also=tuple(early))


def aue(setting: Setting) -> Method:
    """Wang et al.: Algorithm 1 behind a contrastive learner's augmentation of strength 0.6. Five
    steps of a tenth of epsilon and one epoch a round, as published. Cut: the rounds (60), which are
    the epochs of the profile's training; the cosine of the rate, which stays at its peak."""
    inner = _steps(setting, part=1 / 10, steps=5)
    return _by_epochs(setting, Augmented(contrastive_view(0.6)), inner=inner, weight_decay=1e-4)


def sem(setting: Setting) -> Method:
    """Liu et al. (AAAI 2024): Algorithm 1 with an adversarially trained source model, and uniform
    noise of 4/255 in the noise step. Cut: one crop (published: 5), adversaries of three steps (10),
    and three steps of the noise (10) in each of as many rounds as the profile's training has epochs
    (5,000 batches of 128)."""
    return _by_epochs(setting, Hardened("uniform"), inner=_steps(setting, part=1 / 5, steps=3))


def rem_cut(setting: Setting) -> Method:
    """After Fu et al.: the same with an adversary in the noise step. Less than a hundredth of the
    published work, and so a name of its own: one crop (published: 5), three steps of the noise and
    of each adversary (10), and half as many rounds as the profile's training has epochs (5,000
    batches of 128)."""
    inner = _steps(setting, part=1 / 5, steps=3)
    rounds = math.ceil(setting.profile.recipe.epochs / 2)
    return _by_epochs(setting, Hardened("adversary"), inner=inner, rounds=rounds)


def mi_ue(setting: Setting) -> Method:
    """MI-UE (ICLR 2026): features of one class drawn together. Cut: five steps of a tenth of
    epsilon in each of as many rounds as the profile's training has epochs (published: 100 rounds of
    10 steps that grow from 0.2/255 to 0.4/255); batches are the loop's (512), rates constant."""
    return _by_epochs(setting, Informative(), inner=_steps(setting, part=1 / 10, steps=5))


def contrastive_view(strength: float) -> Op:
    """Wang et al.'s augmentation: crops, changes of colour and gray, of one strength.

    Args:
        strength: in [0, 1]; at 1 nearly the view of a contrastive learner.
    """
    return op(
        "contrastive",
        smallest=round(1 - 0.9 * strength, 9),
        strength=strength,
        jittered=round(0.8 * strength, 9),
        gray_chance=round(0.2 * strength, 9),
    )


def _by_epochs(setting: Setting, learning: Learning, **changes: Any) -> Bilevel:
    """Algorithm 1 with another learner, in as many rounds as the profile's training has epochs,
    each with one epoch of the source model; no stop test."""
    rounds = setting.profile.recipe.epochs
    given = {"rounds": rounds, "outer_epochs": 1, "fold_norms": False} | changes
    return replace(setting.loop, learning=learning, **given)


def _steps(setting: Setting, part: float, steps: int) -> Pgd:
    """So many steps of a part of the loop's radius."""
    epsilon = setting.loop.inner.epsilon
    return Pgd(epsilon, part * epsilon, steps)


def _victim(setting: Setting, **changes: Any) -> Run:
    """A training on the clean images, whose network is attacked."""
    run = Run(
        train=(Part(setting.data),),
        test=setting.data,
        net=setting.loop.net,
        recipe=setting.profile.recipe,
        seed=setting.seed + VICTIM_OFFSET,
        precision=setting.precision,
    )
    return replace(run, **changes)


def _hardened_victim(setting: Setting, gray_levels: int) -> Run:
    """A training on adversaries of the clean images, within so many gray levels: three steps of
    half of the radius, where papers take seven or ten."""
    attack = Pgd(gray_levels / 255, gray_levels / 255 / 2, 3, random_start=True)
    return _victim(setting, exploiter=Exploiter(attack=attack))


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

    def defender(setting: Setting) -> Method:
        return Region(setting.loop.inner.epsilon, side)

    defender.__doc__ = region.__doc__
    return defender


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
    "AUE": aue,
    "AAP": aap,
    "HYPO": hypo,
    "SEP": sep,
    "SEM": sem,
    "REM (cut)": rem_cut,
    "MI-UE": mi_ue,
    "EntF-push": entf("push"),
    "EntF-pull": entf("pull"),
    "PIL": pil,
    "LSP": lsp,
    "AR": autoregressive,
    "OPS": one_pixel,
    "CUDA": class_convolution,
    **{f"region-{side**2}": region(side) for side in (2, 4, 8)},
    "random": random,
    "random class-wise": random_class_wise,
}
