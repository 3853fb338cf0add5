"""``selfgan export --model URI --format FORMAT --out PATH``: a trained generator for other software."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.exit_codes import ExitCode
from service.artifacts.exports import ExportError
from service.generate import add_model_options, outcome, writing

_HUB = "huggingface"
_ENDINGS = {"torch_export": ".pt2", "onnx": ".onnx"}
_EXAMPLES = """\
examples:
  selfgan export --model models:/MODEL/latest --format onnx --out model.onnx
  selfgan export --model models:/MODEL/3 --format torch_export --out model.pt2
  selfgan export --model models:/MODEL@champion --format huggingface --out hub/
"""


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Writes a model for other software, and compares what is written with it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    parser.add_argument("--format", choices=[*_ENDINGS, _HUB], required=True, help="what to write")
    parser.add_argument("--out", type=Path, required=True, help="a file; for huggingface, a new folder")
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "selfgan export") -> int:
    """Returns the exit code: 2 for the user's mistakes, 1 where the server fails or the export is not the model."""
    chosen = _parser(prog).parse_args(arguments)
    ending = _ENDINGS.get(chosen.format)
    if ending and chosen.out.suffix != ending:
        print(f"error: --out: {chosen.out} should end in {ending}, as {chosen.format} files do", file=sys.stderr)
        return ExitCode.USER_ERROR
    try:
        return outcome(chosen, lambda folder: _exported(folder, chosen.format, chosen.out))
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.FAILED


def _exported(folder: Path, form: str, out: Path) -> str:
    """Write it, and say in words what was written."""
    from service.artifacts.exports import hub, programs
    from service.generator import Generator

    if form != _HUB:
        programs.check_packages(form)
    generator = Generator.read(folder)
    with writing(out):
        if form == _HUB:
            hub.write(generator, folder / "samples.png", out)
            return f"{', '.join(sorted(file.name for file in out.iterdir()))} in {out}; its weights are the model's"
        out.parent.mkdir(parents=True, exist_ok=True)
        worst = programs.write(generator, form, out)
    given = ", ".join(f"{name} {_shape(values.shape)}" for name, values in programs.inputs_of(generator, 1).items())
    made = f"images {_shape((0, *generator.image))}"
    return f"{out}: {given} -> {made}, in [-1, 1]; differs from the model by {worst:.1e} at most"


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(['N', *map(str, shape[1:])])})"
