"""`predict --areas`: squares, discs and polygons of a file on slides; of a layout what its reader makes of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep import demo, readers
from data_prep.errors import InputError
from data_prep.slide import open_slide
from data_prep.spots import DISC, POLYGON, SQUARE
from stjax import predict
from stjax.inference.sources import open_source, place_spots

MODEL = Path(__file__).parent / "data" / "exported"
UM = 0.5
CORNERS = {"tumour": (60, 80), "stroma": (150.5, 160)}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    pixels = np.random.default_rng(3).integers(30, 220, (20, 26, 3)).astype(np.uint8).repeat(15, 0).repeat(15, 1)
    for name in ("a", "b"):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def write(path: Path, corners=CORNERS) -> Path:
    """Squares of 40 px from their corners on, as GeoJSON."""
    features = [
        {"type": "Feature", "id": name, "properties": {}, "geometry": {"type": "Polygon", "coordinates": [
            [[x, y], [x + 40, y], [x + 40, y + 40], [x, y + 40], [x, y]]]}}
        for name, (x, y) in corners.items()
    ]  # fmt: skip
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def sources(path, areas, **options):
    how = {"layout": "auto", "sections": (), "um_per_px": UM, "resolve_aliases": False} | options
    return open_source(path, areas=areas, **how)


def laid(path, areas):
    source = sources(path, areas)
    with open_slide(path) as slide:
        assert source.bare
        return place_spots(source.read(source.names[0]), slide, source.array, min_tissue=0, window_px=0)[0].spots


def test_squares_lie_edge_to_edge_and_discs_in_a_hexagonal_pattern(slides):
    squares, discs = laid(slides / "a.png", "squares:20"), laid(slides / "a.png", "discs:10:25")
    assert set(squares.kind) == {SQUARE}
    assert set(squares.size_px) == {40}
    assert len(squares) == (390 // 40) * (300 // 40)
    np.testing.assert_allclose(np.unique(np.diff(np.unique(squares.xy[:, 0]))), 40)
    assert set(discs.kind) == {DISC}
    assert set(discs.size_px) == {10}
    nearest = np.linalg.norm(discs.xy[1:] - discs.xy[0], axis=1).min()
    assert nearest == pytest.approx(50)


def test_polygons_of_a_file_are_predicted_under_their_ids(slides, tmp_path):
    areas = write(tmp_path / "regions.geojson")
    command = [f"--model={MODEL}", f"--source={slides / 'a.png'}", f"--source-um-per-px={UM}", "--formats=csv"]
    predict.main([*command, f"--areas={areas}", f"--out={tmp_path / 'out'}"])
    found = pd.read_csv(tmp_path / "out" / "a.csv")
    assert found["spot_id"].tolist() == list(CORNERS)
    np.testing.assert_allclose(found[["x_px", "y_px"]], np.array(list(CORNERS.values())) + 20)


def test_of_several_slides_each_has_a_file(slides, tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.geojson", {f"{name}1": (50, 60)})
    source = sources(slides, str(tmp_path))
    assert not source.bare
    for name in ("a", "b"):
        spots = source.read(name).spots
        assert (spots.id.tolist(), set(spots.kind)) == ([f"{name}1"], {POLYGON})
    (tmp_path / "b.geojson").unlink()
    with pytest.raises(InputError, match=r"of slide b there is none, expected one file, such as b\.geojson"):
        sources(slides, str(tmp_path))


def test_a_layout_makes_of_them_what_build_has(tmp_path):
    raw = demo.make_demo(tmp_path / "raw", layout="xenium", patients=1, sections_per_patient=1, spots=3, um_per_px=4.0)
    found = sources(raw, "squares:100", um_per_px=None).read("A1").spots
    expected = readers.reader("xenium").read_section(raw, "A1", areas="squares:100").spots
    np.testing.assert_array_equal(found.id, expected.id)
    assert set(found.kind) == {SQUARE}


def test_what_says_nothing_of_these_slides_is_refused(slides, tmp_path):
    areas = write(tmp_path / "far.geojson", {"far": (5000, 5000)})
    with pytest.raises(InputError, match="is one file, but there are 2 slides"):
        sources(slides, str(areas))
    with pytest.raises(InputError, match="every spot lies outside the image of 390 x 300 px"):
        sources(slides / "a.png", str(areas)).read("a")
    for text in ("cells", "squares", "discs:100:50", "nowhere.geojson"):
        with pytest.raises(InputError, match=r"--areas is .*; or a file of polygons"):
            sources(slides, text)
    command = [f"--model={MODEL}", f"--source={slides}", f"--out={tmp_path / 'out'}", "--areas=squares:100"]
    with pytest.raises(InputError, match="--areas says where to predict, and so does --pitch-um"):
        predict.main([*command, "--pitch-um=100"])
