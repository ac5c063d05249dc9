"""One file gives one set of pixels, or is refused, whichever libraries are installed."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import slide as slide_module
from data_prep.errors import InputError
from data_prep.slide import open_slide

tifffile = pytest.importorskip("tifffile", reason="the extra wsi is not installed")

INSTALLED = {"tifffile and OpenSlide": (), "OpenSlide": ("tifffile",), "tifffile": ("openslide",),
             "neither": ("tifffile", "openslide")}  # fmt: skip
ROWS, COLUMNS = np.mgrid[:90, :130]
PIXELS = np.stack([128 + 100 * np.sin(ROWS / 9), 120 + 90 * np.cos(COLUMNS / 13), ROWS + COLUMNS], axis=2)
PIXELS = PIXELS.astype(np.uint8)  # [90, 130, 3]: as wide as turned it is not
ALPHA = np.full((90, 130, 1), 255, np.uint8)
ALPHA[:30], ALPHA[30:50] = 0, 97
RGBA = np.concatenate([PIXELS, ALPHA], axis=2)
ON_WHITE = ((PIXELS * ALPHA.astype(np.uint16) + 255 * (255 - ALPHA.astype(np.uint16)) + 127) // 255).astype(np.uint8)
GREY = np.repeat(PIXELS[..., :1], 3, axis=2)
TILED = {"tile": (32, 48), "compression": "zlib"}
PLANES = {"photometric": "rgb", "planarconfig": "separate"}


@pytest.fixture(params=INSTALLED)
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Opens slides as if only some of the extra were there."""
    original, absent = slide_module._optional, INSTALLED[request.param]
    monkeypatch.setattr(slide_module, "_optional", lambda name: None if name in absent else original(name))
    return request.param


every_reader = pytest.mark.usefixtures("installed")


def whole(path: Path) -> tuple[np.ndarray, int]:
    """Pixels, and the orientation tag."""
    with open_slide(path) as slide:
        return np.array(slide.read_region(0, 0, slide.width, slide.height)), slide.orientation


def write(path: Path, pixels: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, pixels, **({"photometric": "rgb"} | options))
    return path


def orientation_tag(number: int) -> dict[str, object]:
    return {"extratags": [(274, 3, 1, number, True)]}


@every_reader
@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("stored", ["strips", "tiles", "lzw"])
def test_pixels_are_as_stored_whatever_the_orientation_tag(tmp_path: Path, number: int, stored: str) -> None:
    path = tmp_path / "a.tif"
    if stored == "lzw":
        Image.fromarray(PIXELS).save(path, compression="tiff_lzw", tiffinfo={274: number})
    else:
        write(path, PIXELS, **(TILED if stored == "tiles" else {}), **orientation_tag(number))
    pixels, orientation = whole(path)
    np.testing.assert_array_equal(pixels, PIXELS)
    assert orientation == number


@every_reader
@pytest.mark.parametrize("number", [0, 9, 77])
def test_an_orientation_tag_that_is_none_counts_as_upright(tmp_path: Path, number: int) -> None:
    pixels, orientation = whole(write(tmp_path / "a.tif", PIXELS, **orientation_tag(number)))
    np.testing.assert_array_equal(pixels, PIXELS)
    assert orientation == 1


