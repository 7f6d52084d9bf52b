"""The report on the ways to choose a rate, side by side."""

from __future__ import annotations

from etude.methods.compare import Method, MethodAnswer, MethodComparison
from etude.report import words
from etude.report.document import DataTable, Fact, Report, Section, TableColumn, TableRow
from etude.report.registry import presents
from etude.tasks.task import Task

NAMES = {
    Method.DEFAULT: "the recipe's own rate",
    Method.RANGE_TEST: "range test",
    Method.GRID: "grid",
    Method.FOLDS: "grid by cross-validation",
    Method.TUNER: "tuner",
}


@presents(MethodComparison)
def of_comparison(found: MethodComparison, task: Task | None = None) -> Report:
    """Return the report on the ways to choose a rate."""
    told = [(one.missed, one.cost, one) for one in found.answers if one.missed is not None]
    title = f"{found.task}: the ways cannot be compared"
    if told:
        missed, cost, first = min(told, key=lambda row: row[:2])
        title = (
            f"{found.task}: {NAMES[first.method]} missed least, {words.percent(missed)} of the "
            f"drop, at {words.runs(cost)}"
        )
    ways = [one for one in found.answers if one.said]
    return Report(
        kind="Ways to choose a learning rate",
        subject=found.task,
        title=title,
        lede=found.advice(),
        facts=tuple(_facts(found)),
        sections=(
            Section("Side by side", (_table(found),)),
            *([Section("What each says of its answer", tuple(map(_said, ways)))] if ways else []),
        ),
    )


def _facts(found: MethodComparison) -> list[Fact]:
    if found.best is None:
        return []
    note = f"of {words.plural(len(found.finished), 'full run')}"
    return [Fact("Best rate seen", words.rate(found.best[0]), note)]


def _said(one: MethodAnswer) -> str:
    return f"{NAMES[one.method].capitalize()}: {one.said}"


def _table(found: MethodComparison) -> DataTable:
    heads = ("rate", "runs", "time", "loss", "missed")
    rows = []
    for one in found.answers:
        cells = (
            "none" if one.lr is None else words.number(one.lr, 3),
            f"{one.cost:.2f}",
            words.duration(one.seconds),
            "–" if one.loss is None else words.number(one.loss),
            "–" if one.missed is None else words.percent(one.missed),
        )
        rows.append(TableRow((NAMES[one.method], *cells), bar=one.missed))
    return DataTable(
        (TableColumn("way"), *(TableColumn(name, number=True) for name in heads)),
        tuple(rows),
        "Cost in full runs of the recipe, that at the rate included; validation loss at its end; "
        "and the share of the drop to the best full run that it missed.",
    )
