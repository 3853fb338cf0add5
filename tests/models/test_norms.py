"""Normalisations, layers and networks of PGGAN's against their definitions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.models.blocks import EqualisedConv, EqualisedLinear, GatedConv, Upsampling, Upscale, doubling
from service.models.networks import ImageShape
from service.models.networks.resnet import ResNet
from service.models.networks.unet import UNet
from service.models.noisy import NoisyHeads
from service.models.norms import ClassBatchNorm, Norm, PixelNorm, SwitchableNorm, norm_of
from service.replicas.collectives import OneReplica
from service.replicas.global_batch import GlobalBatch
from service.replicas.global_layers import follow_global_batch


def new_batch(size: int, shards: int = 1) -> GlobalBatch:
    batch = GlobalBatch(size, shards, 0, OneReplica(), torch.device("cpu"), torch.float64)
    batch.start(0, 0, size)
    return batch


def switched(x: Tensor, norm: SwitchableNorm) -> Tensor:
    """SwitchNorm2d.forward of the authors' repository, in training, without its averages."""
    count, channels, height, width = x.size()
    x = x.view(count, channels, -1)
    mean_in, var_in = x.mean(-1, keepdim=True), x.var(-1, keepdim=True)
    mean_ln = mean_in.mean(1, keepdim=True)
    temp = var_in + mean_in**2
    var_ln = temp.mean(1, keepdim=True) - mean_ln**2
    mean_bn = mean_in.mean(0, keepdim=True)
    var_bn = temp.mean(0, keepdim=True) - mean_bn**2
    mean_weight, var_weight = norm.mean_weight.softmax(0), norm.var_weight.softmax(0)
    mean = mean_weight[0] * mean_in + mean_weight[1] * mean_ln + mean_weight[2] * mean_bn
    var = var_weight[0] * var_in + var_weight[1] * var_ln + var_weight[2] * var_bn
    x = ((x - mean) / (var + norm.eps).sqrt()).view(count, channels, height, width)
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


def random_switchable(channels: int) -> SwitchableNorm:
    torch.manual_seed(0)
    norm = SwitchableNorm(channels).double()
    for parameter in norm.parameters():
        parameter.data.normal_()
    return norm


def test_switchable_norm_is_its_authors_value_and_gradient() -> None:
    norm, x = random_switchable(3), torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    upstream, inputs = torch.randn_like(x), [x, *norm.parameters()]
    torch.testing.assert_close(norm(x), switched(x, norm), rtol=1e-10, atol=1e-12)
    ours, theirs = (torch.autograd.grad(y, inputs, upstream) for y in (norm(x), switched(x, norm)))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


def test_a_classs_batch_norm_scales_and_shifts_what_batch_norm_gives() -> None:
    torch.manual_seed(0)
    norm, x = ClassBatchNorm(3, 4).double(), torch.randn(6, 3, 5, 5, dtype=torch.float64)
    assert norm.scale is not None and norm.shift is not None
    for parameter in norm.parameters():
        parameter.data.normal_()
    labels = torch.tensor([0, 3, 1, 3, 0, 1])
    centred = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    shared = centred * norm.norm.weight[:, None, None] + norm.norm.bias[:, None, None]
    scale, shift = (layer.weight.T[labels][:, :, None, None] for layer in (norm.scale, norm.shift))
    classes = F.one_hot(labels, 4).double()
    torch.testing.assert_close(norm(x, classes), shared * (1 + scale) + shift, rtol=1e-10, atol=1e-10)
    followed = follow_global_batch(norm, new_batch(6), "norm")
    torch.testing.assert_close(followed(x, classes), shared * (1 + scale) + shift, rtol=1e-10, atol=1e-10)
    assert list(ClassBatchNorm(3, 0).state_dict()) == [f"norm.{name}" for name in nn.BatchNorm2d(3).state_dict()]


def test_switchable_norm_follows_groups_and_its_averages() -> None:
    norm, x = random_switchable(3), torch.randn(6, 3, 4, 4, dtype=torch.float64)
    alone = [switched(part, norm) for part in x.chunk(2)]
    followed = follow_global_batch(norm, new_batch(6, shards=2), "generator.0")
    torch.testing.assert_close(followed(x), torch.cat(alone), rtol=1e-10, atol=1e-12)
    averaged = torch.zeros(3, dtype=torch.float64)
    for part in x.chunk(2):  # The authors': running * 0.9 + batch * 0.1.
        averaged = 0.9 * averaged + 0.1 * part.mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, averaged, rtol=1e-10, atol=1e-12)
    norm.eval()
    torch.testing.assert_close(norm(x)[:1], norm(x[:1]), rtol=1e-10, atol=1e-12)


