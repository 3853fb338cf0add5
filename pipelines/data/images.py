"""Pictures of any kind -> arrays of one shape."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError
from pydantic import Field, field_validator

from pipelines.components import Options
from pipelines.data.formats import Unusable
from pipelines.data.shards import Described, Images
from pipelines.data.shown import CODED_SRGB, as_shown, coded_colours, is_shown_as_it_lies

Resampling = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]
#: A picture of more pixels than this is no photograph but a trap: 30,000 x 30,000 pixels take 3.6 GB.
MOST_PIXELS = 64_000_000
#: A picture with a shorter side has nothing to show.
LEAST_SIDE = 4
_AS_PILLOW = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
#: Pillow reads others too, some by calling other programs.
_FORMATS = ("JPEG", "WEBP", "PNG", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class BadPictureError(ValueError):
    """What cannot be used. `kind` is what it is counted as, the text says more."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Picture(NamedTuple):
    """A decoded picture, and what was done to it to make it so."""

    image: Image.Image
    converted: tuple[str, ...] = ()


class Transform(Options):
    """Centre crop to the images' shape, then resize, as GAN papers prepare LSUN (``box`` is resizing by area).

    Pictures are taken as a viewer shows them (`as_shown`). In data sets of a time before that they stay as they lie.
    """

    size: int | tuple[int, int] = Field(
        64, description="of the images, in pixels: the side of squares, or [height, width]"
    )
    channels: Literal[1, 3] = Field(3, description="3 for colour, 1 for grey")
    resample: Resampling = Field("lanczos", description="how pictures are made that size; box averages areas")
    background: str = Field("#ffffff", description="the colour behind transparent pictures: its name, or #rrggbb")

    @field_validator("size", mode="before")
    @classmethod
    def _is_a_size(cls, value: Any) -> int | tuple[int, int]:
        """Two sides that are alike are one: the same images have one name."""
        sides = tuple(value) if isinstance(value, list | tuple) else (value, value)
        if len(sides) != 2 or not all(type(side) is int and side >= LEAST_SIDE for side in sides):
            raise ValueError(f"give the side of squares, or [height, width], in pixels, {LEAST_SIDE} at least")
        height, width = sides
        return height if height == width else (height, width)

    @field_validator("background")
    @classmethod
    def _is_a_colour(cls, value: str) -> str:
        if len(colour := ImageColor.getrgb(value)) > 3:
            raise ValueError(f"{value!r} is transparent itself")
        return "#" + bytes(colour).hex()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what it makes."""
        return self.height, self.width, self.channels

    @property
    def height(self) -> int:
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        return self.size if isinstance(self.size, int) else self.size[1]

    def made(self, described: Mapping[str, Described]) -> bool:
        """Whether this transform made what is described so; an option that is not, was not known then."""
        return self.model_dump() == {**type(self)().model_dump(), **described}

    def __call__(self, picture: bytes | Images) -> Images:
        """An encoded picture, or an array (H, W) or (H, W, C) -> (height, width, channels).

        Raises:
            BadPictureError: it cannot be used.
        """
        return self.fit(self.open(picture).image)

    def open(self, picture: bytes | Images, shown: bool = True, again: bool = False) -> Picture:
        """`open_picture`, in the colours and on the background of this transform."""
        return open_picture(picture, self.channels, self.background if shown else None, again)

    def again(self, picture: bytes, shown: bool = True) -> Images:
        """As a call does, but faster, for a picture that has been through one before.

        OpenCV's decoders give the same pixels as Pillow's, but take what is cut short for whole.

        Args:
            shown: whether as a viewer shows it, and not as it lies.
        """
        suits = self._suits_opencv(picture, shown)
        pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), _AS_PILLOW) if suits else None
        if pixels is None:
            return self.fit(self.open(picture, shown, again=True).image)
        left, top, right, bottom = self._centre(pixels.shape[1], pixels.shape[0])
        centre: Images = pixels[top:bottom, left:right]
        return centre if centre.shape == self.shape else self._resized(Image.fromarray(centre))

    def _suits_opencv(self, picture: bytes, shown: bool) -> bool:
        """Whether it is an RGB photograph in WebP or JPEG, upright and in sRGB, as almost all are."""
        if self.channels != 3:
            return False
        if picture[:3] == b"\xff\xd8\xff":
            header = Image.open(io.BytesIO(picture))
            return header.mode == "RGB" and (not shown or is_shown_as_it_lies(header))
        return picture[:4] == b"RIFF" and picture[8:16] == b"WEBPVP8 "  # Simple, lossy: without transparency.

    def fit(self, image: Image.Image) -> Images:
        """A decoded picture -> (height, width, channels)."""
        centre = self._centre(*image.size)
        return self._resized(image.crop(centre) if centre != (0, 0, *image.size) else image)

    def _centre(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Of a picture, the largest part in its middle of the images' proportions: left, top, right and bottom."""
        if width * self.height > height * self.width:
            across, down = max(1, round(height * self.width / self.height)), height
        else:
            across, down = width, max(1, round(width * self.height / self.width))
        left, top = (width - across) // 2, (height - down) // 2
        return left, top, left + across, top + down

    def _resized(self, image: Image.Image) -> Images:
        """A picture of the images' proportions -> (height, width, channels)."""
        if image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), Image.Resampling[self.resample.upper()])
        return np.asarray(image).reshape(self.shape)


