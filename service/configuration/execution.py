"""What a run's configuration says of where and how it runs, what it reports and how it is judged.

None of it changes the weights that come of the run.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ByteSize, Field, SerializeAsAny, field_validator

from pipelines.components import Options, resolve
from pipelines.quality.early_stop import EarlyStop
from pipelines.quality.features import FeatureNetwork


class Loader(Options):
    """How the replicas read. None of it changes what they read."""

    memory_bytes: ByteSize = Field(ByteSize(1 << 30), description="memory per replica for open blocks and batches")
    cache: str | None = Field(None, description="folder on every host that caches blocks from object storage")
    cache_bytes: ByteSize = Field(ByteSize(50 << 30), description="size limit of a host's cache")
    decode_threads: int | None = Field(
        None, ge=1, description="threads that decode encoded images [default: the replica's CPUs]"
    )


class Logging(Options):
    """What a run reports, and when, in steps."""

    every: int = Field(50, ge=1, description="steps between logged losses and weights")
    samples_every: int = Field(1000, ge=1, description="steps between sample grids")
    samples: int = Field(64, ge=1, description="images in a sample grid")


class Profile(Options):
    """A trace of some steps, by torch's profiler, of the first replica."""

    steps: int = Field(0, ge=0, description="steps to trace [default: 0, none]")
    after: int = Field(10, ge=1, description="steps to do before, as the first ones are slower")


class Checkpoints(Options):
    """What a run keeps."""

    every: int = Field(1000, ge=1, description="steps between checkpoints")
    minutes: float | None = Field(None, gt=0, description="also make one where the last is so many minutes old")
    keep: int = Field(3, ge=1, description="how many recent checkpoints to keep, besides the best")
    score_images: int = Field(512, ge=16, description="images for scoring a checkpoint")


class Cluster(Options):
    """Where a run runs. None of it changes the algorithm."""

    address: str = Field("auto", description="address of the Ray cluster; auto: the running one, else a local one")
    min_replicas: int | None = Field(
        None, ge=1, description="the fewest replicas to begin or go on with [default: replicas]"
    )
    accelerator: Literal["auto", "cpu", "cuda", "xla"] = Field(
        "auto", description="auto: xla if the cluster has TPUs, else cuda if it has GPUs, else cpu"
    )
    tpu: str | None = Field(None, description="TPU type, such as v5litepod or v6e [default: the cluster's]")
    topology: str | None = Field(
        None, pattern=r"^\d+(x\d+)+$", description="topology of the TPU slice, such as 4x4 [default: the cluster's]"
    )
    emulated_chips: int = Field(
        0, ge=0, description="with xla: number of chips per replica to emulate on CPUs, without a TPU"
    )
    cpus_per_replica: float | None = Field(
        None, gt=0, description="CPUs per replica [default: an even share of the cluster]"
    )
    patience_seconds: float = Field(
        300, gt=0, description="how long steps may stand still until replicas count as hung and are started again"
    )
    max_failures: int = Field(3, ge=-1, description="how often to restart a failed run from its last checkpoint")


class Tracking(Options):
    """MLflow."""

    uri: str | None = Field(None, description="tracking server [default: SQLite under storage]")
    experiment: str = Field("selfgan", min_length=1, description="name of the experiment")
    model: str | None = Field(None, description="name of the registered model [default: selfgan-RECIPE]")
    patience_seconds: float = Field(
        120, ge=0, description="how long to wait for an unreachable server at the end of a run"
    )
    system_metrics: bool = Field(True, description="log each node's CPU, memory, disk, network and GPUs every 10 s")

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
        description="feature network to compare images in [default: classifier if there are labels, else inception]",
    )
    samples: int = Field(
        10_000,
        ge=20,
        description="images to compare on each side, at most as many as the data set has; so many are generated, "
        "however many it has, where real is all",
    )
    real: Literal["sample", "all"] = Field(
        "sample",
        description="FID is to a sample of as many real images, or to all, however many are generated; KID and others "
        "are to the sample",
    )
    seed: int = Field(0, description="seed for choosing and generating the compared images")
    during_training: bool = Field(False, description="also measure every checkpoint, while training continues")
    stop: EarlyStop | None = Field(
        None, description="end the run when a figure is no better for some evaluations: {figure: kid, patience: 3}"
    )
    cache: str | None = Field(
        None, description="where to cache classifiers and the features of real images [default: with the data set]"
    )


class Retraining(Options):
    """What python -m pipelines.retrain does."""

    start: Literal["scratch", "champion"] = Field("scratch", description="what a retrained model starts from")
    patience_seconds: float = Field(
        180, gt=0, description="silence after which another retraining counts as dead and is taken over"
    )
