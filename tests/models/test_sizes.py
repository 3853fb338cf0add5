"""Images need not be squares: what networks make of other shapes, and what is refused."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from pipelines.components import ConfigError, find, names
from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.sources.digits import Digits
from pipelines.evaluate.evaluation import evaluate
from pipelines.evaluate.protocol import protocol
from pipelines.storage.location import Location
from service.artifacts.generator_folder import write_generator
from service.configuration.recipe import load
from service.configuration.tree import dump
from service.generator import Generator
from service.models.networks import ClassNetwork, ImageShape, LatentNetwork, Network, TranslationNetwork
from service.tracking.sample_grids import grid
from tests.processes import run_replicas
from tests.replicas.test_exact import assert_equal, train
from tests.replicas.test_replicas import build, compare, train_all

NETWORKS = [name for name in names("service.models.networks") if name != "pggan"]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(64, 32), (32, 64), (48, 64)])
def test_networks_make_and_judge_images_that_are_no_squares(name: str, size: tuple[int, int]) -> None:
    """Whole ones: no pixel is without a gradient."""
    torch.manual_seed(0)
    image = ImageShape(3, *size)
    network = find("service.models.networks", name, Network)()
    network.check(image)
    if isinstance(network, LatentNetwork):
        made = network.generator(image, 7)(torch.randn(2, 7))
    else:
        assert isinstance(network, TranslationNetwork)
        made = network.translator(image._replace(channels=5), image)(torch.randn(2, 5, *size))
    assert made.shape == (2, *image)
    images = made.detach().requires_grad_()
    logits = network.critic(image, heads=3).eval()(images)
    halved = 8 if name == "stargan" else 16
    patches = size[0] // halved * (size[1] // halved)
    assert logits.shape == (2, 3 + (1 if isinstance(network, LatentNetwork) else patches))
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    assert gradient.abs().sum((0, 1)).all()
    if isinstance(network, ClassNetwork):
        chosen = torch.eye(4)[:2]
        assert network.class_generator(image, 7, 4)(torch.cat([torch.randn(2, 7), chosen], 1)).shape == (2, *image)
        assert network.class_critic(image, 4)(images, chosen).shape == (2, 1)


def test_networks_that_double_start_where_one_side_is_4() -> None:
    assert ImageShape(3, 64, 64).starts() == {4: (4, 4)}
    assert ImageShape(3, 64, 32).starts() == {3: (8, 4), 4: (4, 2)}
    assert ImageShape(3, 48, 64).starts() == {4: (3, 4)}
    assert ImageShape(3, 96, 64).starts() == {4: (6, 4)}
    assert ImageShape(3, 4, 4).starts() == {0: (4, 4)}
    assert ImageShape(3, 28, 28).starts() == ImageShape(3, 40, 24).starts() == {}


OBLONG = "data.transform.size=[32,16]"
REFUSED = [
    (["network=pggan", OBLONG],
     r"pggan needs square images .* not 32x16 \(height x width\): set data.transform.size"),
    (["network=sagan", "data.transform.size=[40,24]"], r"and not of 40x24 \(height x width\): set data.transform.size"),
    (["network=sagan", OBLONG, "network.attention=32"], "features of 8, 16 pixels in height in both networks"),
    (["network=dcgan_transposed", "data.transform.size=[40,24]"], "makes images of 8x8, 16x16, 32x32 and so on"),
    (["network=r3gan", OBLONG, "network.widths=[8,8,8,8,8]"], "and not of 32x16 .*: give 3 or 4 network.widths"),
    (["network=r3gan", "data.transform.size=[40,24]"], "set data.transform.size to a power of 2, or to .height, width"),
    (["data.transform.size=[28,16]"], r"sides that 8 divides, not 28x16 \(height x width\)"),
    (["data.transform.size=[32]"], r"^data.transform.size: \[32\] is not valid: give the side of squares, or \[height, "
     r"width\], in pixels, 4 at least$"),
    (["data.transform.size=3"], "^data.transform.size: 3 is not valid: give the side"),
    (["data.transform.size=[32,no]"], "^data.transform.size: .*False.* is not valid: give the side"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_cannot_be_is_refused_in_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load("digits", words)
    assert "\n" not in str(caught.value)


def test_two_equal_sides_are_one() -> None:
    """So that the same images have the same recipe, data set and name."""
    square, told = load("digits", ["data.transform.size=32"]), load("digits", ["data.transform.size=[32,32]"])
    assert square == told and square.data.transform.size == 32
    oblong = load("digits", [OBLONG])
    assert oblong.image == ImageShape(1, 32, 16) and dump(oblong)["data"]["transform"]["size"] == [32, 16]
    assert oblong.recipe_hash != load("digits", ["data.transform.size=[16,32]"]).recipe_hash


TINY = "network={name: dcgan, generator_channels: 8, critic_channels: 4, latent_dim: 8}"
SAGAN = "network={name: sagan, latent_dim: 8, generator_channels: 2, critic_channels: 2}"
RUNS = {
    "joint, critics at two scales, changed images": [
        OBLONG, "batch.size=20", TINY, "critics.scales=2", "network.critic_stages=2", "terms=total_variation",
        "augmentation={flip: 0.5, jitter: 1.2}", "regularizers=[diff_augment, {name: ada, probability: 0.5}]",
    ],
    "alternating, classes, attention": [
        OBLONG, "batch.size=18", SAGAN, "task=conditional", "scheme=alternating", "regularizers=[r1]",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = Location.of(str(tmp_path_factory.mktemp("oblong")))
    ingest(Digits(), Transform(size=(32, 16), channels=1, resample="bicubic"), folder)
    return folder.path


def test_a_model_of_such_images_is_written_read_and_judged(shards: str, tmp_path: Path) -> None:
    run, replica = build([OBLONG, "batch.size=20", TINY], 0, 1, shards)
    replica.step(0)
    write_generator(run, replica.state(1), tmp_path / "generator", {})
    replica.close()
    generator = Generator.read(tmp_path / "generator")
    assert generator.make(3, 0).shape == (3, 1, 32, 16)
    assert grid(generator.make(3, 0)).size == (2 * (2 + 2 * (16 + 2)), 2 * (2 + 2 * (32 + 2)))
    words = [f"data.shards={shards}", "evaluation.samples=40", f"evaluation.cache={tmp_path / 'kept'}"]
    features = "evaluation.features={name: classifier, steps: 5}"
    judged = protocol(load("digits", [OBLONG, TINY, *words, features]), Console(quiet=True))
    assert evaluate(judged, generator).fid > 0


def test_two_replicas_give_the_weights_of_one_on_images_that_are_no_squares(shards: str) -> None:
    expected, found = (run_replicas(count, train_all, shards, RUNS, 6) for count in (1, 2))
    compare(2, 6, found, expected, 1e-9)


def test_exact_replicas_agree_to_the_last_bit_on_images_that_are_no_squares(shards: str) -> None:
    alone, two = (run_replicas(count, train, {16: shards}, RUNS, "float32", 3) for count in (1, 2))
    assert_equal(two, alone)
