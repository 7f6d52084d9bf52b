"""Optuna on the oracle's table: what so many trials of a full run choose, without training.

The sampler draws the rate log-uniformly from the grid's range; a trial's loss is read off straight
lines between the grid's neighbours in log rate, with the same seed, and so are the losses on the
way that the pruner is told. A trial that diverges costs what it trained and counts as infinite.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import optuna

from benchmarks.table import LOOKS, Table

TRIALS = (3, 10, 30)
"""After how many trials the best is taken."""

SEEDS = 5
"""Seeds of the sampler for each task and seed."""


@dataclass(frozen=True)
class Chosen:
    """What a sampler had chosen after some trials.

    Attributes:
        way: Its name, with the trials.
        lr: The best finished rate; None where all had diverged.
        loss: Its final validation loss.
        cost: Of all trials, in full runs.
    """

    way: str
    lr: float | None
    loss: float
    cost: float


def tpe(table: Table, seed: int, sampler: int, *, prune: bool = False) -> Iterator[Chosen]:
    """Yield what Optuna's TPE had chosen after 3, 10 and 30 trials; pruned, after 30 alone.

    Args:
        table: Of the task.
        seed: The recipe's.
        sampler: The sampler's seed.
        prune: Whether the Hyperband pruner ends trials early.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.HyperbandPruner(1, len(LOOKS)) if prune else optuna.pruners.NopPruner()
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=sampler), pruner=pruner, study_name="rates"
    )
    best, rate, cost = math.inf, None, 0.0
    for number in range(1, max(TRIALS) + 1):
        trial = study.ask()
        lr = trial.suggest_float("lr", table.rates[0], table.rates[-1], log=True)
        loss, spent = _run(table, seed, lr, trial, prune)
        cost += spent
        if loss is None:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, loss)
            if loss < best:
                best, rate = loss, lr
        if number in TRIALS and (not prune or number == max(TRIALS)):
            name = f"Optuna TPE{' + Hyperband' if prune else ''}, {number} trials"
            yield Chosen(name, rate, best, cost)


def _run(
    table: Table, seed: int, lr: float, trial: optuna.Trial, prune: bool
) -> tuple[float | None, float]:
    """Return the loss of a trial, None if it was pruned, and what it cost."""
    end = table.end(seed, lr)
    for step, share in enumerate(LOOKS[:-1] if prune else (), 1):
        if share > end:
            break
        trial.report(table.between(seed, lr, share), step)
        if trial.should_prune():
            return None, share
    return table.between(seed, lr), end
