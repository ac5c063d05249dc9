"""Slides that lie: a few kilobytes that would take minutes or gigabytes are refused in one line before they do."""

import io
import lzma
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from data_prep import slide as slide_module
from data_prep import slide_base
from data_prep.errors import InputError
from data_prep.slide import open_slide

PIXELS = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION = 256, 257, 258, 259, 262, 270
STRIP_OFFSETS, SAMPLES, ROWS, STRIP_BYTES, TILE_W, TILE_H = 273, 277, 278, 279, 322, 323
TILE_OFFSETS, TILE_BYTES, SUB, DEPTH = 324, 325, 330, 32998
SHORT, LONG, ASCII, BYTE = 3, 4, 2, 1
PAGE = {
    WIDTH: (LONG, [64]),
    LENGTH: (LONG, [48]),
    BITS: (SHORT, [8, 8, 8]),
    COMPRESSION: (SHORT, [1]),
    PHOTOMETRIC: (SHORT, [2]),
    STRIP_OFFSETS: (LONG, [8]),
    SAMPLES: (SHORT, [3]),
    ROWS: (LONG, [48]),
    STRIP_BYTES: (LONG, [PIXELS.nbytes]),
}
TILED = {code: value for code, value in PAGE.items() if code not in (STRIP_OFFSETS, ROWS, STRIP_BYTES)} | {
    TILE_W: (LONG, [64]),
    TILE_H: (LONG, [48]),
    TILE_OFFSETS: (LONG, [8]),
    TILE_BYTES: (LONG, [PIXELS.nbytes]),
}
FORMS = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "I"}


def tiff(path: Path, *pages: dict, data: bytes = PIXELS.tobytes(), last: int = 0) -> Path:
    """A TIFF of `data`, which begins at byte 8, and pages of {code: (type, values, or a place and a count)}."""
    out = bytearray(data + bytes(len(data) % 2))
    places = []
    for page in pages:
        entries = b""
        for code, (kind, values) in sorted(page.items()):
            count = len(values)
            if isinstance(values, tuple):  # as it is
                place, count = values
                value = struct.pack("<I", place)
            else:
                value = struct.pack(f"<{count}{FORMS[kind]}", *values).ljust(4, b"\0")
                if len(value) > 4:
                    out += value + bytes(len(value) % 2)
                    value = struct.pack("<I", 8 + len(out) - len(value) - len(value) % 2)
            entries += struct.pack("<HHI", code, kind, count) + value
        places.append(8 + len(out))
        out += struct.pack("<H", len(page)) + entries + bytes(4)
    for place, page, following in zip(places, pages, [*places[1:], last], strict=True):
        struct.pack_into("<I", out, place - 8 + 2 + 12 * len(page), following)
    path.write_bytes(b"II*\0" + struct.pack("<I", places[0]) + out)
    return path


@pytest.fixture(params=["wsi", "base"])
def extra(request, monkeypatch):
    if request.param == "base":
        monkeypatch.setattr(slide_module, "_optional", lambda _name: None)
    else:
        pytest.importorskip("tifffile", reason="the extra wsi is not installed")


def refused(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught, open_slide(path) as slide:
        slide.read_region(0, 0, min(slide.width, 64), min(slide.height, 64))
    text = str(caught.value)
    assert text.startswith(str(path))
    assert len(text) - len(str(path)) < 400
    assert "\n" not in text


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize("page", [PAGE, TILED])
def test_the_file_the_others_are_made_from_is_sound(tmp_path, page):
    with open_slide(tiff(tmp_path / "a.tif", page)) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 64, 48), PIXELS)


