"""How gradients cross replicas, at the cost of a ring: everybody sends everybody a share, and then its sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class Exchange:
    """Rows that every replica has of one table, on their way: each replica is sent its share of the columns of all.

    Args:
        table: (rows, P), this replica's; the sending begins.
        rows: of each replica.
    """

    def __init__(self, table: Tensor, rows: Sequence[int]) -> None:
        replicas = len(rows)
        self._columns, self._each = table.shape[1], -(-table.shape[1] // replicas)
        padded = torch.nn.functional.pad(table, (0, replicas * self._each - self._columns))
        self._mine = padded.view(len(table), replicas, self._each).transpose(0, 1).contiguous()
        self._all = table.new_empty(sum(rows), self._each)
        self._work = dist.all_to_all_single(
            self._all.view(-1),
            self._mine.view(-1),
            [count * self._each for count in rows],
            [len(table) * self._each] * replicas,
            async_op=True,
        )

    def received(self) -> Tensor:
        """(all replicas' rows, share): of the columns that are this replica's share; waits for them."""
        self._work.wait()
        return self._all

    def everyone(self, share: Tensor) -> Tensor:
        """(P,): what every replica has made of its share, (share,)."""
        whole = share.new_empty(len(share) * dist.get_world_size())
        dist.all_gather_into_tensor(whole, share.contiguous())
        return whole[: self._columns]
