"""The page of the rivals, with Etude beside them on the same cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks import doctor
from benchmarks.doctor import score
from benchmarks.doctor.score import Row

NOTES = """# The rivals on the zoo

Written by `python -m benchmarks.doctor score rivals`, with Etude beside them on the same cases \
(the diagnosers of [etude.md](etude.md)). Where a tool names a symptom, its causes are those that \
its own remedies for the symptom would mend.

AutoTrainer, SageMaker Debugger and DeepDiagnosis: the thresholds are those that the tools \
publish, in an own implementation over a probe of our own (`benchmarks/doctor/rivals.py`); none of \
their code ran. The probe reads about sixty updates of a run, so that a rule that waits for an \
epoch gets twenty. A rule counts as an alarm whenever it fires.

torchmortem 0.1.1 and trainscope 1.8.1 ran themselves, at their defaults, in each case's own loop \
(`benchmarks/doctor/installed.py`). torchmortem: a finding of severity warning or critical counts \
as an alarm, a note does not; its report is written when the run has ended. trainscope: a spike \
that `step` returns counts as an alarm. Its test is two-sided, so that a loss that falls fast is \
a spike too; in the row "rising" only those of a rising loss count. It names no cause and no layer.

**recall**: share of faulty cases that are flagged. **false alarms**: share of healthy cases that \
are flagged. **top-1**, **top-3**: share of faulty cases whose cause is named first, or among the \
first three. **layer right**: of the faulty cases with a layer at fault, the share in which that \
layer, one inside it or one around it is named first. **found after**: median share of the run. \
In brackets: 95% by the bootstrap over whole programs. DeepDiagnosis states its update size as \
lr‖g‖/‖w‖; here it is the update that was really made.

"""


def common(names: Sequence[str]) -> dict[str, list[Row]]:
    """Return the stored verdicts of diagnosers on the cases that all of them have judged.

    A verdict on a case that has changed since does not count. The cause and the layer at fault are
    those that the zoo has now: some were named anew since verdicts were stored.
    """
    known = {name: {(row.case, row.digest): row for row in score.stored(name)} for name in names}
    shared = set.intersection(*(set(rows) for rows in known.values()))
    return {
        name: [_as_now(row) for key, row in sorted(rows.items()) if key in shared]
        for name, rows in known.items()
    }


def _as_now(row: Row) -> Row:
    """Return a row with what the zoo says of its case now; a case that it has no more stays."""
    if row.case.partition("/")[0] not in doctor.PROGRAMS:
        return row
    case = doctor.get(row.case)
    return replace(row, cause=case.cause, layer=case.edit.layer if case.edit else "")


def page(rules: Sequence[str], installed: Sequence[str], own: Sequence[str]) -> str:
    """Return the page.

    Args:
        rules: The names of the published rules.
        installed: Those of the tools that were installed.
        own: Those of Etude's diagnosers.
    """
    shown = every = common([*own, *rules, *installed])
    text = NOTES + "## All of them\n\n" + _part(every)
    ruled = common([*own, *rules])
    if any(len(rows) > len(every[name]) for name, rows in ruled.items()):
        shown = ruled
        text += "\n## Etude and the published rules, on more cases\n\n" + _part(ruled)
    return text + "\n## By cause: flagged / cause named first\n\n" + score.by_cause(shown)


def _part(results: dict[str, list[Row]]) -> str:
    rows = next(iter(results.values()))
    if not rows:
        return "Not measured.\n"
    faulty, programs = sum(bool(row.cause) for row in rows), {row.program for row in rows}
    seeds = ", ".join(sorted({row.case.rpartition("/")[2] for row in rows}))
    return (
        f"{faulty} faulty and {len(rows) - faulty} healthy cases of {len(programs)} of the "
        f"{len(doctor.PROGRAMS)} programs; seeds: {seeds}.\n\n{score.table(results)}"
    )
