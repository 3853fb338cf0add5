"""A small classifier of the data set's labels, trained once for each of its versions and kept beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load, save
from torch import Tensor, nn

from pipelines.components import ConfigError
from pipelines.data.shards import NO_LABEL
from pipelines.loading.loader import Loader, open_loader
from pipelines.quality.features import Extractor, FeatureNetwork, Reference
from pipelines.storage.location import Location

_BATCH, _SIDE = 128, 32
_RATE = 1e-3
#: One of so many lanes is held out, to measure the accuracy on, in so many batches at most.
_HELD_OUT, _TESTED = 8, 64


class Classifier(FeatureNetwork):
    """Three convolutions and 128 features, of images brought to 32 pixels."""

    epochs: int = Field(8, ge=1, description="passes over the data set")
    steps: int = Field(10_000, ge=1, description="of training, at most")

    def open(self, reference: Reference, tell: Callable[[str], None]) -> tuple[Extractor, str]:
        chosen = hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[:8]
        file = reference.kept / f"classifier-{reference.manifest.hash}-{chosen}.safetensors"
        if not file.exists():
            tell("training a classifier of the data set's labels, once for this version of it")
            trained, accuracy = self._train(reference)
            tell(f"it is right about {accuracy:.1%} of the images that it was not trained on; kept at {file}")
            file.create(save(trained.state_dict()))  # Of two at once the first one's counts, for both.
        content = file.read()
        told = not reference.manifest.several
        return _network_of(content, file, told), f"classifier-{hashlib.sha256(content).hexdigest()[:16]}"

    def _train(self, reference: Reference) -> tuple[_Network, float]:
        lanes = reference.manifest.lanes
        batch = lanes * max(1, _BATCH // lanes)  # As many of each lane.
        loader = open_loader(
            reference.folder, reference.transform, batch, 0, version=reference.manifest.version
        )  # fmt: skip
        try:
            classes = self._classes(loader, reference)
            steps = min(self.steps, self.epochs * max(1, reference.manifest.rows // batch))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = _Network(reference.transform.channels, classes, not reference.manifest.several)
                return network, _fit(network, loader, steps, held_out=lanes // _HELD_OUT * (batch // lanes))
        finally:
            loader.close()

    def _classes(self, loader: Loader, reference: Reference) -> int:
        labels = loader.some(min(reference.manifest.rows, 4096)).labels
        if int(labels.min()) == NO_LABEL or len(labels.unique()) < 2:
            raise ConfigError(
                f"features classifier: {reference.folder} has no labels to tell apart; "
                "take evaluation.features=inception"
            )
        if reference.manifest.several:
            return labels.shape[1]
        return max(len(reference.manifest.classes), int(labels.max()) + 1)


def _fit(network: _Network, loader: Loader, steps: int, held_out: int) -> float:
    """Train; returns the accuracy on the last rows of every batch, whose lanes are not trained on."""
    optimizer = torch.optim.Adam(network.parameters(), _RATE)
    network.train()
    for step in range(steps):
        found = loader.batch(step)
        kept = len(found.images) - held_out
        optimizer.param_groups[0]["lr"] = _RATE * (1 - step / steps)
        optimizer.zero_grad()
        _loss(network.logits(network.features(found.images[:kept])), found.labels[:kept]).backward()
        optimizer.step()
    network.eval()
    right: list[Tensor] = []
    for step in range(min(steps, _TESTED)):
        found = loader.batch(step)
        kept = len(found.images) - held_out
        with torch.no_grad():
            logits, labels = network.logits(network.features(found.images[kept:])), found.labels[kept:]
        said = logits.argmax(1) if labels.dim() == 1 else (logits > 0).long()
        right.append((said == labels).double())
    return float(torch.cat(right).mean())


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Of one label an image, or of several."""
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels.float())


def _network_of(content: bytes, file: Location, told: bool) -> _Network:
    try:
        weights = load(content)
        network = _Network(weights["body.0.weight"].shape[1], len(weights["last.1.bias"]), told)
        network.load_state_dict(weights)
    except Exception as error:  # Each reader has errors of its own; all of them mean the same here.
        raise ConfigError(f"features classifier: {file} is damaged ({type(error).__name__}); delete it") from error
    return network.eval()


class _Network(nn.Module):
    """A classifier. Where images have several labels, it tells no class of them."""

    def __init__(self, channels: int, classes: int, told: bool) -> None:
        super().__init__()
        self.told = told
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Dropout(0.25), nn.Flatten(), nn.Linear(128 * (_SIDE // 8) ** 2, 128), nn.ReLU(),
        )  # fmt: skip
        self.last = nn.Sequential(nn.Dropout(0.5), nn.Linear(128, classes))

    def features(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255
        if pixels.shape[2:] != (_SIDE, _SIDE):
            pixels = F.interpolate(pixels, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        found: Tensor = self.body(pixels)
        return found

    def logits(self, features: Tensor) -> Tensor:
        found: Tensor = self.last(features)
        return found

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        classes = self.logits(features).argmax(1)
        return features, classes if self.told else classes.new_full(classes.shape, NO_LABEL)
