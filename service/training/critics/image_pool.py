"""Pools: a critic's fakes are drawn of what was generated before (Shrivastava et al. 2017, arXiv:1612.07828).

CycleGAN's form: while there is room, an image goes in and is shown; later it is shown, or, as a coin falls, goes
in for an older one, which is shown in its place. The images of a batch pass one after the other, wherever they
were made, so that a pool is the same on every replica.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from service.replicas.global_batch import GlobalBatch
from service.tasks import View


class Pools:
    """One pool for each game.

    Args:
        size: images in each; none if it is 0, and every image is shown as it comes.
        batch: of the run.
    """

    def __init__(self, size: int, batch: GlobalBatch) -> None:
        self._size, self._batch = size, batch
        self._images: dict[str, Tensor] = {}
        self._filled = batch.scalar(0)

    def through(self, views: Mapping[str, View]) -> dict[str, View]:
        """What to show in place of newly generated images, detached."""
        detached = {game: view.detached() for game, view in views.items()}
        if not self._size:
            return detached
        batch, shown = self._batch, {}
        places = self._filled + batch.all_rows()
        for game, view in detached.items():
            assert view.given is None, "a pool keeps images, and not what they are given with"
            images = batch.gather(view.images, batch.own_rows)
            if game not in self._images:
                self._images[game] = images.new_zeros((self._size, *images.shape[1:]))
            drawn = batch.uniform_for_all(f"pool {game}", 2)
            kept, chosen = _pass(self._size, drawn, places)
            everything = torch.cat([self._images[game], images])
            self._images[game] = everything.index_select(0, kept)
            shown[game] = View(everything.index_select(0, chosen[batch.own_rows.numbers]))
        self._filled = (self._filled + batch.size).clamp_max(self._size)
        return shown

    def state(self) -> dict[str, Tensor]:
        """What continues, the same on every replica."""
        filled = int(self._filled)
        return {f"pool.{game}": images[:filled].clone() for game, images in self._images.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        for key, images in state.items():
            self._filled = self._batch.scalar(len(images))
            room = images.new_zeros((self._size - len(images), *images.shape[1:]))
            self._images[key.removeprefix("pool.")] = torch.cat([images, room])


def _pass(size: int, drawn: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """What a pool keeps, (size,), and what is shown, (N,), of the pool and N images that pass, numbered in that order.

    Which it is, the device finds: a step is the same work while the pool fills up, and later. It moves numbers, as an
    image may be kept and be shown again within a batch, and images then once.

    Args:
        drawn: (N, 2) values uniform on [0, 1).
        places: (N,), of each image in the pool, if there is room.
    """
    slots = torch.arange(size, device=drawn.device)
    kept, chosen = slots, list[Tensor]()
    for number, (coin, which), place in zip(range(size, size + len(drawn)), drawn, places, strict=True):
        room, swap = place < size, coin >= 0.5
        slot = torch.where(room, place, (which * size).long())
        chosen.append(torch.where(~room & swap, kept.index_select(0, slot[None])[0], number))
        kept = torch.where((slots == slot) & (room | swap), number, kept)
    return kept, torch.stack(chosen)
