"""The joint step against the author's loop, written out: three passes, plain batch norm, a few lines a balance."""

import copy
import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.components import ConfigError
from service.configuration.recipe import load
from service.losses.balances.loss import LossBalance
from service.losses.objectives import Objective
from service.losses.objectives.bce import BinaryCrossEntropy
from service.losses.objectives.bce_swapped import SwappedBinaryCrossEntropy
from service.losses.objectives.lsgan import LeastSquares
from service.losses.objectives.relativistic import Relativistic
from service.losses.objectives.softmax import Softmax
from service.losses.objectives.wgan import Wasserstein
from service.models.networks import ImageShape
from service.models.networks.dcgan import DCGAN
from service.models.networks.mlp import MLP
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.replicas.global_batch import GlobalBatch
from service.replicas.global_layers import follow_global_batch
from service.tasks import Samples
from service.tasks.unconditional import Unconditional
from service.training.context import TrainingContext
from service.training.critics.critic_set import CriticSet
from service.training.critics.image_pool import Pools
from service.training.optimizers.adam import Adam
from service.training.schemes.joint import Joint

Hold = Callable[[Tensor], Tensor]
Measure = Callable[[Tensor, float], Tensor]
SIZE, IMAGE = 16, ImageShape(1, 16, 16)
NETWORK = DCGAN(latent_dim=6, generator_channels=8, critic_channels=4, critic_stages=3, dropout=0.0)


