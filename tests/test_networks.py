import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.loops import authors_networks
from service.blocks import UpsampleConv
from service.components import find, names
from service.networks import ImageShape, LatentNetwork, Network
from service.networks.dcgan import DCGAN
from service.networks.dcgan_keras import KerasDCGAN
from service.networks.mlp import MLP


@pytest.mark.parametrize("name", names("service.networks"))
@pytest.mark.parametrize("image", [ImageShape(1, 32, 32), ImageShape(3, 64, 64)])
def test_shapes(name: str, image: ImageShape) -> None:
    network = find("service.networks", name, Network)()
    network.check(image)
    assert isinstance(network, LatentNetwork)
    images = network.generator(image, 7)(torch.randn(4, 7))
    assert images.shape == (4, *image)
    assert float(images.detach().abs().max()) <= 1
    assert network.critic(image)(images).shape == (4, 1)
    assert network.critic(image, heads=3)(images).shape == (4, 4)


@pytest.mark.parametrize("size", [1, 4, 7])
def test_upsample_conv_is_upsampling_then_convolution(size: int) -> None:
    layer = UpsampleConv(3, 5).double()
    x = torch.randn(2, 3, size, size, dtype=torch.float64, requires_grad=True)
    enlarged = F.interpolate(x, scale_factor=2.0, mode="nearest")
    expected = F.conv2d(enlarged, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(expected)
    inputs = [x, *layer.parameters()]
    ours = torch.autograd.grad(layer(x), inputs, upstream)
    theirs = torch.autograd.grad(expected, inputs, upstream)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-12)


def authors_dcgan(image: ImageShape) -> tuple[nn.Module, nn.Module]:
    """The notebook's networks, with logits out."""
    generator, critic = authors_networks(image)
    return generator, nn.Sequential(*list(critic.children())[:-1])


def agree(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """The same parameters, in the same order, give the same function."""
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        other.data.copy_(mine.data)
    for module in (ours, theirs):
        for child in module.modules():
            if isinstance(child, nn.Dropout2d):
                child.p = 0.0
        module.double().train()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("image", [ImageShape(1, 32, 32), ImageShape(3, 64, 64)])
def test_dcgan_is_the_authors(image: ImageShape) -> None:
    generator, critic = authors_dcgan(image)
    agree(DCGAN().generator(image, 100), generator, torch.randn(4, 100, dtype=torch.float64))
    agree(DCGAN().critic(image), critic, torch.randn(4, *image, dtype=torch.float64))


def test_mlp_is_the_authors() -> None:
    def block(fan_in: int, fan_out: int, norm: bool = True) -> list[nn.Module]:
        middle = [nn.BatchNorm1d(fan_out, 0.8)] if norm else []
        return [nn.Linear(fan_in, fan_out), *middle, nn.LeakyReLU(0.2)]

    image = ImageShape(1, 28, 28)
    generator = nn.Sequential(
        *block(100, 128, False), *block(128, 256), *block(256, 512), *block(512, 1024), nn.Linear(1024, 784),
        nn.Tanh(), nn.Unflatten(1, image),
    )  # fmt: skip
    critic = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.LeakyReLU(0.2), nn.Linear(512, 256), nn.LeakyReLU(0.2),
        nn.Linear(256, 1),
    )  # fmt: skip
    agree(MLP().generator(image, 100), generator, torch.randn(4, 100, dtype=torch.float64))
    agree(MLP().critic(image), critic, torch.randn(4, *image, dtype=torch.float64))


def test_keras_dcgan_has_keras_sizes() -> None:
    """The number of trained weights of Keras-GAN's dcgan.py on 28x28x1, layer by layer."""
    image = ImageShape(1, 28, 28)
    networks = {"generator": KerasDCGAN().generator(image, 100), "critic": KerasDCGAN().critic(image)}
    count = {part: sum(p.numel() for p in network.parameters()) for part, network in networks.items()}
    dense, conv1, conv2, conv3 = 100 * 6272 + 6272, 128 * 128 * 9 + 128, 128 * 64 * 9 + 64, 64 * 9 + 1
    assert count["generator"] == dense + conv1 + conv2 + conv3 + 2 * (128 + 64)
    convs = (9 + 1) * 32 + (32 * 9 + 1) * 64 + (64 * 9 + 1) * 128 + (128 * 9 + 1) * 256
    assert count["critic"] == convs + 2 * (64 + 128 + 256) + 4 * 4 * 256 + 1


def test_dcgan_refuses_what_it_cannot_learn() -> None:
    with pytest.raises(ValueError, match="16 divides"):
        DCGAN().check(ImageShape(1, 28, 28))
    with pytest.raises(ValueError, match="one pixel"):
        DCGAN().check(ImageShape(1, 16, 16))
