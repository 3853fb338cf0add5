"""The draws of a step, made at once.

A draw is some thirty operations on integers, and a step has up to fifty draws: on a GPU their launches would cost more
than the networks. But steps of the same rows draw alike, and draws are functions of what is known beforehand. So the
first draw of a step makes all those that the last step of those rows asked for, in the operations of one. The values
are those of each by itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from service.replicas.randomness import counters, in_pieces, pairs, squares, to_normal, to_uniform

#: A draw of more values costs their arithmetic, and not its launches; made beforehand, it would wait in memory.
_MOST_VALUES = 1 << 18
#: What steps drew is remembered for so many sets of rows.
_MOST_KINDS = 16


class Draw(NamedTuple):
    """One named draw.

    Attributes:
        kind: its distribution.
        key: of the name (`randomness.key_of`).
        per_row: how many values a row takes.
        rows: (first, count) of the runs that its rows lie in, in their order.
    """

    kind: Literal["uniform", "normal"]
    key: int
    per_row: int
    rows: tuple[tuple[int, int], ...]

    @property
    def row_count(self) -> int:
        """How many rows draw."""
        return sum(count for _, count in self.rows)

    @property
    def small(self) -> bool:
        """Whether it is worth while to make it with others."""
        return self.row_count * self.per_row <= _MOST_VALUES


class Noise:
    """Draws of one step after the other, on a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._by_kind: dict[Hashable, _Together] = {}
        self._kind: Hashable = None
        self._asked: dict[Draw, None] = {}
        self._made: dict[Draw, Tensor] = {}

    def begin(self, kind: Hashable) -> None:
        """A step begins. It is expected to draw what the last one of its kind drew."""
        if self._asked:
            self._remember(tuple(self._asked))
        self._kind, self._asked, self._made = kind, {}, {}

    def draw(self, draw: Draw, step: Tensor) -> Tensor | None:
        """(N, per_row) float32, what `randomness` gives for it; None if nobody expected it.

        It is the same tensor for all who ask for it in a step, and not to be changed.

        Args:
            step: the same from one `begin` to the next.
        """
        self._asked[draw] = None
        together = self._by_kind.get(self._kind)
        if together is None or draw not in together.draws:
            return None
        if not self._made:
            self._made = together.at(step)
        return self._made[draw]

    def _remember(self, drawn: tuple[Draw, ...]) -> None:
        before = self._by_kind.get(self._kind)
        if before is not None and before.draws == frozenset(drawn):
            return
        if before is None and len(self._by_kind) == _MOST_KINDS:
            self._by_kind.clear()
        self._by_kind[self._kind] = _Together(drawn, self._device)


class _Together:
    """Some draws as one. Their values lie in a row: uniform ones, firsts of pairs of normal ones, and seconds."""

    def __init__(self, draws: Sequence[Draw], device: torch.device) -> None:
        self.draws = frozenset(draws)
        self._uniform = [draw for draw in draws if draw.kind == "uniform"]
        self._normal = [draw for draw in draws if draw.kind == "normal"]
        parts = [
            *((draw.key, _numbers(draw, draw.per_row, device)) for draw in self._uniform),
            *((draw.key, _pairs(draw, device)[0]) for draw in self._normal),
            *((draw.key, _pairs(draw, device)[1]) for draw in self._normal),
        ]
        self._counters = torch.cat([numbers.flatten() for _, numbers in parts])
        self._keys = torch.cat([torch.full((numbers.numel(),), key, device=device) for key, numbers in parts])
        lengths = [numbers.numel() for _, numbers in parts]
        uniform, normal = len(self._uniform), len(self._normal)
        self._uniform_lengths, self._normal_lengths = lengths[:uniform], lengths[uniform : uniform + normal]

    def at(self, step: Tensor) -> dict[Draw, Tensor]:
        """(N, per_row) float32 of each."""
        uniform, pair = sum(self._uniform_lengths), sum(self._normal_lengths)
        drawn = in_pieces(lambda values, keys: squares(values, step, keys), self._counters, self._keys)
        flat, first, second = drawn.split([uniform, pair, pair])
        made = {}
        if self._uniform:
            for draw, values in zip(self._uniform, to_uniform(flat).split(self._uniform_lengths), strict=True):
                made[draw] = values.view(draw.row_count, draw.per_row)
        if self._normal:
            halves = [half.split(self._normal_lengths) for half in to_normal(first, second)]
            for draw, *of_draw in zip(self._normal, *halves, strict=True):
                values = torch.cat([half.view(draw.row_count, pairs(draw.per_row)) for half in of_draw], 1)
                made[draw] = values[:, : draw.per_row]
        return made


def _numbers(draw: Draw, per_row: int, device: torch.device) -> Tensor:
    runs = [torch.arange(first, first + count, device=device) for first, count in draw.rows]
    return counters(torch.cat(runs), per_row)


def _pairs(draw: Draw, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of the firsts, and of the seconds."""
    half = pairs(draw.per_row)
    numbers = _numbers(draw, 2 * half, device)
    return numbers[:, :half], numbers[:, half:]
