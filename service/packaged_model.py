"""The generator as an MLflow model: MLflow runs this file when a user loads it, far from this repository.

It needs torch, numpy, pydantic and safetensors; weights and configuration are the model's artifacts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import mlflow
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext
from safetensors.torch import load_file

from service.components import resolve
from service.networks import ImageShape, Network
from service.pixels import to_image, to_model
from service.tasks import Task


class GeneratorModel(PythonModel):  # type: ignore[misc]
    """Rows of (n, seed) -> images (sum of n, H, W, C), uint8. The same seed gives the same images anywhere.

    A generator that makes images of images takes those, (N, H, W, C), uint8, instead.
    """

    def load_context(self, context: PythonModelContext) -> None:
        described = json.loads(Path(context.artifacts["description"]).read_text())
        self._network = resolve("service.networks", described["network"], Network)
        self._task = resolve("service.tasks", described["task"], Task)
        self._generator = self._task.generator(self._network, ImageShape(*described["image"]))
        self._generator.load_state_dict(load_file(context.artifacts["weights"]))
        self._generator.eval()

    # MLflow reads type hints of this method as a schema; the signature that is logged says it better.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        if self._task.translates:
            sources = torch.from_numpy(model_input).permute(0, 3, 1, 2)
            examples = self._task.translation(to_model(sources, torch.float32))
            return self._made(examples).permute(0, 2, 3, 1).contiguous().numpy()
        images = [
            self._images(int(n), int(seed)) for n, seed in zip(model_input["n"], model_input["seed"], strict=True)
        ]
        return torch.cat(images).permute(0, 2, 3, 1).contiguous().numpy()

    def _images(self, count: int, seed: int) -> torch.Tensor:
        return self._made(self._task.examples(self._network, seed, count, torch.device("cpu")))

    def _made(self, examples: Mapping[str, torch.Tensor]) -> torch.Tensor:
        dtype = next(self._generator.parameters()).dtype
        with torch.inference_mode():
            typed = {name: values.to(dtype) for name, values in examples.items()}
            return to_image(self._task.images(self._generator, typed))


mlflow.models.set_model(GeneratorModel())
