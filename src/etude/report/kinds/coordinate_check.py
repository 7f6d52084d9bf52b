"""The report on a coordinate check: whether each layer changes equally at every width."""

from __future__ import annotations

from etude.measure.coordinate_check import CoordinateCheck
from etude.report import words
from etude.report.document import (
    DataTable,
    Fact,
    Report,
    Section,
    TableColumn,
    TableRow,
    Tone,
)
from etude.report.registry import presents
from etude.tasks.task import Task


@presents(CoordinateCheck)
def of_check(found: CoordinateCheck, task: Task | None = None) -> Report:
    """Return the report on a coordinate check."""
    subject = "the model" if task is None else task.name
    how = "equally at every width" if found.passed else "differently at different widths"
    return Report(
        kind="Coordinate check",
        subject=subject,
        title=f"{subject}: layers change {how}",
        lede=f"Widths {', '.join(map(str, found.widths))}, {found.steps} updates each.",
        facts=(fact(found),),
        sections=(section(found),),
    )


def fact(found: CoordinateCheck) -> Fact:
    """Return the verdict as a fact."""
    if found.passed:
        return Fact("Coordinate check", "passed", tone=Tone.GOOD)
    return Fact("Coordinate check", "failed", f"at {found.failing[0].layer}", Tone.WARN)


def section(found: CoordinateCheck) -> Section:
    """Return the verdict in a sentence, and a table of the layers."""
    return Section("Coordinate check", (f"Coordinate check {found.verdict()}.", _layers(found)))


def _layers(found: CoordinateCheck) -> DataTable:
    failing = {one.layer for one in found.failing}
    return DataTable(
        (
            TableColumn("layer", whole=True),
            *(TableColumn(f"change at {width}", number=True) for width in found.widths),
            TableColumn("slope", number=True),
            TableColumn("± over seeds", number=True),
        ),
        tuple(
            TableRow(
                (
                    one.layer,
                    *(f"{value:.3g}" for value in one.change),
                    f"{one.slope:+.2f}",
                    f"{one.spread:.2f}",
                ),
                Tone.WARN if one.layer in failing else Tone.PLAIN,
            )
            for one in found.layers
        ),
        "The mean absolute change of each layer's output over "
        f"{words.plural(found.steps, 'update')}, and its slope over the width on logarithmic axes: "
        "0 if the width does not matter.",
    )
