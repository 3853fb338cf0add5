"""Terms of what is made, several critics, and augmentation: against their definitions."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.components import ConfigError
from pipelines.storage.location import Location
from service.configuration.recipe import load
from service.losses.terms.perceptual import Perceptual
from service.losses.terms.total_variation import TotalVariation
from service.models.networks import ImageShape
from service.models.networks.dcgan import DCGAN
from service.models.vgg import Features, features_from
from service.replicas.collectives import OneReplica
from service.replicas.global_batch import GlobalBatch
from service.tasks import Samples
from service.tasks.paired import Paired
from service.tasks.unconditional import Unconditional
from service.training.augmentation import Augmentation
from service.training.critics.critic_set import CriticRole, CriticSet

PAIRED = [
    "task=paired", "data.source={name: pairs, uri: nowhere}", "data.transform.size=32",
    "network={name: unet, channels: 2, critic_channels: 2}",
]  # fmt: skip


def random_images(count: int, channels: int = 3, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, channels, side, side, generator=generator, dtype=torch.float64) * 2 - 1


def test_total_variation_is_of_neighbours() -> None:
    images = random_images(2, 1, 3)
    found = TotalVariation(weight=0.5).build(torch.device("cpu"), torch.float64)(images, None)
    for sample, image in enumerate(images[:, 0].tolist()):
        across = [abs(image[row][column] - image[row][column + 1]) for row in range(3) for column in range(2)]
        down = [abs(image[row][column] - image[row + 1][column]) for row in range(2) for column in range(3)]
        assert float(found[sample]) == pytest.approx(0.5 * (sum(across) / 6 + sum(down) / 6), rel=1e-12)


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG16's shapes, with random values."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    # As torchvision's file, which holds later layers and the classifier too.
    torch.save({**Features().state_dict(), "classifier.0.bias": torch.zeros(3)}, file)
    return file


def poolings(file: Path, images: Tensor) -> list[Tensor]:
    """torchvision's vgg16().features, up to the third pooling, by its layers' numbers."""
    weights = {name: value.double() for name, value in torch.load(file).items()}
    x = images.expand(-1, 3, -1, -1)
    x = (x + 1) / 2
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()
    x = (x - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    found = []
    for layer in (0, 2, "pool", 5, 7, "pool", 10, 12, 14, "pool"):
        if layer == "pool":
            x = F.max_pool2d(x, 2)
            found.append(x)
        else:
            x = F.relu(F.conv2d(x, weights[f"features.{layer}.weight"], weights[f"features.{layer}.bias"], padding=1))
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_perceptual_and_style_terms_are_of_vggs_poolings(vgg: Path, channels: int) -> None:
    made, target = random_images(2, channels).requires_grad_(), random_images(4, channels)[2:]
    term = Perceptual(weights=str(vgg), weight=2.0, style_weight=3.0)
    term.check()
    found = term.build(torch.device("cpu"), torch.float64)(made, target)
    expected = made.new_zeros(2)
    for ours, theirs in zip(poolings(vgg, made), poolings(vgg, target), strict=True):
        count, width, height, across = ours.shape
        expected = expected + 2.0 * (ours - theirs).abs().mean((1, 2, 3))
        grams = [
            torch.einsum("nchw,ndhw->ncd", features, features) / (width * height * across)
            for features in (ours, theirs)
        ]
        expected = expected + 3.0 * (grams[0] - grams[1]).abs().mean((1, 2))
        assert count == 2
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    ours, theirs = (torch.autograd.grad(value.sum(), made)[0] for value in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)
    assert len(term.build(torch.device("cpu"), torch.float64)(made[:0], target[:0])) == 0


def test_vgg_is_refused_clearly(vgg: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"VGG16 are missing; give terms.perceptual.weights=URI"):
        load("digits", [*PAIRED, "terms=[perceptual]"])
    with pytest.raises(ConfigError, match=r"nowhere\.pth is no file"):
        load("digits", [*PAIRED, "terms=[{name: perceptual, weights: nowhere.pth}]"])
    with pytest.raises(ConfigError, match="no true images to compare with"):
        load("digits", [f"terms=[{{name: perceptual, weights: {vgg}}}]"])
    assert load("digits", [*PAIRED, "terms=[perceptual]", f"terms.perceptual.weights={vgg}"]).terms
    with pytest.raises(ConfigError, match="holds no weights of VGG16"):
        load("digits", [*PAIRED, f"terms=[{{name: perceptual, weights: {__file__}}}]"])
    for name, content in (("other.pth", b"no weights"), ("other.safetensors", b"no weights")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match="holds no weights of VGG16"):
            features_from(Location.of(str(tmp_path / name)))
    save_file(Features().state_dict(), tmp_path / "vgg.safetensors")
    assert features_from(Location.of(str(tmp_path / "vgg.safetensors")))


def test_a_panel_judges_the_same_images_at_several_scales() -> None:
    panel, network, image = CriticSet(count=2, scales=2), DCGAN(critic_stages=2), ImageShape(1, 16, 16)
    assert panel.roles(["b", "a"]) == {
        "b": CriticRole("b", 0), "b_2": CriticRole("b", 0), "b_3": CriticRole("b", 1), "b_4": CriticRole("b", 1),
        "a": CriticRole("a", 0), "a_2": CriticRole("a", 0), "a_3": CriticRole("a", 1), "a_4": CriticRole("a", 1),
    }  # fmt: skip
    critics = panel.critics(Unconditional(), network, image).eval().double()
    images = random_images(3, 1)
    assert list(critics) == ["image", "image_2", "image_3", "image_4"]
    small = critics["image_3"]
    assert isinstance(small.critic, nn.Module)
    torch.testing.assert_close(small(images), small.critic(F.max_pool2d(images, 2)), rtol=1e-12, atol=1e-12)
    assert not torch.equal(critics["image"](images), critics["image_2"](images))
    averaged = CriticSet(scales=2, pooling="average").critics(Paired(), DCGAN(critic_stages=2), image).eval().double()
    halves = [F.avg_pool2d(values, 3, 2, 1, count_include_pad=False) for values in (images, -images)]
    small = averaged["image_2"]
    assert isinstance(small.critic, nn.Module)
    torch.testing.assert_close(small(images, -images), small.critic(*halves), rtol=1e-12, atol=1e-12)
    with pytest.raises(ConfigError, match=r"critics.scales: .* one pixel of 8x8 .* or critics.scales lower"):
        load("digits", ["critics.scales=2"])
    with pytest.raises(ConfigError, match="a network that grows has its own sizes"):
        load("digits", ["network=pggan", "critics.scales=2"])
    with pytest.raises(ConfigError, match="cannot be halved 5 times"):
        load("digits", ["critics.scales=6", "network.critic_stages=1"])


def new_batch(size: int, first: int = 0, count: int | None = None) -> GlobalBatch:
    batch = GlobalBatch(size, 1, 0, OneReplica(), torch.device("cpu"), torch.float64)
    batch.start(0, first, size if count is None else count)
    return batch


def test_augmentation_is_the_same_for_partners_and_on_any_replica() -> None:
    images = random_images(40)
    whole = Samples(images, torch.zeros(40), -images, (images,))
    options = Augmentation(flip=0.5, jitter=1.25)
    done = options.of(whole, new_batch(40))
    assert done.images.shape == images.shape
    assert done.paired is not None
    torch.testing.assert_close(done.paired, -done.images, rtol=1e-12, atol=1e-12)
    assert not torch.equal(done.others[0], done.images)
    part = options.of(whole.part(slice(10, 25)), new_batch(40, 10, 15))
    torch.testing.assert_close(part.images, done.images[10:25], rtol=1e-12, atol=1e-12)
    assert Augmentation().of(whole, new_batch(40)) is whole


def test_a_jittered_image_is_a_part_of_the_enlarged_one() -> None:
    images = random_images(60, 1, 8)
    done = Augmentation(jitter=1.25).of(Samples(images, torch.zeros(60)), new_batch(60)).images
    enlarged = F.interpolate(images, (10, 10), mode="bicubic").clamp(-1, 1)
    places = set()
    for image, large in zip(done, enlarged, strict=True):
        found = [
            (top, left)
            for top in range(3)
            for left in range(3)
            if torch.allclose(image, large[:, top : top + 8, left : left + 8], atol=1e-6)
        ]
        assert len(found) == 1
        places.update(found)
    assert places == {(top, left) for top in range(3) for left in range(3)}
    flipped = Augmentation(flip=0.5).of(Samples(images, torch.zeros(60)), new_batch(60)).images
    mirrored = [torch.equal(now, then.flip(2)) for now, then in zip(flipped, images, strict=True)]
    assert all(torch.equal(now, then) for now, then, is_ in zip(flipped, images, mirrored, strict=True) if not is_)
    assert 15 < sum(mirrored) < 45
