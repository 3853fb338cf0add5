"""The gallery's data of rooms, made of LSUN's: ``python -m docs.gallery_data [FOLDER OF LMDBS]``.

``data/edges``: bedrooms, each beside its edges, as pix2pix has pairs. ``data/domains``: bedrooms and kitchens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pipelines.data.images import Transform
from pipelines.data.shards import Images
from pipelines.data.sources.lsun import Lsun

EDGES, DOMAINS = Path("data/edges"), Path("data/domains")
_SIDE = 64


def photographs(database: Path) -> Iterator[Images]:
    """(64, 64, 3) each."""
    source, transform = Lsun.model_validate({"uri": str(database)}), Transform(size=_SIDE, channels=3)
    for sample in source.read(source.index()):
        picture = sample.pictures[0]
        yield transform(picture)


def beside_edges(photograph: Images) -> Images:
    """A photograph and its edges, black on white, (64, 128, 3)."""
    drawn = 255 - cv2.Canny(cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY), 60, 160)
    return np.concatenate([photograph, np.repeat(drawn[..., None], 3, 2)], 1)


def main(lsun: Path) -> None:
    """Write both data sets, unless they are there."""
    for room in ("bedroom", "kitchen"):
        (DOMAINS / room).mkdir(parents=True, exist_ok=True)
        EDGES.mkdir(parents=True, exist_ok=True)
        for number, photograph in enumerate(photographs(lsun / f"{room}_train_lmdb")):
            Image.fromarray(photograph).save(DOMAINS / room / f"{number:04}.png")
            if room == "bedroom":
                Image.fromarray(beside_edges(photograph)).save(EDGES / f"{number:04}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data"))
