"""Adaptive augmentation, against 3x3 and 4x4 matrices applied pixel by pixel, in float64; and what p follows."""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pipelines.components import ConfigError
from service.configuration.recipe import load
from service.losses.regularizers.ada import Ada
from service.models.adaptive_augmentation import AdaptiveAugmentation

Array = npt.NDArray[np.float64]
HEIGHT, WIDTH = 7, 10
#: In the order of their coins.
CHANGES = (
    "scale", "stretch", "contrast", "saturation", "turn", "turn again", "hue", "flip", "quarters", "luma flip", "move",
    "drift", "brightness", "cutout",
)  # fmt: skip
UNIFORM = ("turn", "turn again", "hue", "flip", "quarters", "move x", "move y", "luma flip", "hole y", "hole x")
NORMAL = ("scale", "stretch", "contrast", "saturation", "drift x", "drift y", "brightness")
#: Values of draws for every change.
DRAWN = {
    "scale": 0.7, "stretch": -1.1, "contrast": 0.4, "saturation": -0.9, "turn": 0.2, "turn again": 0.85, "hue": 0.35,
    "flip": 0.3, "quarters": 0.4, "luma flip": 0.1, "move x": 0.95, "move y": 0.2, "drift x": 0.6, "drift y": -0.3,
    "brightness": 1.2, "hole y": 0.4, "hole x": 0.7,
}  # fmt: skip
GEOMETRIC = ("flip", "quarters", "move", "scale", "turn", "stretch", "turn again", "drift")
COLOURS = ("brightness", "contrast", "luma flip", "hue", "saturation")


@pytest.fixture
def images() -> Tensor:
    shape = (2, 3, HEIGHT, WIDTH)
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def augmentation(probability: float = 1.0, **multipliers: float) -> AdaptiveAugmentation:
    chosen = dict.fromkeys(("blit", "geometry", "colour", "cutout"), 1.0) | multipliers
    return AdaptiveAugmentation(**chosen, probability=probability).double()


def draws(*made: str, count: int = 2, drawn: Mapping[str, float] = DRAWN) -> tuple[Tensor, Tensor]:
    """Uniform and normal ones, for changes that are made, and others that are not."""
    coins = torch.tensor([0.0 if change in made else 1.0 for change in CHANGES], dtype=torch.float64)
    uniform, normal = (
        torch.tensor([drawn[name] for name in names], dtype=torch.float64) for names in (UNIFORM, NORMAL)
    )
    return torch.cat([coins, uniform]).expand(count, -1), normal.expand(count, -1)


def turn(angle: float) -> Array:
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])


def move(x: float, y: float) -> Array:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])


def forward(change: str) -> Array:
    """Where a change puts what lies at (x, y, 1), from the centre."""
    size = 2 ** (0.2 * DRAWN["scale"]), 2 ** (0.2 * DRAWN["stretch"])
    whole = (round((2 * DRAWN[f"move {axis}"] - 1) / 8 * length) for axis, length in (("x", WIDTH), ("y", HEIGHT)))
    return {
        "flip": np.diag([-1.0, 1, 1]),
        "quarters": np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]),  # 0.4 of 4 is one.
        "move": move(*(-by for by in whole)),
        "scale": np.diag([size[0], size[0], 1]),
        "turn": turn(-(2 * DRAWN["turn"] - 1) * math.pi),
        "stretch": np.diag([size[1], 1 / size[1], 1]),
        "turn again": turn(-(2 * DRAWN["turn again"] - 1) * math.pi),
        "drift": move(-DRAWN["drift x"] / 8 * WIDTH, -DRAWN["drift y"] / 8 * HEIGHT),
    }[change]


def mirrored(place: int, size: int) -> int:
    while not 0 <= place < size:
        place = -place if place < 0 else 2 * (size - 1) - place
    return place


def sampled(image: Array, x: float, y: float) -> Array:
    """(C,), between four pixels."""
    left, top = math.floor(x), math.floor(y)
    found = np.zeros(len(image))
    for row in (top, top + 1):
        for column in (left, left + 1):
            share = (1 - abs(x - column)) * (1 - abs(y - row))
            found += share * image[:, mirrored(row, HEIGHT), mirrored(column, WIDTH)]
    return found


