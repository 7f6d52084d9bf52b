"""Rates that are guessed where workers would be idle: no answer changes, and the way is shorter."""

from __future__ import annotations

import math
from typing import Any

import pytest

from etude import TuneResult
from etude.engines import LoopEngine
from etude.trials.guess import Guess
from etude.trials.phase import Phase
from etude.trials.pool import TrialContext, TrialPool
from etude.trials.score import Goal
from tests.tuning.common import BASE, noisy, quick, task, weights

LONGER = BASE.replace(steps=96)


class ManyWorkers(LoopEngine):
    """A loop that says that it trains so many runs at the same time.

    Attributes:
        calls: How many updates each run did in each call.
        way: The longest of each call, added up.
    """

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.workers, self.way = workers, 0
        self.calls: list[list[int]] = []

    def parallel(self, runs: Any) -> int:
        return min(self.workers, len(runs))

    def advance(self, runs: Any, request: Any = None) -> None:
        before = [run.step for run in runs]
        super().advance(runs, request)
        self.calls.append([run.step - was for run, was in zip(runs, before, strict=True)])
        self.way += max(self.calls[-1], default=0)


def told(best: TuneResult) -> list[Any]:
    """What a tuning says of every trial, and what it cost."""
    curves = [
        (t.lr, t.record.series["loss"].tolist(), [(e.step, e.loss) for e in t.record.evaluations])
        for t in best.trials
    ]
    return [best.lr, best.tied, best.cost, best.costs, best.outcome, best.notes, curves]


@pytest.mark.parametrize(
    ("optimum", "budget"), [(3e-5, 1.3), (30.0, 1.3), (0.01, 1.75), (3e-5, 3.0), (30.0, 3.0)]
)
def test_whatever_was_guessed_shows_nowhere_and_the_way_is_no_longer(
    optimum, budget, monkeypatch, tmp_path
):
    """Where the search begins at the optimum, below it and above it."""
    monkeypatch.setattr("etude.trials.pool.cores", lambda: 99)
    monkeypatch.setattr("etude.tuning.beginning.centre_of", lambda *args: math.log10(optimum))
    few, many = ManyWorkers(1), ManyWorkers(16)
    plainly = quick(task(noisy), LONGER, budget, engine=few)
    guessed = quick(task(noisy), LONGER, budget, engine=many, folder=tmp_path / "run")
    assert told(guessed) == told(plainly)
    assert weights(guessed.model) == weights(plainly.model)
    assert many.way <= few.way
    folders = {path.name for path in (tmp_path / "run" / "trials").iterdir()}
    assert len(folders) == len(plainly.trials)


def test_a_guess_that_is_asked_to_go_elsewhere_begins_anew(monkeypatch):
    monkeypatch.setattr("etude.trials.pool.cores", lambda: 99)
    engine = ManyWorkers(8)
    pools = []
    for guesses in (True, False):
        setting = TrialContext(engine)
        pool = TrialPool([task(noisy)], LONGER, 9.0, Goal(), setting)
        new = (LONGER.replace(lr=0.5), "lr-0.5")
        guess = Guess(new=(new,)) if guesses else None
        pool.go([pool.add(LONGER, "first")], 1 / 4, Phase.RUNG, guess=guess)
        assert [trial.name for trial in pool.trials] == ["first"]
        second = pool.add(*new)
        pool.go([second], 1 / 2, Phase.RUNG)
        pools.append(pool)
    one, two = (pool.trials[1] for pool in pools)
    assert [e.step for e in one.evaluated()] == [e.step for e in two.evaluated()]
    assert one.record().evaluations == two.record().evaluations
    assert pools[0].spent == pools[1].spent


def test_few_workers_guess_nothing(monkeypatch):
    monkeypatch.setattr("etude.trials.pool.cores", lambda: 99)
    engine = ManyWorkers(3)
    pool = TrialPool([task(noisy)], LONGER, 9.0, Goal(), TrialContext(engine))
    guess = Guess(new=((LONGER.replace(lr=0.5), "lr-0.5"),))
    pool.go([pool.add(LONGER, "first")], 1 / 4, Phase.RUNG, guess=guess)
    assert engine.calls == [[24]]
