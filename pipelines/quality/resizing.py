"""How images are brought to a feature network's size where others do it by Pillow: by the same code, bit for bit."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def bicubic(images: Tensor, side: int) -> Tensor:
    """(N, C, H, W) -> (N, C, side, side), of the same kind of numbers: bytes stay bytes, and floats are not rounded.

    Pillow's filter widens where it makes images smaller (Parmar et al. 2022), and goes below 0 and above 255 beside
    edges: bytes are clipped, floats are not.

    Args:
        images: uint8 or float32.
    """
    planes = images.flatten(0, 1).cpu().numpy()
    resized = [np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BICUBIC)) for plane in planes]
    return torch.from_numpy(np.stack(resized)).view(*images.shape[:2], side, side).to(images.device)
