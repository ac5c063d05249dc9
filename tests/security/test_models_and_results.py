"""Predictions, dense maps, records and models that somebody made to lead elsewhere, to hang whoever opens them, or to
pass for what they are not."""

import dataclasses
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import stjax
from data_prep import json_files
from data_prep.errors import InputError
from data_prep.spots import Spots
from stjax import checkpoint, intervals, manifest, report, trained, workdir
from stjax.inference import program_trial
from stjax.inference.dense_map import DenseMap
from stjax.inference.model_folder import FUNCTION
from stjax.inference.records import Record
from tests.fuzz.make_run import ARCHIVE
from tests.inference.test_dense import ramps
from tests.mutated_json import reseal
from tests.report.made_run import make_run
from tests.stjax.make_exported import FOLDER, SIDE

# ---------------------------------------------------------------------------------------------------- predictions


def external(file: Any) -> None:
    del file["layers/truth"]
    file["layers/truth"] = h5py.ExternalLink("/etc/hostname", "/X")


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout(shape=file["X"].shape, dtype="f4")
    layout[...] = h5py.VirtualSource("elsewhere.h5", "X", shape=file["X"].shape)
    del file["X"]
    file.create_virtual_dataset("X", layout)


def declared(file: Any) -> None:
    del file["obsm/spatial"]
    file.create_dataset("obsm/spatial", shape=(4 * 10**9, 2), dtype="f8", chunks=(1024, 2))


def doubled(file: Any) -> None:
    inner = file.create_group("inner")
    for depth in range(40):
        outer = file.create_group(f"depth{depth}")
        outer["a"], outer["b"] = inner, inner
        inner = outer
    file["uns/more"] = inner


def circle(file: Any) -> None:
    file["uns/spatial/again"] = h5py.SoftLink("/uns")


