"""The answer in words and numbers: what stands at the head of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from etude.record import Evaluation, Record
from etude.report import words
from etude.tuning.result import TuneResult
from etude.tuning.trial_summary import TrialSummary


@dataclass(frozen=True)
class Fact:
    """One number of the head: what it is, the number, and what it is measured against."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Answer:
    """The head of a page, as plain text.

    Attributes:
        kind: What was done.
        title: The answer in a line.
        lede: The answer in a few sentences.
        notice: What the reader must know before using it; empty where all is well.
        facts: The numbers.
    """

    kind: str
    title: str
    lede: str
    notice: str
    facts: tuple[Fact, ...]


def of_tuning(result: TuneResult) -> Answer:
    """Say what a tuning found."""
    task, rate = result.record.task, words.rate(result.lr)
    title = f"{task}: of the rates tried, {rate} trains best"
    if result.outcome == "no better than a constant":
        title = f"{task}: no learning rate that was tried made it better than a constant"
    if result.outcome == "nothing trains":
        title = f"{task}: no learning rate that was tried trains it"
    return Answer(
        kind="Tuning of the learning rate",
        title=title,
        lede=" ".join(_tuning_lede(result)),
        notice=result.advice(),
        facts=(
            _rate_fact(result),
            *([] if result.outcome == "nothing trains" else [_tied_fact(result)]),
            _stable_fact(result),
            *_sensitivity_fact(result),
            *_scores(result.record, result.untrained),
            Fact(
                "Cost",
                words.runs(result.cost),
                f"of {result.budget:g} allowed; {words.duration(result.seconds)}",
            ),
        ),
    )


def _tuning_lede(result: TuneResult) -> list[str]:
    low, high = result.trials[0].lr, result.trials[-1].lr
    tried = words.plural(len(result.trials), "rate")
    between = f"from {words.rate(low)} to {words.rate(high)}" if low < high else "alone"
    cost = f"That cost {words.runs(result.cost)} of the recipe"
    if result.outcome == "nothing trains":
        return [
            f"{tried} {'were' if len(result.trials) > 1 else 'was'} tried, {between}, and none "
            f"came to the end of its run better than untrained. {cost}."
        ]
    parts = [f"{tried} were tried {between}.", tie_said(result)] if low < high else []
    parts = [*parts, broken_said(result)] if low < high else ["No other rate was tried."]
    if result.selection is not None:
        given = ", ".join(f"{k} {words.told(v)}" for k, v in result.selection.values.items())
        tried_recipes = words.plural(len(result.selection.tried), "recipe")
        parts.insert(0, f"Of {tried_recipes} tried, the best has {given}.")
    final = ", the finished model included" if result.record.status == "finished" else ""
    parts.append(f"{cost}{final}.")
    return parts


def _rates(trials: Sequence[TrialSummary]) -> str:
    """Return the rates of some trials in a row."""
    return ", ".join(words.rate(trial.lr) for trial in trials)


def tie_said(result: TuneResult) -> str:
    """Say which rates cannot be told apart from the best, and of which that is not known."""
    others = [t for t in result.trials if t.lr != result.lr]
    tied = [t for t in others if t.tied]
    followed = [t for t in others if t.followed and not t.tied]
    left = [t for t in others if not t.followed and t.record.status != "diverged" and not t.tied]
    parts = []
    if tied:
        parts.append(
            f"{_rates(tied)} cannot be told apart from it on this validation data with this seed"
        )
    if followed:
        parts.append(f"{_rates(followed)} ended or stood behind it")
    if left:
        parts.append(
            f"{_rates(left)} {'was' if len(left) == 1 else 'were'} not followed to the end: "
            "whether they tie is not known"
        )
    said = "; ".join(parts)
    return f"{said}." if said else "No other rate was followed to three quarters of its run."


def broken_said(result: TuneResult) -> str:
    """Say at which rate above the best training broke, with the update; or that none was seen."""
    rate = result.stable_below
    if rate is None and result.common_break is not None:
        update = words.count(result.common_break)
        return f"The higher rates that diverged did so at update {update}: no edge is known."
    if rate is None:
        return "No higher rate diverged, as far as they were followed."
    trial = next(t for t in result.trials if t.lr == rate)
    if trial.record.status == "diverged":
        step = words.count(trial.record.cost.steps)
        return f"At {words.rate(rate)} training diverged, at update {step}."
    return f"At {words.rate(rate)} the run ended with what it had learned lost."


