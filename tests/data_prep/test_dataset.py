import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from data_prep import json_files, records
from data_prep.build import build
from data_prep.dataset import PatchDataset, RecordSource, read_manifest
from data_prep.errors import InputError
from data_prep.section import GeneTable
from data_prep.section_table import SectionTable
from tests.data_prep.tiny_source import write_source
from tests.mutated_json import mutants, refusal


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A data set of three sections, two shards each."""
    root = tmp_path_factory.mktemp("dataset")
    return build(write_source(root / "source"), root / "out", patch_size_px=96, min_counts=10, shard_mb=1).parent


@pytest.fixture
def copy(built, tmp_path) -> Path:
    shutil.copytree(built, tmp_path / "copy")
    return tmp_path / "copy"


def make_record(image_format: str) -> dict:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return {
        "image": records.encode_image(image, image_format, jpeg_quality=95),
        "image_format": image_format,
        "height": 32,
        "width": 32,
        "section": "A1",
        "patient": "Patiënt 1",
        "origin_xy": np.array([12.5, -3]),
        "px_scale": 1.5,
        "white_fraction": 0.25,
        "spot_xy": np.array([[1.5, 2], [3, 4]]),
        "spot_kind": np.array([0, 1], np.uint8),
        "spot_size_px": np.array([5, 6]),
        "spot_id": ["1x2", "3x4"],
        "total_counts": np.array([3, 2**40]),
        "polygon_indptr": np.array([0]),
        "polygon_xy": np.zeros((0, 2)),
    }


@pytest.mark.parametrize("image_format", records.IMAGE_FORMATS)
def test_record_round_trip(image_format):
    record = make_record(image_format)
    decoded = records.decode_record(records.encode_record(record))
    assert decoded.keys() == record.keys()
    for name, value in record.items():
        if name != "image":
            assert np.array_equal(decoded[name], value), name
    for name, (dtype, _) in records.ARRAYS.items():
        assert decoded[name].dtype == dtype
    np.testing.assert_array_equal(decoded["image"], records.decode_image(record["image"], image_format, 32, 32))


def test_records_of_version_1_hold_counts_too(copy):
    """Which nobody reads: the table has them."""
    manifest = copy / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["sha256"]
    manifest.write_text(json.dumps(json_files.sealed(content | {"format_version": 1})))
    assert len(PatchDataset.open(copy).table("A1").spots)
    record = make_record("jpeg")
    example = tf_example_pb2.Example.FromString(records.encode_record(record))  # pyright: ignore[reportAttributeAccessIssue]
    for name, values in (("count_indptr", [0, 1, 1]), ("count_indices", [7]), ("count_values", [3])):
        example.features.feature[name].int64_list.value.extend(values)
    decoded = records.decode_record(example.SerializeToString())
    assert decoded.keys() == record.keys()
    assert decoded["spot_id"].tolist() == record["spot_id"]


def test_raw_images_are_exact():
    image = np.random.default_rng(0).integers(0, 256, (32, 24, 3), dtype=np.uint8)
    data = records.encode_image(image, "raw", jpeg_quality=1)
    np.testing.assert_array_equal(records.decode_image(data, "raw", 32, 24), image)


def test_record_with_nothing_in_it_keeps_its_shapes():
    record = make_record("raw")
    for name, (_, shape) in records.ARRAYS.items():
        record[name] = np.zeros((1,) if name.endswith("indptr") else tuple(side or 0 for side in shape))
    decoded = records.decode_record(records.encode_record(record | {"spot_id": []}))
    assert decoded["spot_xy"].shape == (0, 2)
    assert decoded["spot_id"].shape == (0,)
    assert decoded["origin_xy"].tolist() == [0, 0]


def test_pillow_decodes_the_same_pixels_when_simplejpeg_is_absent(built, monkeypatch):
    data = PatchDataset.open(built).source(["A1"]).read(5)
    fast = records.decode_record(data)["image"]
    monkeypatch.setattr(records, "simplejpeg", None)
    np.testing.assert_array_equal(records.decode_record(data)["image"], fast)


def test_records_are_in_the_order_of_the_tables(built):
    dataset = PatchDataset.open(built, verify=True)
    names = ["B1", "A1"]
    source, start = dataset.source(names), 0
    for name in names:
        table = dataset.table(name)
        for row in range(len(table.spots.id)):
            record = source[start + row]
            assert (record["section"], record["spot_id"].tolist()) == (name, [table.spots.id[row]])
            assert record["total_counts"] == table.total_counts[row]
            assert record["white_fraction"] == table.white_fraction[row]
            np.testing.assert_allclose(record["origin_xy"] + record["spot_xy"][0], table.spots.xy[row])
            np.testing.assert_allclose(record["image"].mean(axis=(0, 1)), table.channel_mean[row], rtol=1e-6)
            square = np.mean(record["image"].astype(float) ** 2, axis=(0, 1))
            np.testing.assert_allclose(square, table.channel_mean_square[row], rtol=1e-5)
        assert table.record_of_spot.tolist() == list(range(len(table.spots.id)))
        start += len(table.spots.id)
    assert len(source) == start


def test_source_reads_the_same_in_another_process(built):
    source = PatchDataset.open(built).source(["A1", "A2"])
    first = source.read(3)
    again = pickle.loads(pickle.dumps(source))
    assert (len(again), again.read(3)) == (len(source), first)
    assert "RecordSource" in repr(source)


def test_source_refuses_what_is_outside(built):
    source = PatchDataset.open(built).source(["A1"])
    for index in (-1, len(source)):
        with pytest.raises(IndexError, match="record"):
            source[index]
    assert len(RecordSource([])) == 0


def test_data_set_opens_in_tfds_with_version_citation_and_the_same_order(built):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(str(built / "stjax_patches" / "2.0.0"))
    assert str(builder.info.version) == "2.0.0"
    assert "Andersson" in builder.info.citation
    assert builder.info.disable_shuffling
    dataset = PatchDataset.open(built)
    assert set(builder.info.splits) == {entry["split"] for entry in dataset.sections}
    theirs, ours = builder.as_data_source(split="A2"), dataset.source(["A2"])
    assert len(theirs) == len(ours)
    for index in range(0, len(ours), 7):
        assert theirs[index]["spot_id"][0].decode() == ours[index]["spot_id"][0]
        np.testing.assert_array_equal(theirs[index]["image"], ours[index]["image"])
        np.testing.assert_array_equal(theirs[index]["spot_xy"], ours[index]["spot_xy"])


def test_open_names_what_is_wrong_with_the_folder(tmp_path, copy):
    with pytest.raises(InputError, match=r"no such folder.*data_prep.build"):
        PatchDataset.open(tmp_path / "absent")
    with pytest.raises(InputError, match=r"no manifest.json"):
        PatchDataset.open(tmp_path)
    manifest = copy / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"format_version": 99}))
    with pytest.raises(InputError, match="version 99, expected stjax-dataset version 1 or 2"):
        PatchDataset.open(copy)
    manifest.write_text("{")
    with pytest.raises(InputError, match=r"no readable JSON.*build it again"):
        PatchDataset.open(copy)
    manifest.unlink()
    (copy / ".build").mkdir()
    with pytest.raises(InputError, match="did not finish"):
        PatchDataset.open(copy)


def test_open_notices_a_missing_shard(copy):
    next((copy / "stjax_patches" / "2.0.0").glob("*A2*-00001-of-*")).unlink()
    with pytest.raises(InputError, match=r"'A2'.*missing"):
        PatchDataset.open(copy)


def test_open_notices_a_truncated_shard(copy):
    shard = next((copy / "stjax_patches" / "2.0.0").glob("*A2*-00001-of-*"))
    shard.write_bytes(shard.read_bytes()[:-4096])
    with pytest.raises(InputError, match=r"'A2'.*bytes, expected"):
        PatchDataset.open(copy)


def test_open_counts_the_records_of_a_shard_of_the_right_size(copy):
    shard = next((copy / "stjax_patches" / "2.0.0").glob("*A2*-00001-of-*"))
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(InputError, match=r"'A2'.*holds 0 records"):
        PatchDataset.open(copy)


@pytest.mark.parametrize("pattern", ["stjax_patches/2.0.0/*A2*-00001-of-*", "tables/A2.npz"])
def test_open_with_verify_notices_one_changed_bit(copy, pattern):
    file = next(copy.glob(pattern))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"'A2'.*SHA-256"):
        PatchDataset.open(copy, verify=True)


def test_open_notices_a_missing_thumbnail(copy):
    (copy / "thumbnails" / "A2.jpg").unlink()
    with pytest.raises(InputError, match=r"'A2'.*A2.jpg is missing.*build it again"):
        PatchDataset.open(copy)


def test_a_damaged_table_is_named_when_it_is_read(copy):
    file = copy / "tables" / "A2.npz"
    file.write_bytes(bytes(file.stat().st_size))
    dataset = PatchDataset.open(copy)
    with pytest.raises(InputError, match=r"'A2'.*A2.npz differs from its SHA-256.*build it again"):
        dataset.table("A2")
    dataset.table("A1")


def test_a_damaged_record_is_refused_with_the_shard_named(copy):
    dataset = PatchDataset.open(copy)
    shard = copy / dataset.section("A2")["shards"][1]["file"]
    data = bytearray(shard.read_bytes())
    data[data.index(dataset.source(["A2"])[48]["spot_id"][0].encode()) - 4] ^= 1
    shard.write_bytes(data)
    source = PatchDataset.open(copy).source(["A2"])
    with pytest.raises(InputError, match=r"A2.array_record-00001-of-\d+: record \d+ cannot be read.*build it again"):
        [source[index] for index in range(len(source))]
    shard.unlink()
    with pytest.raises(InputError, match=r"00001-of-.*cannot be read"):
        dataset.source(["A2"])[len(source) - 1]


def test_unknown_section_is_refused_with_the_known_ones(built):
    with pytest.raises(InputError, match=r"no section 'X9'.*A1, A2, B1"):
        PatchDataset.open(built).table("X9")


def test_reading_needs_neither_jax_nor_tensorflow(built):
    code = (
        "import sys; from data_prep.dataset import PatchDataset; "
        f"PatchDataset.open({str(built)!r}).source(['A1'])[0]; "
        "print([m for m in ('jax', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_manifest_that_was_edited_is_refused(copy):
    manifest = copy / "manifest.json"
    text = manifest.read_text()
    assert '"patient": "A"' in text
    manifest.write_text(text.replace('"patient": "A"', '"patient": "B"', 1))
    with pytest.raises(InputError, match=r"manifest.json: has changed since it was written.*build it again"):
        PatchDataset.open(copy)
    manifest.write_text(text)
    PatchDataset.open(copy)


def test_a_manifest_without_its_hash_is_refused(copy):
    manifest = copy / "manifest.json"
    content = json.loads(manifest.read_text())
    for changed in ({"sha256 ": content.pop("sha256")}, {}):
        manifest.write_text(json.dumps(content | changed))
        with pytest.raises(InputError, match=r"manifest.json: has no hash of itself .*build it again"):
            PatchDataset.open(copy)


def test_any_manifest_is_read_or_refused_in_one_line(copy):
    manifest = copy / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["sha256"]
    content["genes"] = {name: values[:3] for name, values in content["genes"].items()}
    outcomes = []
    for number, (what, mutant) in enumerate(mutants(content)):
        manifest.write_text(json.dumps(json_files.sealed(mutant)))
        if not (refused := refusal(what, lambda: read_manifest(copy))) and number % 10 == 0:
            refused = refusal(what, lambda: [PatchDataset.open(copy).table(name) for name in ("A1", "A2", "B1")])
        outcomes.append(refused)
    assert {bool(refused) for refused in outcomes} == {True, False}


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a\0b", ".hidden", "x" * 300])
@pytest.mark.parametrize("place", ["name", "split"])
def test_a_section_whose_name_leads_out_of_the_folder_is_refused(copy, place, name):
    manifest = copy / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["sha256"]
    content["sections"][0][place] = name
    manifest.write_text(json.dumps(json_files.sealed(content)))
    with pytest.raises(InputError, match=rf"sections\[0\].{place} is .*expected a name"):
        PatchDataset.open(copy)


def damaged(record: dict, **changes) -> bytes:
    return records.encode_record(record | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_format": "raw", "image": b"123"}, "cannot reshape"),
        ({"image": b"no JPEG"}, "."),
        ({"spot_kind": np.array([2, 2])}, r"its polygons' outlines begin at \[5.0, 6.0\] of 0 rings"),
        ({"spot_id": ["1x2"]}, "spot_xy of 2 spots, beside 1 names"),
        ({"spot_xy": np.array([[np.nan, 2], [3, 4]])}, "a place or size of a spot is no number"),
        ({"px_scale": 0.0}, "at a scale of 0.0"),
        ({"polygon_indptr": np.array([0, 5])}, "the outlines of its spots do not fit"),
    ],
)
def test_records_whose_parts_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        records.decode_record(damaged(make_record("jpeg"), **changes))


@pytest.mark.parametrize("data", [b"", b"\xff" * 50, make_record])
def test_bytes_that_are_no_record_are_refused(data):
    data = records.encode_record(data("jpeg"))[:-20] if callable(data) else data
    with pytest.raises(ValueError, match=r"."):
        records.decode_record(data)


def test_an_image_larger_than_it_says_is_not_made():
    record = make_record("jpeg")
    big = records.encode_image(np.zeros((3000, 3000, 3), np.uint8), "jpeg", jpeg_quality=5)
    with pytest.raises(ValueError, match="3000 x 3000 px where 32 x 32"):
        records.decode_record(damaged(record, image=big))
    with pytest.raises(ValueError, match="30000 x 30000 px in"):
        records.decode_image(big, "jpeg", 30_000, 30_000)


def test_a_damaged_record_is_named_with_its_shard(copy):
    shard = next(copy.rglob("*.array_record*"))
    reader = array_record_module.ArrayRecordReader(str(shard))
    held = reader.read_all()
    reader.close()
    shard.unlink()
    writer = array_record_module.ArrayRecordWriter(str(shard), "group_size:1")
    for record in held:
        writer.write(record[: len(record) // 2])
    writer.close()
    with pytest.raises(InputError, match=rf"{shard.name}: record 0 is damaged"):
        RecordSource([(shard, len(held), "A1")])[0]


@pytest.mark.parametrize("image", [True, False])
def test_a_shard_of_another_section_is_refused(copy, image):
    """Though it is as large: opening a data set compares sizes, and hashes only when asked to."""
    dataset = PatchDataset.open(copy)
    source = dataset.source(["A1", "A2"])
    count, first = len(source), len(dataset.source(["A1"]))
    theirs, ours = (copy / dataset.section(name)["shards"][0]["file"] for name in ("A1", "A2"))
    shutil.copy(theirs, ours)
    assert source.record(0, image=image)["section"] == "A1"
    assert count > first
    with pytest.raises(InputError, match=rf"{ours.name}: record {first} is damaged \(of section 'A1', expected 'A2'"):
        source.record(first, image=image)


def test_a_table_of_other_genes_is_refused(copy):
    dataset = PatchDataset.open(copy)
    dataset.genes = GeneTable(dataset.genes.ensembl_id[1:], dataset.genes.symbol[1:])
    with pytest.raises(InputError, match=r"Section 'A1': its table has \d+ genes, the manifest \d+"):
        dataset.table("A1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts_indices": lambda a: a + 100}, "damaged sparse matrix"),
        ({"counts_indptr": lambda a: a[::-1]}, "damaged sparse matrix"),
        ({"counts_data": lambda a: np.full(a.shape, 2**40)}, "counts from"),
        ({"spot_xy": lambda a: a[:-1]}, r"A1\.npz: spots have id \(49,\), xy \(48, 2\)"),
        ({"spot_xy": lambda a: a * np.nan}, "a centre that is no finite number"),
        ({"record_of_spot": lambda a: a + 1000}, "is in a record that is none of its"),
        ({"total_counts": lambda a: -a}, "a total of counts is negative"),
        ({"channel_mean": lambda a: a.astype(str)}, "channel_mean is a 2-dimensional array of"),
    ],
)
def test_tables_of_section_that_do_not_fit_are_refused(copy, changes, message):
    """Their hash may be right: whoever made them can compute it."""
    path = next((copy / "tables").glob("*.npz"))
    with np.load(path) as file:
        arrays = {name: changes.get(name, lambda a: a)(file[name]) for name in file.files}
    np.savez_compressed(path, **arrays)
    with pytest.raises(InputError, match=message):
        SectionTable.load(path)
