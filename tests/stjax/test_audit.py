"""A sound run passes; every kind of leak, put into it on purpose, is caught."""

import copy
import dataclasses
import json
import shutil

import pytest
from PIL import Image

from data_prep import json_files
from data_prep.dataset import PatchDataset
from stjax import audit, findings, views, workdir
from stjax import config as configs
from stjax.data.fit import fit
from stjax.splits import Split


@pytest.fixture
def run(trained):
    """A run as it was scored."""
    folder, _ = trained
    fold = workdir.load_fold(folder)
    dataset = PatchDataset.open(fold.data_dir)
    step = json.loads((folder / "evaluation" / "stjax" / "metrics.json").read_text())["checkpoint_step"]
    config, protocol = configs.load(folder / "config.json"), workdir.checked_protocol(fold, folder)
    return audit.Audited(folder, config, fold, protocol, step, dataset, dataset, fold.split.test)


def leaks(run):
    return {finding.check: finding.detail for finding in audit.audit(run) if finding.verdict == "leak"}


def with_fold(run, **changes):
    return dataclasses.replace(run, fold=dataclasses.replace(run.fold, **changes))


def test_a_sound_run_passes_every_check(run):
    found = audit.audit(run)
    assert {finding.verdict for finding in found} == {"ok"}
    assert {finding.check for finding in found} == {
        "sections", "patients", "validation", "duplicates", "gene_panel", "statistics", "stain_target", "checkpoint",
        "starting_weights",
    }  # fmt: skip
    assert findings.lines(found)[-1] == "no leak found in 9 checks"


def test_evaluation_holds_the_audit(trained):
    folder, output = trained
    result = json.loads((folder / "evaluation" / "stjax" / "metrics.json").read_text())
    assert {entry["verdict"] for entry in result["audit"]} == {"ok"}
    assert "no leak found in 9 checks" in output


def test_scored_training_sections_are_a_leak(run):
    found = leaks(dataclasses.replace(run, sections=run.fold.split.train[:1]))
    assert "B1: scored, and trained on" in found["sections"]
    assert "patient B" in found["patients"]


def test_shared_patients_are_a_leak(run):
    found = leaks(with_fold(run, train_patients=("B", "C")))
    assert found == {"patients": "patient C is scored, and in training"}


def verdicts(run):
    return {finding.check: finding.verdict for finding in audit.audit(run)}


def with_patients(run, changes):
    """The run, with its data set saying otherwise whose some sections are, or how that is known."""
    manifest = copy.deepcopy(run.trained_on.manifest)
    for entry in manifest["sections"]:
        entry |= changes.get(entry["name"], {})
    data = PatchDataset(run.trained_on.path, manifest, run.trained_on.content_hash)
    return dataclasses.replace(run, trained_on=data, scored_on=data)


def with_config(run, **changes):
    config = run.config.copy_and_resolve_references()
    with config.unlocked():
        config.update(changes)
    return dataclasses.replace(run, config=config)


def test_a_patient_split_by_the_users_own_choice_is_no_accident(run):
    split = dataclasses.replace(run.fold.split, train=("B1", "C2"), val=(), test=("C1",))
    run = dataclasses.replace(with_fold(run, split=split, train_patients=("B", "C")), sections=("C1",))
    assert verdicts(run)["patients"] == "leak"  # nobody asked for it
    chosen = with_config(run, test_sections="C1")
    assert verdicts(chosen)["patients"] == "same_patient"
    assert not {"patients"} & set(leaks(chosen))
    other = with_fold(chosen, content_hash="of another data set")
    assert verdicts(other)["patients"] == "leak"  # of another data set it is an accident again
    found = [finding for finding in audit.audit(chosen) if finding.check == "patients"]
    assert findings.lines(found) == [
        "same patient, by your choice patients: patient C is scored, and in training",
        "no leak found in 0 checks, 1 same patient, by your choice",
    ]


