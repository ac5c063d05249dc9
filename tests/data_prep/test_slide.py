"""Slides: the same pixels from every format, white outside, a scale only where the file states one, clear errors."""

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import slide as slide_module
from data_prep import slide_base
from data_prep.errors import InputError
from data_prep.slide import open_slide

HER2ST = Path(__file__).resolve().parents[2] / "../shared/data/her2st/ST-imgs/C"


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """uint8 [310, 420, 3]: smooth, so that JPEG keeps it, with a marked corner."""
    rows, columns = np.mgrid[:310, :420]
    image = np.stack([128 + 100 * np.sin(rows / 30), 120 + 90 * np.cos(columns / 40), (rows + columns) / 3], axis=2)
    image[:20, :20] = (200, 10, 60)
    return np.clip(image, 0, 255).astype(np.uint8)


def save(pixels: np.ndarray, path: Path, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def whole(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        return np.array(slide.read_region(0, 0, slide.width, slide.height))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff", "wrong_name.jpg"])
def test_lossless_formats_give_the_stored_pixels(tmp_path, pixels, name):
    path = save(pixels, tmp_path / name, format="PNG" if name.endswith("jpg") else None)
    with open_slide(path) as slide:
        assert (slide.width, slide.height) == (420, 310)
        np.testing.assert_array_equal(slide.read_region(30, 40, 100, 50), pixels[40:90, 30:130])
    np.testing.assert_array_equal(whole(path), pixels)


def test_jpeg_gives_pillows_pixels_with_and_without_simplejpeg(tmp_path, pixels, monkeypatch):
    path = save(pixels, tmp_path / "a.jpg", quality=90)
    expected = np.asarray(Image.open(path))
    np.testing.assert_array_equal(whole(path), expected)
    monkeypatch.setattr(slide_module, "simplejpeg", None)
    np.testing.assert_array_equal(whole(path), expected)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_in_grey_or_cmyk_becomes_rgb(tmp_path, pixels, mode):
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.jpg", quality=95)
    expected = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB"))
    np.testing.assert_array_equal(whole(tmp_path / "a.jpg"), expected)


def test_transparency_is_laid_over_white(tmp_path, pixels):
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[:, :100] = 0
    path = save(np.dstack([pixels, alpha]), tmp_path / "a.png")
    assert (whole(path)[:, :100] == 255).all()
    np.testing.assert_array_equal(whole(path)[:, 100:], pixels[:, 100:])


def test_palette_and_grey_become_rgb(tmp_path, pixels):
    grey = save(pixels[..., 0], tmp_path / "grey.png")
    np.testing.assert_array_equal(whole(grey), np.repeat(pixels[..., :1], 3, axis=2))
    Image.fromarray(pixels).quantize(64).save(tmp_path / "palette.png")
    assert whole(tmp_path / "palette.png").shape == pixels.shape


def test_region_outside_the_image_is_white(tmp_path, pixels):
    with open_slide(save(pixels, tmp_path / "a.png")) as slide:
        region = slide.read_region(-10, -5, 40, 30)
        assert (region[:5] == 255).all()
        assert (region[:, :10] == 255).all()
        np.testing.assert_array_equal(region[5:, 10:], pixels[:25, :30])
        region = slide.read_region(410, 300, 30, 40)
        np.testing.assert_array_equal(region[:10, :10], pixels[300:, 410:])
        assert (region[10:] == 255).all()
        assert (slide.read_region(5000, 5000, 3, 4) == 255).all()
        assert (slide.read_region(-50, 0, 50, 4) == 255).all()


def test_what_is_read_cannot_change_the_slide(tmp_path, pixels):
    with open_slide(save(pixels, tmp_path / "a.png")) as slide:
        region = slide.read_region(0, 0, 420, 310)
        with pytest.raises(ValueError, match="read-only"):
            region[0] = 0


def test_strips_cover_the_slide_once(tmp_path, pixels):
    with open_slide(save(pixels, tmp_path / "a.png")) as slide:
        strips = list(slide.strips(64))
    assert [y for y, _ in strips] == [0, 64, 128, 192, 256]
    np.testing.assert_array_equal(np.concatenate([s for _, s in strips]), pixels)


@pytest.mark.parametrize("side", [1, 50, 97, 400])
def test_thumbnail_keeps_shape_and_place(tmp_path, pixels, side):
    with open_slide(save(pixels, tmp_path / "a.png")) as slide:
        small = slide.thumbnail(side)
    height = max(1, round(310 * side / 420))
    assert small.shape == (height, side, 3)
    expected = np.asarray(Image.fromarray(pixels).resize((side, height), Image.Resampling.BILINEAR), np.int16)
    # Cells cut by the border count whole: of a picture of one pixel that is seen.
    assert np.abs(small - expected).mean() < (3 if side > 1 else 15)


@pytest.mark.parametrize("side", [1, 50, 97, 200, 400])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_preview_shows_what_a_thumbnail_does(tmp_path, pixels, name, side):
    smooth = np.asarray(Image.fromarray(pixels).resize((420, 310), Image.Resampling.BICUBIC, box=(0, 0, 42, 31)))
    with open_slide(save(smooth, tmp_path / name)) as slide:
        preview, small = slide.preview(side), slide.thumbnail(side)
    assert preview.shape == small.shape
    assert np.abs(np.int16(preview) - small).mean() < (2 if side > 1 else 15)


def test_a_damaged_jpeg_has_no_preview(tmp_path, pixels):
    path = save(pixels, tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_slide(path) as slide, pytest.raises(InputError, match=r"a.jpg: the image cannot be read"):
        slide.preview(100)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("side", [1, 23, 50, 97, 400, 420])
def test_blocks_a_thumbnail_is_made_of_do_not_show(tmp_path, pixels, tifffile, monkeypatch, side, tiled):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64) if tiled else None, rowsperstrip=None)
    with open_slide(path) as slide:
        whole = slide.thumbnail(side)
        monkeypatch.setattr(slide_base, "_BLOCK_PX", 5_000)
        blocks = 0
        original = slide._read_level

        def counted(*box):
            nonlocal blocks
            blocks += 1
            return original(*box)

        slide._read_level = counted
        np.testing.assert_allclose(slide.thumbnail(side), whole, atol=1)
        assert blocks > (1 if side > 1 else 0)


def test_thumbnail_is_never_larger_than_the_slide(tmp_path, pixels):
    with open_slide(save(pixels, tmp_path / "a.png")) as slide:
        np.testing.assert_array_equal(slide.thumbnail(9999), pixels)


@pytest.mark.parametrize("dpi", [72, 96, 300, 1200])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_camera_and_print_resolutions_are_no_scale(tmp_path, pixels, name, dpi):
    with open_slide(save(pixels, tmp_path / name, dpi=(dpi, dpi))) as slide:
        assert slide.um_per_px is None


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_microscopes_resolution_is_the_scale(tmp_path, pixels, name):
    with open_slide(save(pixels, tmp_path / name, dpi=(25400 / 0.69,) * 2)) as slide:
        assert slide.um_per_px == pytest.approx(0.69, rel=1e-3)


def test_pixels_that_are_not_square_have_no_scale(tmp_path, pixels):
    with open_slide(save(pixels, tmp_path / "a.tif", dpi=(50_000, 60_000))) as slide:
        assert slide.um_per_px is None


@pytest.mark.parametrize(
    ("density", "unit", "description", "expected"),
    [
        (20_000.0, 3, "", 0.5),
        ((20_000, 1), 3, "", 0.5),
        ((0, 0), 3, "", None),
        (50_800.0, 2, "", 0.5),
        (2.0, 1, "", None),
        (2.0, 1, "ImageJ=1.53\nunit=micron\n", 0.5),
        (2.0, 1, "ImageJ=1.53\nunit=\\u00B5m\n", 0.5),
        (2.0, 1, "ImageJ=1.53\nunit=pixel\n", None),
        (None, 2, "Aperio Image Library|AppMag = 20|MPP = 0.4990", 0.499),
        (None, 2, '<OME><Image><Pixels PhysicalSizeX="0.25" PhysicalSizeY="0.25" SizeC="3"/></Image></OME>', 0.25),
        (
            72.0,
            2,
            '<OME><Pixels PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="250" PhysicalSizeYUnit="nm"/>',
            0.25,
        ),
        (72.0, 2, '<OME><Pixels PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1"/></OME>', None),
        (20_000.0, 3, "<OME><Pixels SizeC='3'/></OME>", 0.5),
    ],
)
def test_scale_from_tiff_tags(density, unit, description, expected):
    from data_prep.slide_base import scale_from_tiff

    scale = scale_from_tiff(density, density, unit, description)
    assert scale == (None if expected is None else pytest.approx(expected))


# Errors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("folder", "a folder"),
        (b"", "empty"),
        (b"<html>not found</html>", "not an image of an allowed format"),
        (b"GIF89a" + b"\0" * 50, "not an image of an allowed format"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "cannot be read"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "cannot be read"),
        (b"II*\0" + b"\0" * 50, "cannot be read"),
    ],
)
def test_what_is_no_slide_is_named(tmp_path, content, message):
    path = tmp_path / "a.jpg"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        whole(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "progressive.jpg"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_truncated_file_is_refused(tmp_path, pixels, name, share):
    noise = np.random.default_rng(0).integers(0, 40, pixels.shape, np.uint8)
    path = save(pixels // 2 + noise, tmp_path / name, **({"progressive": True} if "prog" in name else {}))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match="download it again"):
        whole(path)


def test_damaged_jpeg_is_refused_but_harmless_bytes_are_not(tmp_path, pixels):
    path = save(pixels, tmp_path / "a.jpg", quality=95)
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2 : len(good) // 2 + 40] = b"\xff\xd9" * 20
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="damaged"):
        whole(path)
    path.write_bytes(good[:-2] + b"\0" * 8 + good[-2:])
    np.testing.assert_array_equal(whole(path), np.asarray(Image.open(io.BytesIO(good))))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_image_over_the_budget_is_refused_before_it_is_decoded(tmp_path, pixels, name):
    path = save(pixels, tmp_path / name)
    with pytest.raises(InputError, match="over the budget of 100,000"):
        open_slide(path, max_pixels=100_000)
    with open_slide(path) as slide:
        with pytest.raises(InputError, match="over the budget"):
            slide.read_region(0, 0, 100_000, 100_000)
        with pytest.raises(ValueError, match="positive"):
            slide.read_region(0, 0, 0, 5)


def test_sixteen_bit_grey_is_refused(tmp_path):
    path = save(np.full((20, 20), 3000, np.uint16), tmp_path / "a.png")
    with pytest.raises(InputError, match="8-bit"):
        whole(path)


def test_pyramids_without_the_extra_name_it(tmp_path, monkeypatch):
    monkeypatch.setattr(slide_module, "_optional", lambda _name: None)
    (tmp_path / "a.svs").write_bytes(b"II*\0" + b"\0" * 100)
    with pytest.raises(InputError, match=r"stjax\[wsi\]"):
        open_slide(tmp_path / "a.svs")
    (tmp_path / "a.tif").write_bytes(b"II*\0" + b"\0" * 100)
    with pytest.raises(InputError, match=r"stjax\[wsi\]"):
        open_slide(tmp_path / "a.tif")


def test_tiff_without_the_extra_goes_through_pillow(tmp_path, pixels, monkeypatch):
    monkeypatch.setattr(slide_module, "_optional", lambda _name: None)
    path = save(pixels, tmp_path / "a.tif", compression="tiff_lzw", dpi=(50_800, 50_800))
    with open_slide(path) as slide:
        assert slide.um_per_px == pytest.approx(0.5)
    np.testing.assert_array_equal(whole(path), pixels)


# The extra `wsi`


@pytest.fixture(scope="module")
def tifffile():
    return pytest.importorskip("tifffile", reason="the extra wsi is not installed")


TIFFS = {
    "strips": {"rowsperstrip": 50},
    "one strip": {},
    "tiles": {"tile": (64, 48), "compression": "zlib"},
    "tiles, not compressed": {"tile": (128, 128)},
    "separate planes": {"tile": (64, 64), "planarconfig": "separate"},
    "separate strips": {"rowsperstrip": 33, "planarconfig": "separate"},
    "big": {"tile": (64, 64), "bigtiff": True},
}


@pytest.mark.parametrize("kind", TIFFS)
def test_tiff_regions_equal_the_stored_pixels(tmp_path, pixels, tifffile, kind):
    stored = np.moveaxis(pixels, 2, 0) if "separate" in kind else pixels
    density = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **TIFFS[kind], **density)
    with open_slide(tmp_path / "a.tif") as slide:
        assert (slide.width, slide.height, slide.um_per_px) == (420, 310, 0.5)
        for x, y, w, h in ((0, 0, 420, 310), (100, 57, 201, 99), (419, 309, 1, 1), (-5, -5, 70, 70)):
            expected = np.full((h, w, 3), 255, np.uint8)
            x0, y0 = max(x, 0), max(y, 0)
            expected[y0 - y :, x0 - x :] = pixels[y0 : y + h, x0 : x + w]
            np.testing.assert_array_equal(slide.read_region(x, y, w, h), expected)


