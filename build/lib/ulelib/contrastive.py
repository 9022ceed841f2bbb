"""Contrastive source models, and the noise of *Transferable Unlearnable Examples* (Ren et al., ICLR
2023):

    argmin_theta argmin_delta  L_contrastive(view1(x + delta), view2(x + delta)) + lambda CSD(delta)

In Algorithm 1's loop (`bilevel.py`), with `Transferable` for its `learning`: the source model
learns without labels, from two views of each protected image, and only CSD (`csd.py`) knows the
classes. Losses, heads, queue and momentum are those of the library lightly.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Literal

import torch
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from lightly.models.modules.heads import (
    MoCoProjectionHead,
    SimCLRProjectionHead,
    SimSiamPredictionHead,
    SimSiamProjectionHead,
)
from lightly.models.utils import update_momentum
from torch import nn
from torch.nn import functional as F

from ulelib.csd import Groups, csd, misplaced
from ulelib.data import ImageSet
from ulelib.deltas import SampleWise
from ulelib.learners import Learner
from ulelib.machine import logits, seeded_model
from ulelib.models import build_model, check_size, headless
from ulelib.pgd import Clamp
from ulelib.settings import BelowOne, Count, NotNegative, Op, Positive, op, settings
from ulelib.views import view


@settings
class Contrastive:
    """Learning without labels; temperature, queue, momentum and SimCLR's widths are those of the
    released commands (`demo.sh`).

    Heads and batch statistics are the library lightly's, not theirs: SimCLR's head ends in a batch
    norm (released: none); MoCo's has the two layers of v2 (released: the network's last layer
    alone), and its query and key share the batch statistics in one part (released: in eight, the
    keys shuffled); SimSiam's projector has three layers (released: two).

    Attributes:
        method: "simclr" (Chen et al., ICML 2020), "moco" (v2: Chen et al., 2020) or "simsiam"
            (Chen and He, CVPR 2021).
        augment: the view of which each image shows two.
        temperature: of the first two's softmax.
        hidden, dim: width of the heads' hidden layer, and of what they return; SimSiam's returns
            `hidden` values, and its predictor has `dim` inside.
        queue: keys that "moco" compares an image with.
        momentum: by which its second network follows the first.
    """

    method: Literal["simclr", "moco", "simsiam"]
    augment: Op = op("contrastive")
    temperature: Positive = 0.5
    hidden: Count = 512
    dim: Count = 128
    queue: Count = 4096
    momentum: BelowOne = 0.99

    def __post_init__(self) -> None:
        if not view(self.augment).random:
            raise ValueError(
                f"Contrastive.augment is {self.augment}, which shows the same picture twice: "
                "there is nothing to learn from two equal views"
            )

    def build(self, net: Op, images: ImageSet, seed: int) -> Encoder:
        """An untrained network of this method, for these images.

        Raises:
            ValueError: fewer images than the queue holds, of which some would then be their own
                negatives; or images of a size that the network does not take.
        """
        if self.method == "moco" and self.queue > len(images):
            raise ValueError(
                f"Contrastive.queue is {self.queue}, but there are {len(images)} images: an image "
                "would be compared with itself. Take a queue of fewer"
            )

        def make() -> Encoder:
            whole = build_model(net, len(images.classes))
            check_size(whole, net, images.images)
            return ENCODERS[self.method](self, *headless(whole))

        return seeded_model(make, seed)  # type: ignore[return-value]


class Encoder(nn.Module, abc.ABC):
    """A network that learns from two views: backbone, head and loss.

    Attributes:
        backbone: from images `(B, 3, H, W)` to features `(B, F)`.
        project: backbone and head, to what the loss compares.
        spread: of SimSiam as a source model, after the last round (`spread_of`).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.project = nn.Sequential(backbone, head)
        self.spread: torch.Tensor
        self.register_buffer("spread", torch.tensor(math.inf))

    @abc.abstractmethod
    def forward(self, first: torch.Tensor, second: torch.Tensor, precision: str) -> torch.Tensor:
        """The loss of two views `(B, 3, H, W)` of the same images, a scalar."""

    def stepped(self) -> None:
        """Called after each step of the optimizer."""


