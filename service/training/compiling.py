"""Steps as compiled code: forward and backward passes by torch.compile, without a break in the graph.

Dynamo, which records a step's operations, is imported by those who ask for it alone: that takes a second.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from service.replicas import randomness


def compiled(loss: nn.Module, backend: str = "inductor") -> nn.Module:
    """`loss`, compiled at its first call, and at the second if the images of the step before are laid out otherwise."""
    torch.compiler.assume_constant_result(randomness.key_of)  # Dynamo cannot look into hashlib.
    made: Any = torch.compile(loss, backend=backend, fullgraph=True, dynamic=False)
    return cast(nn.Module, made)
