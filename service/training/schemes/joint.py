"""The joint scheme: generator and critics in one backward pass and one optimizer (Wu, SelfGAN).

The generator's term reaches the critic too, and the fake term is over the images of the *previous* step,
zeros at first: both are what the author's notebooks do; the paper states neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, SerializeAsAny
from torch import Tensor, nn

from pipelines.components import name_of, resolve
from service.losses.balances import TERMS, Balance
from service.losses.balances.loss import LossBalance
from service.losses.objectives import Objective, Scores
from service.models.layer_kinds import layers_that_look_at_the_batch
from service.replicas.row_sets import RowSet
from service.tasks import Samples, View, mean_terms
from service.training.context import TrainingContext
from service.training.critics.joint_passes import LOOKS
from service.training.critics.looks import of_each
from service.training.critics.passes import CriticOutputs, gather_scores
from service.training.critics.penalties import gradients_wanted, penalties, see_real
from service.training.health.divergence import Divergence
from service.training.scaled_updates import scaled_updates
from service.training.schemes import Read, Scheme, Stepper


class Joint(Scheme):
    """One step for all networks, its terms weighted by a balance."""

    balance: Annotated[
        SerializeAsAny[Balance],
        BeforeValidator(lambda value: resolve("service.losses.balances", value, Balance, "loss")),
    ] = LossBalance()
    #: Whether the generator term's gradient reaches the critic (the author's code: yes).
    generator_trains_critic: bool = True
    #: Whose images the fake term is over: the step's before (the author's code), or its own.
    fakes: Literal["previous", "current"] = "previous"
    #: How often the critic looks a step: at generated images once for each network, or once for both, which is
    #: the same gradient with less work (`service.training.critics.shared_pass`). Spectral norm then iterates once a
    #: step, not twice.
    passes: Literal["three", "two"] = "three"

    def stepper(self, context: TrainingContext) -> JointStepper:
        return JointStepper(self, context)

    def check(self, objective: Objective, batch_size: int, shards: int) -> None:
        self.balance.check(objective)
        if self.passes == "three":
            return
        if self.generator_trains_critic or self.fakes == "previous":
            raise ValueError(
                "scheme.passes two: one look serves both networks if both look at the same images and the generator's "
                "term does not train the critic; set scheme.fakes=current scheme.generator_trains_critic=false"
            )
        if not objective.slopes_on_fakes:
            raise ValueError(
                f"scheme.passes two: objective {name_of(objective)} gives the critic no gradient where it is sure; "
                "set scheme.passes=three"
            )

    def check_critic(self, critic: nn.Module, outputs: int) -> None:
        if self.passes == "two" and (outputs > 1 or layers_that_look_at_the_batch(critic)):
            raise ValueError(
                "scheme.passes two: the critic must give each image one number, and not look at the batch; set "
                "scheme.passes=three, or network.critic_batch_norm=false where that is what does"
            )


class JointStepper(Stepper):
    """Holds the one optimizer, and the rows of the previous step's images."""

    def __init__(self, scheme: Joint, context: TrainingContext) -> None:
        self._scheme, self._context = scheme, context
        self._loss = context.wrap(_JointLoss(scheme, context))
        self._optimizer = context.optimizer_of(context.generator, context.critics)
        self.optimizers = {"joint": self._optimizer}
        self.divergence = Divergence((*TERMS, *_others(context)), context.batch.device)
        self._rows: RowSet | None = None
        self._previous: dict[str, View] = {}

    def step(self, step: int, read: Read) -> dict[str, Tensor]:
        context, batch = self._context, self._context.batch
        real = read(0)
        if self._rows is None:
            self._previous = {game: _blank(view) for game, view in context.task.seen(real).items()}
            self._rows = batch.own_rows
        context.mend()
        draw, due = context.draw(self._scheme.latent_steps), context.due(step)
        self._optimizer.zero_grad(set_to_none=True)
        loss, made, losses, weights, others = self._loss(draw, real, self._previous, self._rows, due)
        loss.backward()
        means = losses.detach().mean((0, 2))
        skip = self.divergence.watch(torch.cat([means, others.mean(1)]) if len(others) else means, batch.step)
        with scaled_updates(self._optimizer, self._scheme.balance.of_updates(weights), skip):
            context.accelerator.step(self._optimizer, skip)
        self._previous, self._rows = context.pools.through(made), batch.own_rows
        self.fakes = next(iter(made.values())).images.detach()
        metrics = {"loss/joint": loss.detach()}
        metrics |= {f"loss/{term}": mean for term, mean in zip(TERMS, means, strict=True)}
        metrics |= {f"loss/{name}": other.mean() for name, other in zip(_others(context), others, strict=True)}
        metrics |= {f"weight/{term}": weight for term, weight in zip(TERMS, weights.mean((0, 2)), strict=True)}
        return self.latest(metrics, due)

    def row_state(self) -> dict[str, tuple[RowSet, Tensor]]:
        rows = self._rows
        return {
            f"previous.{game}.{name}": (rows, value)
            for game, view in self._previous.items()
            for name, value in view._asdict().items()
            if rows is not None and value is not None
        }

    def restore_row_state(self, state: Mapping[str, Tensor]) -> None:
        super().restore_row_state(state)
        rows = self._context.batch.own_rows
        found: dict[str, dict[str, Tensor]] = {game: {} for game in self._context.task.games}
        for key, value in state.items():
            _, game, name = key.split(".")
            found[game][name] = value[rows.numbers]
        self._previous = {game: View(**values) for game, values in found.items()}
        self._rows = rows
        self.fakes = next(iter(self._previous.values())).images


