"""A registered model -> how near its images are to a recipe's data: ``python -m pipelines.evaluate RECIPE MODEL``.

The work is done by tasks on the Ray cluster that is there, else on this machine. What was found is noted in the
registry, under the evaluation's fingerprint, and not measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import ray
from rich.console import Console

from pipelines.evaluation import Features, Protocol, Tasks, Work, evaluate, in_turn, protocol
from pipelines.measured import Measured
from pipelines.ray_tasks import on_devices
from service import cluster, model_cache, registry
from service.components import ConfigError
from service.generator import Generator
from service.recipe import load
from service.tracking import TrackingError

USER_ERROR, FAILURE = 2, 1


def judge(judged: Protocol, model: str, tasks: Tasks[Work, Features] = in_turn) -> Measured:
    """What the registry notes of a model in this evaluation; measured first, if it notes nothing.

    Raises:
        ConfigError: the model is not one for this data.
        NoModelError: there is no such model.
        TrackingError: MLflow fails.
    """
    uri = judged.run.tracking_uri
    name, number = registry.ModelName.of(model).name, registry.version_of(model, uri)
    tag = f"evaluation.{judged.fingerprint}"
    if noted := registry.tags_of(name, number, uri).get(tag):
        return Measured.model_validate_json(noted)
    generator = Generator.read(model_cache.pull(f"models:/{name}/{number}", uri, model_cache.CACHE.expanduser()))
    measured = evaluate(judged, generator, tasks)
    registry.log_figures(name, number, uri, {f"evaluation/{key}": value for key, value in measured.figures.items()})
    tags = {tag: measured.model_dump_json(), "evaluation.fingerprint": measured.fingerprint}
    registry.tag(name, number, uri, tags)
    return measured


def show(measured: Measured, console: Console) -> None:
    """Print the figures."""
    for name, value in measured.figures.items():
        console.print(f"{name:<16}{value:.4g}", highlight=False)
    console.print(f"{'samples':<16}{measured.samples:,}\n{'fingerprint':<16}{measured.fingerprint}", highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.evaluate",
        description="Measures how near a model's images are to a recipe's data, and notes it in the registry.",
        epilog="example: python -m pipelines.evaluate digits models:/selfgan-digits/1 evaluation.samples=1000",
    )
    parser.add_argument("recipe", help="its data, transform and evaluation count")
    parser.add_argument("model", help="models:/NAME@ALIAS, models:/NAME/VERSION, or models:/NAME: the latest")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for the user's mistakes, 1 where the server fails."""
    from service.progress import console

    chosen = _parser().parse_args(arguments)
    try:
        run = load(chosen.recipe, chosen.overrides)
        registry.version_of(chosen.model, run.tracking_uri)  # Before anything takes time.
        cluster.connect(run.cluster)
        show(judge(protocol(run, console()), chosen.model, on_devices), console())
    except (ConfigError, registry.NoModelError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except (TrackingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILURE
    finally:
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
