"""Accelerators: a replica's device, and what differs between kinds of hardware, one kind a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from service.replicas.collectives import Collective


class AcceleratorError(RuntimeError):
    """The hardware is not what a replica was promised. Another attempt would find the same."""


class Pending(Protocol):
    """Values on their way from the device to the host."""

    def get(self) -> dict[str, float]:
        """The values; waits for the device if it must."""
        ...


class Accelerator(Protocol):
    """One replica's hardware. Nothing here waits for the device unless it says so."""

    device: torch.device
    #: Of the process, among `world_size`; 0 is the one that reports.
    rank: int
    world_size: int
    #: Whose lanes this process reads.
    reads_as: int
    collective: Collective
    #: Whether optimizers that update all parameters in one kernel are there.
    fused: bool
    #: Whether what one process asks of its device, all must ask: none can then make images by itself.
    in_step: bool
    #: Whether a compiler makes one program of a step.
    compiles: bool

    def wrap(self, loss: nn.Module, some_unused: bool = False) -> nn.Module:
        """`loss`, whose parameters' gradients will be averaged over the replicas.

        Args:
            some_unused: whether there are steps in which some parameters take no part.
        """
        ...

    def step(self, optimizer: torch.optim.Optimizer, skip: Tensor) -> None:
        """Update, unless `skip`, a 0-dimensional float32 on the device, is 1."""
        ...

    def finish(self) -> None:
        """Let the device begin with all that it has been asked for; a compiler sees what lies between two calls."""
        ...

    def rows(self, first: int, count: int, size: int, most: int) -> Tensor:
        """The numbers of the rows that it holds of a batch of `size`, of which this process has read `count`.

        Args:
            first: the first row that was read.
            most: no process reads more rows of any batch.
        """
        ...

    def to_device(self, read: Tensor) -> Tensor:
        """What was read of each of the batch's rows, (N, ...), where `rows`, asked before, says that they are."""
        ...

    def fetch(self, values: Mapping[str, Tensor]) -> Pending:
        """Start to copy 0-dimensional tensors to the host."""
        ...
