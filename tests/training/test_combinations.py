"""Every task with every scheme and objective: trained for a few steps, or refused with the reason."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.components import ConfigError, names
from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.sources.digits import Digits
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.configuration.recipe import load
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.runs.on_replica.replica import Replica
from tests.made_data import ToldDigits, pairs

TASKS = {
    "unconditional": [],
    "conditional": ["task=conditional"],
    "attributes": ["task={name: attributes, attributes: 4}"],
    "info": ["task={name: info, label_weight: 0.4}"],
    "info_cycle": [
        "task={name: info_cycle, domains: 10}",
        "network={name: resnet, channels: 2, blocks: 1, critic_channels: 2}",
    ],
    "attribute_cycle": [
        "task={name: attribute_cycle, domains: 4}",
        "network={name: resnet, channels: 2, blocks: 1, critic_channels: 2}",
    ],
    "unpaired": [
        "task={name: unpaired, pool_size: 8}",
        "data.domains=[{source: digits}]",
        "network={name: resnet, channels: 2, blocks: 1, critic_channels: 2}",
    ],
    "paired": [
        "task=paired",
        "data.source={name: pairs, uri: nowhere}",
        "network={name: unet, channels: 2, critic_channels: 2}",
    ],
}
TRANSLATIONS = {"paired", "info_cycle", "attribute_cycle", "unpaired"}
SCHEMES = {
    "joint": ["scheme=joint"],
    "joint, validity": ["scheme={name: joint, balance: validity}"],
    "joint, fixed": ["scheme={name: joint, balance: fixed, fakes: current}"],
    "generator first": ["scheme=alternating"],
    "critic first, twice": ["scheme={name: alternating, order: critic_first, critic_steps: 2}"],
    "simultaneous": ["scheme={name: alternating, order: simultaneous}"],
    "critics on half the batch": ["scheme={name: alternating, critic_batch: 3, latent_steps: 2}"],
}
OBJECTIVES = names("service.losses.objectives")
NEGATIVE, WITHOUT_VALIDITY = {"wgan", "hinge", "softmax"}, {"wgan", "hinge", "softmax", "relativistic", "sim_cosine"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Location]:
    folder = tmp_path_factory.mktemp("combinations")
    plain, paired = Location.of(str(folder / "digits")), Location.of(str(folder / "shards"))
    ingest(Digits(), Transform(size=16, channels=1, resample="bicubic"), plain)
    ingest(pairs(folder / "pairs"), Transform(size=32, channels=1), paired)
    larger = Location.of(str(folder / "larger"))
    ingest(Digits(), Transform(size=32, channels=1), larger)
    told, larger_told = (Location.of(str(folder / f"told-{size}")) for size in (16, 32))
    for size, place in ((16, told), (32, larger_told)):
        ingest(ToldDigits(), Transform(size=size, channels=1, resample="bicubic"), place)
    others = {"paired": paired, "info_cycle": larger, "unpaired": larger}
    others |= {"attributes": told, "attribute_cycle": larger_told}
    return {task: others.get(task, plain) for task in TASKS}


def refusal(task: str, scheme: str, objective: str) -> str | None:
    """Why this cannot be, where it cannot."""
    if scheme == "joint" and objective in NEGATIVE:
        return "may be negative"
    if scheme == "joint, validity" and objective in WITHOUT_VALIDITY:
        return "say nothing of how real"
    if objective == "sim_cosine" and task not in TRANSLATIONS:
        return "compares vectors of outputs"
    return None


def weights(network: nn.Module) -> dict[str, Tensor]:
    """All but biases, of which norms and differences of logits make some useless."""
    return {name: value.detach().clone() for name, value in network.named_parameters() if value.dim() > 1}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("scheme", list(SCHEMES))
@pytest.mark.parametrize("task", list(TASKS))
def test_a_combination_trains_or_is_refused(task: str, scheme: str, objective: str, data: dict[str, Any]) -> None:
    words = ["batch.size=6", "network.generator_channels=4", "network.critic_channels=4", "network.latent_dim=4"]
    words = ["data.transform.size=32", words[0]] if task in TRANSLATIONS else ["data.transform.size=16", *words]
    words += [*TASKS[task], *SCHEMES[scheme], f"objective={objective}"]
    reason = refusal(task, scheme, objective)
    if reason:
        with pytest.raises(ConfigError, match=reason):
            load("digits", words)
        return
    run = load("digits", words)
    sets = range(run.task.data_sets)
    loaders = [open_loader(data[task], run.data.transform, run.batch.size, run.seed) for _ in sets]
    replica = Replica(run, TorchDistributed(torch.device("cpu")), *loaders)
    networks = {"generator": replica.generator, "critic": replica.critics}
    before = {name: weights(network) for name, network in networks.items()}
    for step in range(2):
        metrics = replica.step(step)
    assert replica.diverged() is None
    assert all(math.isfinite(value.item()) for value in metrics.values())
    for name, network in networks.items():
        for key, value in weights(network).items():
            assert not torch.equal(value, before[name][key]), f"{name}.{key}"
    assert replica.generate(4, 0).shape == (4, *run.image)
    replica.close()
