"""Pictures of any kind become arrays of one shape, or are refused for a reason."""

import io
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipelines.data.images import BadPictureError, Transform, halves, open_picture
from tests.made_data import encoded


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def header_only_png(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, and has none."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_the_transform_crops_the_centre() -> None:
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 200
    for channels in (1, 3):
        image = Transform(size=20, channels=channels)(picture)
        assert image.shape == (20, 20, channels)
        assert (image == 200).all()


@pytest.mark.parametrize(("size", "kept"), [((30, 15), np.s_[:, 25:55]), ((10, 20), np.s_[10:50])])
def test_of_other_proportions_the_largest_part_in_the_middle_is_kept(
    size: tuple[int, int], kept: tuple[slice, ...]
) -> None:
    """Of a picture of 60x80 (height x width); round things stay round."""
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[kept] = 200
    transform = Transform(size=size)
    assert transform(picture).shape == transform.shape == (*size, 3)
    assert (transform(picture) == 200).all()
    rest = np.where(picture == 200, 0, 200).astype(np.uint8)
    assert not transform(rest).any()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("size", [(24, 40), (40, 24), (61, 47), (30, 10)])
def test_what_is_decoded_when_it_is_read_is_cropped_alike(kind: str, size: tuple[int, int]) -> None:
    for width, height in ((47, 61), (100, 100), (33, 200)):
        picture, transform = encoded(kind, (width, height)), Transform(size=size)
        assert np.array_equal(transform.again(picture), transform(picture))


def test_box_is_resizing_by_area() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    means = picture.astype(np.float64).reshape(8, 4, 8, 4).mean((1, 3))
    made = Transform(size=8, channels=1, resample="box")(picture)[..., 0]
    assert np.abs(made - means).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_pictures_are_decoded_by_content(kind: str) -> None:
    assert Transform(size=16)(encoded(kind, (30, 20))).shape == (16, 16, 3)


def test_other_colour_modes_are_converted_and_counted() -> None:
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert open_picture(saved(grey, "PNG"), 3).converted == ("L to RGB",)
    assert open_picture(saved(grey, "PNG"), 1).converted == ()
    assert open_picture(encoded("JPEG", mode="CMYK"), 3).converted == ("CMYK to RGB",)
    deep = Image.fromarray((np.arange(256, dtype=np.uint16) * 256).reshape(16, 16))
    picture = open_picture(saved(deep, "PNG"), 3)
    assert picture.converted == ("I;16 to RGB",)
    assert np.array_equal(np.asarray(picture.image)[..., 0], np.asarray(grey))


BAD = {
    "empty": b"",
    "no picture": b"not a picture at all",
    "truncated": encoded("JPEG", (64, 64))[:-400],
    "animated": saved(Image.new("RGB", (8, 8)), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]),
    "too small": encoded("PNG", (1, 1)),
    "too large": header_only_png(30_000, 30_000),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_picture_is_refused_by_kind(kind: str) -> None:
    with pytest.raises(BadPictureError) as caught:
        Transform()(BAD[kind])
    assert caught.value.kind == kind


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_any_truncation_is_refused_or_gives_a_picture(kind: str) -> None:
    whole = encoded(kind, (40, 30))
    for length in range(0, len(whole), 37):
        with pytest.raises(BadPictureError):
            Transform(size=8)(whole[:length])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_anywhere_is_refused_or_gives_a_picture() -> None:
    chance = np.random.default_rng(1)
    kinds = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
    for kind in kinds:
        whole = encoded(kind, (20, 16))
        for _ in range(300):
            damaged = bytearray(whole)
            for _ in range(chance.integers(1, 6)):
                damaged[chance.integers(0, min(len(whole), 400))] = chance.integers(0, 256)
            try:
                assert Transform(size=8)(bytes(damaged)).shape == (8, 8, 3)
            except BadPictureError:
                """One of the two."""


def test_a_decompression_bomb_costs_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for side in (9_000, 30_000, 200_000):
        with pytest.raises(BadPictureError, match=r"pixels"):
            Transform()(header_only_png(side, side))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB; the smallest would take 243 MB


@pytest.mark.parametrize("kind", ["WEBP", "JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [16, 31])
def test_decoding_again_gives_the_same_pixels(kind: str, mode: str, size: int) -> None:
    for shape in ((31, 31), (64, 48), (31, 90), (101, 77)):
        picture = encoded(kind, shape, mode)
        for channels in (1, 3):
            transform = Transform(size=size, channels=channels)
            assert np.array_equal(transform.again(picture), transform(picture))


def test_decoding_again_knows_odd_pictures_too() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph = saved(Image.open(io.BytesIO(encoded("PNG", (40, 30)))), "JPEG", exif=turned)
    for picture in (photograph, encoded("JPEG", mode="CMYK"), encoded("WEBP", mode="RGBA"), encoded("PNG", mode="P")):
        assert np.array_equal(Transform(size=20).again(picture), Transform(size=20)(picture))


def test_halves_of_a_pair() -> None:
    picture = np.zeros((10, 21, 3), np.uint8)
    picture[:, 11:] = 255
    left, right = halves(Image.fromarray(picture))
    assert left.size == right.size == (10, 10)
    assert (np.asarray(left) == 0).all()
    assert (np.asarray(right) == 255).all()
