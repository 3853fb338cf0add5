"""The alternating scheme against the notebooks' and the guide's loops, written out."""

import pytest
import torch
from torch import Tensor

from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.configuration.recipe import load
from service.losses.objectives.relativistic import Relativistic
from service.losses.objectives.wgan import Wasserstein
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.runs.on_replica.replica import Replica
from service.training.context import TrainingContext
from service.training.schemes.alternating import Alternating, AlternatingStepper
from tests.training.test_step import IMAGE, NETWORK, SIZE, bce, images, networks, parts_of, samples


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


def gradients_of(
    stepper: AlternatingStepper, parts: TrainingContext, step: int
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The critic's gradients in one step, the generator's weights after it, and what it has made."""
    found: list[Tensor] = []
    optimizer = stepper.optimizers["critic"]
    hook = optimizer.register_step_pre_hook(
        lambda *_: found.extend(p.grad.clone() for p in parts.critics.parameters() if p.grad is not None)
    )
    parts.batch.start(step, 0, SIZE)
    stepper.step(step, lambda _: samples(step))
    hook.remove()
    return found, [p.detach().clone() for p in parts.generator.parameters()], stepper.fakes


def test_a_critic_learns_from_part_of_the_batch() -> None:
    parts = parts_of(1)
    scheme = Alternating(order="simultaneous", critic_batch=SIZE // 4)
    scheme.check(parts.objective, SIZE, 1)
    found, _, fakes = gradients_of(AlternatingStepper(scheme, parts), parts, 0)
    assert len(fakes) == SIZE  # The generator's batch is whole.
    _, critic = networks()
    loss = bce(torch.sigmoid(critic(images(0)[::4])), 1) + bce(torch.sigmoid(critic(fakes[::4])), 0)
    for mine, expected in zip(found, torch.autograd.grad(0.5 * loss, list(critic.parameters())), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-8, atol=1e-11)
    for count, shards in ((SIZE - 1, 1), (4, 4), (3, 2), (1, 1)):
        with pytest.raises(ValueError, match=r"scheme.critic_batch: .* must divide"):
            Alternating(critic_batch=count).check(parts.objective, SIZE, shards)
    Alternating(critic_batch=12).check(parts.objective, 24, 3)


def test_a_critic_begins_on_real_images_alone() -> None:
    parts = parts_of(1)
    scheme = Alternating(order="simultaneous", real_first_steps=1)
    start = [p.detach().clone() for p in parts.generator.parameters()]
    stepper = AlternatingStepper(scheme, parts)
    found, weights, _ = gradients_of(stepper, parts, 0)
    assert all(torch.equal(now, then) for now, then in zip(weights, start, strict=True))
    _, critic = networks()
    loss = 0.5 * bce(torch.sigmoid(critic(images(0))), 1)
    for mine, expected in zip(found, torch.autograd.grad(loss, list(critic.parameters())), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-8, atol=1e-11)
    _, weights, _ = gradients_of(stepper, parts, 1)
    assert not any(torch.equal(now, then) for now, then in zip(weights, start, strict=True))
    for objective in (Wasserstein(), Relativistic()):
        with pytest.raises(ValueError, match="compares with fakes, or has no lower bound"):
            scheme.check(objective, SIZE, 1)


def test_steps_share_latents_and_not_real_samples() -> None:
    parts = parts_of(1)
    drawn = []
    for step in range(6):
        parts.batch.start(step, 0, SIZE)
        drawn.append(parts.draw(latent_steps=3)["latents"])
    for step, latents in enumerate(drawn):
        assert torch.equal(latents, drawn[step // 3 * 3])
    assert not torch.equal(drawn[0], drawn[3])
    parts.batch.start(0, 0, SIZE)
    assert torch.equal(drawn[0], parts.task.draw(NETWORK, parts.batch)["latents"])


def test_what_a_critic_reads_off_fakes_waits_as_well(digits: Location) -> None:
    """With heads: another generator makes other fakes, and a critic on real samples alone does not notice."""
    found = []
    for factor in (1.0, 3.0):
        words = ["task={name: info, label_weight: 0.4}", "scheme={name: alternating, real_first_steps: 1}"]
        run = load("digits", [*words, "batch.size=8", "network.dropout=0", "network.critic_batch_norm=false"])
        replica = Replica(
            run, TorchDistributed(torch.device("cpu")), open_loader(digits, run.data.transform, run.batch.size, 0)
        )
        for parameter in replica.generator.parameters():
            parameter.data.mul_(factor)
        replica.step(0)
        found.append([parameter.detach().clone() for parameter in replica.critics.parameters()])
        replica.close()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
