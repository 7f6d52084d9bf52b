"""The report on a range test."""

from __future__ import annotations

from etude.methods.ramp_rules import RULES
from etude.methods.range_test import RangeTest
from etude.report import words
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
from etude.report.methods import ramp_curves
from etude.report.registry import presents
from etude.tasks.task import Task


@presents(RangeTest)
def of_range_test(found: RangeTest, task: Task | None = None) -> Report:
    """Return the report on a range test."""
    rule, lr = found.rule.name, found.lr
    title = f"{found.task}: the rule '{rule}' suggests no learning rate"
    if lr is not None:
        title = f"{found.task}: the rule '{rule}' suggests a learning rate of {words.number(lr, 3)}"
    drawing = Drawing(ramp_curves.caption(found), lambda theme: ramp_curves.draw(found, theme))
    return Report(
        kind="Range test",
        subject=found.task,
        title=title,
        lede=f"{words.plural(len(found.ramps), 'ramp')} of {found.updates} updates at most, as "
        f"{found.rule.plan.library} runs them; {words.runs(found.cost)} of the recipe.",
        notice=found.advice(),
        facts=tuple(_facts(found)),
        sections=(
            Section("The ramps", (drawing,), detail=True),
            Section("By rule", (_rules(found),)),
        ),
    )


def _facts(found: RangeTest) -> list[Fact]:
    facts = [Fact("Learning rate", "none", "no suggestion", Tone.WARN)]
    if found.lr is not None:
        note = "the median over the ramps" if len(found.ramps) > 1 else "of one ramp"
        facts = [Fact("Learning rate", words.number(found.lr, 3), note)]
    if found.interval is not None:
        low, high = (words.number(lr, 3) for lr in found.interval)
        facts.append(Fact("Over the ramps", f"{low} to {high}"))
    return [*facts, Fact("Cost", words.runs(found.cost), "a full run at the rate comes on top")]


def _rules(found: RangeTest) -> DataTable:
    columns = ("median", "lowest", "highest", "missed, median", "missed, worst")
    rows = []
    for name, given in found.suggestions.items():
        rates = sorted(lr for lr in given if lr is not None)
        missed = RULES[name].missed
        cells = (
            _rate(found.median(name)),
            _rate(rates[0] if rates else None),
            _rate(rates[-1] if rates else None),
            "–" if missed is None else f"{missed.median:.1%}",
            "–" if missed is None else f"{missed.worst:.0%}",
        )
        rows.append(TableRow((name, *cells), Tone.GOOD if name == found.rule.name else Tone.PLAIN))
    return DataTable(
        (TableColumn("rule"), *(TableColumn(name, number=True) for name in columns)),
        tuple(rows),
        "What each rule that reads these ramps suggests, and the share of the attainable drop in "
        "loss that it missed on the 28 tasks of the benchmark; – where it was not measured.",
    )


def _rate(lr: float | None) -> str:
    return "–" if lr is None else words.number(lr, 3)
