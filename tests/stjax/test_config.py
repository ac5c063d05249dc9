"""A run's config.json: settings it is too old to name are at their defaults, damage is told in one line."""

import json

import pytest

from data_prep.errors import InputError
from stjax import config as configs


def test_settings_that_came_later_are_at_their_defaults(trained, tmp_path):
    saved = json.loads((trained[0] / "config.json").read_text())
    del saved["step_timeout_s"], saved["model"]["options"]["rematerialise"], saved["demo"]["spots"]
    saved["learning_rate"] = 0.125
    (tmp_path / "config.json").write_text(json.dumps(saved))
    config = configs.load(tmp_path / "config.json")
    assert (config.step_timeout_s, config.model.options.rematerialise, config.demo.spots) == (0, False, 104)
    assert (config.learning_rate, config.model.variant) == (0.125, "tiny")
    with pytest.raises(InputError, match=r"learning_rate was 0\.125"):
        configs.check_same_run(config, configs.load(trained[0] / "config.json"), tmp_path)


def test_a_config_that_lacks_nothing_is_read_as_it_is(trained):
    path = trained[0] / "config.json"
    assert configs.load(path).to_dict() == json.loads(path.read_text())


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"config"'])
def test_damage_is_told(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="not readable JSON"):
        configs.load(tmp_path / "config.json")
