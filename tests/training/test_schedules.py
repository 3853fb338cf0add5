"""What changes with the step: a generator's average, noise that fades, rates that fall, augmentation that adapts."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from pipelines.components import ConfigError, resolve
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.configuration.recipe import load
from service.losses.regularizers import Regularizer
from service.losses.schedules import Cosine
from service.models.blocks import GaussianNoise
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.replicas.collectives import OneReplica
from service.replicas.global_batch import GlobalBatch
from service.replicas.global_layers import follow_global_batch
from service.runs.on_replica.replica import Replica
from service.tasks import View
from service.training.ema import Average, Ema
from service.training.optimizers import Decay
from service.training.optimizers.adam import Adam
from tests.host_values import HostValues


def new_batch(size: int = 64) -> GlobalBatch:
    return GlobalBatch(size, 1, 0, OneReplica(), torch.device("cpu"), torch.float64)


@pytest.mark.parametrize(
    "options", [Ema(decay=0.9), Ema(decay=0.9, start=2), Ema(half_life_images=200), Ema(half_life_images=200, start=3)]
)
def test_an_average_is_the_weighted_sum_it_stands_for(options: Ema) -> None:
    """StyleGAN2's decay: 0.5 ** (batch / max(min(half life, images so far * 0.05), 1e-8))."""
    torch.manual_seed(0)
    generator, batch = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double(), new_batch()
    average = Average(options, generator, batch)
    expected = [parameter.detach().clone() for parameter in generator.parameters()]
    before: list[str] = []
    for step in range(6):
        for parameter in generator.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        generator(torch.randn(8, 3, dtype=torch.float64))
        batch.start(step, 0, 64)
        said = HostValues()
        with said:
            average.follow()
        decay = 0.9
        if options.half_life_images:
            decay = 0.5 ** (64 / max(min(200, (step + 1) * 64 * 0.05), 1e-8))
        if step < options.start:
            decay = 0
        for mine, parameter in zip(expected, generator.parameters(), strict=True):
            mine.mul_(decay).add_(parameter.detach(), alpha=1 - decay)
        assert said.waits == []
        assert step == 0 or said.given == before, "the host gives new values"
        before = said.given
    for mine, averaged in zip(expected, average.network.parameters(), strict=True):
        torch.testing.assert_close(averaged.data, mine, rtol=1e-12, atol=1e-12)
    for buffer, other in zip(generator.buffers(), average.network.buffers(), strict=True):
        assert torch.equal(buffer, other)


def test_noise_fades_in_a_straight_line() -> None:
    batch = new_batch(512)
    noise = follow_global_batch(GaussianNoise(0.4, 100), batch, "critic.noise")
    zeros = torch.zeros(512, 3, 4, 4, dtype=torch.float64)
    for step, expected in ((0, 0.4), (50, 0.2), (75, 0.1), (100, 0.0), (200, 0.0)):
        batch.start(step, 0, 512)
        assert float(noise(zeros).std()) == pytest.approx(expected, rel=0.03, abs=1e-9)
    batch.start(0, 0, 512)
    with batch.passes(batch.own_rows, first=1):
        other_pass = noise(zeros)
    first, second = noise(zeros), noise(zeros)  # As when a layer is passed twice in one pass.
    assert not torch.equal(first, other_pass)
    assert not torch.equal(first, second)
    batch.start(0, 0, 512)
    assert torch.equal(noise(zeros), first)
    assert torch.equal(copy.deepcopy(noise).eval()(zeros), zeros)


def test_rates_fall_in_a_straight_line_from_a_step_on() -> None:
    """PyTorch-GAN's ``LambdaLR``: 1 - max(0, epoch - start) / epochs."""
    options = Adam(learning_rate=0.1, decay=Decay(start=10, steps=20))
    parameter = nn.Parameter(torch.zeros(1))
    built = options.build([{"params": [parameter], "lr": 0.1, "initial_lr": 0.1}], fused=False)
    for step, expected in ((0, 0.1), (10, 0.1), (15, 0.075), (29, 0.005), (30, 0.0), (99, 0.0)):
        options.schedule(built, step, 64)
        assert built.param_groups[0]["lr"] == pytest.approx(expected)


