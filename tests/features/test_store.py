"""Features on disk: what they are of, resumed to the same bytes, refused where they are not a data set's."""

import dataclasses
import json

import numpy as np
import pytest

from data_prep import files, json_files
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from stjax import encoders
from stjax.features.store import Features, Writer
from stjax.inference import embedding
from stjax.inference.embedding import Options, embed
from tests.end_to_end.test_kill_results import digests
from tests.features.conftest import NAME, own
from tests.mutated_json import reseal

RANDOM = Options(NAME, seed=1, batch_size=16)


def test_vectors_are_those_of_each_record_in_order(dataset, mesh):
    found = embed(dataset, "mine", RANDOM, mesh=mesh)
    again = Features.open(dataset, "mine")
    assert (again.encoder, again.width, again.context, again.key) == (NAME, 32, 1, found.key)
    embedder = embedding.Embedder.of_facts(again.key, None, mesh=mesh)
    for section in dataset.sections:
        vectors = again.sections[section["name"]]
        assert vectors.shape == (section["records"], 32)
        assert vectors.dtype == np.float32
        assert again.known(section["name"]).all()
        source = dataset.source((section["name"],))
        images = np.stack([source[i]["image"] for i in range(len(source))])
        np.testing.assert_allclose(vectors, embedder.function(embedder.state, images), atol=1e-5)
    assert again.key["um_per_px"] == {section["name"]: 0.5 for section in dataset.sections}


def test_whoever_opens_them_is_told_the_terms_of_their_encoder(dataset, mesh, monkeypatch, capsys):
    path = embed(dataset, "mine", RANDOM, mesh=mesh).path
    monkeypatch.setitem(encoders.ENCODERS, NAME, dataclasses.replace(encoders.find(NAME), gated=True))
    encoders.say_terms.cache_clear()
    Features.open(dataset, "mine")
    assert capsys.readouterr().out.count("note: Tiny is under MIT") == 0  # random weights are nobody's
    reseal(path / "features.json", lambda meta: meta["key"].update(weights_sha256="0" * 64))
    for _ in range(2):
        Features.open(dataset, "mine")
    assert (
        capsys.readouterr().out.count("note: Tiny is under MIT: any use; keep its notice; access to it is granted") == 1
    )


def test_made_again_they_are_there_already_and_of_something_else_refused(dataset, mesh, capsys):
    embed(dataset, "mine", RANDOM, mesh=mesh)
    before = digests(dataset.path / "features")
    embed(dataset, "mine", Options(NAME, seed=1), mesh=mesh)
    assert "there already" in capsys.readouterr().out
    with pytest.raises(InputError, match="of something else: weights_sha256 differ"):
        embed(dataset, "mine", Options(NAME, seed=2), mesh=mesh)
    with pytest.raises(InputError, match="of something else: dtype, pooling, width differ"):
        embed(dataset, "mine", Options(NAME, seed=1, dtype="float16", pooling="class+mean"), mesh=mesh)
    assert digests(dataset.path / "features") == before


def test_half_precision_is_rounded_float32(dataset, mesh):
    exact = embed(dataset, "exact", RANDOM, mesh=mesh)
    half = embed(dataset, "half", Options(NAME, seed=1, batch_size=16, dtype="float16"), mesh=mesh)
    for name, vectors in exact.sections.items():
        np.testing.assert_array_equal(half.sections[name], vectors.astype(np.float16))


