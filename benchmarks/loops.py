"""Loops without a service: the author's, and a bare one of this project's networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.models.networks import ImageShape, LatentNetwork
from service.models.networks.dcgan import DCGAN

_CPU = torch.device("cpu")
_DCGAN = DCGAN()


def authors_networks(image: ImageShape) -> tuple[nn.Module, nn.Module]:
    """PyTorch-GAN's dcgan.py, as SelfGAN's notebook has it: upsampling, then convolution; a sigmoid at the end."""
    side = image.height // 4
    generator = nn.Sequential(
        nn.Linear(100, 128 * side**2), nn.Unflatten(1, (128, side, side)), nn.BatchNorm2d(128),
        nn.Upsample(scale_factor=2), nn.Conv2d(128, 128, 3, stride=1, padding=1), nn.BatchNorm2d(128, 0.8),
        nn.LeakyReLU(0.2, inplace=True), nn.Upsample(scale_factor=2), nn.Conv2d(128, 64, 3, stride=1, padding=1),
        nn.BatchNorm2d(64, 0.8), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(64, image.channels, 3, padding=1),
        nn.Tanh(),
    )  # fmt: skip

    def block(fan_in: int, fan_out: int, norm: bool = True) -> list[nn.Module]:
        layers: list[nn.Module] = [nn.Conv2d(fan_in, fan_out, 3, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        return [*layers, nn.Dropout2d(0.25), *([nn.BatchNorm2d(fan_out, 0.8)] if norm else [])]

    features = 128 * (image.height // 16) ** 2
    critic = nn.Sequential(
        *block(image.channels, 16, False), *block(16, 32), *block(32, 64), *block(64, 128), nn.Flatten(),
        nn.Linear(features, 1), nn.Sigmoid(),
    )  # fmt: skip
    return generator, critic


def authors_loop(
    image: ImageShape, size: int, foreach: bool | None = None, device: torch.device = _CPU
) -> Callable[[Tensor], None]:
    """One step of the notebook's loop, on real images (size, C, H, W) in [-1, 1]."""
    generator, critic = (network.to(device) for network in authors_networks(image))
    optimizer = torch.optim.Adam(
        [*generator.parameters(), *critic.parameters()], lr=2e-4, betas=(0.5, 0.999), foreach=foreach
    )
    valid, fake = torch.ones(size, 1, device=device), torch.zeros(size, 1, device=device)
    last = torch.zeros(size, *image, device=device)

    def step(real: Tensor) -> None:
        nonlocal last
        optimizer.zero_grad()
        made = generator(torch.randn(size, 100, device=device))
        on_made, on_real, on_last = critic(made), critic(real), critic(last)
        losses = [F.binary_cross_entropy(on_made, valid), F.binary_cross_entropy(on_real, valid)]
        fake_loss = F.binary_cross_entropy(on_last, fake)
        v_g, v_f = 1 - on_made.mean(), on_last.mean()
        loss = (losses[1] + v_g * losses[0] * 0.1 + v_f * fake_loss * 0.9) / 2
        loss.backward()
        optimizer.step()
        last = made.detach()

    return step


def bare_loop(
    image: ImageShape, size: int, device: torch.device = _CPU, network: LatentNetwork = _DCGAN
) -> Callable[[Tensor], None]:
    """One step of the paper's loss on this project's networks, in plain PyTorch with a fused Adam."""
    generator, critic = network.generator(image, 100).to(device), network.critic(image).to(device)
    parameters = [*generator.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), fused=True)
    last = torch.zeros(size, *image, device=device)

    def step(real: Tensor) -> None:
        nonlocal last
        optimizer.zero_grad()
        made = generator(torch.randn(size, 100, device=device))
        generated, is_real, is_fake = (
            F.softplus(-critic(made)).mean(), F.softplus(-critic(real)).mean(), F.softplus(critic(last)).mean()
        )  # fmt: skip
        loss = (is_real + 0.1 * generated * generated + 0.9 * is_fake * is_fake) / 2
        loss.backward()
        optimizer.step()
        last = made.detach()

    return step
