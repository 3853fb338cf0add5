"""The classic scheme: generator and critic in turn, each with an optimizer of its own."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from service.divergence import Divergence
from service.schemes import Parts, Scheme, Stepper

_TERMS = ("generator", "real", "fake")


class Alternating(Scheme):
    """One update of each network a step.

    ``generator_first`` is the "Normal GAN" of SelfGAN's notebooks: the critic then sees the same images.
    ``critic_first`` is the introductory guide's toy: the generator is then given latents of its own.
    """

    order: Literal["generator_first", "critic_first"] = "generator_first"
    #: What the sum of the critic's two losses is multiplied by (the notebooks: a half; the toy: 1).
    critic_factor: float = 0.5

    def stepper(self, parts: Parts) -> AlternatingStepper:
        return AlternatingStepper(self, parts)


class AlternatingStepper(Stepper):
    """Holds the two optimizers."""

    def __init__(self, scheme: Alternating, parts: Parts) -> None:
        self._scheme, self._parts = scheme, parts
        self._generator_optimizer = parts.adam(parts.generator)
        self._critic_optimizer = parts.adam(parts.critic)
        self.optimizers = {"generator": self._generator_optimizer, "critic": self._critic_optimizer}
        self.divergence = Divergence(_TERMS, parts.batch.device)
        # Wrapped while the critic is frozen: the generator's update leaves its gradients alone.
        parts.critic.requires_grad_(False)
        self._generator_loss = parts.accelerator.wrap(_GeneratorLoss(parts))
        parts.critic.requires_grad_(True)
        self._critic_loss = parts.accelerator.wrap(_CriticLoss(parts))

    def step(self, real: Tensor) -> dict[str, Tensor]:
        batch, parts = self._parts.batch, self._parts
        if self._scheme.order == "generator_first":
            generator_loss, fake = self._update_generator(first_pass=0)
            critic_losses = self._update_critic(real, fake)
        else:
            with torch.no_grad():
                fake = parts.generator(parts.task.inputs(parts.network, batch))
            critic_losses = self._update_critic(real, fake)
            generator_loss, fake = self._update_generator(first_pass=3)
        self.fakes = fake
        real_loss, fake_loss = critic_losses
        return {
            "loss/generator": generator_loss,
            "loss/real": real_loss,
            "loss/fake": fake_loss,
            "loss/critic": self._scheme.critic_factor * (real_loss + fake_loss),
        }

    def _update_generator(self, first_pass: int) -> tuple[Tensor, Tensor]:
        parts, batch = self._parts, self._parts.batch
        parts.critic.requires_grad_(False)
        self._generator_optimizer.zero_grad(set_to_none=True)
        with batch.passes(batch.own_rows, first=first_pass):
            loss, fake = self._generator_loss(parts.task.inputs(parts.network, batch))
        loss.backward()
        parts.critic.requires_grad_(True)
        loss = loss.detach()
        parts.accelerator.step(self._generator_optimizer, self.divergence.watch(loss[None], batch.step))
        return loss, fake.detach()

    def _update_critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Passes 1 and 2 of the step are the critic's; returns its losses on real and fake, (2,)."""
        parts, batch = self._parts, self._parts.batch
        self._critic_optimizer.zero_grad(set_to_none=True)
        with batch.passes(batch.own_rows, batch.own_rows, first=1):
            losses: Tensor = self._critic_loss(real, fake)
        (self._scheme.critic_factor * losses.sum()).backward()
        losses = losses.detach()
        skip = self.divergence.watch(losses, batch.step, first_term=1)
        parts.accelerator.step(self._critic_optimizer, skip)
        return losses


class _GeneratorLoss(nn.Module):
    """The generator's forward pass: latents -> its batch-global loss, and the images."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.generator, self.critic = parts.generator, parts.critic
        self.objective, self.batch = parts.objective, parts.batch

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        fake = self.generator(latents)
        losses = self.objective.generator(self.critic(fake))
        return self.batch.group_means(losses[:, None]).mean(), fake


class _CriticLoss(nn.Module):
    """The critic's forward pass: images -> its batch-global losses on real and on fake, (2,)."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.critic, self.objective, self.batch = parts.critic, parts.objective, parts.batch

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        on_real, on_fake = self.critic(torch.cat([real, fake])).split([len(real), len(fake)])
        losses = torch.cat([self.objective.real(on_real), self.objective.fake(on_fake)])
        return self.batch.group_means(losses[:, None]).view(2, -1).mean(1)
