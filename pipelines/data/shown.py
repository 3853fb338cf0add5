"""Pictures as a viewer shows them: upright, opaque, and in sRGB, whatever their files hold."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import ExifTags, Image, ImageCms, ImageOps

#: Gammas that are closer to sRGB's than this share are meant to be sRGB's, as libpng has it.
_SAME_GAMMA = 0.05
_SRGB_GAMMA = 1 / 2.2
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def as_shown(image: Image.Image, background: str) -> tuple[Image.Image, list[str]]:
    """A decoded picture of 8 bits -> what a viewer shows of it, and what was done to it.

    Args:
        image: is changed.
        background: what is seen through it, where it is transparent.
    """
    done = []
    if orientation(image) != 1:
        ImageOps.exif_transpose(image, in_place=True)
        done.append("turned upright")
    alpha, info, mode = _alpha(image), image.info, _without_alpha(image.mode)
    colours = image if image.mode == mode else image.convert(mode)
    if (profile := info.get("icc_profile")) and (transform := _to_srgb(profile, colours.mode)):
        colours = transform.apply(colours)
        done.append("colour profile to sRGB")
    elif not profile and (table := _gamma_table(info)) and colours.mode in ("L", "RGB"):
        colours = colours.point(table * len(colours.getbands()))
        done.append("gamma to sRGB")
    if alpha is not None:
        colours = Image.composite(colours.convert("RGB"), Image.new("RGB", image.size, background), alpha)
        done.append(f"transparent to {background}")
    return colours, done


def is_shown_as_it_lies(header: Image.Image) -> bool:
    """Whether a viewer shows the pixels of an opaque picture as they are in its file."""
    profile = header.info.get("icc_profile")
    return orientation(header) == 1 and not (profile and _to_srgb(profile, header.mode))


def orientation(image: Image.Image) -> int:
    """How a camera was held, by EXIF's numbers: 1 is upright, and so is what says nothing that makes sense."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's readers raise anything at damaged notes, which viewers pass over.
        return 1


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
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile's colours to sRGB's; None if they are that, or if the profile is damaged or for other pictures."""
    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(found).lower():
            return None
        return ImageCms.buildTransform(found, _SRGB, mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None


def _gamma_table(info: dict[str | tuple[int, int], object]) -> list[int] | None:
    """By value of a PNG whose gamma is another than sRGB's, the value in sRGB."""
    gamma = info.get("gamma")
    if not isinstance(gamma, float) or gamma <= 0 or "srgb" in info or abs(gamma / _SRGB_GAMMA - 1) < _SAME_GAMMA:
        return None
    return [round(255 * (value / 255) ** (_SRGB_GAMMA / gamma)) for value in range(256)]
