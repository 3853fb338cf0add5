"""Trains a recipe: ``python service/train.py [RECIPE] [KEY=VALUE ...] [--dry-run | --help]``, or ``selfgan train``.

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
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pipelines.exit_codes import ExitCode, exit_with  # noqa: E402


def main(arguments: Sequence[str] | None = None, prog: str = "python service/train.py") -> int:
    """Returns the exit code: 2 for the user's mistakes, 1 for a run that failed, 130 or 143 for one stopped."""
    parser = argparse.ArgumentParser(prog=prog, add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    given = sys.argv[1:] if arguments is None else arguments
    chosen, unknown = parser.parse_known_args(given)

    from pipelines.components import ConfigError, first_line
    from service.configuration.overrides import refuse_flags
    from service.configuration.own_recipes import is_recipe
    from service.configuration.recipe import load

    words = chosen.words
    recipe = words.pop(0) if words and is_recipe(words[0]) else None
    try:
        refuse_flags(unknown, given)
        run = load(recipe, words)
        if chosen.help:
            from service.interface.help import train_help

            print(train_help(run, prog))
            return ExitCode.DONE
        if chosen.dry_run:
            import yaml

            from service.configuration.tree import dump

            print(yaml.safe_dump(dump(run), sort_keys=False), end="")
            return ExitCode.DONE
        from pipelines.evaluate import during_training
        from service.runs.driver.failures import RunError
        from service.runs.driver.launch import launch
        from service.tracking.progress import console

        try:
            launch(run, console(), _BEGAN, during_training.config)
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            return ExitCode.FAILED
        except OSError as error:  # The storage is away.
            print(f"error: {first_line(error)}", file=sys.stderr)
            return ExitCode.FAILED
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except KeyboardInterrupt as error:
        print(f"interrupted; {error}" if str(error) else "interrupted", file=sys.stderr)
        return getattr(error, "code", ExitCode.INTERRUPTED)
    return ExitCode.DONE


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    exit_with(main)
