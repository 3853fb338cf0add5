"""Differentiable augmentation, against its definition pixel by pixel, in float64."""

import pytest
import torch
from torch import Tensor

from service.configuration.recipe import load
from service.losses.regularizers.diff_augment import DiffAugment
from service.models.differentiable_augmentation import DRAWS, DifferentiableAugmentation

SHAPE = (3, 3, 12, 9)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def drawn(count: int = SHAPE[0]) -> Tensor:
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(1))


def test_colours_are_shifted_and_spread_about_their_means(images: Tensor) -> None:
    found = DifferentiableAugmentation(True, 0, 0).changed(images, drawn())
    for image, (brightness, saturation, contrast, *_), of_image in zip(images, drawn().double(), found, strict=True):
        expected = image + brightness - 0.5
        for row in range(SHAPE[2]):
            for column in range(SHAPE[3]):
                pixel = expected[:, row, column]
                expected[:, row, column] = sum(pixel) / 3 + (pixel - sum(pixel) / 3) * 2 * saturation
        middle = expected.sum() / expected.numel()
        torch.testing.assert_close(of_image, middle + (expected - middle) * (contrast + 0.5), rtol=1e-12, atol=1e-12)


def test_images_move_by_up_to_an_eighth_each_way_and_zeros_come_in(images: Tensor) -> None:
    augmentation = DifferentiableAugmentation(False, 1 / 8, 0)
    seen = set()
    for down in torch.linspace(0, 0.999, 12):
        values = torch.full((SHAPE[0], DRAWS), 0.5)
        values[:, 3] = down
        moved = augmentation.changed(images, values)
        (by,) = [by for by in range(-12, 13) if torch.equal(moved, shifted(images, by))]
        seen.add(by)
    assert seen == {-2, -1, 0, 1, 2}  # An eighth of 12 pixels, rounded.


def shifted(images: Tensor, down: int) -> Tensor:
    """Row y of the result is row y + down of the images."""
    result = torch.zeros_like(images)
    for row in range(SHAPE[2]):
        if 0 <= row + down < SHAPE[2]:
            result[:, :, row] = images[:, :, row + down]
    return result


def test_a_square_of_half_the_side_becomes_grey(images: Tensor) -> None:
    augmentation = DifferentiableAugmentation(False, 0, 0.5)
    counts = set()
    for place in torch.linspace(0, 0.999, 30):
        values = torch.full((SHAPE[0], DRAWS), 0.5)
        values[:, 5] = place
        holes = augmentation.changed(images, values) == 0
        assert torch.equal(holes.all(1), holes.any(1))  # All channels alike.
        rows, columns = holes[0, 0].any(1).nonzero().flatten(), holes[0, 0].any(0).nonzero().flatten()
        assert len(rows) == rows[-1] - rows[0] + 1 and len(columns) == 5  # A half of 9 pixels, rounded.
        counts.add(len(rows))
    assert max(counts) == 6 and min(counts) == 3  # Half of it lies outside at most.


def test_gradients_come_back_through_it(images: Tensor) -> None:
    augmentation = DifferentiableAugmentation(True, 1 / 8, 1 / 2)
    leaf = images[:1].requires_grad_()
    torch.autograd.gradcheck(lambda values: augmentation.changed(values, drawn(1)), [leaf])


def test_what_goes_together_is_changed_alike_and_nothing_once_trained(images: Tensor) -> None:
    augmentation = DifferentiableAugmentation(True, 1 / 8, 1 / 2)
    one, other = augmentation(images, images)
    assert torch.equal(one, other) and not torch.equal(one, images)
    (same,) = augmentation.eval()(images)
    assert torch.equal(same, images)


def test_a_recipe_chooses_what_is_changed() -> None:
    run = load("digits", ["regularizers=[{name: diff_augment, colour: false, cutout: 0}]"])
    (found,) = run.regularizers
    assert isinstance(found, DiffAugment) and (found.colour, found.translation, found.cutout) == (False, 1 / 8, 0)
