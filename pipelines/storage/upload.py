"""Copies a file of this machine to a bucket or a folder: ``python -m pipelines.storage.upload FILE TARGET``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.components import ConfigError
from pipelines.exit_codes import ExitCode, exit_with
from pipelines.storage.location import Location


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns an `ExitCode`. The target is there whole, or as it was: whoever restores it need not ask which."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.storage.upload", description="Copies one file.")
    parser.add_argument("file", type=Path, help="is read into memory")
    parser.add_argument("target", help="path or URI that the file is to have; what is there is replaced")
    chosen = parser.parse_args(arguments)
    try:
        content = chosen.file.read_bytes()
        target = Location.of(chosen.target)
        target.write(content)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.FAILED
    print(f"{target}: {len(content):,} bytes")
    return ExitCode.DONE


if __name__ == "__main__":
    exit_with(main)
