"""Spectral normalisation (Miyato et al. 2018, arXiv:1802.05957)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import register_parametrization

from service.losses.regularizers import Regularizer
from service.models.blocks import EqualisedConv, EqualisedLinear
from service.models.layer_kinds import ChangedByCalls


class SpectralNorm(Regularizer):
    """Every layer's weight is divided by its largest singular value, as estimated by power iteration.

    The vectors of the iteration go on from call to call, and are part of a checkpoint.
    """

    iterations: int = Field(1, ge=1)
    generator: bool = Field(False, description="of the generator's layers too, as in SAGAN")

    def prepare(self, critics: nn.ModuleDict) -> None:
        self._norm_layers(critics)

    def prepare_generator(self, generator: nn.Module) -> None:
        if self.generator:
            self._norm_layers(generator)

    def _norm_layers(self, network: nn.Module) -> None:
        for module in list(network.modules()):
            if isinstance(module, EqualisedConv | EqualisedLinear):
                module.scale = 1.0  # Two norms of one weight would leave next to nothing of it.
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                outputs = 1 if isinstance(module, nn.ConvTranspose2d) else 0
                register_parametrization(module, "weight", _Normed(module.weight, self.iterations, outputs, eps=1e-12))


class _Normed(parametrizations._SpectralNorm, ChangedByCalls):
    """torch's, but for its ``vdot``, for which XLA would go back to the host in the middle of a step."""

    def forward(self, weight: Tensor) -> Tensor:
        matrix = self._reshape_weight_to_matrix(weight)

        def iterated() -> tuple[Tensor, ...]:
            if self.training:
                self._power_method(matrix, self.n_power_iterations)
            return self._u.clone(), self._v.clone()  # Which the next pass changes before this one's gradient.

        left, right = self.kept.next(iterated) if self.kept else iterated()
        return weight / torch.dot(left, torch.mv(matrix, right))
