"""Schemes: how the terms become updates, one scheme a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from service.accelerators import Accelerator
from service.batch import GlobalBatch
from service.components import Component
from service.divergence import Divergence
from service.networks import ImageShape, Network
from service.objectives import Objective
from service.tasks import Task

Share = Annotated[float, Field(ge=0, lt=1)]


class Adam(BaseModel):
    """Adam's options; the defaults are SelfGAN's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(2e-4, gt=0)
    betas: tuple[Share, Share] = (0.5, 0.999)
    eps: float = Field(1e-8, gt=0)


@dataclass(frozen=True)
class Parts:
    """What a scheme trains, and with what. Generator and critic follow the batch and are on its device."""

    network: Network
    task: Task
    objective: Objective
    optimizer: Adam
    image: ImageShape
    generator: nn.Module
    critic: nn.Module
    batch: GlobalBatch
    accelerator: Accelerator

    def adam(self, *modules: nn.Module) -> torch.optim.Optimizer:
        """One optimizer over all parameters of the modules."""
        parameters = [parameter for module in modules for parameter in module.parameters()]
        options = self.optimizer
        return self.accelerator.adam(parameters, options.learning_rate, options.betas, options.eps)


class Stepper(ABC):
    """A scheme at work: it updates the networks, one global batch a call, and owns what continues.

    Attributes:
        optimizers: by name; their state is part of a checkpoint, as the networks' is.
        fakes: the images of this replica's rows that the last step generated, (N, C, H, W).
        divergence: sees every step's losses, and holds back the update of a step that has a non-finite one.
    """

    optimizers: Mapping[str, torch.optim.Optimizer]
    divergence: Divergence
    fakes: Tensor

    @abstractmethod
    def step(self, real: Tensor) -> dict[str, Tensor]:
        """Train on this replica's rows, (N, C, H, W), of the batch's present step.

        Returns:
            Batch-global losses and weights by name, each a 0-dimensional tensor on the device.
        """

    def row_state(self) -> dict[str, tuple[Tensor, Tensor]]:
        """State that is kept per row of the global batch: (rows, values) by name."""
        return {}

    def restore_row_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the batch's present rows of whole-batch values, as `GlobalBatch.gather` made them."""


class Scheme(Component):
    """How terms become updates; its fields are the scheme's options."""

    @abstractmethod
    def stepper(self, parts: Parts) -> Stepper:
        """The scheme, at work on these parts."""
