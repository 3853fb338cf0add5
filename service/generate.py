"""Makes images with a registered model: ``selfgan generate --model models:/NAME/latest --out grid.png``.

The same model, seed and options give the same images anywhere. Models are fetched once and kept, so this works
while the tracking server is away.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

# Run as a script, this file's folder is the first place that modules are looked for, instead of the project's.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pipelines.exit_codes import ExitCode, exit_with

if TYPE_CHECKING:
    from torch import Tensor

    from service.generator import Generator


_EXAMPLES = """\
examples:
  selfgan generate --model models:/selfgan-digits/latest --out grid.png
  selfgan generate --model models:/selfgan-digits/3 --n 1000 --out images/
  selfgan generate --model models:/MODEL@champion --seed 7 --out grid.png
  selfgan generate --model models:/MODEL/1 --n 10 --interpolate --out way.png
  selfgan generate --model models:/MODEL/1 --n 16 --out walk.gif
  selfgan generate --model models:/MODEL/1 --label 3 --out threes.png
  selfgan generate --model models:/MODEL/1 --label cat --out cats.png
  selfgan generate --model models:/MODEL/1 --label Smiling,Young --out faces.png
  selfgan generate --model models:/MODEL/1 --truncation 0.7 --out usual.png
  selfgan generate --model models:/MODEL/1 --images photos/ --out translated/
"""


#: Of an animation: enough to look smooth, in five seconds.
_FRAMES, _FRAME_SECONDS = 64, 0.08


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Makes images with a model of the registry.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="a .png for a grid, a .gif for a grid of images that change into others, or a folder for single files",
    )
    parser.add_argument("--n", type=int, default=64, help="how many images [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of the images [%(default)s]")
    parser.add_argument("--label", help="class or attributes of all images, by name or number [default: each in turn]")
    parser.add_argument(
        "--truncation", type=float, help="draw latents beyond it again: more usual images, more alike [default: none]"
    )
    parser.add_argument(
        "--interpolate", action="store_true", help="n images on the way from one of the seed's to its next"
    )
    parser.add_argument("--images", type=Path, help="picture or folder of pictures to translate")
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What a command needs to find a model."""
    parser.add_argument(
        "--model", required=True, help="models:/NAME/latest, /VERSION or @ALIAS, or a folder that export has written"
    )
    parser.add_argument(
        "--tracking",
        default=os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{Path('runs/mlflow.db').resolve()}"),
        help="MLflow's server or database [MLFLOW_TRACKING_URI, else runs/mlflow.db]",
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("~/.cache/selfgan/models"), help="folder of fetched models [%(default)s]"
    )


def made(generator: Generator, arguments: argparse.Namespace) -> Tensor:
    """The images that were asked for, (N, C, H, W) uint8.

    Raises:
        GeneratorError: the model cannot make them.
        ConfigError: there are no pictures to translate.
    """
    if arguments.images is not None:
        return generator.translate(_pictures(generator, arguments.images))
    if arguments.interpolate:
        return generator.between(arguments.n, arguments.seed, arguments.label, arguments.truncation)
    return generator.make(arguments.n, arguments.seed, arguments.label, arguments.truncation)


def _pictures(generator: Generator, path: Path) -> Tensor:
    import numpy as np
    import torch

    from pipelines.components import ConfigError
    from pipelines.data.images import BadPictureError, Transform

    transform = Transform.model_validate(generator.described["transform"])  # To the training images' size and colours.
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    try:
        pictures = [transform(file.read_bytes()) for file in files]
    except (OSError, BadPictureError) as error:
        raise ConfigError(f"--images: {path} holds what cannot be read as a picture: {error}") from error
    if not pictures:
        raise ConfigError(f"--images: {path} holds no pictures")
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def walk(generator: Generator, arguments: argparse.Namespace) -> str:
    """Write a grid of images that change; returns what was written, in words."""
    from service.tracking.sample_grids import animation, grid

    walks = generator.walks(arguments.n, _FRAMES, arguments.seed, arguments.label, arguments.truncation)
    frames = [grid(images) for images in walks]
    with writing(arguments.out):
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        animation(frames, arguments.out, _FRAME_SECONDS)
    return f"{arguments.n} images that change, in {arguments.out}"


def write(images: Tensor, out: Path) -> str:
    """A grid, or single files; returns what was written, in words."""
    from service.tracking.sample_grids import grid, single

    if out.suffix.lower() == ".png":
        out.parent.mkdir(parents=True, exist_ok=True)
        grid(images).save(out)
        return f"{len(images)} images in {out}"
    out.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        single(image).save(out / f"{number:06}.png")
    return f"{len(images)} files in {out}"


def _check(chosen: argparse.Namespace) -> None:
    """Raise ConfigError for what cannot be meant."""
    from pipelines.components import ConfigError

    if chosen.n < 1:
        raise ConfigError(f"--n: {chosen.n} images cannot be made; ask for one or more")
    if chosen.images is not None and (chosen.interpolate or (chosen.label, chosen.truncation) != (None, None)):
        raise ConfigError(
            "--images: pictures are translated; --interpolate, --label and --truncation are for images of noise"
        )
    suffix = chosen.out.suffix.lower()
    if suffix and suffix not in (".png", ".gif") and not chosen.out.is_dir():
        raise ConfigError(f"--out: {chosen.out} is neither a .png, nor a .gif, nor a folder")
    if suffix == ".gif" and (chosen.interpolate or chosen.images is not None):
        raise ConfigError("--out: a .gif walks from image to image by itself; leave --interpolate and --images out")


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Within, storage that refuses is the user's mistake."""
    from pipelines.components import ConfigError

    try:
        yield
    except OSError as error:
        raise ConfigError(f"--out: {out} cannot be written: {error}") from error


def outcome(chosen: argparse.Namespace, work: Callable[[Path], str]) -> int:
    """What a command does with the folder of the model that was asked for; prints what it returns.

    Returns the exit code: 2 for the user's mistakes, 1 where the server fails.
    """
    from pipelines.components import ConfigError
    from service.artifacts.model_cache import folder_of
    from service.artifacts.registry import NoModelError
    from service.generator import GeneratorError
    from service.tracking.tracker import TrackingError

    try:
        print(work(folder_of(chosen.model, chosen.tracking, chosen.cache.expanduser())))
    except (ConfigError, GeneratorError, NoModelError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except (TrackingError, OSError) as error:
        print(f"error: {chosen.tracking}: {error}", file=sys.stderr)
        return ExitCode.FAILED
    return ExitCode.DONE


def main(arguments: Sequence[str] | None = None, prog: str = "python service/generate.py") -> int:
    """Returns the exit code: 2 for the user's mistakes, 1 where the server fails."""
    chosen = _parser(prog).parse_args(arguments)
    from pipelines.components import ConfigError
    from service.generator import Generator

    def work(folder: Path) -> str:
        generator = Generator.read(folder)
        if chosen.out.suffix.lower() == ".gif":
            return walk(generator, chosen)
        images = made(generator, chosen)
        with writing(chosen.out):
            return write(images, chosen.out)

    try:
        _check(chosen)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    return outcome(chosen, work)


if __name__ == "__main__":
    exit_with(main)
