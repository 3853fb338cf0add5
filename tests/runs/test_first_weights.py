"""Weights that other code has written: taken where it is plain which is which, and refused with what does not fit."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.components import ConfigError
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.artifacts import first_weights
from service.artifacts.checkpoints import CheckpointError
from service.configuration.config import FirstWeights, Run
from service.configuration.recipe import load
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.runs.on_replica.replica import Replica

WORDS = ["batch.size=8", "ema={}", "network.generator_channels=8", "network.critic_channels=2",
         "network.latent_dim=5", "network.critic_stages=3"]  # fmt: skip


class TheirGenerator(nn.Module):
    """As PyTorch-GAN's dcgan.py lays its generator out, for 16x16 images and 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.l1 = nn.Sequential(nn.Linear(5, 8 * 4 * 4))
        self.conv_blocks = nn.Sequential(
            nn.BatchNorm2d(8), nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, 0.8),
            nn.LeakyReLU(0.2), nn.Upsample(scale_factor=2), nn.Conv2d(8, 4, 3, padding=1), nn.BatchNorm2d(4, 0.8),
            nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3, padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, latents: Tensor) -> Tensor:
        made: Tensor = self.conv_blocks(self.l1(latents).view(-1, 8, 4, 4))
        return made


class TheirCritic(nn.Module):
    """Likewise; its sigmoid has no weights."""

    def __init__(self) -> None:
        super().__init__()

        def block(fan_in: int, fan_out: int, norm: bool = True) -> list[nn.Module]:
            layers = [nn.Conv2d(fan_in, fan_out, 3, 2, 1), nn.LeakyReLU(0.2), nn.Dropout2d(0.25)]
            return [*layers, nn.BatchNorm2d(fan_out, 0.8)] if norm else layers

        self.model = nn.Sequential(*block(1, 2, False), *block(2, 4), *block(4, 8))
        self.adv_layer = nn.Sequential(nn.Linear(8 * 2 * 2, 1), nn.Sigmoid())


def theirs(network: type[nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    made = network()
    for value in made.state_dict().values():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.1, 0.9)
    return made.eval()


@pytest.fixture
def new_replica(digits: Location) -> Callable[[Run], Replica]:
    def made(run: Run) -> Replica:
        loader = open_loader(digits, run.data.transform, run.batch.size, run.seed)
        return Replica(run, TorchDistributed(torch.device("cpu")), loader)

    return made


def begun(replica: Replica, start: str | FirstWeights) -> list[str]:
    """Lets a replica begin with files; returns what was told."""
    told: list[str] = []
    networks = {"generator": replica.generator, "critic": replica.critics}
    replica.begin_with(first_weights.read(start, networks, told.append))
    return told


def critics_weights(replica: Replica) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in replica.critics.state_dict().items()}


def test_pytorch_gans_weights_make_their_images(new_replica: Callable[[Run], Replica], tmp_path: Path) -> None:
    generator, critic = theirs(TheirGenerator), theirs(TheirCritic)
    torch.save(generator.state_dict(), tmp_path / "generator.pth")
    torch.save(nn.DataParallel(critic).state_dict(), tmp_path / "critic.pth")
    files = {part: str(tmp_path / f"{part}.pth") for part in ("generator", "critic")}
    run = load("digits", [*WORDS, f"start_from={{generator: {files['generator']}, critic: {files['critic']}}}"])
    assert run.start_from == FirstWeights(**files)
    replica = new_replica(run)
    told = begun(replica, FirstWeights(**files))
    assert [f"{part}.pth are not this run's {part}'s; matched by their order" in line
            for part, line in zip(files, told, strict=True)] == [True, True]  # fmt: skip
    latents = torch.randn(6, 5)
    replica.generator.eval()
    assert replica._average is not None
    average = replica._average.network.eval()
    for network in (replica.generator, average):
        torch.testing.assert_close(network(latents), generator(latents), rtol=1e-4, atol=1e-5)
    for ours, value in zip(replica.critics.state_dict().values(), critic.state_dict().values(), strict=True):
        assert torch.equal(ours, value)
    replica.close()


def test_the_generator_alone_leaves_the_critic(new_replica: Callable[[Run], Replica], tmp_path: Path) -> None:
    replica = new_replica(load("digits", WORDS))
    before = critics_weights(replica)
    wanted = {name: torch.rand_like(value) if value.is_floating_point() else value
              for name, value in replica.generator.state_dict().items()}  # fmt: skip
    file = tmp_path / "weights.safetensors"
    for prefix in ("", "module.", "module.generator."):
        save_file({f"{prefix}{name}": value for name, value in wanted.items()}, file)
        assert begun(replica, str(file)) == []
        assert all(torch.equal(value, wanted[name]) for name, value in replica.generator.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in replica.critics.state_dict().items())
    replica.close()


