"""The generator as an MLflow model: MLflow runs this file when a user loads it, far from this repository.

It needs torch, numpy, pydantic and safetensors; weights and configuration are the model's artifacts.
"""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext
from safetensors.torch import load_file

from service.components import resolve
from service.networks import ImageShape, Network
from service.pixels import to_image
from service.tasks import Task


class GeneratorModel(PythonModel):  # type: ignore[misc]
    """Rows of (n, seed) -> images (sum of n, H, W, C), uint8. The same seed gives the same images anywhere."""

    def load_context(self, context: PythonModelContext) -> None:
        described = json.loads(Path(context.artifacts["description"]).read_text())
        self._network = resolve("service.networks", described["network"], Network)
        self._task = resolve("service.tasks", described["task"], Task)
        self._generator, _ = self._task.build(self._network, ImageShape(*described["image"]))
        self._generator.load_state_dict(load_file(context.artifacts["weights"]))
        self._generator.eval()

    # MLflow reads type hints of this method as a schema; the signature that is logged says it better.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        images = [
            self._images(int(n), int(seed)) for n, seed in zip(model_input["n"], model_input["seed"], strict=True)
        ]
        return torch.cat(images).permute(0, 2, 3, 1).contiguous().numpy()

    def _images(self, count: int, seed: int) -> torch.Tensor:
        examples = self._task.examples(self._network, seed, count, torch.device("cpu"))
        dtype = next(self._generator.parameters()).dtype
        with torch.inference_mode():
            return to_image(
                self._task.images(self._generator, {name: values.to(dtype) for name, values in examples.items()})
            )


mlflow.models.set_model(GeneratorModel())
