"""A registered model -> how near its images are to a recipe's data: ``python -m pipelines.evaluate RECIPE MODEL``.

The work is done by tasks on the Ray cluster that is there, else on this machine. What was found is noted in the
registry, under the evaluation's fingerprint, and not measured again. ``--report`` measures as others do who publish
figures: by clean-fid's protocol, unless options say otherwise.
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
from pipelines.evaluate.registered import judge
from pipelines.exit_codes import ExitCode, exit_with
from pipelines.quality.features.inception import Inception
from pipelines.quality.figures import Figures
from service.artifacts import registry
from service.configuration.config import Run
from service.configuration.overrides import parse, refuse_flags
from service.configuration.recipe import load
from service.configuration.tree import flatten
from service.runs.driver import cluster
from service.runs.driver.failures import RunError
from service.tracking.tracker import TrackingError

#: Of generated ones, what clean-fid and others take.
_REPORTED = 50_000


def show(measured: Figures, console: Console) -> None:
    """Print the figures."""
    lines = {name: f"{value:.4g}" for name, value in measured.figures.items()}
    lines |= {"of": measured.counted, "features": measured.features or "unknown", "fingerprint": measured.fingerprint}
    for name, text in lines.items():
        console.print(f"{name:<{max(map(len, lines)) + 2}}{text}", highlight=False, soft_wrap=True)


def reporting(run: Run, words: Sequence[str]) -> Run:
    """A run whose models are measured as clean-fid does it, but for what words say; another feature network stays."""
    given = dict(flatten(parse(words)))
    asked: dict[str, object] = {}
    if "evaluation.samples" not in given:
        asked["samples"] = _REPORTED
    if "evaluation.real" not in given:
        asked["real"] = "all"
    features = run.evaluation.features or Inception()
    if isinstance(features, Inception) and "evaluation.features.resize" not in given:
        features = features.model_copy(update={"resize": "clean"})
    evaluation = run.evaluation.model_copy(update={**asked, "features": features})
    return run.model_copy(update={"evaluation": evaluation})


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measures how near a model's images are to a recipe's data, and notes it in the registry.",
        epilog=f"example: {prog} digits models:/selfgan-digits/1 evaluation.samples=1000",
    )
    parser.add_argument("recipe", help="name or file; its data, transform and evaluation count")
    parser.add_argument("model", help="models:/NAME@ALIAS, models:/NAME/VERSION, or models:/NAME: the latest")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument(
        "--report",
        action="store_true",
        help="measure as clean-fid does: 50,000 images against all real ones, in Inception's features; what options "
        "say counts more, such as evaluation.features=dinov2",
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pipelines.evaluate") -> int:
    """Returns the exit code: 2 for the user's mistakes, 1 where the server fails."""
    from service.tracking.progress import console

    given = sys.argv[1:] if arguments is None else arguments
    chosen, unknown = _parser(prog).parse_known_intermixed_args(given)
    try:
        refuse_flags(unknown, given)
        run = load(chosen.recipe, chosen.overrides)
        if chosen.report:
            run = reporting(run, chosen.overrides)
        registry.version_of(chosen.model, run.tracking_uri)  # Before anything takes time.
        cluster.connect(run)
        show(judge(protocol(run, console()), chosen.model, on_devices, for_others=chosen.report), console())
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
