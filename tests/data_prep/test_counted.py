"""One is not many."""

import pytest

from data_prep.counted import counted


@pytest.mark.parametrize(
    ("text", "of_one"),
    [
        ("spots", "1 spot"),
        ("more errors", "1 more error"),
        ("patients are scored: too few to speak of patients", "1 patient is scored: too few to speak of patients"),
        ("selected spots have no counts", "1 selected spot has no counts"),
        ("nuclei of a.json hold no counts and were left out", "1 nucleus of a.json holds no counts and was left out"),
    ],
)
def test_one_is_not_many(text, of_one):
    assert counted(1, text) == of_one
    assert counted(0, text) == f"0 {text}"
    assert counted(2, text) == f"2 {text}"
