"""A schedule over a run, and its values as rows and sentences; nothing here loads torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from etude.report.document import DataTable, TableColumn, TableRow
from etude.schedules import Schedule, area

EXACT = 1_000_000
"""Steps of a run up to which the highest value is looked for at every one of them."""


@dataclass(frozen=True)
class ScheduleValues:
    """A schedule over a run.

    Attributes:
        schedule: Bound to the length.
        length: Of the run, in updates.
        unit: What a step of the schedule is: 'step' or 'epoch'.
        most: Rows of the table at most, evenly spread; 0 takes every step.
        faults: What looks wrong with it, a sentence each.
        differences: How it differs from another one, a sentence each.
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
    """Return the values, step by step."""
    return DataTable(
        (TableColumn(found.unit, number=True), TableColumn("value", number=True)),
        tuple(TableRow((str(step), f"{value:.8g}")) for step, value in found.points()),
    )


def area_said(found: ScheduleValues) -> str:
    """Say how much the schedule allows in all."""
    return f"area under the curve {found.area:.6g}, mean {found.area / found.length:.4g}"
