"""``selfgan recipes [NAME]``: what can be trained by name, or what a recipe says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipelines.components import ConfigError
from pipelines.exit_codes import ExitCode
from service.configuration.recipe_texts import DEFAULT_RECIPE, by_data, recipes, text_of
from service.interface.columns import entry


def main(arguments: Sequence[str] | None = None, prog: str = "selfgan recipes") -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Lists the recipes by the data that they train on, or shows what one says.",
        epilog="`selfgan train NAME --help` lists all options of a recipe. A recipe of your own is a YAML file: "
        "`base: NAME`, and what it changes.",
    )
    parser.add_argument("name", nargs="?", help="a recipe's name, or a file of your own [default: list them]")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.name:
            print(text_of(chosen.name), end="")
        else:
            texts = recipes()
            for data, names in by_data().items():
                print(f"on {data}:", *(entry(name, texts[name]) for name in names), "", sep="\n")
            print(f"selfgan train NAME trains one; without a name, {DEFAULT_RECIPE}.")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    return ExitCode.DONE
