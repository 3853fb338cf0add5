"""How near a generator's images are to a data set's: features of both sides, taken by tasks, and compared.

What is asked of the real images is computed once for each version of the data set, and kept beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipelines.components import ConfigError, name_of
from pipelines.evaluate.protocol import MOST_NEIGHBOURHOODS, Protocol
from pipelines.evaluate.sides import Side, Tasks, Work, features_of_side, in_turn, joined
from pipelines.quality.features import Features
from pipelines.quality.figures import Figures
from pipelines.quality.metrics import Moments, class_coverage, fid, inception_score, kid, moments, neighbourhoods
from pipelines.storage.location import Location
from service.configuration.tree import dump
from service.generator import Generator
from service.models.networks import ImageShape

K = TypeVar("K")


def evaluate(judged: Protocol, generator: Generator, tasks: Tasks[Work, Features] = in_turn) -> Figures:
    """Compare a generator's images with the data.

    Args:
        tasks: calls a function for every piece of work: here, or on Ray.

    Raises:
        ConfigError: the generator makes images of another shape.
    """
    run = judged.run
    if generator.image != run.image:
        raise ConfigError(f"the model makes images of {_shape(generator.image)}, and the data are {_shape(run.image)}")
    if type(generator.task) is not type(run.task):
        names = name_of(generator.task), name_of(run.task)
        raise ConfigError(f"the model's task is {names[0]}, and the recipe's {names[1]}")
    real = _sample(judged, tasks)
    known = None if judged.rows is None else _moments(judged, judged.rows, tasks)
    made = Side(dump(run), judged.data, judged.extractor, generator)
    found = compared(real, joined(features_of_side(made, judged.samples, tasks)), judged.fingerprint, known)
    return found.model_copy(update={"features": judged.features})


def _shape(image: ImageShape) -> str:
    return "x".join(map(str, image))


def compared(real: Features, made: Features, fingerprint: str, known: Moments | None = None) -> Figures:
    """Every figure.

    Args:
        known: of all real images, if the Fréchet distance is to be to them, and not to `real`.
    """
    most = None if known is None else MOST_NEIGHBOURHOODS
    near, apart = neighbourhoods(real.values[:most], made.values[:most]), kid(real.values, made.values)
    score = None if made.logits is None else inception_score(made.logits)
    return Figures(
        fingerprint=fingerprint,
        samples=len(made.values),
        real=None if known is None else known.rows,
        fid=fid(real.values if known is None else known, made.values),
        kid=apart.value,
        kid_error=apart.error,
        **near._asdict(),
        class_coverage=class_coverage(real.classes, made.classes) if bool((real.classes >= 0).all()) else None,
        inception_score=None if score is None else score.value,
        inception_score_deviation=None if score is None else score.deviation,
    )


def _sample(judged: Protocol, tasks: Tasks[Work, Features]) -> Features:
    """Features of as many real images as are sampled."""

    def compute() -> dict[str, Tensor]:
        side = Side(dump(judged.run), judged.data, judged.extractor)
        found = joined(features_of_side(side, judged.sampled, tasks))
        return {"values": found.values, "classes": found.classes}

    return _kept(judged.sample_file, compute, lambda found: Features(found["values"], found["classes"]))


def _moments(judged: Protocol, rows: int, tasks: Tasks[Work, Features]) -> Moments:
    """Of all real images. Their features are not held at once."""

    def compute() -> dict[str, Tensor]:
        side = Side(dump(judged.run), judged.data, judged.extractor, whole=True)
        parts = (part.values for part in features_of_side(side, rows, tasks) if len(part.values))
        found = moments(parts)
        return {"rows": torch.tensor(found.rows), "mean": found.mean, "covariance": found.covariance}

    return _kept(
        judged.moments_file, compute, lambda found: Moments(int(found["rows"]), found["mean"], found["covariance"])
    )


def _kept(file: Location, compute: Callable[[], dict[str, Tensor]], made_of: Callable[[dict[str, Tensor]], K]) -> K:
    """What a file holds of the real images; computed and kept there first, if there is none."""
    if not file.exists():
        found = compute()
        file.create(save(found))
        return made_of(found)
    try:
        return made_of(load(file.read()))
    except (SafetensorError, KeyError) as error:
        raise ConfigError(f"{file} is damaged ({type(error).__name__}); delete it, and it is made anew") from error
