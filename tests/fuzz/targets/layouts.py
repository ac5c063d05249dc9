"""Every layout a reader knows, as the demo writes it: looked over as `check` does, read, and its slide cut into."""

import random
import shutil
from pathlib import Path
from typing import Any, ClassVar

from data_prep import check, demo, readers
from data_prep.patch_slide import open_image
from data_prep.section import Section
from tests.fuzz.damage.hdf5_structure import damage_structure
from tests.fuzz.targets import Facts, Target, facts

_RECIPE = {"patients": 1, "sections_per_patient": 1, "spots": 3, "um_per_px": 4.0, "seed": 1, "workers": 1}


class Layout(Target):
    """A folder of one section."""

    layout: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    only = ("*",)

    def make(self, folder: Path) -> None:
        demo.make_demo(folder / "source", layout=self.layout, **_RECIPE)
        shutil.rmtree(folder / "source" / "truth")

    def use(self, folder: Path) -> Facts:
        source = folder / "source"
        check.check(source, **self.options)
        module, _ = readers.find_layout(source)
        read = list(module.read_sections(source, **self.options))
        return facts({f"{section.name} {key}": value for section in read for key, value in _facts(section).items()})


def _facts(section: Section) -> dict[str, Any]:
    names = ("patient", "counts", "spots", "um_per_px", "um_per_px_source")
    with open_image(section) as slide:
        x, y = (int(place) for place in section.spots.xy[0])
        seen = {"thumbnail": slide.thumbnail(64), "patch": slide.read_region(x - 20, y - 20, 40, 40)}
    genes = {"symbol": section.genes.symbol, "ensembl_id": section.genes.ensembl_id}
    return {name: getattr(section, name) for name in names} | genes | seen


class Her2st(Layout):
    """her2st."""

    layout = "her2st"
    only = ("*.tsv.gz", "*_selection.tsv", "*_selection.tsv", "*")


class Stnet(Layout):
    """STNet."""

    layout = "stnet"
    only = ("*_stdata.tsv.gz", "spots_*.csv.gz", "spots_*.csv.gz", "metadata.csv", "*")


class Cscc(Layout):
    """cSCC."""

    layout = "cscc"
    only = ("*.tsv.gz", "*")


class VisiumH5(Layout):
    """Space Ranger's outputs with the matrix as HDF5."""

    layout = "visium"
    only = ("*.h5", "*.h5", "*.h5", "*.json", "tissue_positions*", "*")

    def make(self, folder: Path) -> None:
        super().make(folder)
        for other in (folder / "source").rglob("*_feature_bc_matrix"):
            shutil.rmtree(other)


class VisiumMtx(Layout):
    """Space Ranger's outputs with the matrix as Matrix Market."""

    layout = "visium"
    only = ("*.mtx.gz", "*.mtx.gz", "*.tsv.gz")

    def make(self, folder: Path) -> None:
        super().make(folder)
        for other in (folder / "source").rglob("*.h5"):
            other.unlink()


class VisiumHd(Layout):
    """Visium HD's bins of 16 um."""

    layout = "visium_hd"
    options: ClassVar = {"bin_um": (16,)}
    only = ("*.h5", "*.h5", "*.json", "*.parquet", "*.parquet")

    def make(self, folder: Path) -> None:
        super().make(folder)
        _drop(folder, "square_002um", "square_008um", "segmented_outputs")


class VisiumHdCells(Layout):
    """The cells that Space Ranger segmented."""

    layout = "visium_hd"
    options: ClassVar = {"areas": "cells"}
    only = ("*.h5", "*.json", "*.geojson", "*.geojson", "*.geojson")

    def make(self, folder: Path) -> None:
        super().make(folder)
        _drop(folder, "binned_outputs", "A1_nuclei.geojson")


class VisiumHdNuclei(Layout):
    """Nuclei of a segmentation, pooled from 2 um bins."""

    layout = "visium_hd"
    options: ClassVar = {"areas": "nuclei"}
    only = ("*.parquet", "*.geojson", "*.geojson", "*.geojson")

    def make(self, folder: Path) -> None:
        super().make(folder)
        _drop(folder, "square_008um", "square_016um", "segmented_outputs")


