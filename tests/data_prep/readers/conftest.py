"""Small demo sources to damage: written once per layout, copied per test."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import demo

Source = Callable[[str], Path]


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Source:
    made: dict[str, Path] = {}

    def original(layout: str) -> Path:
        if layout not in made:
            out = tmp_path_factory.mktemp("originals") / layout
            options = {"patients": 2, "sections_per_patient": 1, "spots": 4, "um_per_px": 4.0, "seed": 1}
            made[layout] = demo.make_demo(out, layout=layout, **options)
        return made[layout]

    return original


@pytest.fixture
def source(originals: Source, tmp_path: Path) -> Source:
    def copy(layout: str) -> Path:
        return Path(shutil.copytree(originals(layout), tmp_path / layout))

    return copy
