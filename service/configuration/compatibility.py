"""Whether the parts of a run can be combined: what cannot is refused before anything starts, with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipelines.components import ConfigError, name_of
from pipelines.storage.location import check_uri
from service.configuration.config import FirstWeights, Run
from service.losses.objectives import Objective, Scores
from service.models.layer_kinds import layers_that_look_at_the_batch, layers_that_make_weights
from service.tasks import Samples

_TRACKING_SCHEMES = ("", "http", "https", "file", "sqlite", "postgresql", "mysql", "mssql", "databricks")


#: Critics of fewer weights, and on images of fewer numbers, are tried out in memory, in milliseconds.
_SMALL, _SMALL_IMAGE = 1 << 24, 3 * 100 * 100


#: Those of modules beside `torch.nn.init`, such as spectral norm's first vectors.
_DRAWS = (Tensor.normal_, Tensor.uniform_)


class _WithoutFirstWeights(TorchFunctionMode):
    """Within, nothing is drawn: on the meta device the first draw imports torch's compiler, for seconds.

    So does the first layer that is called there; see `_outputs`.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _DRAWS or getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def check(run: Run) -> None:
    """Raise ConfigError, with the reason, if the parts cannot be combined."""
    try:
        run.task.check(run.network, run.image)
        run.critics.check(run.network, run.image)
        run.scheme.check(run.objective, run.batch.size, run.batch.shards)
        for term in run.terms:
            term.check()
        for regularizer in run.regularizers:
            regularizer.check(run.objective)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    try:
        # Every mistake in a network's options shows, and nothing is allocated.
        with _WithoutFirstWeights(), torch.device("meta"):
            generator = run.task.generator(run.network, run.image)
            critics = run.critics.critics(run.task, run.network, run.image)
        outputs_of = _outputs(run, critics)
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise ConfigError(f"network: cannot be built with these options: {str(error).splitlines()[0]}") from error
    try:
        for name, count in outputs_of.items():
            run.scheme.check_critic(critics[name], count)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    outputs = min(outputs_of.values()) - run.task.heads
    if outputs < run.objective.least_outputs:
        raise ConfigError(
            f"objective {name_of(run.objective)} compares vectors of outputs, and the critic of network "
            f"{name_of(run.network)} has {outputs}; choose one that judges patches, or set network.patches=true"
        )
    _check_losses(run.objective, outputs)
    if len(run.data.domains) + 1 != run.task.data_sets:
        raise ConfigError(
            f"data.domains: task {name_of(run.task)} takes {run.task.data_sets - 1} more data sets than data.source, "
            f"not {len(run.data.domains)}"
        )
    if run.task.needs_pairs and run.data.shards is None and len(run.data.source.columns) < 2:
        raise ConfigError(f"task {name_of(run.task)}: data.source {name_of(run.data.source)} has no pairs; take pairs")
    if not run.task.needs_pairs and any(term.needs_pairs for term in run.terms):
        raise ConfigError(f"terms: task {name_of(run.task)} has no true images to compare with; take task=paired")
    if run.network.last_stage(run.image) and (run.start_from or run.retraining.start == "champion"):
        raise ConfigError("start_from: networks that grow begin at their first stage; start from scratch")
    _check_places(run)
    _check_rows_at_once(run, generator, critics)
    if run.batch.size % run.batch.shards:
        raise ConfigError(f"batch.shards: {run.batch.shards} does not divide batch.size, {run.batch.size}")
    if run.batch.size // run.batch.shards < 2 and not run.task.translates:
        raise ConfigError(f"batch.size: {run.batch.size} leaves fewer than two samples for each of the statistics")
    if run.evaluation.stop is not None and not run.evaluation.during_training:
        raise ConfigError("evaluation.stop: checkpoints are not measured; set evaluation.during_training=true")
    if run.profile.steps and run.profile.after + run.profile.steps > run.steps:
        raise ConfigError(
            f"profile.steps: {run.profile.steps} steps after the first {run.profile.after} are more than "
            f"steps={run.steps}; set profile.after or profile.steps lower"
        )
    if run.compile:
        _check_compiled(run)
    if run.exact and run.replicas > run.batch.cells:
        raise ConfigError(
            f"replicas: {run.replicas} exact replicas cannot share {run.batch.cells} cells; set batch.cells higher "
            "(it decides the bits, so keep it), or exact=false"
        )
    if run.replicas > run.batch.size:
        raise ConfigError(
            f"replicas: {run.replicas} replicas cannot share a batch of {run.batch.size}; "
            f"set replicas={run.batch.size} or lower, or a larger batch.size"
        )
    if run.cluster.min_replicas and run.cluster.min_replicas > run.replicas:
        raise ConfigError(f"cluster.min_replicas: {run.cluster.min_replicas} is more than replicas={run.replicas}")


def _check_losses(objective: Objective, outputs: int) -> None:
    """Raise ConfigError if a loss is not one value for each shard: of two shards, so that the two can be told apart."""
    shards, samples = 2, 4
    fake, real = (
        Scores(
            torch.linspace(-1, sign, shards * samples * outputs).view(shards, samples, outputs),
            torch.ones(shards, samples, 1),
            lambda name: torch.full((shards, samples, 1), 0.5),
        )
        for sign in (1, 2)
    )
    on_real, on_fake = objective.critic(fake, real)
    losses = {"generator": objective.generator(fake, real), "critic, real samples": on_real, "critic, fakes": on_fake}
    for name, loss in losses.items():
        if loss.shape != (shards,):
            raise ConfigError(
                f"objective {name_of(objective)}: the loss ({name}) of {shards} batch shards has the shape "
                f"{tuple(loss.shape)}; return one value for each shard, (shards,), as batch_mean does"
            )


