"""The Classwise Separability Discriminant: how far apart the noises of different classes are.

Ren et al., *Transferable Unlearnable Examples*, ICLR 2023. With c_k the mean noise of class k,
sigma_k the mean Euclidean distance of its members from c_k, and d_ij the distance of two means,

    CSD = 1/M sum_i 1/(M - 1) sum_{j != i} (sigma_i + sigma_j) / d_ij

over the M classes that are there: the Davies-Bouldin index with a mean in place of its maximum.
Small is well separated.
"""

from __future__ import annotations

import torch

# Added above and below the fraction, as released (`simclr_utils.py:85` of the project's code):
# at the start all noise is 0, and so is every distance.
TINY = 1e-5


def csd(delta: torch.Tensor, labels: torch.Tensor, spread: str = "moving") -> torch.Tensor:
    """CSD of a batch of noise.

    Args:
        delta: `(B, ...)` float, noise of one batch (or of a whole set), in any unit: CSD has none.
        labels: `(B,)` int64.
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
    if labels.ndim != 1 or delta.shape[:1] != labels.shape or delta.ndim < 2:
        raise ValueError(
            f"noise of shape {tuple(delta.shape)} and labels of shape {tuple(labels.shape)}: "
            "expected (B, ...) and (B,)"
        )
    noise = delta.flatten(1)
    present, member_of = labels.unique(return_inverse=True)
    classes = len(present)
    if classes < 2:
        return 0 * noise.sum()
    counts = torch.bincount(member_of).to(noise)
    sums = noise.new_zeros(classes, noise.shape[1]).index_add(0, member_of, noise)
    means = sums / counts[:, None]  # c_k
    distances = torch.linalg.vector_norm(noise - means[member_of], dim=1)
    spreads = noise.new_zeros(classes).index_add(0, member_of, distances) / counts  # sigma_k
    if spread == "fixed":
        spreads = spreads.detach()
    first, second = torch.triu_indices(classes, classes, offset=1, device=noise.device)
    apart = torch.linalg.vector_norm(means[first] - means[second], dim=1)  # d_ij, each pair once
    return ((spreads[first] + spreads[second] + TINY) / (apart + TINY)).mean()
