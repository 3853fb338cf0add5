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
from pipelines.quality.features import Extractor, FeatureNetwork, Reference
from pipelines.storage.location import Location

_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
_CACHE = "~/.cache/torch/hub/checkpoints/weights-inception-2015-12-05-6726825d.pth"


class Inception(FeatureNetwork):
    """2048 features; images are resized to 299 pixels as TensorFlow 1 did it. Nothing is downloaded by itself."""

    weights: str = Field(_CACHE, description=f"file or URI of {_URL}")
    sha256: str = Field("6726825d", min_length=8, pattern="^[0-9a-f]+$", description="how its SHA-256 begins")
    layer: Literal["64", "192", "768", "2048"] = "2048"

    def open(self, reference: Reference, tell: Callable[[str], None]) -> tuple[Extractor, str]:
        content = self._checked()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ConfigError(
                "features inception: needs the package torch-fidelity; pip install 'selfgan[inception]'"
            ) from error
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "weights.pth")
            file.write_bytes(content)
            network = FeatureExtractorInceptionV3("inception", [self.layer], feature_extractor_weights_path=str(file))
        return _Inception(network), f"inception-{self.layer}-{self.sha256[:16]}"

    def _checked(self) -> bytes:
        """The file's bytes, which are those that the hash names. They hold pickles, so it is not opened before."""
        try:
            content = Location.of(self.weights).read()
        except OSError as error:
            raise ConfigError(
                f"features.weights: {self.weights} cannot be read ({type(error).__name__}); "
                f"fetch {_URL} there, or name another place"
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if not found.startswith(self.sha256):
            raise ConfigError(
                f"features.weights: {self.weights} has SHA-256 {found[:16]}..., not {self.sha256}...: fetch {_URL}"
            )
        return content


class _Inception(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @torch.inference_mode()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        (features,) = self.network(images.expand(-1, 3, -1, -1))
        return features, images.new_full((len(images),), -1, dtype=torch.int64)
