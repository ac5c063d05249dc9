"""What the checks of an audit find, their verdicts, and how they are told."""

import dataclasses
from collections.abc import Sequence

from data_prep.counted import counted

OK, UNKNOWN, CHOSEN, LEAK = "ok", "unknown", "same_patient", "leak"
VERDICTS = {  # from best to worst, as people read them
    OK: "ok",
    UNKNOWN: "cannot tell",
    CHOSEN: "same patient, by your choice",  # not of unseen patients, as whoever named the sections knew
    LEAK: "leak",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found: its verdict is one of `VERDICTS`."""

    check: str
    verdict: str
    detail: str


def check_title(check: str) -> str:
    """What people read for a check's identifier."""
    return check.replace("_", " ")


def lines(findings: Sequence[Finding]) -> list[str]:
    """A line a finding, leaks in capitals, and the verdict."""
    width = max((len(VERDICTS[finding.verdict]) for finding in findings), default=0) + 1
    words = VERDICTS | {LEAK: "LEAK"}
    result = [f"{words[f.verdict]:{width}s}{check_title(f.check)}: {f.detail}" for f in findings]
    count = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in VERDICTS}
    if count[LEAK]:
        return [*result, f"LEAKAGE FOUND: {count[LEAK]} of {len(findings)} checks found a leak"]
    rest = "".join(f", {count[verdict]} {VERDICTS[verdict]}" for verdict in (UNKNOWN, CHOSEN) if count[verdict])
    return [*result, f"no leak found in {counted(len(findings) - count[UNKNOWN] - count[CHOSEN], 'checks')}{rest}"]


def worst(audits: Sequence[list[Finding]], names: Sequence[str]) -> list[Finding]:
    """The findings of several runs as one: of each check the worst verdict, and whose it is."""
    result = []
    for findings in zip(*audits, strict=True):
        place = max(range(len(findings)), key=lambda i: list(VERDICTS).index(findings[i].verdict))
        found = findings[place]
        sound = found.verdict == OK or len(names) == 1
        detail = found.detail if sound else f"{names[place]}: {found.detail}"
        result.append(dataclasses.replace(found, detail=detail))
    return result
