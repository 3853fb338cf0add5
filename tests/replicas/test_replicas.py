"""The number of replicas is not a hyper-parameter: real processes, float64, against one replica."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.components import names
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.artifacts import checkpoints
from service.configuration.config import Run
from service.configuration.recipe import load
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.runs.on_replica.replica import Replica
from tests.processes import run_replicas

#: Quickly, and for long.
STEPS, MANY_STEPS = 10, 50
OTHER_STEPS, MANY_OTHER_STEPS = 6, 20
TINY = [
    "dtype=float64",
    "optimizer.learning_rate=1e-3",
    "network.generator_channels=8",
    "network.critic_channels=4",
    "network.latent_dim=8",
]
#: Batch norm and dropout in all of them; 20 is no multiple of 64 lanes, so that shares vary from step to step.
SCHEMES = {
    "loss, weighted": ["batch.size=24"],
    "validity, normalised, 8 shards": [
        "batch.size=24", "batch.shards=8", "scheme.balance=validity", "scheme.balance.form=normalised",
    ],
    "loss, normalised, generator's term kept from the critic": [
        "batch.size=20", "scheme.balance.form=normalised", "scheme.generator_trains_critic=false",
    ],
    "alternating": ["batch.size=24", "scheme=alternating"],
    "alternating, critic first": ["batch.size=20", "scheme=alternating", "scheme.order=critic_first"],
}  # fmt: skip
#: Two steps at 4x4, four to fade 8x8 in, and so on.
GROWING = "network={name: pggan, latent_dim: 8, channels: 32, most_channels: 8, stable_images: 40, fade_images: 80}"
SAGAN = "network={name: sagan, latent_dim: 8, generator_channels: 2, critic_channels: 2}"
#: Objectives and regularizers, which have their own statistics of the batch, on fewer steps and replicas.
OTHERS = {
    "wgan, three critic steps, gradient penalty": [
        "batch.size=20", "scheme=alternating", "scheme.order=critic_first", "scheme.critic_steps=3",
        "objective={name: wgan, drift: 0.001}", "regularizers=[gradient_penalty]",
    ],
    "relativistic, simultaneous, DRAGAN, R1 and R2": [
        "batch.size=20", "scheme=alternating", "scheme.order=simultaneous", "objective=relativistic",
        "regularizers=[dragan, {name: r1, every: 1}, {name: r2, every: 2}]", "optimizer.critic_learning_rate=2e-3",
    ],
    "softmax, joint, spectral norm": [
        "batch.size=24", "batch.shards=2", "objective=softmax", "scheme.balance=fixed", "regularizers=[spectral_norm]",
    ],
    "hinge, more critic steps at first, clipped": [
        "batch.size=24", "scheme=alternating", "scheme.order=critic_first", "objective=hinge",
        "scheme.more_at_first={critic_steps: 3, steps: 2, every: 10}",
        "regularizers=[{name: weight_clipping, limit: 0.1}]",
    ],
    "joint, cosine, gradient penalty": [
        "batch.size=20", "objective=sim_cosine", "network.patches=true", "network.critic_stages=2",
        "regularizers=[{name: gradient_penalty, weight: 1}]",
    ],
    "conditional, cosine within each class": [
        "batch.size=24", "task=conditional", "objective=sim_cosine", "network.patches=true", "network.critic_stages=2",
        "scheme={name: alternating, order: simultaneous}", "optimizer={name: rmsprop, learning_rate: 1e-3}",
    ],
    "validity, normalised, applied to updates": [
        "batch.size=20", "batch.shards=2", "scheme.balance={name: validity, form: normalised, applied_to: update}",
        "optimizer.critic_learning_rate=2e-3",
    ],
    "minibatch deviation": ["batch.size=20", "network.minibatch=deviation"],
    "minibatch discrimination, gradient penalty": [
        "batch.size=18", "network.minibatch=discrimination", "scheme=alternating", "regularizers=[gradient_penalty]",
    ],
    "shares without rows, DRAGAN": ["batch.size=3", "regularizers=[dragan]", "scheme=alternating"],
    "average, noise, augmentation, decay": [
        "batch.size=20", "optimizer.decay={start: 5, steps: 20}", "ema={half_life_images: 100}",
        "regularizers=[{name: instance_noise, steps: 15}, diff_augment]",
    ],
    "adaptive augmentation, joint": [
        "batch.size=20", "batch.shards=2", "regularizers=[{name: ada, every: 2, images: 400, probability: 0.5}]",
    ],
    "adaptive augmentation, two critic steps, gradient penalty": [
        "batch.size=20", "scheme=alternating", "scheme.order=critic_first", "scheme.critic_steps=2", "objective=lsgan",
        "regularizers=[{name: ada, every: 3, images: 400, probability: 0.5}, gradient_penalty]",
    ],
    "cosine schedules of squares, average, augmentation and gradient penalty": [
        "batch.size=20", "objective={name: relativistic, against: partner}", "scheme=alternating",
        "scheme.critic_batch=10",
        "optimizer.betas=[0, {base: 0.9, final: 0.99, steps: 9}]",
        "ema={half_life_images: {base: 0, final: 100, images: 200}}",
        "regularizers=[{name: r1, every: 1, weight: {base: 2, final: 0.2, images: 160}}, "
        "{name: ada, target: null, probability: {base: 0, final: 0.5, steps: 8}}]",
    ],
    "info, joint, four critics at two scales": [
        "batch.size=20", "task={name: info, label_weight: 0.4}", "critics={count: 2, scales: 2}",
        "network.critic_stages=2",
    ],
    "critics on a third of the batch, latents of two steps, total variation": [
        "batch.size=24", "scheme={name: alternating, critic_batch: 8, latent_steps: 2}", "terms=total_variation",
    ],
    "critic first on real images alone, and on half of them, flips, jitter": [
        "batch.size=24", "batch.shards=2", "augmentation={flip: 0.5, jitter: 1.2}",
        "scheme={name: alternating, order: critic_first, critic_batch: 12, real_first_steps: 2}",
    ],
    "growing, joint, in the middle of a fade": ["batch.size=20", GROWING],
    "growing, alternating, gradient penalty": [
        "batch.size=20", GROWING, "objective={name: wgan, drift: 0.001}", "regularizers=[gradient_penalty]",
        "scheme={name: alternating, order: simultaneous}", "ema={decay: 0.9}",
    ],
    "joint, two passes, normalised": [
        "batch.size=20", "network.critic_batch_norm=false",
        "scheme={name: joint, passes: two, fakes: current, generator_trains_critic: false, "
        "balance: {name: loss, form: normalised}}",
        "regularizers=[gradient_penalty, {name: r1, every: 1}, {name: r2, every: 1}]",
    ],
    "attention, classes by batch norm and projection, spectral norm on both networks": [
        "batch.size=18", SAGAN, "task=conditional", "regularizers=[{name: spectral_norm, generator: true}]",
        "scheme={name: alternating, order: critic_first}", "ema={decay: 0.9}",
    ],
    "attention, projection, joint, R1": [
        "batch.size=20", SAGAN, "task=conditional", "regularizers=[{name: r1, every: 2}]",
    ],
    "three noisy generators": [
        "batch.size=20", "network={name: noisy_mlp, generator_widths: [8], critic_widths: [8], latent_dim: 8}",
    ],
}  # fmt: skip


def build(options: list[str], rank: int, world_size: int, data: str) -> tuple[Run, Replica]:
    sizes = TINY[2:] if not any(option.startswith("network=") for option in options) else []
    run = load("digits", [*TINY[:2], *sizes, *options])
    loader = open_loader(Location.of(data), run.data.transform, run.batch.size, run.seed, rank, world_size)
    return run, Replica(run, TorchDistributed(torch.device("cpu")), loader)


def weights(replica: Replica) -> dict[str, Tensor]:
    modules = {"generator": replica.generator, "critic": replica.critics}
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def train_all(
    rank: int, world_size: int, data: str, schemes: dict[str, list[str]], steps: int
) -> dict[str, dict[str, Tensor]]:
    """Every scheme's weights, running statistics and metrics after so many steps."""
    found = {}
    for name, options in schemes.items():
        _, replica = build(options, rank, world_size, data)
        for step in range(steps):
            metrics = replica.step(step)
        assert replica.diverged() is None
        found[name] = {**weights(replica), **metrics, "diversity": replica.diversity()}
    return found


