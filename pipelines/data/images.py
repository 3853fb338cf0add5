"""Pictures of any kind -> arrays of one shape."""

from __future__ import annotations

import io
from typing import Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from pipelines.components import Options
from pipelines.data.shards import Images

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
    """A decoded picture, and what it was converted from, if it was not RGB or grey as wanted."""

    image: Image.Image
    converted: str | None


class Transform(Options):
    """Centre crop to a square, then resize, as GAN papers prepare LSUN (``box`` is resizing by area)."""

    size: int = Field(64, ge=4, description="height and width of the images, in pixels")
    channels: Literal[1, 3] = Field(3, description="3 for colour, 1 for grey")
    resample: Resampling = Field("lanczos", description="how pictures are made that size; box averages areas")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what it makes."""
        return self.size, self.size, self.channels

    def __call__(self, picture: bytes | Images) -> Images:
        """An encoded picture, or an array (H, W) or (H, W, C) -> (size, size, channels).

        Raises:
            BadPictureError: it cannot be used.
        """
        return self.fit(open_picture(picture, self.channels).image)

    def again(self, picture: bytes) -> Images:
        """As a call does, but faster, for a picture that has been through one before.

        OpenCV's decoders give the same pixels as Pillow's, but take what is cut short for whole.
        """
        pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), _AS_PILLOW) if self._suits_opencv(picture) else None
        if pixels is None:
            return self(picture)
        side = min(pixels.shape[:2])
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        square: Images = pixels[top : top + side, left : left + side]
        return square if side == self.size else self.fit(Image.fromarray(square))

    def _suits_opencv(self, picture: bytes) -> bool:
        """Whether it is an RGB photograph in WebP or JPEG, as almost all are."""
        if self.channels != 3:
            return False
        if picture[:3] == b"\xff\xd8\xff":
            return Image.open(io.BytesIO(picture)).mode == "RGB"
        return picture[:4] == b"RIFF" and picture[8:16] == b"WEBPVP8 "  # Simple, lossy: without transparency.

    def fit(self, image: Image.Image) -> Images:
        """A decoded picture -> (size, size, channels)."""
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        if image.size != (side, side):
            image = image.crop((left, top, left + side, top + side))
        if side != self.size:
            image = image.resize((self.size, self.size), Image.Resampling[self.resample.upper()])
        return np.asarray(image).reshape(self.shape)


def open_picture(picture: bytes | Images, channels: Literal[1, 3]) -> Picture:
    """Decode a picture by its content, whatever its name or its source says it is.

    Raises:
        BadPictureError: empty, undecodable, truncated, animated, too large or too small. Nothing is decoded
            before its header has been found harmless.
    """
    if not isinstance(picture, bytes):
        return Picture(Image.fromarray(picture).convert("L" if channels == 1 else "RGB"), None)
    if not picture:
        raise BadPictureError("empty", "0 bytes")
    try:
        image: Image.Image = Image.open(io.BytesIO(picture), formats=_FORMATS)
        _check_header(image)
        image.load()
        return _in_mode(image, "L" if channels == 1 else "RGB")
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


def _in_mode(image: Image.Image, mode: Literal["L", "RGB"]) -> Picture:
    if image.mode == mode:
        return Picture(image, None)
    before = image.mode
    if before in _SIXTEEN_BITS:  # Pillow's own conversion clips what is above 255.
        deep = np.asarray(image).astype(np.uint32)
        image = Image.fromarray((deep >> 8).clip(0, 255).astype(np.uint8))
    return Picture(image if image.mode == mode else image.convert(mode), before)
