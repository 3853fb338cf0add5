"""What a run's configuration says of where and how it runs, what it reports and how it is judged.

None of it changes the weights that come of the run.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ByteSize, Field, SerializeAsAny, field_validator

from pipelines.components import Options, resolve
from pipelines.quality.features import FeatureNetwork


class Loader(Options):
    """How the replicas read. None of it changes what they read."""

    memory_bytes: ByteSize = Field(ByteSize(1 << 30), description="of open blocks and batches, for each replica")
    cache: str | None = Field(None, description="folder on every host that keeps what comes from object storage")
    cache_bytes: ByteSize = Field(ByteSize(50 << 30), description="most that a host's cache holds")
    decode_threads: int | None = Field(None, ge=1, description="for encoded pictures [default: the replica's CPUs]")


class Logging(Options):
    """What a run reports, and when, in steps."""

    every: int = Field(50, ge=1, description="steps between logged losses and weights")
    samples_every: int = Field(1000, ge=1, description="steps between sample grids")
    samples: int = Field(64, ge=1, description="images in a sample grid")


class Checkpoints(Options):
    """What a run keeps."""

    every: int = Field(1000, ge=1, description="steps between checkpoints")
    keep: int = Field(3, ge=1, description="how many of the last checkpoints are kept, besides the best")
    score_images: int = Field(512, ge=16, description="images that the score of a checkpoint is measured on")


class Cluster(Options):
    """Where a run runs. None of it changes the result."""

    address: str = Field("auto", description="a Ray cluster; auto: the running one, else a local one")
    min_replicas: int | None = Field(None, ge=1, description="let Ray resize the run down to this many replicas")
    accelerator: Literal["auto", "cpu", "cuda", "xla"] = Field(
        "auto", description="auto: xla if the cluster has TPUs, else cuda if it has GPUs"
    )
    tpu: str | None = Field(None, description="kind of TPU, as v5litepod or v6e [default: the cluster's]")
    topology: str | None = Field(
        None, pattern=r"^\d+(x\d+)+$", description="of the TPU slice, as 4x4 [default: that of the cluster's slices]"
    )
    emulated_chips: int = Field(0, ge=0, description="with xla: emulate so many chips a replica on CPUs, without a TPU")
    cpus_per_replica: float | None = Field(None, gt=0, description="[default: an even share of the cluster]")
    max_failures: int = Field(3, ge=-1, description="how often a run is restarted from its last checkpoint")


class Tracking(Options):
    """MLflow."""

    uri: str | None = Field(None, description="tracking server [default: SQLite under storage]")
    experiment: str = Field("selfgan", min_length=1, description="experiment's name")
    model: str | None = Field(None, description="registered model's name [default: selfgan-RECIPE]")
    patience_seconds: float = Field(120, ge=0, description="how long the end of a run waits for a lost server")

    @field_validator("model")
    @classmethod
    def _no_separators(cls, name: str | None) -> str | None:
        if name is not None and (not name or set("/:") & set(name)):
            raise ValueError("input should hold no '/' and no ':', as MLflow's names")
        return name


class Evaluation(Options):
    """How a model is compared with the data."""

    features: Annotated[
        SerializeAsAny[FeatureNetwork] | None,
        BeforeValidator(
            lambda value: (
                None if value is None else resolve("pipelines.quality.features", value, FeatureNetwork, "inception")
            )
        ),
    ] = Field(
        None,
        description="what images are compared in [default: classifier if there are labels, else inception]",
    )
    samples: int = Field(10_000, ge=20, description="images on each side, at most as many as there are")
    seed: int = Field(0, description="of what is compared")
    during_training: bool = Field(False, description="measure every checkpoint too, beside the training")
    cache: str | None = Field(
        None, description="where features of real images and classifiers are kept [default: with the data set]"
    )


class Retraining(Options):
    """What python -m pipelines.retrain does."""

    start: Literal["scratch", "champion"] = Field("scratch", description="what a retrained model starts from")
    patience_seconds: float = Field(180, gt=0, description="silence after which one that was killed is taken over from")
