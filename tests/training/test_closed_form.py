import jax
import numpy as np
import pytest
from flax import nnx
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from data_prep import json_files
from data_prep.errors import InputError
from stjax import config as configs
from stjax import parallel, protocols
from stjax.ops import ridge
from stjax.state import weights_of
from stjax.training import closed_form, job, together
from stjax.views.patches import View


def closed(dataset, **changes):
    config = configs.built_in("tiny")
    config.fit, config.model.aux, config.data_dir = "closed_form", False, str(dataset)
    for name, value in changes.items():
        config[name] = value
    return config


@pytest.fixture(scope="module")
def solved(dataset, tmp_path_factory):
    mesh = parallel.make_mesh()
    found = job.prepare(closed(dataset), tmp_path_factory.mktemp("closed"), mesh)
    return found, mesh, *closed_form.solve(found, found.state, mesh)


def test_the_head_is_scikit_learns_ridge_on_what_the_backbone_makes_of_the_training_spots(solved):
    found, mesh, state, solution = solved
    x = closed_form.features(found, found.state, mesh)
    model = nnx.merge(found.graphdef, found.state["params"], found.state["statistics"])
    images = np.stack([found.train.images[item] for item in (0, 150)])
    inputs = View().inputs({"image": images}, found.fold, None)["images"]
    np.testing.assert_allclose(x[[0, 150]], model.backbone(inputs, train=False)["features"], atol=1e-4)

    main = found.fold.main
    targets = (found.train.main_expression(found.protocol) - main.target_mean) / main.target_std
    scaler = StandardScaler().fit(x.astype(np.float64))
    fitted = Ridge(alpha=solution.penalty).fit(scaler.transform(x.astype(np.float64)), targets)
    coef = fitted.coef_.T / scaler.scale_[:, None]
    for weights in (state, weights_of(state)):  # those of a step, and their average, which is kept
        after = nnx.merge(found.graphdef, weights["params"], weights["statistics"])
        np.testing.assert_allclose(after.main.kernel[...], coef, atol=1e-5 * np.abs(coef).max())
        np.testing.assert_allclose(after.main.bias[...], fitted.intercept_ - scaler.mean_ @ coef, atol=1e-4)
        before = nnx.state(model.backbone, nnx.Param)
        jax.tree.map(np.testing.assert_array_equal, before, nnx.state(after.backbone, nnx.Param))


def test_nothing_is_predicted_from_features_that_vary_by_rounding_alone():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 60)).astype(np.float32)
    x[:, :3] = [0.0, 1e-13, 3e-5] * rng.normal(size=(40, 3))
    y, groups = rng.normal(size=(40, 5)), np.repeat(np.arange(4), 10)
    elsewhere = rng.normal(size=(30, 60))
    blown_up = ridge.fit(x, y, groups)
    assert np.abs(elsewhere @ blown_up.coef).max() > 1e3
    before = x.copy()
    closed_form.forget_rounding(x)
    np.testing.assert_array_equal(x[:, 3:], before[:, 3:])
    found = ridge.fit(x, y, groups)
    assert not found.coef[:3].any()
    assert np.abs(elsewhere @ found.coef).max() < 10


def test_it_is_one_step_whatever_the_number_of_epochs_asked_for(solved):
    found, *_ = solved
    assert (found.config.num_epochs, found.schedule.total_steps) == (1, 1)
    assert found.end_epoch(1, {"loss": 1.0}) is True
    assert found.meta["finished"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fit": "closed"}, "config.fit is 'closed'; choose one of gradient, closed_form"),
        ({"aux": True}, "AuxNet changes nothing; add --config.model.aux=False"),
    ],
)
def test_settings_that_it_has_no_place_for_are_refused(dataset, change, says):
    config = closed(dataset)
    config.model.aux, config.fit = change.get("aux", False), change.get("fit", "closed_form")
    with pytest.raises(InputError, match=says):
        configs.resolve(config, protocols.get_protocol("stjax"), demo=False)


def test_models_without_a_feature_vector_a_spot_are_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(View, "one_spot", False)
    with pytest.raises(InputError, match="have no feature vector a spot to solve a head on"):
        job.prepare(closed(dataset), tmp_path, parallel.make_mesh())
    assert not list(tmp_path.iterdir())


def test_several_runs_in_one_program_are_refused(dataset, tmp_path):
    with pytest.raises(InputError, match="use --mode=sequential"):
        together.train([(closed(dataset), tmp_path / "a")])


def test_runs_of_before_are_of_gradients(tmp_path):
    values = configs.built_in("tiny").to_dict()
    del values["fit"]
    json_files.write(tmp_path / "config.json", json_files.sealed(values))
    assert configs.load(tmp_path / "config.json").fit == configs.GRADIENT
