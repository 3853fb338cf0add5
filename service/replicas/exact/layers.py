"""What takes the place of torch's functions in exact replicas, while networks are at work.

Products of rows and weights are taken by cell, and so are those of a row's own matrices. Norms with weights of their
own, one for each channel, have them spread to rows, so that their gradients are sums over cells too. And where a
vectorised kernel rounds differently in its last few values than in all others, which are the last depends on the number
of rows: these functions are put together from others that do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from service.models.attention import SelfAttention
from service.models.minibatch import MinibatchLayer
from service.models.noisy import NoisyHeads
from service.models.norms import SwitchableNorm
from service.replicas.exact.kernels import ByCell
from service.replicas.global_layers import GlobalBatchNorm
from service.replicas.products import PRODUCTS, Products

#: Modules whose own parameters meet rows in ways that are known here.
_KNOWN = (
    nn.Linear,
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.GroupNorm,
    nn.InstanceNorm2d,
    GlobalBatchNorm,
    MinibatchLayer,
    NoisyHeads,
    ParametrizationList,
    SelfAttention,
    SwitchableNorm,
)


def check_exact(network: nn.Module, name: str) -> None:
    """Raise TypeError unless the sums over rows of every parameter's gradient can be taken in the tree's order."""
    for path, module in network.named_modules():
        if next(module.parameters(recurse=False), None) is not None and not isinstance(module, _KNOWN):
            raise TypeError(
                f"exact: {name}.{path}: the gradients of a {type(module).__name__} are not summed in one order; "
                "set exact=false, or see service/replicas/exact/layers.py"
            )


def _group_norm(
    sums: ByCell,
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Tensor:
    return _affine(sums, F.group_norm(input, num_groups, eps=eps), weight, bias)


def _instance_norm(
    sums: ByCell,
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    assert running_mean is None, "an instance norm's running averages see this replica's rows alone"
    return _affine(sums, F.instance_norm(input, eps=eps), weight, bias)


def _affine(sums: ByCell, rows: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        rows = rows * sums.to_rows(weight)[:, :, None, None]
    if bias is not None:
        rows = rows + sums.to_rows(bias)[:, :, None, None]
    return rows


def _sigmoid(sums: ByCell, input: Tensor) -> Tensor:  # noqa: A002
    return 0.5 + 0.5 * torch.tanh(0.5 * input)


def _elu(sums: ByCell, input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:  # noqa: A002
    return torch.where(input > 0, input, alpha * torch.expm1(input.clamp(max=0)))


def _bmm(sums: ByCell, input: Tensor, mat2: Tensor) -> Tensor:  # noqa: A002
    return sums.matrices(input, mat2)


class ExactLayers(Products):
    """The mode in which exact replicas take their steps."""

    instead: ClassVar[Mapping[Any, Callable[..., Tensor]]] = {
        **PRODUCTS,
        F.group_norm: _group_norm,
        F.instance_norm: _instance_norm,
        F.elu: _elu,
        torch.bmm: _bmm,
        torch.sigmoid: _sigmoid,
        Tensor.sigmoid: _sigmoid,
    }
