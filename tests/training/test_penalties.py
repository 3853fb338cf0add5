"""Penalties of the critic's gradient, which share its loss's pass, against the losses written out in float64."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.components import resolve
from service.losses.regularizers import Critic, Regularizer
from service.losses.regularizers.r1 import R1
from service.losses.regularizers.r2 import R2
from service.models.networks.mlp import MLP
from service.replicas.global_batch import GlobalBatch
from service.tasks import View
from service.training.context import TrainingContext
from service.training.schemes import Scheme
from service.training.schemes.alternating import Alternating
from service.training.schemes.joint import Joint
from tests.training.test_step import IMAGE, SIZE, gradients, images, networks, parts_of, samples

_APART = {"fakes": "current", "generator_trains_critic": False, "balance": "fixed"}
SCHEMES: dict[str, Scheme] = {
    "alternating": Alternating(order="simultaneous"),
    "joint, three passes": Joint.model_validate({**_APART, "passes": "three"}),
    "joint, two passes": Joint.model_validate({**_APART, "passes": "two"}),
}
#: What each scheme multiplies the losses of generator, real and fake with.
WEIGHTS = {"alternating": (1.0, 0.5, 0.5), "joint, three passes": (0.05, 0.5, 0.45)}
WEIGHTS["joint, two passes"] = WEIGHTS["joint, three passes"]
PLACES = {"r1": ["real"], "r2": ["fake"], "both": ["real", "fake"]}


def mlp_critic() -> nn.Module:
    torch.manual_seed(1)
    critic = MLP(critic_widths=(8,)).critic(IMAGE).double()
    for parameter in critic.parameters():
        parameter.data.mul_(3)
    return critic


def context(critic: nn.Module | None, places: list[str]) -> TrainingContext:
    names = {"real": "r1", "fake": "r2"}
    regularizers = [
        resolve("service.losses.regularizers", {"name": names[place], "weight": 3, "every": 1}, Regularizer)
        for place in places
    ]
    parts = dataclasses.replace(parts_of(1), regularizers=tuple(regularizers))
    return parts if critic is None else dataclasses.replace(parts, critics=nn.ModuleDict({"image": critic}))


def stepped(scheme: Scheme, parts: TrainingContext) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients and metrics of a step."""
    stepper = scheme.stepper(parts)
    parts.batch.start(0, 0, SIZE)
    metrics = stepper.step(0, lambda _: samples(0))
    return gradients(parts.generator, parts.critics), metrics


def smoothness(critic: nn.Module, shown: Tensor) -> Tensor:
    """Half the mean of the squared norm of each image's gradient."""
    leaf = shown.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(leaf).sum(), leaf, create_graph=True)
    return gradient.pow(2).sum((1, 2, 3)).mean() / 2


@pytest.mark.parametrize("penalised", list(PLACES))
@pytest.mark.parametrize("name", list(SCHEMES))
def test_a_step_takes_the_gradients_of_the_losses_written_out(name: str, penalised: str) -> None:
    parts = context(mlp_critic(), PLACES[penalised])
    found, metrics = stepped(SCHEMES[name], parts)

    generator, critic = networks()[0], mlp_critic()
    fake, real = generator(parts.task.draw(parts.network, parts.batch)["latents"]), images(0)
    of_generator, of_real, of_fake = WEIGHTS[name]
    (of_generator * F.softplus(-critic(fake)).mean()).backward()
    critic.zero_grad()
    penalty = sum(3 * smoothness(critic, {"real": real, "fake": fake}[place]) for place in PLACES[penalised])
    loss = of_real * F.softplus(-critic(real)).mean() + of_fake * F.softplus(critic(fake.detach())).mean()
    (loss + penalty).backward()
    for (key, mine), expected in zip(found.items(), gradients(generator, critic).values(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-13, msg=key)
    torch.testing.assert_close(metrics["loss/penalty"], torch.as_tensor(penalty).detach(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["alternating", "joint, three passes"])
def test_so_it_does_where_the_critic_looks_at_the_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against passes of the penalties' own, which are compared with their formulas elsewhere."""
    shared, metrics = stepped(SCHEMES[name], context(None, PLACES["both"]))
    monkeypatch.setattr(R1, "shares", False)
    apart, expected = stepped(SCHEMES[name], context(None, PLACES["both"]))
    for key, gradient in apart.items():
        torch.testing.assert_close(shared[key], gradient, rtol=1e-8, atol=1e-13, msg=key)
    for key, value in expected.items():
        torch.testing.assert_close(metrics[key], value, rtol=1e-10, atol=1e-13, msg=key)


@pytest.mark.parametrize(("name", "calls"), [("alternating", 2), ("joint, three passes", 2), ("joint, two passes", 1)])
def test_the_critic_is_called_no_more_often_for_them(name: str, calls: int) -> None:
    """Once for the generator's loss and once for its own; with two passes, once for both."""
    critic, called = mlp_critic(), []
    critic.register_forward_hook(lambda *_: called.append(1))
    stepped(SCHEMES[name], context(critic, PLACES["both"]))
    assert len(called) == calls


def test_a_penalty_now_and_then_takes_a_pass_of_its_own() -> None:
    assert R1(every=1).shares
    assert not R1(every=2).shares


def test_so_does_one_of_a_users_own() -> None:
    class Bounded(R1):
        def penalty(self, critic: Critic, fake: View, real: View, batch: GlobalBatch) -> Tensor:
            return super().penalty(critic, fake, real, batch).clamp_max(1)

    assert not Bounded(every=1).shares
    assert R2(every=1).shares
