"""The joint scheme: generator and critic in one backward pass and one optimizer (Wu, SelfGAN).

The generator's term reaches the critic too, and the fake term is over the images of the *previous* step,
zeros at first: both are what the author's notebooks do; the paper states neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import BeforeValidator, SerializeAsAny
from torch import Tensor, nn
from torch.func import functional_call

from service.balances import TERMS, Balance
from service.balances.loss import LossBalance
from service.components import resolve
from service.divergence import Divergence
from service.schemes import Parts, Scheme, Stepper


class Joint(Scheme):
    """One step for both networks, its terms weighted by a balance."""

    balance: Annotated[
        SerializeAsAny[Balance], BeforeValidator(lambda value: resolve("service.balances", value, Balance))
    ] = LossBalance()
    #: Whether the generator term's gradient reaches the critic (the author's code: yes).
    generator_trains_critic: bool = True

    def stepper(self, parts: Parts) -> JointStepper:
        return JointStepper(self, parts)


class JointStepper(Stepper):
    """Holds the one optimizer, and the rows of the previous step's images."""

    def __init__(self, scheme: Joint, parts: Parts) -> None:
        self._parts = parts
        self._loss = parts.accelerator.wrap(_JointLoss(scheme, parts))
        self._optimizer = parts.adam(parts.generator, parts.critic)
        self.optimizers = {"joint": self._optimizer}
        self.divergence = Divergence(TERMS, parts.batch.device)
        self._rows: Tensor | None = None

    def step(self, real: Tensor) -> dict[str, Tensor]:
        batch = self._parts.batch
        if self._rows is None:
            self.fakes, self._rows = torch.zeros_like(real), batch.own_rows
        latents = self._parts.task.inputs(self._parts.network, batch)
        self._optimizer.zero_grad(set_to_none=True)
        loss, fake, losses, weights = self._loss(latents, real, self.fakes, self._rows)
        loss.backward()
        skip = self.divergence.watch(losses, batch.step)
        self._parts.accelerator.step(self._optimizer, skip)
        self.fakes, self._rows = fake.detach(), batch.own_rows
        metrics = {"loss/joint": loss.detach()}
        for term, term_losses, term_weights in zip(TERMS, losses, weights, strict=True):
            metrics[f"loss/{term}"] = term_losses.mean()
            metrics[f"weight/{term}"] = term_weights.mean()
        return metrics

    def row_state(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {} if self._rows is None else {"previous_fakes": (self._rows, self.fakes)}

    def restore_row_state(self, state: Mapping[str, Tensor]) -> None:
        self._rows = self._parts.batch.own_rows
        self.fakes = state["previous_fakes"][self._rows]


class _JointLoss(nn.Module):
    """The forward pass, as one module, so that one wrapper sees all the gradients."""

    def __init__(self, scheme: Joint, parts: Parts) -> None:
        super().__init__()
        self.generator, self.critic = parts.generator, parts.critic
        self.scheme, self.objective, self.batch = scheme, parts.objective, parts.batch

    def forward(
        self, latents: Tensor, real: Tensor, previous: Tensor, previous_rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the loss, the generated images, and losses and weights, (3, shards), ordered as TERMS."""
        batch, objective = self.batch, self.objective
        fake = self.generator(latents)
        rows = (batch.own_rows, batch.own_rows, previous_rows)
        logits = self._logits((fake, real, previous), rows)
        on_fake, on_real, on_previous = logits.split([len(part) for part in rows])
        terms = [objective.generator(on_fake), objective.real(on_real), objective.fake(on_previous)]
        values = torch.stack([torch.cat(terms), objective.validity(logits)], 1)
        with batch.passes(*rows):
            losses, validities = batch.group_means(values).T.reshape(2, len(TERMS), batch.shards)
        weights = self.scheme.balance.weights(losses, validities)
        # Shards are summed, not averaged: the author's TPU-like loop accumulates one backward pass a shard.
        return (weights * losses).sum(), fake, losses.detach(), weights.detach()

    def _logits(self, images: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> Tensor:
        """The critic's three passes, as one call: batch norm keeps their statistics apart by group."""
        if self.scheme.generator_trains_critic:
            with self.batch.passes(*rows):
                logits: Tensor = self.critic(torch.cat(images))
            return logits
        frozen = {name: parameter.detach() for name, parameter in self.critic.named_parameters()}
        with self.batch.passes(rows[0]):
            on_fake = functional_call(self.critic, frozen, (images[0],))
        with self.batch.passes(*rows[1:], first=1):
            others = self.critic(torch.cat(images[1:]))
        return torch.cat([on_fake, others])
