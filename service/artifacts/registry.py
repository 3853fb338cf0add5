"""Models in and out of the MLflow registry."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import tenacity

from pipelines.components import ConfigError
from service.artifacts.checkpoints import State
from service.artifacts.generator_folder import write_generator
from service.artifacts.model_card import card, on_page
from service.configuration.config import Run
from service.generator import Generator
from service.tracking.run_page import commit
from service.tracking.tracker import (
    TrackingError,
    check_reachable,
    client,
    failing_clearly,
    missing_database,
)

_REQUIREMENTS = ("torch", "numpy", "pydantic", "safetensors", "mlflow")


class NoModelError(LookupError):
    """The registry has no such model, version or alias; its text is the one line to show."""


def _pack_sources(run: Run, file: Path) -> None:
    """Write the packages that the model is made of, these and those of parts from outside, into one archive.

    MLflow moves every file of a model by a request of its own.
    """
    parts = {type(part).__module__.partition(".")[0] for part in (run.network, run.task)}
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        for module in (import_module(name) for name in sorted(parts | {"service", "pipelines"})):
            place = Path(next(iter(getattr(module, "__path__", [module.__file__]))))
            for source in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
                archive.write(source, source.relative_to(place.parent))


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow reports and advises while it logs a model or fetches one; the run's summary says what matters."""
    with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield


def register(
    run: Run, state: State, uri: str, run_id: str, picture: Path | None = None, classes: Sequence[str] = ()
) -> str:
    """Log the generator of `state` as a model of the MLflow run, and register it. Returns its ``models:/`` URI.

    The model holds weights as safetensors, the networks' configuration, this package's source and a card; no pickle.
    Registered before, of the same run and step, it is found instead.

    Args:
        picture: a sample grid for the card, where images are made of images.
        classes: what the data set's labels stand for, where it says so.

    Raises:
        TrackingError: MLflow fails.
    """
    import mlflow

    mlflow.set_tracking_uri(uri)
    tags = {
        "recipe": run.recipe,
        "recipe.hash": run.recipe_hash,
        "manifest.hash": state.identity["data set"],
        "step": str(state.step),
        "git.commit": commit() or f"selfgan {version('selfgan')}",
        **({"start_from": str(run.start_from)} if run.start_from else {}),
    }
    if number := _registered(run.model_name, uri, run_id, state.step):
        tag(run.model_name, number, uri, tags)
        return f"models:/{run.model_name}/{number}"
    with TemporaryDirectory() as folder:
        model = Path(folder, "generator")
        write_generator(run, state, model, tags, classes)
        sources = Path(folder, "sources.zip")
        _pack_sources(run, sources)
        text = card(model, Generator.read(model), run, tags, picture)
        with _quiet(), failing_clearly(), mlflow.start_run(run_id=run_id):
            info = mlflow.pyfunc.log_model(
                name="generator",
                python_model=str(Path(__file__).with_name("packaged_model.py")),
                artifacts={"generator": str(model)},
                code_paths=[str(sources)],
                signature=_signature(run),
                input_example=_example(run),
                pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS],
                registered_model_name=run.model_name,
                metadata={"step": state.step, "recipe": run.recipe, **state.identity},
            )
            number = str(info.registered_model_version)
            described = on_page(text, run.model_name, number)
            client(uri).update_model_version(run.model_name, number, description=described)
        tag(run.model_name, number, uri, tags)
    return f"models:/{run.model_name}/{number}"


def _registered(name: str, uri: str, run_id: str, step: int) -> str | None:
    """The version of this run and step, if there is one; whoever was killed may not have got to its tags."""
    import mlflow

    with failing_clearly():
        for found in client(uri).search_model_versions(f"name = '{name}'"):
            if found.run_id != run_id:
                continue
            metadata = mlflow.models.get_model_info(f"models:/{name}/{found.version}").metadata
            if metadata["step"] == step:
                return str(found.version)
    return None


def _signature(run: Run):  # type: ignore[no-untyped-def]
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    image = run.image
    images = Schema([TensorSpec(np.dtype("uint8"), (-1, image.height, image.width, image.channels))])
    columns = [ColSpec(DataType.long, "n"), ColSpec(DataType.long, "seed", required=False)]
    if run.task.chosen:
        columns.append(ColSpec(DataType.double, "label", required=False))  # Which may be missing in a row.
        columns.append(ColSpec(DataType.string, "class", required=False))
    columns.append(ColSpec(DataType.double, "truncation", required=False))
    return ModelSignature(inputs=images if run.task.translates else Schema(columns), outputs=images)


