"""What the host puts into a step: a CUDA graph would play the same values again at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations for whose result the host waits, or whose shape only the device knows.
_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "unique_dim", "equal", "is_nonzero"}
#: Tensors of Python's values.
_FROM_HOST = {"lift_fresh", "lift_fresh_copy"}


class HostValues(TorchDispatchMode):
    """Records, within, what each operation is given that is not on the device.

    Attributes:
        given: of each operation its name, its numbers, and the shapes of its tensors.
        waits: operations that a graph cannot hold.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given: list[str] = []
        self.waits: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = function._schema.name.rpartition("::")[2]
        if function.namespace == "profiler":
            return function(*args, **(kwargs or {}))
        values = pytree.tree_leaves((args, dict(kwargs or {})))
        shown = [tuple(value.shape) if isinstance(value, Tensor) else value for value in values]
        self.given.append(f"{name}{shown}")
        if name in _WAITS or (
            name == "index" and any(one.dtype == torch.bool for one in values[1:] if one is not None)
        ):
            self.waits.append(self.given[-1])
        if name in _FROM_HOST:
            self.waits.append(f"{name} {values[0].tolist()}")
        return function(*args, **(kwargs or {}))
