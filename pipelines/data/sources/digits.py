"""The 1,797 handwritten digits of 8x8 pixels that scikit-learn bundles: real data without a download."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.data.shards import Images
from pipelines.data.sources import ArraySource


class Digits(ArraySource):
    """Alpaydin and Kaynak's optical recognition of handwritten digits (its test part), grey levels 0 to 16."""

    def arrays(self) -> tuple[Images, NDArray[np.integer]]:
        from sklearn.datasets import load_digits  # Takes a second to import; only an ingest needs it.

        digits = load_digits()
        return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target

    def key(self, row: int) -> str:
        return f"{row:04}"

    def fingerprint(self) -> str:
        return "digits"

    def describe(self) -> str:
        return "scikit-learn digits"
