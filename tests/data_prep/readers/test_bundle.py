"""bundle: patches as they are stored, joined by barcode; whose they are and at which scale; and what is refused."""

import shutil

import anndata
import h5py
import numpy as np
import pytest

from data_prep import build, demo_hest_bench, patch_file, patch_slide, readers
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.patients import FILE, GUESSED, USER
from data_prep.readers import find_layout
from data_prep.spots import DISC, SQUARE

bundle = readers.reader("bundle")


@pytest.fixture(scope="module", params=["centres", "corners"])
def made(request, tmp_path_factory):
    """A synthetic HEST-Benchmark and, built as they are from one task, records without loss."""
    folder = tmp_path_factory.mktemp("bundle")
    demo_hest_bench.write(folder / "bench", spots=25, genes=5, size_px=32, corners=request.param == "corners")
    options = {"patch_size_px": 32, "image_format": "raw", "min_counts": 0}
    build.build(folder / "bench/TINY_XENIUM", folder / "data", **options)
    return folder


@pytest.fixture
def task(made, tmp_path):
    return shutil.copytree(made / "bench/TINY_XENIUM", tmp_path / "TINY_XENIUM")


def edit(path, key, values=None, **attributes):
    """Another array in an HDF5 file, in place of the one of that name, or other attributes of it."""
    with h5py.File(path, "a") as file:
        if values is not None:
            kept = dict(file[key].attrs)
            del file[key]
            file[key] = values
            file[key].attrs.update(kept)
        for name, value in attributes.items():
            file[key].attrs[name] = value


def test_records_are_the_stored_patches_and_the_counts_of_their_barcodes(made):
    data = PatchDataset.open(made / "data")
    for entry in data.sections:
        name, task = entry["name"], made / "bench/TINY_XENIUM"
        table = data.table(name)
        with h5py.File(task / f"patches/{name}.h5") as file:
            barcodes, pixels = file["barcode"][:, 0].astype(str), file["img"][:]
        counts = anndata.read_h5ad(task / f"adata/{name}.h5ad")
        assert table.spots.id.tolist() == barcodes.tolist()  # all of them, in their order
        assert counts.obs_names[: len(barcodes)].tolist() != barcodes.tolist()
        expected = counts[barcodes, data.genes.symbol].X.toarray()
        np.testing.assert_array_equal(table.counts.toarray(), expected)
        np.testing.assert_array_equal(table.spots.xy, counts[barcodes].obsm["spatial"])
        records = [record["image"] for record in data.source([name])]
        np.testing.assert_array_equal(records, pixels)
        assert (entry["um_per_px"], entry["px_scale"], entry["layout"]) == (0.25, 14.0, "bundle")
        assert entry["image"]["patches"] is True
        assert any("3 spots have no patch" in note for note in entry["notes"])


def test_what_the_coordinates_are_is_told_by_distance(made):
    section = bundle.read_section(made / "bench/TINY_XENIUM", "TINY4")
    with h5py.File(section.image_path) as file:
        corners = (file["coords"][0] == section.spots.xy[0] - 224).all()
    assert section.patch_coords == (patch_file.CORNERS if corners else patch_file.CENTRES)
    with patch_slide.open_image(section) as image:
        x, y = section.spots.xy[3].astype(int)
        inner = image.read_region(x - 168, y - 168, 336, 336)[::14, ::14]  # where its neighbours do not reach
        np.testing.assert_array_equal(inner, image.patch(section.spots.id[3])[4:-4, 4:-4])
        assert (image.read_region(-10, -10, 5, 5) == 255).all()


def test_barcodes_may_be_flat_and_files_called_as_stp_bench_calls_them(task):
    (task / "adata").rename(task / "st")
    for path in (task / "patches").glob("*.h5"):
        with h5py.File(path, "a") as file:
            file["barcodes"] = file["barcode"][:, 0]
            del file["barcode"]
        path.rename(path.with_name(f"{path.stem}_patches.h5"))
    module, reason = find_layout(task)
    assert (module.name, module.list_sections(task)) == ("bundle", ["TINY4", "TINY5"])
    assert reason == "it holds patches/ with 2 .h5 files next to st/, and no wsis/"
    assert len(module.read_section(task, "TINY4").spots) == 22


def test_with_slides_it_is_hests_layout_unless_it_is_named(task):
    (task / "adata").rename(task / "st")
    (task / "wsis").mkdir()
    assert find_layout(task)[0].name == "hest"
    assert find_layout(task, "bundle")[0].list_sections(task) == ["TINY4", "TINY5"]


def test_patients_are_those_of_the_tables_and_else_a_guess(task):
    def patients():
        return [(found.patient, found.patient_source) for found in bundle.read_sections(task)]

    assert patients() == [("TINY4", GUESSED), ("TINY5", GUESSED)]
    (task / "HEST_v1_1_0.csv").write_text(
        'dataset_title,id,patient,st_technology\n"A study, of two",TINY4,Patient 1,Xenium\nAnother,TINY5,,Visium\n'
    )
    (first, how), (second, guessed) = patients()
    assert (first.startswith("A_study_of_two-"), how) == (True, FILE)
    assert (second, guessed) == ("Another", GUESSED)
    (task / "ids.csv").write_text("sample_id,case_id,fold_0\nTINY4,P1,train\nTINY5,P2,test\n")
    assert patients() == [("P1", FILE), ("P2", FILE)]
    (task / "patients.csv").write_text("section,patient\nTINY4,P2\n")
    assert patients() == [("P2", USER), ("P2", FILE)]


