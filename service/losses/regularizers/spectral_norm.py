"""Spectral normalisation (Miyato et al. 2018, arXiv:1802.05957)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import register_parametrization

from service.losses.regularizers import Regularizer
from service.models.blocks import EqualisedConv, EqualisedLinear
from service.models.rows_apart import ChangedByCalls


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
                outputs = 1 if isinstance(module, nn.ConvTranspose2d) else 0
                register_parametrization(module, "weight", _Normed(module.weight, self.iterations, outputs, eps=1e-12))


class _Normed(parametrizations._SpectralNorm, ChangedByCalls):
    """torch's, but for its ``vdot``, for which XLA would go back to the host in the middle of a step."""

    _vectors: tuple[Tensor, Tensor] | None = None

    def forward(self, weight: Tensor) -> Tensor:
        matrix = self._reshape_weight_to_matrix(weight)
        if self.training and self._vectors is None:
            self._power_method(matrix, self.n_power_iterations)
        left, right = self._vectors or self.last_call()  # Copies: the next pass comes before this one's gradient.
        return weight / torch.dot(left, torch.mv(matrix, right))

    def last_call(self) -> tuple[Tensor, Tensor]:
        return self._u.clone(), self._v.clone()

    @contextmanager
    def again(self, call: tuple[Tensor, Tensor]) -> Iterator[None]:
        self._vectors = call
        try:
            yield
        finally:
            self._vectors = None