LIES = {
    "tile width of three values": (TILED | {TILE_W: (LONG, [64, 64, 64])}, "TileWidth: found 3 values"),
    "no width": (PAGE | {WIDTH: (LONG, [0])}, "no positive number"),
    "tiles of no height": (TILED | {TILE_H: (LONG, [0])}, "no positive number"),
    "a width that is text": (PAGE | {WIDTH: (ASCII, [54])}, "no positive number"),
    "an enormous tile": (TILED | {TILE_W: (LONG, [2**31]), TILE_H: (LONG, [2**31])}, "over the budget"),
    "a tile of enormous depth": (TILED | {DEPTH: (LONG, [2**31])}, "over the budget"),
    "an enormous strip": (PAGE | {WIDTH: (LONG, [60_000]), LENGTH: (LONG, [60_000]), ROWS: (LONG, [60_000])}, "strip"),
    "an enormous image": (
        PAGE | {LENGTH: (LONG, [2**31]), ROWS: (LONG, [2**20]), STRIP_OFFSETS: (LONG, [8] * 2048)},
        "the image it declares",
    ),
    "tiles that are not listed": (TILED | {TILE_W: (LONG, [16]), TILE_H: (LONG, [16])}, "1 tiles, expected 12"),
    "offsets beyond the file": (PAGE | {STRIP_OFFSETS: (LONG, (10, 2**30))}, "beyond the end of the file"),
    "offsets that are no numbers": (PAGE | {STRIP_OFFSETS: (BYTE, [8])}, "no places in the file"),
    "lengths that are no numbers": (TILED | {TILE_BYTES: (BYTE, [8])}, "TileByteCounts: found no numbers of bytes"),
    "lengths beyond the file": (PAGE | {STRIP_BYTES: (LONG, (10, 2**30))}, "StripByteCounts lies beyond the end"),
    "a tile longer than the file": (
        TILED | {TILE_BYTES: (LONG, [2**32 - 1])},
        "TileByteCounts: found 4,294,967,295 in a file of 9,",
    ),
    "a strip longer than the file": (PAGE | {STRIP_BYTES: (LONG, [2**31])}, "StripByteCounts: found 2,147,483,648 in"),
    "a strip beyond the file": (PAGE | {STRIP_OFFSETS: (LONG, [2**31])}, "download it again"),
}  # fmt: skip


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize("kind", LIES)
def test_a_tiff_that_lies_is_refused(tmp_path, kind):
    page, message = LIES[kind]
    refused(tiff(tmp_path / "a.tif", page), message)


@pytest.mark.usefixtures("extra")
def test_pages_that_lead_back_are_refused(tmp_path):
    path = tiff(tmp_path / "a.tif", PAGE, PAGE)
    first = struct.unpack_from("<I", path.read_bytes(), 4)[0]
    refused(tiff(path, PAGE, PAGE, last=first), "lead back")
    refused(tiff(path, PAGE | {SUB: (LONG, [first])}), "lead back")


@pytest.mark.usefixtures("extra")
def test_thousands_of_pages_are_refused(tmp_path):
    refused(tiff(tmp_path / "a.tif", PAGE, *[{WIDTH: (LONG, [1])}] * 4096), "4,097 pages, over the budget of 4,096")
    refused(tiff(tmp_path / "a.tif", PAGE | {SUB: (LONG, [5] * 5000)}), "5,000 pages, over the budget")


@pytest.mark.usefixtures("extra")
def test_pages_that_share_one_large_value_are_refused(tmp_path):
    data = PIXELS.tobytes() + bytes(200_000)
    pages = [PAGE | {700 + n: (BYTE, (8, 200_000)) for n in range(20)}] * 10
    refused(tiff(tmp_path / "a.tif", *pages, data=data), "the values of its tags")


def ome(content: str, *, attributes: str = 'SizeC="3" SizeZ="1" SizeT="1"') -> list[int]:
    text = (
        '<OME UUID="urn:uuid:a"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
        f'SizeX="64" SizeY="48" {attributes}><Channel SamplesPerPixel="3"/>{content}</Pixels></Image></OME>'
    )
    return list(text.encode())


OMES = {
    "planes": ome('<TiffData IFD="0" PlaneCount="999999999"/>'),
    "sizes": ome('<TiffData IFD="0"/>', attributes='SizeC="3" SizeZ="100000" SizeT="100000"'),
    "a place": ome('<TiffData IFD="0" FirstT="999999999"/>', attributes='SizeC="3" SizeZ="1" SizeT="9999999999"'),
    "numbers as entities": ome('<TiffData IFD="0" PlaneCount="&#57;99999999"/>'),
}


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize("kind", OMES)
def test_ome_xml_that_counts_planes_without_end_is_refused(tmp_path, kind):
    refused(tiff(tmp_path / "a.ome.tif", PAGE | {DESCRIPTION: (ASCII, OMES[kind])}), "planes")


