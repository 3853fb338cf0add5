"""Pictures are taken as a viewer shows them; data sets of a time before that stay as they are."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from pydantic import ValidationError

from pipelines.data.images import BadPictureError, Transform
from pipelines.data.ingest import ingest
from pipelines.data.plan import Options
from pipelines.data.shards import Manifest, Stored, read_manifest
from pipelines.data.sources.folder import Folder
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location

_RAMP = np.add.outer(np.arange(80) * 2, np.arange(120))[..., None] * np.array([1, 0.6, 0.3])
BASE = Image.fromarray(_RAMP.clip(0, 255).astype(np.uint8))
CLEAR = BASE.convert("RGBA")
CLEAR.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 120).astype(np.uint8), (80, 1))))
WHOLE = Transform(size=80, resample="nearest")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(kind: str, orientation: int, **options: object) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return saved(BASE, kind, exif=tags, **options)


def centre(image: Image.Image) -> NDArray[np.uint8]:
    """The middle 80 columns or rows of 120."""
    left, top = (image.width - 80) // 2, (image.height - 80) // 2
    return np.asarray(image.crop((left, top, left + 80, top + 80)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_camera_says(kind: str, orientation: int) -> None:
    picture = turned(kind, orientation, **({"lossless": True} if kind == "WEBP" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(picture))).convert("RGB")
    assert np.array_equal(WHOLE(picture), centre(expected))
    assert np.array_equal(WHOLE.again(picture), centre(expected)), "also where it is decoded at reading"
    if orientation > 4:
        assert expected.size == (80, 120)


def test_notes_that_cannot_be_written_again_do_no_harm() -> None:
    """A camera's length of an image may be negative: nobody has to write it."""
    tags = Image.Exif()
    tags[0x0112] = 6
    sound = saved(BASE, "JPEG", quality=95, exif=tags)
    entries = b"MM\0*" + struct.pack(">IH", 8, 2)
    entries += struct.pack(">HHIi", 0x0101, 9, 1, -5) + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + bytes(4)
    assert np.array_equal(WHOLE(saved(BASE, "JPEG", quality=95, exif=b"Exif\0\0" + entries)), WHOLE(sound))


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_an_orientation_that_there_is_not_turns_nothing(orientation: int) -> None:
    assert WHOLE.open(turned("PNG", orientation)).converted == ()


@pytest.mark.parametrize("notes", [b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"Exif\x00\x00nonsense", b"\x00"])
def test_damaged_notes_of_a_camera_are_passed_over(notes: bytes) -> None:
    picture = saved(BASE, "JPEG", exif=notes)
    assert np.array_equal(WHOLE(picture), WHOLE(saved(BASE, "JPEG")))


@pytest.mark.parametrize("background", ["white", "#204060", "Navy"])
def test_a_transparent_picture_lies_on_its_background(background: str) -> None:
    transform = Transform(size=80, background=background)
    alpha = np.asarray(CLEAR)[:, 20:100, 3:] / 255
    behind = np.array(Image.new("RGB", (1, 1), background).getpixel((0, 0)))
    for colours, picture in (
        (np.asarray(BASE)[:, 20:100], saved(CLEAR, "PNG")),
        (np.asarray(BASE)[:, 20:100], saved(CLEAR, "WEBP", lossless=True, exact=True)),
        (np.asarray(BASE.convert("L").convert("RGB"))[:, 20:100], saved(CLEAR.convert("LA"), "PNG")),
    ):
        expected = colours * alpha + behind * (1 - alpha)
        assert np.abs(transform(picture) - expected).max() <= 1
        assert transform.open(picture).converted[0] == f"transparent to {transform.background}"


def test_so_does_one_whose_palette_or_key_colour_is_transparent() -> None:
    squares = Image.new("P", (8, 8), 0)
    squares.putpalette([255, 0, 0, 0, 255, 0])
    squares.paste(1, (0, 0, 4, 8))
    key = squares.convert("RGB")
    expected = np.asarray(squares.convert("RGB")).copy()
    expected[:, 4:] = 255
    for picture in (saved(squares, "PNG", transparency=0), saved(key, "PNG", transparency=(255, 0, 0))):
        assert np.array_equal(Transform(size=8)(picture), expected)


def test_what_is_all_opaque_is_not_counted_as_transparent() -> None:
    assert WHOLE.open(saved(BASE.convert("RGBA"), "PNG")).converted == ("RGBA to RGB",)
    assert np.array_equal(WHOLE(saved(BASE.convert("RGBA"), "PNG")), centre(BASE))


#: Columns are the colours of red, green and blue in XYZ, under ICC's white (D50).
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)