class SimCLR(Encoder):
    """Each view shall be more like its other than like any other image of the batch."""

    def __init__(self, how: Contrastive, backbone: nn.Module, width: int) -> None:
        super().__init__(backbone, SimCLRProjectionHead(width, how.hidden, how.dim))
        self.criterion = NTXentLoss(how.temperature)

    def forward(self, first: torch.Tensor, second: torch.Tensor, precision: str) -> torch.Tensor:
        both = logits(self.project, torch.cat([first, second]), precision)
        return self.criterion(*both.chunk(2))  # type: ignore[no-any-return]


class MoCo(Encoder):
    """The same against a queue of earlier images, seen by a network that follows slowly.

    While noise is made (in eval mode) the gradient passes through the second network, too, as the
    released command has it (`k_grad`), and the queue and the second network stand still. In the
    released code each step's keys enter the queue, so that from its second step on an image meets
    its own protected self among what it shall be unlike.
    """

    def __init__(self, how: Contrastive, backbone: nn.Module, width: int) -> None:
        super().__init__(backbone, MoCoProjectionHead(width, how.hidden, how.dim))
        self.follower = copy.deepcopy(self.project)
        self.criterion = NTXentLoss(how.temperature, memory_bank_size=(how.queue, how.dim))
        self.momentum = how.momentum

    def forward(self, first: torch.Tensor, second: torch.Tensor, precision: str) -> torch.Tensor:
        bank = self.criterion.memory_bank
        if self.training and len(first) > len(bank.bank):
            raise ValueError(
                f"a batch of {len(first)} images does not fit into a queue of {len(bank.bank)}: "
                "take smaller batches, or a longer queue"
            )
        with torch.set_grad_enabled(not self.training):
            keys = logits(self.follower, second, precision)
        queries = logits(self.project, first, precision)
        with contextlib.nullcontext() if self.training else _kept(bank):
            return self.criterion(queries, keys)  # type: ignore[no-any-return]

    @torch.no_grad()
    def stepped(self) -> None:
        update_momentum(self.project, self.follower, self.momentum)


@contextlib.contextmanager
def _kept(bank: nn.Module) -> Iterator[None]:
    """A queue that nothing enters: the library's own loss adds to it what has a gradient."""
    before = {name: buffer.clone() for name, buffer in bank.named_buffers()}
    yield
    for name, buffer in before.items():
        setattr(bank, name, buffer)


class SimSiam(Encoder):
    """Each view shall be predicted from its other; nothing keeps them apart but a stopped gradient.

    While noise is made (in eval mode) the gradient is not stopped, as released (`k_grad`).
    """

    def __init__(self, how: Contrastive, backbone: nn.Module, width: int) -> None:
        super().__init__(backbone, SimSiamProjectionHead(width, how.hidden, how.hidden))
        self.predict = SimSiamPredictionHead(how.hidden, how.dim, how.hidden)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, first: torch.Tensor, second: torch.Tensor, precision: str) -> torch.Tensor:
        projected = logits(self.project, torch.cat([first, second]), precision)
        predicted = logits(self.predict, projected, precision)
        z1, z2 = (projected.detach() if self.training else projected).chunk(2)
        p1, p2 = predicted.chunk(2)
        return (self.criterion(p1, z2) + self.criterion(p2, z1)) / 2  # type: ignore[no-any-return]


class Collapsed(UserWarning):
    """SimSiam shows nearly the same of all images: the network has learned nothing."""


COLLAPSED = 0.1  # spread below which it shows nearly one point


def spread_of(projected: torch.Tensor) -> float:
    """How far what a head returns for different images `(N, D)` is apart: the mean standard
    deviation at unit length, times the square root of D. About 1 where it fills the sphere, 0 where
    all is one point (Chen and He, CVPR 2021, Figure 2)."""
    unit = F.normalize(projected)
    return float(unit.std(0).mean()) * unit.shape[1] ** 0.5


