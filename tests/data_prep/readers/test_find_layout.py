"""A source that is not there, or a level too high, is met with where to look."""

from pathlib import Path

import pytest
from PIL import Image

from data_prep import readers
from data_prep.errors import InputError
from data_prep.readers import _sections, stnet
from data_prep.slide_base import SLIDE_SUFFIXES
from stjax.inference import sources
from tests.data_prep.readers.conftest import Source


def refused(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        readers.find_layout(path)
    return str(raised.value)


@pytest.mark.parametrize("layout", ["her2st", "visium", "visium_hd", "hest", "anndata"])
def test_a_folder_too_high_names_the_data_set_below(source: Source, tmp_path: Path, layout: str) -> None:
    root = source(layout)
    high = tmp_path / "high" / "raw"
    high.mkdir(parents=True)
    moved = root.rename(high / "mine")
    (high / "notes.txt").write_text("no data")
    for path in (high, high.parent) if layout == "her2st" else (high.parent,):
        assert f"data sets lie below it, give one: {moved} ({layout})" in refused(path)


def test_several_data_sets_below_are_named(tmp_path: Path) -> None:
    for name in ("one", "two", "three", "four"):
        (tmp_path / name / "ST-cnts").mkdir(parents=True)
        (tmp_path / name / "ST-spotfiles").mkdir()
    assert refused(tmp_path).endswith(f"{tmp_path / 'three'} (her2st) and 1 more")


def test_a_pattern_is_called_one(tmp_path: Path) -> None:
    said = refused(tmp_path / "slides" / "*.jpg")
    assert said == (
        f"{tmp_path}/slides/*.jpg: is a pattern, which nobody expands here; give the folder that holds the data set: "
        f"{tmp_path}/slides"
    )
    assert "no such file or folder" in refused(tmp_path / "slides")


@pytest.mark.parametrize("suffix", SLIDE_SUFFIXES)
def test_one_list_of_suffixes_serves_readers_and_prediction(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"HE_A1{suffix.upper()}"
    path.write_bytes(b"not looked into")
    assert _sections.images_in(tmp_path) == [path]
    assert sources._images(tmp_path) == [path]
    assert stnet._PATTERNS["image"].match(path.name)


def test_slides_a_level_below_are_named_for_prediction(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "slides" / "a.png")
    options = {"sections": (), "um_per_px": None, "resolve_aliases": False}
    for layout in ("auto", sources.SLIDES):
        with pytest.raises(InputError, match=f"give the folder with the slides: {tmp_path / 'slides'}"):
            sources.open_source(tmp_path, layout=layout, **options)
    with pytest.raises(InputError, match="is a pattern, which nobody expands here; give a slide"):
        sources.open_source(tmp_path / "slides" / "*.png", layout="auto", **options)
    with pytest.raises(InputError, match=r"--source-um-per-px is 250 .* did you mean 0\.25\?"):
        sources.open_source(tmp_path / "slides", layout="auto", **options | {"um_per_px": 250.0})
