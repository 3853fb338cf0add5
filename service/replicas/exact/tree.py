"""Sums in one order, whoever holds the summands: a binary tree, in which neighbours are added first."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

#: (level, index): the sum of the cells from ``index * 2**level`` on, ``2**level`` of them or what is left.
Node = tuple[int, int]


def tree_sum(values: Tensor, dim: int = 0) -> Tensor:
    """The sum along a dimension, which goes. By additions alone: they give the same bits on every device."""
    while (count := values.shape[dim]) > 1:
        pairs = values.narrow(dim, 0, count - count % 2).unflatten(dim, (-1, 2))
        added = pairs.select(dim + 1, 0) + pairs.select(dim + 1, 1)
        values = torch.cat([added, values.narrow(dim, count - 1, 1)], dim) if count % 2 else added
    return values.squeeze(dim) if count else values.sum(dim)


def nodes_of(cells: range, count: int) -> list[Node]:
    """The fewest nodes of the tree over `count` cells that cover some neighbouring ones, from left to right."""
    found: list[Node] = []
    at = cells.start
    while at < cells.stop:
        level = 0
        while at % (2 << level) == 0 and (1 << level) < count and min(at + (2 << level), count) <= cells.stop:
            level += 1
        found.append((level, at >> level))
        at += 1 << level
    return found


def node_sums(values: Tensor, cells: range, count: int) -> Tensor:
    """(k, ...) of some neighbouring cells -> (nodes, ...), the sums that `nodes_of` names."""
    parts = [values[(index << level) - cells.start : ((index + 1) << level) - cells.start] for level, index in
             nodes_of(cells, count)]  # fmt: skip
    return torch.stack([tree_sum(part) for part in parts])


def root(nodes: Mapping[Node, Tensor], count: int) -> Tensor:
    """The sum over all cells, of nodes that cover them."""

    def value(node: Node) -> Tensor:
        if node in nodes:
            return nodes[node]
        level, index = node
        left, right = (level - 1, 2 * index), (level - 1, 2 * index + 1)
        return value(left) + value(right) if right[1] << right[0] < count else value(left)

    return value(((count - 1).bit_length(), 0))


def owned_cells(rank: int, world_size: int, count: int) -> range:
    """The cells of replica `rank`."""
    return range(rank * count // world_size, (rank + 1) * count // world_size)