def _example(run: Run) -> Any:
    if not run.task.translates:
        return {"n": [4], "seed": [7]}
    return np.zeros((1, run.image.height, run.image.width, run.image.channels), np.uint8)


@dataclass(frozen=True)
class ModelName:
    """What a ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` URI says."""

    name: str
    version: str | None
    alias: str | None

    @classmethod
    def of(cls, uri: str) -> ModelName:
        """Raises ValueError, with the forms that are understood."""
        text = uri.removeprefix("models:/")
        name, at, alias = text.partition("@")
        name, slash, number = name.partition("/")
        number = "" if (latest := number == "latest") else number
        if (
            not name
            or text == uri
            or (at and not alias)
            or (slash and not (latest or number.isdigit()))
            or (at and slash)
        ):
            raise ValueError(f"{uri!r} names no model: models:/NAME/latest, models:/NAME/VERSION or models:/NAME@ALIAS")
        return cls(name, number if number.isdigit() else None, alias or None)


def version_of(uri: str, tracking_uri: str) -> str:
    """The version that a model's URI stands for now; without alias or version, the latest.

    Raises:
        NoModelError: there is none.
        TrackingError: the server fails.
    """
    from mlflow.exceptions import MlflowException

    model = ModelName.of(uri)
    if missing := missing_database(tracking_uri):  # MLflow would create it.
        raise NoModelError(
            f"{uri}: there is no tracking database {missing}; train first, or name the server or database that has it"
        )
    try:
        check_reachable(tracking_uri)  # MLflow itself would try again for minutes.
    except ConfigError as error:
        raise TrackingError(str(error)) from error
    server = client(tracking_uri)
    with failing_clearly():
        try:
            if model.alias:
                return str(server.get_model_version_by_alias(model.name, model.alias).version)
            if model.version:
                return str(server.get_model_version(model.name, model.version).version)
            numbers = [int(found.version) for found in server.search_model_versions(f"name = '{model.name}'")]
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise NoModelError(f"{uri}: {tracking_uri} has no such model: {error.message}") from error
            raise
    if not numbers:
        raise NoModelError(f"{uri}: {tracking_uri} has no model {model.name!r}")
    return str(max(numbers))


def fetch(uri: str, tracking_uri: str, target: Path) -> None:
    """Fetch the generator of a ``models:/NAME/VERSION`` into a folder that is there only when it is complete.

    Raises:
        TrackingError: MLflow fails.
    """
    import mlflow

    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as folder, _quiet(), failing_clearly():
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.artifacts.download_artifacts(artifact_uri=f"{uri}/artifacts/generator", dst_path=folder)
        try:
            Path(folder).rename(target)
        except OSError:  # Another process was faster; it is the same.
            if not target.exists():
                raise
        else:
            Path(folder).mkdir()  # For the temporary folder's own clean-up.


def tags_of(name: str, number: str, uri: str) -> dict[str, str]:
    """A version's tags. Raises TrackingError."""
    with failing_clearly():
        return dict(client(uri).get_model_version(name, number).tags)


def tag(name: str, number: str, uri: str, tags: Mapping[str, str]) -> None:
    """Set tags of a version. Raises TrackingError."""
    with failing_clearly():
        for key, value in tags.items():
            client(uri).set_model_version_tag(name, number, key, value)


# Two at once that set an alias for the first time collide in MLflow's database.
@tenacity.retry(
    retry=tenacity.retry_if_exception_type(TrackingError),
    wait=tenacity.wait_random(0, 0.5),
    stop=tenacity.stop_after_attempt(5),
    reraise=True,
)
def point(name: str, alias: str, number: str, uri: str) -> None:
    """Let an alias stand for a version. Raises TrackingError."""
    with failing_clearly():
        client(uri).set_registered_model_alias(name, alias, number)


def pointed(name: str, alias: str, uri: str) -> str | None:
    """The version that an alias stands for, if it stands for one. Raises TrackingError."""
    try:
        return version_of(f"models:/{name}@{alias}", uri)
    except NoModelError:
        return None


def run_of(name: str, number: str, uri: str) -> str:
    """The MLflow run that a version comes from. Raises TrackingError."""
    with failing_clearly():
        return str(client(uri).get_model_version(name, number).run_id)


def checkpoint_of(name: str, number: str, uri: str) -> str | None:
    """Where the last checkpoint of a version's run lies, if the run has said so. Raises TrackingError."""
    with failing_clearly():
        tags: dict[str, str] = client(uri).get_run(run_of(name, number, uri)).data.tags
    return tags.get("checkpoint.last")
