"""Inception-v3 as FID's authors used it, by torch-fidelity: its weights are the user's to provide."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipelines.components import ConfigError
from pipelines.quality.features import Extractor, FeatureNetwork, Features, Reference, weights_at
from pipelines.quality.resizing import bicubic

_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
_CACHE = "~/.cache/torch/hub/checkpoints/weights-inception-2015-12-05-6726825d.pth"
_SIDE = 299
#: The last block of each layer but the last, whose means over pixels are the features.
_ENDS = {"64": "MaxPool_1", "192": "MaxPool_2", "768": "Mixed_6e", "2048": "AvgPool"}


class Inception(FeatureNetwork):
    """2048 features, of images of 299 pixels. Nothing is downloaded by itself.

    `tensorflow` resizes as the network itself did it in TensorFlow 1, which its authors' FID (Heusel et al. 2017) and
    StyleGAN's rely on: both hand images over in the size that they have. `clean` is clean-fid's way (Parmar et al.
    2022): bicubic, each channel as floats, not rounded. The last layer's features come with logits of ImageNet's
    classes, without the bias, as the Inception score is defined on them (Salimans et al. 2016).
    """

    weights: str = Field(_CACHE, description=f"file or URI of {_URL}")
    sha256: str = Field("6726825d", min_length=8, pattern="^[0-9a-f]+$", description="how its SHA-256 begins")
    layer: Literal["64", "192", "768", "2048"] = "2048"
    resize: Literal["tensorflow", "clean"] = Field("tensorflow", description="to 299 pixels: clean is clean-fid's way")

    def open(self, reference: Reference, tell: Callable[[str], None]) -> tuple[Extractor, str]:
        content = self._checked()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ConfigError(
                "features inception: needs the package torch-fidelity; pip install 'selfgan[inception]'"
            ) from error
        told = [self.layer, "logits_unbiased"] if self.layer == "2048" else [self.layer]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "weights.pth")
            file.write_bytes(content)
            network = FeatureExtractorInceptionV3("inception", told, feature_extractor_weights_path=str(file))
        way = "" if self.resize == "tensorflow" else f"{self.resize}-"
        opened = _Inception(network) if self.resize == "tensorflow" else _Clean(network, self.layer)
        return opened, f"inception-{self.layer}-{way}{self.sha256[:16]}"

    def _checked(self) -> bytes:
        """The file's bytes, which are those that the hash names. They hold pickles, so it is not opened before."""
        content = weights_at(self.weights, _URL)
        found = hashlib.sha256(content).hexdigest()
        if not found.startswith(self.sha256):
            raise ConfigError(
                f"features.weights: {self.weights} has SHA-256 {found[:16]}..., not {self.sha256}...: fetch {_URL}"
            )
        return content


class _Inception(nn.Module):
    """torch-fidelity's network, which resizes images itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Features:
        return _unclassed(*self.network(images.expand(-1, 3, -1, -1)))


class _Clean(nn.Module):
    """The blocks of torch-fidelity's network one by one, as it takes no images but those that it resizes."""

    classes: Tensor | None

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        blocks = dict(network.named_children())
        names = list(blocks)
        self.blocks = nn.Sequential(*(blocks[name] for name in names[: names.index(_ENDS[layer]) + 1]))
        self.register_buffer("classes", network.get_parameter("fc.weight").detach() if layer == "2048" else None)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Features:
        pixels = bicubic(images.float(), _SIDE).clamp(0, 255).expand(-1, 3, -1, -1)
        values: Tensor = self.blocks((pixels - 128) / 128).mean((2, 3))
        return _unclassed(values, None if self.classes is None else values @ self.classes.T)


def _unclassed(values: Tensor, logits: Tensor | None = None) -> Features:
    """Features that say nothing of the data set's classes."""
    return Features(values, torch.full((len(values),), -1, device=values.device), logits)
