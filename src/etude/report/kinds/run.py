"""The report on one training run."""

from __future__ import annotations

from etude.record import Record, Status
from etude.report import health, pieces, words
from etude.report.document import Fact, Report, Section, Tone
from etude.report.registry import presents
from etude.tasks.task import Task


@presents(Record)
def of_run(record: Record, task: Task | None = None) -> Report:
    """Return the report on a run."""
    rate = words.rate(record.recipe.lr)
    done = f"{words.count(record.cost.steps)} of {words.plural(record.length, 'update')}"
    first = record.evaluations[0] if record.evaluations else None
    untrained = first if first is not None and first.step == 0 else None
    return Report(
        kind="Training run",
        subject=record.task,
        title=_title(record, rate, done),
        lede=f"{done[:1].upper()}{done[1:]} with {record.recipe.optimizer.name}, in "
        f"{words.duration(record.cost.seconds)}.",
        notice=_notice(record),
        facts=(
            Fact("Status", str(record.status), tone=_tone(record.status)),
            Fact("Learning rate", rate, f"the peak; {record.recipe.schedule!r}"),
            *pieces.scores(record, untrained),
            *health.fact(record),
            Fact("Updates", words.count(record.cost.steps), f"of {words.count(record.length)}"),
            *_further(record),
            Fact("Gradients", words.count(record.cost.gradients), "of single samples"),
            Fact("Time", words.duration(record.cost.seconds), _evaluating(record)),
        ),
        sections=(
            *health.sections(record),
            Section("The run", pieces.drawings(record), detail=True),
            *pieces.recipe(record, task, use=False),
        ),
    )


def _title(record: Record, rate: str, done: str) -> str:
    match record.status:
        case Status.FINISHED:
            return f"{record.task} trained at a learning rate of {rate}"
        case Status.DIVERGED:
            return f"{record.task} diverged at a learning rate of {rate}"
        case Status.STOPPED:
            return f"{record.task} was stopped after {done}"


def _notice(record: Record) -> str:
    reason = record.reason[:1].upper() + record.reason[1:]
    match record.status:
        case Status.FINISHED:
            return ""
        case Status.DIVERGED:
            return (
                f"{reason or 'A NaN or infinity ended the run'}. Nothing after that can be used: "
                "train at a lower rate, or with a longer warmup or clipped gradients."
            )
        case Status.STOPPED:
            return reason and f"{reason}."


def _tone(status: Status) -> Tone:
    return Tone.WARN if status == Status.DIVERGED else Tone.PLAIN


def _evaluating(record: Record) -> str:
    """Say how much of the time went into evaluations; empty where it is not known."""
    share = record.cost.evaluation_share
    return "" if share is None else f"{words.percent(share)} of it evaluations"


def _further(record: Record) -> list[Fact]:
    """Return the updates at which the length of the run was changed, as a fact.

    It says if the run is not the one that was planned at its length, and why.
    """
    steps = ", ".join(words.count(step) for step in record.extended)
    note = record.not_as_planned
    return [Fact("Trained further", f"from update {steps}", note)] if steps else []
