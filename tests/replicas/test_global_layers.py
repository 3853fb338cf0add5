"""Which layers are made to follow the global batch, which stay, and which are refused."""

import pytest
import torch
from torch import nn

from service.replicas.collectives import OneReplica
from service.replicas.global_batch import GlobalBatch
from service.replicas.global_layers import GlobalBatchNorm, KeyedDropout, follow_global_batch


@pytest.fixture
def batch() -> GlobalBatch:
    return GlobalBatch(8, 1, 0, OneReplica(), torch.device("cpu"))


def test_a_layer_that_is_used_twice_follows_in_both_places_and_stays_one(batch: GlobalBatch) -> None:
    dropout, norm = nn.Dropout(0.5), nn.BatchNorm1d(4)
    network = nn.Sequential(nn.Linear(4, 4), dropout, norm, nn.Linear(4, 4), dropout, norm)
    names = list(network.state_dict())
    follow_global_batch(network, batch, "network")
    assert isinstance(network[1], KeyedDropout) and network[4] is network[1]
    assert isinstance(network[2], GlobalBatchNorm) and network[5] is network[2]
    assert list(network.state_dict()) == names


class Conditional(nn.BatchNorm2d):
    """A batch norm with a forward of its own."""


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm3d(2), nn.Dropout3d(), nn.AlphaDropout(), nn.SyncBatchNorm(2), Conditional(2), nn.RReLU(),
        nn.MultiheadAttention(4, 2, dropout=0.5), nn.InstanceNorm2d(2, track_running_stats=True),
        nn.BatchNorm2d(2, affine=False), nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm2d(2, momentum=None),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_what_would_see_one_replicas_rows_alone_is_refused(layer: nn.Module, batch: GlobalBatch) -> None:
    with pytest.raises(TypeError):
        follow_global_batch(nn.Sequential(nn.Linear(2, 2), nn.Sequential(layer)), batch, "network")


@pytest.mark.parametrize(
    "layer", [nn.MultiheadAttention(4, 2), nn.LayerNorm(4), nn.InstanceNorm2d(2), nn.GroupNorm(1, 2)]
)
def test_what_looks_at_its_own_row_alone_stays(layer: nn.Module, batch: GlobalBatch) -> None:
    assert follow_global_batch(layer, batch, "network") is layer
