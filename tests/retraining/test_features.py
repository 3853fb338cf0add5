"""Feature networks by others' protocols: resizing, DINOv2 and Inception, against formulas and packages of their own."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.special import erf
from torch import Tensor

from pipelines.components import ConfigError
from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.sources.digits import Digits
from pipelines.quality.features import Features, Reference
from pipelines.quality.features.dinov2 import Dinov2
from pipelines.quality.features.inception import Inception
from pipelines.quality.resizing import bicubic
from pipelines.storage.location import Location

SIZES = [(16, 16), (28, 28), (64, 64), (96, 128), (299, 299), (500, 333)]
WIDTH, DEPTH, HEADS = 128, 2, 2


def pictures(height: int, width: int, count: int = 2, channels: int = 3) -> Tensor:
    """Noise, which goes beyond 0 and 255 where it is resized."""
    random = np.random.default_rng(height)
    return torch.from_numpy(random.integers(0, 256, (count, channels, height, width), dtype=np.uint8))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder, transform = Location.of(str(tmp_path_factory.mktemp("digits"))), Transform(size=16, channels=1)
    return Reference(folder, ingest(Digits(), transform, folder), transform, folder / "evaluations")


@pytest.mark.parametrize("size", SIZES)
def test_floats_are_resized_as_clean_fid_does_it(size: tuple[int, int]) -> None:
    images = pictures(*size)
    found = bicubic(images.float(), 299).clamp(0, 255)
    for image, resized in zip(images, found, strict=True):
        for channel, plane in zip(image, resized, strict=True):
            whole = Image.fromarray(channel.numpy().astype(np.float32), mode="F")
            expected = np.asarray(whole.resize((299, 299), resample=Image.Resampling.BICUBIC)).clip(0, 255)
            assert np.array_equal(plane.numpy(), expected)


def test_floats_are_resized_as_clean_fids_package_does_it() -> None:
    resize = pytest.importorskip("cleanfid.resize", reason="clean-fid is not installed")
    for images in (pictures(*size) for size in SIZES):
        expected = [resize.build_resizer("clean")(image.permute(1, 2, 0).numpy()) for image in images]
        found = bicubic(images.float(), 299).clamp(0, 255).permute(0, 2, 3, 1)
        assert np.array_equal(found.numpy(), np.stack(expected))


def test_bytes_are_resized_as_dgm_eval_asks_torchvision_to() -> None:
    transforms = pytest.importorskip("torchvision.transforms", reason="torchvision is not installed")
    resize = transforms.Compose(
        [transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC), transforms.ToTensor()]
    )
    for images in (pictures(*size) for size in SIZES):
        expected = [resize(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images]
        assert torch.equal(bicubic(images, 224) / 255, torch.stack(expected))


@pytest.mark.parametrize("size", SIZES)
def test_bytes_are_resized_as_pillow_resizes_a_picture(size: tuple[int, int]) -> None:
    images = pictures(*size)
    found = bicubic(images, 224)
    assert found.dtype == torch.uint8
    for image, resized in zip(images, found, strict=True):
        whole = Image.fromarray(image.permute(1, 2, 0).numpy(), mode="RGB").resize((224, 224), Image.Resampling.BICUBIC)
        assert np.array_equal(resized.permute(1, 2, 0).numpy(), np.asarray(whole))


def drawn_weights(positions: int = 25) -> dict[str, Tensor]:
    """A small DINOv2 that has learnt nothing, by its authors' names."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    found = {"cls_token": draw(1, 1, WIDTH), "pos_embed": draw(1, positions + 1, WIDTH), "mask_token": draw(1, WIDTH)}
    found |= {"patch_embed.proj.weight": draw(WIDTH, 3, 14, 14) / 24, "patch_embed.proj.bias": draw(WIDTH)}
    shapes = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
    shapes |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
    for block in range(DEPTH):
        prefix = f"blocks.{block}."
        found |= {f"{prefix}{name}.gamma": draw(WIDTH) for name in ("ls1", "ls2")}
        for name, (out, into) in shapes.items():
            found |= {f"{prefix}{name}.weight": draw(out, into) / into**0.5, f"{prefix}{name}.bias": draw(out)}
        found |= {f"{prefix}norm{at}.{kind}": draw(WIDTH) for at in (1, 2) for kind in ("weight", "bias")}
    return found | {f"norm.{kind}": draw(WIDTH) for kind in ("weight", "bias")}


