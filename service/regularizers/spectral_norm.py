"""Spectral normalisation (Miyato et al. 2018, arXiv:1802.05957)."""

from __future__ import annotations

from pydantic import Field
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from service.blocks import EqualisedConv, EqualisedLinear
from service.regularizers import Regularizer


class SpectralNorm(Regularizer):
    """Every layer's weight is divided by its largest singular value, as estimated by power iteration.

    The vectors of the iteration go on from call to call, and are part of a checkpoint.
    """

    iterations: int = Field(1, ge=1)

    def prepare(self, critics: nn.ModuleDict) -> None:
        for module in list(critics.modules()):
            if isinstance(module, EqualisedConv | EqualisedLinear):
                module.scale = 1.0  # Two norms of one weight would leave next to nothing of it.
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                spectral_norm(module, n_power_iterations=self.iterations, eps=1e-12)
