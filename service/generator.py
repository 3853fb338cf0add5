"""A trained generator on its own: what a registered model holds, and what makes images of it anywhere.

A folder has ``description.json`` (network, task and image shape), ``generator.safetensors`` and, where the run
averaged its weights, ``average.safetensors``, which is then what images are made with. One for the Hugging Face Hub has
``config.json`` and ``model.safetensors`` instead. Nothing is pickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipelines.components import nearest, resolve
from service.models.networks import ImageShape, Network
from service.models.pixels import to_image, to_model
from service.tasks import Task

DESCRIPTION = "description.json"
#: The names of its networks' files.
GENERATOR, AVERAGE = "generator", "average"
#: The description and the weights as the Hub names them.
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_AT_ONCE = 64
#: By how many images a walk passes before it is back at the first.
_STOPS = 4
#: What is made in one go, in pixels: more is hardly meant, and would end in an allocator's error.
_MOST_PIXELS = 1 << 32
#: Latents are drawn until they are no larger: one value in 25 is smaller than this.
_LEAST_TRUNCATION = 0.05


class GeneratorError(ValueError):
    """What a generator is asked for and cannot do; its text is the one line to show."""


def save(folder: Path, described: Mapping[str, Any], weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write a generator to a folder.

    Args:
        described: its network, task and image, and whatever else a reader may want to know.
        weights: tensors of GENERATOR, and of AVERAGE if there is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=2))
    for name, tensors in weights.items():
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()},
                  folder / f"{name}.safetensors")  # fmt: skip


@dataclass(frozen=True)
class Generator:
    """A generator that makes images.

    Attributes:
        image: the shape of what it makes.
        module: in evaluation mode.
    """

    network: Network
    task: Task
    image: ImageShape
    module: nn.Module
    described: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Generator:
        """The one in a folder of either kind. Raises OSError, ValueError or KeyError if there is none."""
        description = folder / CONFIG if (folder / CONFIG).exists() else folder / DESCRIPTION
        described = json.loads(description.read_text())
        network = resolve("service.models.networks", described["network"], Network)
        task = resolve("service.tasks", described["task"], Task)
        image = ImageShape(*described["image"])
        module = task.generator(network, image)
        files = [folder / name for name in (WEIGHTS, f"{AVERAGE}.safetensors", f"{GENERATOR}.safetensors")]
        weights = load_file(next((file for file in files if file.exists()), files[-1]))
        module = module.to(next(value.dtype for value in weights.values() if value.is_floating_point()))
        module.load_state_dict(weights)
        return cls(network, task, image, module.eval(), described)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    def classes(self) -> tuple[str, ...]:
        """What labels stand for, if the data set that it was trained on names its classes; else none."""
        return tuple(self.described.get("classes", ()))

    def make(self, n: int, seed: int, label: int | str | None = None, truncation: float | None = None) -> Tensor:
        """`n` images, (n, C, H, W) uint8, that depend on seed, label and truncation alone.

        Args:
            label: of all of them, as a number, or by the name of its class; where images have several, some of them,
                with commas in between. None takes every one in turn, where there are any.
            truncation: how far from 0 latents may lie; the lower, the more usual images are, and the more alike.

        Raises:
            GeneratorError: it makes images of images, or none of classes, or of no latents that can be truncated.
        """
        return self.images(self._examples(n, seed, label, truncation))

    def between(self, n: int, seed: int, label: int | str | None = None, truncation: float | None = None) -> Tensor:
        """`n` images on the way from one of the seed's to its next, both included; by angle (White 2016)."""
        self._check_count(n)
        first = self._examples(2, seed, label if label is not None or not self.task.chosen else 0, truncation)
        ways = torch.linspace(0, 1, n)
        return self.images({name: _on_the_way(values, ways) for name, values in first.items()})

    def walks(
        self, count: int, frames: int, seed: int, label: int | str | None = None, truncation: float | None = None
    ) -> Iterator[Tensor]:
        """So many frames, (count, C, H, W) uint8 each, of images that change: each goes around, back to the first.

        Each passes by a few of the seed's images, as `between` does. Its class stays: the label's, or one each in turn.
        """
        self._check_count(count * _STOPS * frames)
        chosen = self.task.chosen
        drawn = self._examples(count * _STOPS, seed, 0 if chosen and label is None else label, truncation)
        stops = {name: values.unflatten(0, (count, _STOPS)) for name, values in drawn.items()}
        kept = {}
        if chosen:
            classes = stops.pop(chosen)[:, 0]
            in_turn = torch.eye(classes.shape[1])[torch.arange(count) % classes.shape[1]]
            kept[chosen] = in_turn if label is None else classes
        for frame in range(frames):
            stop = frame * _STOPS // frames
            ends, way = [stop, (stop + 1) % _STOPS], torch.tensor([frame * _STOPS / frames - stop])
            now = {
                name: torch.cat([_on_the_way(of_one[ends], way) for of_one in values]) for name, values in stops.items()
            }
            yield self.images(now | kept)

    def translate(self, images: Tensor) -> Tensor:
        """Images made of images, (N, C, H, W) uint8 both; where a generator knows several domains, of each in all.

        Raises:
            GeneratorError: it makes images of noise, or of other ones.
        """
        if not self.task.translates:
            raise GeneratorError("this model makes images of noise: give it n and a seed")
        if not len(images):
            raise GeneratorError("there are no images to translate")
        if images.shape[1:] != tuple(self.image):
            wanted, found = ("x".join(map(str, shape)) for shape in (self.image, images.shape[1:]))
            raise GeneratorError(f"this model takes images of {wanted} (channels, height, width), not {found}")
        return self.images(self.task.translation(to_model(images, self.dtype)))

    def images(self, examples: Mapping[str, Tensor]) -> Tensor:
        """Of a task's examples, however many there are."""
        return torch.cat([self._at_once(part) for part in _parts(examples)])

    @torch.inference_mode()
    def _at_once(self, examples: Mapping[str, Tensor]) -> Tensor:
        typed = {name: values.to(self.dtype) for name, values in examples.items()}
        return to_image(self.task.images(self.module, typed))

    def _check_count(self, n: int, latents: int = 1) -> None:
        """Raise GeneratorError for a number that cannot be meant, where each image takes so many latents."""
        if n < 1:
            raise GeneratorError(f"n: {n} images cannot be made; ask for one or more")
        most = max(1, _MOST_PIXELS // math.prod(self.image) // latents)
        if n > most:
            raise GeneratorError(f"n: {n:,} images are too many at once; ask for at most {most:,}, with several seeds")

    def _drawn(self, n: int, seed: int, truncation: float | None) -> dict[str, Tensor]:
        examples = self.task.examples(self.network, seed, n, torch.device("cpu"))
        if truncation is None:
            return examples
        if not _LEAST_TRUNCATION <= truncation < math.inf:
            raise GeneratorError(
                f"truncation: {truncation} is no bound to draw latents within; give {_LEAST_TRUNCATION} or more, "
                "such as 0.7"
            )
        try:
            return self.task.truncated(self.network, seed, examples, truncation)
        except ValueError as error:
            raise GeneratorError(str(error)) from error

    def _examples(self, n: int, seed: int, label: int | str | None, truncation: float | None) -> dict[str, Tensor]:
        if self.task.translates:
            raise GeneratorError("this model makes images of images: give it some")
        self._check_count(n)
        if label is None:
            return self._drawn(n, seed, truncation)
        if not self.task.chosen:
            raise GeneratorError("label: this model was trained without classes")
        kinds = self._drawn(1, seed, None)[self.task.chosen].shape[1]
        numbers = self._numbers_of(label, kinds) if isinstance(label, str) else [label]
        if wrong := [number for number in numbers if not 0 <= number < kinds]:
            raise GeneratorError(f"label: {wrong[0]} is none of this model's, 0 to {kinds - 1}")
        self._check_count(n, kinds)
        # As many latents as images, instead of one for each class in turn.
        examples = {name: values[::kinds] for name, values in self._drawn(n * kinds, seed, truncation).items()}
        chosen = torch.zeros_like(examples[self.task.chosen])
        chosen[:, numbers] = 1
        return {**examples, self.task.chosen: chosen}

    def _numbers_of(self, label: str, kinds: int) -> list[int]:
        """The labels that words stand for: one or, where images have several, any number of them."""
        words = label.split(",") if self.task.several and label not in self.classes else [label]
        return [self._number_of(word.strip(), kinds) for word in words if word or not self.task.several]

    def _number_of(self, label: str, kinds: int) -> int:
        """The label that a word stands for. A class may be called by a number, which then is no other's label."""
        if label in self.classes:
            return self.classes.index(label)
        try:
            return int(label)
        except ValueError as error:
            wanted = (
                nearest(label, self.classes) if self.classes else f"this model knows its by number, 0 to {kinds - 1}"
            )
            raise GeneratorError(f"label: no class is called {label!r}; {wanted}") from error


def _parts(examples: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    count = len(next(iter(examples.values())))
    for start in range(0, count, _AT_ONCE):
        yield {name: values[start : start + _AT_ONCE] for name, values in examples.items()}


def _on_the_way(ends: Tensor, ways: Tensor) -> Tensor:
    """(2, D) -> (N, D): along the great circle, and linearly in length; equal ends stay as they are."""
    first, last = ends.double()
    lengths = first.norm(), last.norm()
    cosine = torch.dot(first, last) / (lengths[0] * lengths[1]).clamp_min(1e-12)
    angle = cosine.clamp(-1, 1).acos()
    ways = ways.double()[:, None]
    if angle < 1e-6:
        straight: Tensor = first + ways * (last - first)
        return straight.to(ends.dtype)
    arc = ((1 - ways) * angle).sin() / angle.sin() * first / lengths[0]
    arc = arc + (ways * angle).sin() / angle.sin() * last / lengths[1]
    found: Tensor = arc * (lengths[0] + ways * (lengths[1] - lengths[0]))
    return found.to(ends.dtype)
