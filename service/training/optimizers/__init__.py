"""Optimizers: torch's, with the defaults of GAN papers, one a file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from pipelines.components import Component, Options
from service.losses.schedules import Cosine, Scheduled, first, within

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

    learning_rate: Annotated[Scheduled, within(gt=0, ends={"ge": 0})] = 2e-4
    critic_learning_rate: float | None = Field(None, gt=0, description="[default: learning_rate]; falls as that does")
    decay: Decay | None = None

    @property
    def first_rate(self) -> float:
        """The learning rate at the first step."""
        return first(self.learning_rate)

    @abstractmethod
    def build(self, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
        """A new optimizer of groups of parameters, each with its ``lr``; fused, if that exists."""

    def schedule(self, built: torch.optim.Optimizer, step: int, batch_size: int) -> None:
        """Give every group of a built optimizer its options at `step`, which depend on that alone."""
        if self.decay is None and not isinstance(self.learning_rate, Cosine):
            return
        share = 1.0 if self.decay is None else self.decay.share(step)
        if isinstance(self.learning_rate, Cosine):
            share *= self.learning_rate.at(step, batch_size) / self.learning_rate.base
        for group in built.param_groups:
            group["lr"] = group["initial_lr"] * share


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