@pytest.mark.usefixtures("extra")
def test_ome_xml_with_entities_or_of_other_files_is_refused(tmp_path):
    entities = list(b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><OME>&b;</OME>')
    refused(tiff(tmp_path / "a.ome.tif", PAGE | {DESCRIPTION: (ASCII, entities)}), "entities")
    planes = "".join(f'<TiffData IFD="0"><UUID FileName="../{n}.tif">urn:uuid:{n}</UUID></TiffData>' for n in "ab")
    refused(tiff(tmp_path / "a.ome.tif", PAGE | {DESCRIPTION: (ASCII, ome(planes))}), "in 2 files")


def test_a_scale_is_looked_for_once_however_long_the_text():
    assert slide_base.scale_from_tiff(None, None, 1, "<Pixels " * 300_000 + "PhysicalSize" * 100_000) is None


@pytest.mark.parametrize("page", [PAGE, TILED])
@pytest.mark.parametrize(
    ("compression", "packed"),
    [
        (8, zlib.compress(bytes(40_000_000))),
        (34925, lzma.compress(bytes(40_000_000))),
        (8, zlib.compress(PIXELS.tobytes())[:-2000]),
        (8, b"no deflate"),
    ],
    ids=["deflate", "lzma", "deflate, cut", "something else"],
)
def test_tiles_that_unpack_to_more_or_less_than_their_pixels_are_refused(tmp_path, page, compression, packed):
    pytest.importorskip("tifffile", reason="the extra wsi is not installed")
    sizes = {code: (LONG, [len(packed)]) for code in (STRIP_BYTES, TILE_BYTES) if code in page}
    path = tiff(tmp_path / "a.tif", page | {COMPRESSION: (SHORT, [compression])} | sizes, data=packed)
    refused(path, "cannot be read")


@pytest.mark.parametrize("options", [{"planarconfig": "separate"}, {"metadata": {"axes": "CYX"}}])
def test_separate_channels_larger_than_the_cache_are_decoded_once(tmp_path, monkeypatch, options):
    tifffile = pytest.importorskip("tifffile", reason="the extra wsi is not installed")
    from data_prep import slide_tiff

    monkeypatch.setattr(slide_tiff, "_CACHE_BYTES", 100)
    kind = "rgb" if "planarconfig" in options else "minisblack"
    tifffile.imwrite(tmp_path / "a.ome.tif", np.moveaxis(PIXELS, 2, 0), photometric=kind, rowsperstrip=48, **options)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 64, 48), PIXELS)
        kept = [id(segment) for segment in slide._cache.values()]
        slide.read_region(8, 8, 9, 9)
        assert [id(segment) for segment in slide._cache.values()] == kept
        assert len(kept) == 3


@pytest.mark.parametrize(("across", "most"), [(100, 1.0), (3, 1.8)])
def test_a_thumbnail_decodes_large_tiles_once_and_shows_the_same(tmp_path, monkeypatch, across, most):
    tifffile = pytest.importorskip("tifffile", reason="the extra wsi is not installed")
    from data_prep import slide_tiff

    pixels = np.kron(np.random.default_rng(0).integers(0, 255, (88, 110, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64), compression="zlib")
    decoded = []
    own_pages = slide_tiff._own_pages
    monkeypatch.setattr(slide_tiff, "_own_pages", lambda tile: decoded.append(1) or own_pages(tile))
    monkeypatch.setattr(slide_base, "_BLOCK_PX", 64 * 64)
    monkeypatch.setattr(slide_tiff, "_CACHE_BYTES", 2 * 64 * 64 * 3)
    monkeypatch.setattr(slide_tiff, "_CACHE_ROW_BYTES", across * 3 * 64 * 64 * 3)
    counts, pictures = [], []
    for large in (1 << 20, 64 * 64):
        monkeypatch.setattr(slide_tiff, "_LARGE_PX", large)
        decoded.clear()
        with open_slide(tmp_path / "a.tif") as slide:
            assert isinstance(slide, slide_tiff.TiffSlide)
            pictures.append(slide.thumbnail(100))
            assert sum(tile.nbytes for tile in slide._cache.values()) == slide._cached_bytes <= 2 * 64 * 64 * 3
        counts.append(len(decoded) / (11 * 14))
    np.testing.assert_array_equal(*pictures)
    assert counts[0] > 3
    assert 1 <= counts[1] <= most


def test_tiles_that_share_their_bytes_are_weighed_as_often_as_they_are_listed(tmp_path):
    pytest.importorskip("tifffile", reason="the extra wsi is not installed")
    data = zlib.compress(bytes(2048 * 2048 * 3)) + bytes(500_000)
    page = TILED | {WIDTH: (LONG, [12 * 2048]), LENGTH: (LONG, [12 * 2048]), COMPRESSION: (SHORT, [8])}
    page |= {TILE_W: (LONG, [2048]), TILE_H: (LONG, [2048])}
    page |= {TILE_OFFSETS: (LONG, [8] * 144), TILE_BYTES: (LONG, [len(data) - 500_000] * 144)}
    refused(
        tiff(tmp_path / "a.tif", page, data=data), "unpacking its tiles would take 1,811,939,328 bytes, over the bud"
    )
    page[TILE_BYTES] = (LONG, [len(data) - 500_000] * 40 + [0] * 104)  # where there is no tissue
    with open_slide(tiff(tmp_path / "b.tif", page, data=data)) as slide:
        assert not slide.read_region(0, 0, 4, 4).any()
        assert (slide.read_region(11 * 2048, 11 * 2048, 4, 4) == 255).all()


def test_levels_below_a_page_are_not_taken_for_it(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="the extra wsi is not installed")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        options = {"photometric": "rgb", "tile": (16, 16), "compression": "zlib"}
        file.write(PIXELS, subifds=1, **options)
        file.write(255 - PIXELS[::2, ::2], subfiletype=1, **options)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.thumbnail(32).shape == (24, 32, 3)  # keeps tiles of the smaller level
        np.testing.assert_array_equal(slide.read_region(0, 0, 64, 48), PIXELS)


# PNG


def png(path: Path, *chunks: tuple[bytes, bytes], size: tuple[int, int] = (64, 48), kind: int = 2) -> Path:
    """A PNG of `PIXELS` with more chunks before its pixels."""
    header = struct.pack(">IIBBBBB", *size, 8, kind, 0, 0, 0)
    rows = np.concatenate([np.zeros((48, 1), np.uint8), PIXELS.reshape(48, -1)], axis=1)
    out = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")):
        out += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    path.write_bytes(out)
    return path


@pytest.mark.parametrize("kind", [2, 6])
def test_a_small_png_of_many_pixels_is_refused_by_what_decoding_takes(tmp_path, monkeypatch, kind):
    loaded = []
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: loaded.append(self))
    refused(
        png(tmp_path / "a.png", size=(31_000, 31_000), kind=kind), r"decoding it whole would take 6,727,000,000 bytes"
    )
    assert not loaded


