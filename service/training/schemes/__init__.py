"""Schemes: how losses become updates, one scheme a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from pipelines.components import Component
from service.losses.objectives import Objective
from service.replicas.row_sets import RowSet
from service.tasks import Samples
from service.training.context import TrainingContext
from service.training.health.divergence import Divergence

#: Number -> this replica's rows of that batch of real samples, opened as the part of the step it is read for.
Read = Callable[[int], Samples]


class Stepper(ABC):
    """A scheme at work: it updates the networks, one step a call, and owns what continues.

    Attributes:
        optimizers: by name; their state is part of a checkpoint, as the networks' is.
        fakes: the images of this replica's rows that the last step generated, (N, C, H, W).
        divergence: sees every step's losses, and holds back the update of a step that has a non-finite one.
    """

    optimizers: Mapping[str, torch.optim.Optimizer]
    divergence: Divergence
    fakes: Tensor
    _context: TrainingContext
    _penalty: Tensor | None = None

    @abstractmethod
    def step(self, step: int, read: Read) -> dict[str, Tensor]:
        """Train once; the batches read are 0 up to the scheme's `batches(step)`.

        Returns:
            Batch-global losses and weights by name, each a 0-dimensional tensor on the device.
        """

    def latest(self, metrics: dict[str, Tensor], due: list[bool]) -> dict[str, Tensor]:
        """`metrics` and regularizers' own, with the penalty of the last step that had one, if there was one."""
        for regularizer in self._context.regularizers:
            metrics |= regularizer.metrics(self._context.critics)
        if "loss/penalty" in metrics and any(due):
            self._penalty = metrics["loss/penalty"]
        elif metrics.pop("loss/penalty", None) is not None and self._penalty is not None:
            metrics["loss/penalty"] = self._penalty
        return metrics

    def row_state(self) -> dict[str, tuple[RowSet, Tensor]]:
        """State that is kept per row of the global batch: (rows, values) by name."""
        return {}

    def restore_row_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the batch's present rows of whole-batch values, as `GlobalBatch.gather` made them."""
        self._penalty = None  # That of a step of another run.


class Scheme(Component):
    """How terms become updates; its fields are the scheme's options."""

    #: How many steps in a row draw the same latents, each with real samples of its own.
    latent_steps: int = Field(1, ge=1)

    @abstractmethod
    def stepper(self, context: TrainingContext) -> Stepper:
        """The scheme, at work on these context."""

    def check(self, objective: Objective, batch_size: int, shards: int) -> None:
        """Raise ValueError, with the reason, if the objective, or the batch, cannot be trained so."""

    def check_critic(self, critic: nn.Module, outputs: int) -> None:
        """Raise ValueError, with the reason, if a critic with so many outputs cannot be trained so."""

    def batches(self, step: int) -> int:
        """How many batches of real samples a step reads."""
        return 1

    def batches_before(self, step: int) -> int:
        """How many the steps before it read, all together."""
        return step
