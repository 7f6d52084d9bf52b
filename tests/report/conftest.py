import numpy as np
import pytest

from etude.recipe import Recipe
from etude.record import Cost, Evaluation, Record
from etude.tuning.result import RungCost, TuneResult
from etude.tuning.trial_summary import TrialSummary


def make_record(
    losses=(2.0, 1.0, 0.5, 0.4),
    *,
    lr=0.1,
    length=None,
    status="finished",
    reason="",
    evaluations=((0, 2.3, 0.1), (4, 0.5, 0.9)),
    metric="accuracy",
    task="line",
    **series,
):
    count = len(losses)
    given = {"loss": losses, "lr": np.linspace(lr, 0, count) if count else [], **series}
    return Record(
        task=task,
        recipe=Recipe(lr=lr, steps=length or max(1, count), batch_size=8),
        status=status,
        reason=reason,
        length=length or max(1, count),
        metric=metric,
        series={name: np.array(values, dtype=np.float64) for name, values in given.items()},
        evaluations=tuple(
            Evaluation(step, loss, None if metric is None else value)
            for step, loss, value in evaluations
        ),
        cost=Cost(count, 8 * count, 1.5),
        environment={"torch": "2.13.0", "cores": 2},
    )


def make_result(
    trials=None, *, lr=0.1, outcome="found", stable_below=1.0, tied=(0.03, 0.1), **more
):
    """Three rates of a run of 16 updates: 0.03 dropped at 8, 0.1 finished, 1.0 diverged at 3."""
    if trials is None:
        trials = (
            TrialSummary(
                0.03, _partial(0.03, 8, ((0, 2.3, 0.1), (4, 1.2, 0.5), (8, 0.8, 0.7))), False, True
            ),
            TrialSummary(
                0.1,
                make_record(
                    np.linspace(2, 0.2, 16),
                    lr=0.1,
                    evaluations=((0, 2.3, 0.1), (4, 1.0, 0.6), (8, 0.7, 0.8), (16, 0.3, 0.95)),
                ),
                False,
                True,
            ),
            TrialSummary(
                1.0,
                _partial(
                    1.0,
                    3,
                    ((0, 2.3, 0.1),),
                    status="diverged",
                    reason="the training loss became inf at update 3 (lr 1)",
                ),
                True,
                False,
            ),
        )
    chosen = next(t.record for t in trials if t.lr == lr)
    fields = {
        "recipe": chosen.recipe,
        "lr": lr,
        "tied": tied,
        "stable_below": stable_below,
        "cost": 1.6875,
        "costs": (RungCost("to 25%", 0.9375), RungCost("to 50%", 0.25), RungCost("finish", 0.5)),
        "outcome": outcome,
        "untrained": Evaluation(0, 2.3, 0.1),
        "record": chosen,
        "trials": tuple(trials),
        "budget": 2.0,
        "seconds": 75.0,
    }
    return TuneResult(**{**fields, **more})


def _partial(lr, count, evaluations, status="stopped", **more):
    losses = np.linspace(2, 1, count)
    return make_record(losses, lr=lr, length=16, status=status, evaluations=evaluations, **more)


@pytest.fixture
def record():
    return make_record


@pytest.fixture
def result():
    return make_result