#: Batch norm takes away what the generator's add, and differences of logits what the critic's add: their true
#: gradient is zero, and Adam scales up what rounding leaves. What they move is seen in running means.
WITHOUT_EFFECT = {"generator.3.bias", "generator.6.bias", "critic.image.10.bias", "critic.image.12.bias"}


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative distance, in the norm of the tensor, of any tensor that the networks depend on."""
    assert found.keys() == expected.keys()
    return max(
        float((found[key].double() - expected[key].double()).norm() / expected[key].double().norm().clamp_min(1e-30))
        for key in expected.keys() - WITHOUT_EFFECT
        if not key.endswith("running_mean")  # It follows biases that have no effect.
    )


def whole_distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The relative distance of everything, as one vector."""
    keys = sorted(expected)
    ours, theirs = (torch.cat([tensors[key].double().flatten() for key in keys]) for tensors in (found, expected))
    return float((ours - theirs).norm() / theirs.norm())


def train_both(
    rank: int, world_size: int, data: str, steps: int, other_steps: int
) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]]:
    """`train_all` of schemes and others, in processes that start once."""
    return train_all(rank, world_size, data, SCHEMES, steps), train_all(rank, world_size, data, OTHERS, other_steps)


Trained = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def one_replica(digits: Location) -> tuple[Trained, Trained]:
    found: tuple[Trained, Trained] = run_replicas(1, train_both, digits.path, STEPS, OTHER_STEPS)
    return found


