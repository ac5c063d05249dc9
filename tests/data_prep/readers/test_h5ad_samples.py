"""anndata: samples joined in one file are a section each, with their own slide and patient, or refused; never mixed."""

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from data_prep import readers
from data_prep.errors import InputError
from tests.data_prep.readers.tiny_h5ad import square, table, visium, write

reader = readers.reader("anndata")

SHIFT_PX = 17.0  # of sample B's spots against A's: each has its own slide


def two(**options: object) -> ad.AnnData:
    """Samples A and B, as `anndata.concat` joins them; their barcodes are the same."""
    tables = {"A": visium(library="A"), "B": visium(library="B", shift_px=SHIFT_PX)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # names that are not unique
        return ad.concat(tables, **options)


def read_both(root: Path) -> None:
    """A's spots are on A's slide and B's on B's."""
    sections = list(reader.read_sections(root))
    assert [section.name for section in sections] == ["A", "B"]
    assert [section.image_path.name for section in sections] == ["A.png", "B.png"]
    single = visium().obsm["spatial"]
    np.testing.assert_array_equal(sections[0].spots.xy, single)
    np.testing.assert_array_equal(sections[1].spots.xy, single + SHIFT_PX)
    for section in sections:
        assert section.counts.toarray().tolist() == visium().X.tolist()


@pytest.mark.parametrize(
    "column", ["library_id", "sample", "Sample", "sampleID", "batch", "slide", "tissue_section_label", "orig.ident"]
)
@pytest.mark.parametrize("uns_merge", ["unique", None])
def test_a_column_of_samples_makes_sections(tmp_path: Path, column: str, uns_merge: str | None) -> None:
    joined = two(label=column, index_unique="-", uns_merge=uns_merge)
    root = write(tmp_path, "both", joined, images=("A", "B", "both"))
    read_both(root)
    note = f"both.h5ad holds 2 samples by obs[{column!r}]: this is 'A'"
    assert note in reader.read_section(root, "A").notes


def test_a_column_of_any_name_counts_where_its_values_are_libraries(tmp_path: Path) -> None:
    joined = two(label="what_we_call_it", index_unique="-", uns_merge="unique")
    read_both(write(tmp_path, "both", joined, images=("A", "B")))


def test_barcodes_need_only_be_unique_within_a_sample(tmp_path: Path) -> None:
    read_both(write(tmp_path, "both", two(label="sample"), images=("A", "B")))


def test_barcodes_of_two_samples_under_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="section 'both' holds spots of several samples: 36 spot ids appear again"):
        reader.read_section(write(tmp_path, "both", two()), "both")


def test_the_finest_of_several_columns_counts_unless_another_has_slides(tmp_path: Path) -> None:
    joined = two(label="sample", index_unique="-")
    joined.obs["section"] = np.arange(joined.n_obs) // (joined.n_obs // 4)
    root = write(tmp_path, "both", joined, images=("A", "B"))
    read_both(root)
    (root / "A.png").unlink()
    with pytest.raises(InputError, match=r"'both_0'.*which holds 4 samples by obs\['section'\]"):
        reader.list_sections(root)


def test_samples_without_a_slide_each_are_refused_by_the_column(tmp_path: Path) -> None:
    root = write(tmp_path, "both", two(label="sample", index_unique="-"))
    with pytest.raises(InputError, match=r"'A': .* next to both.h5ad, which holds 2 samples by obs\['sample'\] \(exp"):
        reader.list_sections(root)
    with pytest.raises(InputError, match="is one image, but there are several sections"):
        reader.list_sections(root, image=root / "both.png")


def test_slides_are_taken_from_a_folder(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "both", two(label="sample", index_unique="-"), images=())
    slides = write(tmp_path / "slides", "spare", visium(), images=("A", "B"))
    assert reader.read_section(root / "both.h5ad", "B", image=slides).image_path == slides / "B.png"