@pytest.mark.parametrize("made", [*((change,) for change in GEOMETRIC), GEOMETRIC], ids=", ".join)
def test_pixels_come_from_where_the_changes_have_taken_them(made: tuple[str, ...], images: Tensor) -> None:
    matrix = np.eye(3)
    for change in made:
        matrix = forward(change) @ matrix
    back = np.linalg.inv(matrix)
    found = augmentation().changed(images, *draws(*made)).numpy()
    for image, of_image in zip(images.numpy(), found, strict=True):
        for row in range(HEIGHT):
            for column in range(WIDTH):
                x, y, _ = back @ [column - (WIDTH - 1) / 2, row - (HEIGHT - 1) / 2, 1]
                expected = sampled(image, x + (WIDTH - 1) / 2, y + (HEIGHT - 1) / 2)
                np.testing.assert_allclose(of_image[:, row, column], expected, rtol=1e-6, atol=1e-6)


def test_whole_moves_alone_pick_pixels_and_mix_none(images: Tensor) -> None:
    square = images[..., :HEIGHT]
    flipped, turned = (augmentation().changed(square, *draws(change)) for change in ("flip", "quarters"))
    assert torch.equal(flipped, square.flip(3))
    assert any(torch.equal(turned, square.rot90(turns, (2, 3))) for turns in (1, 3))
    moved = augmentation().changed(square, *draws("move"))
    assert torch.equal(moved[:, :, 1:, :-1], square[:, :, :-1, 1:])  # An eighth of 7 pixels, and less: one each way.
    assert torch.equal(
        moved[:, :, 0], square[:, :, 1].roll(-1, 2).index_copy(2, torch.tensor([6]), square[:, :, 1, 5:6])
    )


def colour(change: str) -> Array:
    """4x4, for (red, green, blue, 1), each change by its definition."""
    axis = np.array([1.0, 1, 1]) / math.sqrt(3)
    grey, matrix = np.outer(axis, axis), np.eye(4)
    if change == "brightness":
        matrix[:3, 3] = 0.2 * DRAWN["brightness"]
    elif change == "contrast":
        matrix[:3, :3] *= 2 ** (0.5 * DRAWN["contrast"])
    elif change == "luma flip":
        matrix[:3, :3] -= 2 * grey
    elif change == "hue":
        angle = (2 * DRAWN["hue"] - 1) * math.pi
        cross = np.cross(axis, np.eye(3)).T  # What it makes of each unit vector, in columns.
        matrix[:3, :3] = grey + math.cos(angle) * (np.eye(3) - grey) + math.sin(angle) * cross
    else:
        matrix[:3, :3] = grey + (np.eye(3) - grey) * 2 ** DRAWN["saturation"]
    return matrix


@pytest.mark.parametrize("made", [*((change,) for change in COLOURS), COLOURS], ids=", ".join)
def test_colours_are_multiplied_by_matrices(made: tuple[str, ...], images: Tensor) -> None:
    matrix = np.eye(4)
    for change in made:
        matrix = colour(change) @ matrix
    found = augmentation().changed(images, *draws(*made))
    expected = np.einsum("dc,nchw->ndhw", matrix[:3, :3], images.numpy()) + matrix[:3, 3][:, None, None]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)
    grey = images[:, :1]
    as_grey = augmentation().changed(grey, *draws(*made))
    whole = augmentation().changed(grey.expand(-1, 3, -1, -1), *draws(*made))
    torch.testing.assert_close(as_grey, whole[:, :1], rtol=1e-12, atol=1e-12)
    assert torch.equal(augmentation().changed(images[:, :2], *draws(*made)), images[:, :2])


def test_a_hole_is_half_as_long_as_the_image_is(images: Tensor) -> None:
    hole = augmentation().changed(images, *draws("cutout")) == 0
    assert hole.sum((2, 3)).tolist() == [[4 * 5] * 3] * 2  # A half of 7 pixels, rounded, and of 10.


