"""What repair did on the zoo, as tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import doctor
from benchmarks.doctor.case import Case
from benchmarks.doctor.mended import REPAIRED, WAYS, Table, undone
from benchmarks.doctor.verify import Verified
from etude.diagnosis.finding import Cause
from etude.diagnosis.remedies import OF_CAUSE

NOTES = f"""# Repair on the zoo

Written by `python -m benchmarks.doctor score repair`, which says in `benchmarks/doctor/mended.py` \
how it is measured. Each faulty case that has a task and a recipe is trained to its end, and the \
network is judged by the zoo's own measure on the validation data. **repaired**: share of cases in \
which at least {REPAIRED:.0%} of the harm is undone, so that the run is nearer to its healthy twin \
than to the fault. **undone**: median share of the harm that is undone. **recommended**: share of \
cases in which a remedy is recommended. **made worse**: share of cases in which the recommended \
remedy's network is worse than the fault by a tenth of the harm or more. "unchanged" is the \
recipe as it is: where it is repaired, the harm depends on the order of the batches. "true cause" \
gives `etude.repair` the cause that the zoo knows, which is the most that a diagnosis could do; \
"as diagnosed" is `etude.diagnose(..., repair=True)`. Causes without a remedy, which lie in the \
labels or the data, count among all faults.

"""


@dataclass(frozen=True)
class Undone:
    """What one way of mending did to one case.

    Attributes:
        case: The case.
        remedy: The remedy that was recommended; empty for none.
        undone: The share of the harm that was undone.
    """

    case: Case
    remedy: str
    undone: float


Measure = Callable[[Sequence[Undone]], float]


def share(said: Callable[[Undone], bool]) -> Measure:
    """Return a measure: the share of outcomes of which something is true."""
    return lambda rows: sum(map(said, rows)) / len(rows) if rows else math.nan


def median_undone(rows: Sequence[Undone]) -> float:
    """Return the median share of the harm that was undone."""
    found = sorted(row.undone for row in rows)
    middle = len(found) // 2
    return (found[middle] + found[-middle - 1]) / 2 if found else math.nan


MEASURES: dict[str, Measure] = {
    "repaired": share(lambda row: row.undone >= REPAIRED),
    "undone": median_undone,
    "recommended": share(lambda row: bool(row.remedy)),
    "made worse": share(lambda row: bool(row.remedy) and row.undone <= -0.1),
}
"""What a table shows."""


def mendable(case: Case) -> bool:
    """Return whether a case's cause has a remedy."""
    return Cause(case.cause) in OF_CAUSE


def outcomes(
    table: Table, cases: Sequence[Case], verified: Mapping[str, Verified], way: str
) -> list[Undone]:
    """Return what one way did to the cases that it was tried on."""
    found = []
    for case in cases:
        row = table.get(case.name, {}).get(way)
        if row is not None:
            won = undone(row, verified[case.name], verified[case.twin.name])
            found.append(Undone(case, row.remedy, won))
    return found


def summary(table: Table, cases: Sequence[Case], verified: Mapping[str, Verified]) -> str:
    """Return a table: a line for every way, part of the zoo and kind of cause."""
    lines = ["| way | programs | faults | cases | " + " | ".join(MEASURES) + " |"]
    lines.append("|---" * (len(MEASURES) + 4) + "|")
    for way in WAYS:
        found = outcomes(table, cases, verified, way)
        for part, names in (("open", doctor.OPEN), ("held", doctor.HELD)):
            own = [row for row in found if row.case.program.name in names]
            with_remedy = [row for row in own if mendable(row.case)]
            for kind, rows in (("all", own), ("with a remedy", with_remedy)):
                if rows:
                    cells = " | ".join(f"{measure(rows):.2f}" for measure in MEASURES.values())
                    lines.append(f"| {way} | {part} | {kind} | {len(rows)} | {cells} |")
    return "\n".join(lines) + "\n"


def by_cause(table: Table, cases: Sequence[Case], verified: Mapping[str, Verified]) -> str:
    """Return a table: how many cases of each cause are repaired, of those that were tried."""
    lines = ["| cause | " + " | ".join(WAYS) + " |", "|---" * (len(WAYS) + 1) + "|"]
    for cause in sorted({case.cause for case in cases}):
        cells = []
        for way in WAYS:
            rows = [r for r in outcomes(table, cases, verified, way) if r.case.cause == cause]
            cells.append(f"{sum(r.undone >= REPAIRED for r in rows)} of {len(rows)}")
        lines.append(f"| `{cause}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def not_repaired(table: Table, cases: Sequence[Case], verified: Mapping[str, Verified]) -> str:
    """Return a list of the open cases that the true cause's remedies do not mend."""
    lines = []
    for row in outcomes(table, cases, verified, "true cause"):
        if row.undone < REPAIRED and row.case.program.name in doctor.OPEN:
            tried = row.remedy or "none recommended"
            lines.append(f"- {row.case.name} (`{row.case.cause}`): {tried}, {row.undone:.2f}")
    return "\n".join(lines) + "\n"


def report(table: Table, cases: Sequence[Case], verified: Mapping[str, Verified]) -> str:
    """Return the whole report."""
    known = [case for case in cases if case.name in table]
    seeds = ", ".join(map(str, sorted({case.seed for case in known})))
    count = f"{len(known)} of {len(cases)} cases; seeds: {seeds}.\n\n"
    return (
        NOTES + count + summary(table, known, verified)
        + "\n## By cause: cases repaired\n\n" + by_cause(table, known, verified)
        + "\n## Open cases that are not repaired, given the true cause\n\n"
        + not_repaired(table, known, verified)
    )  # fmt: skip
