"""Features of a data set as items: which vectors belong to which spots, and what is refused."""

import dataclasses
import json
import pickle
import shutil

import numpy as np
import pytest

from data_prep import build, demo, files, json_files
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import protocols, splits, views
from stjax.data.fit import fit
from stjax.data.selection import Selection
from tests.small_encoder import embed, write_weights

PROTOCOL = dataclasses.replace(protocols.stjax, num_main_genes=5, min_counts=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory, small_encoder):
    folder = tmp_path_factory.mktemp("features")
    source = demo.make_demo(folder / "raw", patients=2, sections_per_patient=1, spots=20)
    build.build(source, folder / "data", patch_size_px=32, min_counts=0)
    embed(folder / "data", "small", small_encoder)
    return folder / "data"


def view_of(name="small"):
    return views.get("features").of_features(name)


def opened(data, view=None, **changed):
    dataset = PatchDataset.open(data)
    names = [section["name"] for section in dataset.sections]
    view = view or view_of()
    split = splits.Split(train=(names[0],), val=(), test=(names[1],))
    fold = fit(view, PROTOCOL, dataset, split)
    chosen = Selection(dataset, names, PROTOCOL, train=True, **changed)
    return view, fold, view.open(chosen, fold.panel), chosen


def test_every_spot_has_the_vector_of_its_own_patch_and_colours_of_its_image(data):
    view, fold, items, chosen = opened(data)
    of_patches = views.get("patches").open(chosen, fold.panel)
    assert len(items) == len(of_patches) == items.num_spots > 20
    for section in chosen.sections:
        table, vectors = (
            chosen.dataset.table(section),
            np.load(data / "features" / "small" / f"{split_of(chosen, section)}.npy"),
        )
        rows = np.flatnonzero(items.section == section)
        assert len(rows)
        for item in rows:
            spot = table.spots.id.tolist().index(items.spots.id[item])
            np.testing.assert_array_equal(items.images[item], vectors[table.record_of_spot[spot]])
            assert items.images[item].dtype == np.float32
    for item in (0, len(items) - 1):
        expected = views.get("patches").colours(of_patches, item, of_patches.images[item])
        np.testing.assert_array_equal(view.colours(items, item, items.images[item]), expected)


def test_decoding_processes_are_told_where_the_vectors_lie_and_map_them(data):
    _, _, items, _ = opened(data)
    sent = pickle.dumps(items.images)
    assert len(sent) < sum(part.nbytes for part in items.images._parts) / 2
    found = pickle.loads(sent)
    assert all(isinstance(part, np.memmap) for part in found._parts)
    for item in range(len(items)):
        np.testing.assert_array_equal(found[item], items.images[item])


def split_of(chosen, name):
    return chosen.dataset.section(name)["split"]


def test_a_batch_holds_vectors_and_nothing_of_images(data):
    view, fold, items, _ = opened(data)
    batch = items.batch(np.stack([items.images[i] for i in (4, 1)]), np.array([4, 1]), size=3)
    assert set(batch) == {"features", "counts", "total", "mask"}
    np.testing.assert_array_equal(batch["features"][0], items.images[4])
    assert not batch["features"][2].any()
    parts = np.ones((3, 3, 1, 1, 1), bool)
    np.testing.assert_array_equal(view.inputs(batch, fold, parts)["features"], batch["features"])


def test_other_images_go_through_the_encoder_in_place_of_vectors(data):
    view, _, items, _ = opened(data)
    windows, image = view.with_images(items, lambda images, index: 255 - images[index], None)
    batch = windows.inputs(np.stack([image(item) for item in range(3)]), range(3), 4)
    assert set(batch) == {"image"}
    np.testing.assert_array_equal(batch["image"][:3], [255 - items.images.patches[item] for item in range(3)])


def test_a_fold_knows_the_features_and_their_statistics_over_the_training_spots(data):
    view, fold, _, chosen = opened(data)
    train = view.open(dataclasses.replace(chosen, sections=fold.split.train), fold.panel)
    known = view.fit(fold, PROTOCOL, train, None)
    vectors = np.stack([train.images[i] for i in range(len(train))]).astype(np.float64)
    np.testing.assert_allclose(known.facts["mean"], vectors.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(known.facts["std"], vectors.std(axis=0), rtol=1e-9)
    key = json.loads((data / "features" / "small" / "features.json").read_text())["key"]
    same = ("encoder", "weights_sha256", "pooling", "width", "compute", "px")
    assert {name: known.facts[name] for name in same} == {name: key[name] for name in same}
    views.of(known).check_facts(known, "data.json")
    again = views.of(known).refit(dataclasses.replace(fold, facts={}), chosen)
    assert again.facts["mean"] != known.facts["mean"]  # of all sections
    with pytest.raises(InputError, match=r"data.json: .*statistics"):
        views.of(known).check_facts(dataclasses.replace(known, facts=known.facts | {"std": [0.0]}), "data.json")


def test_a_feature_that_never_varies_is_left_as_it_is(data):
    _, _, items, _ = opened(data)
    constant = np.full((len(items), 3), 7.0, np.float32)
    items.images._parts = [constant[: len(part)] for part in items.images._parts]
    mean, std = items.images.statistics()
    np.testing.assert_array_equal(mean, 7.0)
    np.testing.assert_array_equal(std, 1.0)


def refused(says, function, *arguments):
    with pytest.raises(InputError, match=says) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 500


def test_features_that_do_not_fit_are_refused_in_one_line(data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    refused("config.features names no features", view_of, "")
    refused("config.features is 'small', but the model is one of patches", views.get("patches").of_features, "small")
    refused("no features there; there are small", opened, copy, view_of("smaller"))
    view, fold, items, _ = opened(copy)
    known = view.fit(fold, PROTOCOL, items, None)
    embed(copy, "others", write_weights(tmp_path / "others.safetensors", seed=5))
    shutil.rmtree(copy / "features" / "small")
    (copy / "features" / "others").rename(copy / "features" / "small")
    refused("weights_sha256 is .*, of the features that the model was trained on", opened, copy, views.of(known))
    stnet = dataclasses.replace(PROTOCOL, test_symmetries=True)
    split = dataclasses.replace(fold.split, test=())
    refused("means over the eight symmetries", view_of().check_spots, PatchDataset.open(data), stnet, split)


def test_spots_without_features_are_left_out_and_a_section_without_any_is_refused(data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    dataset = PatchDataset.open(copy)
    lacking = dataset.sections[0]

    def lose(rows):
        file = copy / "features" / "small" / f"{lacking['split']}.npy"
        vectors = np.load(file)
        vectors[rows] = np.nan
        np.save(file, vectors)
        seal(copy / "features" / "small")

    lose([0, 3])
    before, after = opened(data)[2], opened(copy)[2]
    assert len(after) == len(before) - 2
    assert after.left_out == before.left_out + 2
    assert all(np.isfinite(after.images[i]).all() for i in range(len(after)))
    lose(slice(None))
    refused(f"no spot of section {lacking['name']} has features", opened, copy)


def seal(folder):
    """Makes a description fit files that were changed."""
    meta = json.loads((folder / "features.json").read_text())
    meta.pop("sha256")
    for entry in meta["sections"].values():
        path = folder / entry["vectors"]["file"]
        entry["vectors"] |= {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
    json_files.write(folder / "features.json", json_files.sealed(meta))
