"""Feature files of TRIDENT, CLAM, HEST-Benchmark and STP-Bench onto spots, and back; what does not fit is refused."""

import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_prep import json_files
from data_prep.errors import InputError
from data_prep.spots import Spots
from stjax.features import exchange, importing
from stjax.features.exchange import FeatureFile
from stjax.features.importing import Options, import_features
from stjax.features.store import Features
from stjax.inference.embedding import Options as Making
from stjax.inference.embedding import embed
from stjax.models import encoder as networks
from stjax.models import weight_files
from tests.features.conftest import NAME
from tests.models.test_hostile_weights import tensor

WIDTH = 32


def vectors_of(table, section):
    """[S, D] that tell section and spot."""
    rng = np.random.default_rng(sum(map(ord, section)))
    return rng.normal(size=(len(table.spots), WIDTH)).astype(np.float32)


def write(path, attributes=(), **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            kind = {"dtype": h5py.string_dtype()} if np.asarray(values).dtype.kind in "OU" else {}
            file.create_dataset(name, data=np.asarray(values, object) if kind else values, **kind)
        for name, value in dict(attributes).items():
            file["coords"].attrs[name] = value
    return path


def save_tensor(path, array):
    """What torch.save(tensor, path) writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    strides = [step // array.itemsize for step in array.strides]
    content = b"\x80\x02" + tensor(array.shape, strides, key="0", length=array.size) + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", content)
        archive.writestr("w/data/0", array.tobytes())


def trident(folder, dataset, *, attributes=(), leave_out=(), **more):
    """Files with a tile around every spot, in another order than the spots', beside tiles that hold none."""
    expected = {}
    for section in dataset.sections:
        name, table = section["name"], dataset.table(section["name"])
        expected[name] = vectors_of(table, name)
        keep = np.array([spot not in leave_out for spot in table.spots.id])
        corners = np.floor(table.spots.xy[keep] - 32 + 5)  # centres need not agree
        rows = np.random.default_rng(0).permutation(len(corners) + 3)
        values = np.concatenate([expected[name][keep], np.zeros((3, WIDTH), np.float32)])[rows]
        corners = np.concatenate([corners, [[900, 900], [970, 900], [900, 970]]])[rows].astype(np.int64)
        about = {"patch_size": 64, "patch_size_level0": 64, "level0_width": 400, "level0_height": 400}
        write(folder / f"{name}.h5", about | dict(attributes), features=values, coords=corners, **more)
    return expected


def check(found, dataset, expected):
    for section in dataset.sections:
        table = dataset.table(section["name"])
        of_spots = found.sections[section["name"]][table.record_of_spot]
        np.testing.assert_array_equal(of_spots, expected[section["name"]])


def test_written_as_trident_does_and_read_back_features_are_equal(dataset, tmp_path, mesh):
    made = embed(dataset, "made", Making(NAME, seed=1), mesh=mesh)
    files = exchange.write_trident(made, dataset, tmp_path / "out")
    assert [str(path.relative_to(tmp_path / "out")) for path in files] == [
        f"features_tiny/{name}.h5" for name in ("A1", "A2", "B1")
    ]
    found = import_features(dataset, "back", Options(tmp_path / "out" / "features_tiny"))
    for name, vectors in made.sections.items():
        np.testing.assert_array_equal(found.sections[name], vectors)
        assert found.sections[name].dtype == vectors.dtype
    same = ("encoder", "weights_sha256", "pooling", "compute", "width", "px", "um_per_px", "dtype", "patches")
    assert {name: found.key[name] for name in same} == {name: made.key[name] for name in same}
    with h5py.File(files[0]) as file:
        assert file["coords"].attrs["patch_size_level0"] == 64
        assert file["coords"].attrs["level0_magnification"] == 20
        table = dataset.table("A1")
        xy = np.zeros_like(table.spots.xy)
        xy[table.record_of_spot] = table.spots.xy
        np.testing.assert_array_equal(file["coords"][()], xy - 32)
        del_barcodes = {name: file[name][()] for name in ("features", "coords")}
        attributes = dict(file["coords"].attrs)
    write(files[0], attributes, **del_barcodes)
    np.testing.assert_array_equal(exchange.read(files[0]).corner_xy, xy - 32)
    np.testing.assert_array_equal(importing.rows_of(exchange.read(files[0]), table.spots), table.record_of_spot)


def test_a_spot_has_the_features_of_the_tile_that_holds_its_centre(dataset, tmp_path):
    expected = trident(tmp_path / "trident", dataset)
    found = import_features(dataset, "", Options(tmp_path / "trident", encoder=NAME))
    assert found.path.name == NAME
    check(found, dataset, expected)


def test_of_tiles_that_overlap_the_nearest_counts_and_outside_of_all_is_none():
    corners = np.array([[0, 0], [50, 0], [300, 300]], float)
    file = FeatureFile(Path("tiles.h5"), np.zeros((3, 4), np.float32), corner_xy=corners, side_px=100)
    spots = Spots.discs([[60, 50], [90, 50], [150, 0], [151, 50], [400, 400], [401, 400]], 1.0)
    np.testing.assert_array_equal(importing.rows_of(file, spots), [0, 1, 1, -1, 2, -1])


def test_clam_s_size_of_patches_comes_from_the_coords_files(dataset, tmp_path):
    expected = trident(tmp_path / "made", dataset)
    for section in dataset.sections:
        name = section["name"]
        with h5py.File(tmp_path / "made" / f"{name}.h5") as file:
            features, coords = file["features"][()], file["coords"][()]
        write(tmp_path / "clam" / "h5_files" / f"{name}.h5", features=features, coords=coords.astype(np.int32))
        save_tensor(tmp_path / "clam" / "pt_files" / f"{name}.pt", features)
        about = {"patch_size": 32, "patch_level": 1, "downsample": np.array([2.0, 2.0])}
        write(tmp_path / "clam" / "patches" / f"{name}.h5", about, coords=coords)
    options = {"encoder": NAME, "any_scale": True}
    with pytest.raises(InputError, match="does not say how large its patches are: give --coords=FOLDER"):
        import_features(dataset, "a", Options(tmp_path / "clam", **options))
    with pytest.raises(InputError, match="does not say how large its patches are: give --coords=FOLDER"):
        import_features(dataset, "a", Options(tmp_path / "clam" / "pt_files", **options))
    for name, folder in (("a", "clam"), ("b", "clam/pt_files")):
        options = Options(tmp_path / folder, coords=tmp_path / "clam" / "patches", encoder=NAME, any_scale=True)
        check(import_features(dataset, name, options), dataset, expected)


@pytest.mark.parametrize("flat", [True, False])
def test_hest_s_features_are_joined_by_barcode(dataset, tmp_path, flat):
    expected = {}
    for section in dataset.sections:
        name, table = section["name"], dataset.table(section["name"])
        expected[name] = vectors_of(table, name).astype(np.float16)
        order = np.random.default_rng(1).permutation(len(table.spots))
        barcodes = table.spots.id[order] if flat else table.spots.id[order][:, None]
        arrays = {"embeddings": expected[name][order], "barcodes": barcodes, "coords": np.zeros((len(order), 2), int)}
        write(tmp_path / "hest" / f"{name}.h5", **arrays)
    found = import_features(dataset, "hest", Options(tmp_path / "hest", encoder=NAME))
    check(found, dataset, expected)
    assert found.key["dtype"] == "float16"


def test_stp_bench_s_windows_come_with_their_mask(dataset, tmp_path):
    for section in dataset.sections:
        table = dataset.table(section["name"])
        vectors = np.repeat(vectors_of(table, section["name"])[:, None], 25, axis=1)
        mask = np.arange(25)[None] < np.arange(len(vectors))[:, None]
        arrays = {"features": vectors, "mask_tb": mask, "barcodes": table.spots.id}
        write(tmp_path / "stp" / f"{section['name']}.h5", **arrays)
    found = import_features(dataset, "stp", Options(tmp_path / "stp", encoder=NAME))
    assert (found.context, found.width) == (5, WIDTH)
    table = dataset.table("A1")
    np.testing.assert_array_equal(found.masks["A1"][table.record_of_spot].sum(axis=1), np.minimum(np.arange(64), 25))
    with pytest.raises(InputError, match="have no place in TRIDENT's files"):
        exchange.write_trident(found, dataset, tmp_path / "out")


def test_spots_without_features_are_refused_unless_told_to_leave_them_out(dataset, tmp_path, capsys):
    expected = trident(tmp_path / "trident", dataset, leave_out=("1x1", "8x8"))
    options = {"encoder": NAME, "folder": tmp_path / "trident"}
    said = r"6 of 192 spots have no features \(A1/8x8, A1/1x1, A2/1x1 and 3 more\)"
    with pytest.raises(InputError, match=said + ".*--allow-missing"):
        import_features(dataset, "mine", Options(**options))
    assert not (dataset.path / "features").exists()
    found = import_features(dataset, "mine", Options(**options, allow_missing=True))
    assert "6 of 192 spots have no features" in capsys.readouterr().out
    for section in dataset.sections:
        table = dataset.table(section["name"])
        lacking = np.isin(table.spots.id, ("1x1", "8x8"))
        np.testing.assert_array_equal(~found.known(section["name"])[table.record_of_spot], lacking)
        of_spots = found.sections[section["name"]][table.record_of_spot]
        np.testing.assert_array_equal(of_spots[~lacking], expected[section["name"]][~lacking])
    files = exchange.write_trident(found, dataset, tmp_path / "out")
    with h5py.File(files[0]) as file:
        assert file["features"].shape == (62, WIDTH)
        assert np.isfinite(file["features"][()]).all()


def change(path, action):
    with h5py.File(path, "r+") as file:
        action(file)


def without(name):
    return lambda file: file.__delitem__(name)


def instead(name, values):
    def action(file):
        attributes = dict(file[name].attrs)
        del file[name]
        file[name] = values
        file[name].attrs.update(attributes)

    return action


def told(name, value, of="coords"):
    return lambda file: file[of].attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (without("features"), "neither features nor embeddings in it; it holds coords"),
        (without("coords"), "neither barcodes nor coords in it"),
        (instead("features", np.zeros((67, 7), np.float32)), "vectors of 7 numbers, those of Tiny have 32"),
        (instead("features", np.zeros((3, WIDTH), np.float32)), r"3 rows of features for coords of shape \(67, 2\)"),
        (instead("features", np.zeros((67, WIDTH), int)), "expected numbers"),
        (instead("features", np.full((67, WIDTH), np.nan)), "holds NaN or infinity"),
        (instead("features", np.zeros((67, 25, WIDTH), np.float32)), "with mask_tb"),
        (instead("coords", np.zeros((67, 3))), "coords is float64"),
        (told("patch_size_level0", "x"), "attribute patch_size_level0 is"),
        (told("level0_width", 800), "features of a slide of 800 x 400 px, that of section A1 has 400 x 400"),
        (told("patch_size_level0", 200), "sees section A1 at 1.56 um per px, and was trained at 0.5"),
        (told("encoder", "uni", "features"), "features of uni, not of --encoder=tiny"),
        (
            told("stjax_patches", "0" * 64, "features"),
            r"of other patches .*\(of A1\).*; give files made of this data set, or embed it$",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(dataset, tmp_path, action, said):
    trident(tmp_path / "trident", dataset)
    change(tmp_path / "trident" / "A1.h5", action)
    with pytest.raises(InputError, match=said) as caught:
        import_features(dataset, "mine", Options(tmp_path / "trident", encoder=NAME))
    assert len(str(caught.value)) < 500
    assert not (dataset.path / "features").exists()


def test_files_of_different_encoders_are_refused(dataset, tmp_path):
    trident(tmp_path / "trident", dataset)
    change(tmp_path / "trident" / "B1.h5", told("encoder", "other", "features"))
    with pytest.raises(InputError, match=r"B1.h5: float32 \(32,\), other; A1.h5 has float32 \(32,\): give"):
        import_features(dataset, "mine", Options(tmp_path / "trident", encoder=NAME))


def test_what_is_not_said_must_be_given(dataset, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        import_features(dataset, "mine", Options(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no feature file of any section, such as A1\.h5"):
        import_features(dataset, "mine", Options(tmp_path / "empty"))
    trident(tmp_path / "trident", dataset)
    with pytest.raises(InputError, match="does not say which encoder made it; give --encoder=NAME"):
        import_features(dataset, "mine", Options(tmp_path / "trident"))
    (tmp_path / "trident" / "B1.h5").unlink()
    with pytest.raises(InputError, match=r"64 of 192 spots have no features \(B1/"):
        import_features(dataset, "mine", Options(tmp_path / "trident", encoder=NAME))


def test_hostile_files_are_refused(dataset, tmp_path):
    trident(tmp_path / "trident", dataset)
    file, plain = tmp_path / "trident" / "A1.h5", tmp_path / "plain.h5"
    shutil.copyfile(file, plain)
    attacks = {
        "a link to another file": lambda f: (
            without("features")(f),
            f.__setitem__("features", h5py.ExternalLink("x", "y")),
        ),
        "over the budget": lambda f: (
            without("features")(f),
            f.create_dataset("features", shape=(10**12, WIDTH), dtype="f4", chunks=(1024, WIDTH)),
        ),
    }
    for said, attack in attacks.items():
        shutil.copyfile(plain, file)
        change(file, attack)
        with pytest.raises(InputError, match=said):
            import_features(dataset, "mine", Options(tmp_path / "trident", encoder=NAME))
    file.write_bytes(plain.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated, damaged or not a feature file"):
        import_features(dataset, "mine", Options(tmp_path / "trident", encoder=NAME))
    file.write_bytes(b"a table")
    with pytest.raises(InputError, match="truncated, damaged or not a feature file"):
        import_features(dataset, "mine", Options(tmp_path / "trident", encoder=NAME))


def test_a_barcode_longer_than_names_are_is_refused(tmp_path):
    arrays = {"embeddings": np.zeros((2, 4), np.float32), "barcodes": np.array(["a", "x" * 201])}
    with pytest.raises(InputError, match=r"A1.h5: barcodes: 'xxx.* is longer than 200 bytes"):
        exchange.read(write(tmp_path / "A1.h5", **arrays))


def test_barcodes_that_appear_twice_are_refused(tmp_path):
    arrays = {"embeddings": np.zeros((2, 4), np.float32), "barcodes": np.array(["a", "a"])}
    with pytest.raises(InputError, match="barcode 'a' appears twice"):
        exchange.read(write(tmp_path / "A1.h5", **arrays))


def test_a_mask_that_is_one_value_is_refused(tmp_path):
    arrays = {"features": np.zeros((2, 9, 4), np.float32), "barcodes": np.array(["a", "b"]), "mask_tb": True}
    with pytest.raises(InputError, match="2 rows of features for mask_tb of shape"):
        exchange.read(write(tmp_path / "A1.h5", **arrays))


def test_descriptions_of_features_that_are_none_are_refused(dataset, mesh):
    embed(dataset, "mine", Making(NAME, seed=1), mesh=mesh)
    path = dataset.path / "features" / "mine" / "features.json"
    meta = json_files.read(path, remedy="")
    for place, value in (("width", 31), ("context", 5), ("dtype", "int8"), ("patches", {}), ("encoder", 3)):
        changed = {name: each for name, each in meta.items() if name != json_files.SEAL}
        changed["key"] = meta["key"] | {place: value}
        json_files.write(path, json_files.sealed(changed))
        with pytest.raises(InputError):
            Features.open(dataset, "mine")


def test_a_bare_tensor_is_no_weights_and_weights_are_no_features(tmp_path):
    save_tensor(tmp_path / "A1.pt", np.zeros((64, WIDTH), np.float32))
    with pytest.raises(InputError, match="of another model: it has a tensor without a name; expected"):
        networks.load(NAME, tmp_path / "A1.pt")
    weights = Path(__file__).parents[1] / "models" / "data" / "zip.pth"
    with pytest.raises(InputError, match="tensors by name, expected one alone"):
        weight_files.read_tensor(weights)
