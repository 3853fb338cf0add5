"""Divergence: a loss that is not finite ends a run, without the step waiting for the host to look.

The losses are batch-global, so every replica sees the same ones. The first step at which each was not finite
is kept on the device, and from then on optimizers are told to skip their updates: by the time the host looks,
at a logging interval or before a checkpoint, the weights are still those before that step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_NEVER = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Diverged:
    """Where a run ended."""

    step: int
    terms: tuple[str, ...]

    def __str__(self) -> str:
        return f"diverged at step {self.step}: {' and '.join(self.terms)} not finite"


class Divergence:
    """Watches named losses.

    Args:
        terms: the losses' names.
        device: where the losses are.
    """

    def __init__(self, terms: Sequence[str], device: torch.device) -> None:
        self.terms = tuple(terms)
        self._first = torch.full((len(terms),), _NEVER, dtype=torch.int64, device=device)

    def watch(self, losses: Tensor, step: Tensor, first_term: int = 0) -> Tensor:
        """Note which of `losses` are not finite at `step`.

        Args:
            losses: (K, ...), those of K terms in their order.
            step: 0-dimensional int64.
            first_term: the place of the first of them among the terms.

        Returns:
            0-dimensional float32: 1 if this step or an earlier one diverged, and must not update.
        """
        values = losses.detach()
        differences = values - values  # Not zero where a value is not finite.
        bad = (differences if values.dim() == 1 else differences.flatten(1).sum(1)) != 0
        known = self._first[first_term : first_term + len(bad)]
        torch.minimum(known, torch.where(bad, step, _NEVER), out=known)
        return (self._first.min() < _NEVER).to(torch.float32)

    def first_steps(self) -> dict[str, Tensor]:
        """By term, the first step at which its loss was not finite, or -1: 0-dimensional, on the device."""
        return dict(zip(self.terms, self._or_minus_one(), strict=True))

    def diverged(self) -> Diverged | None:
        """The first divergence so far. Waits for the device."""
        return first_divergence(dict(zip(self.terms, self._or_minus_one().tolist(), strict=True)))

    def _or_minus_one(self) -> Tensor:
        return torch.where(self._first < _NEVER, self._first, -1)


def diverged_weights(parameters: Sequence[Tensor], step: Tensor) -> Diverged | None:
    """A gradient that was not finite where all losses were, as far as weights at `step` show. Waits for the device."""
    sums = torch.stack([parameter.detach().abs().sum() for parameter in parameters])
    return None if torch.isfinite(sums).all() else Diverged(int(step), ("gradient",))


def first_divergence(first_steps: Mapping[str, float]) -> Diverged | None:
    """The earliest of some terms' first bad steps, -1 where there is none."""
    bad = {term: int(step) for term, step in first_steps.items() if step >= 0}
    if not bad:
        return None
    first = min(bad.values())
    return Diverged(first, tuple(term for term, step in bad.items() if step == first))
