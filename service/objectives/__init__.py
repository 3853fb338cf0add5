"""Objectives: what an adversarial loss makes of the critic's logits, one loss a file.

Losses are per sample, (N,). What is averaged, and over which samples, is not the objective's business.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from service.components import Component


class Objective(Component):
    """An adversarial loss. Every method takes logits (N,) and returns (N,)."""

    @abstractmethod
    def generator(self, logits: Tensor) -> Tensor:
        """The generator's loss on the critic's view of its images."""

    @abstractmethod
    def real(self, logits: Tensor) -> Tensor:
        """The critic's loss on real images."""

    @abstractmethod
    def fake(self, logits: Tensor) -> Tensor:
        """The critic's loss on generated images."""

    @abstractmethod
    def validity(self, logits: Tensor) -> Tensor:
        """How real the critic holds each sample to be, from 0 to 1."""
