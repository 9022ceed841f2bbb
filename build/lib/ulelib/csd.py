"""The Classwise Separability Discriminant: how far apart the noises of different classes are.

Ren et al., *Transferable Unlearnable Examples*, ICLR 2023. With c_k the mean noise of class k,
sigma_k the mean Euclidean distance of its members from c_k, and d_ij the distance of two means,

    CSD = 1/M sum_i 1/(M - 1) sum_{j != i} (sigma_i + sigma_j) / d_ij

over the M classes that are there: the Davies-Bouldin index with a mean in place of its maximum.
Small is well separated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from ulelib.checkpoints import NO_CHECKPOINT, Checkpoint, put_back, states_of
from ulelib.data import ImageSet, check_classes
from ulelib.deltas import SampleWise
from ulelib.machine import device, to_float
from ulelib.perturbation import Perturbation
from ulelib.pgd import Ball, Pgd, PixelRange, signed_gradient_steps
from ulelib.settings import Count, at_default, settings

# Added above and below the fraction, as released (`simclr_utils.py:85` of the project's code):
# at the start all noise is 0, and so is every distance.
TINY = 1e-5


@dataclass(frozen=True, eq=False)
class Groups:
    """Which members of a batch are of one class. Found once for a batch, used in each of its steps.

    Attributes:
        member_of: `(B,)` int64, the class of each member, counted among those that are there.
        counts: `(M,)` float, members of each class.
        pairs: `(2, M (M - 1) / 2)` int64, each pair of classes once.
    """

    member_of: torch.Tensor
    counts: torch.Tensor
    pairs: torch.Tensor

    @classmethod
    def of(cls, labels: torch.Tensor) -> Groups:
        """The groups of labels `(B,)` int64."""
        present, member_of = labels.unique(return_inverse=True)
        classes = len(present)
        pairs = torch.triu_indices(classes, classes, offset=1, device=labels.device)
        return cls(member_of, torch.bincount(member_of).float(), pairs)


def csd(delta: torch.Tensor, labels: torch.Tensor | Groups, spread: str = "moving") -> torch.Tensor:
    """CSD of a batch of noise.

    Args:
        delta: `(B, ...)` float, noise of one batch (or of a whole set), in any unit: CSD has none.
        labels: `(B,)` int64, or their groups.
        spread: "moving", as the paper's equation reads: the gradient passes through the distances
            and the spreads. "fixed", as released (`simclr_utils.py:80`): the spreads are numbers.
            Then all members of a class have the same gradient, so equal signed steps: the noise
            becomes nearly class-wise, and spreads that are there at the start stay.

    Returns:
        a scalar; 0 (with a gradient of 0) where there are fewer than two classes. The released code
        returns a plain number there, which ends its run.

    Raises:
        ValueError: shapes that do not fit, or an unknown spread.
    """
    if spread not in ("moving", "fixed"):
        raise ValueError(f'spread {spread!r}; choose from ["moving", "fixed"]')
    members = labels.member_of if isinstance(labels, Groups) else labels
    if members.ndim != 1 or delta.shape[:1] != members.shape or delta.ndim < 2:
        raise ValueError(
            f"noise of shape {tuple(delta.shape)} and labels of shape {tuple(members.shape)}: "
            "expected (B, ...) and (B,)"
        )
    groups = labels if isinstance(labels, Groups) else Groups.of(labels)
    noise, classes = delta.flatten(1), len(groups.counts)
    if classes < 2:
        return 0 * noise.sum()
    member_of, counts = groups.member_of, groups.counts.to(noise)
    sums = noise.new_zeros(classes, noise.shape[1]).index_add(0, member_of, noise)
    means = sums / counts[:, None]  # c_k
    distances = torch.linalg.vector_norm(noise - means[member_of], dim=1)
    spreads = noise.new_zeros(classes).index_add(0, member_of, distances) / counts  # sigma_k
    if spread == "fixed":
        spreads = spreads.detach()
    first, second = groups.pairs
    apart = torch.linalg.vector_norm(means[first] - means[second], dim=1)  # d_ij, each pair once
    return ((spreads[first] + spreads[second] + TINY) / (apart + TINY)).mean()


@settings
class Separation:
    """Noise of CSD alone: what the released commands of SimCLR and SimSiam make, whose contrastive
    loss has a weight of 0; so no network has a say in it, and a pass takes seconds.

    Attributes:
        inner: the steps on every image of a batch, in each pass; with a random start, since between
            noises that are all 0 there is no direction.
        passes: over all images, in batches drawn anew.
        batch_size: images whose separability is measured together.
        spread: see `csd`; as released.
        only: labels of the classes that are protected, see `Bilevel.only`. The others' images have
            no noise, and are one more class: one with a spread of 0.
        channels: 3, or 1 for one value in all three channels of a pixel, see `Bilevel.channels`:
            such noise is bounded by epsilon alone, since one bound would not fit three colours.
    """

    inner: Pgd = Pgd(random_start=True)
    passes: Count = 4
    batch_size: Annotated[int, Field(ge=2, le=100_000)] = 512
    spread: Literal["moving", "fixed"] = "fixed"
    only: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    channels: Literal[1, 3] = 3

    def __post_init__(self) -> None:
        if not self.inner.random_start:
            raise ValueError(
                "Separation.inner.random_start is False: all noise would stay 0, since classes "
                "whose means are one point have no direction in which to part"
            )

    def not_in_key(self) -> frozenset[str]:
        """See `settings.key_of`."""
        return at_default(self, "only", "channels")

    def make(
        self,
        images: ImageSet,
        seed: int,
        precision: str,
        *,
        network: Callable[..., Any],
        report: Callable[[str], None],
        checkpoint: Checkpoint = NO_CHECKPOINT,
    ) -> Perturbation:
        """See `specs.Method`."""
        check_classes(images)
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(seed)
        delta, pgd = SampleWise(images, self.channels, self.only), self.inner
        clean = torch.zeros(0 if self.only is None else 1, *delta.delta.shape[1:], device=device())
        pixels, labels = images.images.to(device()), images.labels.to(device())
        delta.draw(pgd.epsilon, generator)
        clamp = PixelRange if self.channels == 3 else Ball
        misplaced_after: list[float] = []  # each pass
        parts = {"delta": delta, "generator": generator}
        if saved := checkpoint.restore():
            put_back(saved["parts"], parts)
            misplaced_after, started = saved["misplaced"], started - saved["seconds"]

        def state() -> dict[str, Any]:
            seconds = time.perf_counter() - started
            return {"parts": states_of(parts), "misplaced": misplaced_after, "seconds": seconds}

        while len(misplaced_after) < self.passes:
            for batch in delta.passes(self.batch_size, generator, alike=True):
                bounds = clamp(to_float(pixels[batch]), pgd.epsilon)
                groups = Groups.of(F.pad(labels[batch], (0, len(clean)), value=-1))

                def loss_of(some: torch.Tensor, groups: Groups = groups) -> torch.Tensor:
                    return csd(torch.cat([some, clean]), groups, self.spread)

                moved = signed_gradient_steps(
                    loss_of, delta.of(batch), step=pgd.step, steps=pgd.steps, add=bounds.add
                )
                delta.set(batch, moved)
            misplaced_after.append(misplaced(delta))
            delta.end_round()
            report(
                f"pass {len(misplaced_after)} of {self.passes}: {misplaced_after[-1]:.1%} nearer "
                "to another class"
            )
            checkpoint.offer(state)
        seconds = time.perf_counter() - started
        return delta.perturbation(images, pgd.epsilon, "CSD", seconds, misplaced_after)


def misplaced(delta: SampleWise) -> float:
    """The share of what is protected whose noise lies nearer to the mean of another class, or to
    the images that have none, than to that of its own; see `misplaced_rows`."""
    names = torch.full_like(delta.labels, -1)  # those without noise are one more class
    names[delta.rows] = delta.labels[delta.rows]
    return float(misplaced_rows(delta.delta, names)[delta.rows].float().mean())


@torch.no_grad()
def misplaced_rows(delta: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Which noises lie nearer to the mean of another class than to that of their own.

    A noise counts in no mean that it is compared with, so that none is where the classes are
    apart, and (M - 1) / M, nearly, where the noise knows nothing of M classes. One that is alone in
    its class is misplaced.

    Args:
        delta: `(N, ...)` float, noise of a whole set.
        labels: `(N,)` int64.

    Returns:
        `(N,)` bool.
    """
    noise = delta.flatten(1)
    present, member_of = labels.unique(return_inverse=True)
    counts = torch.bincount(member_of).to(noise)
    sums = noise.new_zeros(len(present), noise.shape[1]).index_add(0, member_of, noise)
    means = sums / counts[:, None]
    along, own = noise @ means.T, noise.square().sum(1)  # (N, M) and (N,)
    # |d - c|^2 less |d|^2, which is the same for all classes.
    far = means.square().sum(1) - 2 * along
    # Of the own class's other members, mean (n c - d) / (n - 1); from the products that are there.
    n = counts[member_of]
    along_own = along.gather(1, member_of[:, None])[:, 0]
    square = (n.square() * means.square().sum(1)[member_of] - 2 * n * along_own + own) / (
        n - 1
    ) ** 2
    far_own = square - 2 * (n * along_own - own) / (n - 1)
    far.scatter_(1, member_of[:, None], torch.where(n > 1, far_own, torch.inf)[:, None])
    return far.argmin(1) != member_of
