"""The report on the rates of a model's parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etude.measure.layer_rates import LayerRates, ParameterRate
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
from etude.report.figures import multiplier_curves
from etude.report.kinds import coordinate_check
from etude.report.registry import presents
from etude.tasks.task import Task


@presents(LayerRates)
def of_rates(found: LayerRates, task: Task | None = None) -> Report:
    """Return the report on the rates of all parameters."""
    sections = [Section("Parameter by parameter", (_table(found.rows),))]
    if any(row.curve for row in found.rows):
        curves = multiplier_curves.info(found)
        drawing = Drawing(
            multiplier_curves.caption(curves), lambda theme: multiplier_curves.draw(curves, theme)
        )
        sections.append(Section("Over the run", (drawing,), detail=True))
    if found.check is not None:
        sections.append(coordinate_check.section(found.check))
    return Report(
        kind="Rates by layer",
        subject=found.task,
        title=_title(found),
        lede=f"{words.plural(len(found.rows), 'row')}, {words.plural(found.layers, 'layer')}, "
        f"{words.plural(sum(row.size for row in found.rows), 'number')}; "
        f"{words.plural(found.length, 'update')}.",
        facts=tuple(_facts(found)),
        sections=tuple(sections),
    )


def _title(found: LayerRates) -> str:
    rates = [row.rate for row in found.rows if row.rate > 0]
    if not rates:
        return f"{found.task}: every rate is 0"
    low, high = words.number(min(rates)), words.number(max(rates))
    said = f"peak rates from {low} to {high}" if low != high else f"a peak rate of {low}"
    every = "" if low != high else " for every parameter"
    if any(row.rate == 0 for row in found.rows):
        every = ", parts frozen"
    return f"{found.task}: {said}{every}"


def _facts(found: LayerRates) -> list[Fact]:
    recipe = found.recipe
    facts = [Fact("Learning rate", words.rate(recipe.lr), f"the peak; {recipe.schedule!r}")]
    trained = [row for row in found.rows if row.rate > 0]
    if trained:
        low, high = (pick(trained, key=lambda row: row.rate) for pick in (min, max))
        if low.rate != high.rate:
            facts.append(Fact("Lowest rate", words.number(low.rate), low.name))
            facts.append(Fact("Highest rate", words.number(high.rate), high.name))
    total = sum(row.size for row in found.rows)
    frozen = total - sum(row.size for row in trained)
    if frozen:
        facts.append(Fact("Frozen", words.plural(frozen, "number"), f"of {words.count(total)}"))
    if found.check is not None:
        facts.append(coordinate_check.fact(found.check))
    return facts


def _table(rows: Sequence[ParameterRate]) -> DataTable:
    decayed = any(row.decay != 1 for row in rows)
    scheduled = any(row.curve for row in rows)
    reach = span(rows)
    # If all multipliers are 1, there is nothing to compare.
    barred = any(row.multiplier not in (0.0, 1.0) for row in rows)
    scale = (
        "Bars: its multiplier there, on a logarithmic scale from "
        f"× {10**-reach:.3g} to × {10**reach:.3g}; the line is × 1."
    )
    return DataTable(
        (
            TableColumn("parameter", whole=True),
            TableColumn("numbers", number=True),
            TableColumn("rule", whole=True),
            TableColumn("multiplier", number=not scheduled),
            TableColumn("rate at the peak", number=True),
            *([TableColumn("weight decay ×", number=True)] if decayed else []),
            TableColumn("layer", minor=True),
            TableColumn("shape", minor=True, whole=True),
        ),
        tuple(_row(row, decayed, reach if barred else None) for row in rows),
        "The rate at the peak is the parameter's largest over the run.",
        centred=True,
        scale=scale if barred else "",
    )


def _row(row: ParameterRate, decayed: bool, reach: float | None) -> TableRow:
    frozen = row.multiplier == 0
    return TableRow(
        (
            row.name,
            words.count(row.size),
            row.rule,
            "frozen" if frozen and not row.curve else row.text,
            words.number(row.rate),
            *([f"{row.decay:.4g}"] if decayed else []),
            row.role or "–",
            "×".join(map(str, row.shape)) or "scalar",
        ),
        Tone.SOFT if frozen else Tone.PLAIN,
        bar=None if frozen or reach is None else math.log10(row.multiplier) / reach,
    )


def span(rows: Sequence[ParameterRate]) -> float:
    """Return the number of decades in half of the bars' scale, at least log10(2)."""
    decades = [abs(math.log10(row.multiplier)) for row in rows if row.multiplier > 0]
    return max([math.log10(2), *decades])