def _others(context: TrainingContext) -> tuple[str, ...]:
    """The names of losses beside the adversarial ones."""
    task = context.task
    penalty = ["penalty"] if context.regularizers else []
    return (*context.term_names, *task.fake_head_terms, *task.real_head_terms, *penalty)


def _blank(view: View) -> View:
    given = None if view.given is None else torch.zeros_like(view.given)
    return view._replace(images=torch.zeros_like(view.images, memory_format=torch.contiguous_format), given=given)


class _JointLoss(nn.Module):
    """The forward pass, as one module, so that one wrapper sees all the gradients."""

    def __init__(self, scheme: Joint, context: TrainingContext) -> None:
        super().__init__()
        self.generator, self.critics = context.generator, context.critics
        self.scheme, self.context = scheme, context
        self.penalties = context.uncompiled(penalties)
        look = of_each(LOOKS["together" if scheme.generator_trains_critic else scheme.passes])
        same = scheme.fakes == "current" and not scheme.generator_trains_critic
        self.wanted = gradients_wanted(context.regularizers) if same else frozenset()
        self.look = context.uncompiled(look) if self.wanted else look

    def forward(
        self,
        draw: Mapping[str, Tensor],
        real: Samples,
        previous: Mapping[str, View],
        previous_rows: RowSet,
        due: list[bool],
    ) -> tuple[Tensor, Mapping[str, View], Tensor, Tensor, Tensor]:
        """Returns the loss; what was generated; losses and weights, (games, 3, shards); other losses, (K, shards)."""
        context, batch, task = self.context, self.context.batch, self.context.task
        made, seen = context.make(self.generator, draw, real), context.by_critic(task.seen(real))
        fakes = context.by_critic(made.views)
        detached = {name: view.detached() for name, view in fakes.items()}
        current = self.scheme.fakes == "current"
        shown = detached if current else context.by_critic(previous)
        rows = batch.own_rows, batch.own_rows, batch.own_rows if current else previous_rows
        views = {name: (fakes[name], seen[name], shown[name]) for name in self.critics}
        outputs = self.look(self.critics, views, rows, batch, self.wanted, task.heads)
        terms = [*made.terms.values(), *self._head_terms(outputs, draw, real)]
        if context.regularizers:
            terms += [
                self.penalties(context.regularizers, due, self.critics, detached, seen, outputs, task.heads, batch)
            ]
        whole, others = gather_scores(outputs, task.heads, batch, terms)
        see_real(context.regularizers, context.objective, self.critics, [on_real for _, on_real, _ in whole])
        losses, weights = (torch.stack(found) for found in zip(*map(self._weighted, whole), strict=True))
        # Shards are summed, not averaged: the author's TPU-like loop accumulates one backward pass a shard.
        loss = (self.scheme.balance.of_losses(weights) * losses).sum((1, 2)).mean()
        if len(others):
            loss = loss + others.sum()
        return loss, made.views, losses, weights.detach(), others.detach()

    def _weighted(self, scores: list[Scores]) -> tuple[Tensor, Tensor]:
        """(3, shards) losses of one game, in the order of TERMS, and their weights."""
        fake, real, previous = scores
        objective, balance = self.context.objective, self.scheme.balance
        compared = real if self.scheme.generator_trains_critic else real._replace(logits=real.logits.detach())
        losses = torch.stack([objective.generator(fake, compared), *objective.critic(previous, real)])
        return losses, balance.weights(losses, lambda: _validities(objective, scores))

    def _head_terms(self, outputs: list[CriticOutputs], draw: Mapping[str, Tensor], real: Samples) -> list[Tensor]:
        heads = self.context.task.heads
        if not heads:
            return []
        said = []
        for output in outputs:
            on_fake, on_real, _ = output.outputs[:, -heads:].split([len(part) for part in output.rows])
            said.append(self.context.task.head_terms(on_fake, on_real, draw, real))
        return mean_terms(said)


def _validities(objective: Objective, scores: list[Scores]) -> Tensor:
    """(3, shards), the batch means of how real the critic holds generated, real and previous images."""
    found = [objective.validity(one.logits) for one in scores]
    return torch.stack([validity.mean((1, 2)) for validity in found if validity is not None])