def test_the_scale_is_that_of_the_patches_and_what_contradicts_it_is_noted(task):
    (task / "metadata").mkdir()
    (task / "metadata/TINY4.json").write_text('{"pixel_size_um_estimated": 0.5, "st_technology": "Visium"}')
    section = bundle.read_section(task, "TINY4")
    assert (section.um_per_px, section.um_per_px_source, section.spots.kind[0]) == (0.25, "file", DISC)
    assert any("the patches say 0.25 um per px, TINY4.json says 0.5" in note for note in section.notes)
    with h5py.File(section.image_path, "a") as file:
        del file["img"].attrs["factor"]
    found = bundle.read_section(task, "TINY4")
    assert (found.um_per_px, found.um_per_px_source) == (0.5, "metadata")
    (task / "metadata/TINY4.json").unlink()
    with pytest.raises(InputError, match="no attribute factor or pixel_size; give --source-um-per-px"):
        bundle.read_section(task, "TINY4")
    assert bundle.read_section(task, "TINY4", um_per_px=0.3).um_per_px == 0.3


def test_spots_in_a_square_grid_are_taken_for_squares_and_that_is_noted(made):
    section = bundle.read_section(made / "bench/TINY_XENIUM", "TINY4")
    assert (section.spots.kind[0], section.spots.size_px[0]) == (SQUARE, 400)
    assert any(note.startswith("spot shape not stated: they lie in a square grid of 100 um") for note in section.notes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda task: edit(task / "patches/TINY4.h5", "barcode", np.array([b"x%d" % i for i in range(22)])[:, None]),
         r"22 of 22 patches have no spot in TINY4\.h5ad \(e\.g\. barcode x0\); these files are not of one sample"),
        (lambda task: edit(task / "patches/TINY4.h5", "barcode", np.array([b"000x000"] * 22)), "appears twice"),
        (lambda task: edit(task / "patches/TINY4.h5", "coords", np.full((22, 2), 9)), r"coords lie \d+ px from"),
        (lambda task: edit(task / "patches/TINY4.h5", "img", np.zeros((22, 32, 32, 3), np.uint16)),
         r"img is uint16 \(22, 32, 32, 3\), expected uint8"),
        (lambda task: edit(task / "patches/TINY4.h5", "img", np.zeros((22, 32, 31, 3), np.uint8)), "expected uint8"),
        (lambda task: edit(task / "patches/TINY4.h5", "img", np.zeros((21, 32, 32, 3), np.uint8)), "beside 22"),
        (lambda task: edit(task / "patches/TINY4.h5", "img", factor=-1.0), "attribute factor is"),
        (lambda task: shutil.copy(task / "patches/TINY4.h5", task / "patches/TINY4_patches.h5"),
         r"patches/TINY4\.h5 and patches/TINY4_patches\.h5 are of one sample, TINY4; keep one"),
        (lambda task: shutil.copytree(task / "adata", task / "st"), r"adata/TINY4\.h5ad and st/TINY4\.h5ad are of one"),
        (lambda task: (task / "ids.csv").write_text("sample_id\nTINY4\nTINY5\nTINY4\n"), "TINY4 is listed twice"),
        (lambda task: (task / "ids.csv").write_text("sample_id\nTINY9\n"), "'TINY9': patches not found"),
        (lambda task: (task / "adata/TINY4.h5ad").unlink(), "'TINY4': counts not found"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(task, damage, message, tmp_path):
    damage(task)
    with pytest.raises(InputError, match=message):
        build.build(task, tmp_path / "data", patch_size_px=32, min_counts=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "patches of 32 px and no slide, they are not cut anew to 224; give --patch-size-px=32"),
        ({"tile_size_px": 64}, "no tiles can be cut from them"),
        ({"patch_size_px": 32, "um_per_px": 0.5}, r"they have 3\.5 um per px and are not resampled"),
        ({"patch_size_px": 32, "image": "."}, "none is cut from --image"),
    ],
)
def test_patches_are_not_cut_anew(made, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        build.build(made / "bench/TINY_XENIUM", tmp_path / "data", min_counts=0, **options)


def test_white_patches_are_left_out_when_asked_for(task, tmp_path):
    with h5py.File(task / "patches/TINY4.h5", "a") as file:
        file["img"][:5] = 255
        white = file["barcode"][:5, 0].astype(str).tolist()
    build.build(task, tmp_path / "data", patch_size_px=32, min_counts=0, max_white_fraction=0.9)
    kept = PatchDataset.open(tmp_path / "data").table("TINY4").spots.id.tolist()
    assert len(kept) == 17
    assert not set(white) & set(kept)