def _drop(folder: Path, *names: str) -> None:
    for name in names:
        for other in (folder / "source").rglob(name):
            shutil.rmtree(other) if other.is_dir() else other.unlink()


class Xenium(Layout):
    """Xenium's cells."""

    layout = "xenium"
    only = ("*.h5", "*.csv", "*.xenium", "cell_boundaries.parquet", "cell_boundaries.parquet")


class XeniumPooled(Layout):
    """Xenium's transcripts pooled to squares."""

    layout = "xenium"
    options: ClassVar = {"areas": "squares:100"}
    only = ("*.csv", "*.xenium", "transcripts.parquet", "transcripts.parquet")


class Merscope(Layout):
    """MERSCOPE's cells."""

    layout = "merscope"
    only = (
        "cell_by_gene.csv",
        "*alignment.csv",
        "*transform.csv",
        "cell_boundaries.parquet",
        "cell_boundaries.parquet",
    )


class MerscopePooled(Layout):
    """MERSCOPE's transcripts pooled to squares."""

    layout = "merscope"
    options: ClassVar = {"areas": "squares:100"}
    only = ("*transform.csv", "detected_transcripts.csv", "detected_transcripts.csv")


class Hest(Layout):
    """HEST-1k."""

    layout = "hest"
    only = ("*.h5ad", "*.h5ad", "*.json", "*.tif", "*.h5")


class Anndata(Layout):
    """An .h5ad with its slide beside it."""

    layout = "anndata"
    only = ("*.h5ad",)


class SpatialData(Layout):
    """A SpatialData store."""

    layout = "spatialdata"
    only = ("*.json", "*.json", "*.parquet", "*")


class Bundle(Layout):
    """Patches with their counts, without a slide."""

    layout = "bundle"
    only = ("*.h5", "*.h5", "*.h5", "*.h5ad", "ids.csv")


class _Structure(Layout):
    """What its HDF5 files are made of is damaged, and nothing else."""

    def damage(self, folder: Path, rng: random.Random) -> str:
        return damage_structure(rng.choice(sorted(folder.rglob("*.h5*"))), rng)


class VisiumH5Structure(_Structure, VisiumH5):
    """Space Ranger's matrix."""


class VisiumHdStructure(_Structure, VisiumHd):
    """Space Ranger's matrix of bins."""


class HestStructure(_Structure, Hest):
    """HEST-1k's counts and patches."""


class AnndataStructure(_Structure, Anndata):
    """An .h5ad."""


class Patients(Layout):
    """patients.csv beside a source whose files do not say whose tissue it is."""

    layout = "visium"
    only = ("patients.csv",)

    def make(self, folder: Path) -> None:
        super().make(folder)
        for other in (folder / "source").rglob("*_feature_bc_matrix"):
            shutil.rmtree(other)


class GeneTable(Layout):
    """A user's own HGNC complete set."""

    layout = "her2st"
    only = ("genes.txt",)

    def make(self, folder: Path) -> None:
        super().make(folder)
        (section,) = readers.find_layout(folder / "source")[0].read_sections(folder / "source")
        rows = ["symbol\tensembl_gene_id\talias_symbol\tprev_symbol\tlocus_group"]
        for i, name in enumerate(section.genes.symbol[:40]):  # some by an outdated name
            symbol, previous = (f"GENE{i}", name) if i % 4 == 0 else (name, f"PREV{i}")
            rows.append(f"{symbol}\tENSG{i:011d}\tOLD{i}|OTHER{i}\t{previous}\tprotein-coding gene")
        (folder / "genes.txt").write_text("\n".join(rows) + "\n")

    def use(self, folder: Path) -> Facts:
        source = folder / "source"
        module, _ = readers.find_layout(source)
        read = list(module.read_sections(source, gene_table=folder / "genes.txt", resolve_aliases=True))
        return facts({f"{section.name} {key}": getattr(section, key) for section in read for key in ("genes", "notes")})