def profile_of(to_xyz: NDArray[np.float64], gamma: float) -> bytes:
    """A colour profile (ICC, version 2.1) of three colours and one gamma."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    named = b"desc" + bytes(4) + struct.pack(">I", 5) + b"wide\0" + bytes(8 + 3 + 67)
    colours = {name: b"XYZ " + bytes(4) + fixed(*to_xyz[:, at]) for at, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags = {
        b"desc": named, b"cprt": b"text" + bytes(4) + b"none\0\0\0\0",
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249), **colours,
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }  # fmt: skip
    table, content = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        padded = value + bytes(-len(value) % 4)
        table += name + struct.pack(">II", start + len(content), len(value))
        content += padded
    head = struct.pack(">I4sI4s4s4s", start + len(content), bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head + bytes(128 - len(head)) + table + content


def in_srgb(colours: NDArray[np.uint8], to_xyz: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """IEC 61966-2-1, from a profile's colours."""
    light = np.linalg.solve(SRGB, to_xyz) @ ((colours / 255) ** gamma)[..., None]
    light = light[..., 0].clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def test_colours_of_another_profile_become_those_of_srgb() -> None:
    profile = profile_of(ADOBE_RGB, 2.19921875)
    expected = in_srgb(centre(BASE), ADOBE_RGB, 2.19921875)
    assert np.abs(expected - centre(BASE)).max() > 10
    picture = saved(BASE, "PNG", icc_profile=profile)
    assert np.abs(WHOLE(picture) - expected).max() <= 2
    assert WHOLE.open(picture).converted == ("colour profile to sRGB",)
    photograph = saved(BASE, "JPEG", quality=95, icc_profile=profile)
    assert np.array_equal(WHOLE.again(photograph), WHOLE(photograph))
    see_through = saved(CLEAR, "PNG", icc_profile=profile)
    alpha = np.asarray(CLEAR)[:, 20:100, 3:] / 255
    assert np.abs(WHOLE(see_through) - (expected * alpha + 255 * (1 - alpha))).max() <= 2


def test_what_a_profile_does_counts_and_not_its_name() -> None:
    linear = profile_of(SRGB, 1.0).replace(b"wide\0", b"sRGB\0")
    assert np.abs(WHOLE(saved(BASE, "PNG", icc_profile=linear)) - in_srgb(centre(BASE), SRGB, 1.0)).max() <= 2
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert WHOLE.open(saved(BASE, "PNG", icc_profile=same)).converted == ()


@pytest.mark.parametrize("profile", [b"no profile", profile_of(ADOBE_RGB, 2.2)[:200]])
def test_a_damaged_profile_is_passed_over(profile: bytes) -> None:
    assert np.array_equal(WHOLE(saved(BASE, "PNG", icc_profile=profile)), centre(BASE))


@pytest.mark.parametrize(("gamma", "power"), [(1.0, 1 / 2.2), (0.45455, 1.0), (0.55, 1 / 2.2 / 0.55)])
def test_the_gamma_of_a_png_is_seen(gamma: float, power: float) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    for image in (BASE, BASE.convert("L")):
        expected = 255 * (centre(image.convert("RGB")) / 255) ** power
        assert np.abs(WHOLE(saved(image, "PNG", pnginfo=notes)) - expected).max() <= 0.51


@pytest.mark.parametrize("gamma", [None, 1.0])
def test_a_png_that_is_coded_as_srgb_is_taken_as_it_lies(gamma: float | None) -> None:
    """Whatever else it says of its colours, in which cICP goes first."""
    picture = coded(1, 13, 0, 1, gamma=gamma, icc_profile=profile_of(ADOBE_RGB, 2.2))
    assert np.array_equal(WHOLE(picture), centre(BASE))
    assert WHOLE.open(picture).converted == ()


def test_a_png_that_is_coded_in_other_colours_needs_a_profile() -> None:
    """Such as those of Display P3, or of high dynamic range."""
    with pytest.raises(BadPictureError, match="its cICP chunk says 12/13/0/1, and it has no profile") as caught:
        WHOLE(coded(12, 13, 0, 1))
    assert caught.value.kind == "unknown colours"
    assert np.array_equal(WHOLE.fit(WHOLE.open(coded(12, 13, 0, 1), shown=False).image), centre(BASE))
    assert np.array_equal(WHOLE.again(coded(12, 13, 0, 1)), centre(BASE)), "an earlier version has taken it"
    profile = profile_of(ADOBE_RGB, 2.2)
    assert np.array_equal(
        WHOLE(coded(9, 16, 0, 1, icc_profile=profile)), WHOLE(saved(BASE, "PNG", icc_profile=profile))
    )