def test_slides_are_taken_from_the_path_the_file_keeps(tmp_path: Path) -> None:
    joined = two(label="sample", index_unique="-", uns_merge="unique")
    for name in ("A", "B"):
        joined.uns["spatial"][name]["metadata"] = {"source_image_path": f"C:\\lab\\slide_{name}.png"}
    root = write(tmp_path, "both", joined, images=("slide_A", "slide_B"))
    assert [section.image_path.name for section in reader.read_sections(root)] == ["slide_A.png", "slide_B.png"]


def test_numbers_for_samples_follow_the_files_name(tmp_path: Path) -> None:
    joined = two(index_unique="-")
    joined.obs["batch"] = [0] * (joined.n_obs // 2) + [1] * (joined.n_obs // 2)
    root = write(tmp_path, "both", joined, images=("both_0", "both_1"))
    assert reader.list_sections(root) == ["both_0", "both_1"]


def test_patients_are_each_samples_own(tmp_path: Path) -> None:
    joined = two(label="sample", index_unique="-")
    joined.obs["donor_id"] = ["P7"] * (joined.n_obs // 2) + ["P9"] * (joined.n_obs // 2)
    root = write(tmp_path, "both", joined, images=("A", "B"))
    assert [section.patient for section in reader.read_sections(root)] == ["P7", "P9"]


def test_a_column_of_samples_with_gaps_is_refused(tmp_path: Path) -> None:
    made = visium()
    made.obs["sample"] = ["A"] * 20 + [None] * (made.n_obs - 20)  # joined with a file that has no such column
    with pytest.raises(InputError, match=r"obs\['sample'\] is missing for 16 spots: whose are they\?"):
        reader.list_sections(write(tmp_path, "A", made))
    made.obs["library_id"] = "A"  # which says it of all
    assert reader.list_sections(write(tmp_path, "A", made)) == ["A"]


def test_a_spot_of_no_sample_is_left_out_and_counted(tmp_path: Path) -> None:
    joined = two(label="sample", index_unique="-")
    joined.obs["sample"] = joined.obs["sample"].astype(object)
    joined.obs.iloc[0, joined.obs.columns.get_loc("sample")] = None
    section = reader.read_section(write(tmp_path, "both", joined, images=("A", "B")), "A")
    assert len(section.spots.id) == joined.n_obs // 2 - 1
    assert "1 spot is of no sample and was left out" in section.notes


def test_bins_of_two_sizes_are_told_apart(tmp_path: Path) -> None:
    tables = {}
    for size in ("008", "016"):
        array_xy, spot_xy = square()
        tables[size] = table(array_xy, spot_xy, bin_size_um=8.0)
        tables[size].obs_names = [f"s_{size}um_{row:05d}_{column:05d}-1" for column, row in array_xy]
    with pytest.raises(InputError, match=r"'s_008um'.*which holds 2 samples by the spot ids.*'s_016um'"):
        reader.list_sections(write(tmp_path, "A", ad.concat(list(tables.values()))))


@pytest.mark.parametrize("column", ["patient", "donor_id", "Patient.ID", "mouse_id"])
def test_two_patients_in_one_section_are_refused(tmp_path: Path, column: str) -> None:
    made = visium()
    made.obs[column] = ["P7"] * 10 + ["P9"] * (made.n_obs - 10)
    with pytest.raises(InputError, match=rf"obs\['{column}'\] names 2 patients \(P7, P9\), expected one"):
        reader.read_section(write(tmp_path, "A", made), "A")


def test_an_unknown_donor_is_no_patient(tmp_path: Path) -> None:
    made = visium()
    made.obs["donor_id"] = "unknown"
    section = reader.read_section(write(tmp_path, "A", made), "A")
    assert section.patient == "A"
    assert any(note.startswith("patient not stated") for note in section.notes)


def test_a_constant_column_is_one_section(tmp_path: Path) -> None:
    made = visium()
    made.obs["library_id"] = made.obs["batch"] = "A"
    root = write(tmp_path, "mine", made)
    assert reader.list_sections(root) == ["mine"]
    assert not any("samples" in note for note in reader.read_section(root, "mine").notes)


def test_a_sample_cut_out_of_a_joined_file_keeps_its_own_entry(tmp_path: Path) -> None:
    joined = two(label="library_id", index_unique="-", uns_merge="unique")
    joined.uns["spatial"]["A"]["scalefactors"]["microns_per_pixel"] = 9.0
    joined.uns["spatial"]["B"]["scalefactors"]["microns_per_pixel"] = 2.0
    cut = joined[joined.obs["library_id"] == "B"].copy()
    root = write(tmp_path, "mine", cut)
    assert reader.read_section(root, "mine").um_per_px == 2.0


@pytest.mark.parametrize(
    "options", [{"keys": ["A", "B"], "index_unique": "-"}, {"keys": ["A", "B"], "index_unique": "_"}]
)
def test_names_around_the_barcodes_make_sections(tmp_path: Path, options: dict[str, str]) -> None:
    tables = [visium(library="A"), visium(library="B", shift_px=SHIFT_PX)]
    root = write(tmp_path, "both", ad.concat(tables, **options), images=("A", "B"))
    read_both(root)
    assert "both.h5ad holds 2 samples by the spot ids: this is 'B'" in reader.read_section(root, "B").notes


@pytest.mark.parametrize(
    "rename",
    [
        lambda name, sample: f"{name}-{sample}",  # AnnData.concatenate
        lambda name, sample: f"{name}_{sample + 1}",  # Seurat's merge
        lambda name, sample: f"{name[:-2]}-{sample + 1}",  # spaceranger aggr
        lambda name, sample: f"{name}-1" if sample else name,  # obs_names_make_unique
        lambda name, sample: f"s{sample}_{name}",
    ],
)
def test_numbers_around_the_barcodes_are_refused_without_slides(tmp_path: Path, rename) -> None:
    joined = two()
    half = joined.n_obs // 2
    joined.obs_names = [rename(name, int(row >= half)) for row, name in enumerate(joined.obs_names)]
    root = write(tmp_path, "both", joined)
    with pytest.raises(InputError, match=r"next to both.h5ad, which holds 2 samples by the spot ids"):
        reader.list_sections(root)


@pytest.mark.parametrize("with_array", [True, False])
def test_spots_on_one_another_are_refused_without_any_name(tmp_path: Path, with_array: bool) -> None:
    joined = two()
    joined.obs_names = [f"spot{row}" for row in range(joined.n_obs)]
    if not with_array:
        del joined.obs["array_row"]
    found = r"36 array positions are taken twice" if with_array else "one half of the spots lies on the other"
    with pytest.raises(
        InputError, match=rf"section 'both' holds spots of several samples: {found}.*obs\['library_id'\]"
    ):
        reader.read_section(write(tmp_path, "both", joined), "both", um_per_px=2.0)


def test_samples_under_one_name_are_refused(tmp_path: Path) -> None:
    joined = two(index_unique="-")
    joined.obs["sample"] = ["X", *["Y"] * (joined.n_obs - 1)]
    root = write(tmp_path, "both", joined, images=("X", "Y"))
    with pytest.raises(InputError, match=r"section 'Y' holds spots of several samples: spot ids differ"):
        reader.read_section(root, "Y")


def test_several_libraries_without_a_column_are_refused(tmp_path: Path) -> None:
    made = visium()
    made.uns["spatial"]["M"] = {"scalefactors": {}}
    with pytest.raises(
        InputError, match=r"uns\['spatial'\] holds L, M, but no column of obs says which spots are whose"
    ):
        reader.list_sections(write(tmp_path, "A", made))


def test_entries_of_other_names_are_not_used_and_said(tmp_path: Path) -> None:
    joined = two(label="sample", index_unique="-", uns_merge="unique")
    joined.uns["spatial"] = {"V1": joined.uns["spatial"]["A"], "V2": joined.uns["spatial"]["B"]}
    section = reader.read_section(write(tmp_path, "both", joined, images=("A", "B")), "A")
    assert "uns['spatial'] (V1, V2) has no entry of that name and is not used" in section.notes


def test_cellxgenes_flag_beside_the_library_is_no_library(tmp_path: Path) -> None:
    made = visium()
    made.uns["spatial"]["is_single"] = np.True_
    assert reader.list_sections(write(tmp_path, "A", made)) == ["A"]
