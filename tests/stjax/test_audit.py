"""A sound run passes; every kind of leak, put into it on purpose, is caught."""

import dataclasses
import json
import shutil

import pytest
from PIL import Image

from data_prep.dataset import PatchDataset
from stjax import audit, workdir
from stjax import config as configs
from stjax.data.panel import fit_panel
from stjax.protocols import Split


@pytest.fixture
def run(trained):
    """A run as it was scored."""
    folder, _ = trained
    data = workdir.load_data_record(folder)
    dataset = PatchDataset.open(data.data_dir)
    step = json.loads((folder / "evaluation" / "stjax" / "metrics.json").read_text())["checkpoint_step"]
    config, protocol = configs.load(folder / "config.json"), workdir.checked_protocol(data, folder)
    return audit.Audited(folder, config, data, protocol, step, dataset, dataset, data.split.test)


def leaks(run):
    return {finding.check: finding.detail for finding in audit.audit(run) if finding.verdict == "leak"}


def with_data(run, **changes):
    return dataclasses.replace(run, data=dataclasses.replace(run.data, **changes))


def test_a_sound_run_passes_every_check(run):
    findings = audit.audit(run)
    assert {finding.verdict for finding in findings} == {"ok"}
    assert {finding.check for finding in findings} == {
        "sections", "patients", "duplicates", "gene panel", "statistics", "stain target", "checkpoint",
        "starting weights",
    }  # fmt: skip
    assert audit.lines(findings)[-1] == "no leak found in 8 checks"


def test_evaluation_holds_the_audit(trained):
    folder, output = trained
    result = json.loads((folder / "evaluation" / "stjax" / "metrics.json").read_text())
    assert {entry["verdict"] for entry in result["audit"]} == {"ok"}
    assert "no leak found in 8 checks" in output


def test_scored_training_sections_are_a_leak(run):
    found = leaks(dataclasses.replace(run, sections=run.data.split.train[:1]))
    assert "B1: scored, and trained on" in found["sections"]
    assert "patient B" in found["patients"]


def test_shared_patients_are_a_leak(run):
    found = leaks(with_data(run, train_patients=("B", "C")))
    assert found == {"patients": "patient C is scored, and in training"}


