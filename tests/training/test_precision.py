"""bfloat16 by autocast: which parts compute in it, and which do not."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.configuration.config import Run
from service.configuration.recipe import load
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.replicas.global_layers import GlobalBatchNorm
from service.runs.on_replica.replica import Replica
from service.training import optimizers
from service.training.precision.bfloat16 import in_bfloat16
from tests.processes import run_replicas

SMALL = ["batch.size=16", "network.generator_channels=4", "network.critic_channels=4", "network.dropout=0"]
FORMS = {
    "joint": ["ema={}"],
    "alternating, minibatch": ["scheme=alternating", "network.minibatch=discrimination"],
    "penalty": [
        *("scheme=alternating", "objective=wgan", "regularizers=gradient_penalty", "network.critic_batch_norm=false")
    ],
    "spectral norm": ["regularizers=spectral_norm"],
}


def trained(rank: int, count: int, run: Run, data: Location, steps: int = 3) -> dict[str, Tensor]:
    loader = open_loader(data, run.data.transform, run.batch.size, run.order_seed(0), rank, count)
    replica = Replica(run, TorchDistributed(torch.device("cpu")), loader)
    for step in range(steps):
        values = replica.step(step)
    assert replica.diverged() is None
    found = {**replica.state(steps).networks, **{name: value.detach() for name, value in values.items()}}
    replica.close()
    return found


@pytest.mark.parametrize("words", FORMS.values(), ids=FORMS)
def test_losses_and_state_are_float32_and_near_those_of_full_precision(words: list[str], digits: Location) -> None:
    half, full = (
        trained(0, 1, load("digits", [*SMALL, *words, f"dtype={dtype}"]), digits) for dtype in ("bfloat16", "float32")
    )
    assert {value.dtype for value in half.values()} <= {torch.float32, torch.int64}
    for name in half:
        if "/" in name:
            assert abs(float(half[name]) - float(full[name])) < 0.02 * max(1, abs(float(full[name]))), name
    assert any(not torch.equal(half[name], full[name]) for name in half)


def test_replicas_share_a_batch_in_bfloat16_too(digits: Location) -> None:
    run = load("digits", [*SMALL, "dtype=bfloat16"])
    one, two = trained(0, 1, run, digits, 1), run_replicas(2, trained, run, digits, 1)
    # What is rounded to 8 bits belongs to a row; what is added up over rows is not.
    apart = max((float((value.double() - two[name].double()).abs().max()), name) for name, value in one.items())
    print(f"one step in bfloat16, 2 replicas against 1: {apart}")
    assert apart[0] < 1e-5


def test_a_copy_of_a_network_computes_with_its_own_weights() -> None:
    linear, norm = nn.Linear(3, 4), nn.GroupNorm(1, 4)
    network = nn.Sequential(linear, norm)
    names = list(network.state_dict())
    in_bfloat16(network)
    other, inputs = copy.deepcopy(network), torch.randn(5, 3)
    with torch.no_grad():
        linear.weight.neg_()
        assert not torch.allclose(network(inputs), other(inputs), atol=0.1)
    assert list(network.state_dict()) == list(other.state_dict()) == names
    assert isinstance(network, nn.Sequential) and isinstance(norm, nn.GroupNorm)


def test_products_are_bfloat16_and_what_reduces_is_not(digits: Location) -> None:
    run = load("digits", [*SMALL, "dtype=bfloat16"])
    loader = open_loader(digits, run.data.transform, run.batch.size, 0)
    replica, seen = Replica(run, TorchDistributed(torch.device("cpu")), loader), dict[str, set[torch.dtype]]()
    for module in [*replica.generator.modules(), *replica.critics.modules()]:
        kind = "product" if isinstance(module, nn.Conv2d | nn.Linear) else "norm"
        if kind == "product" or isinstance(module, GlobalBatchNorm):
            module.register_forward_hook(lambda _, __, made, kind=kind: seen.setdefault(kind, set()).add(made.dtype))
    replica.step(0)
    replica.close()
    assert seen == {"product": {torch.bfloat16}, "norm": {torch.float32}}


def test_singular_values_are_found_out_of_autocast(digits: Location) -> None:
    """On a CPU autocast leaves them alone; on CUDA it would not."""
    run = load("digits", [*SMALL, "dtype=bfloat16", "regularizers=spectral_norm"])
    replica = Replica(run, TorchDistributed(torch.device("cpu")), open_loader(digits, run.data.transform, 16, 0))
    found = [one for one in replica.critics.modules() if isinstance(one, _SpectralNorm)]
    within = list[bool]()
    for one in found:
        one._power_method = lambda *_: within.append(torch.is_autocast_enabled("cpu"))  # type: ignore[method-assign]
    replica.step(0)
    replica.close()
    assert within and not any(within)


def test_an_optimizers_state_says_nothing_of_how_it_was_computed() -> None:
    def stepped(fused: bool) -> torch.optim.Optimizer:
        weights = nn.Parameter(torch.ones(3))
        weights.grad = torch.arange(3.0)
        optimizer = torch.optim.Adam([weights], lr=0.1, fused=fused)
        optimizer.step()
        return optimizer

    state = optimizers.state(stepped(fused=True))
    assert not {"fused", "foreach", "capturable"} & state["param_groups"][0].keys()
    there = stepped(fused=False)
    for saved in (state, stepped(fused=True).state_dict()):  # As this version writes it, and as those before did.
        optimizers.restore(there, saved)
        assert there.param_groups[0]["fused"] is False
        there.step()
        again = stepped(fused=True)
        optimizers.restore(again, saved)
        assert again.param_groups[0]["fused"] is True
        again.step()
