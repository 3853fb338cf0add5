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

from pipelines.components import ConfigError
from pipelines.data.ray_tasks import on_devices
from pipelines.evaluate.evaluation import protocol
from pipelines.evaluate.registered import judge
from pipelines.exit_codes import ExitCode, exit_with
from pipelines.quality.figures import Figures
from service.artifacts import registry
from service.configuration.overrides import refuse_flags
from service.configuration.recipe import load
from service.runs.driver import cluster
from service.runs.driver.failures import RunError
from service.tracking.tracker import TrackingError


def show(measured: Figures, console: Console) -> None:
    """Print the figures."""
    for name, value in measured.figures.items():
        console.print(f"{name:<16}{value:.4g}", highlight=False)
    console.print(f"{'samples':<16}{measured.samples:,}\n{'fingerprint':<16}{measured.fingerprint}", highlight=False)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measures how near a model's images are to a recipe's data, and notes it in the registry.",
        epilog=f"example: {prog} digits models:/selfgan-digits/1 evaluation.samples=1000",
    )
    parser.add_argument("recipe", help="name or file; its data, transform and evaluation count")
    parser.add_argument("model", help="models:/NAME@ALIAS, models:/NAME/VERSION, or models:/NAME: the latest")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pipelines.evaluate") -> int:
    """Returns the exit code: 2 for the user's mistakes, 1 where the server fails."""
    from service.tracking.progress import console

    given = sys.argv[1:] if arguments is None else arguments
    chosen, unknown = _parser(prog).parse_known_intermixed_args(given)
    try:
        refuse_flags(unknown, given)
        run = load(chosen.recipe, chosen.overrides)
        registry.version_of(chosen.model, run.tracking_uri)  # Before anything takes time.
        cluster.connect(run)
        show(judge(protocol(run, console()), chosen.model, on_devices), console())
    except (ConfigError, registry.NoModelError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except (RunError, TrackingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.FAILED
    finally:
        ray.shutdown()
    return ExitCode.DONE


if __name__ == "__main__":
    exit_with(main)
