"""Weights applied to updates: the learning rates of each step, in the author's loop written out."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.components import ConfigError
from service.configuration.recipe import load
from service.tasks import Samples
from service.training.schemes.joint import Joint
from tests.training.test_step import IMAGE, NETWORK, SIZE, gradients, images, networks, parts_of, samples

RATE = 2e-4


def weighted(generator: Tensor, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and what the generator's and the critic's rate are multiplied by."""
    loss = (0.1 * generator + real + 0.9 * fake) / 2
    return loss, generator.detach(), (1 + 0.9 * fake.detach()) / 1.9


def normalised(generator: Tensor, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    whole = (generator + real + fake).detach()
    return (generator + real + fake) / 3, 3 * generator.detach() / whole, 1.5 * (real + fake).detach() / whole


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("form", [weighted, normalised])
def test_the_learning_rate_of_a_network_follows_its_losses(
    form: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]], shards: int
) -> None:
    parts = parts_of(shards)
    balance = {"name": "loss", "form": form.__name__, "applied_to": "update"}
    stepper = Joint.model_validate({"balance": balance}).stepper(parts)
    generator, critic = networks()
    optimizer = torch.optim.Adam([{"params": one.parameters()} for one in (generator, critic)], betas=(0.5, 0.999))
    last, each = torch.zeros(SIZE, *IMAGE, dtype=torch.float64), SIZE // shards
    for step in range(3):
        parts.batch.start(step, 0, SIZE)
        latents = parts.task.draw(NETWORK, parts.batch)["latents"]
        stepper.step(step, lambda _, step=step: samples(step))  # type: ignore[misc]
        optimizer.zero_grad()
        factors, fakes = [], []
        for part in (slice(start, start + each) for start in range(0, SIZE, each)):
            fake = generator(latents[part])
            on_fake, on_real, on_last = (critic(shown) for shown in (fake, images(step)[part], last[part]))
            loss, *rates = form(F.softplus(-on_fake).mean(), F.softplus(-on_real).mean(), F.softplus(on_last).mean())
            loss.backward()
            factors.append(rates)
            fakes.append(fake.detach())
        last = torch.cat(fakes)
        ours, theirs = gradients(parts.generator, parts.critics), gradients(generator, critic)
        for (name, mine), expected in zip(ours.items(), theirs.values(), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-8, atol=1e-12, msg=f"{name} at step {step}")
        for group, found in zip(optimizer.param_groups, zip(*factors, strict=True), strict=True):
            group["lr"] = RATE * float(sum(found)) / shards
        optimizer.step()


def trained(balance: dict[str, str], shown: Samples) -> dict[str, Tensor]:
    """The weights after two steps, of which the second is given these samples."""
    parts = parts_of(1)
    stepper = Joint.model_validate({"balance": balance}).stepper(parts)
    for step, batch in enumerate((samples(0), shown)):
        parts.batch.start(step, 0, SIZE)
        stepper.step(step, lambda _, batch=batch: batch)  # type: ignore[misc]
    modules = parts.generator, parts.critics
    return {f"{number}.{name}": one for number, module in enumerate(modules) for name, one in module.named_parameters()}


def test_networks_that_do_equally_badly_move_as_they_would() -> None:
    plain, scaled = (trained({"name": "fixed", "applied_to": to}, samples(1)) for to in ("loss", "update"))
    for name, expected in plain.items():
        assert torch.equal(scaled[name], expected), name


def test_a_step_that_diverged_moves_nothing() -> None:
    """Its weights are no numbers either."""
    broken = samples(1)._replace(images=torch.full((SIZE, *IMAGE), float("nan"), dtype=torch.float64))
    for weights in trained({"name": "loss", "form": "normalised", "applied_to": "update"}, broken).values():
        assert weights.isfinite().all()


def test_a_generator_without_a_share_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"scheme\.balance.*without a share.*generator_share or applied_to"):
        load("digits", ["scheme.balance.generator_share=0", "scheme.balance.applied_to=update"])
    load("digits", ["scheme.balance.generator_share=0"])


def test_recipes_whose_losses_are_weighted_have_the_hash_they_had() -> None:
    assert load("self-gan-mnist").recipe_hash == "a109d029611d4364"
    assert load("self-gan-mnist", ["scheme.balance.applied_to=update"]).recipe_hash != "a109d029611d4364"
