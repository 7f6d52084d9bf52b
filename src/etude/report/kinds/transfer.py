"""The report on the transfer of a tuned rate to another size."""

from __future__ import annotations

import math

from etude.report import words
from etude.report.document import DataTable, Fact, Report, Section, TableColumn, TableRow, Tone
from etude.report.registry import presents
from etude.tasks.task import Task
from etude.tuning.transfer.transfer import Transfer


@presents(Transfer)
def of_transfer(found: Transfer, task: Task | None = None) -> Report:
    """Return the report on the rate to use at the new size."""
    sure = found.trained and found.confirmed
    facts = [Fact("The rule's rate", words.number(found.recipe.lr))]
    title = f"{found.task}: no rate tried trains it at its new size"
    if found.trained:
        tone = Tone.GOOD if found.confirmed else Tone.PLAIN
        by = "from the rule, confirmed" if found.confirmed else "the best tried; not from the rule"
        facts.append(Fact("Learning rate", words.number(found.lr), by, tone))
        title = f"{found.task}: train at a learning rate of {words.number(found.lr)}"
    facts.append(Fact("Untrained loss", words.number(found.untrained)))
    tried = (
        f"{words.plural(len(found.rates), 'rate')}, {found.updates} of {found.length} updates "
        f"each, {words.runs(found.cost)}."
    )
    return Report(
        kind="Transfer of a tuned rate",
        subject=found.task,
        title=title,
        lede=f"{tried} {found.advice()}" if sure else tried,
        notice="" if sure else found.advice(),
        facts=tuple(facts),
        sections=(
            Section("The rule", tuple(rule.text() for rule in found.rules)),
            Section("The rates tried", (_rates(found),)),
        ),
    )


def _rates(found: Transfer) -> DataTable:
    return DataTable(
        (
            TableColumn("rate", number=True),
            TableColumn("validation loss", number=True),
            TableColumn("verdict"),
        ),
        tuple(
            _row(found, rate, loss) for rate, loss in zip(found.rates, found.losses, strict=True)
        ),
    )


def _row(found: Transfer, rate: float, loss: float) -> TableRow:
    verdicts = ["from the rule"] if rate == found.recipe.lr else []
    tone = Tone.PLAIN
    if rate == found.lr and found.trained:
        verdicts.append("to use")
        tone = Tone.GOOD
    if loss == math.inf:
        verdicts.append("diverged")
        tone = Tone.WARN
    return TableRow((words.number(rate), words.number(loss), ", ".join(verdicts)), tone)