def bce(probability: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy(probability, torch.full_like(probability, target))


def swapped(probability: Tensor, target: float) -> Tensor:
    """Keras' ``binary_crossentropy(probability, target)``: the prediction is what comes second, clipped in float32."""
    clipped = min(max(target, 1e-7), 1 - 2.0**-23)
    return -(probability * math.log(clipped) + (1 - probability) * math.log1p(-clipped)).mean()


def paper_gpu(on_fake: Tensor, on_real: Tensor, on_last: Tensor, hold: Hold, measure: Measure) -> Tensor:
    gen, real, fake = measure(on_fake, 1), measure(on_real, 1), measure(on_last, 0)
    return (real + 0.1 * hold(gen) * gen + 0.9 * hold(fake) * fake) / 2


def paper_tpu(on_fake: Tensor, on_real: Tensor, on_last: Tensor, hold: Hold, measure: Measure) -> Tensor:
    gen, real, fake = measure(on_fake, 1), measure(on_real, 1), measure(on_last, 0)
    v_g, v_r, v_f = hold(gen), hold(real), hold(fake)
    v_sum = v_g + v_r + v_f
    return real * v_r / v_sum + gen * v_g / v_sum + fake * v_f / v_sum


def notebook_gpu(on_fake: Tensor, on_real: Tensor, on_last: Tensor, hold: Hold, measure: Measure) -> Tensor:
    v_g, v_f = hold(1 - on_fake.mean()), hold(on_last.mean())
    return (measure(on_real, 1) + v_g * measure(on_fake, 1) * 0.1 + v_f * measure(on_last, 0) * 0.9) / 2


def notebook_tpu(on_fake: Tensor, on_real: Tensor, on_last: Tensor, hold: Hold, measure: Measure) -> Tensor:
    v_g, v_r, v_f = hold(1 - on_fake.mean()), hold(1 - on_real.mean()), hold(on_last.mean())
    v_sum = v_g + v_r + v_f
    return measure(on_real, 1) * v_r / v_sum + measure(on_fake, 1) * v_g / v_sum + measure(on_last, 0) * v_f / v_sum


FORMULAS = {
    ("loss", "weighted"): paper_gpu,
    ("loss", "normalised"): paper_tpu,
    ("validity", "weighted"): notebook_gpu,
    ("validity", "normalised"): notebook_tpu,
}
MEASURES: dict[str, tuple[Objective, Measure]] = {
    "bce": (BinaryCrossEntropy(), bce),
    "bce_swapped": (SwappedBinaryCrossEntropy(), swapped),
}


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    generator, critic = Unconditional().generator(NETWORK, IMAGE), Unconditional().critic(NETWORK, IMAGE)
    for parameter in critic.parameters():  # Logits far from zero, so that validities differ.
        parameter.data.mul_(3)
    return generator.double(), critic.double()


def images(seed: int) -> Tensor:
    return torch.randn(SIZE, *IMAGE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tanh()


def parts_of(shards: int, objective: Objective | None = None) -> TrainingContext:
    accelerator = TorchDistributed(torch.device("cpu"))
    batch = GlobalBatch(SIZE, shards, 0, accelerator.collective, accelerator.device, torch.float64)
    generator, critic = networks()
    critics = nn.ModuleDict({"image": critic})
    follow_global_batch(generator, batch, "generator")
    follow_global_batch(critics, batch, "critic")
    return TrainingContext(
        network=NETWORK,
        task=Unconditional(),
        objective=objective or BinaryCrossEntropy(),
        regularizers=(),
        optimizer=Adam(),
        image=IMAGE,
        generator=generator,
        critics=critics,
        roles=CriticSet().roles(["image"]),
        terms={},
        batch=batch,
        pools=Pools(0, batch),
        accelerator=accelerator,
    )


def samples(seed: int) -> Samples:
    return Samples(images(seed), torch.zeros(SIZE, dtype=torch.int64))


def gradients(*modules: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None
            found[f"{len(found)}.{name}"] = parameter.grad.clone()
    return found


@pytest.mark.parametrize("shards", [1, 8])
@pytest.mark.parametrize("gradient", ["through", "detached"])
@pytest.mark.parametrize(("balance", "form"), list(FORMULAS))
@pytest.mark.parametrize("objective", list(MEASURES))
def test_two_steps_equal_the_authors_loop(objective: str, balance: str, form: str, gradient: str, shards: int) -> None:
    ours_is, measure = MEASURES[objective]
    parts = parts_of(shards, ours_is)
    scheme = Joint.model_validate({"balance": {"name": balance, "form": form, "gradient": gradient}})
    stepper = scheme.stepper(parts)
    generator, critic = networks()
    optimizer = torch.optim.Adam([*generator.parameters(), *critic.parameters()], lr=2e-4, betas=(0.5, 0.999))
    last = torch.zeros(SIZE, *IMAGE, dtype=torch.float64)
    each = SIZE // shards

    def hold(value: Tensor) -> Tensor:
        return value.detach() if gradient == "detached" else value

    for step in range(2):
        parts.batch.start(step, 0, SIZE)
        latents = parts.task.draw(NETWORK, parts.batch)["latents"]
        metrics = stepper.step(step, lambda _, step=step: samples(step))  # type: ignore[misc]

        optimizer.zero_grad()
        total = 0.0
        fakes = torch.empty_like(last)
        for shard in range(shards):
            part = slice(shard * each, (shard + 1) * each)
            fake = generator(latents[part])
            on_fake, on_real, on_last = (torch.sigmoid(critic(x)) for x in (fake, images(step)[part], last[part]))
            loss = FORMULAS[balance, form](on_fake, on_real, on_last, hold, measure)
            loss.backward()
            total += loss.item()
            fakes[part] = fake.detach()
        last = fakes
        ours, theirs = gradients(parts.generator, parts.critics), gradients(generator, critic)
        for (name, mine), expected in zip(ours.items(), theirs.values(), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-13, msg=name)
        assert metrics["loss/joint"].item() == pytest.approx(total, rel=1e-12)
        torch.testing.assert_close(stepper.fakes, last, rtol=1e-10, atol=1e-12)
        optimizer.step()


def test_the_generator_term_can_be_kept_from_the_critic() -> None:
    kept: dict[str, dict[str, Tensor]] = {}
    reaching: dict[str, dict[str, Tensor]] = {}
    for reaches, found in ((False, kept), (True, reaching)):
        parts = parts_of(1)
        scheme = Joint.model_validate({"balance": "fixed", "generator_trains_critic": reaches})
        parts.batch.start(0, 0, SIZE)
        scheme.stepper(parts).step(0, lambda _: samples(0))
        found.update({"generator": gradients(parts.generator), "critic": gradients(parts.critics)})
    _generator, critic = networks()
    logits = [critic(shown) for shown in (images(0), torch.zeros(SIZE, *IMAGE, dtype=torch.float64))]
    loss = 0.5 * F.softplus(-logits[0]).mean() + 0.45 * F.softplus(logits[1]).mean()
    loss.backward()
    for mine, expected in zip(kept["critic"].values(), gradients(critic).values(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-14)
    for mine, expected in zip(kept["generator"].values(), reaching["generator"].values(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-14)
    first = next(iter(reaching["critic"]))
    assert not torch.allclose(reaching["critic"][first], kept["critic"][first], rtol=1e-3)


def test_statistics_of_the_critics_passes_stay_apart() -> None:
    """Real images shown with black ones get the logits they get alone."""
    parts = parts_of(1)
    batch = parts.batch
    batch.start(0, 0, SIZE)
    alone = copy.deepcopy(networks()[1])(images(0))
    with batch.passes(batch.own_rows, batch.own_rows):
        together = parts.critics["image"](torch.cat([torch.zeros_like(images(0)), images(0)]))
    torch.testing.assert_close(together[SIZE:], alone, rtol=1e-10, atol=1e-12)


TWO = {"generator_trains_critic": False, "fakes": "current"}
OBJECTIVES: dict[str, tuple[Objective, dict[str, str]]] = {
    "bce, loss": (BinaryCrossEntropy(), {"name": "loss"}),
    "bce, normalised": (BinaryCrossEntropy(), {"name": "loss", "form": "normalised"}),
    "bce, validity, 2 shards": (BinaryCrossEntropy(), {"name": "validity"}),
    "lsgan": (LeastSquares(), {"name": "loss"}),
    "wgan": (Wasserstein(), {"name": "fixed"}),
    "relativistic": (Relativistic(), {"name": "loss"}),
    "softmax": (Softmax(), {"name": "fixed"}),
}


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_two_passes_give_the_gradients_of_three(name: str) -> None:
    """One look at generated images for both networks, against a look for each; the critic has no batch norm."""
    objective, balance = OBJECTIVES[name]
    found = {}
    for passes in ("three", "two"):
        parts = parts_of(2 if "shards" in name else 1)
        torch.manual_seed(1)
        critic = MLP(critic_widths=(8,)).critic(IMAGE).double()
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.mul_(3)
        parts = dataclasses.replace(parts, objective=objective, critics=nn.ModuleDict({"image": critic}))
        scheme = Joint.model_validate({**TWO, "passes": passes, "balance": balance})
        scheme.check(objective, SIZE, 1)
        scheme.check_critic(critic, 1)
        stepper = scheme.stepper(parts)
        parts.batch.start(0, 0, SIZE)
        metrics = stepper.step(0, lambda _: samples(0))
        found[passes] = (gradients(parts.generator, parts.critics), metrics)
    for key, gradient in found["three"][0].items():
        assert float(gradient.abs().max()) > 0 or "bias" in key
        torch.testing.assert_close(found["two"][0][key], gradient, rtol=1e-9, atol=1e-14)
    for key, value in found["three"][1].items():
        torch.testing.assert_close(found["two"][1][key], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "if both look at the same images"),
        (["scheme.fakes=current"], "if both look at the same images"),
        (["scheme.fakes=current", "scheme.generator_trains_critic=false"], "not look at the batch"),
        (["scheme={name: joint, passes: two, fakes: current, generator_trains_critic: false, balance: fixed}",
          "objective=hinge", "network.critic_batch_norm=false"], "no gradient where it is sure"),
        (["scheme.fakes=current", "scheme.generator_trains_critic=false", "network.critic_batch_norm=false",
          "task=info"], "one number"),
        (["scheme.fakes=current", "scheme.generator_trains_critic=false", "network.critic_batch_norm=false",
          "network.patches=true", "critics.scales=2"], "one number"),
    ],
)  # fmt: skip
def test_two_passes_are_refused_where_they_would_be_something_else(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load("digits", ["scheme.passes=two", *words])


def test_options_of_a_balance_are_the_papers_unless_it_is_named() -> None:
    run = load("digits", ["scheme={name: joint, fakes: current}", "scheme.balance.form=normalised"])
    assert run.scheme == Joint(fakes="current", balance=LossBalance(form="normalised"))
