"""The classic scheme: generator and critics in turn, each side with an optimizer of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipelines.components import Options, name_of
from service.losses.objectives import Objective
from service.tasks import Samples, View, mean_terms
from service.training.context import TrainingContext
from service.training.critics.looks import look, of_each
from service.training.critics.passes import (
    COMPARED,
    GENERATED,
    GENERATED_LATER,
    SHOWN_REAL,
    gather_scores,
    run_critic,
)
from service.training.critics.penalties import gradients_wanted, penalties, see_real
from service.training.health.divergence import Divergence
from service.training.schemes import Read, Scheme, Stepper


class MoreAtFirst(Options):
    """More critic steps while the critic is new: WGAN's author takes 100 in the first 25 steps and each 500th."""

    critic_steps: int = Field(100, ge=1)
    steps: int = Field(25, ge=0)
    every: int = Field(500, ge=1)

    def before(self, step: int) -> int:
        """How many of the steps before this one were special."""
        later = (step - 1) // self.every - (self.steps - 1) // self.every if step > self.steps else 0
        return min(step, self.steps) + max(later, 0)


class Alternating(Scheme):
    """Updates of the critics, and one of the generator, a step.

    ``generator_first`` is the "Normal GAN" of SelfGAN's notebooks: the critic then sees the same images.
    ``critic_first`` is the introductory guide's toy: the generator is then given latents of its own.
    ``simultaneous`` takes both gradients before either update, on the same images.
    """

    order: Literal["generator_first", "critic_first", "simultaneous"] = "generator_first"
    #: What the sum of the critic's two losses is multiplied by [default: what the objective's author does].
    critic_factor: float | None = Field(None, gt=0)
    #: Updates of the critics for each of the generator, each on a batch of its own; with critic_first.
    critic_steps: int = Field(1, ge=1)
    more_at_first: MoreAtFirst | None = None
    #: How many of the batch's samples the critics learn from [default: all].
    critic_batch: int | None = Field(None, ge=1)
    #: For so many steps the critics learn from real samples alone, and the generator does not learn; regularizers
    #: stay as they are.
    real_first_steps: int = Field(0, ge=0)

    def stepper(self, context: TrainingContext) -> AlternatingStepper:
        return AlternatingStepper(self, context)

    def check(self, objective: Objective, batch_size: int, shards: int) -> None:
        if self.order != "critic_first" and (self.critic_steps > 1 or self.more_at_first):
            raise ValueError("scheme.critic_steps: several need scheme.order=critic_first")
        count = self.critic_batch
        if count and (batch_size % count or count % shards or count < 2 * shards):
            raise ValueError(
                f"scheme.critic_batch: {count} must divide batch.size={batch_size}, and leave each of {shards} shards "
                "two samples at least, and as many"
            )
        if self.real_first_steps and (objective.relative or not objective.non_negative):
            raise ValueError(
                f"scheme.real_first_steps: objective {name_of(objective)} compares with fakes, or has no lower bound "
                "on real samples alone; set scheme.real_first_steps=0"
            )

    def batches(self, step: int) -> int:
        if self.more_at_first and self.more_at_first.before(step + 1) > self.more_at_first.before(step):
            return self.more_at_first.critic_steps
        return self.critic_steps

    def batches_before(self, step: int) -> int:
        if self.more_at_first is None:
            return step * self.critic_steps
        special = self.more_at_first.before(step)
        return (step - special) * self.critic_steps + special * self.more_at_first.critic_steps


