"""The average of a generator's weights, and noise that fades, against what they are defined as."""

import copy

import pytest
import torch
from torch import nn

from service.batch import GlobalBatch
from service.blocks import GaussianNoise
from service.collectives import OneReplica
from service.ema import Average, Ema
from service.layers import follow_global_batch


def new_batch(size: int = 64) -> GlobalBatch:
    return GlobalBatch(size, 1, 0, OneReplica(), torch.device("cpu"), torch.float64)


@pytest.mark.parametrize("options", [Ema(decay=0.9), Ema(decay=0.9, start=2), Ema(half_life_images=200)])
def test_an_average_is_the_weighted_sum_it_stands_for(options: Ema) -> None:
    """StyleGAN2's decay: 0.5 ** (batch / max(min(half life, images so far * 0.05), 1e-8))."""
    torch.manual_seed(0)
    generator, batch = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double(), new_batch()
    average = Average(options, generator, batch)
    expected = [parameter.detach().clone() for parameter in generator.parameters()]
    for step in range(6):
        for parameter in generator.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        generator(torch.randn(8, 3, dtype=torch.float64))
        average.follow(step)
        decay = 0.9
        if options.half_life_images:
            decay = 0.5 ** (64 / max(min(200, (step + 1) * 64 * 0.05), 1e-8))
        if step < options.start:
            decay = 0
        for mine, parameter in zip(expected, generator.parameters(), strict=True):
            mine.mul_(decay).add_(parameter.detach(), alpha=1 - decay)
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
    assert not torch.equal(noise(zeros), other_pass)
    assert torch.equal(noise(zeros), noise(zeros))
    assert torch.equal(copy.deepcopy(noise).eval()(zeros), zeros)
