"""Differentiable augmentation (Zhao et al. 2020, arXiv:2006.10738; mit-han-lab/data-efficient-gans)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from service.models.critic_augmentation import CriticAugmentation
from service.models.pixels import cut_out, with_a_hole

#: How many uniform values an image takes: brightness, saturation, contrast, and two places.
DRAWS = 7


class DifferentiableAugmentation(CriticAugmentation):
    """Images as a critic sees them while it is trained: other colours, moved, a part of them grey.

    Args:
        colour: whether to change brightness, saturation and contrast.
        translation: how far images are moved at most, as a share of their size.
        cutout: the sides of the part that is made grey, as a share of theirs.
    """

    uniform_draws = DRAWS

    def __init__(self, colour: bool, translation: float, cutout: float) -> None:
        super().__init__()
        self.colour, self.translation, self.cutout = colour, translation, cutout

    def changed(self, images: Tensor, drawn: Tensor, normal: Tensor | None = None) -> Tensor:
        """Images, each as its row of `drawn`, (N, DRAWS) in [0, 1), says."""
        if self.colour:
            images = _coloured(images, *(column[:, None, None, None].to(images.dtype) for column in drawn.T[:3]))
        if self.translation:
            images = _moved(images, self.translation, drawn[:, 3:5])
        if self.cutout:
            images = with_a_hole(images, self.cutout, drawn[:, 5:7])
        return images


def _coloured(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    mean = images.mean([1, 2, 3], keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def _moved(images: Tensor, share: float, drawn: Tensor) -> Tensor:
    """By whole pixels; what comes in is 0."""
    most = [int(size * share + 0.5) for size in images.shape[2:]]
    places = [(of_images * (2 * far + 1)).long() for of_images, far in zip(drawn.T, most, strict=True)]
    return cut_out(F.pad(images, (most[1], most[1], most[0], most[0])), *places, *images.shape[2:])
