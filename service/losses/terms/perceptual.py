"""Perceptual and style terms: images compared in VGG16's features (Johnson et al. 2016, arXiv:1603.08155).

In the form of Liu et al. (2018, arXiv:1804.07723): mean absolute differences of the first three poolings, and of
their Gram matrices, which know what is in an image and not where.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pipelines.components import ConfigError
from pipelines.storage.location import Location
from service.losses.terms import Distance, Term
from service.models.vgg import Features, features_from

_HOW = "give terms.perceptual.weights=URI of torchvision's vgg16-397923af.pth, or of its tensors as .safetensors"


class Perceptual(Term):
    """Weights are Liu et al.'s for what is filled in."""

    needs_pairs: ClassVar[bool] = True
    weight: float = Field(0.05, ge=0)
    style_weight: float = Field(120.0, ge=0)
    #: VGG16's, which this project does not bring.
    weights: str | None = None

    def check(self) -> None:
        if self.weights is None:
            raise ConfigError(f"terms perceptual: the weights of VGG16 are missing; {_HOW}")
        if not Location.of(self.weights).is_file():
            raise ConfigError(f"terms perceptual: weights {self.weights} is no file; {_HOW}")
        features_from(Location.of(self.weights))

    def build(self, device: torch.device, dtype: torch.dtype) -> Distance:
        assert self.weights is not None
        vgg = features_from(Location.of(self.weights)).to(device, dtype)
        return lambda made, target: self._of(vgg, made, target)

    def _of(self, vgg: Features, made: Tensor, target: Tensor | None) -> Tensor:
        assert target is not None
        with torch.no_grad():
            wanted = vgg(target)
        total = made.new_zeros(len(made))
        for found, right in zip(vgg(made), wanted, strict=True):
            total = total + self.weight * (found - right).abs().flatten(1).mean(1)
            total = total + self.style_weight * (gram(found) - gram(right)).abs().flatten(1).mean(1)
        return total


def gram(features: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, C), products of channels, over C H W."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / features.shape[1:].numel()