def replaced(key: str, value: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        attributes = dict(file[key].attrs)
        del file[key]
        file[key] = value
        file[key].attrs.update(attributes)

    return change


LOWRES = "uns/spatial/A1/images/lowres"
CHANGES = [
    (external, "'layers/truth' is a link to another file"),
    (virtual, "'X' is a virtual data set"),
    (declared, "would take 64,000,000,000 bytes, over the budget"),
    (doubled, "ways to its groups and data sets, by links to the same ones"),
    (circle, "contains itself, by a link"),
    (replaced("X", np.zeros((9, 3), np.float32)), r"X is \(9, 3\) float32, expected numbers of \(9, 4\)"),
    (replaced("X", np.full((9, 4), np.inf)), "X has values beyond all numbers"),
    (replaced("layers/lower", np.zeros((9, 4), "S3")), r"layers/lower is \(9, 4\) .*, expected numbers"),
    (replaced("obsm/spatial", np.full((9, 2), np.nan)), "obsm/spatial has places that are no numbers"),
    (replaced(LOWRES, np.zeros((9, 9), np.uint8)), r"lowres is \(9, 9\), expected a picture in colour"),
    (replaced("uns/spatial/A1/scalefactors/tissue_lowres_scalef", -1.0), "scalef is .*, expected a positive number"),
    (replaced("obs/_index", [b"a\x1b[31m"] * 9), "obs/_index has a name that contains a control character"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_a_report_opens_predictions_as_raw_data_are(tmp_path: Path, change: Callable[[Any], None], message: str):
    run = make_run(tmp_path / "run", spots=9)
    with h5py.File(run / "predictions" / "A1.h5ad", "r+") as file:
        change(file)
    with pytest.raises(InputError, match=rf"A1.h5ad is not readable \(.*{message}.*\); score the run again"):
        report.report([run], tmp_path / "report.html")


def test_a_folder_in_place_of_a_record_is_told_before_anything_is_predicted(tmp_path: Path) -> None:
    (tmp_path / "S1.prediction.json").mkdir()
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"S1.prediction.json is a folder.*; remove it"):
            Record(tmp_path, "S1", {"model_sha256": "m"}, overwrite=overwrite)


# ----------------------------------------------------------------------------------------------------- dense maps


@pytest.mark.parametrize("part", ["0", "3"])
def test_a_map_with_an_empty_part_has_no_values_there_and_says_so(tmp_path: Path, part: str) -> None:
    path = ramps(tmp_path / "map")
    (path / "0" / "c" / "0" / part / "1").write_bytes(b"")
    found = DenseMap.open(path)
    everywhere = np.array([(x, y) for x in (20.0, 90.0, 150.0) for y in (16.0, 48.0, 80.0, 110.0)])
    with pytest.raises(
        InputError, match=r"the tile at \d+, 16 is damaged \((values are lacking|.*shard is too short.*)\)"
    ):
        found.query(Spots.discs(everywhere, 12.0))


def inner(content: dict[str, Any]) -> dict[str, Any]:
    return content["codecs"][0]["configuration"]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: inner(content)["codecs"].pop(0),
        lambda content: inner(content)["codecs"].pop(),
        lambda content: inner(content)["codecs"][0].update(configuration={"endian": "big"}),
        lambda content: inner(content)["codecs"][1]["configuration"].update(clevel=5000),
        lambda content: inner(content)["index_codecs"].reverse(),
        lambda content: inner(content).update(index_location="start"),
        lambda content: content.update(fill_value=0.0),
        lambda content: content["chunk_key_encoding"]["configuration"].update(separator="."),
    ],
)
@pytest.mark.parametrize("stop", [None, 3])
def test_a_map_packed_otherwise_is_refused(tmp_path: Path, change: Callable[[Any], Any], stop: int | None) -> None:
    path = ramps(tmp_path / "map", stop=stop)
    content = json.loads((path / "0" / "zarr.json").read_text())
    change(content)
    (path / "0" / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"0/zarr.json is damaged"):
        DenseMap.open(path) if stop is None else ramps(path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda content: inner(content)["codecs"][1]["configuration"].update(blocksize=2**31 - 1), "codecs"),
        (lambda content: inner(content)["codecs"][1]["configuration"].update(typesize=1), "codecs"),
        (lambda content: inner(content)["codecs"][1]["configuration"].update(clevel=9), "codecs"),
        (lambda content: inner(content).update(chunk_shape=[1, 8, 16]), "codecs"),
        (lambda content: content["chunk_grid"]["configuration"].update(chunk_shape=[2, 16, 16]), "chunk_grid"),
        (lambda content: content.update(shape=[2, 30, 64]), "shape"),
        (lambda content: content.update(dimension_names=["c", "x", "y"]), "dimension_names"),
        (lambda content: content.update(attributes={"offset": 1}), "attributes"),
    ],
)
def test_an_unfinished_map_is_gone_on_with_as_it_was_begun(
    tmp_path: Path, change: Callable[[Any], Any], what: str
) -> None:
    path = ramps(tmp_path / "map", stop=3)
    content = json.loads((path / "0" / "zarr.json").read_text())
    change(content)
    (path / "0" / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"0/zarr.json is not that of the map begun here: {what} differ; remove"):
        ramps(path)


# --------------------------------------------------------------------------------------------------------- models


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "model"))


def put(folder: Path, function: bytes) -> None:
    """Another function in an exported model, which is sealed with it."""
    (folder / FUNCTION).write_bytes(function)
    manifest.seal(folder, {"format": "stjax.model", "version": 1})


def test_a_folder_sealed_anew_is_whole(exported: Path) -> None:
    put(exported, (exported / FUNCTION).read_bytes())
    assert manifest.MANIFEST not in manifest.verify(exported, what="model folder")["files"]
    assert stjax.load(exported).genes


def test_a_model_that_calls_back_into_the_host_is_refused(exported: Path) -> None:
    call = "xla_ffi_python_cpu_callback"
    images = jax.ShapeDtypeStruct((1, SIDE), np.float32)
    checks = [export.DisabledSafetyCheck.custom_call(call)]
    made = export.export(jax.jit(jax.ffi.ffi_call(call, images)), platforms=("cpu",), disabled_checks=checks)(images)
    put(exported, bytes(made.serialize()))
    with pytest.raises(InputError, match=r"model.stablehlo: calls 'xla_ffi_python_cpu_callback', outside of itself"):
        stjax.load(exported)


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_a_model_whose_program_is_damaged_is_refused_as_it_is_loaded(exported: Path, share: float) -> None:
    function = bytearray((exported / FUNCTION).read_bytes())
    place = int(len(function) * share)
    function[place : place + 200] = bytes(200)
    put(exported, bytes(function))
    with pytest.raises(InputError, match=r"which this version cannot read|does not run on the folder's weights"):
        stjax.load(exported)


