"""The report on a population."""

from __future__ import annotations

import math

from etude.methods.population_result import PopulationMember, PopulationResult
from etude.report import health, pieces, words
from etude.report.document import (
    DataTable,
    Drawing,
    Fact,
    Listing,
    Report,
    Section,
    TableColumn,
    TableRow,
    Tone,
)
from etude.report.methods import population_curves
from etude.report.registry import presents
from etude.tasks.task import Task


@presents(PopulationResult)
def of_population(found: PopulationResult, task: Task | None = None) -> Report:
    """Return the report on a population."""
    title = f"{found.task}: every member of the population diverged"
    if found.best is not None:
        moves = words.plural(len(found.history.boundaries), "move")
        title = f"{found.task}: the best of {len(found.members)} began at {words.rate(found.lr)}"
        title += f", with {moves} of its rate"
    curves = population_curves.info(found)
    drawing = Drawing(
        population_curves.caption(found), lambda theme: population_curves.draw(curves, theme)
    )
    schedule = Listing("schedule", "The schedule that was learned", repr(found.schedule), "python")
    sections = [Section("Rates", (drawing, _table(found)))]
    if found.best is not None:
        sections.append(Section("To replay it", (_replay(found), schedule)))
        sections.append(Section("The best member", pieces.drawings(found.record), detail=True))
        sections += health.sections(found.record)
        sections += pieces.recipe(found.record, task, use=True)
    return Report(
        kind="Population",
        subject=found.task,
        title=title,
        lede=_lede(found),
        notice=found.advice(),
        facts=tuple(_facts(found)),
        sections=tuple(sections),
    )


def _lede(found: PopulationResult) -> str:
    return (
        f"{words.plural(len(found.members), 'member')}, {len(found.ends)} generations; a member "
        f"copied another {words.plural(found.copied, 'time')}. That cost "
        f"{words.runs(found.cost)} of the recipe."
    )


def _replay(found: PopulationResult) -> str:
    return (
        f"A training with this recipe from the start, at a rate of {words.rate(found.lr)}, gives "
        "the best member's weights: it saw the same batches, and its donors did too."
    )


def _facts(found: PopulationResult) -> list[Fact]:
    facts = []
    if found.best is not None:
        at_end = found.lr * found.history.factors[-1]
        note = f"{words.rate(at_end)} at the end, before the recipe's own schedule"
        facts.append(Fact("Learning rate at the start", words.rate(found.lr), note, Tone.GOOD))
    facts += [*pieces.scores(found.record, found.untrained), *health.fact(found.record)]
    return [*facts, Fact("Cost", words.runs(found.cost), words.duration(found.seconds))]


def _table(found: PopulationResult) -> DataTable:
    columns = (
        TableColumn("member", number=True),
        TableColumn("first rate", number=True),
        TableColumn("last rate", number=True),
        TableColumn("copied", number=True),
        TableColumn(found.goal.name, number=True),
        TableColumn(""),
    )
    rows = tuple(_row(one, found) for one in found.members)
    caption = f"The validation {found.goal.name} of each member at the end of the run."
    return DataTable(columns, rows, caption)


def _row(one: PopulationMember, found: PopulationResult) -> TableRow:
    score = one.scores[-1]
    sign = -1 if found.goal.maximize else 1
    cells = (
        str(one.number),
        words.rate(one.rates[0]),
        words.rate(one.rates[-1]),
        str(sum(donor is not None for donor in one.donors)),
        words.number(sign * score) if math.isfinite(score) else "diverged",
    )
    if one.number == found.best:
        return TableRow((*cells, "best"), Tone.GOOD)
    return TableRow((*cells, ""), Tone.PLAIN if math.isfinite(score) else Tone.WARN)
