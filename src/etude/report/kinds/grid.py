"""The report on a grid of rates."""

from __future__ import annotations

import math
from dataclasses import replace

from etude.methods.grid_result import GridRate, GridResult
from etude.report import health, pieces, words
from etude.report.document import (
    DataTable,
    Drawing,
    Fact,
    Report,
    Section,
    TableColumn,
    TableRow,
    Tone,
)
from etude.report.methods import grid_curve
from etude.report.registry import presents
from etude.tasks.task import Task


@presents(GridResult)
def of_grid(found: GridResult, task: Task | None = None) -> Report:
    """Return the report on a grid."""
    title = f"{found.task}: every rate of the grid diverged"
    if found.lr is not None:
        title = f"{found.task}: of the grid, {words.rate(found.lr)} trains best"
        if not found.learned:
            title = f"{found.task}: no rate of the grid learned more than a constant"
    drawing = Drawing(grid_curve.caption(found), lambda theme: grid_curve.draw(found, theme))
    recipe = () if found.record is None else pieces.recipe(found.record, task, use=found.learned)
    return Report(
        kind="Grid of learning rates",
        subject=found.task,
        title=title,
        lede=_lede(found),
        notice=found.advice(),
        facts=tuple(_facts(found)),
        sections=(Section("Which rate", (drawing, _table(found))), *_best(found), *recipe),
    )


def _best(found: GridResult) -> tuple[Section, ...]:
    if found.record is None:
        return ()
    run = Section("The best run", pieces.drawings(found.record), detail=True)
    return (run, *health.sections(found.record))


def _lede(found: GridResult) -> str:
    rates = words.plural(len(found.rates), "rate")
    seeds = words.plural(len(found.seeds), "seed")
    by = f"{found.folds} folds" if found.folds > 1 else "the validation data"
    return (
        f"{rates}, {seeds}, each trained to its end and compared on {by}. That cost "
        f"{words.runs(found.cost)} of the recipe."
    )


def _facts(found: GridResult) -> list[Fact]:
    facts = []
    if found.lr is not None:
        note = "at the edge of the grid" if found.at_edge else ""
        tone = Tone.WARN if found.at_edge or not found.learned else Tone.GOOD
        facts.append(Fact("Learning rate", words.rate(found.lr), note, tone))
    if len(found.tied) > 1:
        low, high = words.rate(found.tied[0]), words.rate(found.tied[-1])
        others = words.plural(len(found.tied) - 1, "other rate")
        facts.append(Fact("May be as good", f"{low} to {high}", others))
    broken = [one.lr for one in found.rates if one.diverged]
    if broken:
        facts.append(Fact("Diverged", ", ".join(map(words.rate, broken)), "", Tone.WARN))
    if found.record is not None:
        scores = pieces.scores(found.record, found.untrained)
        if len(found.seeds) > 1:
            which = f"with seed {found.seeds[0]}"
            scores = [replace(one, note=f"{which}; {one.note}".rstrip("; ")) for one in scores]
        facts += [*scores, *health.fact(found.record)]
    return [*facts, Fact("Cost", words.runs(found.cost), words.duration(found.seconds))]


def _table(found: GridResult) -> DataTable:
    metric = found.rates[0].records[0].metric
    heads = ["loss", "least", "largest"] if len(found.seeds) > 1 else ["loss"]
    heads += [] if metric is None else [metric]
    columns = (TableColumn("rate", number=True), *(TableColumn(h, number=True) for h in heads))
    rows = tuple(_row(one, found, metric) for one in found.rates)
    caption = "The validation loss at the end of the run"
    caption += ", its mean and range over the seeds." if len(found.seeds) > 1 else "."
    return DataTable((*columns, TableColumn("")), rows, caption)


def _row(one: GridRate, found: GridResult, metric: str | None) -> TableRow:
    last = one.last
    cells = [words.rate(one.lr), "diverged" if last is None else words.number(last.loss)]
    if len(found.seeds) > 1:
        cells += [words.number(v) if math.isfinite(v) else "–" for v in _ends(one.losses)]
    if metric is not None:
        cells.append("–" if last is None else words.metric(metric, last.metric))
    if one.lr == found.lr:
        return TableRow((*cells, "best"), Tone.GOOD)
    if last is None:
        return TableRow((*cells, ""), Tone.WARN)
    return TableRow((*cells, "tied" if one.lr in found.tied else ""))


def _ends(losses: tuple[float, ...]) -> tuple[float, float]:
    return min(losses), max(losses)
