"""A joint step's looks at generated, real and previous images, one way a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from service.losses.regularizers import Place
from service.replicas.global_batch import GlobalBatch
from service.replicas.row_sets import RowSet
from service.tasks import View
from service.training.critics.looks import joined, look
from service.training.critics.passes import GENERATED, SHOWN_REAL, CriticOutputs, run_critic
from service.training.critics.shared_pass import by_gradient, scaled, twice


def together(
    critic: nn.Module, views: Sequence[View], rows: Sequence[RowSet], batch: GlobalBatch, *_: object
) -> CriticOutputs:
    """All three as one call. The generator's term trains the critic too."""
    return run_critic(critic, views, rows, batch, GENERATED)


def with_frozen_critic(
    critic: nn.Module,
    views: Sequence[View],
    rows: Sequence[RowSet],
    batch: GlobalBatch,
    wanted: frozenset[Place],
    heads: int,
) -> CriticOutputs:
    """The first look with the critic's weights held; then the other two."""
    frozen = {name: parameter.detach() for name, parameter in critic.named_parameters()}

    def held(*inputs: Tensor) -> Tensor:
        logits: Tensor = functional_call(critic, frozen, inputs)
        return logits

    on_fake = run_critic(critic, views[:1], rows[:1], batch, GENERATED, held)
    return joined([on_fake, look(critic, views[1:], ("real", "fake"), rows[1:], batch, SHOWN_REAL, wanted, heads)])


def two_passes(
    critic: nn.Module,
    views: Sequence[View],
    rows: Sequence[RowSet],
    batch: GlobalBatch,
    wanted: frozenset[Place],
    _: int,
) -> CriticOutputs:
    """As three passes would have it, of which the first and the last are of the same images (`shared_pass`)."""
    fake, real, _shown = views
    ratio: list[Tensor] = []
    shown = fake if "fake" in wanted else fake._replace(images=scaled(fake.images, ratio))
    both = look(critic, (shown, real), ("fake", "real"), rows[:2], batch, GENERATED, wanted)
    on_fake, on_real = both.outputs.split([len(part) for part in rows[:2]])
    if both.gradients and "fake" in both.gradients:
        of_generator, of_critic = by_gradient(fake.images, on_fake, both.gradients["fake"]), on_fake
    else:
        of_generator, of_critic = twice(on_fake, ratio)
    kinds = None if both.kinds is None else torch.cat([both.kinds, both.kinds[: len(on_fake)]])
    return CriticOutputs(torch.cat([of_generator, on_real, of_critic]), kinds, rows, GENERATED, both.gradients)


#: By the names of `scheme.passes`, and ``together`` where the generator's term trains the critic.
LOOKS: Mapping[str, Callable[..., CriticOutputs]] = {
    "together": together,
    "three": with_frozen_critic,
    "two": two_passes,
}
