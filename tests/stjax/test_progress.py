import dataclasses
import json

import pytest

from stjax.progress import Progress


@pytest.mark.parametrize(
    ("epochs", "planned", "finished", "said"),
    [
        (2.0, 30, False, "2 of 30 epochs"),
        (2.96, 30, False, "2.9 of 30 epochs"),  # never rounded up
        (0.02, 30, False, "less than 0.1 of 30 epochs"),
        (0.0, 30, False, "0 of 30 epochs"),
        (30.0, 30, True, "30 of 30 epochs"),
        (12.0, 30, True, "12 of 30 epochs, ended early by its validation loss"),
        (None, 30, None, "an unknown number of epochs, 30 planned"),
        (None, None, None, "an unknown number of epochs"),
    ],
)
def test_how_far_a_model_was_trained_in_words(epochs, planned, finished, said):
    progress = Progress(epochs, planned, finished)
    assert str(progress) == said
    assert progress.facts()["trained"] == said
    assert progress.facts().get("training_finished") is finished
    assert Progress.from_json(json.loads(json.dumps(dataclasses.asdict(progress)))) == progress


def test_only_what_is_finished_needs_no_word():
    assert Progress(30.0, 30, True).warning("run") == Progress(12.0, 30, True).warning("run") == ""
    stopped = Progress(2.0, 30, False).warning("runs/b0")
    assert stopped.startswith("warning: runs/b0 is trained for 2 of 30 epochs")
    assert "NOT FINISHED" in stopped
    assert Progress().warning("model").startswith("note: model does not say whether its training was finished")


def test_the_length_of_an_epoch_comes_from_the_checkpoint_else_from_the_log_else_is_unknown(tmp_path):
    meta = {"step": 24, "finished": False, "schedule": {"steps_per_epoch": 12}}
    assert Progress.of(meta, 30, tmp_path) == Progress(2.0, 30, False)
    meta["schedule"] = {}  # written by an older version
    assert Progress.of(meta, 30, tmp_path) == Progress(None, 30, False)
    (tmp_path / "logs").mkdir()
    entries = [{"kind": "epoch", "epoch": 1, "step": 12}, {"kind": "train", "epoch": 2, "step": 20}]
    (tmp_path / "logs" / "train.jsonl").write_text("\n".join(map(json.dumps, entries)) + '\n{"kind": "epo')
    assert Progress.of(meta, 30, tmp_path) == Progress(2.0, 30, False)
