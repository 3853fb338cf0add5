"""The generator as an MLflow model: MLflow runs this file when a user loads it, far from this repository.

It needs torch, numpy, pydantic and safetensors; weights and configuration are the model's artifacts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext

#: Of all images of a request. MLflow writes them as JSON at some 150,000 a second, and gives up after 60 s.
_MOST_VALUES = 1 << 22
_SOURCES = Path(__file__).parent / "code" / "sources.zip"
# A process that already runs the service, or another model of it, keeps its own: never half of one and half of another.
if _SOURCES.exists() and not {"service", "pipelines"} & set(sys.modules):
    sys.path.insert(0, str(_SOURCES))

from service.generator import Generator  # noqa: E402


class GeneratorModel(PythonModel):  # type: ignore[misc]
    """Rows of n -> images (sum of n, H, W, C), uint8; if wanted with a seed [0 in all], a label or class, a truncation.

    The same seed gives the same images anywhere. A generator that makes images of images takes those, (N, H, W, C),
    uint8, instead.
    """

    def load_context(self, context: PythonModelContext) -> None:
        self._generator = Generator.read(Path(context.artifacts["generator"]))

    # MLflow reads type hints of this method as a schema; the signature that is logged says it better.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        if self._generator.task.translates:
            images = self._generator.translate(torch.from_numpy(model_input).permute(0, 3, 1, 2))
        else:
            rows = model_input.to_dict("records")
            if not rows:
                raise MlflowException.invalid_parameter_value("no rows: give n, and a seed if not 0")
            most = max(1, _MOST_VALUES // math.prod(self._generator.image))
            if sum(max(int(row["n"]), 0) for row in rows) > most:
                raise MlflowException.invalid_parameter_value(f"n: ask for at most {most:,} images in one request")
            images = torch.cat([self._made(row) for row in rows])
        return images.permute(0, 2, 3, 1).contiguous().numpy()

    def _made(self, row: Mapping[str, Any]) -> torch.Tensor:
        seed, number, name, truncation = (_value(row, key) for key in ("seed", "label", "class", "truncation"))
        if number is not None and name is not None:
            raise ValueError(f"class: a row has class {name!r} and label {number:g}; give one of them")
        label = name if number is None else int(number)
        return self._generator.make(int(row["n"]), int(seed or 0), label, truncation)


def _value(row: Mapping[str, Any], name: str) -> Any:
    """A row's value, None if it has none, for which pandas has NaN."""
    value = row.get(name)
    return None if value is None or value != value else value


mlflow.models.set_model(GeneratorModel())