def test_a_stopped_run_goes_on_to_the_same_bytes(dataset, mesh, tmp_path_factory, monkeypatch):
    embed(dataset, "mine", RANDOM, mesh=mesh)
    expected = digests(dataset.path / "features")
    other = own(dataset.path, tmp_path_factory.mktemp("other"))
    (other.path / "features").unlink()
    write, calls = Writer.write, []

    def stopping(self, arrays):
        calls.append(len(calls))
        if len(calls) in (3, 8):
            self._files["vectors"].write(b"torn")
            self._files["vectors"].flush()
            raise KeyboardInterrupt
        write(self, arrays)

    monkeypatch.setattr(Writer, "write", stopping)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt, match="the same command goes on with it"):
            embed(other, "mine", RANDOM, mesh=mesh)
        with pytest.raises(InputError, match="not finished"):
            Features.open(other, "mine")
    with pytest.raises(InputError, match="batch_size differ"):
        embed(other, "mine", Options(NAME, seed=1, batch_size=8), mesh=mesh)
    embed(other, "mine", RANDOM, mesh=mesh)
    assert digests(other.path / "features") == expected
    blocks = sum(-(-section["records"] // 16) for section in dataset.sections)
    assert len(calls) == blocks + 2  # none was made twice


def test_two_processes_do_not_write_the_same_folder(dataset):
    with Writer(dataset.path / "features" / "mine", {}), pytest.raises(InputError, match="another process is writing"):
        Writer(dataset.path / "features" / "mine", {})


def test_features_of_other_patches_are_refused(dataset, mesh):
    embed(dataset, "mine", RANDOM, mesh=mesh)
    changed = json.loads((dataset.path / "manifest.json").read_text())
    changed.pop(json_files.SEAL, None)
    changed["sections"][1]["shards"][0]["sha256"] = "0" * 64
    (dataset.path / "manifest.json").unlink()
    json_files.write(dataset.path / "manifest.json", json_files.sealed(changed))
    with pytest.raises(InputError, match=r"of other patches than the data set's \(of A2\)"):
        Features.open(PatchDataset.open(dataset.path), "mine")
    with pytest.raises(InputError, match="patches differ"):
        embed(PatchDataset.open(dataset.path), "mine", RANDOM, mesh=mesh)


def test_what_is_not_there_or_damaged_is_refused(dataset, mesh):
    with pytest.raises(InputError, match="no features there; make them with stjax embed"):
        Features.open(dataset, "mine")
    with pytest.raises(InputError, match="contains a path separator"):
        Features.open(dataset, "../mine")
    embed(dataset, "mine", RANDOM, mesh=mesh)
    with pytest.raises(InputError, match="no features there; there are mine"):
        Features.open(dataset, "yours")
    file = dataset.path / "features" / "mine" / f"{dataset.sections[0]['split']}.npy"
    data = file.read_bytes()
    for changed, said in ((data[:-1], "bytes, expected"), (data[:-1] + b"x", "differs from its SHA-256")):
        file.write_bytes(changed)
        with pytest.raises(InputError, match=said):
            Features.open(dataset, "mine")
    file.unlink()
    with pytest.raises(InputError, match="missing"):
        Features.open(dataset, "mine")


def test_an_array_whose_header_is_no_header_is_refused(dataset, mesh):
    embed(dataset, "mine", RANDOM, mesh=mesh)
    folder = dataset.path / "features" / "mine"
    meta = json_files.unsealed(json_files.read(folder / "features.json", remedy=""), "", remedy="")
    file = folder / meta["sections"]["A1"]["vectors"]["file"]
    file.write_bytes(file.read_bytes().replace(b"'shape': (", b"'shape': (((", 1))
    meta["sections"]["A1"]["vectors"] |= {"bytes": file.stat().st_size, "sha256": files.sha256(file)}
    json_files.write(folder / "features.json", json_files.sealed(meta))
    with pytest.raises(InputError, match="no readable array"):
        Features.open(dataset, "mine")


def test_a_folder_of_something_else_is_left_alone(dataset, mesh):
    folder = dataset.path / "features" / "mine"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else than features"):
        embed(dataset, "mine", RANDOM, mesh=mesh)
    assert (folder / "notes.txt").read_text() == "mine"


def test_tiles_have_maps(tiles, tmp_path, mesh):
    dataset = own(tiles, tmp_path)
    found = embed(dataset, "mine", Options(NAME, seed=1, batch_size=2, maps=True), mesh=mesh)
    embedder = embedding.Embedder.of_facts(found.key, None, mesh=mesh)
    name = dataset.sections[0]["name"]
    image = dataset.source((name,))[0]["image"][None]
    assert found.maps[name].shape == (dataset.sections[0]["records"], 26, 26, 32)
    np.testing.assert_allclose(found.maps[name][:1], embedder.maps(embedder.state, image), atol=1e-5)
    assert found.sections[name].shape == (dataset.sections[0]["records"], 32)


def test_a_step_has_as_many_pixels_of_tiles_as_of_patches(tiles, tmp_path, mesh):
    dataset = own(tiles, tmp_path)
    embed(dataset, "mine", Options(NAME, seed=1), mesh=mesh)
    meta = json.loads((dataset.path / "features" / "mine" / "features.json").read_text())
    assert meta["run"]["batch_size"] == 2  # of 416 px; 16 of 64 px


def test_context_is_of_windows_side_by_side(dataset, raw, mesh):
    plain = embed(dataset, "plain", RANDOM, mesh=mesh)
    found = embed(dataset, "wide", Options(NAME, seed=1, batch_size=16, context=3, source=raw), mesh=mesh)
    assert found.context == 3
    for section in dataset.sections:
        name, table = section["name"], dataset.table(section["name"])
        vectors, mask = found.sections[name], found.masks[name]
        xy = np.zeros((section["records"], 2))
        xy[table.record_of_spot] = table.spots.xy
        shift = np.array([(x, y) for y in (-64, 0, 64) for x in (-64, 0, 64)])
        corner = xy[:, None] + shift - 32
        np.testing.assert_array_equal(mask, ((corner >= 0) & (corner + 64 <= 400)).all(axis=2))
        assert not mask.all()
        assert (vectors[~mask] == 0).all()
        scale = np.abs(vectors[mask]).max()
        assert np.abs(vectors[:, 4] - plain.sections[name]).max() < 0.2 * scale  # JPEG lies between


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"maps": True}, "--maps is for tiles"),
        ({"context": 3, "source": "nowhere"}, "of the 0 images there none is that of section A1, A2, B1"),
    ],
)
def test_what_does_not_fit_is_refused(dataset, mesh, tmp_path, options, said):
    if "source" in options:
        options = options | {"source": tmp_path / options["source"]}
    with pytest.raises(InputError, match=said):
        embed(dataset, "mine", Options(NAME, seed=1, **options), mesh=mesh)
    assert not (dataset.path / "features").exists()
