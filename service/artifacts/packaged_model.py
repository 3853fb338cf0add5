"""The generator as an MLflow model: MLflow runs this file when a user loads it, far from this repository.

It needs torch, numpy, pydantic and safetensors; weights and configuration are the model's artifacts.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext

_SOURCES = Path(__file__).parent / "code" / "sources.zip"
# A process that already runs the service, or another model of it, keeps its own: never half of one and half of another.
if _SOURCES.exists() and not {"service", "pipelines"} & set(sys.modules):
    sys.path.insert(0, str(_SOURCES))

from service.generator import Generator  # noqa: E402


class GeneratorModel(PythonModel):  # type: ignore[misc]
    """Rows of (n, seed), and of a label if wanted -> images (sum of n, H, W, C), uint8.

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
                raise ValueError("no rows: give n and seed")
            images = torch.cat([self._generator.make(int(row["n"]), int(row["seed"]), _label(row)) for row in rows])
        return images.permute(0, 2, 3, 1).contiguous().numpy()


def _label(row: dict[str, object]) -> int | None:
    label = row.get("label")
    return None if label is None or label != label else int(label)  # type: ignore[call-overload]


mlflow.models.set_model(GeneratorModel())
