"""The alternating scheme against the notebooks' and the guide's loops, written out."""

import pytest
import torch
from torch import Tensor

from service.schemes.alternating import Alternating
from tests.test_step import IMAGE, NETWORK, SIZE, bce, images, networks, parts_of, samples


@pytest.mark.parametrize("order", ["generator_first", "critic_first"])
def test_two_steps_equal_the_published_loop(order: str) -> None:
    parts = parts_of(1)
    factor = 0.5 if order == "generator_first" else 1.0
    stepper = Alternating.model_validate({"order": order, "critic_factor": factor}).stepper(parts)
    generator, critic = networks()
    optimizer_g, optimizer_d = (
        torch.optim.Adam(module.parameters(), lr=2e-4, betas=(0.5, 0.999)) for module in (generator, critic)
    )

    def update_generator(latents: Tensor) -> Tensor:
        optimizer_g.zero_grad()
        fake: Tensor = generator(latents)
        bce(torch.sigmoid(critic(fake)), 1).backward()
        optimizer_g.step()
        return fake.detach()

    def update_critic(real: Tensor, fake: Tensor) -> Tensor:
        optimizer_d.zero_grad()
        loss = bce(torch.sigmoid(critic(real)), 1) + bce(torch.sigmoid(critic(fake)), 0)
        (factor * loss).backward()
        optimizer_d.step()
        return loss.detach()

    for step in range(2):
        parts.batch.start(step, 0, SIZE)
        latents = parts.task.draw(NETWORK, parts.batch)["latents"]
        with parts.batch.passes(parts.batch.own_rows, first=3):
            fresh = parts.task.draw(NETWORK, parts.batch)["latents"]
        assert not torch.equal(latents, fresh)
        metrics = stepper.step(step, lambda _, step=step: samples(step))  # type: ignore[misc]
        if order == "generator_first":
            loss = update_critic(images(step), update_generator(latents))
        else:
            with torch.no_grad():
                fake = generator(latents)
            loss = update_critic(images(step), fake)
            update_generator(fresh)
        assert metrics["loss/real"].item() + metrics["loss/fake"].item() == pytest.approx(loss.item(), rel=1e-9)
    ours = [*parts.generator.parameters(), *parts.critics.parameters()]
    for mine, expected in zip(ours, [*generator.parameters(), *critic.parameters()], strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-7, atol=1e-10)
    assert parts.image == IMAGE


@pytest.mark.parametrize("first", [{"steps": 25, "every": 500, "critic_steps": 100}, {"steps": 0, "every": 7}, None])
def test_batches_are_counted_as_if_one_step_came_after_the_other(first: dict[str, int] | None) -> None:
    """WGAN's author: ``Diters = 100 if gen_iterations < 25 or gen_iterations % 500 == 0 else 5``."""
    scheme = Alternating.model_validate({"order": "critic_first", "critic_steps": 5, "more_at_first": first})
    read = 0
    for step in range(1200):
        assert scheme.batches_before(step) == read
        special = first is not None and (step < first["steps"] or step % first["every"] == 0)
        assert scheme.batches(step) == (100 if special else 5)
        read += scheme.batches(step)