def coded(*values: int, gamma: float | None = None, **options: object) -> bytes:
    notes = PngImagePlugin.PngInfo()
    notes.add(b"cICP", bytes(values))
    if gamma is not None:
        notes.add(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    return saved(BASE, "PNG", pnginfo=notes, **options)


def test_ink_is_seen_as_its_colour_whichever_way_it_is_counted() -> None:
    """Adobe's CMYK counts what is left of the paper; Pillow writes it so, too."""
    inks = Image.merge("CMYK", [Image.new("L", (16, 16), value) for value in (255, 0, 0, 0)])
    for picture in (saved(inks, "JPEG", quality=100), saved(inks, "TIFF")):
        assert np.abs(Transform(size=16)(picture).astype(int) - (0, 255, 255)).max() <= 2


def test_sixteen_bits_keep_what_their_file_says_of_them() -> None:
    deep = Image.fromarray(np.asarray(BASE.convert("L")).astype(np.uint16) * 257)
    tags = Image.Exif()
    tags[0x0112] = 6
    expected = centre(BASE.convert("L").transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(Transform(size=80, channels=1)(saved(deep, "PNG", exif=tags))[..., 0], expected)


def test_a_key_colour_of_sixteen_bits_hides_no_other_grey() -> None:
    deep = np.full((8, 8), 0x1234, np.uint16)
    deep[:, 4:], deep[0, 0] = 0x1235, 0
    picture = saved(Image.fromarray(deep), "PNG", transparency=0x1234)
    transform = Transform(size=8, channels=1)
    expected = np.where(deep == 0x1234, 255, deep >> 8)
    assert np.array_equal(transform(picture)[..., 0], expected)
    assert transform.open(picture).converted == ("transparent to #ffffff", "I;16 to L")
    assert np.array_equal(transform.fit(transform.open(picture, shown=False).image)[..., 0], deep >> 8)


def test_a_background_that_is_no_colour_is_refused() -> None:
    with pytest.raises(ValidationError, match="unknown color specifier: 'glass'"):
        Transform(background="glass")
    with pytest.raises(ValidationError, match="is transparent itself"):
        Transform(background="#ffffff00")
    assert Transform(background="#FFF") == Transform(background="White") == Transform()


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for orientation in range(1, 9):
        (folder / f"{orientation}.jpg").write_bytes(turned("JPEG", orientation, quality=95))
    (folder / "clear.png").write_bytes(saved(CLEAR, "PNG"))
    return folder


def read(place: Location, transform: Transform) -> dict[bytes, int]:
    images = open_loader(place, transform, 1, 0).some(100).images
    return {image.numpy().tobytes(): 1 for image in images}


@pytest.mark.parametrize("stored", ["decoded", "encoded"])
def test_what_was_done_is_counted_and_both_ways_of_storing_agree(
    photographs: Path, tmp_path: Path, stored: Stored
) -> None:
    place = Location.of(str(tmp_path / "shards"))
    manifest = ingest(Folder(uri=str(photographs)), WHOLE, place, Options(stored=stored))
    assert manifest.converted == {"RGBA to RGB": 1, "transparent to #ffffff": 1, "turned upright": 7}
    expected = {WHOLE(file.read_bytes()).transpose(2, 0, 1).tobytes(): 1 for file in photographs.iterdir()}
    assert read(place, WHOLE) == expected


@pytest.mark.parametrize("stored", ["decoded", "encoded"])
def test_a_data_set_of_before_is_read_and_added_to_as_it_is(photographs: Path, tmp_path: Path, stored: Stored) -> None:
    place, options = Location.of(str(tmp_path / "shards")), Options(stored=stored)
    manifest = ingest(Folder(uri=str(photographs)), WHOLE, place, options)
    described = manifest.model_dump()
    del described["shown"]
    if described["transform"]:
        del described["transform"]["background"]
    old = Manifest.model_validate(described)
    assert not old.shown
    assert old.hash == manifest.hash or stored == "encoded"
    (place / manifest.name).write(old.model_dump_json(exclude={"shown"}).encode())
    assert WHOLE.made(old.transform or {}) or stored == "encoded"
    more = photographs.parent / "more"
    more.mkdir()
    (more / "clear2.png").write_bytes(saved(CLEAR, "PNG"))
    newest = ingest(Folder(uri=str(more)), WHOLE, place, Options(stored=stored, append=True))
    assert (newest.version, newest.shown, newest.transform) == (2, False, old.transform)
    assert read_manifest(place).converted["RGBA to RGB"] == 2
    as_it_lies = np.asarray(BASE)[:, 20:100].transpose(2, 0, 1).tobytes()
    assert as_it_lies in read(place, WHOLE)
