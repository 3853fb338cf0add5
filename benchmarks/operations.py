"""Counts the operations that a step asks of its device: on a GPU each is at least one launch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from service.replicas import noise, randomness
from service.replicas.global_layers import GlobalBatchNorm

NOISE, NETWORKS, BATCH_NORM, OPTIMIZER, OTHER = "noise", "networks", "batch norm", "optimizer", "other"
PARTS = NOISE, NETWORKS, BATCH_NORM, OPTIMIZER, OTHER
_NO_WORK = (
    "promote_types",
    "_record_function_enter_new",
    "_record_function_exit",
    "empty",
    "new_empty",
    "empty_like",
    "detach",
    "detach_",
    "alias",
    "empty_strided",
    "new_empty_strided",
)


class Counting(TorchDispatchMode):
    """Counts, within, all operations but views, empties and detaches.

    Args:
        networks: whose operations are theirs [default: all modules are networks].

    Attributes:
        parts: how many operations each part of a step takes, forwards and backwards.
        collectives: (name, bytes) of each.
    """

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._networks = {module for network in networks for module in network.modules()}
        self._stack: list[str] = [OTHER]
        self._part_of_node: dict[int, str] = {}
        self._entered = ExitStack()
        self.parts: Counter[tuple[str, str]] = Counter()
        self.collectives: list[tuple[str, int]] = []

    @property
    def operations(self) -> int:
        return sum(self.parts.values())

    def of(self, part: str, *directions: str) -> int:
        return sum(self.parts[direction, part] for direction in directions or ("forward", "backward"))

    def __enter__(self) -> Counting:
        for owner, name in ((noise.Noise, "draw"), (randomness, "uniform"), (randomness, "normal")):
            self._entered.enter_context(patch.object(owner, name, self._within(NOISE, getattr(owner, name))))
        for handle in (
            register_module_forward_pre_hook(self._enters),
            register_module_forward_hook(self._leaves, always_call=True),
            register_optimizer_step_pre_hook(lambda *_: self._stack.append(OPTIMIZER)),
            register_optimizer_step_post_hook(lambda *_: self._leave()),
        ):
            self._entered.callback(handle.remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._entered.close()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = function._schema.name.rpartition("::")[2]
        node = torch._C._current_autograd_node()
        if node is None:
            part, direction = self._stack[-1], "forward"
            # A node is made before its operation; operations without one come after an older node.
            self._part_of_node.setdefault(torch.autograd._get_sequence_nr() - 1, part)
        else:
            part, direction = self._part_of_node.get(node._sequence_nr(), OTHER), "backward"
        if function.namespace == "c10d":
            self.collectives.append((name, _bytes(args[0])))
        elif not (function.is_view or name in _NO_WORK):
            self.parts[direction, part] += 1
        return function(*args, **(kwargs or {}))

    def _within(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            self._stack.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._leave()

        return called

    def _enters(self, module: nn.Module, _: Any) -> None:
        if isinstance(module, GlobalBatchNorm | _BatchNorm):
            self._stack.append(BATCH_NORM)
        else:
            self._stack.append(NETWORKS if module in self._networks or not self._networks else self._stack[-1])

    def _leaves(self, *_: Any) -> None:
        self._leave()

    def _leave(self) -> None:
        self._stack.pop()


def _bytes(tensors: Any) -> int:
    flat = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
    return sum(tensor.numel() * tensor.element_size() for tensor in flat if isinstance(tensor, torch.Tensor))
