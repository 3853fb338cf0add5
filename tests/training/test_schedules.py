"""What changes with the step: a generator's average, noise that fades, rates that fall, augmentation that adapts."""

import copy

import pytest
import torch
from torch import nn

from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.configuration.recipe import load
from service.models.blocks import GaussianNoise
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.replicas.collectives import OneReplica
from service.replicas.global_batch import GlobalBatch
from service.replicas.global_layers import follow_global_batch
from service.runs.on_replica.replica import Replica
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
        options.schedule(built, step)
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
