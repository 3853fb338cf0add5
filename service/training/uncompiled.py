"""torch's optimizers, without torch's compiler."""

from __future__ import annotations

from inspect import unwrap
from typing import TypeVar

import torch

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)
#: What torch wraps so that its compiler leaves it alone: the first call imports the compiler.
_WRAPPED = "add_param_group", "load_state_dict", "state_dict", "step", "zero_grad"


def uncompiled(kind: type[Kind]) -> type[Kind]:
    """A kind of optimizer that is never compiled: its processes start seconds earlier, its steps do less in Python."""
    methods = {name: unwrap(getattr(kind, name)) for name in _WRAPPED}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(methods["step"])})