def copied(run, tmp_path):
    """The data set once more, and its manifest."""
    copy = tmp_path / "data"
    shutil.copytree(run.trained_on.path, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    return copy, manifest, {entry["name"]: entry for entry in manifest["sections"]}


@pytest.mark.parametrize("how", ["the same file", "compressed anew", "mirrored"])
def test_a_duplicate_image_is_a_leak(run, tmp_path, how):
    copy, manifest, entries = copied(run, tmp_path)
    if how == "the same file":
        entries["C1"]["image"]["sha256"] = entries["B2"]["image"]["sha256"]
        (copy / "manifest.json").write_text(json.dumps(manifest))
    else:
        with Image.open(copy / entries["B2"]["thumbnail"]) as picture:
            small = picture.resize((picture.width // 2, picture.height // 2))
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if how == "mirrored" else small
        small.save(copy / entries["C1"]["thumbnail"], quality=40)
    found = leaks(dataclasses.replace(run, scored_on=PatchDataset.open(copy)))
    assert set(found) == {"duplicates"}
    assert "C1" in found["duplicates"]
    assert "B2" in found["duplicates"]


def test_a_duplicate_count_table_is_a_leak(run, tmp_path):
    copy, manifest, entries = copied(run, tmp_path)
    entries["C2"]["table"] = entries["B1"]["table"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    found = leaks(dataclasses.replace(run, scored_on=PatchDataset.open(copy)))
    assert found == {"duplicates": "C2 has the counts of B1"}


def test_a_panel_of_test_data_is_a_leak(run):
    split = run.data.split
    panel = fit_panel(run.protocol, run.trained_on, Split((*split.train, *split.test), split.val, ()))
    assert set(leaks(with_data(run, panel=panel))) == {"gene panel", "statistics"}


def test_statistics_of_test_data_are_a_leak_whatever_the_genes(run):
    split, panel = run.data.split, run.data.panel
    other = fit_panel(run.protocol, run.trained_on, Split((*split.train, *split.test), split.val, ()))
    place = {gene: row for row, gene in enumerate(other.ensembl_id)}
    rows = [place[gene] for gene in panel.ensembl_id]
    kept = panel.target_mean.copy(), panel.target_std.copy(), panel.train_mean.copy()
    for mine, theirs in zip(kept, (other.target_mean, other.target_std, other.train_mean), strict=True):
        for gene in range(panel.num_main):
            if rows[gene] < other.num_main:  # a main gene of both
                mine[gene] = theirs[rows[gene]]
    leaky = dataclasses.replace(
        panel, target_mean=kept[0], target_std=kept[1], train_mean=kept[2], image_mean=other.image_mean,
        image_std=other.image_std,
    )  # fmt: skip
    assert set(leaks(with_data(run, panel=leaky))) == {"statistics"}


def test_statistics_of_unknown_origin_cannot_be_told(run):
    odd = dataclasses.replace(run.data.panel, image_mean=run.data.panel.image_mean + 1)
    verdicts = {finding.check: finding.verdict for finding in audit.audit(with_data(run, panel=odd))}
    assert (verdicts["gene panel"], verdicts["statistics"]) == ("ok", "cannot tell")


def test_a_stain_target_that_is_scored_is_a_leak(run):
    image = run.trained_on.section("C2")["image"]
    target = {"image": "C2.jpg", "image_sha256": image["sha256"]}
    assert set(leaks(with_data(run, stain_target=target))) == {"stain target"}
    other = run.trained_on.section("B1")["image"]["sha256"]
    assert not leaks(with_data(run, stain_target={"image": "B1.jpg", "image_sha256": other}))


def test_a_checkpoint_chosen_on_test_sections_is_a_leak(run):
    split = dataclasses.replace(run.data.split, val=run.data.split.test)
    found = leaks(with_data(run, split=split))
    assert "C1, C2: scored, and the checkpoint was chosen on it" in found["checkpoint"]


def test_a_checkpoint_chosen_on_another_section_of_a_test_patient_is_a_leak(run):
    split = dataclasses.replace(run.data.split, val=("C1",), test=("C2",))
    found = leaks(dataclasses.replace(with_data(run, split=split), sections=("C2",)))
    assert "patient C is scored, and the checkpoint was chosen on them" in found["checkpoint"]


def test_a_checkpoint_that_is_not_the_best_on_validation_cannot_be_told(run):
    verdicts = {finding.check: finding.verdict for finding in audit.audit(dataclasses.replace(run, step=1))}
    assert verdicts["checkpoint"] == "cannot tell"


def test_without_the_training_data_most_cannot_be_told(run):
    verdicts = {f.check: f.verdict for f in audit.audit(dataclasses.replace(run, trained_on=None))}
    assert [check for check, verdict in verdicts.items() if verdict == "cannot tell"] == [
        "duplicates", "gene panel", "statistics", "checkpoint"
    ]  # fmt: skip


def test_the_command_exits_with_one_on_a_leak_and_says_so(run, capsys):
    audit.main([f"--workdir={run.folder}"])
    assert "no leak found" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        audit.main([f"--workdir={run.folder}", "--sections=B1"])
    assert stopped.value.code == 1
    assert "LEAKAGE FOUND: 2 of 8" in capsys.readouterr().out


def test_of_several_runs_the_worst_verdict_counts_and_is_named(run):
    sound, leaky = audit.audit(run), audit.audit(with_data(run, train_patients=("B", "C")))
    found = {finding.check: finding for finding in audit.worst([sound, leaky], ["first", "second"])}
    assert found["patients"] == audit.Finding("patients", "leak", "second: patient C is scored, and in training")
    assert found["sections"] in sound
    assert audit.worst([leaky], ["only"]) == leaky
