"""A generator as a folder that the Hugging Face Hub shows: weights, configuration, and a card with its front matter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from pipelines.components import ConfigError, name_of
from service.artifacts.exports import ExportError
from service.generator import CONFIG, WEIGHTS, Generator

_LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"
_PICTURE = "samples.png"


def write(generator: Generator, picture: Path, folder: Path) -> None:
    """Write ``README.md``, ``config.json``, ``model.safetensors`` and, if there is one, a grid of samples.

    `Generator.read` reads the folder.

    Args:
        picture: the grid, which need not be there.
        folder: is made.

    Raises:
        ConfigError: there is something in the folder.
        ExportError: what was written makes other images.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--out: {folder} is there already; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(dict(generator.described), indent=2) + "\n")
    save_file({name: value.contiguous() for name, value in generator.module.state_dict().items()}, folder / WEIGHTS,
              metadata={"format": "pt"})  # fmt: skip
    if picture.exists():
        shutil.copyfile(picture, folder / _PICTURE)
    (folder / "README.md").write_text(_card(generator, picture.exists()))
    _check(generator, Generator.read(folder))


def _check(model: Generator, read: Generator) -> None:
    weights, written = model.module.state_dict(), read.module.state_dict()
    if weights.keys() != written.keys() or not all(torch.equal(weights[name], written[name]) for name in weights):
        raise ExportError("the folder that was written holds other weights than the model")


def _card(generator: Generator, has_picture: bool) -> str:
    described, image, task = generator.described, generator.image, generator.task
    network = name_of(generator.network)
    front = {
        "library_name": "selfgan",
        "pipeline_tag": "image-to-image" if task.translates else "unconditional-image-generation",
        "tags": ["gan", "image-generation", "pytorch", "selfgan", network],
    }
    name = described.get("recipe", network)
    shape = f"{image.width}x{image.height}, {'grey' if image.channels == 1 else 'RGB'}"
    call = "generator.translate(images)  # uint8, (N, C, H, W)" if task.translates else "generator.make(64, seed=7)"
    about = {key: value for key, value in described.items() if isinstance(value, str)}
    lines = [
        "---",
        f"# license: choose one that the training images allow, {_LICENSES}",
        yaml.safe_dump(front, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {name}",
        "",
        f"A GAN's generator, trained by SelfGAN: network `{network}`, task `{name_of(task)}`, images of {shape}.",
        "",
        *([f"![Samples]({_PICTURE})", ""] if has_picture else []),
        "```python",
        "from service import open_generator  # of the package selfgan",
        "",
        'generator = open_generator("path/to/this/folder")  # huggingface_hub.snapshot_download(...) returns one',
        f"images = {call}",
        "```",
        "",
        "`images` are uint8, (N, C, H, W). `generator.module` is the plain torch module.",
        "",
        *(f"- {key}: `{value}`" for key, value in about.items()),
        *([f"- classes, from label 0 on: {', '.join(generator.classes)}"] if generator.classes else []),
        "",
        "It shows what its training images show, with their biases; it is no source of facts about anybody.",
        "",
    ]
    return "\n".join(lines)
