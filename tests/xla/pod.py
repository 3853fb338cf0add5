"""Several hosts' feeding of one program, by one process: PJRT's CPU client knows no other."""

from collections.abc import Sequence
from itertools import cycle

import torch
from torch import Tensor

from service.replicas.accelerators.xla import Xla, _mesh, fed, filled_up, keeps_order


class Pod(Xla):
    """Reads whole batches, cuts each up as hosts would have read it, and feeds all parts as they would.

    Args:
        cuts: how many rows each host reads, of one batch after the other, over and over.
        chips: of the mesh, in its order.
    """

    def __init__(self, *cuts: Sequence[int], chips: Sequence[int] = ()) -> None:
        super().__init__()
        if chips:
            self._mesh = _mesh(chips)
            self._keeps_order = keeps_order(self._mesh)
        self._feeds_a_part, self.world_size = True, len(cuts[0])
        self._most, self._cuts = max(max(cut) for cut in cuts), cycle(cuts)

    def rows(self, first: int, count: int, size: int, most: int) -> Tensor:
        self._cut = next(self._cuts)
        return super().rows(first, count, size, self._most)

    def _of_all_processes(self, own: Tensor, beyond: int = 0) -> Tensor:
        parts = [filled_up(part, self._part_length, beyond) for part in own.split(list(self._cut))]
        return fed(torch.cat(parts), self._mesh)
