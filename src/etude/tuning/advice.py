"""What the outcome of a tuning means for the reader, no stronger than what was seen."""

# ruff: noqa: D102  (a protocol of plain fields)
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from etude.record import Evaluation, Record
from etude.tuning.trial_summary import TrialSummary

FALLEN = 0.01
"""Share of the training loss at the start that a fall counts from."""

PART = 8
"""The first and the last of so many parts of a run are compared."""


class Answered(Protocol):
    """What is read of a `TuneResult`."""

    @property
    def outcome(self) -> str: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def trials(self) -> Sequence[TrialSummary]: ...
    @property
    def loss(self) -> float: ...
    @property
    def untrained(self) -> Evaluation: ...
    @property
    def cause(self) -> str: ...
    @property
    def constant(self) -> Evaluation | None: ...
    @property
    def objective(self) -> str: ...
    @property
    def lr(self) -> float: ...
    @property
    def folds(self) -> int: ...
    @property
    def record(self) -> Record: ...
    @property
    def budget(self) -> float: ...


def advice(result: Answered) -> str:
    """Return a few sentences; empty where all is well."""
    said = {
        "nothing trains": _nothing,
        "no better than a constant": _constant,
        "unfinished": _unfinished,
        "too small to tell": _small,
        "at an edge": _edge,
    }.get(result.outcome)
    return " ".join(filter(None, ("" if said is None else said(result), *result.notes)))


def fell(record: Record) -> bool:
    """Say whether a run's training loss fell: the mean of its last eighth below its first's."""
    losses = [x for x in record.series.get("loss", ()) if math.isfinite(x)]
    count = len(losses) // PART
    if not count:
        return False
    first, last = (math.fsum(part) / count for part in (losses[:count], losses[-count:]))
    return last < first - FALLEN * abs(first)


def _nothing(result: Answered) -> str:
    trials = result.trials
    low, high = trials[0].lr, trials[-1].lr
    said = [
        f"No rate from {low:g} to {high:g} came to the end of its run better than untrained: the "
        f"best validation loss is {result.loss:.4g}, untrained it is {result.untrained.loss:.4g}."
        if math.isfinite(result.loss)
        else f"No rate from {low:g} to {high:g} came to the end of its run."
    ]
    if result.cause:
        return " ".join([*said, result.cause])
    broke = [t for t in trials if t.record.status == "diverged"]
    learned = [t for t in trials if t not in broke and fell(t.record)]
    if len(broke) == len(trials):
        steps = sorted({t.record.cost.steps for t in broke})
        when = f"update {steps[0]}" if len(steps) == 1 else f"updates {steps[0]} to {steps[-1]}"
        said.append(
            f"All {len(trials)} ended in NaN or infinity, at {when}. Rates below {low:g} were not "
            f"tried: train once at {low / 1000:.0e}, and if that breaks as well, look for the "
            "fault in the model, the data or the loss."
        )
    elif learned:
        said.append(
            f"The training loss fell, at {len(learned)} of {len(trials)} rates, and the validation "
            "loss did not: look at whether training and validation data are of one kind, and at "
            "what the loss does in evaluation mode."
        )
    else:
        said.append(
            f"The training loss fell at none of them{_some(len(broke), len(trials))}. Rates below "
            f"{low:g} and above {high:g} were not tried. Train once at {low / 1000:.0e} and once "
            f"at {high * 1000:.0e}; if neither lowers the training loss, look for the fault in "
            "the model, the data or the loss."
        )
    return " ".join(said)


def _some(broke: int, count: int) -> str:
    return f", and {broke} of {count} ended in NaN or infinity" if broke else ""


def _constant(result: Answered) -> str:
    constant = result.constant
    assert constant is not None
    judged = next(t for t in result.trials if t.lr == result.lr).record.evaluations[-1]
    of_loss = result.objective == "loss"
    own, value = ((e.loss if of_loss else e.metric) for e in (judged, constant))
    over = f", the mean over {result.folds} folds," if result.folds > 1 else ""
    return (
        "The best rate cannot be shown to be better than a constant: its validation "
        f"{result.objective}{over} is {_number(own)}, an output that is the same for every input "
        f"gives {_number(value)}, and the difference is within two standard errors or 0.5%, or "
        "the other way. "
        "Which rate is best cannot be told from that. Look at whether inputs and targets belong "
        "together, and at their scale; a task that learns late needs a longer run or a larger "
        "budget."
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def _unfinished(result: Answered) -> str:
    return (
        f"Better rates diverged on the way, and the budget of {result.budget:g} runs held no "
        f"second finish: {result.lr:g} is the best that was sound, after "
        f"{result.record.cost.steps} of {result.record.length} updates, and its model is not "
        "kept. Give a larger budget."
    )


def _small(result: Answered) -> str:
    low, high = result.trials[0].lr, result.trials[-1].lr
    return (
        f"All rates from {low:g} to {high:g} tie as far as they were followed: the budget of "
        f"{result.budget:g} runs shows no difference between them. Give a larger budget to tell "
        "them apart."
    )


def _edge(result: Answered) -> str:
    side = "lowest" if result.lr == result.trials[0].lr else "highest"
    return (
        f"The best rate is the {side} one tried, and the budget of {result.budget:g} runs "
        "held no further one: the optimum may lie beyond. Give a larger budget."
    )
