"""A prepared data set: its manifest, every section's table, and every record with its image."""

import json
import random
from pathlib import Path
from typing import Any, ClassVar

from array_record.python import array_record_module
from PIL import Image

from data_prep import files, json_files
from data_prep.build import build
from data_prep.dataset import MANIFEST, PatchDataset
from tests.data_prep.tiny_source import write_source
from tests.fuzz import damage
from tests.fuzz.damage import raw, values
from tests.fuzz.targets import Facts, Target, facts


class Dataset(Target):
    """As it is: hashes are compared, and nothing that has changed is accepted."""

    verify: ClassVar[bool] = True
    sealed = True

    def make(self, folder: Path) -> None:
        source = write_source(folder / "raw", sections=("A1", "B1"))
        for slide in source.rglob("*.png"):
            Image.open(slide).resize((400, 400)).save(slide)
        build(source, folder / "data", patch_size_px=32, min_counts=10)
        for file in sorted(source.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        source.rmdir()

    def use(self, folder: Path) -> Facts:
        dataset = PatchDataset.open(folder / "data", verify=self.verify)
        found = facts({key: dataset.manifest[key] for key in ("kind", "synthetic", "parameters", "stain_target")})
        found |= facts({"genes": dataset.genes})
        for section in dataset.sections:
            name = section["name"]
            found |= facts({"entry": section, "table": dataset.table(name)}, f"{name} ")
            source = dataset.source([name])
            for index in range(len(source)):
                found |= facts(source[index], f"{name} record {index} ")
        return found


class Resealed(Dataset):
    """Made by somebody else: its hashes are right, whatever else it says."""

    sealed = False

    def damage(self, folder: Path, rng: random.Random) -> str:
        data = folder / "data"
        content = json_files.unsealed(json.loads((data / MANIFEST).read_text()), "", remedy="")
        kind = rng.random()
        if kind < 0.4:
            content, what = values.damage_content(content, rng)
        elif kind < 0.7:
            table = rng.choice(sorted((data / "tables").glob("*.npz")))
            what = damage.damage_file(table, rng)
        else:
            what = _damage_record(rng.choice(sorted(data.rglob("*.array_record*"))), rng)
        if isinstance(content, dict):
            values.write_sealed(data / MANIFEST, with_hashes(content, data))
        else:
            (data / MANIFEST).write_text(json.dumps(content))
        return f"resealed: {what}"


class Unverified(Dataset):
    """As training opens it: of shards, hashes are compared only where `verify` asks for it, as they are gigabytes. Each
    has checksums of its own, and each record says its section and size, so that damage and mixed-up files are told all
    the same; a shard that somebody writes anew, with records of that section, is what `verify` is for."""

    verify = False
    only = ("*.array_record*", "*.array_record*", "*.json", "*.npz")


def with_hashes(content: dict[str, Any], data: Path) -> dict[str, Any]:
    """The manifest with the sizes and hashes of the files as they are now."""
    for container, key in values.places(content):
        entry = container[key]
        if isinstance(entry, dict) and isinstance(entry.get("file"), str) and {"bytes", "sha256"} <= entry.keys():
            file = data / entry["file"].replace("\0", "")
            if len(entry["file"].encode(errors="replace")) < 200 and file.is_file() and file.is_relative_to(data):
                entry |= {"bytes": file.stat().st_size, "sha256": files.sha256(file)}
    return content


def _damage_record(path: Path, rng: random.Random) -> str:
    """One record of a shard, written anew with sound checksums."""
    reader = array_record_module.ArrayRecordReader(str(path))
    records = list(reader.read_all())
    reader.close()
    place = rng.randrange(len(records))
    records[place], what = raw.damage(records[place], rng)
    path.unlink()
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return f"record {place}: {what}"
