"""The checks that `check` reports and `build` stops on."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from PIL import Image

from data_prep import checks, patients, slide
from data_prep.checks import ERROR, NOTE, WARNING, Found
from data_prep.section import GeneTable, Section
from data_prep.spots import Spots

GRID = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2).astype(np.float64)


@pytest.fixture
def section(tmp_path: Path) -> Section:
    """8 x 8 spots, 100 px apart, on a grey image without a scale: 1.5 um per px gives 150 um, so 2 gives legacy ST."""
    Image.new("L", (900, 900), 200).save(tmp_path / "a.png")
    return Section(
        name="A1",
        patient="A",
        image_path=tmp_path / "a.png",
        genes=GeneTable(np.array(["ENSG1"]), np.array(["X"])),
        counts=scipy.sparse.csr_array(np.ones((64, 1), np.int32)),
        spots=Spots.discs(GRID * 100 + 50, np.float32(25)),
        um_per_px=2.0,
        um_per_px_source="spot pitch",
        layout="her2st",
    )


def found(section: Section, change: Callable[[slide.Slide], None] = lambda _: None) -> list[tuple[str, str]]:
    """(check, level) of what is wrong with where the spots lie."""
    with slide.open_slide(section.image_path) as image:
        change(image)
        return [(problem.check, problem.level) for problem in checks.placed(section, image)]


def test_a_sound_section_has_no_problem(section: Section) -> None:
    assert found(section) == []


def test_pitch_is_an_error_unless_the_user_states_the_scale(section: Section) -> None:
    spots = Spots.discs(section.spots.xy, np.float32(50 / 1.2))
    wrong = dataclasses.replace(section, um_per_px=1.2, um_per_px_source="file", spots=spots)
    assert found(wrong) == [("pitch", ERROR)]
    assert found(dataclasses.replace(wrong, um_per_px_source="user")) == [("pitch", WARNING)]


@pytest.mark.parametrize(
    ("stated", "source", "level"),
    [
        (2.1, "spot pitch", None),
        (2.6, "spot pitch", WARNING),
        (0.25, "spot pitch", ERROR),
        (6.3, "file", ERROR),
        (0.25, "user", WARNING),
        (0.25, "metadata", WARNING),
        (1.0, "spot pitch", NOTE),
        (10.0, "spot pitch", NOTE),
    ],
)
def test_the_images_own_scale_may_contradict(section: Section, stated: float, source: str, level: str | None) -> None:
    def state(image: slide.Slide) -> None:
        image.um_per_px = stated

    assert found(dataclasses.replace(section, um_per_px_source=source), state) == ([("scale", level)] if level else [])


@pytest.mark.parametrize(
    ("um_per_px", "times"), [(2.0, None), (2.5, "5 times"), (5.0, "10 times"), (6.34, "12.7 times")]
)
def test_an_image_that_shows_no_nucleus_is_said_to(section: Section, um_per_px: float, times: str | None) -> None:
    with slide.open_slide(section.image_path) as image:
        problems = checks.of_image(image, um_per_px)
        assert [problem.level for problem in problems] == ([WARNING] if times else [])
        assert all(f"{times} coarser than 0.5: no nucleus" in problem.text for problem in problems)


def test_an_orientation_tag_and_notes_of_the_reader_are_said(section: Section) -> None:
    def turn(image: slide.Slide) -> None:
        image.orientation, image.notes = 6, ("a note",)

    assert found(section, turn) == [("scale", NOTE), ("orientation", WARNING)]


@pytest.mark.parametrize(
    ("factor", "shift", "level"),
    [
        (1.0, (300, 0), WARNING),  # over one border: cropped, perhaps
        (1.0, (-60, -60), WARNING),
        (1.25, (0, 0), ERROR),  # over the right and the lower one: the image is smaller than where spots were placed
        (4.0, (0, 0), ERROR),
        (0.3, (0, 0), WARNING),  # all in the upper left: it is larger
        (0.1, (0, 0), ERROR),
        (0.3, (400, 0), None),
    ],
)
def test_spots_that_do_not_fit_the_image_are_seen(
    section: Section, factor: float, shift: tuple[int, int], level: str | None
) -> None:
    spots = dataclasses.replace(section.spots, xy=section.spots.xy * factor + shift)
    moved = dataclasses.replace(section, spots=spots, um_per_px=2.0 / factor)
    assert [found_level for check, found_level in found(moved) if check == "outside"] == ([level] if level else [])


def only(section: Section, rows: np.ndarray) -> Section:
    return dataclasses.replace(section, spots=section.spots[rows], counts=section.counts[rows])


@pytest.mark.parametrize(("rows", "expected"), [(GRID[:, 0] < 6, [ERROR]), (GRID[:, 1] == 3, [])])
def test_few_spots_say_nothing_of_orientation(section: Section, rows: np.ndarray, expected: list[str]) -> None:
    pixels = np.full((900, 900), 240, np.uint8)
    pixels[:, 500:] = 90  # tissue on the right, where mirrored spots would lie
    Image.fromarray(pixels).save(section.image_path)
    with slide.open_slide(section.image_path) as image:
        problems = checks.examine(only(section, np.flatnonzero(rows)), image, image.thumbnail(500)).problems
    assert [problem.level for problem in problems if problem.check == "orientation"] == expected


def test_what_is_found_survives_json(section: Section) -> None:
    with slide.open_slide(section.image_path) as image:
        result = checks.examine(section, image, image.thumbnail(100))
    assert Found.from_json(dataclasses.asdict(result)) == result
    assert (result.width, result.height, result.name) == (900, 900, "A1")


def one(name: str, patient: str, *, image: str = "", path: str = "", counts: str = "") -> Found:
    return Found(name, patient, patients.FILE, image_path=path, image_sha256=image, counts_sha256=counts)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ([one("A1", "A", image="1", path="a"), one("B1", "B", image="1", path="b")], [("duplicates", ERROR)]),
        ([one("A1", "A", counts="1"), one("B1", "B", counts="1")], [("duplicates", ERROR)]),
        ([one("A1", "A", image="1", path="a"), one("B1", "B", image="1", path="a")], [("duplicates", WARNING)]),
        ([one("A1", "A", image="1", path="a"), one("A2", "A", image="1", path="a"), one("B1", "B")], []),
        (
            [one("A1", "A", image="1", path="a"), one("A2", "A", image="1", path="b"), one("B1", "B")],
            [("duplicates", WARNING)],
        ),
        ([one("A1", "P 1"), one("B1", "p-1")], [("patients", WARNING)]),
        ([one("A1", "A"), one("A2", "A")], [("patients", WARNING)]),
        ([one("A1", "A"), one("B1", "B")], []),
    ],
)
def test_sections_are_compared(sections: list[Found], expected: list[tuple[str, str]]) -> None:
    assert [(problem.check, problem.level) for problem in checks.across(sections)] == expected
