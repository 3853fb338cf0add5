"""Data sets from the command line: ``python -m pipelines ingest|inspect|verify``.

`ingest` takes a recipe and overrides as ``service/train.py`` does, so that what is written is what the recipe
will ask for. It runs on the Ray cluster that is there, else on this machine's cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.exit_codes import ExitCode, exit_with

if TYPE_CHECKING:
    from pipelines.data.shards import Manifest
    from pipelines.storage.location import Location

_SHEET_IMAGES = 64

_INGEST = """\
examples:
  selfgan ingest self-dcgan-bedroom data.source.uri=bedroom_train_lmdb \\
      data.shards=s3://bucket/bedroom
  selfgan ingest digits data.source=folder data.source.uri=photos.zip \\
      data.transform.size=64 data.transform.channels=3 data.shards=photos
  selfgan ingest RECIPE data.shards=FOLDER data.source.uri=NEW --append

Killed and started again, it goes on where it was. `selfgan parts source` lists
the formats and their options.
"""


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Makes and examines data sets.")
    commands = parser.add_subparsers(dest="command", required=True)
    ingest = commands.add_parser(
        "ingest",
        help="write a source as shards",
        epilog=_INGEST,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ingest.add_argument("recipe", help="name or file; its data.* options count")
    ingest.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    ingest.add_argument("--append", action="store_true", help="add to the data set that is there: its next version")
    inspect = commands.add_parser("inspect", help="print a manifest, and draw a contact sheet if asked for")
    verify = commands.add_parser("verify", help="read every shard, and compare it with its checksum")
    for command in (inspect, verify):
        command.add_argument("folder", help="folder or URI of a data set")
        command.add_argument("--version", type=int, help="of the data set [default: the latest]")
    inspect.add_argument("--sheet", type=Path, metavar="FILE.png", help="draw pictures of the data set into this file")
    inspect.add_argument(
        "--size", type=_size, default=64, help="of the sheet's pictures, if they are stored encoded: 64, or [64,32]"
    )
    return parser


def _size(text: str) -> int | tuple[int, int]:
    """As ``data.transform.size`` takes it."""
    import yaml

    from pipelines.data.images import Transform

    try:
        return Transform(size=yaml.safe_load(text)).size
    except (ValueError, yaml.YAMLError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither the side of squares nor [height,width], in pixels"
        ) from error


def _ingest(arguments: argparse.Namespace) -> int:
    from pipelines.data.shards import versions
    from pipelines.storage.location import Location
    from service.configuration.recipe import load
    from service.runs.driver.datasets import folder_of, write
    from service.tracking.progress import console

    run = load(arguments.recipe, arguments.overrides)
    folder = folder_of(run)
    before = versions(Location.of(folder))
    manifest = write(run, console(), arguments.append, folder)
    found = f"{'nothing new, ' if manifest.version in before else ''}version {manifest.version}"
    skipped = sum(manifest.skipped.values())
    more = f", {skipped:,} skipped (see skipped-*.json there)" if skipped else ""
    console().print(
        f"{folder}: {found}, {manifest.rows:,} images in {len(manifest.shards):,} shards, hash {manifest.hash}{more}",
        highlight=False,
        soft_wrap=True,
    )
    return ExitCode.DONE


def _inspect(arguments: argparse.Namespace) -> int:
    from pipelines.data.images import Transform
    from pipelines.data.inspection import table
    from pipelines.loading.loader import open_loader
    from service.tracking.progress import console
    from service.tracking.sample_grids import grid

    folder, manifest = _opened(arguments)
    console().print(table(manifest, folder))
    if arguments.sheet:
        transform = Transform.model_validate(manifest.transform or {"size": arguments.size})
        loader = open_loader(folder, transform, 1, 0, version=manifest.version)
        grid(loader.some(_SHEET_IMAGES).images).save(arguments.sheet)
        console().print(f"contact sheet: {arguments.sheet}", highlight=False, soft_wrap=True)
    return ExitCode.DONE


def _verify(arguments: argparse.Namespace) -> int:
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from pipelines.data.inspection import damages
    from service.tracking.progress import console

    folder, manifest = _opened(arguments)
    columns = DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task("", total=manifest.bytes)
        found = damages(folder, manifest, lambda size: bar.advance(task, size))
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    if found:
        return ExitCode.FAILED
    read = f"{len(manifest.shards):,} shards, {manifest.bytes:,} bytes"
    print(f"{folder}: version {manifest.version}, {read}: all as they were written")
    return ExitCode.DONE


def _opened(arguments: argparse.Namespace) -> tuple[Location, Manifest]:
    from pipelines.components import ConfigError
    from pipelines.data.shards import read_manifest
    from pipelines.storage.location import Location

    folder = Location.of(arguments.folder)
    try:
        return folder, read_manifest(folder, arguments.version)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pipelines") -> int:
    """Returns the exit code: 2 for the user's mistakes, 1 for damage that was found."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = _parser(prog)
    chosen, rest = parser.parse_known_args(given)
    unknown = [word for word in rest if word.startswith("-")]
    if rest and chosen.command != "ingest":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes no positional arguments behind an option that stands among them.
        chosen.overrides += [word for word in rest if word not in unknown]
    import pyarrow as pa

    from pipelines.components import ConfigError
    from service.configuration.overrides import refuse_flags

    try:
        refuse_flags(unknown, given)
        return {"ingest": _ingest, "inspect": _inspect, "verify": _verify}[chosen.command](chosen)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except (OSError, ValueError, pa.ArrowException) as error:  # Damaged shards among them.
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command again goes on", file=sys.stderr)
        return ExitCode.INTERRUPTED


if __name__ == "__main__":
    exit_with(main)
