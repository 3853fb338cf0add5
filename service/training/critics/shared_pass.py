"""One pass of the critic over generated images, for its own loss and for the generator's (Shen et al. 2021).

"Training Generative Adversarial Networks in One Stage" (arXiv:2103.00430): where a critic gives every image one
number, and looks at each image alone, what reaches the image from one loss is in proportion to what reaches it from
another. So one backward pass serves both: the critic's weights take the critic's gradient, and what goes on to the
generator is multiplied, image by image, by the two gradients' ratio at the critic's output.

Where a penalty has had the gradient of the critic's output at each image taken, it is at hand, and the generator takes
no more than its product with the loss's at that output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: How small the critic's gradient may be beside the generator's: nothing that its weights would notice.
_LEAST = 1e-12


def scaled(images: Tensor, ratio: list[Tensor]) -> Tensor:
    """The same images, whose gradient will be multiplied by what `twice` has put into `ratio` by then."""
    same: Tensor = _Scaled.apply(images, ratio)  # type: ignore[no-untyped-call]
    return same


def twice(outputs: Tensor, ratio: list[Tensor]) -> tuple[Tensor, Tensor]:
    """A critic's outputs (N, 1) on such images, for the generator's loss and for the critic's."""
    assert outputs.shape[1] == 1, "more than one number for an image"
    of_generator, of_critic = _Twice.apply(outputs, ratio)  # type: ignore[no-untyped-call]
    return of_generator, of_critic


def by_gradient(images: Tensor, outputs: Tensor, gradient: Tensor) -> Tensor:
    """A critic's outputs (N, 1) for the generator's loss, whose gradient goes to the images alone.

    Args:
        gradient: of each image's output at the image, (N, C, H, W).
    """
    assert outputs.shape[1] == 1, "more than one number for an image"
    same: Tensor = _ByGradient.apply(images, outputs.detach(), gradient.detach())  # type: ignore[no-untyped-call]
    return same


class _ByGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, outputs: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return outputs.clone()

    @staticmethod
    def backward(ctx: Any, of_outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return of_outputs[:, :, None, None].to(gradient.dtype) * gradient, None, None


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, ratio: list[Tensor]) -> Tensor:
        ctx.ratio = ratio
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.ratio.pop()[:, :, None, None], None


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor, ratio: list[Tensor]) -> tuple[Tensor, Tensor]:
        ctx.ratio = ratio
        return outputs.clone(), outputs.clone()

    @staticmethod
    def backward(ctx: Any, of_generator: Tensor, of_critic: Tensor) -> tuple[Tensor, None]:
        # Where the critic is sure, its own gradient vanishes, and the generator's, which it carries, must not.
        least = _LEAST * of_generator.abs()
        carried = torch.where(of_critic.abs() < least, least, of_critic)
        ctx.ratio.append(torch.where(carried == 0, 0, of_generator / carried))
        return carried, None