def test_pixel_norm_makes_every_pixel_one_long() -> None:
    x = torch.randn(2, 5, 3, 3, dtype=torch.float64)
    expected = x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()
    torch.testing.assert_close(PixelNorm()(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["batch", "instance", "layer", "pixel", "switchable", "none"])
def test_networks_take_every_norm(norm: Norm) -> None:
    image = ImageShape(3, 32, 32)
    for network in (ResNet(channels=4, blocks=1, norm=norm), UNet(channels=4, norm=norm)):
        translator = network.translator(image, image)
        made = translator(torch.randn(2, *image))
        assert made.shape == (2, *image)
        assert network.critic(image)(made).shape == (2, 4)
        made.sum().backward()
        assert all(parameter.grad is not None for parameter in translator.parameters())
    x = 3 + 2 * torch.randn(2, 4, 8, 8)
    for layer in norm_of(norm, 4):
        assert abs(float(layer(x).square().mean()) - 1) < 0.1


@pytest.mark.parametrize("form", ["nearest", "transposed", "pixel_shuffle"])
def test_doublings_double(form: Upsampling) -> None:
    x = torch.randn(2, 3, 5, 4)
    layer = doubling(form, 3, 6)
    assert layer(x).shape == (2, 6, 10, 8)
    if form == "pixel_shuffle":
        assert isinstance(layer, nn.Sequential)
        wide = layer[0](x)
        assert torch.equal(layer(x)[:, 1, 1::2, 0::2], wide[:, 4 * 1 + 2 * 1 + 0])
    assert ResNet(channels=4, blocks=1, upsampling=form).translator(ImageShape(1, 32, 32), ImageShape(1, 32, 32))


def test_upscaling_is_nearest_and_its_gradient_the_sum_of_the_block() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.equal(Upscale()(x), F.interpolate(x, scale_factor=2.0, mode="nearest"))
    upstream = torch.randn(2, 3, 8, 10, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(Upscale()(x), x, upstream)
    torch.testing.assert_close(gradient, 4 * F.avg_pool2d(upstream, 2), rtol=1e-12, atol=1e-12)


def test_gated_convolution_lets_through_what_its_gate_says() -> None:
    layer, x = GatedConv(3, 4, 3, padding=1).double(), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    both = F.conv2d(x, layer.weight, layer.bias, padding=1)
    expected = F.elu(both[:, :4]) * torch.sigmoid(both[:, 4:])
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    image = ImageShape(3, 32, 32)
    assert ResNet(channels=4, blocks=1, convolution="gated").translator(image, image)(torch.randn(1, *image)).shape


def test_equalised_layers_scale_weights_when_they_are_used() -> None:
    """PGGAN's get_weight: N(0, 1) times gain / sqrt(fan in)."""
    torch.manual_seed(0)
    convolution, linear = EqualisedConv(16, 64, 3, 1), EqualisedLinear(400, 300, gain=1.0)
    assert abs(float(convolution.weight.std()) - 1) < 0.02
    x = torch.randn(8, 16, 6, 6)
    expected = F.conv2d(x, convolution.weight * (2 / (16 * 9)) ** 0.5, convolution.bias, padding=1)
    torch.testing.assert_close(convolution(x), expected)
    vectors = torch.randn(8, 400)
    torch.testing.assert_close(linear(vectors), vectors @ linear.weight.T / 20)


def test_noisy_heads_share_weights_and_noise() -> None:
    torch.manual_seed(0)
    layer, x = NoisyHeads(4, 5, 3, 0.017).double(), torch.randn(7, 4, dtype=torch.float64)
    layer.deviation.data.normal_()
    bound = (3 / 4) ** 0.5
    assert float(layer.weight.abs().max()) <= bound
    for sample in range(7):
        weight = layer.weight + layer.deviation[sample % 3] * layer.noise
        torch.testing.assert_close(layer(x)[sample], weight @ x[sample], rtol=1e-12, atol=1e-12)
    batch = new_batch(7)
    follow_global_batch(layer, batch, "generator.0")
    batch.start(0, 2, 3)  # Rows 2, 3 and 4 of the batch.
    torch.testing.assert_close(layer(x[2:5]), layer.eval()(x)[2:5], rtol=1e-12, atol=1e-12)
