"""The 1,797 handwritten digits of 8x8 pixels that scikit-learn bundles: real data without a download."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipelines.sources import Sample, Source


class Digits(Source):
    """Alpaydin and Kaynak's optical recognition of handwritten digits (its test part), grey levels 0 to 16."""

    def samples(self) -> Iterator[Sample]:
        from sklearn.datasets import load_digits  # Takes a second to import; only an ingest needs it.

        digits = load_digits()
        pictures = np.round(digits.images * (255 / 16)).astype(np.uint8)
        for index, (picture, label) in enumerate(zip(pictures, digits.target, strict=True)):
            yield Sample(f"{index:04}", picture, int(label))

    def fingerprint(self) -> str:
        return "digits"

    def describe(self) -> str:
        return "scikit-learn digits"
