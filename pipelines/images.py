"""Pictures of any kind -> arrays of one shape."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from pipelines.shards import Images

Resampling = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]


class Transform(BaseModel):
    """Centre crop to a square, then resize, as GAN papers prepare LSUN."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(64, ge=4)
    channels: Literal[1, 3] = 3
    resample: Resampling = "lanczos"

    def __call__(self, picture: bytes | Images) -> Images:
        """An encoded picture, or an array (H, W) or (H, W, C) -> (size, size, channels).

        Raises:
            OSError: the bytes are no picture that Pillow can decode.
        """
        image = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else Image.fromarray(picture)
        image = image.convert("L" if self.channels == 1 else "RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        if side != self.size:
            image = image.resize((self.size, self.size), Image.Resampling[self.resample.upper()])
        return np.asarray(image).reshape(self.size, self.size, self.channels)
