"""Optimizers: torch's, with the defaults of GAN papers, one a file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from pipelines.components import Component, Options

#: How an optimizer computes its update on the hardware at hand, which torch keeps among its options.
_IMPLEMENTATION = ("fused", "foreach", "capturable")


class Decay(Options):
    """The learning rate stays until step `start`, and falls to 0 in a straight line over as many `steps`."""

    start: int = Field(ge=0)
    steps: int = Field(ge=1)

    def share(self, step: int) -> float:
        """What is left of the rate at `step`."""
        return max(0.0, 1.0 - max(0, step - self.start) / self.steps)


class Optimizer(Component):
    """Options of an optimizer; critics may have a learning rate of their own."""

    learning_rate: float = Field(2e-4, gt=0)
    critic_learning_rate: float | None = Field(None, gt=0, description="[default: learning_rate]")
    decay: Decay | None = None

    @abstractmethod
    def build(self, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
        """A new optimizer of groups of parameters, each with its ``lr``; fused, if that exists."""

    def schedule(self, built: torch.optim.Optimizer, step: int) -> None:
        """Give every group of a built optimizer its rate at `step`, a function of that alone."""
        if self.decay is not None:
            for group in built.param_groups:
                group["lr"] = group["initial_lr"] * self.decay.share(step)


def state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of what continues of an optimizer, on the host, whatever hardware it has run on."""
    whole = optimizer.state_dict()
    values = {
        number: {
            name: value.to("cpu", copy=True) if isinstance(value, Tensor) else value for name, value in of_one.items()
        }
        for number, of_one in whole["state"].items()
    }
    groups = [
        {key: value for key, value in group.items() if key not in _IMPLEMENTATION} for group in whole["param_groups"]
    ]
    return {"state": values, "param_groups": groups}


def restore(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Go on from `state`, computed as this optimizer computes, and not the one that the state is of."""
    groups = [
        {**saved, **{key: own[key] for key in _IMPLEMENTATION if key in own}}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
