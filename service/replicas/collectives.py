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
    #: Whether all rows lie in the memory of one device, where torch's own kernels see every one of them.
    in_one_place: bool

    def sum_over_replicas(self, value: Tensor, same_gradient: bool = False) -> Tensor:
        """The sum of every replica's `value`, on every replica; differentiable, any number of times.

        If all replicas have the `same_gradient` by it, as each computes the same loss of it, their sum is a multiple.
        """
        ...


class OneReplica:
    """The whole batch is here.

    Args:
        in_one_place: no, if a compiler lays what looks like one tensor out over many devices, as XLA's SPMD does:
            sums are then the compiler's to reduce.
    """

    world_size = 1

    def __init__(self, in_one_place: bool = True) -> None:
        self.in_one_place = in_one_place

    def sum_over_replicas(self, value: Tensor, same_gradient: bool = False) -> Tensor:
        return value


class ProcessGroup:
    """The replicas of torch.distributed's default group, one process each.

    Args:
        through_host: whether the group knows no tensors of the device, and is given copies on the host.
    """

    in_one_place = False

    def __init__(self, through_host: bool = False) -> None:
        self.world_size = dist.get_world_size()
        self._through_host = through_host

    def sum_over_replicas(self, value: Tensor, same_gradient: bool = False) -> Tensor:
        summed: Tensor = _AllReduceSum.apply(value, self._through_host, same_gradient)  # type: ignore[no-untyped-call]
        return summed


class _AllReduceSum(torch.autograd.Function):
    """All-reduce as a linear map: symmetric, so its backward is itself, to any order."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, through_host: bool, same_gradient: bool) -> Tensor:
        ctx.through_host, ctx.same_gradient = through_host, same_gradient
        summed = value.detach().cpu() if through_host else value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed.to(value.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if ctx.same_gradient:
            return gradient * dist.get_world_size(), None, None
        back: Tensor = _AllReduceSum.apply(gradient, ctx.through_host, False)  # type: ignore[no-untyped-call]
        return back, None, None
