"""Patients: how they are known, in words, and which names may be of one person."""

import pytest

from data_prep import patients
from data_prep.patients import CONVENTION, FILE, GUESSED, UNKNOWN, USER


@pytest.mark.parametrize("names", [("P01", "p-1", "P 1", "p_001"), ("Patient A", "patient-a"), ("BC23450", "bc 23450")])
def test_names_spelt_alike_are_seen(names: tuple[str, ...]) -> None:
    assert len({patients.spelling_key(name) for name in names}) == 1
    assert patients.spelt_alike([*names, "other"]) == [tuple(sorted(names))]


def test_unlike_names_stay_apart() -> None:
    names = ["P1", "P11", "P1-1", "P10", "A", "B", "Study 1: P1", "Study 2: P1", "-", "+"]
    assert patients.spelt_alike(names) == []


def test_what_is_not_stated_is_said() -> None:
    assert patients.not_stated({"A": FILE, "B": USER, "C": CONVENTION}) == ""
    guessed = {f"S{number}": GUESSED for number in range(8)}
    text = patients.not_stated({"A": FILE, **guessed, "O": UNKNOWN})
    assert text == (
        "nothing states whose tissue S0, S1, S2, S3, S4, S5 and 2 more is: its patient is a guess; list "
        "section,patient in patients.csv; how the patient of O is known is not recorded; build the data set again"
    )


def test_origins_are_summed_up_in_words() -> None:
    assert patients.summary({"A": USER, "B": USER}) == "stated in patients.csv or slides.csv"
    summed = patients.summary({"A": GUESSED, "B": FILE})
    assert summed == "stated by the files (B), guessed, as nothing states it (A)"


def test_a_patient_is_known_as_well_as_the_least_sure_of_the_sections() -> None:
    assert patients.weakest([("P", FILE), ("P", GUESSED), ("Q", USER)]) == {"P": GUESSED, "Q": USER}
