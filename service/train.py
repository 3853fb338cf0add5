"""Trains a recipe: ``python service/train.py [RECIPE] [KEY=VALUE ...] [--dry-run | --help]``.

It resolves the configuration and hands the run to Ray Train: on the running Ray cluster if there is one (so
it does as the entry point of ``ray job submit``), else on a local one.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

_BEGAN = time.time()
# Run as a script, this file's folder is the first place that modules are looked for, instead of the project's.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

USER_ERROR, FAILURE, INTERRUPTED = 2, 1, 130


class _Help(argparse.Action):
    """Prints the help; importing what it lists takes seconds that no other call should pay twice."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from service.cli.help import text

        print(text(parser.usage or ""))
        parser.exit()


def _parse(arguments: Sequence[str] | None) -> tuple[str | None, list[str], bool]:
    usage = "python service/train.py [RECIPE] [KEY=VALUE ...] [--dry-run] [--help]"
    parser = argparse.ArgumentParser(usage=usage, add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("-h", "--help", nargs=0, action=_Help)
    parsed = parser.parse_args(arguments)
    words = parsed.words
    recipe = words.pop(0) if words and "=" not in words[0] else None
    return recipe, words, parsed.dry_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for the user's mistakes, 1 for a run that failed."""
    recipe, overrides, dry_run = _parse(arguments)
    from pipelines.components import ConfigError
    from service.configuration.recipe import load
    from service.configuration.tree import dump

    try:
        run = load(recipe, overrides)
        if dry_run:
            import yaml

            print(yaml.safe_dump(dump(run), sort_keys=False), end="")
            return 0
        from pipelines.evaluate import during_training
        from service.runs.launch import launch
        from service.runs.preparation import RunError
        from service.tracking.progress import console

        try:
            launch(run, console(), _BEGAN, during_training.config)
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            return FAILURE
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as error:
        print(f"interrupted; {error}" if str(error) else "interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    sys.exit(main())
