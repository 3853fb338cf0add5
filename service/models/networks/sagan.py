"""SAGAN's networks (Zhang et al. 2018, arXiv:1805.08318): residual blocks that attend; classes by projection.

The generator takes a class as scales and shifts of its batch norms. The critic adds the class's product with the
features that it has found (Miyato and Koyama 2018, arXiv:1802.05637). Source: brain-research/self-attention-gan.
Its spectral norms are the regularizer ``{name: spectral_norm, generator: true}``.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from service.models.attention import SelfAttention
from service.models.blocks import UpsampleConv, Upscale, initialise_keras
from service.models.networks import SET_SIZE, ClassNetwork, ImageShape
from service.models.norms import ClassBatchNorm

#: Channels double with every halving of the side, up to so many times those of the largest.
_MOST = 16
#: Of images of 16x16.
_FEWEST_DOUBLINGS = 2
#: Height of the features that attend, at most.
_ATTENTION = 16


class SAGAN(ClassNetwork):
    """Stages from 4x4 on, each twice as large as the one before; the critic has them in reverse.

    Images that are no squares begin elsewhere (`ImageShape.starts`): 64x32 at 4x2.
    The published widths are 64 for images of 128x128, with attention at 32x32.
    """

    latent_dim: int = Field(128, ge=1)
    generator_channels: int = Field(64, ge=1, description="of the largest features")
    critic_channels: int = Field(64, ge=1, description="of the largest features")
    #: Height of the features that attend, in both networks, 0 for none [default: 16, or less for a small image].
    attention: int | None = Field(None, ge=0)

    def check(self, image: ImageShape) -> None:
        if max(image.starts(), default=0) < _FEWEST_DOUBLINGS:
            raise ValueError(
                f"network sagan makes images of 16x16, 32x32, 64x64 and so on, and not of {image.size}: {SET_SIZE}"
            )
        heights = _heights(image)[1:-1]
        if self.attention not in (None, 0, *heights):
            sides = "a side" if image.height == image.width else "in height"
            raise ValueError(
                f"network sagan has features of {', '.join(map(str, heights))} pixels {sides} in both networks, and "
                f"none of {self.attention}: set network.attention to one of them, or to 0 for no attention"
            )

    def generator(self, image: ImageShape, inputs: int) -> nn.Module:
        return self.class_generator(image, inputs, 0)

    def class_generator(self, image: ImageShape, inputs: int, classes: int) -> nn.Module:
        widths, start = _widths(image, self.generator_channels), _start(image)
        return _Generator(widths, start, self._attention(image), image.channels, inputs, classes).apply(_initialise)

    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        return self._critic(image, heads, 0)

    def class_critic(self, image: ImageShape, classes: int) -> nn.Module:
        return self._critic(image, 0, classes)

    def _critic(self, image: ImageShape, heads: int, classes: int) -> nn.Module:
        widths = _widths(image, self.critic_channels)
        return _Critic(widths, self._attention(image), image.channels, heads, classes).apply(_initialise)

    def _attention(self, image: ImageShape) -> int:
        if self.attention is not None:
            return self.attention
        first, *larger = _heights(image)[1:-1]
        return max([first, *(height for height in larger if height <= _ATTENTION)])


def _start(image: ImageShape) -> tuple[int, int]:
    """Height and width of the smallest features."""
    starts = image.starts()
    return starts[max(starts)]


def _heights(image: ImageShape) -> list[int]:
    """Of features, from the smallest on."""
    return [_start(image)[0] << doublings for doublings in range(max(image.starts()) + 1)]


def _widths(image: ImageShape, channels: int) -> dict[int, int]:
    """By height, from the smallest on, the channels."""
    return {height: channels * min(image.height // height, _MOST) for height in _heights(image)}


def _initialise(module: nn.Module) -> None:
    """For `Module.apply`, which comes to a layer after what it is made of."""
    initialise_keras(module)
    if isinstance(module, ClassBatchNorm):
        module.begin_alike()


class _Generator(nn.Module):
    def __init__(
        self, widths: dict[int, int], start: tuple[int, int], attention: int, channels: int, inputs: int, classes: int
    ) -> None:
        super().__init__()
        (_, first), *larger = widths.items()
        self.inputs, self.classes = inputs, classes
        self.start = nn.Sequential(nn.Linear(inputs, first * start[0] * start[1]), nn.Unflatten(1, (first, *start)))
        self.stages = nn.ModuleList()
        width = first
        for height, wider in larger:
            self.stages.append(_Doubling(width, wider, classes))
            if height == attention:
                self.stages.append(SelfAttention(wider))
            width = wider
        self.image = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, channels, 3, padding=1), nn.Tanh()
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, inputs + classes) -> (N, C, H, W)."""
        latents, classes = vectors.split([self.inputs, self.classes], 1)
        x = self.start(latents)
        for stage in self.stages:
            x = stage(x, classes) if isinstance(stage, _Doubling) else stage(x)
        made: Tensor = self.image(x)
        return made


class _Doubling(nn.Module):
    """Twice the side: what two convolutions make of an image is added to the image, itself enlarged."""

    def __init__(self, fan_in: int, fan_out: int, classes: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([ClassBatchNorm(fan_in, classes), ClassBatchNorm(fan_out, classes)])
        self.enlarged = UpsampleConv(fan_in, fan_out, bias=False)
        self.last = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)  # All that follows is normed in the end.
        self.around = nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, bias=False), Upscale())

    def forward(self, x: Tensor, classes: Tensor) -> Tensor:
        """(N, C, H, W), and one-hot classes -> (N, C', 2H, 2W)."""
        inner = self.enlarged(self.norms[0](x, classes).relu())
        made: Tensor = self.around(x) + self.last(self.norms[1](inner, classes).relu())
        return made


class _Critic(nn.Module):
    def __init__(self, widths: dict[int, int], attention: int, channels: int, heads: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = channels
        (_, last), *larger = widths.items()
        for height, wider in reversed(larger):
            layers.append(_Halving(width, wider, first=not layers))
            if height // 2 == attention:
                layers.append(SelfAttention(wider))
            width = wider
        layers.append(_Halving(width, last, halves=False))
        self.features = nn.Sequential(*layers, nn.ReLU(inplace=True))
        self.logits = nn.Linear(last, 1 + heads)
        self.classes = nn.Linear(classes, last, bias=False) if classes else None

    def forward(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """(N, C, H, W), and one-hot classes if it was told how many -> (N, 1 + heads)."""
        found = self.features(images).sum((2, 3))
        logits: Tensor = self.logits(found)
        if self.classes is None:
            return logits
        projected: Tensor = (self.classes(classes) * found).sum(1, keepdim=True)
        return logits + projected


class _Halving(nn.Module):
    """Half the side: what two convolutions make of an image is added to the image, itself made smaller.

    Args:
        first: whether it is shown images, whose negative values mean as much as others.
        halves: whether the side becomes half of what it is.
    """

    def __init__(self, fan_in: int, fan_out: int, first: bool = False, halves: bool = True) -> None:
        super().__init__()
        smaller = [nn.AvgPool2d(2)] if halves else []
        before = [] if first else [nn.ReLU()]
        self.inner = nn.Sequential(
            *before, nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(fan_out, fan_out, 3, padding=1), *smaller,
        )  # fmt: skip
        self.around = nn.Sequential(*smaller, nn.Conv2d(fan_in, fan_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / 2, W / 2)."""
        made: Tensor = self.around(x) + self.inner(x)
        return made
