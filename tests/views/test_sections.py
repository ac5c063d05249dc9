"""Sections as items: what a batch says of their spots, how they are dealt, and what is refused."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from data_prep import build, demo
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import protocols, splits, views
from stjax.config import built_in
from stjax.data import sections
from stjax.data.fit import fit
from stjax.data.selection import Selection
from stjax.features.images import PATCH
from stjax.symmetries import symmetry
from tests.small_encoder import embed

PROTOCOL = dataclasses.replace(protocols.stjax, num_main_genes=5, min_counts=0)
EVERYTHING = "image+features+near+grid+context+bank"


@pytest.fixture(scope="module")
def data(tmp_path_factory, small_encoder):
    """A data set of three patients with features of one window and of nine."""
    folder = tmp_path_factory.mktemp("sections")
    source = demo.make_demo(folder / "raw", patients=3, sections_per_patient=1, spots=20)
    build.build(source, folder / "data", patch_size_px=32, min_counts=0, image_format="raw")
    embed(folder / "data", "small", small_encoder)
    embed(folder / "data", "around", small_encoder, context=3, source=source)
    return folder / "data"


def view_of(variant, features="around", per_item=0, seed=0):
    config = built_in("tiny")
    config.model.module, config.model.variant, config.seed = "tiny_sections", variant, seed
    config.features, config.spots_per_item = features, per_item
    return views.get("sections").of_config(config)


def opened(data, view, *, train=2):
    """A fold trained on the first sections, the view that knows it, and their items."""
    dataset = PatchDataset.open(data)
    names = tuple(section["name"] for section in dataset.sections)
    split = splits.Split(train=names[:train], val=names[train:], test=())
    fold = fit(view, PROTOCOL, dataset, split)
    chosen = Selection(dataset, split.train, PROTOCOL, train=True)
    items = view.open(chosen, fold.panel)
    val = view.open(dataclasses.replace(chosen, sections=split.val, train=False), fold.panel) if split.val else None
    fold = view.fit(fold, PROTOCOL, items, val)
    return fold, views.of(fold), items, val


def batch_of(items, index, size=None):
    images = np.stack([items.images[i] for i in index])
    return items.batch(images, np.array(index), size=size or len(index))


@pytest.mark.usefixtures("tiny_sections")
def test_a_batch_says_of_every_spot_what_the_data_set_holds(data):
    fold, view, items, _ = opened(data, view_of(EVERYTHING))
    dataset, vectors = PatchDataset.open(data), data / "features" / "around"
    batch = batch_of(items, [1, 0], size=3)
    inputs = view.inputs(batch, fold, None)
    for place, name in enumerate((fold.split.train[1], fold.split.train[0])):
        table, split = dataset.table(name), dataset.section(name)["split"]
        count = len(table.spots)
        around, inside = np.load(vectors / f"{split}.npy"), np.load(vectors / f"{split}.mask.npy")
        around, inside = around[table.record_of_spot], inside[table.record_of_spot]
        for mask in ("present", "spots_mask"):
            np.testing.assert_array_equal(inputs[mask][place], np.arange(64) < count)
        np.testing.assert_array_equal(inputs["rows"][place, :count], np.arange(count))
        np.testing.assert_array_equal(inputs["features"][place, :count], around[:, 4])
        np.testing.assert_array_equal(inputs["context_mask"][place, :count], inside)
        np.testing.assert_array_equal(inputs["context"][place, :count][inside], around[inside])
        assert not inputs["context"][place, :count][~inside].any()
        assert not inputs["features"][place, count:].any()
        named = np.array([each.split("x") for each in table.spots.id], int)
        np.testing.assert_array_equal(inputs["grid"][place, :count], named - named.min(axis=0))
        apart = np.abs(named[:, None] - named[None]).max(axis=2)
        for spot in range(count):
            near = inputs["near"][place, spot]
            assert set(near[near >= 0].tolist()) == set(np.flatnonzero(apart[spot] == 1))
        np.testing.assert_array_equal(inputs["near"][place, count:], -1)
        source = dataset.source((name,))
        pixels = np.stack([source[int(record)]["image"] for record in table.record_of_spot])
        expected = (pixels.astype(np.float32) - np.float32(fold.image_mean)) / np.float32(fold.image_std)
        np.testing.assert_allclose(inputs["images"][place, :count], expected, atol=1e-5)
        assert len(set(np.asarray(inputs["group"][place, :count]).tolist())) == 1
    assert not inputs["present"][2].any()
    assert inputs["group"][0, 0] != inputs["group"][1, 0]
    assert set(np.asarray(inputs["group"][2]).tolist()) == {-1}
    names = [name for name, *_ in sections.inputs_of(view.facts["needs"], side=32, width=32, windows=9)]
    assert set(names) == batch.keys() - {"counts", "total", "mask"}


@pytest.mark.usefixtures("tiny_sections")
@pytest.mark.parametrize("per_item", [1, 7, 64])
def test_spots_are_dealt_once_and_all_know_of_their_section(data, per_item):
    fold, _, items, val = opened(data, view_of("features+grid", "small", per_item))
    whole = opened(data, view_of("features+grid", "small"))[2]
    assert items.windows.most_spots == min(per_item, 64)
    assert {*zip(items.section, items.spots.id, strict=True)} == {*zip(whole.section, whole.spots.id, strict=True)}
    order = {each: row for row, each in enumerate(zip(whole.section, whole.spots.id, strict=True))}
    every = batch_of(whole, range(len(whole)))
    for item in range(len(items)):
        batch, rows = batch_of(items, [item]), items.windows.rows(item)
        (section,) = set(items.section[rows])
        of = list(fold.split.train).index(section)
        np.testing.assert_array_equal(batch["features"][0], every["features"][of])
        count = rows.stop - rows.start
        for slot, spot in enumerate(range(rows.start, rows.stop)):
            row = order[section, items.spots.id[spot]] - whole.windows.start[of]
            assert batch["rows"][0, slot] == row
            np.testing.assert_array_equal(batch["counts"][0, slot], every["counts"][of, row])
        np.testing.assert_array_equal(batch["mask"][0] > 0, batch["spots_mask"][0])
        assert batch["spots_mask"][0].sum() == count
    again = views.of(fold).open(Selection(PatchDataset.open(data), fold.split.train, PROTOCOL, train=True), fold.panel)
    np.testing.assert_array_equal(again.spots.id, items.spots.id)  # as after a resumption
    if per_item < 64:
        other = opened(data, view_of("features+grid", "small", per_item, seed=1))[2]
        assert other.spots.id.tolist() != items.spots.id.tolist()
    assert val is not None
    np.testing.assert_array_equal(val.spots.id, PatchDataset.open(data).table(fold.split.val[0]).spots.id)


@pytest.mark.usefixtures("tiny_sections")
def test_statistics_are_of_the_training_spots_own_windows(data):
    fold, view, items, _ = opened(data, view_of("features+context", per_item=5))
    batches = [batch_of(items, [item]) for item in range(len(items))]
    own = np.concatenate([b["features"][0][b["rows"][0][b["spots_mask"][0]]] for b in batches]).astype(np.float64)
    np.testing.assert_allclose(fold.facts["mean"], own.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fold.facts["std"], own.std(axis=0), rtol=1e-5)
    views.of(fold).check_facts(fold, "data.json")
    options = view.model_options(fold)
    assert options["context"] == 3
    chosen = Selection(PatchDataset.open(data), fold.split.train, PROTOCOL, train=True)
    np.testing.assert_allclose(view.statistics(view.refit(fold, chosen)), view.statistics(fold), rtol=1e-12)


@pytest.mark.usefixtures("tiny_sections")
def test_every_patch_of_an_item_is_turned_alike(data):
    fold, view, items, _ = opened(data, view_of("image", features=""))
    batch = batch_of(items, [0])
    plain, turned = (view.inputs(batch, fold, parts)["images"] for parts in (None, symmetry(1)))
    np.testing.assert_array_equal(turned, plain[:, :, ::-1])
    each = view.inputs(batch_of(items, [0, 1]), fold, jnp.concatenate([symmetry(0), symmetry(1)], axis=1))["images"]
    np.testing.assert_array_equal(each[0], plain[0])
    assert view.statistics(fold) == ()


@pytest.mark.usefixtures("tiny_sections")
def test_other_images_take_the_place_of_patches_and_of_what_an_encoder_made_of_them(data):
    def other(images, index, window=PATCH):
        assert window == PATCH
        return 255 - images[index]

    def vectors(images):
        return images.reshape(len(images), -1)[:, :32].astype(np.float32)

    embedder = SimpleNamespace(batch_size=7, vectors=vectors)
    _, view, items, _ = opened(data, view_of("image+features", features="small"))
    windows, image = view.with_images(items, other, embedder)
    batch, rows = windows.inputs(image(0)[None], [0], 1), items.windows.rows(0)
    patches = np.stack([other(items.images.patches, row) for row in range(rows.start, rows.stop)])
    np.testing.assert_array_equal(batch["image"][0, : len(patches)], patches)
    np.testing.assert_array_equal(batch["features"][0, : len(patches)], vectors(patches))
    _, view, items, _ = opened(data, view_of("context"))
    with pytest.raises(InputError, match="sees windows around each spot too"):
        view.with_images(items, other, embedder)


@pytest.mark.usefixtures("tiny_sections")
@pytest.mark.parametrize("seed", range(5))
def test_the_bank_is_of_training_spots_each_in_its_patients_group(data, seed):
    rng = np.random.default_rng(seed)
    fold, view, items, val = opened(data, view_of("features+bank", "small", int(rng.integers(0, 9)), seed=seed))
    bank, main = view.start(built_in("tiny"), fold, PROTOCOL, items)["bank"], fold.main
    assert fold.facts["bank"] == {"rows": items.num_spots, "width": 32, "by": "patient"}
    shapes = {name: each.shape for name, each in view.model_options(fold)["bank"].items()}
    assert shapes == {name: each.shape for name, each in bank.items()}
    expected = (items.main_expression(PROTOCOL) - main.target_mean) / main.target_std
    np.testing.assert_allclose(bank["targets"], expected, rtol=1e-5, atol=1e-6)
    dataset = PatchDataset.open(data)
    patient = np.array([dataset.section(name)["patient"] for name in items.section])
    for item in range(len(items)):
        batch, rows = batch_of(items, [item]), np.arange(*items.windows.start[item : item + 2])
        own = batch["features"][0][batch["rows"][0, : len(rows)]]
        np.testing.assert_array_equal(bank["features"][rows], own)
        group = batch["group"][0, : len(rows)]
        np.testing.assert_array_equal(group[:, None] == bank["group"], patient[rows][:, None] == patient)
        assert set(batch["group"][0, len(rows) :].tolist()) <= {-1}
    assert val is not None
    assert set(batch_of(val, range(len(val)))["group"].ravel().tolist()) == {-1}


@pytest.mark.usefixtures("tiny_sections")
def test_the_bank_of_a_model_of_patches_has_no_features(data):
    fold, view, items, _ = opened(data, view_of("image+bank", features="", per_item=1))
    bank = view.start(built_in("tiny"), fold, PROTOCOL, items)["bank"]
    assert fold.facts["bank"] == {"rows": items.num_spots, "width": 0, "by": "patient"}
    assert bank.keys() == view.model_options(fold)["bank"].keys() == {"targets", "group"}
    batch = batch_of(items, [0, 1], size=3)
    assert set(view.inputs(batch, fold, None)) == {"images", "group", "spots_mask"}
    np.testing.assert_array_equal(batch["group"][:, 0], [*bank["group"][:2], -1])
    view.check_facts(fold, "data.json")


@pytest.mark.usefixtures("tiny_sections")
def test_vectors_of_genes_are_those_of_symbols_and_names_or_of_a_file_and_a_run_keeps_how_many(data, tmp_path):
    config = built_in("tiny")
    for path, shape in (("", (1, 512)), (str(tmp_path / "genes.npz"), (3, 4))):
        config.gene_vectors = path
        config.model.module, config.model.variant, config.features = "tiny_sections", "image+genes", ""
        asked = views.get("sections").of_config(config)
        if path:
            symbols = PatchDataset.open(data).genes.symbol
            tokens = np.random.default_rng(0).normal(size=(len(symbols), *shape)).astype(np.float32)
            np.savez(path, symbol=np.asarray(symbols, str), tokens=tokens)
        fold, view, items, _ = opened(data, asked)
        given = view.start(config, fold, PROTOCOL, items)["gene_vectors"]
        assert given.shape == view.model_options(fold)["gene_vectors"].shape == (len(fold.panel.names), *shape)
        assert np.all(np.any(given, axis=(1, 2)))
        assert str(tmp_path) not in str(fold.facts)
        view.check_facts(fold, "data.json")


def refused(says, function, *arguments, **options):
    with pytest.raises(InputError, match=says) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 500


@pytest.mark.usefixtures("tiny_sections")
def test_what_does_not_go_together_is_refused_in_one_line(data, monkeypatch):
    refused("config.features names no features", view_of, "features", features="")
    refused("config.features is 'around', but the model is one of sections", view_of, "image")
    refused("tiny_sections needs sound; .* may need image, features", view_of, "image+sound")
    config = built_in("tiny")
    config.gene_vectors = "genes.npz"
    refused("gene_vectors is genes.npz, which is for models of sections", views.get("patches").of_config, config)
    config.model.module, config.model.variant = "tiny_sections", "image"
    refused("tiny_sections has no need of config.gene_vectors", views.get("sections").of_config, config)
    config.gene_vectors, config.spots_per_item = "", 3
    refused("spots_per_item is 3, which is for models of sections", views.get("patches").of_config, config)
    refused("of one window a spot, and this model needs those around", opened, data, view_of("context", "small"))
    refused("there is one training section", opened, data, view_of("features+bank", "small"), train=1)
    fold, view, items, _ = opened(data, view_of("grid+context"))
    facts = fold.facts
    for wrong in (
        {"genes": [1, 512]},
        {"needs": ["grid", "bank", "context"]},
        {"needs": ["sound"]},
        {"context": 0},
        {"grid_size": [3]},
    ):
        fault = dataclasses.replace(fold, facts=facts | wrong)
        refused("data.json: facts of sections", views.of(fault).check_facts, fault, "data.json")
    chosen = Selection(PatchDataset.open(data), fold.split.train, PROTOCOL, train=True)
    small = views.of(dataclasses.replace(fold, facts=facts | {"grid_size": [2, 2]}))
    refused("its array has .* places, .* at most 2 x 2", small.open, chosen, fold.panel)
    monkeypatch.setattr("stjax.data.lattice.find", lambda _: None)
    refused("lie on no square or hexagonal lattice", view.open, chosen, fold.panel)
    assert len(items) == 2


def test_room_for_spots_comes_in_few_sizes():
    assert [sections.rounded(count) for count in (1, 64, 65, 1024, 1025, 3813)] == [64, 64, 128, 1024, 1280, 3840]