def test_guessed_patients_cannot_be_told_apart(run):
    for name in ("C1", "B1"):  # scored, and in training
        guessed = with_patients(run, {name: {"patient_source": "guessed"}})
        assert verdicts(guessed)["patients"] == "unknown"
        (detail,) = [finding.detail for finding in audit.audit(guessed) if finding.check == "patients"]
        assert detail.startswith(f"nothing states whose tissue {name} is")


def test_patients_of_a_data_set_that_does_not_say_how_they_are_known_cannot_be_told_apart(run):
    old = with_patients(run, {})
    for entry in old.trained_on.manifest["sections"]:
        del entry["patient_source"]
    assert verdicts(old)["patients"] == "unknown"
    gone = with_fold(dataclasses.replace(run, trained_on=None), train_patient_origins={})
    assert verdicts(gone)["patients"] == "unknown"
    assert verdicts(with_fold(gone, train_patient_origins={"B": "file"}))["patients"] == "ok"


def test_a_patient_under_two_spellings_is_a_leak(run):
    spelt = with_patients(run, {"C1": {"patient": "b"}})
    assert leaks(spelt)["patients"] == "patient b is scored, B in training: one person under two names?"


def test_validation_is_audited_too(run):
    assert run.fold.split.val == ("A1", "A2")
    assert leaks(with_patients(run, {"A1": {"patient": "B"}}))["validation"] == (
        "patient B is validated on, and in training"
    )
    chosen = with_config(with_patients(run, {"A1": {"patient": "B"}}), test_sections="C1,C2", val_sections="A1, A2")
    assert verdicts(chosen)["validation"] == "same_patient"
    assert verdicts(with_patients(run, {"A1": {"patient_source": "guessed"}}))["validation"] == "unknown"
    image = run.trained_on.section("B1")["image"]
    assert leaks(with_patients(run, {"A1": {"image": image}}))["validation"] == "A1 has the image of B1"


