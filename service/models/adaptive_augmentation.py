"""Adaptive augmentation (Karras et al. 2020, arXiv:2006.06676; constants of NVlabs/stylegan3, training/augment.py).

An image is turned, moved, scaled and recoloured by a chain of changes, each of which is made with a probability p. As
long as p stays below 0.8 or so, a generator cannot hide in them: what it makes must look like real images itself.

The geometric changes are one affine map, after which pixels are interpolated between the nearest four; the authors
filter at twice the resolution. Beyond the edges, images are mirrored: so is what a turn brings into images that are no
squares, in place of what it turns out of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from service.models.critic_augmentation import CriticAugmentation
from service.models.pixels import pixels_at, with_a_hole

#: Changes in the order of their coins: powers of two, angles, halves and quarters, moves, and the rest.
_SCALE, _STRETCH, _CONTRAST, _SATURATION, _TURN, _TURN_AGAIN, _HUE = range(7)
_FLIP, _QUARTERS, _LUMA_FLIP, _MOVE, _DRIFT, _BRIGHTNESS, _CUTOUT = range(7, 14)
_BLIT, _GEOMETRY = (_FLIP, _QUARTERS, _MOVE), (_SCALE, _STRETCH, _TURN, _TURN_AGAIN, _DRIFT)
_COLOUR = (_CONTRAST, _SATURATION, _HUE, _LUMA_FLIP, _BRIGHTNESS)
_CHANGES = 14
#: Deviations of the exponents.
_POWERS = {_SCALE: 0.2, _STRETCH: 0.2, _CONTRAST: 0.5, _SATURATION: 1.0}
#: As shares of the size, and of half the range of values.
_FARTHEST, _DRIFT_DEVIATION, _BRIGHTNESS_DEVIATION, _HOLE = 0.125, 0.125, 0.2, 0.5
#: Channels that have a brightness, and those that have colours too.
_GREY, _COLOURED = 1, 3


class Affine(NamedTuple):
    """Where a pixel (x, y) of the result lies in the image: at ``(a x + b y + c, d x + e y + f)``, from both centres.

    Each is (N,). What changes the image later changes such a place before.
    """

    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    e: Tensor
    f: Tensor

    def scaled(self, x: Tensor, y: Tensor) -> Affine:
        return Affine(self.a * x, self.b * y, self.c, self.d * x, self.e * y, self.f)

    def turned(self, cosine: Tensor, sine: Tensor) -> Affine:
        return Affine(
            self.a * cosine + self.b * sine,
            self.b * cosine - self.a * sine,
            self.c,
            self.d * cosine + self.e * sine,
            self.e * cosine - self.d * sine,
            self.f,
        )

    def moved(self, x: Tensor, y: Tensor) -> Affine:
        return self._replace(c=self.c + self.a * x + self.b * y, f=self.f + self.d * x + self.e * y)


class AdaptiveAugmentation(CriticAugmentation):
    """Images as a critic sees them while it is trained, and the probability with which it sees them changed.

    Args:
        blit, geometry, colour, cutout: what the probability is multiplied by, for mirroring, quarter turns and moves by
            whole pixels; for scales, turns and moves by less; for brightness, contrast, hue and saturation, of which
            grey images have the first two, and images of any other number of channels none; and for a hole.
        probability: at first.

    Attributes:
        probability: of each change, a 0-dimensional tensor.
        signs, images, batches: since it last changed: the sum of what the critic took real images for, 1 or -1, over so
            many images, of so many batches.
    """

    uniform_draws = _CHANGES + 10
    normal_draws = 7
    probability: Tensor
    signs: Tensor
    images: Tensor
    batches: Tensor
    _multipliers: Tensor
    _powers: Tensor

    def __init__(self, blit: float, geometry: float, colour: float, cutout: float, probability: float = 0.0) -> None:
        super().__init__()
        of_change = dict.fromkeys(_BLIT, blit) | dict.fromkeys(_GEOMETRY, geometry) | dict.fromkeys(_COLOUR, colour)
        of_change[_CUTOUT] = cutout
        self._moves, self._colours, self._cuts = blit > 0 or geometry > 0, colour > 0, cutout > 0
        self.register_buffer("probability", torch.tensor(probability))
        for name in ("signs", "images", "batches"):
            self.register_buffer(name, torch.zeros(()))
        multipliers = torch.tensor([of_change[change] for change in range(_CHANGES)])
        self.register_buffer("_multipliers", multipliers, persistent=False)
        self.register_buffer("_powers", torch.tensor(list(_POWERS.values()), dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def see(self, signs: Tensor) -> None:
        """Take note of what the critic took a batch's real images for: (shards, S, F), between -1 and 1."""
        count = signs.shape[0] * signs.shape[1]
        self.signs += signs.sum() / signs.shape[2]
        self.images += count
        self.batches += 1

    @torch.no_grad()
    def adapt(self, target: float, every: int, horizon: int) -> None:
        """Every so many batches, raise the probability if more than the target is taken for real, or lower it.

        Args:
            target: of the mean sign.
            horizon: images in which the probability goes from 0 to 1.
        """
        due = self.batches >= every
        change = (self.signs - target * self.images).sign() * self.images / horizon
        changed = (self.probability + change).clamp(0, 1)
        self.probability.copy_(torch.where(due, changed, self.probability))
        for count in (self.signs, self.images, self.batches):
            count.masked_fill_(due, 0)

    def changed(self, images: Tensor, uniform: Tensor, normal: Tensor | None = None) -> Tensor:
        """Images, each as its row of the draws says: (N, uniform_draws) in [0, 1), and (N, normal_draws)."""
        assert normal is not None
        coins, values = uniform[:, :_CHANGES], uniform[:, _CHANGES:].to(torch.float64)
        made = coins < self._chances()
        # In float64, as keyed noise is: functions round alike wherever a row lies in a tensor, once cut to float32.
        normal = normal.to(torch.float64)
        powers = torch.exp(math.log(2) * torch.where(made[:, :4], normal[:, :4] * self._powers, 0))  # XLA has no exp2.
        angles = torch.where(made[:, _TURN : _HUE + 1], (2 * values[:, :3] - 1) * math.pi, 0)
        cosines, sines = angles.cos(), angles.sin()
        if self._moves:
            turns = cosines[:, :2], sines[:, :2]
            images = resampled(images, _place(images, made, values[:, 3:7], normal[:, 4:6], powers[:, :2], *turns))
        if self._colours and images.shape[1] in (_GREY, _COLOURED):
            images = _recoloured(images, made, values[:, 7], normal[:, 6], powers[:, 2:], cosines[:, 2], sines[:, 2])
        if self._cuts:
            hole = made[:, _CUTOUT, None, None, None]
            images = torch.where(hole, with_a_hole(images, _HOLE, uniform[:, _CHANGES + 8 :]), images)
        return images

    def _chances(self) -> Tensor:
        """(changes,), of each: of the two turns, that of either is p."""
        chances = self._multipliers * self.probability
        either = 1 - (1 - chances).clamp_min(0).sqrt()
        return torch.cat([chances[:_TURN], either[_TURN:_HUE], chances[_HUE:]])


