"""Tasks: their terms against formulas written out, pools against the notebook's buffer, and on several replicas."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.artifacts import checkpoints
from service.configuration.recipe import load
from service.models.networks import ImageShape, TranslationNetwork
from service.models.networks.dcgan import DCGAN
from service.models.networks.resnet import ResNet
from service.models.networks.stargan import StarGAN
from service.models.networks.unet import UNet
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.replicas.collectives import OneReplica
from service.replicas.global_batch import GlobalBatch
from service.runs.on_replica.replica import Replica
from service.tasks import Samples, Task, View
from service.tasks.info import Info
from service.tasks.info_cycle import InfoCycle
from service.tasks.paired import Paired
from service.tasks.unpaired import Unpaired
from service.training.critics.critic_set import CriticSet
from service.training.critics.image_pool import Pools
from tests.made_data import FewKinds, pairs
from tests.processes import run_replicas
from tests.replicas.test_replicas import weights, whole_distance

STEPS = 6
IMAGE, SIZE = ImageShape(3, 32, 32), 6
NETWORK = ResNet(channels=2, blocks=1, critic_channels=2)


def images(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(SIZE, *IMAGE, generator=generator, dtype=torch.float64) * 2 - 1


def new_batch() -> GlobalBatch:
    batch = GlobalBatch(SIZE, 1, 0, OneReplica(), torch.device("cpu"), torch.float64)
    batch.start(0, 0, SIZE)
    return batch


def doubled(task: Task) -> tuple[nn.Module, nn.ModuleDict]:
    generator, critics = task.generator(NETWORK, IMAGE), CriticSet().critics(task, NETWORK, IMAGE)
    return generator.double(), critics.double()


def l1(value: Tensor, other: Tensor) -> float:
    return float(F.l1_loss(value, other))


def test_paired_terms_are_pix2pixs() -> None:
    a, b, labels = images(0), images(1), torch.zeros(SIZE, dtype=torch.int64)
    generator, critics = doubled(Paired())
    made = Paired().make(generator, {}, Samples(a, labels, b))
    assert float(made.terms["distance"].mean()) == pytest.approx(100 * l1(generator(b), a), rel=1e-12)
    view = made.views["image"]
    assert view.given is not None
    assert torch.equal(view.given, b)
    expected = critics["image"].get_submodule("critic")(torch.cat([view.images, b], 1))
    assert torch.equal(critics["image"](view.images, view.given), expected)
    other_way = Paired(makes="paired").make(generator, {}, Samples(a, labels, b))
    assert float(other_way.terms["distance"].mean()) == pytest.approx(100 * l1(generator(a), b), rel=1e-12)


def test_unpaired_terms_are_the_notebooks() -> None:
    a, b = images(0), images(1)
    generator, _ = doubled(Unpaired())
    assert isinstance(generator, nn.ModuleDict)
    made = Unpaired().make(generator, {}, Samples(a, torch.zeros(SIZE, dtype=torch.int64), others=(b,)))
    g_ab, g_ba = generator["a_to_b"], generator["b_to_a"]
    cycle = 10 * (l1(g_ba(g_ab(a)), a) + l1(g_ab(g_ba(b)), b)) / 2
    identity = 5 * (l1(g_ba(a), a) + l1(g_ab(b), b)) / 2
    assert float(made.terms["cycle"].mean()) == pytest.approx(cycle, rel=1e-12)
    assert float(made.terms["identity"].mean()) == pytest.approx(identity, rel=1e-12)
    assert torch.equal(made.views["b"].images, g_ab(a))
    assert torch.equal(made.views["a"].images, g_ba(b))


def test_info_cycle_terms_are_the_authors() -> None:
    task, real = InfoCycle(domains=3, codes=2), Samples(images(0), torch.tensor([0, 1, 2, 2, 1, 0]))
    generator, critics = doubled(task)
    draw = task.draw(NETWORK, new_batch())
    made = task.make(generator, draw, real)
    there = made.views["image"].kinds
    assert there is not None
    targets = there.argmax(1)
    assert not (targets == real.labels).any()
    assert set(draw["shift"].tolist()) <= {1, 2}

    def carry(x: Tensor, labels: Tensor) -> Tensor:
        planes = torch.cat([F.one_hot(labels, 3).double(), draw["codes"]], 1)[:, :, None, None].expand(-1, -1, 32, 32)
        carried: Tensor = generator.get_submodule("translator")(torch.cat([x, planes], 1))
        return carried

    fake = carry(real.images, targets)
    torch.testing.assert_close(made.views["image"].images, fake)
    cycle, identity = l1(carry(fake, real.labels), real.images), l1(carry(real.images, real.labels), real.images)
    assert float(made.terms["cycle"].mean()) == pytest.approx(3 * cycle, rel=1e-10)
    assert float(made.terms["identity"].mean()) == pytest.approx(0.5 * identity, rel=1e-10)
    on_fake, on_real = (critics["image"](x)[:, -5:] for x in (fake, real.images))
    found = task.head_terms(on_fake, on_real, draw, real)
    expected = {
        "domain": 0.6 * F.cross_entropy(on_fake[:, :3], targets),
        "codes": 0.1 * F.l1_loss(torch.tanh(on_fake[:, 3:]), draw["codes"]),
        "label": 0.4 * F.cross_entropy(on_real[:, :3], real.labels),
    }
    for name, value in expected.items():
        assert float(found[name].mean()) == pytest.approx(float(value), rel=1e-10), name


@pytest.mark.parametrize(
    "network", [NETWORK, UNet(channels=2, critic_channels=2), StarGAN(channels=2, blocks=1, first_norm=False)]
)
def test_domain_and_codes_reach_the_image(network: TranslationNetwork) -> None:
    """A norm takes away what is the same all over an image, and so may take what it was told."""
    task = InfoCycle(domains=3, codes=2)
    generator = task.generator(network, IMAGE)
    generator.double().eval()
    first, second = torch.eye(3, dtype=torch.float64)[[0] * SIZE], torch.eye(3, dtype=torch.float64)[[1] * SIZE]
    codes = torch.ones(SIZE, 2, dtype=torch.float64)
    with torch.no_grad():
        plain = generator(images(0), first, codes)
        for other in (generator(images(0), second, codes), generator(images(0), first, -codes)):
            assert float((other - plain).abs().max()) > 1e-5


def test_info_terms_are_openais() -> None:
    """Cross entropy, and a Gaussian's negative log likelihood at variance 1 less its constant."""
    task, network = Info(label_weight=0.4), DCGAN(critic_stages=2)
    draw, real = task.draw(network, new_batch()), Samples(images(0), torch.arange(SIZE))
    heads = torch.randn(SIZE, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = task.head_terms(heads, heads, draw, real)
    category = F.cross_entropy(heads[:, :10], draw["category"].argmax(1))
    normal = torch.distributions.Normal(heads[:, 10:], 1.0)
    codes = (-normal.log_prob(draw["codes"]) - 0.5 * torch.log(torch.tensor(2 * torch.pi))).sum(1).mean()
    assert float(found["category"].mean()) == pytest.approx(float(category), rel=1e-10)
    assert float(found["codes"].mean()) == pytest.approx(float(codes), rel=1e-6)
    expected = 0.4 * F.cross_entropy(heads[:, :10], torch.arange(SIZE))
    assert float(found["label"].mean()) == pytest.approx(float(expected), rel=1e-10)
    assert float(draw["codes"].abs().max()) <= 1
    assert task.head_terms(heads, None, draw, real).keys() == set(task.fake_head_terms)


def test_a_pool_is_the_replay_buffer_of_the_notebooks() -> None:
    """PyTorch-GAN's ReplayBuffer, with the coins and slots that our draws give."""
    size, batch = 4, new_batch()
    pools, kept = Pools(size, batch), list[Tensor]()
    swaps = 0
    for step in range(6):
        batch.start(step, 0, SIZE)
        drawn = batch.uniform_for_all("pool image", 2)
        fakes, expected = images(step), []
        for image, (coin, where) in zip(fakes, drawn.tolist(), strict=True):
            if len(kept) < size:
                kept.append(image)
                expected.append(image)
            elif coin >= 0.5:
                slot = int(where * size)
                expected.append(kept[slot])
                kept[slot] = image
                swaps += 1
            else:
                expected.append(image)
        shown = pools.through({"image": View(fakes)})["image"].images
        assert torch.equal(shown, torch.stack(expected))
        if step == 3:
            again = Pools(size, batch)
            again.restore(pools.state())
            pools = again
    assert 0 < swaps < 32


OPTIONS = {
    "unpaired, joint": [
        "task={name: unpaired, pool_size: 8}", "data.domains=[{source: digits}]", "objective=lsgan",
        "scheme={name: joint, balance: validity}",
    ],
    "unpaired, alternating": [
        "task={name: unpaired, pool_size: 8}", "data.domains=[{source: digits}]", "objective=lsgan",
        "scheme=alternating",
    ],
    "unpaired, switchable norms, pixel shuffle, gates": [
        "task={name: unpaired, pool_size: 8}", "data.domains=[{source: digits}]", "network.norm=switchable",
        "network.upsampling=pixel_shuffle", "network.convolution=gated", "augmentation={flip: 0.5, jitter: 1.2}",
    ],
    "info_cycle": ["task={name: info_cycle, domains: 3}", "objective=sim_cosine", "regularizers=[dragan]"],
    "paired": [
        "task=paired", "data.source={name: pairs, uri: nowhere}", "objective={name: relativistic, loss: hinge}",
        "scheme={name: alternating}",
    ],
}  # fmt: skip
TINY = [
    "optimizer.learning_rate=1e-4", "data.transform.size=32",
    "network={name: resnet, channels: 2, blocks: 1, critic_channels: 2, norm: batch}",
]  # fmt: skip


def build(name: str, rank: int, world_size: int, data: dict[str, str]) -> Replica:
    run = load("digits", ["dtype=float64", "batch.size=10", *TINY, *OPTIONS[name]])
    folder = Location.of(data["paired" if name == "paired" else "digits"])
    loaders = [
        open_loader(folder, run.data.transform, run.batch.size, run.seed + number, rank, world_size)
        for number in range(run.task.data_sets)
    ]
    return Replica(run, TorchDistributed(torch.device("cpu")), *loaders)


def train_all(rank: int, world_size: int, data: dict[str, str], steps: int, resume_at: int | None) -> dict[str, object]:
    """Every task's weights after some steps; through a checkpoint, if `resume_at` is given."""
    found: dict[str, object] = {}
    for name in OPTIONS:
        replica = build(name, rank, world_size, data)
        for step in range(steps):
            if step == resume_at:
                folder = Path(data["digits"]) / f"{name}-{rank}"
                checkpoints.save(replica.state(step), folder)
                replica = build(name, rank, world_size, data)
                replica.restore(checkpoints.load(folder, replica.identity))
            replica.step(step)
        # Norms take biases away, so what they are is rounding's, and so is what they move: running means.
        found[name] = {key: value for key, value in weights(replica).items() if value.dim() > 1}
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tasks")
    transform = Transform(size=32, channels=1)
    ingest(FewKinds(kinds=3), transform, Location.of(str(folder / "digits")))
    ingest(pairs(folder / "pairs"), transform, Location.of(str(folder / "paired")))
    return {"digits": str(folder / "digits"), "paired": str(folder / "paired")}


def train_whole_and_resumed(rank: int, world_size: int, data: dict[str, str]) -> tuple[object, object]:
    return train_all(rank, world_size, data, STEPS, None), train_all(rank, world_size, data, STEPS, STEPS // 2)


Trained = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def two_replicas(data: dict[str, str]) -> tuple[Trained, Trained]:
    """Every task's weights, of a run that was not interrupted and of one that was; the processes start once."""
    found: tuple[Trained, Trained] = run_replicas(2, train_whole_and_resumed, data)
    return found


def compare(count: int, found: Trained, expected: Trained) -> None:
    for name in OPTIONS:
        apart = whole_distance(found[name], expected[name])
        sys.stdout.write(f"{count} replicas, {name}: {apart:.1e} after {STEPS} steps\n")
        assert apart < 1e-10, name


def test_replicas_give_the_weights_of_one_for_every_task(
    data: dict[str, str], two_replicas: tuple[Trained, Trained]
) -> None:
    compare(2, two_replicas[0], run_replicas(1, train_all, data, STEPS, None))


@pytest.mark.long
def test_three_replicas_give_the_weights_of_one_for_every_task(data: dict[str, str]) -> None:
    expected = run_replicas(1, train_all, data, STEPS, None)
    compare(3, run_replicas(3, train_all, data, STEPS, None), expected)


def test_every_task_resumes_to_the_last_bit(two_replicas: tuple[Trained, Trained]) -> None:
    whole, resumed = two_replicas
    for name in OPTIONS:
        for key, value in whole[name].items():
            assert torch.equal(value, resumed[name][key]), f"{name}: {key}"
