"""Plans with --time: hours and disk space from given step times, what is timed where, and that every row is printed."""

import dataclasses

import numpy as np
import pytest

from data_prep import build, demo
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import suite, suites
from stjax.features.store import Features as Stored
from stjax.suites import Embedding, Options, _state, _timing, her2st, hest_bench
from stjax.suites._timing import Features, Pace, Row, lines

STEP = {"timed_s": 4.0, "wall_s": 34.0, "step_s": 2.0, "steps": 600, "spots": 1000, "state_bytes": 10**8}


def test_a_training_takes_its_start_and_its_steps_as_many_as_there_are_spots():
    pace = Pace(30.0, 2.0, 600, 1000, 10**8)
    assert pace.seconds(None) == 30 + 2 * 600
    assert pace.seconds(2500) == 30 + 2 * 600 * 2.5


def test_hours_are_sums_over_runs_and_features_and_processes_are_a_division():
    rows = [Row("part", "a", 4, 1800.0, 5e8, "", True), Row("part", "b", 2, 3600.0, 1e9, "", False)]
    rows += [Row("part", "c", 3, 0.0, 0.0, "killed", False)]
    features = [Features("data/patches, uni", 7200, 0.5, 4096, "")]
    text = lines(rows, features, 5)
    cells = [line.split() for line in text]
    assert cells[1] == ["part:", "a", "4", "0.50", "2.00", "2.00", "synthetic", "tissue"]
    assert cells[2] == ["part:", "b", "2", "1.00", "2.00", "2.00", "its", "data"]
    assert cells[3] == ["part:", "c", "3", "NOT", "TIMED:", "killed"]
    assert cells[4][2:5] == ["uni", "1.00", "0.03"]
    assert text[5] == "left, ESTIMATED: 5.00 h one after another on this machine, 4.03 GB of disk space"
    assert text[6] == "5 at a time: 1.00 h on as many such devices, a plain division by 5"
    assert text[7] == "* 3 runs are not in the sums, as they could not be timed"
    assert not any("plain division" in line for line in lines(rows, features, 1))


def test_published_spots_less_one_patient_are_trained_on():
    assert _timing.trained_on(her2st.PATCHES) == 13_620 * 7 / 8
    assert "--spots=378" in _timing.like_published(her2st.PATCHES).demo  # 13,620 in 36 sections
    made = dataclasses.replace(her2st.PATCHES, raw=None)
    assert _timing.like_published(made) == made


@pytest.fixture
def timed(monkeypatch):
    """What is asked to be timed, in place of a process each; and data sets that are asked for."""
    asked, data = [], []

    def answer(_, name, arguments):
        asked.append(arguments[0])
        if name == "her2st/sgn/uni/A":
            return {"failed": "no memory"}
        return {"image_s": 0.5, "width": 1024, "parts": [1024], "wall_s": 9.0} if name.startswith("encoder_") else STEP

    monkeypatch.setattr(_timing, "_timed", answer)
    monkeypatch.setattr(_timing, "stand_in", lambda *_: 40)
    monkeypatch.setattr(
        _timing, "write_noise", lambda each, made, parts: data.append((each.name, made.synthetic, parts))
    )
    return asked, data


def test_every_row_is_printed_with_what_its_step_times_come_to(timed, tmp_path, capsys):
    given = ["--encoder=uni", "--weights=uni=FILE", "--only=ridge,sgn,b0_aux", "--time", "--processes=2"]
    suite.main(["plan", "comparators", f"--out={tmp_path}", *given])
    printed = capsys.readouterr().out
    asked, data = timed
    assert [name for name, *_ in data] == ["patches", "demo_patches"]
    assert all(synthetic and parts == {("uni", ""): [1024]} for _, synthetic, parts in data)
    assert asked.count("--encoder=uni") == 1
    assert len(asked) == 1 + 2 * 3
    for part, runs, hours in (
        ("her2st, library-normalised", 8, 1200 * 13_620 * 7 / 8 / 1000 + 30),
        ("Demo, ", 5, 1230),
    ):
        (ridge,) = (
            line for line in printed.splitlines() if line.startswith(part) and "Ridge on features (uni)" in line
        )
        assert f" {runs} " in ridge
        assert f"{hours / 3600:.2f}" in ridge
        assert any(line.startswith(part) and "EfficientNet-b0 + AuxNet" in line for line in printed.splitlines())
    assert "NOT TIMED: no memory" in printed
    assert "8 runs are not in the sums" in printed
    assert "features: data/patches, uni" in printed
    assert "13,620 images" in printed
    assert "a plain division by 2" in printed


def test_tiny_studies_count_their_own_images(timed, tmp_path):
    options = Options(tmp_path, encoders=("uni",), tiny=True)
    found = suites.load("comparators", options)
    _, features = _timing.estimate(found, options, _state.places(found, options, ("ridge", "triplex")))
    assert {(each.name, each.images) for each in features} == {
        ("data/patches, uni", 40), ("data/patches, uni_around", 40 * 25)
    }  # fmt: skip
    assert timed[0][0] == "--encoder=uni"


def test_an_encoder_of_hest_benchmark_embeds_every_patch_and_trains_nothing(timed, tmp_path):
    options = Options(tmp_path, encoders=("uni",), weights={"uni": "FILE"})
    found = suites.load("hest_bench", options)
    rows, features = _timing.estimate(found, options, _state.places(found, options))
    assert rows == []
    assert features == [Features("uni", 232_299, 0.5, 4096, "")]
    assert hest_bench.PATCHES.keys() == hest_bench.FOLDS.keys()
    assert timed == (["--encoder=uni"], [])


def test_noise_stands_for_features(tmp_path):
    build.build(demo.make_demo(tmp_path / "raw", patients=1, sections_per_patient=1, spots=12), tmp_path / "data",
                patch_size_px=32, image_format="raw", min_counts=0)  # fmt: skip
    dataset = PatchDataset.open(tmp_path / "data")
    records = dataset.sections[0]["records"]
    for each, parts, shape in (
        (Embedding("uni", "uni"), [24], (records, 24)),
        (Embedding("uni_around", "uni", context=3), [24], (records, 9, 24)),
        (Embedding("uni_fields", "uni", fields="0.5,1,3", pooling="moments"), [14, 10], (records, 72)),
    ):
        _timing._write_noise(dataset, each, parts)
        found = Stored.open(dataset, each.name)
        vectors = found.sections[dataset.sections[0]["name"]]
        assert vectors.shape == shape
        assert found.parts == parts * (3 if each.fields else 1)
        assert np.std(vectors) == pytest.approx(1, abs=0.1)


def test_images_of_features_are_the_windows_that_their_fields_take(timed, tmp_path):
    options = Options(tmp_path)
    found = suites.load("her2st", options)
    _, features = _timing.estimate(found, options, _state.places(found, options, ("fast", "best")))
    assert {(each.name, each.images) for each in features} == {
        ("data/patches, multiscale", 13_620 * 3), ("data/patches, multiscale_five", 13_620 * (4 + 4)),
    }  # fmt: skip
    assert timed[0].count("--encoder=efficientnet_lite0") == 1


def test_times_are_for_plans(tmp_path):
    with pytest.raises(InputError, match="--time is for plan"):
        suite.main(["table", "her2st", f"--out={tmp_path}", "--time"])


def test_plans_without_time_write_nothing(tmp_path, capsys):
    suite.main(["plan", "comparators", f"--out={tmp_path}"])
    assert "--time" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
