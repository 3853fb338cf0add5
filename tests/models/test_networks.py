import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.loops import authors_networks
from pipelines.components import ConfigError, find, names
from service.configuration.recipe import load
from service.models.blocks import UpsampleConv
from service.models.networks import ImageShape, LatentNetwork, Network, TranslationNetwork
from service.models.networks.dcgan import DCGAN
from service.models.networks.dcgan_keras import KerasDCGAN
from service.models.networks.dcgan_transposed import TransposedDCGAN
from service.models.networks.mlp import MLP
from service.models.networks.mlp_keras import KerasMLP
from service.models.networks.r3gan import R3GAN, Block, Resampled
from service.models.networks.sagan import SAGAN
from service.models.networks.stargan import StarGAN
from service.models.networks.unet import UNet


@pytest.mark.parametrize("name", names("service.models.networks"))
@pytest.mark.parametrize("image", [ImageShape(1, 32, 32), ImageShape(3, 64, 64)])
def test_shapes(name: str, image: ImageShape) -> None:
    network = find("service.models.networks", name, Network)()
    network.check(image)
    if isinstance(network, LatentNetwork):
        images = network.generator(image, 7)(torch.randn(4, 7))
    else:
        assert isinstance(network, TranslationNetwork)
        images = network.translator(image._replace(channels=5), image)(torch.randn(4, 5, *image[1:]))
    assert images.shape == (4, *image)
    unbounded = name in ("pggan", "r3gan")  # Their authors' have no tanh.
    assert float(images.detach().abs().max()) <= (100 if unbounded else 1)
    logits = network.critic(image)(images)
    halvings = 3 if name == "stargan" else 4
    assert logits.shape == (4, 1 if isinstance(network, LatentNetwork) else (image.height // 2**halvings) ** 2)
    assert network.critic(image, heads=3)(images).shape == (4, logits.shape[1] + 3)


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


def test_batch_norms_may_start_as_before_torch_1_2() -> None:
    def scales(network: MLP) -> Tensor:
        layers = network.generator(ImageShape(1, 28, 28), 100).modules()
        return torch.cat([layer.weight.detach() for layer in layers if isinstance(layer, nn.BatchNorm1d)])

    assert torch.equal(scales(MLP()), torch.ones(256 + 512 + 1024))
    drawn = scales(MLP(batch_norm_scale="uniform"))
    assert 0 <= drawn.min() < 0.01 and 0.99 < drawn.max() <= 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.03)


def test_keras_dcgan_has_keras_sizes() -> None:
    """The number of trained weights of Keras-GAN's dcgan.py on 28x28x1, layer by layer."""
    image = ImageShape(1, 28, 28)
    networks = {"generator": KerasDCGAN().generator(image, 100), "critic": KerasDCGAN().critic(image)}
    count = {part: sum(p.numel() for p in network.parameters()) for part, network in networks.items()}
    dense, conv1, conv2, conv3 = 100 * 6272 + 6272, 128 * 128 * 9 + 128, 128 * 64 * 9 + 64, 64 * 9 + 1
    assert count["generator"] == dense + conv1 + conv2 + conv3 + 2 * (128 + 64)
    convs = (9 + 1) * 32 + (32 * 9 + 1) * 64 + (64 * 9 + 1) * 128 + (128 * 9 + 1) * 256
    assert count["critic"] == convs + 2 * (64 + 128 + 256) + 4 * 4 * 256 + 1


def test_keras_mlp_has_keras_sizes() -> None:
    """The number of trained weights of Keras-GAN's gan.py on 28x28x1, layer by layer."""
    image = ImageShape(1, 28, 28)
    dense = [100 * 256 + 256, 256 * 512 + 512, 512 * 1024 + 1024, 1024 * 784 + 784]
    generator = sum(p.numel() for p in KerasMLP().generator(image, 100).parameters())
    assert generator == sum(dense) + 2 * (256 + 512 + 1024)
    critic = sum(p.numel() for p in KerasMLP().critic(image).parameters())
    assert critic == 784 * 512 + 512 + 512 * 256 + 256 + 256 + 1


def test_the_reports_networks_have_its_sizes() -> None:
    """Layer by layer at 64x64x3: the final table's DCGAN, and the MLP."""
    image = ImageShape(3, 64, 64)

    def sizes(network: nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    dense, transposed, last = 100 * 2048 + 2048, 4 * (128 * 128 * 16 + 128), 128 * 3 * 64 + 3
    assert sizes(TransposedDCGAN().generator(image, 100)) == dense + transposed + last
    convolutions = (3 * 9 + 1) * 128 + 4 * (128 * 9 + 1) * 128
    assert sizes(TransposedDCGAN().critic(image)) == convolutions + 512 + 1
    mlp = load("report-mlp-dogs").network
    assert isinstance(mlp, MLP)
    layers = [100 * 256 + 256, 256 * 512 + 512, 512 * 1024 + 1024, 1024 * 12288 + 12288]
    assert sizes(mlp.generator(image, 100)) == sum(layers) + 2 * (256 + 512 + 1024)
    assert sizes(mlp.critic(image)) == 12288 * 512 + 512 + 512 * 256 + 256 + 256 * 128 + 128 + 128 + 1


def test_dcgan_refuses_what_it_cannot_learn() -> None:
    with pytest.raises(ValueError, match="16 divides"):
        DCGAN().check(ImageShape(1, 28, 28))
    with pytest.raises(ValueError, match="one pixel"):
        DCGAN().check(ImageShape(1, 16, 16))


class PublishedUNet(nn.Module):
    """PyTorch-GAN's GeneratorUNet, of any width, without dropout."""

    def __init__(self, c: int) -> None:
        super().__init__()

        def down(fan_in: int, fan_out: int, norm: bool = True) -> nn.Module:
            middle = [nn.InstanceNorm2d(fan_out)] if norm else []
            return nn.Sequential(nn.Conv2d(fan_in, fan_out, 4, 2, 1, bias=False), *middle, nn.LeakyReLU(0.2))

        def up(fan_in: int, fan_out: int) -> nn.Module:
            layer = nn.ConvTranspose2d(fan_in, fan_out, 4, 2, 1, bias=False)
            return nn.Sequential(layer, nn.InstanceNorm2d(fan_out), nn.ReLU())

        self.down = nn.ModuleList(
            [down(3, c, False), down(c, 2 * c), down(2 * c, 4 * c), down(4 * c, 8 * c),
             *(down(8 * c, 8 * c) for _ in range(3)), down(8 * c, 8 * c, False)]
        )  # fmt: skip
        self.up = nn.ModuleList(
            [
                up(8 * c, 8 * c),
                *(up(16 * c, 8 * c) for _ in range(3)),
                up(16 * c, 4 * c),
                up(8 * c, 2 * c),
                up(4 * c, c),
            ]
        )
        self.final = nn.Sequential(
            nn.Upsample(scale_factor=2), nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(2 * c, 3, 4, padding=1), nn.Tanh()
        )

    def forward(self, x: Tensor) -> Tensor:
        d1, d2, d3, d4, d5, d6, d7, d8 = [x := stage(x) for stage in self.down]
        u = self.up[0](d8)
        for stage, skip in zip(self.up[1:], (d7, d6, d5, d4, d3, d2), strict=True):
            u = stage(torch.cat([u, skip], 1))
        made: Tensor = self.final(torch.cat([u, d1], 1))
        return made


def test_unet_and_patch_critic_are_the_published_ones() -> None:
    image = ImageShape(3, 256, 256)
    x = torch.randn(2, *image, dtype=torch.float64)
    agree(UNet(channels=4, dropout=0).translator(image, image), PublishedUNet(4), x)

    def block(fan_in: int, fan_out: int, norm: bool = True) -> list[nn.Module]:
        middle = [nn.InstanceNorm2d(fan_out)] if norm else []
        return [nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1, bias=not norm), *middle, nn.LeakyReLU(0.2)]

    discriminator = nn.Sequential(
        *block(6, 4, False), *block(4, 8), *block(8, 16), *block(16, 32), nn.ZeroPad2d((1, 0, 1, 0)),
        nn.Conv2d(32, 1, 4, padding=1, bias=False), nn.Flatten(),
    )  # fmt: skip
    pair = torch.randn(2, 6, 256, 256, dtype=torch.float64)
    agree(UNet(critic_channels=4).critic(ImageShape(6, 256, 256)), discriminator, pair)
    assert discriminator(pair).shape == (2, 16 * 16)


def test_the_info_cycle_pair_is_rezer0dais() -> None:
    """GeneratorResNet and the critic of his info-cycle-sim-gan, with five blocks, by their parameters' shapes."""
    image, width = ImageShape(3, 64, 64), 64
    generator, critic = StarGAN().translator(image._replace(channels=9), image), StarGAN().critic(image, heads=6)
    norm = [(width,), (width,)], [(2 * width,), (2 * width,)], [(4 * width,), (4 * width,)]
    block = [(256, 256, 3, 3), *norm[2], (256, 256, 3, 3), *norm[2]]
    assert [tuple(p.shape) for p in generator.parameters()] == [
        (64, 9, 7, 7), *norm[0], (128, 64, 4, 4), *norm[1], (256, 128, 4, 4), *norm[2], *(5 * block),
        (256, 128, 4, 4), (128,), *norm[1], (128, 64, 4, 4), (64,), *norm[0], (3, 64, 7, 7),
    ]  # fmt: skip
    assert [tuple(p.shape) for p in critic.parameters()][:-2] == [
        (64, 3, 4, 4), (64,), (128, 64, 4, 4), (128,), *norm[1], (256, 128, 4, 4), (256,), *norm[2], (1, 256, 3, 3),
    ]  # fmt: skip
    assert critic(torch.zeros(2, *image)).shape == (2, 8 * 8 + 6)


def test_r3gan_starts_as_its_authors_does() -> None:
    """Blocks add nothing, so that an image is the learnt start, enlarged; variances stay near 1."""
    network = R3GAN(widths=(48, 48, 24), blocks=3, group_channels=8)
    generator = network.generator(ImageShape(3, 16, 16), 64)
    blocks = [module for module in generator.modules() if isinstance(module, Block)]
    assert len(blocks) == 9 and [block.layers[2].groups for block in blocks] == [12] * 6 + [6] * 3
    for block in blocks:
        first, middle, last = (block.layers[place] for place in (0, 2, 4))
        assert last.bias is None and not last.weight.any()
        for convolution in (first, middle):
            assert not convolution.bias.any()
            expected = (2 / 1.04) ** 0.5 * 9**-0.25 / convolution.weight[0].numel() ** 0.5
            assert float(convolution.weight.detach().std()) == pytest.approx(expected, rel=0.1)
    made = generator(torch.randn(200, 64, generator=torch.Generator().manual_seed(0)))
    assert 0.2 < float(made.std()) < 2


def test_r3gans_filter_keeps_what_is_even() -> None:
    """Inside, where no zeros from beyond the edge come in."""
    image = torch.full((1, 3, 8, 8), 0.7)
    for up in (True, False):
        resampled = Resampled(up)(image)
        assert resampled.shape[2:] == ((16, 16) if up else (4, 4))
        torch.testing.assert_close(resampled[..., 1:-1, 1:-1], torch.full_like(resampled[..., 1:-1, 1:-1], 0.7))


def test_r3gan_refuses_what_it_cannot_make() -> None:
    with pytest.raises(ConfigError, match=r"makes images of 32x32 with 4 widths, and not of 28x28"):
        load("r3gan-mnist", ["data.transform.size=28"])
    with pytest.raises(ConfigError, match=r"group_channels=7 must divide twice each of network\.widths"):
        load("r3gan-mnist", ["network.group_channels=7"])


def test_sagan_takes_classes_as_it_was_published() -> None:
    """As scales and shifts of the generator's norms, and by their product with what the critic finds."""
    torch.manual_seed(0)
    network, image = SAGAN(generator_channels=4, critic_channels=4), ImageShape(3, 64, 64)
    generator, critic = network.class_generator(image, 8, 5), network.class_critic(image, 5)
    alike, first, second = torch.randn(1, 8), torch.eye(5)[:1], torch.eye(5)[1:2]
    generator.eval()
    ours, theirs = (generator(torch.cat([alike, one], 1)) for one in (first, second))
    assert not torch.equal(ours, theirs)
    for name, parameter in generator.named_parameters():
        if name.endswith(("scale.weight", "shift.weight")):
            torch.nn.init.zeros_(parameter)
    assert torch.equal(*(generator(torch.cat([alike, one], 1)) for one in (first, second)))
    images, labels = torch.randn(3, *image), [4, 0, 2]
    features = critic.get_submodule("features")(images).sum((2, 3))
    assert features.shape == (3, 64)  # 16 times the width of the largest.
    projected = (features * critic.get_parameter("classes.weight").T[labels]).sum(1, keepdim=True)
    torch.testing.assert_close(
        critic(images, torch.eye(5)[labels]), critic.get_submodule("logits")(features) + projected
    )
    stages = [type(stage).__name__ for stage in generator.get_submodule("stages").children()]
    assert stages.index("SelfAttention") == 2  # After those of 8x8 and 16x16.


def test_sagan_refuses_what_it_cannot_make() -> None:
    with pytest.raises(ConfigError, match=r"makes images of 16x16, 32x32, 64x64 and so on, and not of 28x28"):
        load("sagan-mnist", ["data.transform.size=28"])
    with pytest.raises(ConfigError, match=r"features of 8, 16 pixels a side in both networks, and none of 32: set"):
        load("sagan-mnist", ["network.attention=32"])
