"""Prediction through Beam; run whole where the extra `beam` is installed."""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep import beam
from data_prep.errors import InputError
from stjax import predict, predict_beam
from tests.conftest import ROOT

MODEL = ROOT / "tests/stjax/data/exported"


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder, rng = tmp_path / "slides", np.random.default_rng(0)
    folder.mkdir()
    for number in range(5):
        pixels = np.full((160, 160, 3), 245, np.uint8)
        pixels[40:120, 40:120] = rng.integers((150, 80, 140), (210, 140, 200), (80, 80, 3))
        Image.fromarray(pixels).save(folder / f"slide_{number}.png")
    return folder


def arguments(slides: Path, out: Path) -> list[str]:
    return [
        f"--model={MODEL}", f"--source={slides}", "--source-um-per-px=0.5", "--spot-um=20", "--pitch-um=20",
        f"--out={out}", "--formats=csv",
    ]  # fmt: skip


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_each_element_predicts_its_slides_with_the_options_of_predict(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def pipeline(flags: list[str]) -> Any:
        asked.append(flags)

        def carry_out(function: Any, tasks: list[argparse.Namespace]) -> None:
            asked.append([task.shard for task in tasks])
            for task in tasks:
                function(task)

        return carry_out

    monkeypatch.setattr(beam, "pipeline", pipeline)
    predict_beam.main([*arguments(slides, tmp_path / "beam"), "--shards=3", "--runner=DirectRunner", "--streaming"])
    assert asked == [["--runner=DirectRunner", "--streaming"], ["1/3", "2/3", "3/3"]]
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "beam")
    predict.main(arguments(slides, tmp_path / "plain"))
    assert len(files(tmp_path / "plain")) >= 10
    assert files(tmp_path / "beam") == files(tmp_path / "plain")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shards=0"], "--shards is 0, expected at least 1"),
        (["--shards=2", "--shard=1/2"], "--shard is for array jobs; --shards says"),
        (["--shards=2", "--areas=squares:50"], "--areas says where to predict, and so does --pitch-um"),
    ],
)
def test_what_it_cannot_do_is_said_before_anything_starts(
    slides: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        predict_beam.main([*arguments(slides, tmp_path / "out"), *more])


@pytest.mark.skipif(not importlib.util.find_spec("apache_beam"), reason="needs the extra `beam`")
def test_beam_predicts_the_same_bytes(slides: Path, tmp_path: Path) -> None:
    predict_beam.main([*arguments(slides, tmp_path / "beam"), "--shards=2"])
    predict.main(arguments(slides, tmp_path / "plain"))
    assert files(tmp_path / "beam") == files(tmp_path / "plain")
