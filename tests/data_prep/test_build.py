import fcntl
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import files as locking
from data_prep import plan, readers, stain, writer
from data_prep.build import build
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.section import GeneTable
from tests.data_prep.tiny_source import write_source

her2st = readers.reader("her2st")

OPTIONS = {"patch_size_px": 96, "min_counts": 10}
FLAGS = ["--patch-size-px", "96", "--min-counts", "10"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(scope="module")
def built(source, tmp_path_factory) -> Path:
    return build(source, tmp_path_factory.mktemp("built") / "out", **OPTIONS).parent


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a data set, by name."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def command(source: Path, out: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "data_prep.build", "--source", str(source), "--out", str(out), *FLAGS, *flags]


def run(source: Path, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(source, out, *flags), capture_output=True, text=True, check=False)


def test_every_removal_is_counted_by_reason(built, capsys, source, tmp_path):
    build(source, tmp_path / "again", **OPTIONS)
    printed = capsys.readouterr().out
    manifest = PatchDataset.open(built).manifest
    # 8 x 8 spots, 40 px apart from 40 px on: a 96 px window fits in 400 px but for the first row and column.
    removed = {"outside_image": 0, "window_outside_image": 15, "low_counts": 0, "white": 0}
    for entry in manifest["sections"]:
        assert entry["removed"] == removed
        assert (entry["spots"], entry["spots_read"]) == (49, 64)
    assert manifest["removed"] == removed | {"window_outside_image": 45}
    assert manifest["genes_removed"] == {"never_expressed": 1, "in_too_few_spots": 0}
    assert "window crosses border" in printed
    assert "1 without counts" in printed


def test_spots_with_few_counts_are_removed(source, tmp_path):
    dataset = PatchDataset.open(build(source, tmp_path / "out", patch_size_px=32, min_counts=4).parent)
    for entry in dataset.sections:
        assert entry["removed"]["low_counts"] == 1
        assert "1x1" not in dataset.table(entry["name"]).spots.id
        assert entry["spots"] == 63


def test_genes_are_the_sorted_union_and_absent_ones_are_zero(built):
    dataset = PatchDataset.open(built)
    assert dataset.genes.keys.tolist() == sorted(f"GENE{index}" for index in range(11))
    sums = {
        entry["name"]: dict(zip(dataset.genes.names, entry["gene_sums"], strict=True)) for entry in dataset.sections
    }
    assert [name for name in sums["A1"] if sums["A1"][name] == 0] == ["GENE0"]
    assert [name for name in sums["A2"] if sums["A2"][name] == 0] == ["GENE1"]


def test_genes_in_too_few_spots_are_removed(source, tmp_path):
    dataset = PatchDataset.open(build(source, tmp_path / "out", **OPTIONS, min_spot_fraction=0.7).parent)
    # GENE0, 1 and 2 are each absent from one section of three.
    assert dataset.genes.keys.tolist() == sorted(f"GENE{index}" for index in range(3, 11))
    assert dataset.manifest["genes_removed"] == {"never_expressed": 1, "in_too_few_spots": 3}
    table = dataset.table("A1")
    assert np.all(table.total_counts > np.asarray(table.counts.sum(axis=1)).ravel())


def test_white_records_are_kept_unless_asked(built, source, tmp_path):
    table = PatchDataset.open(built).table("A1")
    white = (table.white_fraction > 0.5).sum()
    assert 0 < white < len(table.spots.id)
    dataset = PatchDataset.open(build(source, tmp_path / "out", **OPTIONS, max_white_fraction=0.5).parent)
    assert dataset.section("A1")["removed"]["white"] == white
    assert dataset.table("A1").white_fraction.max() <= 0.5


def test_channel_moments_and_gene_sums_are_those_of_the_tables(built):
    dataset = PatchDataset.open(built)
    for entry in dataset.sections:
        table = dataset.table(entry["name"])
        np.testing.assert_allclose(entry["channel_moments"]["mean"], table.channel_mean.mean(axis=0))
        assert entry["channel_moments"]["count"] == len(table.spots.id) * 96 * 96
        np.testing.assert_array_equal(entry["gene_sums"], table.counts.sum(axis=0))


def test_raw_images_are_the_slides_own_pixels(source, tmp_path):
    dataset = PatchDataset.open(build(source, tmp_path / "out", **OPTIONS, image_format="raw").parent)
    pixels = np.asarray(Image.open(source / "ST-imgs" / "A" / "A2" / "slide.png"))
    for index in range(len(records := dataset.source(["A2"]))):
        x, y = records[index]["origin_xy"].astype(int)
        np.testing.assert_array_equal(records[index]["image"], pixels[y : y + 96, x : x + 96])


@pytest.mark.parametrize("target", ["A2", "file"])
def test_stains_are_normalised_to_a_section_or_a_file(source, tmp_path, target):
    pixels_of = {name: source / "ST-imgs" / name[0] / name / "slide.png" for name in ("A1", "A2")}
    stain_target = str(pixels_of["A2"]) if target == "file" else "A2"
    options = OPTIONS | {"image_format": "raw", "stain": "reinhard", "stain_target": stain_target}
    dataset = PatchDataset.open(build(source, tmp_path / "out", **options, sections=("A1",)).parent)
    normalise = stain.fit_transform_for("reinhard", pixels_of["A1"], pixels_of["A2"])
    whole = normalise(np.asarray(Image.open(pixels_of["A1"])))
    for index in range(len(records := dataset.source(["A1"]))):
        x, y = records[index]["origin_xy"].astype(int)
        np.testing.assert_array_equal(records[index]["image"], whole[y : y + 96, x : x + 96])
    entry = dataset.section("A1")
    assert dataset.manifest["stain_target"]["image"] == "slide.png"
    assert entry["stain"]["method"] == "reinhard"
    assert (dataset.path / entry["thumbnail"]).is_file()
    assert (dataset.path / entry["thumbnail_before"]).is_file()
    if target == "A2":
        with pytest.raises(InputError, match="'A9' is neither a section nor an image file"):
            build(source, tmp_path / "other", **(options | {"stain_target": "A9"}))


def test_patches_are_resampled_to_the_scale_asked_for(source, tmp_path):
    dataset = PatchDataset.open(build(source, tmp_path / "out", patch_size_px=48, min_counts=10, um_per_px=10.0).parent)
    entry = dataset.section("A1")
    assert entry["um_per_px"] == pytest.approx(5)  # a pitch of 200 um is 40 px
    assert entry["px_scale"] == pytest.approx(2)
    record = dataset.source(["A1"])[0]
    np.testing.assert_allclose(record["spot_xy"], [[24, 24]], atol=1e-4)
    assert record["spot_size_px"] == pytest.approx(5)


def test_a_shard_is_closed_when_what_it_is_made_of_cannot_be_read(source, tmp_path, monkeypatch):
    closed = []
    closing = writer.array_record_module.ArrayRecordWriter.close

    class Recorded:
        def __init__(self, *given):
            self.writer = type(self).original(*given)

        def write(self, _):
            raise OSError(5, "Input/output error")

        def close(self):
            closed.append(True)
            closing(self.writer)

    Recorded.original = writer.array_record_module.ArrayRecordWriter
    monkeypatch.setattr(writer.array_record_module, "ArrayRecordWriter", Recorded)
    with pytest.raises(OSError, match="Input/output error"):
        build(source, tmp_path / "out", **OPTIONS)
    assert closed == [True]


def test_several_shards_are_balanced():
    assert writer.shard_sizes(100, size_px=224, shard_mb=256) == [100]
    assert writer.shard_sizes(100, size_px=224, shard_mb=4) == [25, 25, 25, 25]
    assert writer.shard_sizes(10, size_px=1024, shard_mb=8) == [3, 3, 2, 2]
    assert writer.shard_sizes(1, size_px=1024, shard_mb=1) == [1]


def test_splits_are_distinct_file_names():
    names = plan.split_names(["A1", "a1", "B 1", "B-1", "all", "é"])
    assert list(names) == ["A1", "a1", "B 1", "B-1", "all", "é"]
    assert len({split.lower() for split in names.values()}) == 6
    assert all(split.isascii() and split.replace("_", "a").isalnum() for split in names.values())
    assert "all" not in names.values()


def test_choose_genes_takes_a_symbol_from_whichever_section_has_it():
    def section(ensembl: list[str], symbols: list[str]) -> plan.SectionPlan:
        ones = np.ones(len(ensembl), np.int64)
        genes = GeneTable(np.array(ensembl), np.array(symbols))
        return plan.SectionPlan("A", genes, ones, ones, spots=1, records=1, read=1, removed={})

    plans = [section(["ENSG2", "ENSG1"], ["", "X"]), section(["ENSG2", ""], ["Y", "Z"])]
    genes, _ = plan.choose_genes(plans, min_spot_fraction=0)
    assert genes.ensembl_id.tolist() == ["ENSG1", "ENSG2", ""]
    assert genes.symbol.tolist() == ["X", "Y", "Z"]


def test_building_again_says_it_is_there(built, source, capsys):
    before = files(built)
    build(source, built, **OPTIONS)
    assert "already there" in capsys.readouterr().out
    assert files(built) == before


def test_an_out_that_holds_something_else_is_refused(built, source, tmp_path):
    before = files(built)
    with pytest.raises(InputError, match="min_counts=10, this build asks for 20"):
        build(source, built, patch_size_px=96, min_counts=20)
    with pytest.raises(InputError, match="sections A1, A2, B1, this build asks for A1"):
        build(source, built, **OPTIONS, sections=("A1",))
    with pytest.raises(InputError, match="built from other files"):
        build(write_source(tmp_path / "other", seed=1), built, **OPTIONS)
    assert files(built) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="holds other files"):
        build(source, tmp_path / "mine", **OPTIONS)
    with pytest.raises(InputError, match="is a file"):
        build(source, tmp_path / "mine" / "thesis.txt", **OPTIONS)
    assert files(tmp_path / "mine") == {"thesis.txt": b"precious"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size_px": 4}, "--patch-size-px is 4"),
        ({"um_per_px": 0.0}, "--target-um-per-px is 0.0"),
        ({"source_um_per_px": float("nan")}, "--source-um-per-px is nan"),
        ({"source_um_per_px": 688.0}, "--source-um-per-px is 688 .* did you mean 0.688?"),
        ({"um_per_px": 688.0, "tile_size_px": 64}, "--target-um-per-px is 688 .* did you mean 0.688?"),
        ({"um_per_px": 688.0}, "no spot is left .*96 px at 688 um per px is 66 mm wide.*did you mean 0.688?"),
        ({"patch_size_px": 2000}, "2000 px at 5 um per px is 10 mm wide, the slide 2 x 2 mm .*smaller --patch-size-px"),
        ({"ignore_checks": ("pich",)}, "--ignore-check is pich, expected some of .*pitch"),
        ({"min_spot_fraction": 1.5}, "--min-spot-fraction is 1.5"),
        ({"image_format": "gif"}, "--image-format is 'gif'"),
        ({"jpeg_quality": 0}, "--jpeg-quality is 0"),
        ({"stain": "purple"}, "--stain is 'purple'"),
        ({"stain": "vahadane"}, "--stain-target"),
        ({"context_px": 8}, "--context-px is for tiles"),
        ({"workers": 0}, "--workers is 0"),
        ({"shard": (3, 2)}, "--shard is 3/2"),
        ({"shard": (1, 2), "merge": True}, "give one of the two"),
        ({"merge": True}, "nothing to merge"),
        ({"min_counts": 10**6}, "no spot is left of section A1, A2, B1.*lower --min-counts"),
        ({"sections": ("C9",)}, "no section C9"),
    ],
)
def test_bad_options_are_refused_and_leave_nothing(source, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        build(source, tmp_path / "out", **(OPTIONS | options))
    assert not (tmp_path / "out").exists()


def test_sections_without_spots_are_left_out_on_request_and_named(tmp_path, capsys):
    source = write_source(tmp_path / "source", sections=("A1", "A2"))
    table = source / "ST-cnts" / "A2.tsv.gz"
    header, *rows = gzip.decompress(table.read_bytes()).decode().splitlines()
    rows = [row.split("\t")[0] + "\t0" * header.count("\t") for row in rows]
    table.write_bytes(gzip.compress("\n".join([header, *rows]).encode(), mtime=0))
    with pytest.raises(InputError, match=r"no spot is left of section A2.*--sections A1"):
        build(source, tmp_path / "out", **OPTIONS)
    manifest = PatchDataset.open(build(source, tmp_path / "out", **OPTIONS, skip_incomplete=True).parent).manifest
    assert manifest["skipped"] == {"A2": "no spot left after filtering"}
    assert "left out: section A2" in capsys.readouterr().out
    build(source, tmp_path / "out", **OPTIONS, skip_incomplete=True)
    assert "already there" in capsys.readouterr().out


def test_a_section_without_image_is_named_and_exits_with_2(tmp_path):
    source = write_source(tmp_path / "source", sections=("A1", "A2"))
    shutil.rmtree(source / "ST-imgs" / "A" / "A2")
    done = run(source, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "'A2': image not found" in done.stderr
    assert "--skip-incomplete" in done.stderr
    assert not (tmp_path / "out").exists()
    done = run(source, tmp_path / "out", "--skip-incomplete")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == str(tmp_path / "out" / "manifest.json")
    assert PatchDataset.open(tmp_path / "out").manifest["skipped"].keys() == {"A2"}


def test_help_has_examples_and_a_bad_flag_exits_with_2(source, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "data_prep.build", "--help"], capture_output=True, text=True, check=True
    )
    assert "examples:" in done.stdout
    assert "--skip-incomplete" in done.stdout
    assert run(source, tmp_path / "out", "--shard", "half").returncode == 2


def test_workers_and_array_jobs_give_the_same_bytes(built, source, tmp_path, capsys):
    assert files(build(source, tmp_path / "two", **OPTIONS, workers=2).parent) == files(built)
    out = tmp_path / "shards"
    build(source, out, **OPTIONS, shard=(2, 2))
    assert "once all are" in capsys.readouterr().out
    with pytest.raises(InputError, match="did not finish"):
        PatchDataset.open(out)
    with pytest.raises(InputError, match="section A1, B1 not written yet"):
        build(source, out, **OPTIONS, merge=True)
    with pytest.raises(InputError, match="unfinished build with other parameters"):
        build(source, out, patch_size_px=64, min_counts=10, shard=(1, 2))
    build(source, out, **OPTIONS, shard=(1, 2))
    assert files(build(source, out, **OPTIONS, merge=True).parent) == files(built)


def test_a_section_is_read_and_its_records_laid_out_once(source, tmp_path, monkeypatch):
    read, frame, calls = her2st.read_section, plan.frame_section, []
    monkeypatch.setattr(
        her2st, "read_section", lambda path, name, **options: (calls.append(name), read(path, name, **options))[1]
    )
    monkeypatch.setattr(
        plan,
        "frame_section",
        lambda section, *rest, **options: (calls.append("frame"), frame(section, *rest, **options))[1],
    )
    out = tmp_path / "out"
    assert build(source, out, **OPTIONS, max_white_fraction=0.9).is_file()
    assert sorted(calls) == ["A1", "A2", "B1", "frame", "frame", "frame"]
    assert not (out / ".build").exists()


def test_finished_sections_are_verified_and_not_redone(built, source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write = writer._write_files
    done = []

    def fail_on_third(task, folder):
        if len(done) == 2:
            raise RuntimeError("power cut")
        done.append(task.name)
        return write(task, folder)

    monkeypatch.setattr(writer, "_write_files", fail_on_third)
    with pytest.raises(RuntimeError, match="power cut"):
        build(source, out, **OPTIONS)
    assert done == ["A1", "A2"]
    damaged = next(out.glob("stjax_patches/2.0.0/*A2*"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    done.clear()
    monkeypatch.setattr(writer, "_write_files", lambda task, folder: (done.append(task.name), write(task, folder))[1])
    build(source, out, **OPTIONS)
    assert done == ["A2", "B1"]
    assert files(out) == files(built)


def test_an_unfinished_build_is_not_mixed_with_another(tmp_path, capsys):
    own = write_source(tmp_path / "source")
    out = tmp_path / "out"
    build(own, out, **OPTIONS, shard=(1, 3))
    with pytest.raises(InputError, match="unfinished build with other parameters"):
        build(own, out, patch_size_px=64)
    capsys.readouterr()
    table = own / "ST-spotfiles" / "A1_selection.tsv"
    os.utime(table, (1, 1))
    build(own, out, **OPTIONS)
    assert "changed since this build began; starting again" in capsys.readouterr().out
    assert PatchDataset.open(out, verify=True).section("A1")["spots"] == 49


def test_a_section_that_another_process_writes_is_left_to_it(source, tmp_path, monkeypatch):
    clock = []
    monkeypatch.setattr(locking.time, "sleep", lambda _: clock.append(1))
    monkeypatch.setattr(locking.time, "monotonic", lambda: len(clock))
    out = tmp_path / "out"
    (out / ".build").mkdir(parents=True)
    (out / ".build" / "plans").mkdir()
    with (out / ".build" / "A1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="'A1': another process"):
            build(source, out, **OPTIONS)
    assert len(list((out / ".build" / "plans").iterdir())) == 2 * 3  # what was there before the call stays
    build(source, out, **OPTIONS)
    PatchDataset.open(out, verify=True)


@pytest.mark.parametrize("shard", [None, (1, 2)])
def test_a_build_at_work_is_left_alone(built, source, tmp_path, monkeypatch, shard):
    out = tmp_path / "out"
    write = writer._write_files
    tried = []

    def interrupt(task, folder):
        if not tried:
            tried.append(task.name)
            before = files(out)
            for options in ({}, {"min_counts": 20}, {"merge": True}, *([{"shard": (2, 2)}] if shard is None else [])):
                with pytest.raises(InputError, match="another build is at work there"):
                    build(source, out, **(OPTIONS | options))
            assert files(out) == before
            if shard is not None:
                build(source, out, **OPTIONS, shard=(2, 2))
        return write(task, folder)

    monkeypatch.setattr(writer, "_write_files", interrupt)
    build(source, out, **OPTIONS, shard=shard)
    if shard is not None:
        build(source, out, **OPTIONS, merge=True)
    assert tried
    assert files(out) == files(built)


def test_merging_too_early_removes_nothing(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write_files", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
        with pytest.raises(RuntimeError, match="power cut"):
            build(source, out, **OPTIONS, shard=(1, 2))
    before = files(out)
    with pytest.raises(InputError, match="not written yet"):
        build(source, out, **OPTIONS, merge=True)
    del before[".build/lock"]
    assert files(out) == before


def test_an_empty_out_of_the_users_stays_when_a_build_cannot_start(source, tmp_path):
    with pytest.raises(InputError, match="no spot is left"):
        build(source, tmp_path, patch_size_px=96, min_counts=10**6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [False, True])
def test_another_image_is_another_build(tmp_path, folder):
    source, out = write_source(tmp_path / "source"), tmp_path / "out"
    slides = [tmp_path / name / "A1.png" for name in ("one", "two")]
    for slide, size in zip(slides, (8, 9), strict=True):
        slide.parent.mkdir()
        Image.new("RGB", (size * 8, size * 8)).save(slide)
    first, second = (slide.parent if folder else slide for slide in slides)
    build(source, out, **OPTIONS, image=first, shard=(1, 3))
    with pytest.raises(InputError, match="unfinished build with other parameters"):
        build(source, out, **OPTIONS, image=second)
    content = build(source, out, **OPTIONS, image=first).read_text()
    assert str(tmp_path) not in content
    with pytest.raises(InputError, match="built with image="):
        build(source, out, **OPTIONS, image=second)
    with pytest.raises(InputError, match="no such file or folder"):
        build(source, tmp_path / "new", **OPTIONS, image=tmp_path / "absent.png")
    assert not (tmp_path / "new").exists()


def test_killed_workers_end_and_the_build_resumes(built, source, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(command(source, out, "--workers", "2"), stdout=subprocess.DEVNULL)
    while process.poll() is None and not (out / ".build" / "plans").is_dir():
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert children
    for _ in range(100):
        if not any(Path(f"/proc/{child}").exists() for child in children):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert files(build(source, out, **OPTIONS).parent) == files(built)


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_the_same_bytes(tmp_path):
    source = write_source(tmp_path / "source", sections=tuple(f"A{i}" for i in range(1, 9)))
    whole = build(source, tmp_path / "whole", **OPTIONS).parent
    out, moments = tmp_path / "out", random.Random(0)
    kills = 0
    while kills < 10:
        workers = ["--workers", str(1 + kills % 2)]
        process = subprocess.Popen(command(source, out, *workers), stdout=subprocess.DEVNULL)
        try:
            process.wait(timeout=moments.uniform(1, 4))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        else:
            assert process.returncode == 0
        if (out / "manifest.json").is_file():
            assert files(PatchDataset.open(out, verify=True).path).items() >= files(whole).items()
            shutil.rmtree(out)
        elif out.exists():
            with pytest.raises(InputError, match="did not finish"):
                PatchDataset.open(out)
    assert run(source, out).returncode == 0
    assert files(out) == files(whole)
    assert json.loads((out / "manifest.json").read_text())["format"] == "stjax-dataset"
