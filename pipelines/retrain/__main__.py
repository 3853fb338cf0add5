"""Trains a recipe anew if its data have grown, and promotes what is better: ``python -m pipelines.retrain RECIPE``.

What a CronJob runs. Every stage leaves a note in storage, so that the same command goes on where it was killed,
registers nothing twice and is never at work twice at once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from pipelines.components import ConfigError, first_line
from pipelines.exit_codes import ExitCode, exit_with
from pipelines.promote.decision import NotComparableError
from pipelines.retrain.retraining import planned, retrain
from pipelines.storage.lease import lease
from pipelines.storage.location import Location, join
from service.artifacts import registry
from service.configuration.config import Run, storage_root
from service.configuration.overrides import refuse_flags
from service.configuration.recipe import load
from service.runs.driver import datasets
from service.runs.driver.failures import RunError
from service.tracking.tracker import TrackingError


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Trains a recipe if its data have a version that it was not trained on; promotes what is better.",
        epilog=f"example: {prog} digits storage=s3://bucket/runs. "
        "Exit codes: 0 nothing new, 10 promoted, 11 held (not good enough), 12 rejected (not sound), 1 failed, "
        "2 wrongly asked. Killed, and started again, it goes on where it was.",
    )
    parser.add_argument("recipe", help="name, or path or URI of a file of your own")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as selfgan train takes them")
    parser.add_argument("--append", action="store_true", help="first add what is new in data.source to data.shards")
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pipelines.retrain") -> int:
    """Returns an `ExitCode`."""
    from service.tracking.progress import console as new_console

    began = time.time()
    given = sys.argv[1:] if arguments is None else arguments
    chosen, unknown = _parser(prog).parse_known_intermixed_args(given)
    console = new_console()
    try:
        refuse_flags(unknown, given)
        run = load(chosen.recipe, chosen.overrides)
        if run.name is not None or run.resume is not None:
            raise ConfigError("name, resume: a retraining names its runs by itself, and resumes them")
        return _guarded(run, chosen.append, console, began)
    except (ConfigError, NotComparableError, registry.NoModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except (RunError, TrackingError, OSError, ValueError) as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        return ExitCode.FAILED
    except KeyboardInterrupt as error:
        print("interrupted; the same command goes on", file=sys.stderr)
        return getattr(error, "code", ExitCode.INTERRUPTED)


def _guarded(run: Run, append: bool, console: Console, began: float) -> ExitCode:
    leases = Location.of(join(storage_root(run.storage), f"retrainings/{run.model_name}/leases"))
    with lease(leases, run.retraining.patience_seconds) as mine:
        if not mine:
            console.print(f"nothing to do: {run.recipe} is being retrained by another process", highlight=False)
            return ExitCode.NOTHING_NEW
        if append:
            datasets.write(run, console, append=True)
        plan = planned(run, console)
        if before := plan.note("verdict"):
            versions = ", ".join(f"version {manifest.version}" for manifest in plan.manifests)
            console.print(
                f"nothing new: {run.recipe} was trained on {versions} of its data; "
                f"{before['model']} was {before['verdict'].lower()}: {before['reason']}",
                highlight=False,
                soft_wrap=True,
            )
            return ExitCode.NOTHING_NEW
        return retrain(plan, console, began)


if __name__ == "__main__":
    exit_with(main)
