"""Self-attention against its authors' formula, and its products in exact replicas."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from service.models.attention import SelfAttention


def attended(x: Tensor, layer: SelfAttention) -> Tensor:
    """sn_non_local_block_sim of the authors' repository, pixel by pixel."""
    count, _, height, width = x.shape

    def pixels(kernel: Tensor, of: Tensor) -> Tensor:
        return torch.einsum("oc,nchw->nohw", kernel[:, :, 0, 0], of)

    queries = pixels(layer.query.weight, x).reshape(count, -1, height * width)
    keys, values = (
        F.max_pool2d(pixels(of.weight, x), 2, 2).reshape(count, -1, height * width // 4)
        for of in (layer.key, layer.value)
    )
    found = x.new_zeros(count, values.shape[1], height * width)
    for image in range(count):
        for pixel in range(height * width):
            weights = torch.exp(keys[image].T @ queries[image, :, pixel])
            found[image, :, pixel] = values[image] @ weights / weights.sum()
    return layer.gain * pixels(layer.output.weight, found.view(count, -1, height, width)) + x


@pytest.mark.parametrize("channels", [3, 16])
def test_attention_is_its_authors_value_and_gradient(channels: int) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(channels).double()
    x = torch.randn(2, channels, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.equal(layer(x), x), "it starts as if it were not there"
    torch.nn.init.normal_(layer.gain)
    inputs, upstream = [x, *layer.parameters()], torch.randn_like(x)
    torch.testing.assert_close(layer(x), attended(x, layer), rtol=1e-10, atol=1e-12)
    ours, theirs = (torch.autograd.grad(y, inputs, upstream) for y in (layer(x), attended(x, layer)))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


def test_attention_has_gradients_of_gradients_and_takes_no_images() -> None:
    layer = SelfAttention(8).double()
    torch.nn.init.ones_(layer.gain)
    x = torch.randn(2, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, x)
    none = torch.zeros(0, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    layer(none).sum().backward()
    assert layer(none).shape == none.shape
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in layer.parameters())
