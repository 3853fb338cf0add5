"""Pictures as a viewer shows them: upright, opaque, and in sRGB, whatever their files hold."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import ExifTags, Image, ImageCms

#: Gammas that are closer to sRGB's than this share are meant to be sRGB's, as libpng has it.
_SAME_GAMMA = 0.05
_SRGB_GAMMA = 1 / 2.2
#: By EXIF's number of how a camera was held, what turns a picture upright. 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: Colours to try a profile on, and by how much it may move them if it is sRGB's under another name.
_PROBE = Image.fromarray(np.stack(np.meshgrid(*[np.arange(0, 256, 51)] * 3), -1).reshape(6, 36, 3).astype(np.uint8))
_SAME_COLOUR = 2
_PNG_MARK = b"\x89PNG\r\n\x1a\n"
#: As a cICP chunk says it: BT.709's primaries, sRGB's transfer, RGB, and all 256 values.
CODED_SRGB = bytes((1, 13, 0, 1))
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def as_shown(image: Image.Image, background: str) -> tuple[Image.Image, list[str]]:
    """A decoded picture of 8 bits -> what a viewer shows of it, and what was done to it.

    Args:
        background: what is seen through it, where it is transparent.
    """
    done = []
    if (turn := _turn(image)) is not None:
        notes, image = image.info, image.transpose(turn)
        image.info = notes
        done.append("turned upright")
    alpha, info, mode = _alpha(image), image.info, _without_alpha(image.mode)
    colours = image if image.mode == mode else image.convert(mode)
    profile = info.get("icc_profile")
    if transform := _to_srgb(profile, colours.mode):
        colours = transform.apply(colours)
        done.append("colour profile to sRGB")
    elif not profile and (table := _gamma_table(info)) and colours.mode in ("L", "RGB"):
        colours = colours.point(table * len(colours.getbands()))
        done.append("gamma to sRGB")
    if alpha is not None:
        colours = Image.composite(colours.convert("RGB"), Image.new("RGB", image.size, background), alpha)
        done.append(f"transparent to {background}")
    return colours, done


def coded_colours(png: bytes) -> bytes | None:
    """What a PNG's cICP chunk says: primaries, transfer, matrix and range, a byte each (ITU-T H.273); None if none."""
    at = len(_PNG_MARK)
    while len(head := png[at : at + 8]) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"cICP":
            return png[at + 8 : at + 8 + length]
        at += length + 12
    return None


def is_shown_as_it_lies(header: Image.Image) -> bool:
    """Whether a viewer shows the pixels of an opaque picture as they are in its file."""
    return _turn(header) is None and _to_srgb(header.info.get("icc_profile"), header.mode) is None


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns a picture upright; None if it is, or if its notes make no sense."""
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's readers raise anything at damaged notes, which viewers pass over.
        return None


def _alpha(image: Image.Image) -> Image.Image | None:
    """How opaque each pixel is; None if all are."""
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    return None if alpha is None or alpha.getextrema() == (255, 255) else alpha


def _without_alpha(mode: str) -> str:
    """The mode of a picture's colours."""
    if mode in ("1", "L", "LA", "La"):
        return "L"
    return mode if mode in ("CMYK", "YCbCr") else "RGB"


@lru_cache(maxsize=64)
def _to_srgb(profile: object, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile's colours to sRGB's; None if they are that, or if the profile is damaged or for other pictures."""
    if not isinstance(profile, bytes) or not profile:
        return None
    try:
        transform = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), _SRGB, mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode not in ("L", "RGB"):
        return transform
    before = _PROBE.convert(mode)
    moved = np.asarray(transform.apply(before)).astype(int) - np.asarray(before.convert("RGB"))
    return transform if np.abs(moved).max() > _SAME_COLOUR else None


def _gamma_table(info: dict[str | tuple[int, int], object]) -> list[int] | None:
    """By value of a PNG whose gamma is another than sRGB's, the value in sRGB."""
    gamma = info.get("gamma")
    if not isinstance(gamma, float) or gamma <= 0 or "srgb" in info or abs(gamma / _SRGB_GAMMA - 1) < _SAME_GAMMA:
        return None
    return [round(255 * (value / 255) ** (_SRGB_GAMMA / gamma)) for value in range(256)]