def open_picture(
    picture: bytes | Images, channels: Literal[1, 3], background: str | None = "#ffffff", again: bool = False
) -> Picture:
    """Decode a picture by its content, whatever its name or its source says it is.

    Args:
        background: what is seen through transparent pictures; None takes the pixels as they lie, not as they are shown.
        again: whether it has been taken before; then it is, whatever its colours.

    Raises:
        BadPictureError: empty, undecodable, truncated, animated, too large, too small, or in colours that are not
            known here. Nothing is decoded before its header has been found harmless.
    """
    if not isinstance(picture, bytes):
        return Picture(Image.fromarray(picture).convert("L" if channels == 1 else "RGB"))
    if isinstance(picture, Unusable):
        raise BadPictureError(picture.kind, "its bytes cannot be had, or are not those that were put there")
    if not picture:
        raise BadPictureError("empty", "0 bytes")
    try:
        image: Image.Image = Image.open(io.BytesIO(picture), formats=_FORMATS)
        _check_header(image)
        image.load()
        if image.format == "PNG" and background is not None:
            _mind_coded_colours(image, picture, again)
        return _in_mode(image, "L" if channels == 1 else "RGB", background)
    except BadPictureError:
        raise
    except UnidentifiedImageError as error:
        raise BadPictureError("no picture", f"starts with {picture[:8]!r}") from error
    except Image.DecompressionBombError as error:
        raise BadPictureError("too large", str(error)) from error
    except Exception as error:  # Pillow's readers raise anything at damaged pictures.
        raise BadPictureError("truncated", str(error)) from error


def halves(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """A pair in one picture, side by side -> its left and right half."""
    middle = image.width // 2
    return image.crop((0, 0, middle, image.height)), image.crop((image.width - middle, 0, image.width, image.height))


def _check_header(image: Image.Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise BadPictureError("too large", f"{image.width}x{image.height} pixels, more than {MOST_PIXELS:,} in all")
    if min(image.size) < LEAST_SIDE:
        raise BadPictureError("too small", f"{image.width}x{image.height} pixels")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # A camera's JPEG with a preview in it.
        raise BadPictureError("animated", f"{getattr(image, 'n_frames', 2)} frames")


def _mind_coded_colours(image: Image.Image, png: bytes, again: bool) -> None:
    """What a PNG's cICP chunk says goes before its profile and gamma; its profile says as much, where it has one.

    Raises:
        BadPictureError: it is not sRGB, and has no profile.
    """
    coded = coded_colours(png)
    if coded == CODED_SRGB:
        for name in ("icc_profile", "gamma"):
            image.info.pop(name, None)
    elif coded is not None and "icc_profile" not in image.info and not again:
        text = "/".join(map(str, coded))
        raise BadPictureError("unknown colours", f"its cICP chunk says {text}, and it has no profile; save it as sRGB")


def _in_mode(image: Image.Image, mode: Literal["L", "RGB"], background: str | None) -> Picture:
    before, done = image.mode, list[str]()
    if before in _SIXTEEN_BITS:  # Pillow's own conversion clips what is above 255.
        deep = np.asarray(image).astype(np.uint32)
        notes, key = image.info, image.info.pop("transparency", None)
        image = Image.fromarray((deep >> 8).clip(0, 255).astype(np.uint8))
        if isinstance(key, int):  # Of 16 bits, as which it is another grey than its neighbours.
            image.putalpha(Image.fromarray(np.where(deep == key, 0, 255).astype(np.uint8)))
        image.info = notes
    if background is not None:
        image, done = as_shown(image, background)
    if image.mode != mode:
        image = image.convert(mode)
    return Picture(image, (*done, *([f"{before} to {mode}"] if before != mode else [])))
