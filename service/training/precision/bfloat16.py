"""bfloat16 where it pays, by torch's autocast: in the convolutions and matrix products of networks.

Weights, what networks take and give, and so all losses, stay float32; and so does what sums over pixels or over the
batch, which would lose what it is for in 8 bits of mantissa: some layers, and weights' gradients. The latter are
`service.replicas.products`' doing, within which every step is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from service.models.attention import Attend
from service.models.noisy import NoisyHeads
from service.models.norms import PixelNorm, SwitchableNorm
from service.replicas.global_layers import GlobalBatchNorm, GlobalMinibatch

_REDUCE = (
    Attend,
    GlobalBatchNorm,
    GlobalMinibatch,
    NoisyHeads,  # Its weights' gradients are sums, and its product is no linear layer's.
    SwitchableNorm,
    PixelNorm,
    nn.InstanceNorm2d,
    nn.GroupNorm,
    _SpectralNorm,  # Its vectors go on from step to step, and add roundings up.
)


def in_bfloat16(network: nn.Module) -> None:
    """Let a network, or each of a ModuleDict, compute so. Names of parameters, and copies, are as before."""
    for module in list(network.modules()):
        if isinstance(module, _REDUCE):
            _mix_in(module, _Float32)
    for whole in network.children() if isinstance(network, nn.ModuleDict) else [network]:
        _mix_in(whole, _Bfloat16)


class _Bfloat16(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            made: Tensor = super().forward(*inputs)
        return made.float()


class _Float32(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        with torch.autocast(inputs[0].device.type, enabled=False):
            found: Tensor = super().forward(*(one.float() for one in inputs))
        return found


def _mix_in(module: nn.Module, how: type[nn.Module]) -> None:
    """A class, and not a closure: a deep copy of the module then computes with its own weights."""
    own = type(module)
    module.__class__ = type(own.__name__, (how, own), {})
