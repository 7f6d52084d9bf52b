"""A schedule over a run, and its values as a table and sentences; this file does not load torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from etude.report.document import DataTable, TableColumn, TableRow
from etude.schedules import Schedule, area

EXACT = 1_000_000
"""The largest number of steps of which all are searched for the highest value."""


@dataclass(frozen=True)
class ScheduleValues:
    """A schedule over a run.

    Attributes:
        schedule: The schedule, bound to the length.
        length: The length of the run in updates.
        unit: The name of a step of the schedule: 'step' or 'epoch'.
        most: The largest number of rows of the table, evenly spread; 0 takes every step.
        faults: Its likely mistakes, each as a sentence.
        differences: Its differences from another schedule, each as a sentence.
    """

    schedule: Schedule
    length: int
    unit: str = "step"
    most: int = 50
    faults: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    def points(self) -> list[tuple[int, float]]:
        """Return steps with their values; the step after the last has the value at the end."""
        count = self.length if self.most == 0 else min(self.most, self.length)
        steps = sorted({round(self.length * i / count) for i in range(count + 1)})
        return [(step, self.schedule(step)) for step in steps]

    def highest(self) -> tuple[int, float] | None:
        """Return the first step with the highest value, and that value.

        None for a run of more than `EXACT` steps.
        """
        if self.length > EXACT:
            return None
        values = np.asarray(self.schedule(np.arange(self.length + 1)), dtype=np.float64)
        step = int(values.argmax())
        return step, float(values[step])

    @property
    def area(self) -> float:
        """The area under the curve."""
        return area(self.schedule, 0, self.length)


def table(found: ScheduleValues) -> DataTable:
    """Return the table of the values."""
    return DataTable(
        (TableColumn(found.unit, number=True), TableColumn("value", number=True)),
        tuple(TableRow((str(step), f"{value:.8g}")) for step, value in found.points()),
    )


def area_sentence(found: ScheduleValues) -> str:
    """Return the area and the mean as a sentence."""
    return f"area under the curve {found.area:.6g}, mean {found.area / found.length:.4g}"
