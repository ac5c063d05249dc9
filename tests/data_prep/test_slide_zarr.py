"""OME-Zarr slides: the pixels that were written, whatever the version, axes and chunks; what is no slide is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

import stjax
from data_prep import files
from data_prep.errors import InputError
from data_prep.slide import open_slide
from data_prep.slide_base import is_slide, stem
from stjax.inference.sources import open_source

WIDTH, HEIGHT = 700, 530
UNITS = {"t": "", "c": "", "z": "", "y": "micrometer", "x": "micrometer"}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([128 + 100 * np.sin(rows / 30), 120 + 90 * np.cos(columns / 40), (rows + columns) / 5], axis=2)
    return np.clip(image, 0, 255).astype(np.uint8)


def arranged(pixels: np.ndarray, axes: str) -> np.ndarray:
    """[H, W, C] as an array of some axes."""
    order = [axis for axis in axes if axis in "yxc"]
    found = np.transpose(pixels, ["yxc".index(axis) for axis in order])
    return found.reshape([1 if axis in "tz" else found.shape[order.index(axis)] for axis in axes])


def attributes(axes: str, um: float, levels: int, version: str, **about) -> dict:
    listed = [{"name": axis} | ({"unit": UNITS[axis]} if UNITS[axis] else {}) for axis in axes]
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [um * 2**level if axis in "yx" else 1.0 for axis in axes]}
            ],
        }
        for level in range(levels)
    ]
    entry = {"axes": listed, "datasets": datasets}
    if version == "0.5":
        return {"ome": {"version": version, "multiscales": [entry], **about}}
    return {"multiscales": [entry | {"version": version}], **about}


def write(path: Path, pixels: np.ndarray, *, axes="cyx", um=0.5, version="0.5", levels=2, chunk=256, **options) -> Path:
    """An image, its coarser levels every second pixel."""
    about = options.pop("about", {})
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    for level in range(levels):
        data = arranged(pixels[:: 2**level, :: 2**level], axes)
        chunks = tuple(min(chunk, size) if axis in "yx" else size for axis, size in zip(axes, data.shape, strict=True))
        group.create_array(str(level), data=data, chunks=chunks, **options)
    group.attrs.update(attributes(axes, um, levels, version, **about))
    return path


@pytest.mark.parametrize(
    ("axes", "options"),
    [
        ("cyx", {}),
        ("cyx", {"version": "0.4"}),
        ("tczyx", {"version": "0.4", "chunk": 100}),
        ("yxc", {"chunk": 1024}),
        ("cyx", {"chunk": 64, "shards": (3, 576, 704), "levels": 1}),
        ("cyx", {"compressors": None}),
    ],
)
def test_regions_are_the_pixels_that_were_written(tmp_path, pixels, axes, options):
    path = write(tmp_path / "A1.ome.zarr", pixels, axes=axes, **options)
    with open_slide(path) as slide:
        assert (slide.width, slide.height, slide.um_per_px, slide.format) == (WIDTH, HEIGHT, 0.5, "ome-zarr")
        np.testing.assert_array_equal(slide.read_region(0, 0, WIDTH, HEIGHT), pixels)
        np.testing.assert_array_equal(slide.read_region(311, 190, 280, 330), pixels[190:520, 311:591])
        outside = slide.read_region(-10, HEIGHT - 5, 30, 10)
        assert (outside[:, :10] == 255).all()
        assert (outside[5:] == 255).all()
        np.testing.assert_array_equal(outside[:5, 10:], pixels[-5:, :20])


def test_a_thumbnail_is_made_of_a_coarse_level(tmp_path, pixels):
    path = write(tmp_path / "A1.ome.zarr", pixels)
    with open_slide(path) as slide:
        expected = slide.thumbnail(100)
    for file in (path / "0" / "c").rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.thumbnail(100), expected)
        with pytest.raises(InputError, match=r"A1\.ome\.zarr: the image cannot be read"):
            slide.read_region(0, 0, 10, 10)
    assert np.abs(expected.mean(axis=(0, 1)) - pixels.mean(axis=(0, 1))).max() < 2


@pytest.mark.parametrize(
    ("unit", "um", "expected"),
    [("nanometer", 250.0, 0.25), ("millimeter", 0.0005, 0.5), ("pixel", 0.5, None), ("micrometer", 300.0, None)],
)
def test_the_scale_is_known_where_units_say_so_and_microscopes_have_it(
    tmp_path, pixels, monkeypatch, unit, um, expected
):
    monkeypatch.setitem(UNITS, "x", unit)
    monkeypatch.setitem(UNITS, "y", unit)
    with open_slide(write(tmp_path / "a.ome.zarr", pixels[:64, :64], um=um)) as slide:
        assert slide.um_per_px == (expected if expected is None else pytest.approx(expected))


def test_the_scale_of_all_levels_counts_too(tmp_path, pixels):
    path = write(tmp_path / "a.ome.zarr", pixels[:64, :64], um=1.0)
    meta = json.loads((path / "zarr.json").read_text())
    step = {"type": "scale", "scale": [1.0, 0.25, 0.25]}
    meta["attributes"]["ome"]["multiscales"][0]["coordinateTransformations"] = [step]
    (path / "zarr.json").write_text(json.dumps(meta))
    with open_slide(path) as slide:
        assert slide.um_per_px == 0.25


def test_of_several_images_of_bioformats2raw_the_first_is_read_and_said(tmp_path, pixels):
    root = tmp_path / "a.ome.zarr"
    zarr.open_group(root, mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    write(root / "0", pixels, axes="tczyx", version="0.4")
    write(root / "1", pixels[:50, :60], axes="tczyx", version="0.4", levels=1)
    with open_slide(root) as slide:
        assert (slide.width, slide.height) == (WIDTH, HEIGHT)
        assert "holds 2 images" in slide.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"about": {"plate": {}}}, "a plate, expected one slide"),
        ({"about": {"image-label": {}}}, "an image of labels"),
        ({"version": "0.3"}, r"OME-Zarr '0\.3', expected 0\.4 or 0\.5"),
        ({"about": {"omero": {"channels": [{"label": "DAPI"}, {"label": "FITC"}, {"label": "Cy3"}]}}}, "DAPI"),
        ({"pixels": np.zeros((40, 50, 3), np.uint16)}, "uint16"),
        ({"pixels": np.zeros((40, 50, 4), np.uint8)}, "expected uint8 with 3 channels"),
        ({"levels": 0}, "0 levels"),
    ],
)
def test_what_is_no_rgb_slide_is_refused_in_a_line(tmp_path, pixels, options, message):
    path = write(tmp_path / "a.ome.zarr", options.pop("pixels", pixels[:40, :50]), **options)
    with pytest.raises(InputError, match=message) as error:
        open_slide(path)
    assert "\n" not in str(error.value)


def test_folders_that_hold_no_image_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    zarr.open_group(tmp_path / "s.zarr", mode="w").attrs["spatialdata_attrs"] = {"version": "0.2"}
    with pytest.raises(InputError, match="found a folder, expected a slide"):
        open_slide(tmp_path / "empty")
    with pytest.raises(InputError, match="a SpatialData store; its slides are in images/"):
        open_slide(tmp_path / "s.zarr")


def changed(path: Path, change) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_codecs_that_do_more_than_unpack_and_huge_chunks_are_refused(tmp_path, pixels):
    path = write(tmp_path / "a.ome.zarr", pixels, version="0.4")
    changed(path / "0" / ".zarray", lambda meta: meta.update(filters=[{"id": "pickle"}]))
    with pytest.raises(InputError, match="codec 'pickle' is not read"):
        open_slide(path)
    path = write(tmp_path / "b.ome.zarr", pixels)
    changed(
        path / "0" / "zarr.json",
        lambda meta: meta["chunk_grid"]["configuration"].update(chunk_shape=[3, 1 << 16, 1 << 16]),
    )
    with pytest.raises(InputError, match="a chunk it declares would take"):
        open_slide(path)
    path = write(tmp_path / "c.ome.zarr", pixels)
    changed(
        path / "zarr.json", lambda meta: meta["attributes"]["ome"]["multiscales"][0]["datasets"][0].update(path="../b")
    )
    with pytest.raises(InputError, match="path"):
        open_slide(path)


def test_a_model_predicts_it_as_the_same_pixels_elsewhere(tmp_path, pixels):
    model = stjax.load(Path(__file__).parents[1] / "stjax" / "data" / "exported")
    spots = np.array([[200.0, 150.0], [420.0, 300.0]])
    expected = model.predict(pixels, spots, um_per_px=0.5)
    found = model.predict(write(tmp_path / "slides" / "A1.ome.zarr", pixels), spots)
    np.testing.assert_array_equal(found.expression, expected.expression)
    source = open_source(tmp_path / "slides", layout="auto", sections=(), um_per_px=None, resolve_aliases=False)
    assert source.names == ("A1",)
    assert source.read("A1").um_per_px == 0.5


def test_a_folder_is_a_slide_by_its_name_and_is_hashed_by_its_files(tmp_path, pixels):
    path = write(tmp_path / "A1.ome.zarr", pixels[:64, :64])
    assert is_slide(path)
    assert not is_slide(tmp_path)
    assert stem(path) == "A1"
    before = files.sha256(path)
    shutil.copytree(path, tmp_path / "copy")
    assert files.sha256(tmp_path / "copy") == before
    next(file for file in (path / "1" / "c").rglob("*") if file.is_file()).write_bytes(b"other")
    assert files.sha256(path) != before
