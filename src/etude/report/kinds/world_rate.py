"""The report on the rate for another number of processes."""

from __future__ import annotations

import math

from etude.distributed.world_rate import MISS, SOURCES, WorldRate
from etude.report import words
from etude.report.document import DataTable, Fact, Report, Section, TableColumn, TableRow, Tone
from etude.report.registry import presents
from etude.tasks.task import Task


@presents(WorldRate)
def of_world_rate(found: WorldRate, task: Task | None = None) -> Report:
    """Return the report on the rate to use with the new number of processes."""
    title = f"{found.task}: no rate tried trains it with {found.after} processes"
    facts = [
        Fact(f"The {found.rule} rule's rate", words.number(found.recipe.lr), SOURCES[found.rule])
    ]
    if found.trained:
        title = (
            f"{found.task}: train in {found.after} process{'' if found.after == 1 else 'es'} at a "
            f"learning rate of {words.number(found.lr)}"
        )
        by = "the rule's" if found.confirmed else "the best tried; not the rule's"
        tone = Tone.GOOD if found.miss <= MISS else Tone.PLAIN
        facts.append(Fact("Learning rate", words.number(found.lr), by, tone))
        if math.isfinite(found.miss):
            facts.append(Fact("The rule misses", f"{found.miss:.1%}", "of the drop in loss"))
    facts.append(Fact("Batch of all processes", str(found.recipe.batch_size)))
    if found.noise is not None and math.isfinite(found.noise.samples):
        error = found.noise.error
        spread = f"± {error:,.0f} samples" if math.isfinite(error) else "samples"
        facts.append(Fact("Gradient noise scale", f"{found.noise.samples:,.0f}", spread))
    tried = (
        f"{words.plural(len(found.rates), 'rate')}, {found.updates} of {found.length} updates "
        f"each, {words.runs(found.cost)}."
    )
    sure = found.trained and found.miss <= MISS
    return Report(
        kind="Rate for another number of processes",
        subject=found.task,
        title=title,
        lede=f"{tried} {found.advice()}" if sure else tried,
        notice="" if sure else found.advice(),
        facts=tuple(facts),
        sections=(Section("The rates tried", (_rates(found),)),),
    )


def _rates(found: WorldRate) -> DataTable:
    columns = (
        TableColumn("rate", number=True),
        TableColumn("validation loss", number=True),
        TableColumn("verdict"),
    )
    rows = []
    for rate, loss in zip(found.rates, found.losses, strict=True):
        verdicts = [f"from the {found.rule} rule"] if rate == found.recipe.lr else []
        verdicts += ["to use"] if rate == found.lr and found.trained else []
        verdicts += ["diverged"] if math.isinf(loss) else []
        tone = Tone.WARN if math.isinf(loss) else Tone.PLAIN
        tone = Tone.GOOD if "to use" in verdicts else tone
        rows.append(TableRow((words.number(rate), words.number(loss), ", ".join(verdicts)), tone))
    return DataTable(columns, tuple(rows))
