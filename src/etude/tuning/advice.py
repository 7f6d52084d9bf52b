"""What the outcome of a tuning means for the reader, no stronger than what was seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etude.record import Evaluation, Record, Status
from etude.tuning.search.allowed_rates import AllowedRates
from etude.tuning.trial_summary import TrialSummary

FALLEN = 0.01
"""Share of the training loss at the start that a fall counts from."""

PART = 8
"""The first and the last of so many parts of a run are compared."""


def fell(record: Record) -> bool:
    """Return whether a run's training loss fell: the mean of its last eighth below its first's."""
    losses = [x for x in record.series.get("loss", ()) if math.isfinite(x)]
    count = len(losses) // PART
    if not count:
        return False
    first, last = (math.fsum(part) / count for part in (losses[:count], losses[-count:]))
    return last < first - FALLEN * abs(first)


def nothing_trains(
    trials: Sequence[TrialSummary], loss: float, untrained: float, cause: str = ""
) -> str:
    """Say that no rate trains, and where to look.

    Args:
        trials: Every rate tried, ascending.
        loss: The best validation loss at the end of a run.
        untrained: The one before training.
        cause: Why no rate can train, where that is known.
    """
    low, high = trials[0].lr, trials[-1].lr
    said = [
        f"No rate from {low:g} to {high:g} came to the end of its run better than untrained: the "
        f"best validation loss is {loss:.4g}, untrained it is {untrained:.4g}."
        if math.isfinite(loss)
        else f"No rate from {low:g} to {high:g} came to the end of its run."
    ]
    if cause:
        return " ".join([*said, cause])
    broke = [t for t in trials if t.record.status == Status.DIVERGED]
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


def like_a_constant(
    own: Evaluation, constant: Evaluation, objective: str, folds: int, *, explained: bool = False
) -> str:
    """Say that the best rate cannot be shown to beat an output that is always the same.

    Args:
        own: The last evaluation at the best rate.
        constant: What the best constant output scores.
        objective: What was compared: 'loss', or the metric's name.
        folds: Into how many parts the training data was cut; 1 for none.
        explained: Whether the cause is told beside it: then not where else to look.
    """
    mine, floor = (e.loss if objective == "loss" else e.metric for e in (own, constant))
    over = f", the mean over {folds} folds," if folds > 1 else ""
    return (
        "The best rate cannot be shown to be better than a constant: its validation "
        f"{objective}{over} is {_number(mine)}, an output that is the same for every input "
        f"gives {_number(floor)}, and the difference is within two standard errors or 0.5%, or "
        "the other way. "
        "Which rate is best cannot be told from that." + ("" if explained else LOOK)
    )


LOOK = (
    " Look at whether inputs and targets belong together, and at their scale; a task that learns "
    "late needs a longer run or a larger budget."
)
"""Where to look for the cause."""


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def unfinished(lr: float, record: Record, budget: float) -> str:
    """Say that a rate was chosen whose run the budget could not finish."""
    return (
        f"Better rates diverged on the way, and the budget of {budget:g} runs held no "
        f"second finish: {lr:g} is the best that was sound, after "
        f"{record.cost.steps} of {record.length} updates, and its model is not kept."
    )


def too_small_to_tell(trials: Sequence[TrialSummary], lr: float, budget: float) -> str:
    """Say that rates far from each other tie; empty where that is not what cannot be told.

    Args:
        trials: Every rate tried, ascending.
        lr: The chosen rate.
        budget: What was allowed, in full runs.
    """
    sound = [t for t in trials if not t.unstable]
    if len(sound) == 1 or not all(t.tied for t in sound):
        return ""
    return (
        f"None of the rates from {sound[0].lr:g} to {sound[-1].lr:g} can be ruled out: as far as "
        f"the budget of {budget:g} runs followed them, each may end as well as {lr:g}."
    )


def at_an_edge(lr: float, trials: Sequence[TrialSummary], budget: float) -> str:
    """Say that the best rate is the first or the last one tried."""
    side = "lowest" if lr == trials[0].lr else "highest"
    return (
        f"The best rate is the {side} one tried, and the budget of {budget:g} runs "
        "held no further one: the optimum may lie beyond."
    )


def at_a_bound(lr: float, bound: float, allowed: AllowedRates) -> str:
    """Say that the best rate lies at a bound of the rates that could be tried.

    Args:
        lr: The best rate.
        bound: The bound.
        allowed: The rates that could be tried.
    """
    side, beyond = ("lowest", "below") if bound == allowed.low else ("highest", "above")
    argument, wider = ("lrs", "further rates") if allowed.listed else ("lr_range", "a wider range")
    at = f"{bound:g}" if lr == bound else f"{lr:g}, next to {bound:g}"
    return (
        f"The best rate lies at {at}, the {side} that {argument} allows: whether one {beyond} "
        f"it is better was not looked at. Give {wider} to find out."
    )