def _place(
    images: Tensor, made: Tensor, values: Tensor, normal: Tensor, powers: Tensor, cosines: Tensor, sines: Tensor
) -> Affine:
    """Whole moves first: alone, they let every pixel be one of the image's."""
    height, width = images.shape[2:]
    nothing = torch.zeros_like(values[:, 0])
    flips = made[:, _FLIP] & (values[:, 0] < 0.5)
    quarters = torch.where(made[:, _QUARTERS], (values[:, 1] * 4).floor(), 0)
    cosine, sine = ((quarters == k).double() - (quarters == k + 2).double() for k in (0, 1))
    by = torch.where(made[:, _MOVE, None], (2 * values[:, 2:4] - 1) * _FARTHEST, 0)
    drift = torch.where(made[:, _DRIFT, None], normal * _DRIFT_DEVIATION, 0)
    (scale, stretch), one = powers.T, torch.ones_like(nothing)
    return (
        Affine(one, nothing, nothing, nothing, one, nothing)
        .scaled(torch.where(flips, -1.0, one), one)
        .turned(cosine, sine)
        .moved((by[:, 0] * width).round(), (by[:, 1] * height).round())
        .scaled(1 / scale, 1 / scale)
        .turned(cosines[:, 0], sines[:, 0])
        .scaled(1 / stretch, stretch)
        .turned(cosines[:, 1], sines[:, 1])
        .moved(drift[:, 0] * width, drift[:, 1] * height)
    )


def resampled(images: Tensor, place: Affine) -> Tensor:
    """(N, C, H, W), each pixel between the four nearest of its place in the image; edges are mirrors.

    Sums and products of picked pixels: torch's own grid_sample cannot be differentiated twice.
    """
    height, width = images.shape[2:]
    a, b, c, d, e, f = (value.to(images.dtype)[:, None, None] for value in place)
    y, x = (torch.arange(size, device=images.device).to(images.dtype) - (size - 1) / 2 for size in (height, width))
    y, x = y[:, None], x[None]
    left, right, beyond_left = _between(a * x + b * y + c, width)
    top, bottom, beyond_top = _between(d * x + e * y + f, height)
    corners = torch.stack([row * width + column for row in (top, bottom) for column in (left, right)], 1)
    picked = pixels_at(images, corners.flatten(1)).unflatten(2, (4, height, width))
    upper_left, upper_right, lower_left, lower_right = picked.unbind(2)
    across, down = beyond_left[:, None], beyond_top[:, None]
    upper = (1 - across) * upper_left + across * upper_right
    lower = (1 - across) * lower_left + across * lower_right
    found: Tensor = (1 - down) * upper + down * lower
    return found


def _between(centred: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels of a line before and after some places in it, and how far a place is beyond the first of the two."""
    last = size - 1
    place = (centred + last / 2).abs().remainder(max(2 * last, 1))
    place = last - (place - last).abs()
    before = place.floor().clamp(0, last)
    return before.long(), (before + 1).clamp_max(last).long(), place - before


def _recoloured(
    images: Tensor, made: Tensor, coins: Tensor, normal: Tensor, powers: Tensor, cosine: Tensor, sine: Tensor
) -> Tensor:
    """By one matrix for each image: what is grey in a pixel gets another size and sign, and what is not turns too."""
    brightness = torch.where(made[:, _BRIGHTNESS], normal * _BRIGHTNESS_DEVIATION, 0)
    contrast, saturation = powers.T
    grey = torch.where(made[:, _LUMA_FLIP] & (coins < 0.5), -contrast, contrast)
    along, across = contrast * saturation * cosine, contrast * saturation * sine / math.sqrt(3)
    same, after, before = along + (grey - along) / 3, (grey - along) / 3 - across, (grey - along) / 3 + across
    if images.shape[1] == _GREY:
        return images * _of_row(grey, images) + _of_row(grey * brightness, images)
    mixed = images * _of_row(same, images) + images.roll(-1, 1) * _of_row(after, images)
    return mixed + images.roll(1, 1) * _of_row(before, images) + _of_row(grey * brightness, images)


def _of_row(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.dtype)[:, None, None, None]
