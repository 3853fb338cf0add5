"""How near generated images are to real ones, in the features of a network: distances, and shares of neighbourhoods."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

#: KID is a mean over so many blocks of images, of at most so many each: its error is that of the mean.
_BLOCKS, _BLOCK_ROWS = 10, 1000
#: The k of k nearest neighbours: what Naeem et al. 2020 take.
NEIGHBOURS = 5
_ROWS_AT_ONCE = 1024
#: An Inception score is a mean over so many splits of the images, as Salimans et al. 2016 took it.
_SPLITS = 10
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


class InceptionScore(NamedTuple):
    """The mean and the standard deviation over splits."""

    value: float
    deviation: float


class Moments(NamedTuple):
    """What a Fréchet distance needs of features, however many rows there are: float64.

    Attributes:
        mean: (D,).
        covariance: (D, D), unbiased.
    """

    rows: int
    mean: Tensor
    covariance: Tensor


def moments(parts: Iterable[Tensor], side: str = "real") -> Moments:
    """Of features that come in parts, (N, D) each; no part is kept.

    Raises:
        ValueError: some are not finite.
    """
    rows, total, products = 0, torch.zeros(()), torch.zeros(())
    for part in parts:
        _check_finite(side, part)
        values = part.double()
        rows, total, products = rows + len(values), total + values.sum(0), products + values.T @ values
    mean = total / rows
    return Moments(rows, mean, (products - rows * mean.outer(mean)) / (rows - 1))


def fid(real: Tensor | Moments, generated: Tensor) -> float:
    """The Fréchet distance of features (N, D), or of what is known of them, and (M, D).

    The trace of a product's root is the sum of the roots of its eigenvalues, which takes no root of a matrix.

    Raises:
        ValueError: some are not finite.
    """
    known = moments([real]) if isinstance(real, Tensor) else real
    made = moments([generated], "generated")
    roots = torch.linalg.eigvals(known.covariance @ made.covariance).sqrt().real
    apart = (known.mean - made.mean).square().sum()
    return float(apart + known.covariance.trace() + made.covariance.trace() - 2 * roots.sum())


def kid(real: Tensor, generated: Tensor) -> Kid:
    """Of features (N, D) and (N, D), whose order must be a random one: blocks are disjoint, and so independent.

    Raises:
        ValueError: there are fewer than two rows for each block, or some are not finite.
    """
    _check_both_finite(real, generated)
    from torchmetrics.image.kid import poly_mmd  # It takes seconds, for which no training should wait.

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
    _check_both_finite(real, generated)
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


def _check_both_finite(real: Tensor, generated: Tensor) -> None:
    _check_finite("real", real)
    _check_finite("generated", generated)


def _check_finite(name: str, features: Tensor) -> None:
    """Raise ValueError where a feature is not a number: LAPACK ends the process at such ones."""
    bad = int((~features.isfinite()).any(1).sum())
    if bad:
        raise ValueError(
            f"the features of {bad} of {len(features)} {name} images are not finite: look at the weights of the "
            "feature network, and at the images"
        )


def inception_score(logits: Tensor) -> InceptionScore:
    """Of generated images' logits (N, K), in random order: exp of the mean KL(p(y|x) || p(y)), split by split.

    Raises:
        ValueError: there are fewer images than splits, or some logits are not finite.
    """
    if len(logits) < _SPLITS:
        raise ValueError(f"an Inception score needs {_SPLITS} images, not {len(logits)}")
    _check_finite("generated", logits)
    scores = []
    for low, high in pairwise(number * len(logits) // _SPLITS for number in range(_SPLITS + 1)):
        known = logits[low:high].double().log_softmax(1)
        given = known.exp()
        # A class that no image is of has a mean of 0, whose logarithm is not finite.
        apart = torch.where(given > 0, given * (known - given.mean(0).log()), 0)
        scores.append(apart.sum(1).mean().exp())
    found = torch.stack(scores)
    return InceptionScore(float(found.mean()), float(found.std(correction=0)))


def class_coverage(real: Tensor, generated: Tensor) -> float:
    """The share of the labels in `real`, (N,), that `generated`, (M,), has at least a tenth as often, for its size."""
    classes, counts = real.unique(return_counts=True)
    made = (generated == classes[:, None]).sum(1) / len(generated)
    return float((made >= _COVERED * counts / len(real)).double().mean())