def copied(run, tmp_path):
    """The data set once more, and its manifest."""
    folder = tmp_path / "data"
    shutil.copytree(run.trained_on.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest[json_files.SEAL]
    return folder, manifest, {entry["name"]: entry for entry in manifest["sections"]}


@pytest.mark.parametrize("how", ["the same file", "compressed anew", "mirrored"])
def test_a_duplicate_image_is_a_leak(run, tmp_path, how):
    folder, manifest, entries = copied(run, tmp_path)
    if how == "the same file":
        entries["C1"]["image"]["sha256"] = entries["B2"]["image"]["sha256"]
        (folder / "manifest.json").write_text(json.dumps(json_files.sealed(manifest)))
    else:
        with Image.open(folder / entries["B2"]["thumbnail"]) as picture:
            small = picture.resize((picture.width // 2, picture.height // 2))
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if how == "mirrored" else small
        small.save(folder / entries["C1"]["thumbnail"], quality=40)
    found = leaks(dataclasses.replace(run, scored_on=PatchDataset.open(folder)))
    assert set(found) == {"duplicates"}
    assert "C1" in found["duplicates"]
    assert "B2" in found["duplicates"]


def test_a_duplicate_count_table_is_a_leak(run, tmp_path):
    folder, manifest, entries = copied(run, tmp_path)
    assert entries["C1"]["spots"] == entries["A2"]["spots"]  # another size would be damage
    entries["C1"]["table"] = entries["A2"]["table"]
    (folder / "manifest.json").write_text(json.dumps(json_files.sealed(manifest)))
    found = leaks(dataclasses.replace(run, scored_on=PatchDataset.open(folder)))
    assert found == {"duplicates": "C1 has the counts of A2"}


STATISTICS = ("target_mean", "target_std", "train_mean", "image_mean", "image_std")


@pytest.fixture
def with_test(run):
    """What the training and the test sections together give."""
    split = run.fold.split
    both = Split((*split.train, *split.test), split.val, ())
    return fit(views.get("patches"), run.protocol, run.trained_on, both)


def test_a_panel_of_test_data_is_a_leak(run, with_test):
    learned = {name: getattr(with_test, name) for name in ("panel", *STATISTICS)}
    assert set(leaks(with_fold(run, **learned))) == {"gene_panel", "statistics"}


def test_statistics_of_test_data_are_a_leak_whatever_the_genes(run, with_test):
    panel, other = run.fold.panel, with_test.panel
    place = {gene: row for row, gene in enumerate(other.ensembl_id)}
    rows = [place[gene] for gene in panel.ensembl_id]
    leaky = {name: getattr(run.fold, name).copy() for name in STATISTICS[:3]}
    for name, mine in leaky.items():
        for gene in range(panel.num_main):
            if rows[gene] < other.num_main:  # a main gene of both
                mine[gene] = getattr(with_test, name)[rows[gene]]
    images = {"image_mean": with_test.image_mean, "image_std": with_test.image_std}
    assert set(leaks(with_fold(run, **leaky, **images))) == {"statistics"}


def test_statistics_of_unknown_origin_cannot_be_told(run):
    odd = with_fold(run, image_mean=run.fold.image_mean + 1)
    verdicts = {finding.check: finding.verdict for finding in audit.audit(odd)}
    assert (verdicts["gene_panel"], verdicts["statistics"]) == ("ok", "unknown")


def test_a_stain_target_that_is_scored_is_a_leak(run):
    image = run.trained_on.section("C2")["image"]
    target = {"image": "C2.jpg", "image_sha256": image["sha256"]}
    assert set(leaks(with_fold(run, stain_target=target))) == {"stain_target"}
    other = run.trained_on.section("B1")["image"]["sha256"]
    assert not leaks(with_fold(run, stain_target={"image": "B1.jpg", "image_sha256": other}))


def test_a_checkpoint_chosen_on_test_sections_is_a_leak(run):
    split = dataclasses.replace(run.fold.split, val=run.fold.split.test)
    found = leaks(with_fold(run, split=split))
    assert "C1, C2: scored, and the checkpoint was chosen on it" in found["checkpoint"]


def test_a_checkpoint_chosen_on_another_section_of_a_test_patient_is_a_leak(run):
    split = dataclasses.replace(run.fold.split, val=("C1",), test=("C2",))
    found = leaks(dataclasses.replace(with_fold(run, split=split), sections=("C2",)))
    assert "patient C is scored, and the checkpoint was chosen on them" in found["checkpoint"]


def test_a_checkpoint_that_is_not_the_best_on_validation_cannot_be_told(run):
    verdicts = {finding.check: finding.verdict for finding in audit.audit(dataclasses.replace(run, step=1))}
    assert verdicts["checkpoint"] == "unknown"


def test_without_the_training_data_most_cannot_be_told(run):
    verdicts = {f.check: f.verdict for f in audit.audit(dataclasses.replace(run, trained_on=None))}
    assert [check for check, verdict in verdicts.items() if verdict == "unknown"] == [
        "validation", "duplicates", "gene_panel", "statistics", "checkpoint"
    ]  # fmt: skip


def test_the_command_exits_with_one_on_a_leak_and_says_so(run, capsys):
    audit.main([f"--workdir={run.folder}"])
    assert "no leak found" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        audit.main([f"--workdir={run.folder}", "--sections=B1"])
    assert stopped.value.code == 1
    assert "LEAKAGE FOUND: 2 of 9" in capsys.readouterr().out


def test_of_several_runs_the_worst_verdict_counts_and_is_named(run):
    sound, leaky = audit.audit(run), audit.audit(with_fold(run, train_patients=("B", "C")))
    found = {finding.check: finding for finding in findings.worst([sound, leaky], ["first", "second"])}
    assert found["patients"] == findings.Finding("patients", "leak", "second: patient C is scored, and in training")
    assert found["sections"] in sound
    assert findings.worst([leaky], ["only"]) == leaky
