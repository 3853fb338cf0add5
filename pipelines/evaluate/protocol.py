"""How models are judged on a run's data: in which features, by how many images of each side, and what that is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from pipelines.components import ConfigError, name_of
from pipelines.data.shards import Manifest
from pipelines.evaluate.sides import BATCH
from pipelines.loading.loader import open_loader
from pipelines.quality.features import Extractor, FeatureNetwork, Reference
from pipelines.quality.features.classifier import Classifier
from pipelines.quality.features.inception import Inception
from pipelines.quality.metrics import NEIGHBOURS
from pipelines.storage.location import Location
from service.configuration.config import Run, storage_root
from service.runs.driver.datasets import prepare_all
from service.tracking.run_page import Input

#: KID needs two images for each of its ten blocks.
_FEWEST = 20
#: Where all real images count, neighbourhoods are of so many on each side, as Naeem et al. 2020 and dgm-eval take them:
#: their cost grows with the product of both.
MOST_NEIGHBOURHOODS = 10_000


@dataclass(frozen=True)
class Protocol:
    """How models are judged on a run's data; figures may be compared where `fingerprint` is the same.

    Attributes:
        features: names the feature network, its weights and how images are brought to its size.
        samples: generated images.
        sampled: real images that figures are taken of; with `rows`, all figures but the Fréchet distance.
        rows: of the largest data set, where the Fréchet distance is to all real images; else None.
        sample_file, moments_file: where what is asked of the real images is kept.
    """

    run: Run
    data: tuple[tuple[str, int], ...]
    reference: Reference
    extractor: Extractor
    features: str
    samples: int
    sampled: int
    rows: int | None
    fingerprint: str
    sample_file: Location
    moments_file: Location

    @property
    def input(self) -> Input:
        """The data set, as MLflow shows it."""
        return Input.of(self.reference.folder, self.reference.manifest, "evaluation")


def protocol(run: Run, console: Console) -> Protocol:
    """The protocol of a run's data as they are now, or in the version that the run names.

    Raises:
        ConfigError: the data, or the feature network's weights, cannot be had.
    """
    found = prepare_all(run, console)
    manifests = [manifest for _, manifest in found]
    folder = Location.of(found[0][0])
    kept = Location.of(storage_root(run.evaluation.cache)) if run.evaluation.cache else folder / "evaluations"
    reference = Reference(folder, manifests[0], run.data.transform, kept)
    network = run.evaluation.features or _suited(reference)
    extractor, features = network.open(reference, lambda text: console.print(text, highlight=False, soft_wrap=True))
    samples, sampled = _counts(run, manifests)
    described = _described(run, manifests, features)
    compared = {"samples": sampled, "seed": run.evaluation.seed, "neighbours": NEIGHBOURS}
    whole = run.evaluation.real == "all"
    asked = {"samples": samples, "real": "all", "neighbourhoods": MOST_NEIGHBOURHOODS} if whole else {}
    return Protocol(
        run=run,
        data=tuple((uri, manifest.version) for uri, manifest in found),
        reference=reference,
        extractor=extractor,
        features=features,
        samples=samples,
        sampled=sampled,
        rows=max(manifest.rows for manifest in manifests) if whole else None,
        fingerprint=_digest(described | compared | asked),
        sample_file=kept / f"reference-{_digest(described | compared)}.safetensors",
        moments_file=kept / f"moments-{_digest(described)}.safetensors",
    )


def _suited(reference: Reference) -> FeatureNetwork:
    """A classifier of the data set's own labels where it has some, else Inception."""
    loader = open_loader(reference.folder, reference.transform, 1, 0, version=reference.manifest.version)
    labels = loader.some(256).labels
    loader.close()
    return Classifier() if int(labels.min()) >= 0 and len(labels.unique()) > 1 else Inception()


def _counts(run: Run, manifests: Sequence[Manifest]) -> tuple[int, int]:
    """How many images are generated, and how many real ones are sampled: what was asked for, or what there is.

    Raises:
        ConfigError: they are too few.
    """
    asked = run.evaluation.samples
    sampled = _whole_batches(min(asked, *(manifest.rows for manifest in manifests)))
    if sampled < _FEWEST:
        raise ConfigError(f"evaluation.samples: {sampled} images cannot be compared; {_FEWEST} are the least")
    # As many as there are real ones where each is made of one.
    more = run.evaluation.real == "all" and not run.task.translates
    return _whole_batches(asked) if more else sampled, sampled


def _whole_batches(count: int) -> int:
    return count - count % min(count, BATCH)


def _described(run: Run, manifests: Sequence[Manifest], features: str) -> dict[str, Any]:
    """What the features of the real images depend on, beside which of them are looked at."""
    return {
        "features": features,
        "manifests": [manifest.hash for manifest in manifests],
        # Pictures of a time before there was a background have none.
        "transform": run.data.transform.model_dump(exclude=set() if manifests[0].shown else {"background"}),
        "task": name_of(run.task),
        "batch": BATCH,
    }


def _digest(described: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