def other_program(folder: Path, function: Callable[[Any], Any], *, batch: str = "b") -> bytes:
    """A program that says to be the folder's, and is `function` of a batch of images."""
    sound = export.deserialize(bytearray((folder / FUNCTION).read_bytes()))
    weights, images = jax.tree.unflatten(sound.in_tree, sound.in_avals)[0]
    weights = jax.tree.map(lambda each: jax.ShapeDtypeStruct(each.shape, each.dtype), weights)
    shape = export.symbolic_shape(f"{batch}, {SIDE}, {SIDE}, 3")
    genes = sound.out_avals[0].shape[-1]

    def made(weights: Any, images: Any) -> Any:
        total = sum(jnp.sum(each) for each in jax.tree.leaves(weights))  # all are taken
        return jnp.zeros((images.shape[0], genes)) + total + function(jnp.float32(images))

    images = jax.ShapeDtypeStruct(shape, images.dtype)
    program = export.export(jax.jit(made), platforms=sound.platforms)(weights, images)
    return bytes(dataclasses.replace(sound, mlir_module_serialized=program.mlir_module_serialized).serialize())


def test_a_program_that_fails_once_it_meets_a_batch_is_refused(exported: Path) -> None:
    images = np.zeros((16, SIDE, SIDE, 3), np.uint8)  # two a device
    put(exported, other_program(exported, jnp.sum))
    assert np.isfinite(trained.load(exported).predict({"image": images})["expression"]).all()
    put(exported, other_program(exported, jnp.sum, batch="3*b"))
    model = trained.load(exported)
    with pytest.raises(InputError, match=r"model.stablehlo: does not run on .*; make the model folder anew") as refused:
        model.predict({"image": images})
    assert len(str(refused.value)) < 500


def test_a_program_that_declares_gigabytes_is_refused_by_another_process(exported: Path) -> None:
    function = bytearray((exported / FUNCTION).read_bytes())
    place = function.index(bytes.fromhex("fd032709161b030903010d03010503041b030e02")) + 12
    function[place] = 0  # a count of nine bytes, with those that follow
    put(exported, bytes(function))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"model.stablehlo: reading its program would take .* over the budget of"):
        stjax.load(exported)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB; it took 3.4 GB


@pytest.mark.parametrize("code", [-6, -9, -24])
def test_a_program_that_ends_its_reader_is_refused(exported: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(program_trial, "_tried", lambda _: code)
    with pytest.raises(InputError, match=r"model.stablehlo: reading it takes too long or ends the process"):
        stjax.load(exported)


def test_a_run_with_intervals_of_other_genes_is_refused(tmp_path: Path) -> None:
    shutil.unpack_archive(ARCHIVE, tmp_path / "run")
    assert stjax.load(tmp_path / "run").model.intervals
    reseal(tmp_path / "run" / "intervals.json", lambda content: content["half_width"].pop())
    with pytest.raises(InputError, match=r"intervals.json: 2 intervals, expected one for each of 3 genes; remove it"):
        _ = stjax.load(tmp_path / "run").model.intervals


def test_the_kept_run_is_as_training_leaves_one(tmp_path: Path) -> None:
    shutil.unpack_archive(ARCHIVE, tmp_path / "run")
    assert (meta := checkpoint.newest(tmp_path / "run" / "checkpoints"))
    assert meta["finished"]
    assert set(json_files.read(tmp_path / "run" / "config.json", remedy="")) > {"model", "num_epochs", json_files.SEAL}


def test_what_a_run_says_beyond_what_is_known_is_not_read(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.unpack_archive(ARCHIVE, run)
    reseal(run / "data.json", lambda content: content["panel"].update(extra=1))
    reseal(run / "intervals.json", lambda content: content.update(extra=1))
    fold = workdir.load_fold(run)
    assert fold.panel.num_main == len(fold.train_mean)
    assert intervals.Intervals.load(run)
