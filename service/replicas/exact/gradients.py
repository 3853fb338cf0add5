"""Gradients of weights, summed over cells in the tree's order.

A weight is given to a product once for each cell; so autograd adds up, cell by cell, what all of its uses say. From
there on a sum takes the way of a ring: each replica sends every other one its share of the values, as nodes of the
tree over cells, adds up what it is sent in the tree's order, and all send each other the sums.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable

from service.replicas.collectives import Collective
from service.replicas.exact.collectives import Exchange
from service.replicas.exact.tree import node_sums, nodes_of, owned_cells, root, tree_sum

#: Values that are sent at once; as many bytes as DistributedDataParallel's buckets have.
_BUCKET = 25 * 2**20 // 4


class WeightGradients:
    """The gradients of a backward pass.

    Args:
        collective: of the replicas.
        cells: of the global batch; this replica has those of its rank.
    """

    def __init__(self, collective: Collective, cells: int, rank: int) -> None:
        self._collective, self._cells = collective, cells
        self._owned = [owned_cells(one, collective.world_size, cells) for one in range(collective.world_size)]
        self._own = self._owned[rank]
        self._given: dict[int, tuple[Tensor, Tensor]] = {}
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._sent: list[tuple[list[Tensor], Exchange]] = []
        self._will_finish = False

    def one_for_each_cell(self, weight: Tensor) -> Tensor:
        """(cells, ...): the weight, so many times; what reaches it as gradient is a sum over cells."""
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return weight.detach().expand(len(self._own), *weight.shape)
        if id(weight) not in self._given:
            given: Tensor = _ForEachCell.apply(weight, self)  # type: ignore[no-untyped-call]
            self._given[id(weight)] = weight, given
        return self._given[id(weight)][1]

    def total(self, of_cells: Tensor) -> Tensor:
        """(own cells, ...) -> (...): the sum over all cells, on every replica."""
        if self._collective.world_size == 1:
            return tree_sum(of_cells)
        return self._received(self._send([of_cells])).view(of_cells.shape[1:])

    def take(self, weight: Tensor, of_cells: Tensor) -> Tensor | None:
        """What is known of a weight's gradient: its own, or none yet if it is a parameter, which gets it in the end."""
        if not self._will_finish:
            self._will_finish = True
            Variable._execution_engine.queue_callback(self._finish)
        if not weight.is_leaf:
            return self.total(of_cells)
        if self._collective.world_size == 1:
            _add(weight, self.total(of_cells))
            return None
        self._waiting.append((weight, of_cells))
        if sum(one.numel() for one, _ in self._waiting) >= _BUCKET:
            self._flush()
        return None

    def _flush(self) -> None:
        """Send what is waiting."""
        if self._waiting:
            parameters, gradients = zip(*self._waiting, strict=True)
            self._waiting = []
            self._sent.append((list(parameters), self._send(list(gradients))))

    def _finish(self) -> None:
        """The end of the backward pass: give every parameter its gradient."""
        self._will_finish = False
        self._given.clear()
        self._flush()
        sent, self._sent = self._sent, []
        for parameters, exchange in sent:
            flat = self._received(exchange)
            for parameter, part in zip(parameters, flat.split([one.numel() for one in parameters]), strict=True):
                _add(parameter, part.view_as(parameter))

    def _send(self, gradients: list[Tensor]) -> Exchange:
        nodes = torch.cat([node_sums(one.flatten(1), self._own, self._cells) for one in gradients], 1)
        return Exchange(nodes, [len(nodes_of(owned, self._cells)) for owned in self._owned])

    def _received(self, exchange: Exchange) -> Tensor:
        """The sums over all cells, flat."""
        nodes = [node for owned in self._owned for node in nodes_of(owned, self._cells)]
        share = root(dict(zip(nodes, exchange.received(), strict=True)), self._cells)
        return exchange.everyone(share)


class _ForEachCell(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, gradients: WeightGradients) -> Tensor:
        ctx.weight, ctx.gradients = weight, gradients
        return weight.detach().expand(len(gradients._own), *weight.shape)

    @staticmethod
    def backward(ctx: Any, of_cells: Tensor) -> tuple[Tensor | None, None]:
        return ctx.gradients.take(ctx.weight, of_cells), None


def _add(parameter: Tensor, gradient: Tensor) -> None:
    if gradient.stride() != parameter.stride():  # Fused optimizers take it to lie in memory as the parameter does.
        gradient = torch.empty_like(parameter).copy_(gradient)
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
