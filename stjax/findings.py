"""What the checks of an audit find, their verdicts, and how they are told."""

import dataclasses
from collections.abc import Sequence

OK, LEAK, UNKNOWN = "ok", "leak", "cannot tell"
CHOSEN = "same patient, by your choice"  # not of unseen patients, as whoever named the sections knew
WORSE = (OK, UNKNOWN, CHOSEN, LEAK)  # from best to worst


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found: its verdict is one of `WORSE`."""

    check: str
    verdict: str
    detail: str


def lines(findings: Sequence[Finding]) -> list[str]:
    """A line a finding, leaks in capitals, and the verdict."""
    width = max((len(finding.verdict) for finding in findings), default=0) + 1
    result = [f"{'LEAK' if f.verdict == LEAK else f.verdict:{width}s}{f.check}: {f.detail}" for f in findings]
    count = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in WORSE}
    if count[LEAK]:
        return [*result, f"LEAKAGE FOUND: {count[LEAK]} of {len(findings)} checks found a leak"]
    rest = "".join(f", {count[verdict]} {verdict}" for verdict in (UNKNOWN, CHOSEN) if count[verdict])
    return [*result, f"no leak found in {len(findings) - count[UNKNOWN] - count[CHOSEN]} checks{rest}"]


def worst(audits: Sequence[list[Finding]], names: Sequence[str]) -> list[Finding]:
    """The findings of several runs as one: of each check the worst verdict, and whose it is."""
    result = []
    for findings in zip(*audits, strict=True):
        place = max(range(len(findings)), key=lambda i: WORSE.index(findings[i].verdict))
        found = findings[place]
        sound = found.verdict == OK or len(names) == 1
        detail = found.detail if sound else f"{names[place]}: {found.detail}"
        result.append(dataclasses.replace(found, detail=detail))
    return result