class AlternatingStepper(Stepper):
    """Holds the two optimizers."""

    def __init__(self, scheme: Alternating, context: TrainingContext) -> None:
        self._scheme, self._context = scheme, context
        factor = scheme.critic_factor
        self._factor = context.objective.critic_factor if factor is None else factor
        self._generator_optimizer = context.optimizer_of(context.generator)
        self._critic_optimizer = context.optimizer_of(context.critics)
        self.optimizers = {"generator": self._generator_optimizer, "critic": self._critic_optimizer}
        task = context.task
        heads = (*task.fake_head_terms, *task.real_head_terms)
        self._generator_terms = ("generator", *context.term_names, *task.fake_head_terms)
        self._critic_terms = (
            "real", "fake", *(f"critic_{name}" for name in heads), *(["penalty"] if context.regularizers else []),
        )  # fmt: skip
        self.divergence = Divergence((*self._generator_terms, *self._critic_terms), context.batch.device)
        # Wrapped while the critics are frozen: the generator's update leaves their gradients alone.
        context.critics.requires_grad_(False)
        self._generator_loss = context.wrap(_GeneratorLoss(context))
        context.critics.requires_grad_(True)
        self._critic_loss = context.wrap(_CriticLoss(context, self._factor))

    def step(self, step: int, read: Read) -> dict[str, Tensor]:
        order, context = self._scheme.order, self._context
        if order == "critic_first":
            for number in range(self._scheme.batches(step)):
                real, draw = read(number), self._draw()
                with torch.no_grad():
                    views = context.make(context.generator, draw, real, with_terms=False).views
                critic = self._critic(step, real, draw, context.pools.through(views))
                self._update_critic(critic)
            with context.batch.passes(context.batch.own_rows, first=GENERATED_LATER):
                generator, views = self._generator(real, self._draw(), GENERATED_LATER)
            self._update_generator(step, generator)
        else:
            real, draw = read(0), self._draw()
            generator, views = self._generator(real, draw, GENERATED)
            shown = context.pools.through(views)
            if order == "generator_first":
                self._update_generator(step, generator)
            critic = self._critic(step, real, draw, shown)
            if order == "simultaneous":
                self._update_generator(step, generator)
            self._update_critic(critic)
        self.fakes = next(iter(views.values())).images
        names = [f"loss/{name}" for name in (*self._generator_terms, *self._critic_terms)]
        metrics = dict(zip(names, (*generator, *critic), strict=True))
        metrics["loss/critic"] = self._factor * (critic[0] + critic[1])
        return self.latest(metrics, context.due(step))

    def _draw(self) -> dict[str, Tensor]:
        return self._context.draw(self._scheme.latent_steps)

    def _generator(self, real: Samples, draw: Mapping[str, Tensor], first: int) -> tuple[Tensor, dict[str, View]]:
        """Take the generator's gradient; returns its losses, and what it has made."""
        critics = self._context.critics
        critics.requires_grad_(False)
        self._generator_optimizer.zero_grad(set_to_none=True)
        loss, losses, views = self._generator_loss(draw, real, first)
        loss.backward()
        critics.requires_grad_(True)
        return losses, {game: view.detached() for game, view in views.items()}

    def _update_generator(self, step: int, losses: Tensor) -> None:
        skip = self.divergence.watch(losses, self._context.batch.step)
        if step >= self._scheme.real_first_steps:
            self._context.accelerator.step(self._generator_optimizer, skip)

    def _critic(self, step: int, real: Samples, draw: Mapping[str, Tensor], views: Mapping[str, View]) -> Tensor:
        """Take the critics' gradient; returns their losses."""
        self._context.mend()
        self._critic_optimizer.zero_grad(set_to_none=True)
        due, real_alone = self._context.due(step), step < self._scheme.real_first_steps
        batch, count = self._context.batch, self._scheme.critic_batch
        if count is None:
            loss, losses = self._critic_loss(real, draw, views, due, real_alone)
        else:
            with batch.subsampled(batch.size // count) as kept:
                drawn = {name: values[kept] for name, values in draw.items()}
                shown = {game: view.part(kept) for game, view in views.items()}
                loss, losses = self._critic_loss(real.part(kept), drawn, shown, due, real_alone)
        loss.backward()
        found: Tensor = losses
        return found

    def _update_critic(self, losses: Tensor) -> None:
        skip = self.divergence.watch(losses, self._context.batch.step, first_term=len(self._generator_terms))
        self._context.accelerator.step(self._critic_optimizer, skip)


class _GeneratorLoss(nn.Module):
    """The generator's forward pass: noise and real samples -> its loss, and what it has made."""

    def __init__(self, context: TrainingContext) -> None:
        super().__init__()
        self.generator, self.critics, self.context = context.generator, context.critics, context

    def forward(
        self, draw: Mapping[str, Tensor], real: Samples, first: int
    ) -> tuple[Tensor, Tensor, Mapping[str, View]]:
        """Returns the loss; its context, adversarial first; what was generated, in pass `first`."""
        context, batch, task = self.context, self.context.batch, self.context.task
        made, own = context.make(self.generator, draw, real), [batch.own_rows]
        views = context.by_critic(made.views)
        on_fake = [run_critic(critic, [views[name]], own, batch, first) for name, critic in self.critics.items()]
        on_real = []
        if context.objective.relative:
            seen = context.by_critic(task.seen(real))
            on_real = [run_critic(critic, [seen[name]], own, batch, COMPARED) for name, critic in self.critics.items()]
        terms = list(made.terms.values())
        if task.heads:
            said = [task.head_terms(one.outputs[:, -task.heads :], None, draw, real) for one in on_fake]
            terms += mean_terms(said)
        whole, others = gather_scores([*on_fake, *on_real], task.heads, batch, terms)
        fakes = [one for (one,) in whole[: len(on_fake)]]
        reals = [one for (one,) in whole[len(on_fake) :]] or fakes
        losses = [context.objective.generator(*pair).mean() for pair in zip(fakes, reals, strict=True)]
        summands = torch.cat([torch.stack(losses).mean()[None], others.mean(1)])
        return summands.sum(), summands.detach(), made.views


class _CriticLoss(nn.Module):
    """The critics' forward pass: images -> their loss."""

    def __init__(self, context: TrainingContext, factor: float) -> None:
        super().__init__()
        self.critics, self.context, self.factor = context.critics, context, factor
        self.penalties, self.wanted = context.uncompiled(penalties), gradients_wanted(context.regularizers)
        self.look = context.uncompiled(of_each(look)) if self.wanted else of_each(look)

    def forward(
        self,
        real: Samples,
        draw: Mapping[str, Tensor],
        fakes: Mapping[str, View],
        due: list[bool],
        real_alone: bool,
    ) -> tuple[Tensor, Tensor]:
        """Returns the loss, and its context: on real, on fake, what heads say, penalties."""
        context, batch, task = self.context, self.context.batch, self.context.task
        seen, shown = context.by_critic(task.seen(real)), context.by_critic(fakes)
        rows = [batch.own_rows, batch.own_rows]
        views = {name: (seen[name], shown[name]) for name in self.critics}
        outputs = self.look(self.critics, views, ("real", "fake"), rows, batch, SHOWN_REAL, self.wanted, task.heads)
        terms: list[Tensor] = []
        if task.heads:
            said = []
            for output in outputs:
                on_real, on_fake = output.outputs[:, -task.heads :].chunk(2)
                said.append(task.head_terms(on_fake, on_real, draw, real))
            terms += mean_terms(said)
        if context.regularizers:
            terms += [self.penalties(context.regularizers, due, self.critics, shown, seen, outputs, task.heads, batch)]
        whole, others = gather_scores(outputs, task.heads, batch, terms)
        see_real(context.regularizers, context.objective, self.critics, [on_real for on_real, _ in whole])
        losses = [torch.stack(context.objective.critic(on_fake, on_real)).mean(1) for on_real, on_fake in whole]
        adversarial, besides = torch.stack(losses).mean(0), others.mean(1)
        if real_alone:
            loss = self.factor * adversarial[0] + besides[len(task.fake_head_terms) :].sum()
        else:
            loss = self.factor * adversarial.sum() + besides.sum()
        return loss, torch.cat([adversarial, besides]).detach()