def test_png_text_is_bounded_and_the_first_frame_is_the_slide(tmp_path):
    bomb = zlib.compress(bytes(30_000_000))
    refused(png(tmp_path / "a.png", (b"zTXt", b"a\0\0" + bomb)), "cannot be read")
    refused(png(tmp_path / "a.png", (b"iCCP", b"a\0\0" + bomb)), "cannot be read")
    frame = struct.pack(">IIIIIHHBB", 0, 64, 48, 0, 0, 1, 1, 0, 0)
    path = png(tmp_path / "a.png", (b"acTL", struct.pack(">II", 2**31 - 1, 0)), (b"fcTL", frame))
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 64, 48), PIXELS)


def test_a_png_whose_header_is_not_first_is_refused(tmp_path):
    path = png(tmp_path / "a.png")
    data = path.read_bytes()
    path.write_bytes(data[:8] + struct.pack(">I", 0) + b"tEXt" + struct.pack(">I", zlib.crc32(b"tEXt")) + data[8:])
    refused(path, "does not begin with a header")


# JPEG


def jpeg(**options) -> bytes:
    data = io.BytesIO()
    Image.fromarray(PIXELS).save(data, "JPEG", **options)
    return data.getvalue()


@pytest.mark.parametrize("simple", [True, False])
def test_a_progressive_jpeg_of_a_thousand_scans_is_refused(tmp_path, monkeypatch, simple):
    if not simple:
        monkeypatch.setattr(slide_module, "simplejpeg", None)
    data = jpeg(progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(data[:-2] + last * 1000 + data[-2:])
    refused(tmp_path / "a.jpg", r"1,0\d\d scans, over the budget of 100 .*STJAX_BUDGET=11")


def test_few_scans_of_many_pixels_are_refused(tmp_path):
    data = bytearray(jpeg(progressive=True))
    struct.pack_into(">HH", data, data.index(b"\xff\xc2") + 5, 10_000, 10_000)
    last = data[data.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(data[:-2] + last * 20 + data[-2:])
    refused(tmp_path / "a.jpg", "pixels in all scans together")


def test_what_looks_like_scans_in_metadata_is_none(tmp_path):
    marks = b"\xff\xda" * 200
    data = jpeg(comment=marks)
    (tmp_path / "a.jpg").write_bytes(data + marks)
    with open_slide(tmp_path / "a.jpg") as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 64, 48), np.asarray(Image.open(io.BytesIO(data))))


def test_a_jpeg_of_more_pixels_than_its_bytes_justify_is_refused(tmp_path):
    data = bytearray(jpeg())
    place = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, place + 5, 31_000, 31_000)
    (tmp_path / "a.jpg").write_bytes(data)
    refused(tmp_path / "a.jpg", "decoding it whole would take")


def test_a_jpeg_with_two_sizes_is_refused(tmp_path):
    data = jpeg()
    place = data.index(b"\xff\xc0")
    frame = bytearray(data[place : place + 2 + data[place + 3]])
    struct.pack_into(">HH", frame, 5, 4000, 5000)
    (tmp_path / "a.jpg").write_bytes(data[:place] + frame + data[place:])
    refused(tmp_path / "a.jpg", "cannot be read")


def test_what_a_decoder_says_is_cut_and_cleaned(tmp_path):
    with pytest.raises(InputError) as caught, slide_base.decoding(tmp_path / "a.png"):
        raise ValueError("\x1b[31m" + "long " * 5000)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))
    assert str(caught.value).isprintable()