@pytest.fixture(scope="module")
def one_replica_for_long(digits: Location) -> tuple[Trained, Trained]:
    found: tuple[Trained, Trained] = run_replicas(1, train_both, digits.path, MANY_STEPS, MANY_OTHER_STEPS)
    return found


def compare(
    count: int, steps: int, found: dict[str, dict[str, Tensor]], expected: dict[str, dict[str, Tensor]], limit: float
) -> None:
    for name in expected:
        apart, worst = whole_distance(found[name], expected[name]), distance(found[name], expected[name])
        sys.stdout.write(f"{count} replicas, {name}: {apart:.1e}, worst tensor {worst:.1e} after {steps} steps\n")
        assert apart < 1e-10, name
        assert worst < limit, name


@pytest.fixture(scope="module")
def three_replicas(digits: Location) -> tuple[Trained, Trained]:
    found: tuple[Trained, Trained] = run_replicas(3, train_both, digits.path, STEPS, OTHER_STEPS)
    return found


def test_replicas_give_the_weights_of_one(
    three_replicas: tuple[Trained, Trained], one_replica: tuple[Trained, Trained]
) -> None:
    compare(3, STEPS, three_replicas[0], one_replica[0], 1e-10)


def test_replicas_give_the_weights_of_one_for_every_kind_of_batch_statistic(
    three_replicas: tuple[Trained, Trained], one_replica: tuple[Trained, Trained]
) -> None:
    compare(3, OTHER_STEPS, three_replicas[1], one_replica[1], 1e-9)


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 3, 4])
def test_any_number_of_replicas_gives_the_weights_of_one_after_many_steps(
    count: int, digits: Location, one_replica_for_long: tuple[Trained, Trained]
) -> None:
    found = run_replicas(count, train_both, digits.path, MANY_STEPS, MANY_OTHER_STEPS)
    compare(count, MANY_STEPS, found[0], one_replica_for_long[0], 1e-10)
    compare(count, MANY_OTHER_STEPS, found[1], one_replica_for_long[1], 1e-9)


def test_training_changes_every_weight(digits: Location, one_replica: tuple[Trained, Trained]) -> None:
    for name, options in SCHEMES.items():
        _, replica = build(options, 0, 1, digits.path)
        for key, start in weights(replica).items():
            moved = not torch.equal(start, one_replica[0][name][key])
            assert moved or key in WITHOUT_EFFECT, f"{name}: {key}"


def count_collectives(rank: int, world_size: int, data: str, runs: dict[str, list[str]]) -> dict[str, list[int]]:
    """Of each run, how many reductions its third step starts in its forward passes, and on how many numbers."""
    found = {}
    for name, options in runs.items():
        _, replica = build(options, rank, world_size, data)
        collective, sizes = replica._accelerator.collective, list[int]()
        reduce = collective.sum_over_replicas

        def counting(value: Tensor, same_gradient: bool = False, reduce: Any = reduce, to: list[int] = sizes) -> Tensor:
            to.append(value.numel())
            result: Tensor = reduce(value, same_gradient)
            return result

        for step in range(3):
            sizes.clear()
            collective.sum_over_replicas = counting  # type: ignore[method-assign]
            replica.step(step)
        found[name] = list(sizes)
    return found


PLAIN = "network={name: mlp, generator_widths: [8], critic_widths: [8], latent_dim: 8, batch_norm: false}"
PATCHES = "network={name: dcgan, generator_channels: 4, critic_channels: 4, critic_stages: 2, patches: true}"


