"""Minibatch layers against their definitions, sample by sample."""

import torch

from service.models.minibatch import MinibatchDeviation, MinibatchDiscrimination
from service.replicas.collectives import OneReplica
from service.replicas.global_batch import GlobalBatch
from service.replicas.global_layers import follow_global_batch


def test_deviation_is_that_of_every_fourth_part() -> None:
    x = torch.randn(8, 3, 2, 2, dtype=torch.float64)
    found = MinibatchDeviation()(x)
    assert torch.equal(found[:, :3], x)
    for sample in range(8):
        group = x[[sample % 2, sample % 2 + 2, sample % 2 + 4, sample % 2 + 6]]
        expected = (((group - group.mean(0)) ** 2).mean(0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(found[sample, 3], expected.expand(2, 2), rtol=1e-12, atol=1e-12)
    assert MinibatchDeviation()(x[:6]).shape == (6, 4, 2, 2)  # Groups of 3.


def test_discrimination_is_salimans() -> None:
    torch.manual_seed(0)
    layer, x = MinibatchDiscrimination(7, kernels=3, dimensions=2).double(), torch.randn(5, 7, dtype=torch.float64)
    found = layer(x)
    placed = (x @ layer.weight).view(5, 3, 2)
    for sample in range(5):
        for kernel in range(3):
            others = [other for other in range(5) if other != sample]
            apart = [(placed[sample, kernel] - placed[other, kernel]).abs().sum() for other in others]
            expected = sum(torch.exp(-distance) for distance in apart) + layer.bias[kernel]
            torch.testing.assert_close(found[sample, 7 + kernel], expected, rtol=1e-12, atol=1e-12)


def test_passes_do_not_see_each_other() -> None:
    batch = GlobalBatch(8, 2, 0, OneReplica(), torch.device("cpu"), torch.float64)
    batch.start(0, 0, 8)
    layer = follow_global_batch(MinibatchDeviation(), batch, "critic.0")
    one, other = torch.randn(2, 8, 3, 2, 2, dtype=torch.float64)
    with batch.passes(batch.own_rows, batch.own_rows):
        together = layer(torch.cat([one, 5 * other]))
    alone = torch.cat([MinibatchDeviation()(half) for half in one.chunk(2)])
    torch.testing.assert_close(together[:8], alone, rtol=1e-12, atol=1e-12)
