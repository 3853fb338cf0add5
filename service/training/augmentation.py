"""Augmentation: real images are shown a little different each time."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipelines.components import Options
from service.models.pixels import cut_out
from service.replicas.global_batch import GlobalBatch
from service.tasks import Samples


class Augmentation(Options):
    """Flips, and Pix2Pix's jitter: images are enlarged and a random part of the size before is cut out.

    Draws are keyed by the rows. Partners of a pair are treated alike, images of other domains each for itself.
    """

    flip: float = Field(0.0, ge=0, le=1, description="probability that a real image is mirrored, left to right")
    jitter: float = Field(
        1.0,
        ge=1,
        le=4,
        description="factor by which real images are enlarged before a random part of the old size is cut out; "
        "Pix2Pix 1.117, CycleGAN 1.12",
    )

    def of(self, samples: Samples, batch: GlobalBatch) -> Samples:
        """Samples of the batch's present rows, augmented."""
        if not self.flip and self.jitter == 1:
            return samples
        images = self._images(samples.images, batch, "")
        paired = None if samples.paired is None else self._images(samples.paired, batch, "")
        others = (self._images(other, batch, f" {number}") for number, other in enumerate(samples.others))
        return Samples(images, samples.labels, paired, tuple(others))

    def _images(self, images: Tensor, batch: GlobalBatch, domain: str) -> Tensor:
        drawn = batch.uniform(f"augmentation{domain}", 3)
        if self.jitter > 1:
            images = _cut(images, self.jitter, drawn[:, :2])
        if self.flip:
            images = torch.where((drawn[:, 2] < self.flip)[:, None, None, None], images.flip(3), images)
        return images


def _cut(images: Tensor, jitter: float, drawn: Tensor) -> Tensor:
    """Of images enlarged so much, for each a part as large as before, whose place (N, 2) in [0, 1) says."""
    height, width = images.shape[2:]
    along_rows, along_columns = (
        _enlarging(size, round(size * jitter), images.device, images.dtype) for size in (height, width)
    )
    enlarged = (along_rows @ images @ along_columns.T).clamp(-1, 1)
    top, left = (
        (place * (large - small + 1)).long()
        for place, large, small in zip(drawn.T, enlarged.shape[2:], (height, width), strict=True)
    )
    return cut_out(enlarged, top, left, height, width)


@functools.cache
def _enlarging(size: int, larger: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(larger, size), what a column of pixels is multiplied with: bicubic interpolation is linear in them.

    XLA has products, and no resize operation.
    """
    return F.interpolate(torch.eye(size, dtype=torch.float64)[None, None], (larger, size), mode="bicubic")[0, 0].to(
        device, dtype
    )