def test_no_objective_costs_more_than_one_collective(digits: Location) -> None:
    """Networks without batch norm, which has collectives of its own, or with one in the generator alone."""
    runs = {}
    for objective in names("service.losses.objectives"):
        network = [PATCHES, "network.critic_batch_norm=false"] if objective == "sim_cosine" else [PLAIN]
        words = ["batch.size=12", f"objective={objective}", *network]
        runs[f"joint, {objective}"] = [*words, "scheme={name: joint, balance: fixed}"]
        runs[f"in turn, {objective}"] = [*words, "scheme=alternating"]
    runs["two critics, heads, a term"] = [
        "batch.size=12", PLAIN, "critics.count=2", "task=info", "terms=total_variation",
    ]  # fmt: skip
    runs["adaptive augmentation"] = ["batch.size=12", PLAIN, "regularizers=ada"]
    for name, sizes in run_replicas(2, count_collectives, digits.path, runs).items():
        of_generator = 3 if "sim_cosine" in name else 0  # Its batch norms.
        updates = 2 if name.startswith("in turn") else 1
        assert len(sizes) == updates + of_generator, name


def train_in_two_parts(rank: int, world_size: int, data: str, folder: str, names: list[str], half: int) -> Any:
    """Trains each scheme to `half` if the folder has no checkpoint of it, and writes one; else from it to the end.

    Without a folder it trains to the end at once. Returns every tensor that continues.
    """
    found = {}
    for name in names:
        _, replica = build({**SCHEMES, **OTHERS}[name], rank, world_size, data)
        own = Path(folder, name)
        start, stop = 0, half if folder else 2 * half
        if (own / "state.json").exists():
            state = checkpoints.load(own, replica.identity)
            replica.restore(state)
            start, stop = state.step, 2 * half
        for step in range(start, stop):
            replica.step(step)
        state = replica.state(stop)
        if rank == 0 and folder and start == 0:
            checkpoints.save(state, own)
        found[name] = {**state.networks, **state.rows}
    return found


def train_whole_and_resumed(rank: int, world_size: int, data: str, folder: str, names: list[str], half: int) -> Any:
    """Each scheme trained at once, and in two parts by replicas that are built anew, in processes that start once."""
    whole = train_in_two_parts(rank, world_size, data, "", names, half)
    train_in_two_parts(rank, world_size, data, folder, names, half)
    if world_size > 1:
        dist.barrier()  # The first replica has written its checkpoints.
    return whole, train_in_two_parts(rank, world_size, data, folder, names, half)


@pytest.mark.parametrize("count", [1, 2, pytest.param(3, marks=pytest.mark.long)])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(count: int, digits: Location, tmp_path: Path) -> None:
    names = [*SCHEMES, *OTHERS]
    whole, resumed = run_replicas(count, train_whole_and_resumed, digits.path, str(tmp_path), names, 3)
    for name in names:
        assert whole[name].keys() == resumed[name].keys()
        for key, value in whole[name].items():
            assert torch.equal(value, resumed[name][key]), f"{name}: {key}"


def test_a_run_resumes_on_another_number_of_replicas(digits: Location, tmp_path: Path) -> None:
    names = ["loss, weighted", "alternating"]
    whole = run_replicas(1, train_in_two_parts, digits.path, "", names, 10)
    run_replicas(3, train_in_two_parts, digits.path, str(tmp_path), names, 10)
    resumed = run_replicas(2, train_in_two_parts, digits.path, str(tmp_path), names, 10)
    for name in names:
        assert distance(resumed[name], whole[name]) < 1e-10


def test_a_checkpoint_of_a_time_with_fewer_options_can_be_resumed(digits: Location, tmp_path: Path) -> None:
    _, replica = build(["batch.size=8"], 0, 1, digits.path)
    replica.step(0)
    checkpoints.save(replica.state(1), tmp_path)
    file = tmp_path / "state.json"
    described = json.loads(file.read_text())
    for option in ("terms", "critics", "augmentation"):
        del described["run"][option]
    described["identity"]["recipe"] = "as it was computed then"
    file.write_text(json.dumps(described))
    assert checkpoints.load(tmp_path, replica.identity).step == 1
    _, other = build(["batch.size=10"], 0, 1, digits.path)
    with pytest.raises(checkpoints.CheckpointError, match="another recipe"):
        checkpoints.load(tmp_path, other.identity)
    described["run"]["objective"] = {"name": "forgotten"}
    file.write_text(json.dumps(described))
    with pytest.raises(checkpoints.CheckpointError, match="forgotten"):
        checkpoints.load(tmp_path, replica.identity)
