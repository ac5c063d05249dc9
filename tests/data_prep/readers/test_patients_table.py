"""patients.csv: what the user states wins, is read however it is saved, and is refused where it contradicts itself."""

from pathlib import Path

import pytest

from data_prep import build, check, demo, readers
from data_prep.dataset import PatchDataset
from data_prep.errors import InputError
from data_prep.readers import _patients
from tests.data_prep.tiny_source import write_source

her2st = readers.reader("her2st")


def table(root: Path, text: str, *, encoding: str = "utf-8") -> Path:
    (root / "patients.csv").write_text(text, encoding=encoding)
    return root


def test_what_the_user_states_wins_and_a_contradiction_is_said(tmp_path: Path) -> None:
    table(tmp_path, "section,patient\nS1,P1\n")
    assert _patients.find(tmp_path, "S1") == ("P1", "user", ())
    assert _patients.find(tmp_path, "S1", stated="P1") == ("P1", "user", ())
    note = "patient P1 as patients.csv says; a file says X"
    assert _patients.find(tmp_path, "S1", stated="X") == ("P1", "user", (note,))
    note = "patient P1 as patients.csv says; the section's name says S"
    assert _patients.find(tmp_path, "S1", convention="S") == ("P1", "user", (note,))
    assert _patients.find(tmp_path, "S1_008um", sample="S1")[:2] == ("P1", "user")


def test_without_a_statement_a_patient_is_a_guess_and_says_so(tmp_path: Path) -> None:
    assert _patients.find(tmp_path, "S2", stated="X") == ("X", "file", ())
    assert _patients.find(tmp_path, "C2", convention="C") == ("C", "convention", ())
    patient, source, notes = _patients.find(tmp_path, "S2")
    assert (patient, source) == ("S2", "guessed")
    assert notes == ("patient not stated: taken as S2; list section,patient in patients.csv if patients repeat",)
    table(tmp_path, "section,patient\ns2,P1\n")
    assert _patients.find(tmp_path, "S2")[2][0].startswith("patients.csv does not list it (it lists s2); patient not")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Section , PATIENT\n S1 , P1 \n", "utf-8"),
        ("section,patient\r\nS1,P1\r\n,\r\n", "utf-8-sig"),
        ("patient,section,note\nP1,S1,x\n", "utf-8"),
        ('section,patient\nS1,"P1"\n', "utf-8"),
        ("section;patient\nS1;P1\n", "utf-8"),
        ("section\tpatient\nS1\tP1\n", "utf-16"),
    ],
)
def test_the_table_is_read_however_it_is_saved(tmp_path: Path, text: str, encoding: str) -> None:
    assert _patients.find(table(tmp_path, text, encoding=encoding), "S1")[:2] == ("P1", "user")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("section,patient\nS1,P1\nS1,P2\n", "section S1 is listed twice, of patient P1 and P2; keep one row"),
        ("section,patient\nS1,\n", "a row has section 'S1' and patient '', expected both"),
        ("section,patient\n,P1\n", "a row has section '' and patient 'P1', expected both"),
        ("sample,patient\nS1,P1\n", "section not found"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _patients.find(table(tmp_path, text), "S1")


@pytest.mark.parametrize(("kind", "said"), [("folder", "a folder"), ("link", "a link to nothing")])
def test_what_is_no_file_does_not_count_as_absent(tmp_path: Path, kind: str, said: str) -> None:
    path = tmp_path / "patients.csv"
    path.mkdir() if kind == "folder" else path.symlink_to(tmp_path / "elsewhere.csv")
    with pytest.raises(InputError, match=rf"patients.csv: {said}, expected a file; put the file there, or remove it"):
        _patients.find(tmp_path, "S1")


def test_sections_that_are_not_there_are_said(tmp_path: Path) -> None:
    table(tmp_path, "section,patient\nS1,P1\nS9,P2\n")
    said = "patients.csv lists sections that are not here: S9; a misspelt one counts as not listed"
    assert _patients.unknown_sections(tmp_path, ["S1_008um", "S1_016um"]) == said
    assert _patients.unknown_sections(tmp_path, ["S1", "S9"]) == ""


def test_the_letter_of_a_published_name_is_a_patient_and_of_another_name_a_guess(tmp_path: Path) -> None:
    write_source(tmp_path, sections=("A1", "B1"))
    known = [(section.patient, section.patient_source) for section in her2st.read_sections(tmp_path)]
    assert known == [("A", "convention"), ("B", "convention")]
    table(tmp_path, "section,patient\nA1,P1\n")
    assert her2st.read_section(tmp_path, "A1").patient == "P1"
    for file in [*tmp_path.rglob("B1*"), tmp_path / "ST-imgs/B"]:
        file.rename(file.with_name(file.name.replace("B1", "rep1") if "1" in file.name else "rep"))
    section = her2st.read_section(tmp_path, "rep1")
    assert (section.patient, section.patient_source) == ("rep", "guessed")


def test_check_and_build_say_how_patients_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = demo.make_demo(tmp_path / "source", layout="visium", patients=1, sections_per_patient=2, spots=30)
    (source / "patients.csv").unlink(missing_ok=True)
    report = check.check(source)
    first, second = (entry["name"] for entry in report["sections"])
    assert [entry["patient_source"] for entry in report["sections"]] == ["guessed", "guessed"]
    assert f"nothing states whose tissue {first}, {second} is" in "; ".join(report["warnings"])
    table(source, f"section,patient\n{first},P1\n{second}x,P1\n")
    capsys.readouterr()
    check.print_report(check.check(source))
    shown = capsys.readouterr().out
    assert (
        f"patients: stated in patients.csv or slides.csv ({first}), guessed, as nothing states it ({second})" in shown
    )
    assert f"patients.csv lists sections that are not here: {second}x" in shown
    build.build(source, tmp_path / "data", patch_size_px=32, min_counts=0)
    assert f"warning: patients.csv lists sections that are not here: {second}x" in capsys.readouterr().out
    dataset = PatchDataset.open(tmp_path / "data")
    assert dataset.patients([first, second]) == {first: ("P1", "user"), second: (second, "guessed")}
