"""The scale of a section: what the user states wins, guesses are called guesses, contradictions are said."""

import pytest

from data_prep import readers
from data_prep.errors import InputError
from data_prep.readers import _sections
from tests.data_prep.readers.conftest import Source

KNOWN = {"user_um": 0.5, "file_um": 0.6, "pitch_um": 0.7, "image_um": 0.8}
SOURCES = ["user", "file", "spot pitch", "image file"]


@pytest.mark.parametrize("first", range(4))
def test_the_first_that_is_known_is_taken_and_the_others_contradict_it(first: int) -> None:
    known = dict.fromkeys(KNOWN) | dict(list(KNOWN.items())[first:])
    value, source, notes = _sections.scale("A1", **known, remedy="")
    assert (value, source) == (list(KNOWN.values())[first], SOURCES[first])
    for other, other_source in zip(list(KNOWN.values())[first + 1 :], SOURCES[first + 1 :], strict=True):
        said = f"um_per_px is {value:g} from the {source}; the {other_source} says {other:g}"
        assert said in notes


@pytest.mark.parametrize("default", [1.0, 10.0])
def test_a_writers_default_is_called_doubtful(default: float) -> None:
    scale, source, notes = _sections.scale("A1", user_um=None, image_um=default, remedy="")
    assert (scale, source) == (default, "image file")
    assert "doubtful" in notes[0]
    assert "--source-um-per-px" in notes[0]
    assert _sections.scale("A1", user_um=None, image_um=0.5, remedy="") == (0.5, "image file", ())
    assert _sections.scale("A1", user_um=default, remedy="")[2] == ()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "0.5", True])
def test_a_scale_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="expected a positive number"):
        _sections.scale("A1", user_um=None, file_um=value, remedy="")
    with pytest.raises(InputError, match=r"--source-um-per-px is 688 .* did you mean 0\.688"):
        _sections.scale("A1", user_um=688.0, remedy="")
    with pytest.raises(InputError, match="not known; give it"):
        _sections.scale("A1", user_um=None, remedy="give it")


@pytest.mark.parametrize("layout", ["her2st", "stnet", "visium", "visium_hd", "hest", "anndata"])
def test_what_the_user_states_wins_in_every_layout_and_the_contradiction_is_noted(source: Source, layout: str) -> None:
    root = source(layout)
    module, _ = readers.find_layout(root)
    name = module.list_sections(root)[0]
    before, section = module.read_section(root, name), module.read_section(root, name, um_per_px=3.0)
    assert (section.um_per_px, section.um_per_px_source) == (3.0, "user")
    assert any("um_per_px is 3 from the user; the" in note and "says 4" in note for note in section.notes)
    assert not any("from the user" in note for note in before.notes)
    if layout != "hest" and section.spots.kind[0] == before.spots.kind[0]:  # the spot's size in um stays what it is
        ratio = section.spots.size_px[0] * section.um_per_px / (before.spots.size_px[0] * before.um_per_px)
        assert ratio == pytest.approx(1)
