"""Steps as compiled code: forward and backward passes by torch.compile, without a break in the graph.

Penalties are the exception: it takes no gradients of gradients, so they, and the passes that they share with the loss,
are computed between two graphs.

On CUDA they can be played as graphs, in one launch each (`Compile.graphs`). The optimizer stays outside: a fused update
is a launch for many weights, and takes its rates as numbers.

Dynamo, which records a step's operations, is imported by those who ask for it alone: that takes a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pipelines.components import Options
from service.replicas import randomness


class Compile(Options):
    """How the passes of a step are compiled."""

    graphs: bool = Field(False, description="play compiled passes as CUDA graphs, in one launch each; on GPUs alone")


def compiled(loss: nn.Module, options: Compile, whole: bool = True, backend: str = "inductor") -> nn.Module:
    """`loss`, compiled at its first call, and at the second if the images of the step before are laid out otherwise.

    Args:
        whole: whether nothing of it is `outside_graphs`.
    """
    torch.compiler.assume_constant_result(randomness.key_of)  # Dynamo cannot look into hashlib.
    settings: dict[str, Any] | None = {"triton.cudagraphs": True} if options.graphs else None
    made: Any = torch.compile(loss, backend=backend, fullgraph=whole, dynamic=False, options=settings)
    return cast(nn.Module, Played(made) if options.graphs else made)


class Played(nn.Module):
    """A loss that is played as graphs. The next call overwrites what a graph returns, so copies of it are returned."""

    def __init__(self, graphs: nn.Module) -> None:
        super().__init__()
        self.graphs = graphs

    def forward(self, *given: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        returned = self.graphs(*given)
        return pytree.tree_map_only(Tensor, torch.clone, returned)


def outside_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is never part of compiled code."""
    left: Callable[..., Any] = torch.compiler.disable(function)
    return left
