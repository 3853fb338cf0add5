"""Several labels an image: what networks are told of them, on any number of replicas, and what a user may ask for."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.evaluate.evaluation import evaluate
from pipelines.evaluate.protocol import protocol
from pipelines.storage.location import Location
from service.artifacts.generator_folder import write_generator
from service.configuration.recipe import load
from service.generator import Generator, GeneratorError
from service.models.networks import ImageShape, LatentNetwork
from service.models.networks.mlp import MLP
from service.models.networks.sagan import SAGAN
from service.models.networks.stargan import StarGAN
from service.replicas.collectives import OneReplica
from service.replicas.global_batch import GlobalBatch
from service.tasks import Samples
from service.tasks.attribute_cycle import AttributeCycle
from service.tasks.attributes import Attributes
from service.train import main as train_main
from tests.conftest import called
from tests.made_data import ToldDigits
from tests.processes import run_replicas
from tests.replicas.test_exact import assert_equal, train
from tests.replicas.test_replicas import SAGAN as TINY_SAGAN
from tests.replicas.test_replicas import build, compare, train_all

TOLD = "task={name: attributes, attributes: 4}"
NAMES = ("eight", "four", "two", "one")
IMAGE = ImageShape(1, 16, 16)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Location:
    folder = Location.of(str(tmp_path_factory.mktemp("told")))
    ingest(ToldDigits(), Transform(size=16, channels=1, resample="bicubic"), folder)
    return folder


def real(count: int = 6) -> Samples:
    torch.manual_seed(0)
    return Samples(torch.randn(count, *IMAGE).double(), torch.randint(0, 2, (count, 4)))


def new_batch() -> GlobalBatch:
    batch = GlobalBatch(6, 1, 0, OneReplica(), torch.device("cpu"), torch.float64)
    batch.start(0, 0, 6)
    return batch


def test_each_image_is_made_and_judged_with_the_attributes_of_a_real_one() -> None:
    """The generator by its inputs, the critic by a plane: the sum of those of the attributes that are there."""
    task, network, samples = Attributes(attributes=4), MLP(latent_dim=5), real()
    generator, critic = task.generator(network, IMAGE).double().eval(), task.critic(network, IMAGE).double()
    draw = task.draw(network, new_batch())
    view = task.make(generator, draw, samples).views["image"]
    told = samples.labels.double()
    assert torch.equal(view.images, generator(torch.cat([draw["latents"], told], 1)))
    for given in (view.given, task.seen(samples)["image"].given):
        assert given is not None and torch.equal(given, told)
    planes = critic.get_parameter("planes.weight")
    expected = torch.stack([planes[:, row.nonzero()[:, 0]].sum(1) for row in samples.labels]).view(6, 1, 16, 16)
    logits = critic.get_submodule("critic")(torch.cat([samples.images, expected], 1))
    torch.testing.assert_close(critic(samples.images, told), logits, rtol=1e-12, atol=1e-12)


def test_a_projection_critic_adds_the_attributes_up() -> None:
    critic, samples = Attributes(attributes=4).critic(SAGAN(critic_channels=2), IMAGE).double(), real()
    told = samples.labels.double()
    none = torch.zeros_like(told)
    single = [critic(samples.images, none.index_fill(1, torch.tensor(at), 1)) for at in range(4)]
    alone = critic(samples.images, none)
    summed = alone + sum(told[:, at : at + 1] * (one - alone) for at, one in enumerate(single))
    torch.testing.assert_close(critic(samples.images, told), summed, rtol=1e-9, atol=1e-9)


def test_carried_images_have_one_attribute_changed() -> None:
    """StarGAN's losses, with the codes and weights of `info_cycle`."""
    task, samples = AttributeCycle(domains=4, codes=2), real()
    network, batch = StarGAN(channels=2, blocks=1, critic_channels=2), new_batch()
    generator = task.generator(network, IMAGE).double().eval()
    draw = task.draw(network, batch)
    view = task.make(generator, draw, samples).views["image"]
    here = samples.labels.double()
    changed = draw["changed"].argmax(1)
    there = here.clone()
    for row, at in enumerate(changed.tolist()):
        there[row, at] = 1 - here[row, at]
    assert len(set(changed.tolist())) > 1
    assert torch.equal(view.images, generator(samples.images, there, draw["codes"]))
    assert view.kinds is None and task.seen(samples)["image"].kinds is None
    on_fake, on_real = torch.randn(2, 6, 6, dtype=torch.float64)
    found = task.head_terms(on_fake, on_real, draw, samples)
    for name, said, truth, weight in (("domain", on_fake, there, 0.6), ("label", on_real, here, 0.4)):
        right = torch.sigmoid(said[:, :4])
        entropy = -(truth * right.log() + (1 - truth) * (1 - right).log()).sum(1)
        torch.testing.assert_close(found[name], weight * entropy, rtol=1e-10, atol=1e-12)
    shown = task.examples(network, 0, 6, torch.device("cpu"), samples)["domain"]
    assert (shown - here).abs().argmax(1).tolist() == [0, 1, 2, 3, 0, 1]
    assert ((shown - here).abs().sum(1) == 1).all()


