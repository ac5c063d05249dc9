"""Reading a slide beside the bare model: a row each, and errors that say what is missing."""

import pytest
from PIL import Image

from data_prep import demo
from data_prep.errors import InputError
from stjax import bench
from stjax.benchmarks import predict


def test_rows_name_the_model_and_the_share_of_its_speed(trained, tmp_path, monkeypatch):
    source = demo.make_demo(tmp_path / "source", patients=1, sections_per_patient=1, spots=12)
    slide = tmp_path / "slide.jpg"  # one of the demo's, with the scale in the file
    Image.open(next(source.rglob("*.jpg"))).save(slide, dpi=(25_400 / 1.4,) * 2)
    monkeypatch.setattr(predict, "PATCHES", 5)
    bare, streamed = predict.rows(trained[0], slide, 1, bench.interleave)
    assert (bare["method"], streamed["method"]) == ("bare", "from the slide")
    assert bare["case"] == "5 patches, efficientnet tiny"
    assert streamed["speedup"] == pytest.approx(bare["seconds"] / streamed["seconds"])


def test_a_model_and_a_slide_are_asked_for():
    with pytest.raises(InputError, match="--workdir, a trained model, and --source"):
        bench.parse(["--what=predict"])
