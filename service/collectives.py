"""Reductions over all replicas: the only arithmetic that knows there are several.

The convention that makes gradients exact: every replica computes the same loss L of the global batch, and
starts its backward pass from it. `sum_over_replicas` is its own adjoint, so that pass gives replica r the
gradient of W*L through r's rows, W replicas in all; DistributedDataParallel's mean over replicas then
gives the gradient of L, however unevenly the rows are shared out.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Collective(Protocol):
    """What a batch statistic needs of the replicas."""

    world_size: int

    def sum_over_replicas(self, value: Tensor) -> Tensor:
        """The sum of every replica's `value`, on every replica; differentiable, any number of times."""
        ...


class OneReplica:
    """The whole batch is here (or the compiler shards it, as XLA's SPMD does)."""

    world_size = 1

    def sum_over_replicas(self, value: Tensor) -> Tensor:
        return value


class ProcessGroup:
    """The replicas of torch.distributed's default group, one process each."""

    def __init__(self) -> None:
        self.world_size = dist.get_world_size()

    def sum_over_replicas(self, value: Tensor) -> Tensor:
        summed: Tensor = _AllReduceSum.apply(value)  # type: ignore[no-untyped-call]
        return summed


class _AllReduceSum(torch.autograd.Function):
    """All-reduce as a linear map: symmetric, so its backward is itself, to any order."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        back: Tensor = _AllReduceSum.apply(gradient)  # type: ignore[no-untyped-call]
        return back
