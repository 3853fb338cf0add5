"""Keyed noise: every draw is a pure function of (seed, name of the draw, step, row of the global batch).

torch's generators are streams: what they give depends on what was drawn before, so a replica that owns
rows 22 to 43 would have to draw the rows before its own, and a resumed run would have to replay them. A
counter-based generator has no such state. It is written in integer tensor operations so that one
definition serves every device.

The generator is Squares, with four rounds (Widynski 2020, arXiv:2004.06278), which passes BigCrush.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
#: Bits of the counter that number the values of one draw; the step takes those above.
_VALUE_BITS = 36
MAX_STEPS = 1 << (63 - _VALUE_BITS)
#: A draw is some thirty operations. On a CPU, so many values a thread stay in its cache from one to the next.
_IN_CACHE = 1 << 15


def key_of(seed: int, name: str) -> int:
    """The generator's key for one named draw: 63 bits with irregular digits, and odd, as Squares needs."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 1) | 1


def counters(rows: Tensor, per_row: int) -> Tensor:
    """(N, per_row) int64: the numbers of one draw's values.

    Args:
        rows: (N,) int64, the rows' numbers in the global batch.
        per_row: how many values a row takes.
    """
    return rows[:, None] * per_row + torch.arange(per_row, device=rows.device)


def squares(values: Tensor, step: Tensor | int, key: Tensor | int) -> Tensor:
    """32 random bits for each of some draws' values.

    Args:
        values: int64, their `counters`.
        step: the step of the run, an integer or a 0-dimensional int64 tensor on the values' device.
        key: from `key_of`; of all, or of each.

    Returns:
        int64 in [0, 2**32), of the values' shape.
    """
    counter = values + (step << _VALUE_BITS)
    y = counter * key
    z = y + key
    x = _rotate(y * y + y)
    x = _rotate(x * x + z)
    x = _rotate(x * x + y)
    return _high(x * x + z)


def uniform(key: int, step: Tensor | int, rows: Tensor, per_row: int) -> Tensor:
    """(N, per_row) float32, uniform on [0, 1), from `squares`; every value is a multiple of 2**-24."""
    return in_pieces(lambda values: to_uniform(squares(values, step, key)), counters(rows, per_row))


def to_uniform(drawn: Tensor) -> Tensor:
    """Random bits -> as many values of `uniform`."""
    return torch.bitwise_right_shift(drawn, 8).to(torch.float32) * 2.0**-24


def normal(key: int, step: Tensor | int, rows: Tensor, per_row: int) -> Tensor:
    """(N, per_row) float32, standard normal, by Box and Muller's transform of `squares`."""
    half = pairs(per_row)
    numbers = counters(rows, 2 * half).view(len(rows), 2, half).transpose(0, 1)

    def both(firsts: Tensor, seconds: Tensor) -> Tensor:
        return torch.stack(to_normal(*squares(torch.stack([firsts, seconds]), step, key)))

    return torch.cat(list(in_pieces(both, *numbers)), 1)[:, :per_row]


def truncated_normal(key: int, rows: Tensor, per_row: int, threshold: float) -> Tensor:
    """(N, per_row), the first step's `normal`, where each value beyond the threshold is the next step's that is not."""
    values = normal(key, 0, rows, per_row)
    beyond, draw = values.abs() > threshold, 0
    while len(left := beyond.any(1).nonzero()[:, 0]):
        draw += 1
        again = normal(key, draw, rows[left], per_row)
        values[left] = torch.where(beyond[left], again, values[left])
        beyond[left] = values[left].abs() > threshold
    return values


def in_pieces(make: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """(..., *shape of values) what `make` gives for them; it takes each value by itself.

    A CPU is given a piece after the other. Elsewhere each would have launches of its own, and a compiler needs no help.
    """
    if values[0].device.type != "cpu" or torch.compiler.is_compiling():
        return make(*values)
    piece = _IN_CACHE * torch.get_num_threads()
    if values[0].numel() <= piece:
        return make(*values)
    made = [make(*parts) for parts in zip(*(whole.flatten().split(piece) for whole in values), strict=True)]
    joined = torch.cat(made, -1)
    return joined.view(*joined.shape[:-1], *values[0].shape)


def pairs(per_row: int) -> int:
    """How many pairs of random bits so many normal values take."""
    return (per_row + 1) // 2


def to_normal(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors of random bits -> as many values of `normal`.

    The transform runs in float64: vectorised and scalar logarithms differ in their last bit, and which of
    them a value meets depends on its place in the tensor, that is, on the number of replicas.
    """
    radius = torch.sqrt(-2.0 * torch.log(_unit(first)))
    angle = 2.0 * math.pi * _unit(second)
    return (radius * torch.cos(angle)).to(torch.float32), (radius * torch.sin(angle)).to(torch.float32)


def _unit(drawn: Tensor) -> Tensor:
    return (drawn.to(torch.float64) + 0.5) * 2.0**-32


def _rotate(x: Tensor) -> Tensor:
    return _high(x) | (x << 32)


def _high(x: Tensor) -> Tensor:
    """The upper half of 64 bits. The operator ``>>`` will not do: torch_xla makes it a division, towards zero."""
    return torch.bitwise_right_shift(x, 32) & _LOW
