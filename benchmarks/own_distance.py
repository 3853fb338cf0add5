"""How far generated images are from a run's own labelled data, in the features of `selfgan evaluate`."""

from __future__ import annotations

import torch
from rich.console import Console
from torch import Tensor

from pipelines.evaluate.protocol import protocol
from pipelines.evaluate.sides import BATCH, Side, features_of_side, in_turn, joined
from pipelines.quality.metrics import fid
from service.configuration.config import Run
from service.configuration.tree import dump


class OwnDistance:
    """The Fréchet distance to all images of the data set, in 128 features of a classifier that is trained on it."""

    def __init__(self, run: Run) -> None:
        judged = protocol(run, Console(quiet=True))
        self._extractor = judged.extractor
        real = Side(dump(run), judged.data, judged.extractor, whole=True)
        self._real = joined(features_of_side(real, judged.reference.manifest.rows, in_turn)).values

    @torch.no_grad()
    def __call__(self, generated: Tensor) -> float:
        """Of (N, C, H, W) uint8 images."""
        return fid(self._real, torch.cat([self._extractor(part)[0] for part in generated.split(BATCH)]))