RUNS = {
    "joint": ["batch.size=20", TOLD],
    "alternating, projection": ["batch.size=18", TINY_SAGAN, TOLD, "scheme=alternating", "regularizers=[r1]"],
    "shares without rows": ["batch.size=3", TOLD, "scheme=alternating"],
    "carried": [
        "batch.size=6", "task={name: attribute_cycle, domains: 4, codes: 2}",
        "network={name: stargan, channels: 2, blocks: 1, critic_channels: 2, critic_stages: 2}",
    ],
}  # fmt: skip


def test_two_replicas_give_the_weights_of_one(data: Location) -> None:
    expected, found = (run_replicas(count, train_all, data.path, RUNS, 6) for count in (1, 2))
    compare(2, 6, found, expected, 1e-9)


def test_exact_replicas_agree_to_the_last_bit(data: Location) -> None:
    alone, two = (run_replicas(count, train, {16: data.path}, RUNS, "float32", 3) for count in (1, 2))
    assert_equal(two, alone)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=attributes"], "task attributes: wants 40 attributes, and {} has 4 attributes"),
        (["task=conditional"], "task conditional: wants one label an image, and {} has 4 attributes"),
    ],
)
def test_other_labels_than_the_tasks_are_refused_before_ray_starts(
    words: list[str], message: str, data: Location, tmp_path: Path
) -> None:
    code, _, err = called(train_main, "digits", *words, f"data.shards={data}", f"storage={tmp_path}")
    assert (code, err.count("\n")) == (2, 1)
    assert message.format(data) in err


def test_so_are_single_labels(digits: Location, tmp_path: Path) -> None:
    code, _, err = called(train_main, "digits", TOLD, f"data.shards={digits}", f"storage={tmp_path}")
    assert (code, err.count("\n")) == (2, 1)
    assert f"task attributes: wants 4 attributes, and {digits} has no attributes" in err


@pytest.fixture(scope="module")
def generator(data: Location, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    """Of a run of two steps."""
    run, replica = build(["batch.size=18", TOLD], 0, 1, data.path)
    for step in range(2):
        replica.step(step)
    assert replica.generate(12, 0).shape == (12, *run.image)
    folder = tmp_path_factory.mktemp("generator")
    write_generator(run, replica.state(2), folder, {}, NAMES)
    replica.close()
    return Generator.read(folder)


def test_a_user_chooses_attributes_by_name_or_number(generator: Generator) -> None:
    assert generator.classes == NAMES
    some = generator.make(3, 1, "four,one")
    assert torch.equal(some, generator.make(3, 1, "one, four")) and torch.equal(some, generator.make(3, 1, "1,3"))
    assert isinstance(generator.network, LatentNetwork)
    latents = generator.task.examples(generator.network, 1, 12, torch.device("cpu"))["latents"][::4]
    told = torch.tensor([[0.0, 1.0, 0.0, 1.0]]).expand(3, -1)
    assert torch.equal(some, generator.images({"latents": latents, "attributes": told}))
    assert torch.equal(generator.make(3, 1, ""), generator.images({"latents": latents, "attributes": 0 * told}))
    assert torch.equal(generator.make(8, 1)[2::4], generator.make(2, 1, "two")), "each alone in turn"
    assert generator.between(3, 1, "four,one").shape == (3, *IMAGE)
    with pytest.raises(GeneratorError, match="no class is called 'five'; "):
        generator.make(1, 1, "four,five")
    with pytest.raises(GeneratorError, match="label: 4 is none of this model's, 0 to 3"):
        generator.make(1, 1, "0,4")


def test_an_evaluation_makes_images_of_the_attributes_that_real_ones_have(
    generator: Generator, data: Location, tmp_path: Path
) -> None:
    words = ["dtype=float64", "batch.size=18", TOLD, f"data.shards={data}", f"evaluation.cache={tmp_path}"]
    sizes = ["network.generator_channels=8", "network.critic_channels=4", "network.latent_dim=8"]
    judged = protocol(
        load("digits", [*words, *sizes, "evaluation.samples=40", "evaluation.features={name: classifier, steps: 5}"]),
        Console(quiet=True),
    )
    figures = evaluate(judged, generator)
    assert figures.class_coverage is None, "there are no classes"
    assert figures.fid > 0 and evaluate(judged, generator) == figures
