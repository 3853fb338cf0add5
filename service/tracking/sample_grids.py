"""What people look at: sample grids, animations of them, and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

_GAP = 2
_BACKGROUND = 96
#: Small images are enlarged to about this many pixels a side.
_LEGIBLE = 64


def grid(images: Tensor) -> Image.Image:
    """(N, C, H, W) uint8, C 1 or 3 -> a nearly square grid, tiles set apart, small ones enlarged."""
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = images.new_full((channels, _GAP + rows * (height + _GAP), _GAP + columns * (width + _GAP)), _BACKGROUND)
    for index, image in enumerate(images):
        top = _GAP + index // columns * (height + _GAP)
        left = _GAP + index % columns * (width + _GAP)
        canvas[:, top : top + height, left : left + width] = image
    picture = single(canvas)
    factor = max(1, _LEGIBLE // max(height, width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def animation(
    frames: Sequence[Image.Image], file: Path, frame_seconds: float, last_seconds: float | None = None
) -> None:
    """Write a GIF that begins again after its last frame, which may stay for longer."""
    milliseconds = [round(1000 * frame_seconds)] * len(frames)
    if last_seconds is not None:
        milliseconds[-1] = round(1000 * last_seconds)
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


def single(image: Tensor) -> Image.Image:
    """(C, H, W) uint8, C 1 or 3 -> a picture of that size."""
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if len(image) == 1 else array)


def curves(history: Sequence[tuple[int, Mapping[str, float]]], file: Path) -> None:
    """Plot logged values, (step, values by name), into a PNG: losses, weights, augmentation and diversity."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = sorted({name for _, values in history for name in values})
    panels = {
        "loss": [name for name in names if name.startswith("loss/")],
        "weight": [name for name in names if name.startswith("weight/")],
        "augmentation": [name for name in names if name.startswith("augmentation/")],
        "diversity": [name for name in names if name == "diversity"],
    }
    shown = {title: lines for title, lines in panels.items() if lines}
    figure, axes = pyplot.subplots(len(shown), 1, sharex=True, figsize=(8, 2.6 * len(shown)), squeeze=False)
    for axis, (title, lines) in zip(axes[:, 0], shown.items(), strict=True):
        for name in lines:
            points = [(step, values[name]) for step, values in history if name in values]
            axis.plot(*zip(*points, strict=True), label=name.rpartition("/")[2], linewidth=1)
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(loc="upper right", fontsize=8)
    axes[-1, 0].set_xlabel("step")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
