"""Regularizers at work: what all of them add to the critics' loss, and what they see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from service.losses.objectives import Objective, Scores
from service.losses.regularizers import OfGradient, Place, Regularizer
from service.replicas.global_batch import GlobalBatch
from service.replicas.microbatches import by_microbatch
from service.tasks import View
from service.training.critics.passes import PENALISED, CriticOutputs, run_critic


def penalties(
    regularizers: Sequence[Regularizer],
    due: Sequence[bool],
    critics: nn.ModuleDict,
    fakes: Mapping[str, View],
    reals: Mapping[str, View],
    outputs: Sequence[CriticOutputs],
    heads: int,
    batch: GlobalBatch,
) -> Tensor:
    """(N,), the sum of the penalties that are due, each the mean over games; zeros if none is.

    Args:
        outputs: of each critic. Where a gradient that a penalty is of is among them, it takes no other.
        heads: how many columns at the end of outputs are no logits, and not to be smoothed.
    """
    total = torch.zeros(len(batch.own_rows), dtype=batch.dtype, device=batch.device)
    for regularizer, is_due in zip(regularizers, due, strict=True):
        for number, (game, critic) in enumerate(critics.items()):
            if not (is_due and regularizer.penalises):
                continue
            gradients = outputs[number].gradients or {}
            if isinstance(regularizer, OfGradient) and regularizer.shares and regularizer.place in gradients:
                penalty: Tensor | None = regularizer.of_gradient(gradients[regularizer.place], batch)
            else:
                penalty = _penalty(regularizer, critic, (fakes[game], reals[game]), heads, batch, PENALISED + number)
            if penalty is not None:
                total = total + penalty / len(critics)
    return total


def gradients_wanted(regularizers: Sequence[Regularizer]) -> frozenset[Place]:
    """Where penalties want the gradients that a loss's pass can give."""
    return frozenset(one.place for one in regularizers if isinstance(one, OfGradient) and one.shares)


def see_real(
    regularizers: Sequence[Regularizer], objective: Objective, critics: nn.ModuleDict, whole: Sequence[Scores]
) -> None:
    """Show regularizers what each critic says of the whole batch's real samples."""
    for regularizer in regularizers:
        for critic, scores in zip(critics.values(), whole, strict=True):
            regularizer.see_real(critic, scores, objective)


def _penalty(
    regularizer: Regularizer, critic: nn.Module, views: tuple[View, View], heads: int, batch: GlobalBatch, number: int
) -> Tensor | None:
    def logits(view: View) -> Tensor:
        outputs = run_critic(critic, [view], [batch.own_rows], batch, number).outputs
        return outputs[:, : outputs.shape[1] - heads]

    def penalty(views: tuple[View, View]) -> Tensor | None:
        return regularizer.penalty(logits, *views, batch)

    with batch.passes(batch.own_rows, first=number):
        return by_microbatch(penalty, views, batch, critic)