@pytest.mark.parametrize("axes", ["CYX", "YXS"])
def test_ome_tiff_states_its_scale(tmp_path, pixels, tifffile, axes):
    stored, photometric = (np.moveaxis(pixels, 2, 0), "minisblack") if axes == "CYX" else (pixels, "rgb")
    sizes = {f"PhysicalSize{a}": 250 for a in "XY"} | {f"PhysicalSize{a}Unit": "nm" for a in "XY"}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", stored, photometric=photometric, tile=(64, 64), metadata={"axes": axes} | sizes
    )
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.um_per_px == pytest.approx(0.25)
        np.testing.assert_array_equal(slide.read_region(10, 20, 300, 200), pixels[20:220, 10:310])


def write_pyramid(tifffile, path: Path, pixels: np.ndarray, *, ome: bool) -> None:
    with tifffile.TiffWriter(path) as writer:
        for step in (1, 2, 4):
            first = {"subifds": 2, "metadata": {"axes": "YXS"}} if ome and step == 1 else {}
            writer.write(pixels[::step, ::step], photometric="rgb", tile=(64, 64), subfiletype=int(step > 1), **first)


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_thumbnail_of_a_pyramid_comes_from_a_lower_level(tmp_path, pixels, tifffile, name):
    marked = pixels.copy()
    write_pyramid(tifffile, tmp_path / name, marked, ome="ome" in name)
    with open_slide(tmp_path / name) as slide:
        assert (slide.width, slide.height) == (420, 310)
        np.testing.assert_array_equal(slide.read_region(0, 0, 420, 310), pixels)
        read = []
        slide._read_level, original = lambda level, *box: read.append(level) or original(level, *box), slide._read_level
        np.testing.assert_array_equal(slide.thumbnail(105), pixels[::4, ::4])
    assert read == [2]


