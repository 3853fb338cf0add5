"""What a scheme trains, and with what: the parts of a recipe, built and put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from service.losses.objectives import Objective
from service.losses.regularizers import Regularizer
from service.losses.terms import Distance
from service.models.networks import ImageShape, Network
from service.replicas.accelerators import Accelerator
from service.replicas.global_batch import GlobalBatch
from service.replicas.microbatches import by_microbatch
from service.tasks import Made, Samples, Task
from service.training.compiling import Compile, compiled, outside_graphs
from service.training.critics.critic_set import CriticRole
from service.training.critics.image_pool import Pools
from service.training.optimizers import Optimizer

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingContext:
    """What a scheme trains, and with what. Networks follow the batch and are on its device.

    Attributes:
        compile: how the passes of a step are compiled, if they are (`service.training.compiling`).
        exact: whether gradients are sums over all replicas as they come (`service.replicas.exact`).
        roles: of the critics, by name: which game each judges.
        terms: of what is made, and of its target, beside the task's: (N,) by name.
    """

    network: Network
    task: Task
    objective: Objective
    regularizers: tuple[Regularizer, ...]
    optimizer: Optimizer
    image: ImageShape
    generator: nn.Module
    critics: nn.ModuleDict
    roles: Mapping[str, CriticRole]
    terms: Mapping[str, Distance]
    batch: GlobalBatch
    pools: Pools
    accelerator: Accelerator
    compile: Compile | None = None
    exact: bool = False

    def optimizer_of(self, *modules: nn.Module) -> torch.optim.Optimizer:
        """One optimizer over all parameters of the modules; critics may have a learning rate of their own."""
        options, rate = self.optimizer, self.optimizer.first_rate
        rates = {True: options.critic_learning_rate or rate, False: rate}
        groups = [
            {"params": list(module.parameters()), "lr": rate, "initial_lr": rate}
            for module, rate in ((module, rates[module is self.critics]) for module in modules)
        ]
        return options.build(groups, self.accelerator.fused)

    def wrap(self, loss: nn.Module) -> nn.Module:
        """`loss`, compiled if that is wanted, with its gradients reduced over the replicas, if they are not anyhow."""
        if self.compile:
            loss = compiled(loss, self.compile, whole=not self._penalised)
        if self.exact:
            return loss
        return self.accelerator.wrap(loss, some_unused=self.network.last_stage(self.image) > 0)

    def uncompiled(self, penalties: Callable[..., Any]) -> Callable[..., Any]:
        """What computes penalties, as it may be called in a compiled loss."""
        return outside_graphs(penalties) if self.compile and self._penalised else penalties

    @property
    def _penalised(self) -> bool:
        return any(regularizer.penalises for regularizer in self.regularizers)

    def draw(self, latent_steps: int) -> dict[str, Tensor]:
        """Noise for the batch, which so many steps in a row share."""
        with self.batch.drawing_every(latent_steps):
            return self.task.draw(self.network, self.batch)

    @property
    def term_names(self) -> tuple[str, ...]:
        """Of all losses of what is made, beside the adversarial ones."""
        return (*self.task.terms, *self.terms)

    def make(self, generator: nn.Module, draw: Mapping[str, Tensor], real: Samples, with_terms: bool = True) -> Made:
        """What the generator makes, with the task's terms of it and, if they are wanted, the recipe's."""
        return by_microbatch(lambda rows: self._make(generator, *rows, with_terms), (draw, real), self.batch, generator)

    def _make(self, generator: nn.Module, draw: Mapping[str, Tensor], real: Samples, with_terms: bool) -> Made:
        made = self.task.make(generator, draw, real)
        if not (self.terms and with_terms):
            return made
        targets = self.task.seen(real) if self.task.needs_pairs else {}
        terms = dict(made.terms)
        for name, distance in self.terms.items():
            found = [
                distance(view.images, targets[game].images if targets else None) for game, view in made.views.items()
            ]
            terms[name] = torch.stack(found).mean(0)
        return Made(made.views, terms)

    def by_critic(self, of_games: Mapping[str, T]) -> dict[str, T]:
        """What each critic is to have of its game, by the critic's name."""
        return {name: of_games[role.game] for name, role in self.roles.items()}

    def due(self, step: int) -> list[bool]:
        """Of each regularizer, whether it has a penalty at this step."""
        return [regularizer.due(step) for regularizer in self.regularizers]

    def mend(self) -> None:
        """Let regularizers change the critics' weights before an update."""
        for regularizer in self.regularizers:
            regularizer.mend(self.critics)