_WORTH = {
    "found": "the peak",
    "too small to tell": "not told apart from the others",
    "at an edge": "best, at an edge",
    "unfinished": "best that was sound, not finished",
    "no better than a constant": "no better than a constant",
}


def _rate_fact(result: TuneResult) -> Fact:
    rate = words.rate(result.lr)
    if result.outcome == "nothing trains":
        return Fact("Learning rate", "none", f"the least bad is {rate}")
    return Fact("Learning rate", rate, _WORTH[result.outcome])


def _tied_fact(result: TuneResult) -> Fact:
    low, high = result.tied
    if low == high:
        return Fact("Ties with it", "none", "of the rates followed to three quarters of the run")
    count = sum(trial.tied for trial in result.trials) - 1
    return Fact(
        "Tied range",
        f"{words.rate(low)} – {words.rate(high)}",
        f"{words.plural(count, 'rate')} not told apart, with this seed",
    )


def _sensitivity_fact(result: TuneResult) -> list[Fact]:
    if result.sensitivity is None:
        return []
    lost = words.share(result.sensitivity, 1)
    return [
        Fact(
            "At twice or half the rate",
            lost,
            "of the drop is lost at most, read between the rates followed",
        )
    ]


def _stable_fact(result: TuneResult) -> Fact:
    if result.stable_below is None and result.common_break is not None:
        update = words.count(result.common_break)
        return Fact(
            "Broke training", f"update {update}", "where higher rates diverged; no edge known"
        )
    if result.stable_below is None:
        return Fact("Broke training", "none", "of the higher rates, as far as followed")
    times = result.stable_below / result.lr
    return Fact("Broke training", words.rate(result.stable_below), f"{times:.3g} times the chosen")


def of_record(record: Record) -> Answer:
    """Say how a run went."""
    rate, task = words.rate(record.recipe.lr), record.task
    done = f"{words.count(record.cost.steps)} of {words.plural(record.length, 'update')}"
    title = {
        "finished": f"{task} trained at a learning rate of {rate}",
        "diverged": f"{task} diverged at a learning rate of {rate}",
        "stopped": f"{task} was stopped after {done}",
    }[record.status]
    reason = record.reason[:1].upper() + record.reason[1:]
    notice = {
        "finished": "",
        "diverged": f"{reason or 'A NaN or infinity ended the run'}. Nothing after that can be "
        "used: train at a lower rate, or with a longer warmup or clipped gradients.",
        "stopped": reason and f"{reason}.",
    }[record.status]
    first = record.evaluations[0] if record.evaluations else None
    untrained = first if first is not None and first.step == 0 else None
    return Answer(
        kind="Training run",
        title=title,
        lede=f"{done[:1].upper()}{done[1:]} with {record.recipe.optimizer.name}, in "
        f"{words.duration(record.cost.seconds)}.",
        notice=notice,
        facts=(
            Fact("Learning rate", rate, "the peak"),
            *_scores(record, untrained),
            Fact("Updates", words.count(record.cost.steps), f"of {words.count(record.length)}"),
            Fact("Gradients", words.count(record.cost.gradients), "of single samples"),
            Fact("Time", words.duration(record.cost.seconds), f"status: {record.status}"),
        ),
    )


def _scores(record: Record, untrained: Evaluation | None) -> list[Fact]:
    """Return metric and loss on the validation data, against the untrained model."""
    facts = []
    if record.metric is not None:
        before = untrained.metric if untrained is not None else None
        facts.append(
            Fact(f"Validation {record.metric}", words.number(record.valid_metric), _was(before))
        )
    before = untrained.loss if untrained is not None else None
    finite = [e.loss for e in record.evaluations if math.isfinite(e.loss)]
    if record.status == "diverged":
        last = f"last finite: {words.number(finite[-1])}" if finite else ""
        facts.append(Fact("Validation loss", "diverged", last))
    else:
        loss = record.evaluations[-1].loss if record.evaluations else None
        facts.append(Fact("Validation loss", words.number(loss), _was(before)))
    return facts


def _was(value: float | None) -> str:
    return "" if value is None else f"untrained {words.number(value)}"
