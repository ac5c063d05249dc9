"""The data set on disk, read back: sections, their tables, and records in random access.

manifest.json                  written last, so a folder without it is no data set
stjax_patches/2.0.0/           a TFDS data set of ArrayRecord shards, one split per section (stjax_tiles for tiles)
tables/<split>.npz             spots and counts of a section, in record order; of one with millions of spots, in parts:
                               tables/<split>-00000-of-00008.npz, each of some consecutive records
thumbnails/<split>.jpg
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data_prep import files, json_files, records, stain
from data_prep.counts import shape_of
from data_prep.errors import InputError
from data_prep.json_files import Each, Lacking, Maybe
from data_prep.patients import ORIGINS, UNKNOWN
from data_prep.section import GeneTable
from data_prep.section_table import SectionSpots, SectionTable

Patients = dict[str, tuple[str, str]]  # section -> patient, and how that is known
_Table = TypeVar("_Table", bound=SectionSpots)

FORMAT, FORMAT_VERSION = "stjax-dataset", 2
_READ = (1, FORMAT_VERSION)  # records of version 1 hold counts too, and tables no outlines
MANIFEST = "manifest.json"
_MAX_MANIFEST_MB = 256  # a thousand sections need half of it
WORK_FOLDER = ".build"  # what an unfinished build keeps
_REMEDY = "the data set is damaged, copy it again or build it again"

_FILE = {"file": json_files.PLACE, "bytes": json_files.COUNT, "sha256": json_files.SHA256}
SECTION = {  # a section's entry in the manifest, as far as anything reads it
    "name": json_files.NAME,
    "patient": json_files.TEXT,
    "patient_source": Lacking(json_files.one_of(*ORIGINS)),
    "split": json_files.NAME,
    "records": json_files.COUNT,
    "spots": json_files.COUNT,
    "spots_read": Lacking(json_files.COUNT),
    "removed": Lacking(Each(json_files.COUNT)),
    "um_per_px": json_files.POSITIVE,
    "px_scale": json_files.POSITIVE,
    "image": {  # or, with "patches", the file of the patches that were taken as they are
        "sha256": json_files.TEXT,
        "width": json_files.SIZE_PX,
        "height": json_files.SIZE_PX,
        "patches": Lacking(json_files.FLAG),
    },
    "notes": Lacking(json_files.TEXTS),
    "shards": [_FILE | {"records": json_files.COUNT}],
    "table": Lacking(_FILE),  # or else, of a section with millions of spots, its parts
    "tables": Lacking([_FILE | {"records": json_files.COUNT, "spots": json_files.COUNT}]),
    "thumbnail": json_files.PLACE,
    "thumbnail_before": Lacking(json_files.PLACE),
}
PARAMETERS = {  # of a build, as far as anything reads them
    "patch_size_px": json_files.SIZE_PX,
    "tile_size_px": Maybe(json_files.SIZE_PX),
    "context_px": Maybe(json_files.COUNT),
    "um_per_px": Maybe(json_files.POSITIVE),
    "stain": json_files.TEXT,
    "stain_standardise": json_files.TEXT,
    "resolve_aliases": json_files.FLAG,
    "min_counts": json_files.COUNT,
}
_MANIFEST = {
    "kind": json_files.one_of("patches", "tiles"),
    "synthetic": json_files.FLAG,
    "citation": Lacking(json_files.TEXT),
    "parameters": PARAMETERS,
    "source": {"fingerprint": json_files.TEXT},
    "genes": {"ensembl_id": json_files.TEXTS, "symbol": json_files.TEXTS},
    "genes_removed": Lacking(Each(json_files.COUNT)),
    "stain_target": Maybe(stain.PROFILE),
    "removed": Lacking(Each(json_files.COUNT)),
    "skipped": Lacking(Each(json_files.TEXT)),
    "warnings": Lacking(json_files.TEXTS),
    "ignored_errors": Lacking(json_files.TEXTS),
    "sections": [SECTION],
}


class RecordSource:
    """Records of some sections one after the other, for grain: `len(source)`, `source[i]` -> dict.

    Opens its files on first use, once per process; see `data_prep.records` for what a record holds.
    """

    def __init__(self, shards: Sequence[tuple[Path, int, str]], *, size_px: int | None = None):
        """
        Args:
            shards: file, number of records and section of each.
            size_px: side that every image must have; any by default.
        """
        self._size_px = size_px
        self._paths = [str(path) for path, _, _ in shards]
        self._ends = np.cumsum([count for _, count, _ in shards])
        self._sections = [section for _, _, section in shards]
        self._readers: list[Any] = [None] * len(shards)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.record(index)

    def record(self, index: int, *, image: bool = True) -> dict[str, Any]:
        """The record, with or without its image.

        Raises:
            InputError: it cannot be read, is damaged, or is another section's; its shard is named.
        """
        data, shard = self.read(index), self._shard(index)
        try:
            record = records.decode_record(data, image=image)
            if self._size_px is not None and {int(record["height"]), int(record["width"])} != {self._size_px}:
                raise ValueError(f"{record['height']} x {record['width']} px, expected {self._size_px} a side")
            if record["section"] != self._sections[shard]:
                found, expected = files.shown(record["section"]), files.shown(self._sections[shard])
                raise ValueError(f"of section {found}, expected {expected}")
        except ValueError as error:
            raise InputError(f"{self._paths[shard]}: record {index} is damaged ({error}); {_REMEDY}") from None
        return record

    def read(self, index: int) -> bytes:
        """The serialised record.

        Raises:
            InputError: the shard cannot be read; it is named.
        """
        index = index.__index__()
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        shard = self._shard(index)
        try:
            return self._reader(shard).read([index - (int(self._ends[shard - 1]) if shard else 0)])[0]
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise InputError(f"{self._paths[shard]}: record {index} cannot be read ({error}); {_REMEDY}") from error

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))

    def _reader(self, shard: int) -> Any:
        reader = self._readers[shard]
        if reader is None:
            # No read-ahead: records are asked for in shuffled order.
            reader = records.open_shard(self._paths[shard], "readahead_buffer_size:0", file_reader_buffer_size=32768)
            self._readers[shard] = reader
        return reader

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": [None] * len(self._readers)}

    def __repr__(self) -> str:
        return f"RecordSource({len(self)} records in {len(self._paths)} shards)"


class PatchDataset:
    """A finished data set, of patches or of tiles.

    Attributes:
        path: its folder.
        manifest: what manifest.json says.
        genes: [G] gene table.
        sections: the manifest's entry of each section.
        kind: "patches" or "tiles".
        size_px: side of a record's image.
        content_hash: SHA-256 of the manifest, which holds that of every other file.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], content_hash: str):
        self.path, self.manifest, self.content_hash = path, manifest, content_hash
        genes = manifest["genes"]
        self.genes = GeneTable(np.array(genes["ensembl_id"], dtype=str), np.array(genes["symbol"], dtype=str))
        self.sections: list[dict[str, Any]] = manifest["sections"]
        self.kind: str = manifest["kind"]
        self.size_px: int = manifest["parameters"]["tile_size_px"] or manifest["parameters"]["patch_size_px"]

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> "PatchDataset":
        """Open a data set and check that every file is there and holds the records it should.

        Args:
            verify: compare the SHA-256 of every shard and table as well.

        Raises:
            InputError: no data set, unfinished, of another format version, or damaged; the file is named.
        """
        path = Path(path)
        manifest, content_hash = read_manifest(path)
        dataset = cls(path, manifest, content_hash)
        for section in dataset.sections:
            check_files(path, section, verify=verify)
        return dataset

    @property
    def whole(self) -> "PatchDataset":
        """The data set on disk: of one that shows parts of its sections as sections (`stjax.data.blocks`), that."""
        return self

    def of_whole(self, name: str) -> str:
        """The section of `whole` that a section is, or is a part of."""
        return name

    def rows(self, name: str) -> np.ndarray:
        """[S] which of the spots that its records hold are a section's, ascending: all."""
        return np.arange(self.section(name)["spots"])

    def patients(self, names: Sequence[str]) -> Patients:
        """Patient of each of the named sections, and how that is known, a key of `data_prep.patients.ORIGINS`."""
        entries = {name: self.section(name) for name in names}
        return {name: (entry["patient"], entry.get("patient_source", UNKNOWN)) for name, entry in entries.items()}

    def section(self, name: str) -> dict[str, Any]:
        """The manifest's entry of a section."""
        for section in self.sections:
            if section["name"] == name:
                return section
        known = ", ".join(section["name"] for section in self.sections)
        raise InputError(f"{self.path}: no section {name!r}; the data set holds {known}")

    def table(self, name: str) -> SectionTable:
        """Spots and counts of a section, all in memory; see `tables`.

        Raises:
            InputError: no such section, or its table is missing or damaged.
        """
        return SectionTable.join(list(self.tables(name)))

    def tables(self, name: str, *, names: bool = True) -> Iterator[SectionTable]:
        """The same a part at a time, each of some consecutive records: one part but of sections with millions of spots.

        Args:
            names: of the spots, which are empty without.

        Raises:
            InputError: no such section, or its table is missing or damaged.
        """
        for table in self._parts(name, SectionTable, names=names):
            if (genes := shape_of(table.counts)[1]) != len(self.genes):
                raise InputError(
                    f"Section {name!r}: its table has {genes} genes, the manifest {len(self.genes)}; {_REMEDY}"
                )
            yield table

    def spot_tables(self, name: str, *, names: bool = True) -> Iterator[SectionSpots]:
        """`tables` without counts, which are most of them and are not read."""
        return self._parts(name, SectionSpots, names=names)

    def _parts(self, name: str, kind: type[_Table], *, names: bool) -> Iterator[_Table]:
        entry = self.section(name)
        for part in table_files(entry):
            _check_file(self.path, part, name=name, verify=True)
            table = kind.load(self.path / part["file"], names=names)
            found = len(table.spots), len(table.white_fraction)
            spots, count = (part.get(key, entry[key]) for key in ("spots", "records"))
            if found != (spots, count):
                raise InputError(
                    f"Section {name!r}: its table has {found[0]} spots and {found[1]} records, the manifest {spots} "
                    f"and {count}; {_REMEDY}"
                )
            yield table

    def image_moments(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """[R, 3] mean, and mean square, of the pixels of each record's image, 0 to 255."""
        found = [(table.channel_mean, table.channel_mean_square) for table in self.spot_tables(name, names=False)]
        mean, mean_square = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return mean, mean_square

    def source(self, names: Sequence[str]) -> RecordSource:
        """Records of the named sections in that order; within one, in the order of its table."""
        shards = [(name, shard) for name in names for shard in self.section(name)["shards"]]
        files_ = [(self.path / shard["file"], shard["records"], name) for name, shard in shards]
        return RecordSource(files_, size_px=self.size_px)


def read_manifest(path: Path) -> tuple[dict[str, Any], str]:
    """The manifest of the data set at `path`, and its SHA-256.

    Raises:
        InputError: none there, unreadable, or of another format version.
    """
    file = path / MANIFEST
    if not file.is_file():
        if (path / WORK_FOLDER).is_dir():
            raise InputError(f"{path}: the build of this data set did not finish; run data_prep.build again to resume")
        found = "no such folder" if not path.is_dir() else f"no {MANIFEST} in it"
        raise InputError(f"{path}: {found}, so it is no data set; make one with python -m data_prep.build")
    content = json_files.read(file, remedy=_REMEDY, max_mb=_MAX_MANIFEST_MB)
    found = (content.get("format"), content.get("format_version"))
    if found[0] != FORMAT or found[1] not in _READ:
        expected = f"{FORMAT} version {' or '.join(map(str, _READ))}"
        raise InputError(
            f"{file}: no data set manifest of this version (found {files.shown(found[0])} version "
            f"{files.shown(found[1])}, expected {expected}); build it again"
        )
    content = json_files.unsealed(content, str(file), remedy=_REMEDY)
    json_files.require(content, _MANIFEST, str(file), remedy=_REMEDY)
    for entry in content["sections"]:
        check_table_entry(entry, str(file))
    for key in ("name", "split"):
        if len({entry[key] for entry in content["sections"]}) < len(content["sections"]):
            raise InputError(f"{file}: two sections have the same {key}; {_REMEDY}")
    genes = content["genes"]
    if len(genes["ensembl_id"]) != len(genes["symbol"]):
        raise InputError(
            f"{file}: {len(genes['ensembl_id'])} Ensembl ids beside {len(genes['symbol'])} symbols, expected as many; "
            f"{_REMEDY}"
        )
    return content, files.sha256(file)


def table_files(section: dict[str, Any]) -> list[dict[str, Any]]:
    """The manifest's entries of a section's table: one file, or its parts in order."""
    return section["tables"] if "tables" in section else [section["table"]]


def check_table_entry(section: dict[str, Any], origin: str) -> None:
    """Raise `InputError` unless a section's entry has one table, or parts that are all of its records and spots."""
    parts = section.get("tables", [])
    sums = [sum(part[key] for part in parts) for key in ("records", "spots")]
    whole = sums == [section["records"], section["spots"]] and "table" not in section
    if not (whole if "tables" in section else "table" in section):
        raise InputError(f"{origin}: section {section['name']!r} has no whole table; {_REMEDY}")


def check_files(path: Path, section: dict[str, Any], *, verify: bool) -> None:
    """Check a section's shards, table and thumbnails against its manifest entry.

    Raises:
        InputError: a file missing, cut short, or changed.
    """
    for entry in (*section["shards"], *table_files(section)):
        _check_file(path, entry, name=section["name"], verify=verify)
    for key in ("thumbnail", "thumbnail_before"):
        if key in section and not (path / section[key]).is_file():
            raise InputError(f"Section {section['name']!r}: {path / section[key]} is missing; {_REMEDY}")
    for entry in section["shards"]:
        count = _record_count(path / entry["file"])
        if count != entry["records"]:
            found = f"{entry['file']} holds {count} records, expected {entry['records']}"
            raise InputError(f"Section {section['name']!r}: {found}; {_REMEDY}")


def _check_file(path: Path, entry: dict[str, Any], *, name: str, verify: bool) -> None:
    """Check one file of section `name` against its "bytes" and, with `verify`, its "sha256"."""
    file = path / entry["file"]
    if not file.is_file():
        raise InputError(f"Section {name!r}: {file} is missing; {_REMEDY}")
    if file.stat().st_size != entry["bytes"]:
        found = f"{file} has {file.stat().st_size} bytes, expected {entry['bytes']}"
        raise InputError(f"Section {name!r}: {found}; {_REMEDY}")
    if verify and files.sha256(file) != entry["sha256"]:
        raise InputError(f"Section {name!r}: {file} differs from its SHA-256; {_REMEDY}")


def _record_count(path: Path) -> int:
    """Records in a shard; 0 when it cannot be read. A cut-short file would otherwise pass for an empty one."""
    try:
        reader = records.open_shard(str(path))
        count = reader.num_records() if reader.ok() else 0
        reader.close()
    except (RuntimeError, ValueError):
        return 0
    return count
