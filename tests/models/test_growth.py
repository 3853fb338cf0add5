"""Progressive growing: stages, what fades, and what begins anew."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.configuration.recipe import load
from service.losses.regularizers.spectral_norm import SpectralNorm
from service.models.growth import GrowingModule, begins, faded, grow, size_and_fade
from service.models.networks import ImageShape
from service.models.networks.pggan import PGGAN
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.runs.on_replica.replica import Replica

IMAGE = ImageShape(1, 16, 16)
NETWORK = PGGAN(latent_dim=8, channels=32, most_channels=8, stable_images=40, fade_images=80)


@pytest.mark.parametrize("seen", [0, 39, 40, 60, 119, 120, 159, 160, 200, 240, 10_000])
def test_stages_are_the_authors(seen: int) -> None:
    """TrainingSchedule of progressive_growing_of_gans/train.py, whose level of detail counts down."""
    phase, rest = divmod(seen, 40 + 80)
    lod = 2.0 - phase
    lod -= max(rest - 40, 0) / 80
    lod = max(lod, 0.0)
    stage = NETWORK.stage(IMAGE, seen)
    assert stage == pytest.approx(2.0 - lod)
    size, fade = size_and_fade(stage)
    assert 4 * 2**size == 2 ** (4 - int(lod // 1))
    assert (1 - fade) == pytest.approx(lod % 1)


def test_the_author_resets_where_a_fade_begins_and_ends() -> None:
    assert [begins(now, before) for before, now in ((0, 0), (0, 0.25), (0.25, 0.5), (0.5, 1), (1, 1), (0.9, 1.1))] == [
        False, True, False, True, False, True,
    ]  # fmt: skip


def test_real_images_fade_like_the_networks() -> None:
    """The author's process_reals: at level of detail l + f, the share f is of the next smaller image."""
    images = torch.randn(3, 1, 16, 16, dtype=torch.float64)
    assert torch.equal(faded(images, 2.0, 2), images)
    smaller = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0, mode="nearest")
    torch.testing.assert_close(faded(images, 1.25, 2), images * 0.25 + smaller * 0.75, rtol=1e-12, atol=1e-12)
    smallest = F.interpolate(F.avg_pool2d(images, 4), scale_factor=4.0, mode="nearest")
    torch.testing.assert_close(faded(images, 0.5, 2), smaller * 0.5 + smallest * 0.5, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(faded(images, 0.0, 2), smallest, rtol=1e-12, atol=1e-12)


def test_networks_change_gradually_and_see_no_more_than_their_size() -> None:
    torch.manual_seed(0)
    generator, critic = NETWORK.generator(IMAGE, 8).double(), NETWORK.critic(IMAGE).double()
    latents, images = torch.randn(4, 8, dtype=torch.float64), torch.randn(4, *IMAGE, dtype=torch.float64)

    def at(stage: float) -> tuple[torch.Tensor, torch.Tensor]:
        for network in (generator, critic):
            grow(network, stage)
        return generator(latents), critic(images)

    for whole in (0.0, 1.0):
        for before, after in zip(at(whole), at(whole + 1e-9), strict=True):
            torch.testing.assert_close(before, after, rtol=1e-6, atol=1e-6)
    for before, after in zip(at(1.0 - 1e-9), at(1.0), strict=True):
        torch.testing.assert_close(before, after, rtol=1e-6, atol=1e-6)
    made, judged = at(0.0)
    torch.testing.assert_close(made, faded(made, 0.0, 2))  # Blocks of 4x4 pixels.
    torch.testing.assert_close(judged, critic(faded(images, 0.0, 2)))
    made, judged = at(0.5)
    torch.testing.assert_close(judged, critic(faded(images, 1.0, 2)))


def test_weights_bring_their_stage() -> None:
    generator, other = NETWORK.generator(IMAGE, 8), NETWORK.generator(IMAGE, 8)
    grow(generator, 0.25)
    other.load_state_dict(generator.state_dict())
    assert isinstance(other, GrowingModule)
    assert (other.size, other.fade) == (1, 0.25)
    latents = torch.randn(2, 8)
    assert torch.equal(generator(latents), other(latents))


def test_optimizers_begin_anew_and_unborn_layers_stay(digits: Location) -> None:
    words = ["batch.size=20", "ema={decay: 0.9}", "network={name: pggan, latent_dim: 8, channels: 32, "
             "most_channels: 8, stable_images: 40, fade_images: 80}"]  # fmt: skip
    run = load("digits", words)
    loader = open_loader(digits, run.data.transform, 20, 0)
    replica = Replica(run, TorchDistributed(torch.device("cpu")), loader)
    counts, before = [], [parameter.clone() for parameter in replica.generator.parameters()]
    for step in range(8):
        replica.step(step)
        if step == 1:
            moved = [
                not torch.equal(now, then) for now, then in zip(replica.generator.parameters(), before, strict=True)
            ]
            assert 0 < sum(moved) < len(moved)
        state = replica.state(step + 1).optimizers["joint"]["state"]
        counts.append(max(int(values["step"]) for values in state.values()))
    assert counts == [1, 2, 3, 1, 2, 3, 1, 2]
    assert replica.generate(4, 0).shape == (4, *IMAGE)
    replica.close()


def test_spectral_norm_takes_the_place_of_the_equalised_rate() -> None:
    torch.manual_seed(0)
    critics = nn.ModuleDict({"image": PGGAN().critic(ImageShape(3, 16, 16))})
    SpectralNorm().prepare(critics)
    images = torch.randn(8, 3, 16, 16)
    for _ in range(5):
        logits = critics["image"](images)
    assert float(logits.detach().std()) > 1e-4


def test_growth_counts_the_images_that_critics_have_seen(digits: Location) -> None:
    words = [
        "batch.size=20", "scheme={name: alternating, order: critic_first, critic_steps: 3}",
        "network={name: pggan, latent_dim: 8, channels: 32, most_channels: 8, stable_images: 40, fade_images: 80}",
    ]  # fmt: skip
    run = load("digits", words)
    replica = Replica(run, TorchDistributed(torch.device("cpu")), open_loader(digits, run.data.transform, 20, 0))
    replica.step(0)
    replica.step(1)  # After 60 images, of which 20 faded in.
    assert isinstance(replica.generator, GrowingModule)
    assert (replica.generator.size, replica.generator.fade) == (1, 0.25)
    replica.close()
