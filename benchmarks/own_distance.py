"""How far generated images are from a run's own labelled data, in the features of `selfgan evaluate`."""

from __future__ import annotations

import torch
from rich.console import Console
from torch import Tensor

from pipelines.evaluate.protocol import protocol
from pipelines.loading.loader import open_loader
from pipelines.quality.metrics import fid
from service.configuration.config import Run

_AT_ONCE = 100


class OwnDistance:
    """The Fréchet distance to all images of the data set, in 128 features of a classifier that is trained on it."""

    def __init__(self, run: Run) -> None:
        judged = protocol(run, Console(quiet=True))
        self._extractor, found = judged.extractor, judged.reference
        self.images = found.manifest.rows
        loader = open_loader(found.folder, found.transform, _AT_ONCE, 0, version=found.manifest.version)
        try:
            self._real = self._features(loader.rows(0, self.images).images)
        finally:
            loader.close()

    def __call__(self, generated: Tensor) -> float:
        """Of (N, C, H, W) uint8 images."""
        return fid(self._real, self._features(generated))

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        return torch.cat([self._extractor(part)[0] for part in images.split(_AT_ONCE)])
