"""``selfgan COMMAND``: hands the rest of the command line to the command's own module."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from pipelines.components import nearest
from pipelines.exit_codes import ExitCode, exit_with

_HELP = """\
selfgan trains GANs on any number of machines, by the same algorithm on all.

  selfgan train                  train the default recipe: digits, 3 minutes
  selfgan train digits steps=500 replicas=2
  selfgan generate --model models:/selfgan-digits/latest --out grid.png

usage: selfgan COMMAND [ARGUMENT ...]      selfgan COMMAND --help

  train      train a recipe, one of the project's or a file of your own
  generate   make images with a trained model
  export     write a trained model as ONNX, torch.export or for Hugging Face
  recipes    list the recipes, or show one
  parts      list networks, losses and all other parts, with their options

  ingest     write pictures as a data set: Arrow shards, local or in a bucket
  inspect    show what is in a data set
  verify     check that every byte of a data set is as it was written

  evaluate   measure a model: FID, KID, precision, recall, coverage
  promote    make a model the champion, if it is better
  retrain    train, measure and promote when there are new data; for cron
"""
#: The module of each command, and how it is called there if it shares one with others.
_MODULES = {
    "train": "service.train",
    "generate": "service.generate",
    "export": "service.interface.export",
    "recipes": "service.interface.recipes",
    "parts": "service.interface.parts",
    "ingest": "pipelines.__main__",
    "inspect": "pipelines.__main__",
    "verify": "pipelines.__main__",
    "evaluate": "pipelines.evaluate.__main__",
    "promote": "pipelines.promote.__main__",
    "retrain": "pipelines.retrain.__main__",
}
_SHARED = "pipelines.__main__"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the command's exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return ExitCode.DONE if words else ExitCode.USER_ERROR
    if words[0] == "--version":
        print(f"selfgan {version('selfgan')}")
        return ExitCode.DONE
    command, *rest = words
    if command not in _MODULES:
        print(f"error: {command}: no such command; {nearest(command, _MODULES)}", file=sys.stderr)
        return ExitCode.USER_ERROR
    module = _MODULES[command]
    shared = module == _SHARED
    found: int = importlib.import_module(module).main(
        words if shared else rest, prog="selfgan" if shared else f"selfgan {command}"
    )
    return found


def run() -> NoReturn:
    """The entry point of the installed command."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    exit_with(main)
