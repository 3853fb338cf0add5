"""The first three stages of VGG16 (Simonyan and Zisserman 2015), with weights from a file."""

from __future__ import annotations

import io

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from pipelines.components import ConfigError
from pipelines.storage.location import Location

#: Output channels of each stage's convolutions.
_STAGES = ((64, 64), (128, 128), (256, 256, 256))
#: Of ImageNet's pixels, from 0 to 1.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Features(nn.Module):
    """Images in [-1, 1] -> what the first three poolings hold. It does not learn."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in _STAGES:
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 1 or 3, H, W), sides of 8 at least -> three of (N, C, H', W')."""
        x = ((images + 1) / 2 - self.mean) / self.deviation
        found = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                found.append(x)
        return found


def features_from(file: Location) -> Features:
    """With torchvision's weights, ``features.0.weight`` and so on; further tensors in the file do not matter.

    Raises:
        ConfigError: the file cannot be read, or holds no VGG16.
    """
    network = Features()
    try:
        content = file.read()
        found = (
            load_safetensors(content)
            if file.name.endswith(".safetensors")
            else torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        )
        network.load_state_dict({name: found[name] for name in network.state_dict()})
    except Exception as error:  # Each reader has errors of its own; all of them mean the same here.
        raise ConfigError(f"{file}: holds no weights of VGG16 ({type(error).__name__})") from error
    return network
