"""A critic's passes in which it also gives its gradient at the images, for penalties that are of that gradient alone.

Such penalties then need no pass of their own: the loss's is the first half of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from service.losses.regularizers import Place, gradient_of
from service.replicas.global_batch import GlobalBatch
from service.replicas.microbatches import by_microbatch
from service.replicas.row_sets import RowSet
from service.tasks import View
from service.training.critics.passes import CriticOutputs, run_critic


def look(
    critic: nn.Module,
    views: Sequence[View],
    places: Sequence[Place],
    rows: Sequence[RowSet],
    batch: GlobalBatch,
    first: int,
    wanted: frozenset[Place],
    heads: int = 0,
) -> CriticOutputs:
    """Several passes, in one call if they are all of one kind: with gradients, or without.

    Args:
        places: what each view shows.
        first: the first pass's number.
        wanted: where the gradient is wanted. Views there pass no gradient on to what made them.
        heads: how many columns at the end of outputs are no logits.
    """
    if wanted.isdisjoint(places):
        return run_critic(critic, views, rows, batch, first)
    if not wanted.issuperset(places):
        return joined(
            [
                look(critic, [view], [place], [part], batch, first + number, wanted, heads)
                for number, (view, place, part) in enumerate(zip(views, places, rows, strict=True))
            ]
        )

    def looked(view: View) -> tuple[Tensor, Tensor]:
        said: list[Tensor] = []

        def logits(view: View) -> Tensor:
            said.append(critic(*(value for value in view[:2] if value is not None)))
            return said[0][:, : said[0].shape[1] - heads]

        gradient = gradient_of(logits, view)
        return said[0], gradient

    view = View.joined(views)
    with batch.passes(*rows, first=first):
        outputs, gradients = by_microbatch(looked, view, batch, critic)
    by_place = dict(zip(places, gradients.split([len(part) for part in rows]), strict=True))
    return CriticOutputs(outputs, view.kinds, rows, first, by_place)


def of_each(look: Callable[..., CriticOutputs]) -> Callable[..., list[CriticOutputs]]:
    """A look of one critic -> that of each of several, whose views are by their names.

    It is one call: torch.compile compiles nothing of a loss whose loop it would have to leave half way.
    """

    def looks(critics: nn.ModuleDict, views: Mapping[str, Sequence[View]], *given: Any) -> list[CriticOutputs]:
        return [look(critic, views[name], *given) for name, critic in critics.items()]

    return looks


def joined(parts: Sequence[CriticOutputs]) -> CriticOutputs:
    """What a critic has said in several calls of passes that follow each other, as one."""
    kinds = [part.kinds for part in parts if part.kinds is not None]
    return CriticOutputs(
        torch.cat([part.outputs for part in parts]),
        torch.cat(kinds) if kinds else None,
        [rows for part in parts for rows in part.rows],
        parts[0].first,
        {place: gradient for part in parts for place, gradient in (part.gradients or {}).items()},
    )
