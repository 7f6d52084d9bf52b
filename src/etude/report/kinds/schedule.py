"""The report on a schedule over a run."""

from __future__ import annotations

from etude.report import words
from etude.report.document import Drawing, Fact, Report, Section
from etude.report.figures import schedule_curve
from etude.report.registry import presents
from etude.report.schedule_values import ScheduleValues, area_sentence, table
from etude.tasks.task import Task


@presents(ScheduleValues)
def of_schedule(found: ScheduleValues, task: Task | None = None) -> Report:
    """Return the report on the values of a schedule."""
    curve = schedule_curve.of_values(found)
    text = repr(found.schedule)
    said = area_sentence(found)
    drawing = Drawing(
        schedule_curve.caption(curve), lambda theme: schedule_curve.draw(curve, theme)
    )
    sections = [
        Section("Over the run", (drawing,), detail=True),
        Section("How it differs", found.differences),
        Section("The values", (table(found),)),
    ]
    return Report(
        kind="Schedule",
        subject=text,
        title=text,
        lede=f"{words.plural(found.length, found.unit)}; {said}.",
        notice=" ".join(f"{fault}." for fault in found.faults),
        facts=tuple(_facts(found)),
        sections=tuple(section for section in sections if section.parts),
    )


def _facts(found: ScheduleValues) -> list[Fact]:
    ends = (("First value", 0), ("Value at the end", found.length))
    facts = [
        Fact(name, words.number(found.schedule(step)), f"{found.unit} {words.count(step)}")
        for name, step in ends
    ]
    if (highest := found.highest()) is not None:
        step, top = highest
        note = f"{found.unit} {words.count(step)}"
        facts.insert(1, Fact("Highest value", words.number(top), note))
    return facts