def check_shares(run: Run, lanes: int) -> None:
    """Raise ConfigError if a step is compiled, and replicas' shares of batches from so many lanes change."""
    if run.compile and run.replicas > 1 and run.batch.size % lanes:
        raise ConfigError(
            f"compile: {run.replicas} replicas get other shares of {run.batch.size} samples at every step, and code is "
            f"made for one; make batch.size a multiple of {lanes}, the data set's lanes, or set compile=false"
        )


def _check_compiled(run: Run) -> None:
    """Raise ConfigError if a step cannot be compiled as a whole."""
    if run.network.last_stage(run.image):
        raise ConfigError("compile: networks that grow are other networks at every step; set compile=false")
    if max(run.scheme.batches(step) for step in (0, run.steps)) > 1:  # Each draws numbers of its own.
        raise ConfigError("compile: a step with several batches for the critic takes code for each; set compile=false")
    if run.exact:
        raise ConfigError("compile: a compiler chooses the order of sums; set compile=false or exact=false")
    if run.batch.rows_at_once:
        raise ConfigError(
            "compile: micro-batches compute activations twice; set compile=false or batch.rows_at_once=null"
        )


def _check_rows_at_once(run: Run, generator: nn.Module, critics: nn.Module) -> None:
    """Raise ConfigError if networks must see all rows at once."""
    at_once = run.batch.rows_at_once
    if at_once is None or at_once >= run.batch.size:
        return
    penalties = [name_of(regularizer) for regularizer in run.regularizers if regularizer.penalises]
    if run.exact:
        _refuse_layers("exact replicas", {"generator": generator, "critic": critics})
    elif penalties:
        _refuse_layers(f"the {penalties[0]} regularizer", {"critic": critics})
    if not run.exact:
        return
    with _WithoutFirstWeights(), torch.device("cpu"):
        generator.to_empty(device="cpu")
        for regularizer in run.regularizers:
            regularizer.prepare_generator(generator)
    for name, network in (("generator", generator), ("critic", critics)):
        made = layers_that_make_weights(network)
        if made:
            raise ConfigError(
                f"batch.rows_at_once: exact replicas cannot sum the gradients of weights that the {name}'s "
                f"{', '.join(made)} compute at every call; set it to null, or exact=false"
            )


def _refuse_layers(why: str, networks: Mapping[str, nn.Module]) -> None:
    for name, network in networks.items():
        if looking := layers_that_look_at_the_batch(network):
            raise ConfigError(
                f"batch.rows_at_once: with {why}, the {name}'s {', '.join(looking)} must see all samples at once; "
                "set it to null"
            )


def _starts(start: str | FirstWeights | None) -> dict[str, str | None]:
    if not isinstance(start, FirstWeights):
        return {"start_from": start}
    return {f"start_from.{part}": file for part, file in start.files.items()}


def _check_places(run: Run) -> None:
    """Raise ConfigError for a URI that nothing answers to, or that carries credentials."""
    places = {
        "storage": run.storage,
        "data.shards": run.data.shards,
        **{f"data.domains.{number}.shards": domain.shards for number, domain in enumerate(run.data.domains)},
        "evaluation.cache": run.evaluation.cache,
        **_starts(run.start_from),
    }
    for key, uri in places.items():
        if uri is not None:
            check_uri(key, uri)
    if run.loader.cache and "://" in run.loader.cache:
        raise ConfigError(f"loader.cache: {run.loader.cache} is no folder on the replicas' hosts; give a path")
    scheme = urlsplit(run.tracking.uri or "").scheme.partition("+")[0]
    if scheme not in _TRACKING_SCHEMES:
        raise ConfigError(
            f"tracking.uri: {run.tracking.uri} is no MLflow server or database; known: http://, https://, and "
            "SQLAlchemy's sqlite://, postgresql://, mysql://, mssql://"
        )


def _outputs(run: Run, critics: nn.ModuleDict) -> dict[str, int]:
    """By critic, how many numbers it gives an image: tried out, in memory if they are small."""
    small = sum(map(torch.Tensor.numel, critics.parameters())) < _SMALL and math.prod(run.image) < _SMALL_IMAGE
    device = "cpu" if small else "meta"
    with _WithoutFirstWeights(), torch.device(device):
        images = torch.empty(2, *run.image)
        labels = torch.zeros((2, run.task.labels) if run.task.several else 2, dtype=torch.int64)
        seen = run.task.seen(Samples(images, labels, images, (images,)))
        if small:  # `to_empty` would ask for the likes of tensors on the meta device, which imports the compiler too.
            critics._apply(lambda values: torch.empty(values.shape, dtype=values.dtype, device=device))
        for regularizer in run.regularizers:
            regularizer.prepare(critics)
    found = {}
    for name, role in run.critics.roles(run.task.games).items():
        view = seen[role.game]
        with torch.no_grad():
            logits: torch.Tensor = critics[name](*(value for value in (view.images, view.given) if value is not None))
        found[name] = logits.shape[1]
    return found
