"""The configuration of a run: every option, its default, and what follows from them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from pipelines.components import Component, ConfigError, Options, name_of, resolve
from pipelines.data.images import Transform
from pipelines.data.plan import LANES, SKIP_LIMIT
from pipelines.data.sources import Source
from pipelines.quality.promotion_policy import Policy
from service.configuration.execution import (
    Checkpoints,
    Cluster,
    Evaluation,
    Loader,
    Logging,
    Profile,
    Retraining,
    Tracking,
)
from service.configuration.tree import dump
from service.losses.objectives import Objective
from service.losses.regularizers import Regularizer
from service.losses.terms import Term
from service.models.networks import ImageShape, Network
from service.replicas.randomness import MAX_STEPS
from service.tasks import Task
from service.training.augmentation import Augmentation
from service.training.compiling import Compile
from service.training.critics.critic_set import CriticSet
from service.training.ema import Ema
from service.training.optimizers import Optimizer
from service.training.schemes import Scheme


def _of(package: str, base: type[Component], default: str | None = None) -> tuple[Any, Any]:
    """A part, by what a recipe says of it; options without a name are the default's."""
    return BeforeValidator(lambda value: resolve(package, value, base, default)), SerializeAsAny()  # type: ignore[type-arg]


def _several(package: str, value: Any, base: type[Component]) -> tuple[Component, ...]:
    """Some parts of a family; one may be given without brackets. None may be there twice."""
    described = value if isinstance(value, list | tuple) else [] if value is None else [value]
    found = tuple(resolve(package, one, base) for one in described)
    names = [name_of(one) for one in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{package.rpartition('.')[2]}: {name!r} is there twice")
    return found


class Batch(Options):
    """The global batch."""

    size: int = Field(64, ge=1, description="samples in the global batch, over all replicas")
    shards: int = Field(1, ge=1, description="parts of the batch with statistics of their own (the paper's TPU: 8)")
    cells: int = Field(8, ge=1, description="parts that exact replicas hold whole, so that sums have one order")
    rows_at_once: int | None = Field(
        None,
        ge=1,
        description="samples that a replica sends through its networks at once, to save memory; the result is that of "
        "all at once (exact: a cell at least) [default: all]",
    )


class DataSet(Options):
    """Where samples come from, and where they lie as shards."""

    source: Annotated[Source, *_of("pipelines.data.sources", Source)] = Field(
        description="format of the pictures, and options such as uri"
    )
    shards: str | None = Field(None, description="folder or URI of the Arrow shards [default: under storage]")
    version: int | None = Field(None, ge=1, description="version of the data set [default: the latest]")


class Data(DataSet):
    """The data of a run."""

    domains: tuple[DataSet, ...] = Field((), description="the other domains of an unpaired task, a data set each")
    transform: Transform = Field(Transform(), description="size, channels and resampling of the images")
    stored: Literal["decoded", "encoded"] = Field("decoded", description="ingest pixels, or pictures as they are")
    skip_limit: float = Field(SKIP_LIMIT, ge=0, le=1, description="most that an ingest may skip, as a share")
    lanes: int = Field(
        LANES, ge=1, le=65536, description="streams that an ingest deals samples into: the most replicas there may be"
    )
    damaged: Literal["stop", "replace"] = Field(
        "stop", description="on a damaged block: stop, or replace its rows by others"
    )


class FirstWeights(Options):
    """Files of weights that other code has written, for a run to start from."""

    generator: str | None = Field(None, description="state dict of the generator (.pt, .pth or .safetensors)")
    critic: str | None = Field(None, description="likewise of the critic")

    def __str__(self) -> str:
        return ", ".join(f"{part} {file}" for part, file in self.files.items())

    @property
    def files(self) -> dict[str, str]:
        """By network, those that there are."""
        return {part: file for part, file in dump(self).items() if file is not None}


def _start(value: Any) -> Any:
    if isinstance(value, Mapping):
        value = FirstWeights.model_validate(value)
    if not isinstance(value, str | FirstWeights | None) or (isinstance(value, FirstWeights) and not value.files):
        raise ValueError("expected a path or URI, or {generator: FILE, critic: FILE}")
    return value


class Run(Options):
    """One run: a recipe, resolved."""

    recipe: str = Field(description="the recipe's name")
    recipe_file: str | None = Field(None, description="where it was read from, if it is a file of your own")
    seed: int = Field(0, description="seed of initial weights, sample order and noise")
    steps: int = Field(6000, ge=1, le=MAX_STEPS, description="training steps, each on one global batch")
    dtype: Literal["float32", "float64", "bfloat16"] = Field(
        "float32", description="of weights and arithmetic; bfloat16 means autocast"
    )
    exact: bool = Field(False, description="give the same bits on any number of replicas")
    compile: Compile | None = Field(
        None, description="compile the forward and backward passes of a step by torch.compile: true, or {graphs: true}"
    )
    batch: Batch = Batch()
    data: Data
    loader: Loader = Loader()
    network: Annotated[Network, *_of("service.models.networks", Network)]
    task: Annotated[Task, *_of("service.tasks", Task)] = Field("unconditional", validate_default=True)
    objective: Annotated[Objective, *_of("service.losses.objectives", Objective)] = Field("bce", validate_default=True)
    scheme: Annotated[Scheme, *_of("service.training.schemes", Scheme)] = Field("joint", validate_default=True)
    regularizers: Annotated[
        tuple[SerializeAsAny[Regularizer], ...],
        BeforeValidator(lambda value: _several("service.losses.regularizers", value, Regularizer)),
    ] = Field((), description="gradient penalties and the like, on the critics")
    terms: Annotated[
        tuple[SerializeAsAny[Term], ...], BeforeValidator(lambda value: _several("service.losses.terms", value, Term))
    ] = Field((), description="further losses of the generator, such as perceptual")
    critics: CriticSet = Field(CriticSet(), description="several critics, or critics at several scales")
    augmentation: Augmentation = Field(Augmentation(), description="of real images, when they are trained on")
    optimizer: Annotated[Optimizer, *_of("service.training.optimizers", Optimizer, "adam")] = Field(
        "adam", validate_default=True
    )
    start_from: Annotated[str | FirstWeights | None, BeforeValidator(_start)] = Field(
        None,
        description="checkpoint to take the first weights from, folder or URI; or files of weights that other code has "
        "written, a generator's or {generator: FILE, critic: FILE}",
    )
    ema: Ema | None = Field(None, description="average the generator's weights: {} or {decay: 0.999}")
    logging: Logging = Logging()
    profile: Profile = Profile()
    checkpoints: Checkpoints = Checkpoints()
    replicas: int = Field(1, ge=1, description="processes that train; batch statistics stay global")
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()
    evaluation: Evaluation = Evaluation()
    promotion: Policy = Policy()
    retraining: Retraining = Retraining()
    storage: str = Field("runs", description="folder or URI that runs are written to")
    name: str | None = Field(None, pattern=r"^\w[\w.-]*$", description="the run's name [default: RECIPE-TIME]")
    resume: str | None = Field(None, description="name of a stopped run to continue")

    @field_validator("compile", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @property
    def image(self) -> ImageShape:
        transform = self.data.transform
        return ImageShape(transform.channels, transform.height, transform.width)

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == "float64" else torch.float32

    @property
    def cells(self) -> int | None:
        """How many runs of rows replicas hold whole; None if they need not."""
        return self.batch.cells if self.exact else None

    @property
    def tracking_uri(self) -> str:
        """Of MLflow: the server that was named, else a database beside everything else that runs write.

        Raises:
            ConfigError: nothing is named, and a database cannot lie where runs write.
        """
        root = storage_root(self.storage)
        if self.tracking.uri is None and "://" in root:
            raise ConfigError(f"tracking.uri: is needed when storage is remote ({self.storage})")
        return self.tracking.uri or f"sqlite:///{root}/mlflow.db"

    @property
    def model_name(self) -> str:
        return self.tracking.model or f"selfgan-{self.recipe}"

    def resuming(self, name: str) -> str:
        """The command that goes on with the run of that name."""
        usual = type(self).model_fields["storage"].default
        return f"selfgan train resume={name}" + ("" if self.storage == usual else f" storage={self.storage}")

    def order_seed(self, data_set: int) -> int:
        """Seeds the order of one of the run's data sets; of equal size and seed they would always be shown together."""
        return self.seed + data_set * 1_000_003

    @property
    def recipe_hash(self) -> str:
        """Names what determines the result: the whole configuration, less where and how long it runs.

        Nor is it in what the run starts from, which has a tag of its own: a recipe that is retrained stays the same.
        """
        chosen = {key: value for key, value in dump(self).items() if key not in EXECUTION_KEYS | {"start_from"}}
        chosen["data"] = {"transform": chosen["data"]["transform"]}
        del chosen["batch"]["rows_at_once"]
        if not self.exact:  # Runs of before there was a choice have the same name.
            del chosen["exact"], chosen["batch"]["cells"]
        balance = chosen["scheme"].get("balance")
        if isinstance(balance, dict) and balance.get("applied_to") == "loss":
            del balance["applied_to"]
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


EXECUTION_KEYS = frozenset(
    [
        "recipe",
        "recipe_file",
        "compile",
        "steps",
        "loader",
        "logging",
        "profile",
        "checkpoints",
        "replicas",
        "cluster",
        "tracking",
        "evaluation",
        "promotion",
        "retraining",
        "storage",
        "name",
        "resume",
    ]
)


def in_submitted_job() -> bool:
    """Whether this is the entry point of a job that was submitted to a Ray cluster."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def storage_root(storage: str) -> str:
    """The folder or URI of everything runs write, absolute.

    A submitted job works in a copy of the project that Ray throws away; relative paths start at home there.
    """
    storage = storage.removeprefix("file://")
    if "://" in storage:
        return storage.rstrip("/")
    return str((Path.home() if in_submitted_job() else Path.cwd()) / Path(storage).expanduser())
