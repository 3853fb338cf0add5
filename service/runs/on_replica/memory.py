"""How much memory a replica has needed."""

from __future__ import annotations

import resource
import sys

import torch


def peak_bytes() -> int:
    """The most memory that this process has held so far: of its GPU for tensors if it uses one, else of the machine."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