@every_reader
def test_an_orientation_in_xmp_is_known_and_not_applied(tmp_path: Path) -> None:
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    tag = {"metadata": None, "extratags": [(700, 1, None, packet, True)]}
    pixels, orientation = whole(write(tmp_path / "a.tif", PIXELS, **tag))
    np.testing.assert_array_equal(pixels, PIXELS)
    assert orientation == 6


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_exif_orientation_is_known_and_not_applied(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[274] = 8
    Image.fromarray(PIXELS).save(tmp_path / name, exif=exif, quality=95)
    Image.fromarray(PIXELS).save(tmp_path / f"plain_{name}", quality=95)
    pixels, orientation = whole(tmp_path / name)
    np.testing.assert_array_equal(pixels, whole(tmp_path / f"plain_{name}")[0])
    assert (pixels.shape, orientation) == (PIXELS.shape, 8)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_tells_nothing(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08garbage")
    assert whole(tmp_path / "a.jpg")[1] == 1


STORED = {
    "strips": (PIXELS, {}, PIXELS),
    "tiles": (PIXELS, TILED, PIXELS),
    "planes": (np.moveaxis(PIXELS, 2, 0), PLANES, PIXELS),
    "planes in tiles": (np.moveaxis(PIXELS, 2, 0), PLANES | TILED, PIXELS),
    "grey": (PIXELS[..., 0], {"photometric": "minisblack"}, GREY),
    "alpha": (RGBA, {"extrasamples": ["unassalpha"]}, ON_WHITE),
    "alpha in planes": (np.moveaxis(RGBA, 2, 0), PLANES | {"extrasamples": ["unassalpha"]}, ON_WHITE),
    "alpha in tiles": (RGBA, TILED | {"extrasamples": ["unassalpha"]}, ON_WHITE),
    "a fourth channel that is no alpha": (RGBA, {"extrasamples": ["unspecified"]}, PIXELS),
    "big-endian": (PIXELS, {"byteorder": ">"}, PIXELS),
    "BigTIFF": (PIXELS, {"bigtiff": True}, PIXELS),
}


@every_reader
@pytest.mark.parametrize("kind", STORED)
def test_the_same_pixels_come_from_every_reader(tmp_path: Path, kind: str) -> None:
    pixels, options, expected = STORED[kind]
    np.testing.assert_array_equal(whole(write(tmp_path / "a.tif", pixels, **options))[0], expected)


@every_reader
def test_premultiplied_alpha_is_the_same_from_every_reader(tmp_path: Path) -> None:
    times_alpha = (PIXELS.astype(np.uint16) * ALPHA // 255).astype(np.uint8)
    path = write(tmp_path / "a.tif", np.concatenate([times_alpha, ALPHA], axis=2), extrasamples=["assocalpha"])
    pixels, _ = whole(path)
    assert np.abs(pixels.astype(int) - ON_WHITE).max() <= 2  # whole numbers times alpha, and back
    straight = np.minimum(times_alpha.astype(int) * 255 // np.maximum(ALPHA, 1), 255)
    expected = np.where(ALPHA == 255, PIXELS, (straight * ALPHA + 255 * (255 - ALPHA.astype(int)) + 127) // 255)
    np.testing.assert_array_equal(pixels, expected)


@every_reader
@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd"])
def test_compressed_strips_that_one_library_lacks_another_reads(tmp_path: Path, compression: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(whole(tmp_path / "a.tif")[0], PIXELS)


def jpeg_tiles(path: Path, subsampling: int) -> Path:
    """A TIFF of JPEG tiles; tifffile cannot write one without imagecodecs."""
    tiles = PIXELS[:64, :128].reshape(2, 32, 2, 64, 3).swapaxes(1, 2).reshape(4, 32, 64, 3)
    encoded = []
    for tile in tiles:
        with io.BytesIO() as buffer:
            Image.fromarray(tile).save(buffer, "JPEG", quality=90, subsampling=subsampling)
            encoded.append(buffer.getvalue())
    factors = (2, 2) if subsampling else (1, 1)
    options = {"tile": (32, 64), "compression": "zlib", "predictor": False, "extratags": [(530, 3, 2, factors, True)]}
    tifffile.imwrite(path, iter(encoded), shape=(64, 128, 3), dtype=np.uint8, photometric="rgb", **options)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(7)
        file.pages[0].tags["PhotometricInterpretation"].overwrite(6)
    return path


@every_reader
@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpeg_tiles_are_the_same_from_every_reader(tmp_path: Path, subsampling: int) -> None:
    pixels, _ = whole(jpeg_tiles(tmp_path / "a.tif", subsampling))
    with Image.open(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))
    assert np.abs(pixels.astype(int) - PIXELS[:64, :128]).mean() < 6


def several(path: Path) -> Iterator[np.ndarray]:
    with tifffile.TiffWriter(path) as writer:
        for page in (PIXELS[::4, ::4], PIXELS, PIXELS[:20]):
            writer.write(page, photometric="rgb")
            yield page


@every_reader
def test_the_largest_of_several_pages_is_the_slide(tmp_path: Path) -> None:
    list(several(tmp_path / "a.tif"))
    np.testing.assert_array_equal(whole(tmp_path / "a.tif")[0], PIXELS)


REFUSED = {
    "16 bits": (PIXELS.astype(np.uint16) * 257, {}),
    "16 bits of grey": (PIXELS[..., 0].astype(np.uint16), {"photometric": "minisblack"}),
    "signed": ((PIXELS // 2).astype(np.int8), {}),
    "floating point": (PIXELS.astype(np.float32), {}),
    "one bit": (PIXELS[..., 0] > 100, {"photometric": "minisblack"}),
    "white is zero": (PIXELS[..., 0], {"photometric": "miniswhite"}),
    "CMYK": (RGBA, {"photometric": "separated"}),
    "YCbCr without JPEG": (PIXELS, {"photometric": "ycbcr"}),
    "grey with alpha": (RGBA[..., [0, 3]], {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
    "five channels": (np.concatenate([RGBA, ALPHA], axis=2), {"extrasamples": ["unassalpha", "unspecified"]}),
    "a stack": (np.stack([PIXELS, PIXELS[::-1]]), {}),
}


@every_reader
@pytest.mark.parametrize("kind", [*REFUSED, "palette", "CIELab"])
def test_what_readers_take_differently_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    if kind in REFUSED:
        write(path, REFUSED[kind][0], **REFUSED[kind][1])
    else:
        image = Image.fromarray(PIXELS)
        (image.quantize(64) if kind == "palette" else image.convert("LAB")).save(path)
    with pytest.raises(InputError) as refused:
        whole(path)
    assert str(path) in str(refused.value)


def test_sixteen_bit_colour_png_is_refused(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(4 * 6) for _ in range(4))
    data = [chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)), chunk(b"IDAT", zlib.compress(rows))]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(data) + chunk(b"IEND", b""))
    with pytest.raises(InputError, match="16 bits a sample, expected 8-bit"):
        open_slide(tmp_path / "a.png")


@every_reader
@pytest.mark.parametrize("name", ["a.svs", "a.SVS"])
def test_a_plain_tiff_named_svs_is_read_as_one_with_a_note(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, PIXELS, **TILED)
    np.testing.assert_array_equal(whole(path)[0], PIXELS)
    with open_slide(path) as slide:
        assert slide.notes == (f"{name} is named as a vendor's slide, but is a plain TIFF image and read as one",)


def test_an_aperio_slide_without_openslide_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.svs", PIXELS, metadata=None, description="Aperio Image Library v1|MPP = 0.499", **TILED)
    original = slide_module._optional
    monkeypatch.setattr(slide_module, "_optional", lambda name: None if name == "openslide" else original(name))
    with pytest.raises(InputError, match=r"through OpenSlide.*stjax\[wsi\]"):
        open_slide(path)


@every_reader
@pytest.mark.parametrize("suffix", [".svs", ".ndpi", ".scn"])
def test_a_jpeg_named_as_a_vendors_slide_is_a_jpeg(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / f"a{suffix}", "JPEG")
    with open_slide(tmp_path / f"a{suffix}") as slide:
        assert slide.format == "jpeg"
        assert "plain JPEG" in slide.notes[0]


@every_reader
def test_the_preview_of_a_mirax_slide_is_not_taken_for_it(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.mrxs", "JPEG")
    with pytest.raises(InputError, match="OpenSlide"):
        open_slide(tmp_path / "a.mrxs")


@every_reader
@pytest.mark.parametrize(("size_um", "stated"), [(352.7, None), (84.67, None), (0.25, 0.25), (1.0, 1.0)])
def test_a_print_resolution_that_a_converter_carried_into_ome_is_no_scale(
    tmp_path: Path, size_um: float, stated: float | None
) -> None:
    sizes = {"axes": "YXS", "PhysicalSizeX": size_um, "PhysicalSizeY": size_um}
    with open_slide(write(tmp_path / "a.ome.tif", PIXELS, metadata=sizes)) as slide:
        assert slide.um_per_px == stated


def test_openslides_own_scale_of_a_plain_tiff_is_held_to_the_same_range(tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="the extra wsi is not installed")
    path = jpeg_tiles(tmp_path / "a.tif", 0)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["XResolution"].overwrite((72, 1))
        file.pages[0].tags["YResolution"].overwrite((72, 1))
        file.pages[0].tags["ResolutionUnit"].overwrite(2)
    with open_slide(path) as slide:
        assert slide.um_per_px is None
