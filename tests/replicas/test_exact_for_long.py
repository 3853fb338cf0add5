"""Exact replicas for as many steps as it takes a GAN to make a last bit into other images: 300.

The methods of the published recipes, with networks of a few channels. `python -m benchmarks bits` has more replicas.
"""

import pytest

from tests.processes import run_replicas
from tests.replicas.test_exact import TRANSLATIONS, assert_equal, train

STEPS = 300
_CRITIC_FIRST = "scheme={name: alternating, order: critic_first, critic_steps: 2}"
METHODS = {
    "self-dcgan": ["batch.size=16"],
    "dcgan": ["batch.size=16", "scheme=alternating"],
    "wgan-gp": [
        "batch.size=16", _CRITIC_FIRST, "objective=wgan", "regularizers=[gradient_penalty]",
        "network.critic_batch_norm=false",
    ],
    "r3gan, joint, two passes": [
        "batch.size=16", "network={name: r3gan, widths: [8, 8, 8], group_channels: 4, blocks: 1, latent_dim: 8}",
        "objective={name: relativistic, against: partner}",
        "scheme={name: joint, fakes: current, generator_trains_critic: false, passes: two, balance: fixed}",
        "regularizers=[{name: r1, weight: 1, every: 1}, {name: r2, weight: 1, every: 1}]",
    ],
    "infogan, minibatch discrimination": [
        "batch.size=16", "task=info", "scheme=alternating", "network.minibatch=discrimination",
    ],
    "cyclegan, pools": [
        option.replace("switchable", "instance").replace("batch.size=10", "batch.size=8")
        for option in TRANSLATIONS["cyclegan, pools, switchable norms, gates"]
    ],
    "growing": [
        "batch.size=16", "network={name: pggan, latent_dim: 8, channels: 16, most_channels: 8, stable_images: 800, "
        "fade_images: 800}",
    ],
}  # fmt: skip


@pytest.mark.long
def test_two_replicas_agree_to_the_last_bit(data: dict[int, str]) -> None:
    alone = train(0, 1, data, METHODS, "float32", STEPS)
    assert_equal(run_replicas(2, train, data, METHODS, "float32", STEPS), alone)
