"""How far generated digits are from MNIST's, in the features of a small classifier that is trained on MNIST.

Figures of this classifier may be compared with each other, and with nothing else.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from pipelines.data.sources.idx import Idx

WEIGHTS = Path("runs/benchmarks/digit-classifier.safetensors")
EPOCHS, BATCH = 8, 128
#: How many images a distance is measured with, on each side.
IMAGES = 10_000


class DigitClassifier(nn.Module):
    """Two convolutions and 128 features; images of any size are brought to MNIST's 28x28 first."""

    num_features = 128

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Dropout(0.25), nn.Flatten(), nn.Linear(64 * 5 * 5, self.num_features), nn.ReLU(),
        )  # fmt: skip
        self.last = nn.Sequential(nn.Dropout(0.5), nn.Linear(self.num_features, 10))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1, H, W) uint8 -> (N, 128)."""
        pixels = images.float() / 255
        if pixels.shape[2:] != (28, 28):
            pixels = F.interpolate(pixels, (28, 28), mode="bilinear", antialias=True)
        features: Tensor = self.body(pixels)
        return features


def digits(folder: str, split: str) -> tuple[Tensor, Tensor]:
    """MNIST's images (N, 1, 28, 28) uint8, and labels (N,)."""
    images, labels = Idx.model_validate({"uri": folder, "split": split}).arrays()
    return torch.from_numpy(images.copy()).view(-1, 1, 28, 28), torch.from_numpy(labels.astype("int64"))


def classifier(folder: str) -> DigitClassifier:
    """The trained one, which is kept."""
    network = DigitClassifier()
    if WEIGHTS.exists():
        network.load_state_dict(load_file(WEIGHTS))
        return network.eval()
    torch.manual_seed(0)
    network = DigitClassifier()
    images, labels = digits(folder, "train")
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for epoch in range(EPOCHS):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - epoch / EPOCHS)
        for rows in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(network.last(network(images[rows])), labels[rows]).backward()
            optimizer.step()
    network.eval()
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), WEIGHTS)
    return network


@torch.no_grad()
def accuracy(network: DigitClassifier, folder: str) -> float:
    """The share of MNIST's test images that it is right about."""
    images, labels = digits(folder, "t10k")
    said = torch.cat([network.last(network(part)).argmax(1) for part in images.split(500)])
    return float((said == labels).float().mean())


class DigitDistance:
    """The Fréchet distance (Heusel et al. 2017) of images to MNIST's test images, at one size of both.

    Args:
        folder: of MNIST's files.
        size: to which test images are brought, as a run brings its own.
    """

    def __init__(self, folder: str, size: int) -> None:
        self._metric = FrechetInceptionDistance(
            feature=classifier(folder), reset_real_features=False, normalize=False, antialias=False
        )
        self._show(resized(digits(folder, "t10k")[0], size), real=True)

    def __call__(self, generated: Tensor) -> float:
        """Of (N, 1, H, W) uint8 images."""
        self._metric.reset()
        self._show(generated, real=False)
        return float(self._metric.compute())

    @torch.no_grad()
    def _show(self, images: Tensor, real: bool) -> None:
        for part in images.split(500):
            self._metric.update(part, real=real)


def resized(images: Tensor, size: int) -> Tensor:
    """(N, 1, 28, 28) uint8 -> (N, 1, size, size) uint8, by bilinear interpolation."""
    if size == images.shape[2]:
        return images
    return F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True).round().byte()