@pytest.mark.parametrize("scheme", ["joint", "{name: alternating, order: critic_first, critic_steps: 4}"])
def test_a_probability_of_augmentation_is_shown_as_it_rises(scheme: str, digits: Location) -> None:
    """By a tenth with every 40 images of four batches, as long as more than a few are taken for real."""
    ada = "regularizers=[{name: ada, images: 400, target: -0.9}]"
    run = load("digits", ["batch.size=10", f"scheme={scheme}", ada, "network.critic_batch_norm=false"])
    loader = open_loader(digits, run.data.transform, run.batch.size, run.seed)
    replica = Replica(run, TorchDistributed(torch.device("cpu")), loader)
    for network in replica.critics.modules():
        if isinstance(network, nn.Linear) and network.out_features == 1:
            nn.init.constant_(network.bias, 10.0)
    found = [replica.step(step)["augmentation/image"].item() for step in range(9)]
    each = 4 if scheme == "joint" else 1
    # Its last batch counts at the next update of the critic: four such updates are one step of the other scheme.
    expected = [step // each / 10 for step in range(9)]
    assert found == pytest.approx(expected)


HALF_WAY = Cosine(base=2, final=0.2, images=6400)
VALUES = {
    0: 2.0,
    25: 0.2 + 0.9 * (1 + math.sqrt(0.5)),
    50: 1.1,
    75: 0.2 + 0.9 * (1 - math.sqrt(0.5)),
    100: 0.2,
    999: 0.2,
}


@pytest.mark.parametrize("schedule", [HALF_WAY, Cosine(base=2, final=0.2, steps=100)])
def test_a_schedule_is_half_a_wave_of_a_cosine(schedule: Cosine) -> None:
    batch, said = new_batch(), list[HostValues]()
    for step, expected in VALUES.items():
        batch.start(step, 0, 64)
        assert schedule.at(step, 64) == pytest.approx(expected, rel=1e-12)
        said.append(HostValues())
        with said[-1]:
            found = schedule.on_device(batch.step, 64)
        assert found.item() == pytest.approx(expected, rel=1e-12)
    assert not said[0].waits and all(one.given == said[0].given for one in said), "the host gives new values"


def test_rates_and_averages_of_squares_follow_schedules() -> None:
    words = ["optimizer.learning_rate={base: 2e-4, final: 5e-5, images: 6400}", "optimizer.critic_learning_rate=4e-4"]
    options = load("digits", [*words, "optimizer.betas=[0, {base: 0.9, final: 0.99, steps: 100}]"]).optimizer
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate, "initial_lr": rate} for rate in (2e-4, 4e-4)]
    built = options.build(groups, fused=False)
    assert built.param_groups[0]["betas"] == (0, 0.9)
    for step, expected in ((0, (2e-4, 0.9)), (50, (1.25e-4, 0.945)), (100, (5e-5, 0.99)), (200, (5e-5, 0.99))):
        options.schedule(built, step, 64)
        for group, factor in zip(built.param_groups, (1, 2), strict=True):
            assert group["lr"] == pytest.approx(factor * expected[0])
            assert group["betas"] == pytest.approx((0, expected[1]))


def test_a_half_life_may_have_a_schedule() -> None:
    options, batch = Ema(half_life_images=Cosine(base=0, final=640, steps=10)), new_batch()
    for step, half_life in ((0, 0), (5, 320), (10, 640), (20, 640)):
        batch.start(step, 0, 64)
        assert float(options.decay_at(batch.step, 64)) == pytest.approx(0.5 ** (64 / max(half_life, 1e-8)))


@pytest.mark.parametrize("name", ["r1", "r2", "gradient_penalty", "dragan"])
def test_weights_of_penalties_may_have_schedules(name: str) -> None:
    fake, real = torch.randn(2, 64, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    critic, batch = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 1)).double(), new_batch()

    def penalty(weight: float | Cosine) -> Tensor:
        regularizer = resolve("service.losses.regularizers", {"name": name, "weight": weight}, Regularizer)
        found = regularizer.penalty(lambda view: critic(view.images), View(fake), View(real), batch)
        assert found is not None
        return found

    for step in (0, 25, 100):
        batch.start(step, 0, 64)
        torch.testing.assert_close(penalty(HALF_WAY), penalty(VALUES[step]), rtol=1e-12, atol=0)
        with batch.subsampled(2):  # A schedule counts the images of whole batches.
            assert batch.whole_size == 64


def test_a_probability_of_augmentation_may_have_a_schedule(digits: Location) -> None:
    ada = "regularizers=[{name: ada, target: null, probability: {base: 0, final: 0.5, images: 40}}]"
    run = load("digits", ["batch.size=10", ada, "objective=relativistic", "scheme={name: joint, balance: fixed}"])
    replica = Replica(run, TorchDistributed(torch.device("cpu")), open_loader(digits, run.data.transform, 10, run.seed))
    found = [replica.step(step)["augmentation/image"].item() for step in range(6)]
    assert found == pytest.approx([0.25 * (1 - math.cos(math.pi * min(step, 4) / 4)) for step in range(6)])


def test_what_has_no_schedule_is_the_recipe_that_it_was() -> None:
    def named(recipe: str, *words: str) -> str:
        return load(recipe, words).recipe_hash

    assert named("gan-mnist", "optimizer.learning_rate=2e-4", "optimizer.betas.1='0.999'") == named("gan-mnist")
    assert named("gan-mnist", "optimizer.learning_rate={base: 2e-4, final: 2e-4, steps: 1}") != named("gan-mnist")
    whole, point = (named("digits", f"regularizers=[{{name: r1, weight: {weight}}}]") for weight in ("10", "10.0"))
    assert whole == point == named("digits", "regularizers=r1")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimizer.learning_rate=0", r"optimizer\.learning_rate: 0 is not valid: input should be greater than 0"),
        (
            "optimizer.learning_rate={base: 1, final: -1, steps: 5}",
            r"optimizer\.learning_rate: -1.* greater than or equal",
        ),
        ("optimizer.learning_rate={base: 1, final: 0}", r"learning_rate: .*is base, final, and either images or steps"),
        ("optimizer.betas=[0, {base: 0.9, final: 1, steps: 5}]", r"optimizer\.betas\.1: 1.* less than 1"),
        ("optimizer.learning_rate={base: 1, last: 0, steps: 5}", r"optimizer\.learning_rate\.\w+: "),
        ("ema={half_life_images: .inf}", r"ema\.half_life_images: inf is not valid"),
        ("regularizers=[{name: ada, probability: {base: 0, final: 1, steps: 5}}]", r"ada: its probability either"),
    ],
)
def test_a_mistake_in_a_schedule_is_one_line(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load("digits", [word])
