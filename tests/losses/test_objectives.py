"""Objectives and regularizers, value and gradient, against formulas written out sample by sample in float64."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_embedding_loss

from pipelines.components import resolve
from service.losses.objectives import Objective, Scores
from service.losses.objectives.bce import BinaryCrossEntropy
from service.losses.regularizers import Regularizer
from service.replicas.collectives import OneReplica
from service.replicas.global_batch import GlobalBatch
from service.tasks import View
from service.training.critics.passes import PENALISED, CriticOutputs
from service.training.critics.penalties import penalties

SAMPLES, OUTPUTS = 6, 3
Losses = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def each(function: Callable[..., Tensor], *columns: Tensor) -> Tensor:
    """The mean of a function of numbers over all of them."""
    return mean([function(*values) for values in zip(*(column.reshape(-1) for column in columns), strict=True)])


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log1p(torch.exp(-x))


def bce(x: Tensor, target: float) -> Tensor:
    p = 1 / (1 + torch.exp(-x))
    return -(target * torch.log(p) + (1 - target) * torch.log(1 - p))


def non_saturating(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    return each(lambda f: bce(f, 1), fake), each(lambda r: bce(r, 1), real) + each(lambda f: bce(f, 0), fake)


def minimax(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    return each(lambda f: -bce(f, 0), fake), non_saturating(fake, real)[1]


def least_squares(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    return each(lambda f: (f - 1) ** 2 / 2, fake), each(lambda r: (r - 1) ** 2, real) + each(lambda f: f**2, fake)


def wasserstein(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    drift = 0.001 * each(lambda r: r * r, real)
    return -each(lambda f: f, fake), each(lambda f: f, fake) - each(lambda r: r, real) + drift


def hinge(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    critic = each(lambda r: torch.clamp(1 - r, min=0), real) + each(lambda f: torch.clamp(1 + f, min=0), fake)
    return -each(lambda f: f, fake), critic


def rsgan(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    generator = each(lambda f, r: -log_sigmoid(f - r), fake, real)
    return generator, 2 * each(lambda f, r: -log_sigmoid(r - f), fake, real)


def average(high: Callable[[Tensor], Tensor], low: Callable[[Tensor], Tensor]) -> Losses:
    """AlexiaJM's average forms: the critic's without its half, which is the scheme's factor."""

    def losses(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        of_real, of_fake = real - fake.mean(0), fake - real.mean(0)
        critic = each(high, of_real) + each(low, of_fake)
        return (each(high, of_fake) + each(low, of_real)) / 2, critic

    return losses


def competitive(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    of_real, of_fake = real - fake.mean(0), fake - real.mean(0)
    generator = (each(lambda d: (d - 1) ** 2, of_fake) + each(lambda d: (d + 1) ** 2, of_real)) / 2
    return generator, each(lambda d: (d - 1) ** 2, of_real) + each(lambda d: d**2, of_fake)


def softmax(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The paper's, of energies, which are low where our logits are high; per output of a patch critic."""

    def one(f: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        partition = torch.exp(-f).sum() + torch.exp(-r).sum()
        everything = torch.cat([f, r])
        return everything.mean() + torch.log(partition), r.mean() + torch.log(partition)

    found = [one(-fake[:, output], -real[:, output]) for output in range(fake.shape[1])]
    return mean([g for g, _ in found]), mean([c for _, c in found])


KINDS = torch.tensor([0, 1, 1, 0, 1, 0])


def sim_cosine(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """rezer0dai's SimForwardLoss and SimBackwardLoss, with torch's own cosine embedding loss, a label at a time."""

    def apart(u: Tensor, v: Tensor, target: int) -> Tensor:
        return cosine_embedding_loss(u.expand(len(v), -1), v, torch.full((len(v),), float(target)))

    fakes, reals = 1 / (1 + torch.exp(-fake)), 1 / (1 + torch.exp(-real))
    held, similarities, distances = reals.detach(), [], []
    for kind in (0, 1):
        cut = kind == KINDS
        similarities.append(apart(fakes[cut].mean(0), held[cut], 1))
        similarities.append(apart(held[cut].mean(0), fakes[cut], 1))
        distances.append(apart(reals[cut].mean(0), fakes[cut], -1) + apart(fakes[cut].mean(0), reals[cut], -1))
    whole = apart(fakes.mean(0), held.mean(0)[None], 1)
    return (mean(similarities) + whole) / 2, mean(distances)


FORMULAS: dict[str, tuple[Any, Losses]] = {
    "bce": ("bce", non_saturating),
    "minimax": ({"name": "bce", "saturating": True}, minimax),
    "lsgan": ("lsgan", least_squares),
    "wgan": ({"name": "wgan", "drift": 0.001}, wasserstein),
    "hinge": ("hinge", hinge),
    "RSGAN": ({"name": "relativistic", "against": "partner"}, rsgan),
    "RaSGAN": ("relativistic", average(lambda d: bce(d, 1), lambda d: bce(d, 0))),
    "RaLSGAN": (
        {"name": "relativistic", "loss": "least_squares"},
        average(lambda d: (d - 1) ** 2, lambda d: (d + 1) ** 2),
    ),
    "RaLSGAN, competitive": ({"name": "relativistic", "loss": "least_squares", "fake_target": 0}, competitive),
    "RaHinge": (
        {"name": "relativistic", "loss": "hinge"},
        average(lambda d: torch.clamp(1 - d, min=0), lambda d: torch.clamp(1 + d, min=0)),
    ),
    "softmax": ("softmax", softmax),
    "sim_cosine": ("sim_cosine", sim_cosine),
}


def logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    fake, real = torch.randn(2, SAMPLES, OUTPUTS, generator=generator, dtype=torch.float64)
    return fake.requires_grad_(), real.requires_grad_()


def one_hot(values: Tensor) -> Tensor:
    return nn.functional.one_hot(KINDS).to(values.dtype)[None]


def judged(values: Tensor) -> Scores:
    return Scores(values[None], one_hot(values), lambda name: torch.full((1, SAMPLES, 1), 0.5))


@pytest.mark.parametrize("name", list(FORMULAS))
def test_an_objective_is_its_formula(name: str) -> None:
    described, formula = FORMULAS[name]
    objective = resolve("service.losses.objectives", described, Objective)
    fake, real = logits()
    ours = objective.generator(judged(fake), judged(real)).sum(), sum(objective.critic(judged(fake), judged(real)))
    for part, mine, expected in zip(("generator", "critic"), ours, formula(fake, real), strict=True):
        assert isinstance(mine, Tensor)
        torch.testing.assert_close(mine.squeeze(), expected, rtol=1e-10, atol=1e-12, msg=f"{name}: {part}")
        inputs = [fake, real]
        found = torch.autograd.grad(mine.sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
        wanted = torch.autograd.grad(expected, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
        for gradient, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-12, msg=f"{name}: {part}'s gradient")


def test_an_objective_that_says_it_is_not_relative_does_not_look_at_real_samples() -> None:
    for described, _ in FORMULAS.values():
        objective = resolve("service.losses.objectives", described, Objective)
        fake, real = logits()
        loss = objective.generator(judged(fake), judged(real)).sum()
        (seen,) = torch.autograd.grad(loss, real, allow_unused=True)
        if not objective.relative:
            assert seen is None


def test_shards_do_not_mix() -> None:
    for described, _ in FORMULAS.values():
        objective = resolve("service.losses.objectives", described, Objective)
        fake, real = (values.detach() for values in logits())
        both = [Scores(torch.stack([one, one.flip(1) * 2]), one_hot(one).expand(2, -1, -1), judged(one).draw)
                for one in (fake, real)]  # fmt: skip
        for loss, alone in zip(
            [objective.generator(*both), *objective.critic(*both)],
            [objective.generator(judged(fake), judged(real)), *objective.critic(judged(fake), judged(real))],
            strict=True,
        ):
            assert loss.shape == (2,)
            torch.testing.assert_close(loss[:1], alone, rtol=1e-12, atol=1e-12)


def test_smoothed_targets_are_between_the_bounds_and_refused_where_they_break_the_loss() -> None:
    fake, real = logits()
    on_real, _ = BinaryCrossEntropy(real_target=(0.7, 0.9)).critic(judged(fake), judged(real))
    assert on_real.item() == pytest.approx(each(lambda r: bce(r, 0.8), real).item(), rel=1e-6)
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        BinaryCrossEntropy(real_target=(0.9, 1.1))
    above = resolve("service.losses.objectives", {"name": "lsgan", "real_target": [0.9, 1.1]}, Objective)
    assert above.critic(judged(fake), judged(real))[0].item() > 0


class Critic(nn.Module):
    """``sum tanh(x W)``, whose gradient by x is ``W (1 - tanh^2)``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(images.flatten(1) @ self.weight).sum(1, keepdim=True)

    def squared_norms(self, images: Tensor) -> Tensor:
        slopes = 1 - torch.tanh(images.flatten(1) @ self.weight) ** 2
        return torch.stack([((self.weight * slope) @ torch.ones(4).double()).square().sum() for slope in slopes])


def regularized(described: Any, number: int = 0) -> tuple[Tensor, Critic, Tensor, Tensor, GlobalBatch]:
    """A regularizer's penalty, (N,), with the draws of that pass, and what it was taken of."""
    regularizer = resolve("service.losses.regularizers", described, Regularizer)
    batch = GlobalBatch(SAMPLES, 1, 0, OneReplica(), torch.device("cpu"), torch.float64)
    batch.start(3, 0, SAMPLES)
    critic, draw = Critic(), torch.Generator().manual_seed(2)
    fake, real = torch.randn(2, SAMPLES, 3, 2, 2, generator=draw, dtype=torch.float64)
    with batch.passes(batch.own_rows, first=number):
        found = regularizer.penalty(lambda view: critic(view.images), View(fake), View(real), batch)
    assert found is not None
    return found, critic, fake, real, batch


def test_penalties_are_their_formulas() -> None:
    def check(described: Any, formula: Callable[[Critic, Tensor, Tensor, GlobalBatch], Tensor]) -> None:
        found, critic, fake, real, batch = regularized(described)
        expected = formula(critic, fake, real, batch)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        ours, theirs = (torch.autograd.grad(value.mean(), critic.weight)[0] for value in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)

    def off_one(critic: Critic, images: Tensor) -> Tensor:
        return 10 * (critic.squared_norms(images).sqrt() - 1) ** 2

    def gradient_penalty(critic: Critic, fake: Tensor, real: Tensor, batch: GlobalBatch) -> Tensor:
        a = batch.uniform("gradient penalty", 1).double()[:, :, None, None]
        return off_one(critic, a * fake + (1 - a) * real)

    def dragan(critic: Critic, fake: Tensor, real: Tensor, batch: GlobalBatch) -> Tensor:
        a = batch.uniform("dragan share", 1).double()[:, :, None, None]
        u = batch.uniform("dragan", 12).double().view_as(real)
        perturbed = real + 0.5 * real.std(correction=0) * u
        return off_one(critic, a * perturbed + (1 - a) * real)

    def papers_dragan(critic: Critic, fake: Tensor, real: Tensor, batch: GlobalBatch) -> Tensor:
        return off_one(critic, real + 0.3 * batch.normal("dragan", 12).view_as(real))

    def r1(critic: Critic, fake: Tensor, real: Tensor, batch: GlobalBatch) -> Tensor:
        return 16 * 10 / 2 * critic.squared_norms(real)

    def r2(critic: Critic, fake: Tensor, real: Tensor, batch: GlobalBatch) -> Tensor:
        return 16 * 10 / 2 * critic.squared_norms(fake)

    check("gradient_penalty", gradient_penalty)
    check("dragan", dragan)
    check({"name": "dragan", "noise": "normal", "scale": 0.3}, papers_dragan)
    check("r1", r1)
    check("r2", r2)


@pytest.mark.parametrize("name", ["gradient_penalty", "dragan", "r1", "r2"])
def test_penalties_are_of_logits_and_not_of_heads(name: str) -> None:
    class WithHeads(Critic):
        def forward(self, images: Tensor) -> Tensor:
            return torch.cat([super().forward(images), 7 * images.flatten(1)[:, :5]], 1)

    expected, _, fake, real, batch = regularized(name, PENALISED)
    regularizer = resolve("service.losses.regularizers", name, Regularizer)
    critics = nn.ModuleDict({"image": WithHeads()})
    views = {"image": View(fake)}, {"image": View(real)}
    said = CriticOutputs(torch.zeros(SAMPLES, 6), None, [batch.own_rows], PENALISED)
    found = penalties([regularizer], [True], critics, *views, [said], 5, batch)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(20, 4)).double()
    plain = [parameter.detach().clone() for name, parameter in critic.named_parameters() if "weight" in name]
    resolve("service.losses.regularizers", "spectral_norm", Regularizer).prepare(nn.ModuleDict({"image": critic}))
    critic.double()
    for _ in range(200):
        critic(torch.zeros(1, 3, 4, 4, dtype=torch.float64))  # Each call is an iteration.
    critic.eval()
    for module, weight in zip((critic[0], critic[2]), plain, strict=True):
        assert isinstance(module.weight, Tensor)
        expected = weight / torch.linalg.matrix_norm(weight.flatten(1), 2)
        torch.testing.assert_close(module.weight, expected, rtol=1e-6, atol=1e-9)


def test_weights_are_clipped() -> None:
    critic = Critic()
    resolve("service.losses.regularizers", {"name": "weight_clipping", "limit": 0.02}, Regularizer).mend(
        nn.ModuleDict({"image": critic})
    )
    assert math.isclose(float(critic.weight.detach().abs().max()), 0.02)
