"""Parts that the reports of a run and of a tuning share: scores, figures, the recipe."""

from __future__ import annotations

import math

from etude.export import pytorch_code
from etude.record import Evaluation, Record, Status
from etude.report import words
from etude.report.document import (
    DataTable,
    Drawing,
    Fact,
    Listing,
    Section,
    TableColumn,
    TableRow,
    Tone,
)
from etude.report.figures import final_run, schedule_curve
from etude.tasks.task import Task


def scores(record: Record, untrained: Evaluation | None) -> list[Fact]:
    """Return metric and loss on the validation data, with those of the untrained model."""
    facts = []
    if record.metric is not None:
        before = untrained.metric if untrained is not None else None
        was = "" if before is None else f"untrained {words.metric(record.metric, before)}"
        value = words.metric(record.metric, record.valid_metric)
        facts.append(Fact(f"Validation {record.metric}", value, was))
    finite = [e.loss for e in record.evaluations if math.isfinite(e.loss)]
    if record.status == Status.DIVERGED:
        last = f"last finite: {words.number(finite[-1])}" if finite else ""
        return [*facts, Fact("Validation loss", "diverged", last, Tone.WARN)]
    loss = record.evaluations[-1].loss if record.evaluations else None
    was = "" if untrained is None else f"untrained {words.number(untrained.loss)}"
    return [*facts, Fact("Validation loss", words.number(loss), was)]


def drawings(record: Record) -> tuple[Drawing, Drawing]:
    """Return the figures of one run: its losses, and its learning rate."""
    losses, rates = final_run.info(record), schedule_curve.info(record)
    return (
        Drawing(final_run.caption(losses), lambda theme: final_run.draw(losses, theme)),
        Drawing(schedule_curve.caption(rates), lambda theme: schedule_curve.draw(rates, theme)),
    )


def recipe(record: Record, task: Task | None, *, use: bool) -> tuple[Section, ...]:
    """Return the recipe to copy, and the environment of the run.

    Args:
        record: The record of the run.
        task: The task; if it has a `step`, the printed PyTorch loop calls that step.
        use: Whether the recipe is worth using, so that a terminal shows the loop too.
    """
    code = Listing(
        "recipe-torch",
        "For your own PyTorch loop",
        pytorch_code(record.recipe, record.length, task=task),
        "python",
    )
    toml = Listing("recipe-toml", "As TOML", record.recipe.to_toml(), "toml")
    place = Section("Where it was run", (environment(record),), detail=True)
    if not use:
        return Section("The recipe", (toml, code), detail=True), place
    return Section("The recipe", (code,)), Section("", (toml,), detail=True), place


def environment(record: Record) -> DataTable:
    """Return versions, device, seed and the digest of the recipe."""
    rows = {
        **record.environment,
        "seed": record.recipe.seed,
        "recipe": record.recipe.digest,
    }
    return DataTable(
        (TableColumn(""), TableColumn("")),
        tuple(TableRow((str(name), str(value))) for name, value in rows.items()),
    )
