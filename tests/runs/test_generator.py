"""A trained generator on its own: the same seed, the same images; classes, ways between, and translations."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from safetensors.torch import load_file

from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service import generate
from service.artifacts.generator_folder import write_generator
from service.configuration.config import Run
from service.configuration.recipe import load
from service.configuration.tree import dump
from service.generator import Generator, GeneratorError, save
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.runs.on_replica.replica import Replica

SIZES = ["data.transform.size=32"]
CLASSES = ["task=conditional", "network.generator_channels=4"]
INFO = ["task=info", "network.generator_channels=4"]
PLAIN = ["network.generator_channels=4"]
UNPAIRED = ["task=unpaired", "network=resnet", "network.channels=4", "network.blocks=1",
            "data.domains=[{source: digits}]", *SIZES]  # fmt: skip
CARRIED = ["task=info_cycle", "network=resnet", "network.channels=4", "network.blocks=1", "task.domains=3", *SIZES]


def run_of(words: list[str]) -> Run:
    return load("digits", [word for word in words if word])


def generator_of(folder: Path, words: list[str], average: bool = False) -> Generator:
    run = run_of(words)
    torch.manual_seed(1)
    weights = {}
    for name in ("generator", "average")[: 1 + average]:
        module = run.task.generator(run.network, run.image).to(run.torch_dtype)
        for parameter in module.parameters():  # Fresh ones are so small that all images are nearly grey.
            torch.nn.init.normal_(parameter, std=0.4)
        weights[name] = module.state_dict()
    described = {name: dump(run)[name] for name in ("network", "task")}
    described["transform"] = dump(run)["data"]["transform"]
    save(folder, {**described, "image": list(run.image)}, weights)
    return Generator.read(folder)


@pytest.mark.parametrize("words", [PLAIN, CLASSES, INFO, [*PLAIN, "dtype=float64"]])
def test_the_same_seed_gives_the_same_images(tmp_path: Path, words: list[str]) -> None:
    generator = generator_of(tmp_path, words)
    images = generator.make(70, seed=3)
    assert images.shape == (70, 1, 16, 16) and images.dtype == torch.uint8
    assert torch.equal(images, generator.make(70, seed=3))
    assert not torch.equal(images, generator.make(70, seed=4))


def test_the_average_is_used_where_there_is_one(tmp_path: Path) -> None:
    plain, averaged = generator_of(tmp_path / "a", PLAIN), generator_of(tmp_path / "b", PLAIN, average=True)
    assert not torch.equal(plain.make(4, 0), averaged.make(4, 0))


def test_weights_that_are_made_at_every_call_are_written_as_they_come_out(digits: Location, tmp_path: Path) -> None:
    run = load("digits", [*PLAIN, "batch.size=8", "ema={}", "regularizers=[{name: spectral_norm, generator: true}]"])
    loader = open_loader(digits, run.data.transform, run.batch.size, run.seed)
    replica = Replica(run, TorchDistributed(torch.device("cpu")), loader)
    for step in range(2):
        replica.step(step)
    write_generator(run, replica.state(2), tmp_path, {})
    generator = Generator.read(tmp_path)
    assert torch.equal(generator.make(8, 3), replica.generate(8, 3))
    plain = run.task.generator(run.network, run.image).state_dict()
    assert all(load_file(tmp_path / f"{name}.safetensors").keys() == plain.keys() for name in ("generator", "average"))
    replica.close()


@pytest.mark.parametrize("words", [CLASSES, INFO])
def test_a_label_is_that_of_every_image(tmp_path: Path, words: list[str]) -> None:
    generator = generator_of(tmp_path, words)
    threes = generator.make(6, 0, label=3)
    assert not torch.equal(threes, generator.make(6, 0, label=4))
    assert len({tuple(image.flatten().tolist()) for image in threes}) == 6  # As many latents as images.
    with pytest.raises(GeneratorError, match="label: 10 is none of this model's, 0 to 9"):
        generator.make(1, 0, label=10)


def named(folder: Path, words: list[str], classes: list[str]) -> Generator:
    """The same generator, of a data set that names its classes."""
    generator_of(folder, words)
    file = folder / "description.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "classes": classes}))
    return Generator.read(folder)


def test_a_class_may_be_called_by_its_name(tmp_path: Path) -> None:
    classes = ["cat", "dog", "10", "2"]
    generator = named(tmp_path / "a", CLASSES, classes)
    assert generator.classes == tuple(classes)
    for label, number in (("dog", 1), ("2", 3), ("10", 2), ("7", 7)):  # Seven has no name, and is none.
        assert torch.equal(generator.make(3, 0, label), generator.make(3, 0, number))
    assert torch.equal(generator.between(3, 0, "dog"), generator.between(3, 0, 1))
    with pytest.raises(GeneratorError, match=r"label: no class is called 'dgo'; did you mean 'dog'\?$"):
        generator.make(1, 0, "dgo")
    with pytest.raises(GeneratorError, match=r"no class is called 'whale'; known: 10, 2, cat, dog$"):
        generator.make(1, 0, "whale")
    with pytest.raises(GeneratorError, match="label: 11 is none of this model's, 0 to 9"):
        generator.make(1, 0, "11")
    before = generator_of(tmp_path / "b", CLASSES)
    assert before.classes == () and torch.equal(before.make(3, 0, "7"), before.make(3, 0, 7))
    with pytest.raises(GeneratorError, match="no class is called 'cat'; this model knows its by number, 0 to 9"):
        before.make(1, 0, "cat")


def test_the_command_knows_classes_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named(tmp_path, CLASSES, ["cat", "dog"])
    for label, grid in (("dog", "a.png"), ("1", "b.png"), ("0", "c.png")):
        assert command(monkeypatch, tmp_path, "--n", "4", "--label", label, "--out", str(tmp_path / grid)) == 0
    dogs, ones, cats = ((tmp_path / grid).read_bytes() for grid in ("a.png", "b.png", "c.png"))
    assert dogs == ones != cats
    assert command(monkeypatch, tmp_path, "--label", "dgo", "--out", str(tmp_path / "d.png")) == 2
    assert capsys.readouterr().err == "error: label: no class is called 'dgo'; did you mean 'dog'?\n"


@pytest.mark.parametrize(("words", "kinds"), [(PLAIN, 1), (CLASSES, 10), (INFO, 10)])
def test_latents_beyond_the_truncation_are_drawn_again(tmp_path: Path, words: list[str], kinds: int) -> None:
    generator = generator_of(tmp_path, words)
    free, bound, fewer = (
        generator._drawn(n, 3, truncation)["latents"] for n, truncation in ((40, None), (40, 0.7), (25, 0.7))
    )
    assert float(bound.abs().max()) <= 0.7 and abs(float(bound.std()) - 0.387) < 0.02  # Of N(0, 1) within 0.7.
    inside = free.abs() <= 0.7
    assert torch.equal(bound[inside], free[inside]) and not torch.equal(bound, free.clamp(-0.7, 0.7))
    assert torch.equal(bound[:25], fewer), "an image does not depend on how many are made"
    assert len(bound.unique(dim=0)) == 40 // kinds
    images = generator.make(12, 3, truncation=0.7)
    assert torch.equal(images[:5], generator.make(5, 3, truncation=0.7))
    assert not torch.equal(images, generator.make(12, 3))
    assert torch.equal(generator.make(3, 3, truncation=100), generator.make(3, 3))
    ends = generator.between(3, 3, truncation=0.7)[[0, -1]].int()
    alike = generator.make(2, 3, None if words is PLAIN else 0, 0.7).int()
    assert (ends - alike).abs().max() <= 1


@pytest.mark.parametrize("truncation", [0.0, -1.0, 0.04, float("nan"), float("inf")])
def test_a_truncation_that_leaves_nothing_to_draw_is_refused(tmp_path: Path, truncation: float) -> None:
    with pytest.raises(GeneratorError, match=r"truncation: \S+ is no bound to draw latents within; give 0\.05 or more"):
        generator_of(tmp_path, PLAIN).make(1, 0, truncation=truncation)


def test_latents_that_are_not_normal_are_not_truncated(tmp_path: Path) -> None:
    uniform = generator_of(tmp_path, [*PLAIN, "task={name: unconditional, latents: uniform}"])
    with pytest.raises(GeneratorError, match=r"truncation: this model was trained without latents of N\(0, 1\)"):
        uniform.make(1, 0, truncation=0.7)


@pytest.mark.parametrize(("words", "label"), [(PLAIN, None), (CLASSES, None), (CLASSES, 5)])
def test_the_way_between_two_images_has_both_ends(tmp_path: Path, words: list[str], label: int | None) -> None:
    generator = generator_of(tmp_path, words)
    way = generator.between(7, 0, label).int()
    ends = generator.make(2, 0, label if words is PLAIN else label or 0).int()
    assert (way[[0, -1]] - ends).abs().max() <= 1
    steps = (way[1:] - way[:-1]).abs().float().mean((1, 2, 3))
    assert steps.max() < (ends[1] - ends[0]).abs().float().mean()  # No jump as large as from end to end.


@pytest.mark.parametrize(("words", "label"), [(PLAIN, None), (CLASSES, None), (CLASSES, 5)])
def test_a_walk_goes_by_the_seeds_images_and_around(tmp_path: Path, words: list[str], label: int | None) -> None:
    generator = generator_of(tmp_path, words)
    frames = torch.stack(list(generator.walks(2, 16, 0, label))).int()
    assert frames.shape[:2] == (16, 2)
    stops = generator.make(4, 0, label if words is PLAIN else label or 0).int()  # The first tile's.
    assert (frames[::4, 0] - stops).abs().max() <= 1
    around = torch.cat([frames, frames[:1]])[:, 0].float()
    steps = (around[1:] - around[:-1]).abs().mean((1, 2, 3))
    assert 0 < steps.max() < (stops - stops.roll(1, 0)).abs().float().mean((1, 2, 3)).max()
    if words is CLASSES and label is None:  # The second tile is of the second class.
        assert (frames[0, 1] - generator.make(5, 0, 1)[4].int()).abs().max() <= 1


def test_a_walk_is_an_animation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator_of(tmp_path, PLAIN)
    assert command(monkeypatch, tmp_path, "--n", "4", "--out", str(tmp_path / "walk.gif")) == 0
    with Image.open(tmp_path / "walk.gif") as picture:
        assert (len(list(ImageSequence.Iterator(picture))), picture.info["loop"]) == (64, 0)


def test_images_are_translated_and_others_refused(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    assert generator_of(tmp_path / "a", UNPAIRED).translate(images).shape == (3, 1, 32, 32)
    carrying = generator_of(tmp_path / "b", CARRIED)
    assert carrying.translate(images).shape == (9, 1, 32, 32)  # Each in all of three domains.
    with pytest.raises(GeneratorError, match=r"takes images of 1x32x32 .* not 1x16x16"):
        carrying.translate(images[:, :, :16, :16])
    with pytest.raises(GeneratorError, match="images of images"):
        carrying.make(1, 0)
    with pytest.raises(GeneratorError, match="images of noise"):
        generator_of(tmp_path / "c", PLAIN).translate(images)


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> int:
    monkeypatch.setattr("service.artifacts.model_cache.pull", lambda *_: folder)
    return generate.main(["--model", "models:/any", "--tracking", "unused", *words])


def test_grids_single_files_and_pictures_of_any_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator_of(tmp_path / "latent", PLAIN)
    assert command(monkeypatch, tmp_path / "latent", "--n", "5", "--out", str(tmp_path / "new" / "grid.png")) == 0
    assert Image.open(tmp_path / "new" / "grid.png").mode == "L"
    assert command(monkeypatch, tmp_path / "latent", "--n", "5", "--out", str(tmp_path / "single")) == 0
    assert [Image.open(file).size for file in sorted((tmp_path / "single").iterdir())] == [(16, 16)] * 5
    generator_of(tmp_path / "carried", UNPAIRED)
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, mode in enumerate(("RGB", "RGBA", "L")):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 64, 4), dtype=np.uint8)
        Image.fromarray(pixels, "RGBA").convert(mode).save(photos / f"{number}.png")
    assert command(monkeypatch, tmp_path / "carried", "--images", str(photos), "--out", str(tmp_path / "made")) == 0
    assert len(list((tmp_path / "made").iterdir())) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--n", "0", "--out", "x.png"], "--n: 0 images"),
        (
            ["--n", "1000000000000", "--out", "x.png"],
            "n: 1,000,000,000,000 images are too many at once; ask for at most",
        ),
        (["--n", "1000000000000", "--interpolate", "--out", "x.png"], "images are too many at once"),
        (["--label", "3", "--out", "x.png"], "trained without classes"),
        (["--truncation", "0", "--out", "x.png"], "truncation: 0.0 is no bound"),
        (["--truncation", "0.7", "--images", "photos", "--out", "x.png"], "--truncation are for images of noise"),
        (["--interpolate", "--out", "x.gif"], "a .gif walks from image to image by itself"),
        (["--out", "x.jpg"], "--out: x.jpg is neither a .png, nor a .gif, nor a folder"),
        (["--images", "nowhere.png", "--out", "x.png"], "--images: nowhere.png"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    generator_of(tmp_path, PLAIN)
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "x.png").exists()
