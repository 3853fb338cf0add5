"""Makes a model the champion if it is better: ``python -m pipelines.promote RECIPE MODEL [KEY=VALUE ...]``.

Candidate and champion are measured alike, on the data as they are now; what was measured before is not measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import ray
from rich.console import Console

from pipelines.components import ConfigError
from pipelines.data.ray_tasks import on_devices
from pipelines.evaluate.protocol import protocol
from pipelines.exit_codes import ExitCode, exit_with
from pipelines.promote.decision import NotComparableError
from pipelines.promote.promotion import by_hand, promote, rollback
from service.artifacts import registry
from service.configuration.config import Run
from service.configuration.overrides import refuse_flags
from service.configuration.recipe import load
from service.runs.driver import cluster
from service.runs.driver.failures import RunError
from service.tracking.tracker import TrackingError


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measures a registered model and the champion, and makes it the champion if it is better.",
        epilog=f"example: {prog} digits models:/selfgan-digits/latest. "
        "Exit codes: 10 promoted, 11 held (not good enough), 12 rejected (not sound), 1 failed, 2 wrongly asked",
    )
    parser.add_argument("recipe", help="name or file; its data, evaluation, promotion and model name count")
    parser.add_argument("model", nargs="?", help="models:/NAME/VERSION, models:/NAME@ALIAS or models:/NAME: the latest")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--by-hand", action="store_true", help="make it the champion without comparing")
    how.add_argument("--rollback", action="store_true", help="set the former champion again; takes no model")
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pipelines.promote") -> int:
    """Returns an `ExitCode`."""
    from service.tracking.progress import console

    given = sys.argv[1:] if arguments is None else arguments
    chosen, unknown = _parser(prog).parse_known_intermixed_args(given)
    words = [*([chosen.model] if chosen.model else []), *chosen.overrides]
    models = [word for word in words if "=" not in word]
    try:
        refuse_flags(unknown, given)
        run = load(chosen.recipe, [word for word in words if "=" in word])
        if len(models) != (0 if chosen.rollback else 1):
            raise ConfigError("--rollback takes no model" if chosen.rollback else "which model? models:/NAME/VERSION")
        if chosen.rollback:
            print(f"champion: version {rollback(run).version} of {run.model_name}")
            return ExitCode.PROMOTED
        version = _version(run, models[0])
        if chosen.by_hand:
            print(f"champion: version {by_hand(run, version).version} of {run.model_name}")
            return ExitCode.PROMOTED
        return _by_figures(run, version, console())
    except (ConfigError, registry.NoModelError, NotComparableError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except (RunError, TrackingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.FAILED


def _version(run: Run, model: str) -> str:
    name = registry.ModelName.of(model).name
    if name != run.model_name:
        raise ConfigError(f"{model}: recipe {run.recipe} promotes {run.model_name}; tracking.model={name} changes that")
    return registry.version_of(model, run.tracking_uri)


def _by_figures(run: Run, version: str, console: Console) -> ExitCode:
    try:
        cluster.connect(run)
        decision, _, _ = promote(protocol(run, console), version, on_devices)
    finally:
        ray.shutdown()
    print(f"{decision.result.name.lower()}: {decision.reason}")
    return decision.result


if __name__ == "__main__":
    exit_with(main)
