"""Steps as compiled code: forward and backward passes by torch.compile, without a break in the graph.

Penalties are the exception: it takes no gradients of gradients, so they are computed between two graphs.

Dynamo, which records a step's operations, is imported by those who ask for it alone: that takes a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from service.replicas import randomness


def compiled(loss: nn.Module, whole: bool = True, backend: str = "inductor") -> nn.Module:
    """`loss`, compiled at its first call, and at the second if the images of the step before are laid out otherwise.

    Args:
        whole: whether nothing of it is `outside_graphs`.
    """
    torch.compiler.assume_constant_result(randomness.key_of)  # Dynamo cannot look into hashlib.
    made: Any = torch.compile(loss, backend=backend, fullgraph=whole, dynamic=False)
    return cast(nn.Module, made)


def outside_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is never part of compiled code."""
    left: Callable[..., Any] = torch.compiler.disable(function)
    return left