@pytest.mark.parametrize("layout", ["nested", "prefixed", "wrapped"])
def test_one_file_may_hold_both(new_replica: Callable[[Run], Replica], tmp_path: Path, layout: str) -> None:
    generator, critic = theirs(TheirGenerator).state_dict(), theirs(TheirCritic).state_dict()
    contents: dict[str, Any] = {
        "nested": {"netG": generator, "netD": critic, "epoch": 3},
        "prefixed": {**{f"G.{name}": value for name, value in generator.items()},
                     **{f"D.{name}": value for name, value in critic.items()}},
        "wrapped": {"state_dict": {**{f"generator.{name}": value for name, value in generator.items()},
                                   **{f"discriminator.{name}": value for name, value in critic.items()}}},
    }  # fmt: skip
    torch.save(contents[layout], tmp_path / "all.pt")
    replica = new_replica(load("digits", WORDS))
    begun(replica, str(tmp_path / "all.pt"))
    for network, state in ((replica.generator, generator), (replica.critics, critic)):
        assert all(map(torch.equal, network.state_dict().values(), state.values()))
    replica.close()


def refused(tmp_path: Path, content: Any, *words: str) -> str:
    """The line with which a file's content is refused, on the driver, before anything starts."""
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ConfigError) as error:
        given = dict(word.split("=", 1) for word in [*WORDS, f"start_from={file}", *words])
        first_weights.checked(load("digits", [f"{key}={value}" for key, value in given.items()]))
    line = str(error.value)
    assert "\n" not in line and str(file) in line
    return line


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    state = theirs(TheirGenerator).state_dict()
    line = refused(tmp_path, state, "network.latent_dim=6")
    assert "does not fit this run's generator: other shapes: l1.0.weight (128, 5) for 0.weight (128, 6)" in line
    assert refused(tmp_path, state, "network.generator_channels=6").endswith(" (8,) for 2.weight (6,) and 16 more")
    more = refused(tmp_path, {**state, "conv_blocks.11.weight": torch.zeros(2, 2)})
    assert more.endswith("generator: more there: conv_blocks.11.weight (2, 2)")
    fewer = {name: value for name, value in state.items() if not name.startswith("conv_blocks.9")}
    assert refused(tmp_path, fewer).endswith("not there: 9.weight (1, 4, 3, 3), 9.bias (1,)")
    # The same shapes in the same order, but shifts where scales should be.
    swapped = {{"conv_blocks.0.weight": "conv_blocks.0.bias", "conv_blocks.0.bias": "conv_blocks.0.weight"}.get(
        name, name): value for name, value in state.items()}  # fmt: skip
    assert "its layers are of other kinds, or in another order" in refused(tmp_path, swapped)
    # Nor may a layer's tensors come from two.
    torn = {name.replace("l1.0.bias", "l2.0.bias"): value for name, value in state.items()}
    assert "its layers are of other kinds, or in another order" in refused(tmp_path, torn)


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_code_is_never_run(tmp_path: Path) -> None:
    evil = Evil(tmp_path / "was run")
    for content in (pickle.dumps(evil), b"", b"not a file of weights"):
        assert "is damaged, or " in refused(tmp_path, content)
    assert "code is not run" in refused(tmp_path, {"weight": torch.zeros(1), "evil": evil})
    assert "code is not run" in refused(tmp_path, theirs(TheirGenerator))
    assert not evil.file.exists()
    pickle.loads(pickle.dumps(evil))
    assert evil.file.exists(), "it would have been"
    assert "holds no state dict" in refused(tmp_path, {"epoch": 3})


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start_from: there is no checkpoint at /nowhere"):
        first_weights.checked(load("digits", ["start_from=/nowhere"]))
    with pytest.raises(ConfigError, match=r"start_from: /nowhere\.pth cannot be read"):
        first_weights.checked(load("digits", ["start_from=/nowhere.pth"]))
    for wrong in ("5", "{}", "[a]"):
        with pytest.raises(ConfigError, match=r"start_from: .* expected a path or URI, or \{generator: FILE"):
            load("digits", [f"start_from={wrong}"])
    with pytest.raises(ConfigError, match=r"start_from\.critics: no such key; did you mean"):
        load("digits", ["start_from={critics: a.pth}"])
    with pytest.raises(CheckpointError, match="does not fit this run's critic"):
        torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
        run = load("digits", WORDS)
        networks = {"critic": run.critics.critics(run.task, run.network, run.image)}
        first_weights.read(FirstWeights(critic=str(tmp_path / "a.pth")), networks, lambda _: None)


def test_what_a_run_starts_from_does_not_change_its_recipe() -> None:
    plain = load("digits")
    assert load("digits", ["start_from.critic=a.pth"]).recipe_hash == plain.recipe_hash
    assert load("digits", ["start_from.critic=a.pth"]).start_from == FirstWeights(critic="a.pth")


def test_replicas_find_files_wherever_they_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(theirs(TheirGenerator).state_dict(), "g.pt")
    for word, expected in (
        ("start_from=g.pt", str(tmp_path / "g.pt")),
        ("start_from={generator: g.pt}", FirstWeights(generator=str(tmp_path / "g.pt"))),
    ):
        assert first_weights.checked(load("digits", [*WORDS, word])).start_from == expected
