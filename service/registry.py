"""Models into the MLflow registry."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import save_file

from service.checkpoints import AVERAGE, State, network_weights
from service.config import Run, dump
from service.tracking import failing_clearly

_REQUIREMENTS = ("torch", "numpy", "pydantic", "safetensors", "mlflow")


def _sources(run: Run) -> list[Path]:
    """The packages that the model is made of: this one, and those of parts from outside."""
    parts = {type(part).__module__.partition(".")[0] for part in (run.network, run.task)}
    modules = [import_module(name) for name in sorted(parts | {"service"})]
    return [Path(next(iter(getattr(module, "__path__", [module.__file__])))) for module in modules]


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow reports and advises on the error stream while it logs a model; the run's summary says what matters."""
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        yield


def register(run: Run, state: State, uri: str, run_id: str) -> str:
    """Log the generator of `state` as a model of the MLflow run, and register it. Returns its ``models:/`` URI.

    The model holds weights as safetensors, the networks' configuration, and this package's source; no pickle.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from numpy import dtype

    mlflow.set_tracking_uri(uri)
    described = dump(run)
    image = run.image
    images = Schema([TensorSpec(dtype("uint8"), (-1, image.height, image.width, image.channels))])
    numbers = Schema([ColSpec(DataType.long, "n"), ColSpec(DataType.long, "seed")])
    signature = ModelSignature(inputs=images if run.task.translates else numbers, outputs=images)
    with TemporaryDirectory() as folder:
        weights, description = Path(folder, "generator.safetensors"), Path(folder, "description.json")
        save_file(network_weights(state, AVERAGE if run.ema else "generator"), weights)
        description.write_text(
            json.dumps({"network": described["network"], "task": described["task"], "image": list(image)})
        )
        with _quiet(), failing_clearly(), mlflow.start_run(run_id=run_id):
            info = mlflow.pyfunc.log_model(
                name="generator",
                python_model=str(Path(__file__).with_name("packaged_model.py")),
                artifacts={"weights": str(weights), "description": str(description)},
                code_paths=[str(path) for path in _sources(run)],
                signature=signature,
                pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS],
                registered_model_name=run.model_name,
                metadata={"step": state.step, "recipe": run.recipe, **state.identity},
            )
    return f"models:/{run.model_name}/{info.registered_model_version}"
