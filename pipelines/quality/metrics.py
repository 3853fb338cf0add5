"""How near generated images are to real ones, in the features of a network: distances, and shares of neighbourhoods."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

#: KID is a mean over so many blocks of images, of at most so many each: its error is that of the mean.
_BLOCKS, _BLOCK_ROWS = 10, 1000
#: The k of k nearest neighbours: what Naeem et al. 2020 take.
NEIGHBOURS = 5
_ROWS_AT_ONCE = 1024
#: A class counts as covered if it is generated at least this often, as a share of how often it is real.
_COVERED = 0.1
#: Features that are nearer to each other than this share of their size are the same but for rounding.
_SAME = 1e-6


class Kid(NamedTuple):
    """A mean over blocks, and its standard error."""

    value: float
    error: float


class Neighbourhoods(NamedTuple):
    """Shares of samples that lie in neighbourhoods of the other side's."""

    precision: float
    recall: float
    density: float
    coverage: float


class _Given(nn.Module):
    """Hands on features as they come, where torchmetrics expects a network."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_features = count

    def forward(self, features: Tensor) -> Tensor:
        return features


def fid(real: Tensor, generated: Tensor) -> float:
    """Of features (N, D) and (M, D).

    Raises:
        ValueError: some are not finite.
    """
    _check_finite(real, generated)
    from torchmetrics.image.fid import FrechetInceptionDistance  # It takes seconds, for which no training should wait.

    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]), normalize=False).set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(generated.double(), real=False)
    return float(metric.compute())


def kid(real: Tensor, generated: Tensor) -> Kid:
    """Of features (N, D) and (N, D), whose order must be a random one: blocks are disjoint, and so independent.

    Raises:
        ValueError: there are fewer than two rows for each block, or some are not finite.
    """
    _check_finite(real, generated)
    from torchmetrics.image.kid import poly_mmd  # As above.

    rows = min(len(real), len(generated))
    size = min(_BLOCK_ROWS, rows // _BLOCKS)
    if size < 2:
        raise ValueError(f"KID needs {2 * _BLOCKS} images on each side, not {rows}")
    values = torch.stack(
        [
            poly_mmd(real[start : start + size].double(), generated[start : start + size].double())
            for start in range(0, rows - size + 1, size)
        ]
    )
    return Kid(float(values.mean()), float(values.std() / len(values) ** 0.5))


def neighbourhoods(real: Tensor, generated: Tensor, k: int = NEIGHBOURS) -> Neighbourhoods:
    """Of features (N, D) and (M, D), after Naeem et al. 2020; a copy of a sample is in its neighbourhood.

    Without that, a sample with `k` copies of its own would have nobody in its neighbourhood, as that has no extent.

    Raises:
        ValueError: there are no more than `k` rows on a side, or some are not finite.
    """
    _check_finite(real, generated)
    if min(len(real), len(generated)) <= k:
        raise ValueError(f"{k} neighbours need {k + 1} images on each side, not {min(len(real), len(generated))}")
    real, generated = real.double(), generated.double()
    reach_real, reach_generated = _reach(real, k), _reach(generated, k)
    inside = torch.zeros(len(generated), dtype=torch.int64)  # Of how many real samples' neighbourhoods.
    recalled = covered = 0
    for rows, reach in zip(real.split(_ROWS_AT_ONCE), reach_real.split(_ROWS_AT_ONCE), strict=True):
        apart = _apart(rows, generated)
        copies = apart == 0
        of_real = (apart < reach[:, None]) | copies
        inside += of_real.sum(0)
        recalled += int(((apart < reach_generated) | copies).any(1).sum())
        covered += int(of_real.any(1).sum())
    return Neighbourhoods(
        precision=float((inside > 0).double().mean()),
        recall=recalled / len(real),
        density=float(inside.double().mean()) / k,
        coverage=covered / len(real),
    )


def _reach(features: Tensor, k: int) -> Tensor:
    """(N,), how far each sample's k-th neighbour is; itself, which is nearest, is not one."""
    return torch.cat([_apart(rows, features).kthvalue(k + 1, 1).values for rows in features.split(_ROWS_AT_ONCE)])


def _apart(some: Tensor, others: Tensor) -> Tensor:
    """(N, M), Euclidean distances; 0 for what differs by rounding."""
    apart = torch.cdist(some, others)
    return apart.masked_fill_(apart <= _SAME * (some.norm(dim=1)[:, None] + others.norm(dim=1)), 0)


def _check_finite(*sides: Tensor) -> None:
    """Raise ValueError where a feature is not a number: LAPACK ends the process at such ones."""
    for name, features in zip(("real", "generated"), sides, strict=True):
        bad = int((~features.isfinite()).any(1).sum())
        if bad:
            raise ValueError(
                f"the features of {bad} of {len(features)} {name} images are not finite: look at the weights of the "
                "feature network, and at the images"
            )


def class_coverage(real: Tensor, generated: Tensor) -> float:
    """The share of the labels in `real`, (N,), that `generated`, (M,), has at least a tenth as often, for its size."""
    classes, counts = real.unique(return_counts=True)
    made = (generated == classes[:, None]).sum(1) / len(generated)
    return float((made >= _COVERED * counts / len(real)).double().mean())
