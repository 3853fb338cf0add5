"""A joint step's looks at generated, real and previous images, where the generator's term must not train the critic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from service.replicas.global_batch import GlobalBatch
from service.replicas.row_sets import RowSet
from service.tasks import View
from service.training.critics.passes import GENERATED, SHOWN_REAL, CriticOutputs, run_critic
from service.training.critics.shared_pass import scaled, twice


def with_frozen_critic(
    critic: nn.Module, views: Sequence[View], rows: Sequence[RowSet], batch: GlobalBatch
) -> CriticOutputs:
    """The first look with the critic's weights held; the other two as one call."""
    frozen = {name: parameter.detach() for name, parameter in critic.named_parameters()}

    def held(*inputs: Tensor) -> Tensor:
        logits: Tensor = functional_call(critic, frozen, inputs)
        return logits

    on_fake = run_critic(critic, views[:1], rows[:1], batch, GENERATED, held)
    others = run_critic(critic, views[1:], rows[1:], batch, SHOWN_REAL)
    outputs = torch.cat([on_fake.outputs, others.outputs])
    kinds = None if on_fake.kinds is None or others.kinds is None else torch.cat([on_fake.kinds, others.kinds])
    return CriticOutputs(outputs, kinds, rows, GENERATED)


def two_passes(critic: nn.Module, views: Sequence[View], rows: Sequence[RowSet], batch: GlobalBatch) -> CriticOutputs:
    """As three passes would have it, of which the first and the last are of the same images (`shared_pass`)."""
    fake, real, _ = views
    ratio: list[Tensor] = []
    shown = fake._replace(images=scaled(fake.images, ratio))
    both = run_critic(critic, (shown, real), rows[:2], batch, GENERATED)
    sizes = [len(part) for part in rows[:2]]
    on_fake, on_real = both.outputs.split(sizes)
    of_generator, of_critic = twice(on_fake, ratio)
    outputs = torch.cat([of_generator, on_real, of_critic])
    kinds = None if both.kinds is None else torch.cat([both.kinds, both.kinds[: sizes[0]]])
    return CriticOutputs(outputs, kinds, rows, GENERATED)