def warn_if_collapsed(how: Contrastive, spread: float) -> None:
    """The other two methods hold images apart by their loss.

    Warns:
        Collapsed: SimSiam's `spread` is that of nearly one point.
    """
    if how.method == "simsiam" and spread < COLLAPSED:
        warnings.warn(
            f"SimSiam has collapsed: the spread of what it shows is {spread:.3f}, where 1 fills "
            "the sphere. Lower learning_rate, or take a larger head",
            Collapsed,
            stacklevel=3,
        )


ENCODERS: dict[str, Callable[[Contrastive, nn.Module, int], Encoder]] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "simsiam": SimSiam,
}


@settings
class Transferable:
    """What the source model of *Transferable Unlearnable Examples* learns (`learners.Learning`).

    The released commands of SimCLR and SimSiam have a `contrastive_weight` of 0: their noise comes
    from CSD alone, in the defender `CSD`. Here, as in the paper's equation, both count. In the
    inner step two views are drawn anew for each image and each of its steps, and the network is in
    eval mode, so that images see each other in the losses alone (released: the same, but for
    SimSiam). Other than here, the released inner step shows all images of a batch by one transform
    (`simclr_utils.py:96`, `utils.py:38`). It also takes the mean of the noises clipped against two
    pictures (`toolbox.py:223`) and bounds the noise by 9/255 in the end (`utils.py:642`), which
    both change nothing: the two pictures are the same, and the noise is within 8/255.

    Attributes:
        contrastive: the source model.
        contrastive_weight, csd_weight: of the two losses in the inner step.
        spread: as `csd.csd` takes it.
    """

    together: ClassVar[bool] = True

    contrastive: Contrastive
    contrastive_weight: Positive = 1.0
    csd_weight: NotNegative = 1.0
    spread: Literal["moving", "fixed"] = "moving"

    def start(self, net: Op, images: ImageSet, seed: int, precision: str) -> Learner:
        """See `learners.Learning`."""
        return TwoViews(self, self.contrastive.build(net, images, seed), precision)


class TwoViews:
    """A source model that learns without labels (see `learners.Learner`)."""

    capturable: ClassVar[bool] = False  # its views are drawn

    def __init__(self, learning: Transferable, model: Encoder, precision: str) -> None:
        self.learning, self.model, self.precision = learning, model, precision
        self.augment = view(learning.contrastive.augment)

    def loss(
        self, x: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """The contrastive loss of two views."""
        return self.model(  # type: ignore[no-any-return]
            self.augment(x, generator), self.augment(x, generator), self.precision
        )

    def stepped(self) -> None:
        """The second network follows, where there is one."""
        self.model.stepped()

    def freeze(self, fold: bool) -> None:
        """Eval mode; nothing is folded (see `Bilevel.fold_norms`)."""
        self.model.eval().requires_grad_(False)

    def objective(
        self, added: Clamp, labels: torch.Tensor, generator: torch.Generator
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """The paper's loss of a batch's noise."""

        groups = Groups.of(labels)

        def loss_of(delta: torch.Tensor) -> torch.Tensor:
            contrastive = self.loss(added.image(delta), labels, generator)
            apart = csd(delta, groups, self.learning.spread)
            weights = self.learning.contrastive_weight, self.learning.csd_weight
            return weights[0] * contrastive + weights[1] * apart

        return loss_of

    def error(
        self, protected: Iterable[tuple[torch.Tensor, torch.Tensor]], delta: SampleWise
    ) -> float:
        """The share of the noise that lies nearer to another class's mean.

        Warns:
            Collapsed: SimSiam shows nearly one point of the first batch in two rounds, as an
                untrained network may in one; noise that is made with it comes from CSD alone.
        """
        if self.learning.contrastive.method == "simsiam":
            x, _ = next(iter(protected))
            with torch.no_grad():
                spread = spread_of(logits(self.model.project, x, self.precision))
            warn_if_collapsed(self.learning.contrastive, max(spread, float(self.model.spread)))
            self.model.spread.fill_(spread)
        return misplaced(delta)
