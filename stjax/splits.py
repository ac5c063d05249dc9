"""Which sections are for training, for validation and for test."""

import dataclasses
from collections.abc import Mapping, Sequence

from data_prep.counted import counted
from data_prep.errors import InputError
from data_prep.patients import not_stated, spelt_alike
from stjax.protocols import Protocol


@dataclasses.dataclass(frozen=True)
class Split:
    """Names of the sections of each part, and what a reader of the results must be told about it."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def split_sections(
    protocol: Protocol,
    patient_of: Mapping[str, str],
    *,
    origin_of: Mapping[str, str] | None = None,
    fold: int = 0,
    test_patients: Sequence[str] = (),
    test_sections: Sequence[str] = (),
    val_sections: Sequence[str] = (),
) -> Split:
    """Deals sections to training, validation and test, by patient unless sections are named.

    Args:
        patient_of: section name to patient, in data set order.
        origin_of: section name to how its patient is known, a key of `data_prep.patients.ORIGINS`.
        fold: which fold of the remaining patients validates.
        test_patients: overrides the protocol's held-out patients.
        test_sections, val_sections: name sections directly; no patient rule applies then, and validation is empty
            unless named.

    Raises:
        InputError: an unknown name, a fold out of range, or nothing left to train on.
    """
    names = tuple(patient_of)
    for what, given, known in (
        ("test_sections", test_sections, names),
        ("val_sections", val_sections, names),
        ("test_patients", test_patients, tuple(patient_of.values())),
    ):
        if unknown := [name for name in given if name not in known]:
            raise InputError(f"{what} names {', '.join(unknown)}; the data set has {', '.join(sorted(set(known)))}")
    if protocol.validation == "test" and val_sections:
        raise InputError(
            f"protocol {protocol.name} validates on the test sections, as published; leave val_sections out"
        )
    if not (test_sections or val_sections):
        test_sections, val_sections = _of_patients(protocol, patient_of, fold, test_patients)
    elif not test_sections:
        raise InputError("val_sections is given without test_sections; name both, or neither to split by patient")
    elif both := set(test_sections) & set(val_sections):
        raise InputError(f"{', '.join(sorted(both))} is in both test_sections and val_sections")
    test, val = (tuple(name for name in names if name in part) for part in (test_sections, val_sections))
    train = tuple(name for name in names if name not in test and name not in val)
    val = test if protocol.validation == "test" else val
    if not train:
        there = f"{counted(len(names), 'sections')} of {counted(len(set(patient_of.values())), 'patients')}"
        raise InputError(
            f"no section is left to train on: {there}, "
            f"{len(test)} held out for test; add patients, name --config.test_sections, or hold out spatial blocks of "
            "each section with --config.split=blocks (docs/protocols.md)"
        )
    warnings = []
    for part, sections in (("test", test), ("validation", val)):
        warnings += _shared(part, {patient_of[name] for name in sections}, {patient_of[name] for name in train})
    if guessed := not_stated({name: origin for name, origin in (origin_of or {}).items() if name in patient_of}):
        warnings.append(f"{guessed}. Training and test may hold tissue of one patient")
    if protocol.validation == "test":
        warnings.append("the checkpoint is chosen on the sections that are scored, as published: results are too good")
    if not val:
        warnings.append("no validation sections: the last checkpoint is used, none is selected")
    return Split(train, val, test, tuple(warnings))


def _of_patients(
    protocol: Protocol, patient_of: Mapping[str, str], fold: int, test_patients: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The sections of the patients held out, and of those who validate."""
    patients = sorted(set(patient_of.values()))
    held_out = set(test_patients) or set(protocol.test_patients) & set(patients) or {patients[-1]}
    rest = [patient for patient in patients if patient not in held_out]
    num_folds = min(protocol.num_folds, len(rest))
    if not 0 <= fold < max(num_folds, 1):
        raise InputError(f"fold is {fold}; the {len(rest)} remaining patients make folds 0 to {num_folds - 1}")
    validating = rest[fold::num_folds] if num_folds > 1 else []
    test, val = ([name for name, whose in patient_of.items() if whose in part] for part in (held_out, validating))
    return test, val


def _shared(part: str, theirs: set[str], ours: set[str]) -> list[str]:
    """What must be said where a patient of `part` is, or may be, one of training's."""
    warnings = []
    if shared := theirs & ours:
        warnings.append(
            f"patient {', '.join(sorted(shared))} is in both training and {part}: "
            f"{part} results show how well the model does on patients seen in training, not on new patients"
        )
    if alike := [names for names in spelt_alike(theirs | ours) if theirs & set(names) and ours & set(names)]:
        warnings.append(
            f"patients {'; '.join(', '.join(names) for names in alike)} are in training and {part}: one person "
            "under several names? Correct them in patients.csv and build again"
        )
    return warnings