def test_tiff_grey_and_rgba(tmp_path, pixels, tifffile):
    tifffile.imwrite(tmp_path / "grey.tif", pixels[..., 0], photometric="minisblack", tile=(64, 64))
    np.testing.assert_array_equal(whole(tmp_path / "grey.tif"), np.repeat(pixels[..., :1], 3, axis=2))
    alpha = np.full((310, 420, 1), 255, np.uint8)
    alpha[:100] = 0
    rgba = np.concatenate([pixels, alpha], axis=2)
    tifffile.imwrite(tmp_path / "rgba.tif", rgba, photometric="rgb", extrasamples=["unassalpha"], tile=(64, 64))
    assert (whole(tmp_path / "rgba.tif")[:100] == 255).all()
    np.testing.assert_array_equal(whole(tmp_path / "rgba.tif")[100:], pixels[100:])


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((30, 30, 3), np.uint16), {"photometric": "rgb"}, "8-bit"),
        (np.zeros((30, 30), np.float32), {"photometric": "minisblack"}, "8-bit"),
        (np.zeros((5, 30, 30), np.uint8), {"photometric": "minisblack", "metadata": {"axes": "CYX"}}, "channels"),
    ],
)
def test_tiff_that_is_not_bright_field_rgb_is_refused(tmp_path, tifffile, array, options, message):
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    with pytest.raises(InputError, match=message):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_tiled_tiff_is_refused(tmp_path, pixels, tifffile, share):
    noise = np.random.default_rng(0).integers(0, 40, pixels.shape, np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels // 2 + noise, photometric="rgb", tile=(64, 64), compression="zlib")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match="download it again"):
        whole(path)


def test_tiff_with_random_damage_is_read_or_refused(tmp_path, pixels, tifffile):
    random = np.random.default_rng(0)
    tifffile.imwrite(tmp_path / "a.tif", pixels[:90, :120], photometric="rgb", tile=(32, 32), compression="zlib")
    good = np.frombuffer((tmp_path / "a.tif").read_bytes(), np.uint8)
    refused = 0
    for _ in range(150):
        damaged = good.copy()
        damaged[random.integers(0, 500, 3)] = random.integers(0, 256, 3)
        damaged.tofile(tmp_path / "b.tif")
        try:
            with open_slide(tmp_path / "b.tif", max_pixels=10**7) as slide:
                slide.read_region(0, 0, min(slide.width, 500), min(slide.height, 500))
        except InputError:
            refused += 1
    assert refused > 20


def test_tile_cache_stays_bounded(tmp_path, pixels, tifffile, monkeypatch):
    from data_prep import slide_tiff

    monkeypatch.setattr(slide_tiff, "_CACHE_BYTES", 64 * 64 * 3 * 4)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64))
    with open_slide(tmp_path / "a.tif") as slide:
        for _ in range(2):
            np.testing.assert_array_equal(slide.read_region(0, 0, 420, 310), pixels)
        assert sum(t.nbytes for t in slide._cache.values()) == slide._cached_bytes <= 64 * 64 * 3 * 4