def test_nothing_is_changed_without_a_coin_or_a_probability(images: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    uniform, normal = torch.rand(2, 24, generator=generator), torch.randn(2, 7, generator=generator)
    assert torch.equal(augmentation().changed(images, *draws()), images)
    assert torch.equal(augmentation(0.0).changed(images, uniform, normal), images)
    none = dict.fromkeys(("blit", "geometry", "colour", "cutout"), 0.0)
    assert torch.equal(augmentation(1.0, **none).changed(images, uniform, normal), images)
    assert not torch.equal(augmentation().changed(images, uniform, normal), images)


def test_each_change_is_made_with_its_probability() -> None:
    chances = augmentation(0.5, colour=0.5, cutout=0.0)._chances().tolist()
    either = 1 - math.sqrt(0.5)
    assert chances == pytest.approx(
        [0.5, 0.5, 0.25, 0.25, either, either, 0.25, 0.5, 0.5, 0.25, 0.5, 0.5, 0.25, 0.0], abs=1e-12
    )


def test_gradients_come_back_through_it_and_gradients_of_gradients(images: Tensor) -> None:
    small = images[:1, :, :3, :4].clone().requires_grad_()
    made = draws(*CHANGES, count=1)

    def squared(values: Tensor) -> Tensor:
        changed: Tensor = augmentation().changed(values, *made)
        return changed.square()

    torch.autograd.gradcheck(squared, [small])
    torch.autograd.gradgradcheck(squared, [small])


def test_a_row_is_changed_alike_wherever_it_lies() -> None:
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(13, 3, 8, 8, generator=generator)
    uniform, normal = torch.rand(13, 24, generator=generator), torch.randn(13, 7, generator=generator)
    layer = augmentation(0.7).float()
    whole = layer.changed(images, uniform, normal)
    for row in range(13):
        own = slice(row, row + 1)
        assert torch.equal(layer.changed(images[own], uniform[own], normal[own]), whole[own])


def test_what_goes_together_is_changed_alike_and_nothing_once_trained(images: Tensor) -> None:
    layer = augmentation()
    one, other = layer(images, images)
    assert torch.equal(one, other) and not torch.equal(one, images)
    (same,) = layer.eval()(images)
    assert torch.equal(same, images)


def test_the_probability_follows_the_signs_of_real_logits() -> None:
    layer = augmentation(0.0)
    found = []
    # Batches of 10, and in each how many are taken for real: means of 1, 0.8, 0.6 and 0.2, and then of 1.
    for real in (10, 10, 10, 10, 9, 9, 9, 9, 8, 8, 8, 8, 6, 6, 6, 6, *[10] * 40):
        logits = torch.cat([torch.full((real,), 0.3), torch.full((10 - real,), -2.0)]).double()
        layer.see(logits.sign()[None, :, None])
        layer.adapt(target=0.6, every=4, horizon=200)
        found.append(round(layer.probability.item(), 9))
    assert found[:16] == [0, 0, 0, 0.2, 0.2, 0.2, 0.2, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.2]
    assert found[16:] == [0.2] * 3 + [0.4] * 4 + [0.6] * 4 + [0.8] * 4 + [1.0] * 25  # And no further.
    for _ in range(32):
        layer.see(torch.full((2, 5, 3), -1.0))  # Two shards, three patches.
        layer.adapt(target=0.6, every=4, horizon=200)
    assert layer.probability.item() == 0


@pytest.mark.parametrize("objective", ["wgan", "relativistic", "softmax"])
def test_objectives_whose_logits_have_no_sign_are_refused(objective: str) -> None:
    with pytest.raises(ConfigError, match=f"logits of objective {objective} do not say whether .* set target to null"):
        load("digits", ["regularizers=ada", f"objective={objective}", "scheme=alternating"])


def test_verdicts_are_signs_about_the_middle() -> None:
    logits = torch.tensor([[[-1.0], [0.2], [0.5], [0.9]]])
    expected = {"bce": [-1, 1, 1, 1], "hinge": [-1, 1, 1, 1], "lsgan": [-1, -1, 0, 1], "bce_swapped": [-1, 1, 1, 1]}
    for name, signs in expected.items():
        verdicts = load("digits", [f"objective={name}", "scheme=alternating"]).objective.verdicts(logits)
        assert verdicts is not None and verdicts.flatten().tolist() == signs, name


def test_a_recipe_chooses_what_is_changed() -> None:
    (found,) = load("digits", ["regularizers=[{name: ada, colour: 0, images: 100000}]"]).regularizers
    assert isinstance(found, Ada) and (found.colour, found.images, found.target, found.every) == (0, 100_000, 0.6, 4)
