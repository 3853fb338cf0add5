"""Updates that go further, or less far, than an optimizer's learning rate says: what Adam does not divide away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def scaled_updates(optimizer: torch.optim.Optimizer, factors: Tensor | None, skip: Tensor) -> Iterator[None]:
    """Within, an update moves the parameters of each group so many times as far.

    With an optimizer whose update is proportional to its learning rate, as Adam's is, that is the rate times the
    factor. The update is scaled, and not the rate, because not every kernel reads a rate from the device.

    Args:
        factors: (groups,); None leaves updates as they are.
        skip: 0-dimensional; 1 at a step without an update, whose factors may not be finite.
    """
    if factors is None:
        yield
        return
    groups = [[one for one in group["params"] if one.grad is not None] for group in optimizer.param_groups]
    before = [[parameter.detach().clone() for parameter in group] for group in groups]
    yield
    back = torch.where(skip > 0, 0, 1 - factors)
    with torch.no_grad():
        for moved, kept, share in zip(groups, before, back, strict=True):
            torch._foreach_lerp_(moved, kept, [share.to(one.dtype) for one in moved])