def written(weights: Mapping[str, object], file: Path) -> bytes:
    content = io.BytesIO()
    torch.save(dict(weights), content)
    file.write_bytes(content.getvalue())
    return content.getvalue()


def opened(file: Path, reference: Reference, images: Tensor) -> tuple[Features, str]:
    network, name = Dinov2(weights=str(file)).open(reference, print)
    return Features(*network(images)), name


def cubic(apart: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel with the slope -0.75, which torch takes."""
    x, a = np.abs(apart), -0.75
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def class_tokens(weights: Mapping[str, Tensor], images: Tensor) -> NDArray[np.float64]:
    """DINOv2's, in float64: its paper's network, its code's way with positions, images as dgm-eval resizes them."""
    given = {name: tensor.double().numpy() for name, tensor in weights.items()}

    def norm(values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        apart = values - values.mean(-1, keepdims=True)
        scaled = apart / np.sqrt((apart**2).mean(-1, keepdims=True) + 1e-6)
        return np.asarray(scaled * given[f"{name}.weight"] + given[f"{name}.bias"])

    def linear(values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return np.asarray(values @ given[f"{name}.weight"].T + given[f"{name}.bias"])

    side = int((given["pos_embed"].shape[1] - 1) ** 0.5)
    at = (np.arange(16) + 0.5) * side / 16.1 - 0.5  # The authors' offset of 0.1.
    taps = np.floor(at)[:, None] + np.arange(-1, 3)
    grid = given["pos_embed"][0, 1:].reshape(side, side, WIDTH)
    mixing = np.zeros((16, side))
    for tap in range(4):
        np.add.at(mixing, (np.arange(16), taps[:, tap].clip(0, side - 1).astype(int)), cubic(at - taps[:, tap]))
    positions = np.einsum("ya,xb,abc->yxc", mixing, mixing, grid).reshape(256, WIDTH)

    made = []
    for image in images:
        whole = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC)
        pixels = (np.asarray(whole) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        patches = pixels.reshape(16, 14, 16, 14, 3).transpose(0, 2, 4, 1, 3).reshape(256, -1)
        kernel = given["patch_embed.proj.weight"].reshape(WIDTH, -1)
        tokens = patches @ kernel.T + given["patch_embed.proj.bias"] + positions
        tokens = np.concatenate([given["cls_token"][0] + given["pos_embed"][0, :1], tokens])
        for block in range(DEPTH):
            prefix = f"blocks.{block}."
            mixed = linear(norm(tokens, f"{prefix}norm1"), f"{prefix}attn.qkv").reshape(257, 3, HEADS, WIDTH // HEADS)
            query, key, value = mixed.transpose(1, 2, 0, 3)
            looks = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(WIDTH // HEADS))
            seen = (looks / looks.sum(-1, keepdims=True) @ value).transpose(1, 0, 2).reshape(257, WIDTH)
            tokens = tokens + given[f"{prefix}ls1.gamma"] * linear(seen, f"{prefix}attn.proj")
            inner = linear(norm(tokens, f"{prefix}norm2"), f"{prefix}mlp.fc1")
            inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
            tokens = tokens + given[f"{prefix}ls2.gamma"] * linear(inner, f"{prefix}mlp.fc2")
        made.append(norm(tokens, "norm")[0])
    return np.stack(made)


def test_dinov2s_features_are_its_class_token(reference: Reference, tmp_path: Path) -> None:
    weights, images = drawn_weights(), pictures(32, 40)
    content = written(weights, tmp_path / "weights.pth")
    found, name = opened(tmp_path / "weights.pth", reference, images)
    expected = class_tokens(weights, images)
    assert np.abs(found.values.numpy() - expected).max() < 1e-5 * np.abs(expected).max()
    assert name == f"dinov2-{hashlib.sha256(content).hexdigest()[:16]}"
    assert found.classes.tolist() == [-1, -1] and found.logits is None


def test_dinov2_sees_grey_images_in_three_equal_channels(reference: Reference, tmp_path: Path) -> None:
    images = pictures(28, 28, channels=1)
    written(drawn_weights(positions=256), tmp_path / "weights.pth")
    grey, _ = opened(tmp_path / "weights.pth", reference, images)
    coloured, _ = opened(tmp_path / "weights.pth", reference, images.repeat(1, 3, 1, 1))
    assert torch.equal(grey.values, coloured.values)


def test_dinov2s_features_are_those_of_timm(reference: Reference, tmp_path: Path) -> None:
    """Which resizes positions in a way of its own, so they are of the right size from the start."""
    timm = pytest.importorskip("timm.models.vision_transformer", reason="timm is not installed")
    theirs = timm.VisionTransformer(
        img_size=224, patch_size=14, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, init_values=1.0, num_classes=0
    ).eval()
    weights, images = drawn_weights(positions=256), pictures(224, 224)
    theirs.load_state_dict({name: tensor for name, tensor in weights.items() if name != "mask_token"})
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = theirs((images / 255 - mean) / deviation)
    written(weights, tmp_path / "weights.pth")
    found, _ = opened(tmp_path / "weights.pth", reference, images)
    assert float((found.values - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_dinov2s_weights_are_the_users_and_looked_at(reference: Reference, tmp_path: Path) -> None:
    file, weights = tmp_path / "weights.pth", drawn_weights()
    with pytest.raises(ConfigError, match=r"features\.weights: .*weights\.pth cannot be read.*fetch https"):
        opened(file, reference, pictures(16, 16))
    spoilt: list[Mapping[str, object]] = [
        {"norm.weight": torch.ones(3)},
        {**weights, "register_tokens": torch.ones(1, 4, WIDTH)},
        {name: tensor for name, tensor in weights.items() if name != "blocks.1.ls2.gamma"},
        {**weights, "norm.bias": torch.ones(3)},
        {"model": weights},
    ]
    for wrong in spoilt:
        written(wrong, file)
        with pytest.raises(ConfigError, match=r"weights\.pth is no DINOv2 without registers \(.*\): fetch https"):
            opened(file, reference, pictures(16, 16))
    for content in (b"", b"no weights at all", written(weights, file)[:2000]):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match="is no DINOv2"):
            opened(file, reference, pictures(16, 16))


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Of an Inception that has learnt nothing, and their SHA-256."""
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_: object, **__: object) -> None:
            """Keeps the weights that it draws."""

    file = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, file)
    torch.manual_seed(0)
    network = Blank("inception", ["2048"], feature_extractor_weights_path=str(file))
    torch.save(network.state_dict(), file)
    return file, hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("layer", ["64", "192", "768", "2048"])
def test_inception_sees_what_needs_no_resizing_alike_in_both_ways(
    inception_weights: tuple[Path, str], layer: str, reference: Reference
) -> None:
    file, sha256 = inception_weights
    given = {"weights": str(file), "sha256": sha256, "layer": layer}
    images = pictures(299, 299)
    seen = []
    for resize, way in (("tensorflow", ""), ("clean", "clean-")):
        network, name = Inception.model_validate({**given, "resize": resize}).open(reference, print)
        assert name == f"inception-{layer}-{way}{sha256[:16]}"
        seen.append(Features(*network(images)))
        small = Features(*network(pictures(32, 32, channels=1)))
        assert small.values.shape == (2, int(layer)) and small.classes.tolist() == [-1, -1]
    assert torch.allclose(seen[0].values, seen[1].values, rtol=1e-5, atol=1e-6)
    if layer != "2048":
        assert seen[0].logits is None and seen[1].logits is None
        return
    assert seen[0].logits is not None and seen[1].logits is not None and seen[0].logits.shape == (2, 1008)
    assert torch.allclose(seen[0].logits, seen[1].logits, rtol=1e-5, atol=1e-6)
