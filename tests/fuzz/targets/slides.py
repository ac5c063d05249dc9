"""Slide images: opened, their scale, a thumbnail and two regions; TIFF with the extra `wsi` and without."""

import io
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
from PIL import Image

from data_prep import demo_spatialdata, slide
from tests.fuzz.targets import Facts, Target, facts

_REGION_PX = 300


def _pixels() -> np.ndarray:
    rows, columns = np.mgrid[:80, :112]
    image = np.stack([rows * 3, columns * 2, (rows * columns) % 251], axis=2)
    return image.astype(np.uint8)


class _Slide(Target):
    name = ""
    extra = True

    def use(self, folder: Path) -> Facts:
        found = slide._optional if self.extra else lambda _name: None
        with mock.patch.object(slide, "_optional", found), slide.open_slide(folder / self.name) as opened:
            small = opened.thumbnail(40)
            width, height = min(opened.width, _REGION_PX), min(opened.height, _REGION_PX)
            regions = [
                opened.read_region(0, 0, width, height),
                opened.read_region(opened.width - width // 2, opened.height - height // 2, width, height),
            ]
            said = {"size": (opened.width, opened.height), "scale": opened.um_per_px, "notes": opened.notes}
            return facts(said | {"orientation": opened.orientation, "small": small, "regions": np.concatenate(regions)})


class Jpeg(_Slide):
    """Progressive, with EXIF."""

    name = "slide.jpg"

    def make(self, folder: Path) -> None:
        exif = Image.Exif()
        exif[274] = 1
        Image.fromarray(_pixels()).save(folder / self.name, quality=90, progressive=True, exif=exif, dpi=(300, 300))


class JpegBaseline(_Slide):
    """Baseline, in CMYK, which goes through Pillow."""

    name = "slide.jpg"

    def make(self, folder: Path) -> None:
        Image.fromarray(_pixels()).convert("CMYK").save(folder / self.name, quality=90)


class Png(_Slide):
    """RGB with text and a scale."""

    name = "slide.png"

    def make(self, folder: Path) -> None:
        Image.fromarray(_pixels()).save(folder / self.name, dpi=(25_400, 25_400))


class PngPalette(_Slide):
    """A palette with transparency."""

    name = "slide.png"

    def make(self, folder: Path) -> None:
        Image.fromarray(_pixels()).quantize(32).save(folder / self.name, transparency=3)


class _Tiff(_Slide):
    name = "slide.tif"
    options: ClassVar[dict[str, Any]] = {}

    def make(self, folder: Path) -> None:
        import tifffile

        tifffile.imwrite(folder / self.name, _pixels(), photometric="rgb", **self.options)


class TiffTiles(_Tiff):
    """Deflated tiles with a predictor."""

    options: ClassVar = {"tile": (32, 48), "compression": "zlib", "predictor": True, "resolution": (20_000, 20_000)}


class TiffStrips(_Tiff):
    """Strips, not compressed, big-endian."""

    options: ClassVar = {
        "rowsperstrip": 16,
        "byteorder": ">",
        "description": "Aperio-like\nMPP = 0.5",
        "metadata": None,
    }


class TiffPyramid(_Tiff):
    """BigTIFF, smaller levels below the page."""

    def make(self, folder: Path) -> None:
        import tifffile

        with tifffile.TiffWriter(folder / self.name, bigtiff=True) as file:
            options = {"photometric": "rgb", "tile": (16, 16), "compression": "zlib"}
            file.write(_pixels(), subifds=2, **options)
            file.write(_pixels()[::2, ::2], subfiletype=1, **options)
            file.write(_pixels()[::4, ::4], subfiletype=1, **options)


class TiffOme(_Tiff):
    """OME-TIFF of three planes."""

    name = "slide.ome.tif"

    def make(self, folder: Path) -> None:
        import tifffile

        name = "urn:uuid:00000000-0000-0000-0000-000000000001"  # else a new one each time
        sizes = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "UUID": name}
        planes = np.moveaxis(_pixels(), 2, 0)
        tifffile.imwrite(folder / self.name, planes, photometric="minisblack", tile=(32, 32), metadata=sizes)


class TiffJpeg(_Slide):
    """Tiles in JPEG, read by OpenSlide or Pillow where tifffile lacks the codec."""

    name = "slide.tif"
    description: str | None = None
    compression = 7, 6

    @staticmethod
    def encode(pixels: np.ndarray) -> bytes:
        """One tile."""
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG", quality=90, subsampling=0)
        return data.getvalue()

    def make(self, folder: Path) -> None:
        import tifffile

        padded = np.pad(_pixels(), ((0, 16), (0, 16), (0, 0)), mode="edge")
        tiles = [self.encode(padded[y : y + 32, x : x + 32]) for y in (0, 32, 64) for x in (0, 32, 64, 96)]
        options = {"tile": (32, 32), "compression": "zlib", "predictor": False, "photometric": "rgb"}
        said = {"description": self.description, "metadata": None} if self.description else {}
        tifffile.imwrite(folder / self.name, iter(tiles), shape=(80, 112, 3), dtype=np.uint8, **options, **said)
        with tifffile.TiffFile(folder / self.name, mode="r+") as file:  # it writes no JPEG without imagecodecs
            file.pages.first.tags["Compression"].overwrite(self.compression[0])
            file.pages.first.tags["PhotometricInterpretation"].overwrite(self.compression[1])


class Svs(TiffJpeg):
    """Aperio's, read by OpenSlide."""

    name = "slide.svs"
    description = "Aperio Image Library v1\r\n112x80 [0,0 112x80] (32x32)|AppMag = 20|MPP = 0.4990"


class SvsJpeg2000(Svs):
    """Aperio's with tiles in JPEG 2000."""

    compression = 33005, 2

    @staticmethod
    def encode(pixels: np.ndarray) -> bytes:
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG2000", no_jp2=True, mct=0)
        return data.getvalue()


class TiffLzw(_Slide):
    """Strips in LZW, which Pillow reads."""

    name = "slide.tif"

    def make(self, folder: Path) -> None:
        Image.fromarray(_pixels()).save(folder / self.name, compression="tiff_lzw")


class TiffTilesPillow(TiffTiles):
    """Without the extra."""

    extra = False


class TiffStripsPillow(TiffStrips):
    """Without the extra."""

    extra = False


class TiffJpegPillow(TiffJpeg):
    """Without the extra."""

    extra = False


class OmeZarr(_Slide):
    """OME-Zarr of version 3, two levels."""

    name = "slide.ome.zarr"
    only = ("*.json", "*.json", "*")

    def make(self, folder: Path) -> None:
        demo_spatialdata.write_image(folder / self.name, _pixels(), levels=2)