@pytest.mark.parametrize("name", ["a.svs", "vendor.tif"])
def test_vendor_pyramid_goes_through_openslide(tmp_path, pixels, tifffile, name):
    pytest.importorskip("openslide", reason="the extra wsi is not installed")
    tifffile.imwrite(
        tmp_path / name,
        pixels,
        photometric="rgb",
        tile=(64, 64),
        compression="zlib",
        metadata=None,
        description="Aperio Image Library v1\r\n420x310 [0,0 420x310] (64x64)|AppMag = 20|MPP = 0.4990",
    )
    with open_slide(tmp_path / name) as slide:
        assert slide.format == "openslide:aperio"
        assert slide.um_per_px == pytest.approx(0.499)
        np.testing.assert_array_equal(slide.read_region(50, 60, 70, 80), pixels[60:140, 50:120])
        assert (slide.read_region(-3, -3, 3, 3) == 255).all()
        assert slide.thumbnail(100).shape == (74, 100, 3)


def encoded_jpeg(pixels: np.ndarray) -> bytes:
    with io.BytesIO() as buffer:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=98, subsampling=0)
        return buffer.getvalue()


@pytest.mark.skipif(
    importlib.util.find_spec("imagecodecs") is not None, reason="imagecodecs is installed: tifffile finds it"
)
def test_tiff_without_decoders_goes_through_openslide(tmp_path, pixels, tifffile, monkeypatch):
    pytest.importorskip("openslide", reason="the extra wsi is not installed")
    tiles = np.pad(pixels, ((0, 10), (0, 28), (0, 0))).reshape(5, 64, 7, 64, 3).swapaxes(1, 2).reshape(35, 64, 64, 3)
    tifffile.imwrite(
        tmp_path / "a.tif",
        (encoded_jpeg(tile) for tile in tiles),
        shape=pixels.shape,
        dtype=np.uint8,
        photometric="rgb",
        tile=(64, 64),
        compression="zlib",
        predictor=False,
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
    )
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:  # tifffile cannot write JPEG without imagecodecs
        file.pages[0].tags["Compression"].overwrite(7)
        file.pages[0].tags["PhotometricInterpretation"].overwrite(6)
    planes = np.moveaxis(pixels, 2, 0)
    tifffile.imwrite(tmp_path / "b.ome.tif", planes, photometric="minisblack", tile=(64, 64), metadata={"axes": "CYX"})
    original = slide_module._optional
    monkeypatch.setattr(slide_module, "_optional", lambda name: None if name == "imagecodecs" else original(name))
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.format == "openslide:generic-tiff"
        assert slide.um_per_px == pytest.approx(0.5)
        assert np.abs(slide.read_region(0, 0, 420, 310).astype(int) - pixels).mean() < 2
    with open_slide(tmp_path / "b.ome.tif") as slide:  # OpenSlide would show one of the three planes as grey
        assert slide.format == "tiff"
        np.testing.assert_array_equal(slide.read_region(0, 0, 420, 310), pixels)


def test_file_openslide_does_not_know_is_refused(tmp_path):
    pytest.importorskip("openslide", reason="the extra wsi is not installed")
    (tmp_path / "a.ndpi").write_bytes(b"II*\0" + b"\0" * 200)
    with pytest.raises(InputError, match="does not recognise"):
        open_slide(tmp_path / "a.ndpi")


# Real slides


def test_her2st_slide_opens_without_a_scale_or_a_warning():
    paths = sorted(HER2ST.glob("*/*.jpg"))
    if not paths:
        pytest.skip("../shared/data/her2st is absent")
    with open_slide(paths[0]) as slide:  # 92 Mpx: over Pillow's own limit, within ours
        assert (slide.width, slide.height, slide.um_per_px) == (9274, 9911, None)
        assert slide.thumbnail(256).shape == (256, 240, 3)
