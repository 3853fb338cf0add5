"""Instance noise: critics see real and generated images through noise (Sonderby et al. 2017, arXiv:1610.04490)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from service.losses.regularizers import Regularizer
from service.models.blocks import GaussianNoise


class InstanceNoise(Regularizer):
    """Normal noise on every pixel, less and less of it, and none after so many steps."""

    deviation: float = Field(0.1, ge=0)
    steps: int = Field(10_000, ge=1)

    def prepare(self, critics: nn.ModuleDict) -> None:
        for game, critic in critics.items():
            critics[game] = _Noisy(GaussianNoise(self.deviation, self.steps), critic)


class _Noisy(nn.Module):
    """A critic behind noise."""

    def __init__(self, noise: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.noise, self.critic = noise, critic

    def forward(self, images: Tensor, *given: Tensor) -> Tensor:
        outputs: Tensor = self.critic(self.noise(images), *given)
        return outputs
