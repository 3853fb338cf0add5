"""A model's card: what it is, what made it, how to use it, and a grid of its images."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

from service.configuration.config import Run
from service.configuration.recipe_texts import recipes
from service.generator import Generator
from service.tracking.sample_grids import grid

_IMAGES, _SEED = 64, 0
_PICTURE = "samples.png"


def _without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)


def card(folder: Path, generator: Generator, run: Run, tags: Mapping[str, str], picture: Path | None) -> str:
    """Write ``README.md`` and ``samples.png`` into a generator's folder; returns the text.

    Args:
        picture: a grid for a generator that cannot make one by itself, as it needs images.
    """
    samples = folder / _PICTURE
    if not generator.task.translates:
        grid(generator.make(_IMAGES, _SEED)).save(samples)
    elif picture is not None:
        shutil.copyfile(picture, samples)
    shape = f"{run.image.size}, {'grey' if run.image.channels == 1 else 'RGB'}"
    asked = (
        f"predict(images)  # uint8 (N, {run.image.height}, {run.image.width}, {run.image.channels})"
        if generator.task.translates
        else 'predict({"n": [64], "seed": [7]})'
    )
    lines = [
        f"# {run.model_name}",
        "",
        f"{recipes().get(run.recipe, run.recipe)} Images of {shape}; {tags['step']} steps of {run.batch.size} images.",
        "",
        *([f"![Samples]({_PICTURE})", ""] if samples.exists() else []),
        "```python",
        "import mlflow",
        "",
        f'mlflow.set_tracking_uri("{_without_password(run.tracking_uri)}")',
        f'images = mlflow.pyfunc.load_model("models:/{run.model_name}/latest").{asked}',
        "```",
        "",
        *(f"- {key}: `{value}`" for key, value in tags.items()),
        *([f"- classes, from label 0 on: {', '.join(generator.classes)}"] if generator.classes else []),
        "- weights: safetensors"
        + (", averaged over training (`average`) and as trained (`generator`)" if run.ema else ""),
        "",
        "It shows what its training images show, with their biases; it is no source of facts about anybody.",
        "",
    ]
    text = "\n".join(lines)
    (folder / "README.md").write_text(text)
    return text


def on_page(text: str, name: str, number: str) -> str:
    """A card as the description of a model's version, whose page has no files beside it.

    The page drops pictures that are within the text (``data:``), so this one is asked of the server that shows the
    page, by a path that is relative to it.
    """
    asked = urlencode({"path": f"artifacts/generator/{_PICTURE}", "name": name, "version": number})
    return text.replace(f"]({_PICTURE})", f"](model-versions/get-artifact?{asked})")
