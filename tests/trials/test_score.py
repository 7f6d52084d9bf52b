"""What rates are compared by: the loss, a metric, folds."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from etude import Recipe, Task, train, tune
from etude.errors import BadTypeError, BadValueError
from etude.record import Evaluation
from etude.tasks.metrics import Metric, mean_metric
from etude.training.loop import TrainingLoop
from etude.trials.folds import folds_of
from etude.trials.score import Goal, mean
from etude.tuning.result import tie
from tests.tuning.common import (
    BASE,
    data,
    mlp,
    noisy,
    quick,
    same,
    task,
    weights,
)

# ---- the metric --------------------------------------------------------------------------


def reached(best: Any, share: float = 1.0) -> list[Any]:
    """The trials' evaluations at a share of the run, of those that got there."""
    step = int(best.record.length * share)
    found = [[e for e in t.record.evaluations if e.step == step] for t in best.trials]
    return [e[-1] for e in found if e]


@pytest.mark.parametrize("objective", ["metric", "accuracy"])
def test_by_a_metric_the_best_of_the_finished_has_the_best_metric(objective):
    best = quick(task(noisy), BASE, 6.0, objective=objective)
    finished = reached(best)
    assert len(finished) > 1
    assert best.metric == max(e.metric for e in finished)
    assert best.objective == "accuracy"
    by_loss = quick(task(noisy), BASE, 6.0)
    assert by_loss.objective == "loss"
    assert by_loss.loss == min(e.loss for e in reached(by_loss))


def test_the_direction_of_a_metric_decides():
    """The same number of (output, target), once better when larger and once when smaller."""

    def size(output: Tensor, target: Tensor) -> Tensor:
        return output.abs().mean()

    found = []
    for maximize in (True, False):
        of = Task(mlp, data(), loss=cross_entropy, metric=mean_metric("size", size))
        best = quick(of, BASE, 4.0, objective="size", maximize=maximize)
        pick = max if maximize else min
        if best.outcome != "nothing trains":
            assert best.metric == pick(e.metric for e in reached(best))
        found.append(best.metric)
    assert found[0] > found[1]


@pytest.mark.parametrize(
    ("of", "given_", "match"),
    [
        ("with", {"objective": "acuracy"}, r"objective='acuracy': give 'loss' or 'metric' or 'ac"),
        ("without", {"objective": "metric"}, r"give 'loss'; give the task metric= for another"),
        ("with", {"maximize": True}, r"maximize=True: training lowers the loss; give objective="),
    ],
)
def test_an_objective_that_is_none_is_refused_with_the_fix(of, given_, match, tmp_path):
    one = task() if of == "with" else Task(mlp, data(), loss=cross_entropy)
    with pytest.raises(BadValueError, match=match):
        quick(one, BASE, folder=tmp_path / "run", **given_)
    assert not (tmp_path / "run").exists()


scores = st.one_of(st.floats(-10, 10), st.sampled_from([math.inf, -math.inf, math.nan]))


@given(scores, st.one_of(st.none(), scores), st.booleans())
def test_a_score_is_a_number_or_infinite(loss, metric, maximize):
    for goal in (Goal(), Goal("m", maximize=maximize)):
        score = goal.score(Evaluation(3, loss, metric))
        assert score == math.inf or math.isfinite(score)
    assert Goal().score(None) == math.inf


@given(st.floats(-10, 10), st.floats(-10, 10))
def test_better_is_less(one, two):
    high = Goal("m", maximize=True)
    scores = [high.score(Evaluation(3, 0.5, v)) for v in (one, two)]
    assert (scores[0] < scores[1]) == (one > two)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.floats(0.02, 3))
def test_ties_by_a_metric_look_at_its_slices(parts, shift):
    """The same shift in every slice is no tie; the losses, all equal, do not matter."""
    goal = Goal("m", maximize=True)

    def evaluation(values: list[float]) -> Evaluation:
        return Evaluation(9, 1.0, sum(values) / len(values), (1.0, 1.0), tuple(values))

    best, worse = evaluation(parts), evaluation([p - shift for p in parts])
    assert tie(best, best, 1.0, goal)
    assert not tie(worse, best, 1.0, goal)
    assert tie(worse, best, 1.0)


def test_slices_that_ask_for_no_answer_are_left_out_of_a_tie():
    goal, nan = Goal("m", maximize=False), math.nan
    best = Evaluation(9, 1.0, 1.0, (1.0,) * 5, (1.0, nan, 0.5, 1.5, 1.0))
    noisy_ = Evaluation(9, 1.0, 1.1, (1.0,) * 5, (2.0, nan, 0.0, 2.5, 0.0))
    assert tie(noisy_, best, 1.0, goal)


def test_a_metric_that_is_undefined_at_first_is_tuned_by():
    """A correlation of a constant is no number; that of a trained model is."""

    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 1)
            nn.init.zeros_(self.inner.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    def moments(output: Tensor, target: Tensor) -> Tensor:
        o, t = output.double().flatten(), target.double().flatten()
        count = torch.tensor(float(len(o)))
        return torch.stack([o.sum(), t.sum(), (o * o).sum(), (t * t).sum(), (o * t).sum(), count])

    def correlation(sums: list[float]) -> float:
        o, t, oo, tt, ot, n = sums
        spread = (oo - o * o / n) * (tt - t * t / n)
        return (ot - o * t / n) / math.sqrt(spread) if spread > 1e-12 else math.nan

    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    metric = Metric("correlation", moments, correlation, maximize=True)
    of = Task(Zero, (x, x[:, :1] - x[:, 1:2]), loss=mse_loss, metric=metric)
    best = quick(of, BASE, 3.0, objective="metric")
    assert best.untrained.metric is not None
    assert math.isnan(best.untrained.metric)
    assert best.outcome in ("found", "at an edge")
    assert best.metric is not None
    assert best.metric > 0.9
    assert best.tied[0] <= best.lr <= best.tied[1]
    assert best.tied != (best.trials[0].lr, best.trials[-1].lr)


def test_a_loss_below_zero_is_tuned_by():
    """A Gaussian's likelihood: the loss falls below zero and goes on."""

    class Gauss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.log = nn.Linear(1, 1), nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.mean(x), self.log.expand(len(x), 1)], 1)

    def nll(output: Tensor, target: Tensor) -> Tensor:
        mean, log = output[:, :1], output[:, 1:]
        return (log + 0.5 * ((target - mean) / log.exp()).square()).mean()

    x = torch.linspace(-1, 1, 200)[:, None]
    best = quick(Task(Gauss, (x, 2 * x), loss=nll), BASE.replace(steps=200), 3.0)
    assert best.untrained.loss > 0 > best.loss
    assert best.outcome in ("found", "at an edge")
    assert best.loss == min(e.loss for e in reached(best))


# ---- folds -------------------------------------------------------------------------------


@given(st.integers(2, 40), st.integers(2, 9))
def test_folds_are_disjoint_and_together_all_the_data(count, folds):
    folds = min(folds, count)
    x = torch.arange(count).float()[:, None]
    away = torch.full((5, 1), -1.0)
    of = Task(lambda: nn.Linear(1, 1), (x, x), valid=(away, away), loss=mse_loss)
    held: list[float] = []
    sizes = []
    for part in folds_of(of, folds):
        rest, out = (d.tensors[0].flatten().tolist() for d in (part.train, part.valid))
        assert set(rest) | set(out) == set(range(count))
        assert not set(rest) & set(out)
        held += out
        sizes.append(len(out))
    assert sorted(held) == list(range(count))
    assert max(sizes) - min(sizes) <= 1


def apart(**more: Any) -> Task:
    """A task whose own validation data has other labels: whoever looks at it chooses otherwise."""
    x, y = data(90)
    return Task(noisy, (x, y), valid=(x, 1 - y), loss=cross_entropy, **more)


@pytest.mark.parametrize("budget", [1.75, 2.5, 6.0])
@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_folds_cost_that_many_runs_and_the_finish_one(budget, scale):
    def scaled(output: Tensor, target: Tensor) -> Tensor:
        return scale * cross_entropy(output, target)

    of = Task(mlp, data(90), loss=scaled)
    best = quick(of, BASE.replace(optimizer="sgd"), budget, folds=3)
    assert best.cost <= budget
    assert best.folds == 3
    assert best.cost == pytest.approx(sum(part.runs for part in best.costs))
    finish = {part.name: part.runs for part in best.costs}["finish on all the data"]
    assert finish == 1.0
    explored = sum(max(e.step for e in t.record.evaluations) for t in best.trials) / 64
    assert best.cost == pytest.approx(3 * explored + 1)


def test_after_folds_the_model_is_that_of_a_run_on_all_the_data():
    best = quick(apart(), BASE.replace(steps="12 epochs"), 4.0, folds=3)
    alone = train(apart(), best.recipe)
    assert best.recipe == BASE.replace(steps="12 epochs", lr=best.lr)
    assert best.record.length == alone.length == 60
    assert weights(best.model) == weights(alone.model)
    assert best.record.evaluations[-1] == alone.evaluations[-1]
    assert best.record.series["loss"].tolist() == alone.series["loss"].tolist()


def test_folds_do_not_look_at_the_validation_data_for_the_choice():
    one, two = apart(), Task(noisy, data(90), valid=data(7), loss=cross_entropy)
    found = [quick(of, BASE, 3.0, folds=3) for of in (one, two)]
    assert found[0].lr == found[1].lr
    tables = [[(t.lr, t.tied, t.unstable) for t in best.trials] for best in found]
    assert tables[0] == tables[1]
    assert found[0].loss != found[1].loss


class StopError(Exception):
    pass


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_folds_interrupted_go_on_to_the_same_answer(share, tmp_path, monkeypatch):
    whole = quick(apart(), BASE, 2.5, folds=3, engine="loop")
    update, seen = TrainingLoop._update, []

    def counted(self: TrainingLoop, *args: Any) -> None:
        seen.append(1)
        if len(seen) > share * whole.cost * 64:
            raise StopError("the power is gone")
        update(self, *args)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_update", counted)
        with pytest.raises(StopError, match="the power is gone"):
            quick(apart(), BASE, 2.5, folds=3, folder=folder, engine="loop", memory=1)
    again = tune(apart(), folder=folder, resume=True, progress=False, engine="loop")
    assert same(again, whole)
    assert weights(again.model) == weights(whole.model)


def test_folds_that_stop_early_are_judged_by_their_mean_where_each_stopped():
    of = apart()
    recipe = BASE.replace(steps=160, early_stopping=2, lr=0.05, schedule="constant()")
    best = quick(of, recipe, 5.0, folds=3)
    stopped = [train(fold, recipe.replace(lr=best.lr)).evaluations[-1] for fold in folds_of(of, 3)]
    assert len({one.step for one in stopped}) > 1
    parts = [part for one in stopped for part in one.parts]
    gains = [b - a for a, b in zip(parts, best.constant.parts, strict=True)]
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    beats = statistics.mean(gains) > max(2 * error, 0.005 * best.constant.loss)
    assert (best.outcome == "no better than a constant") != beats
    assert best.outcome in ("found", "at an edge", "no better than a constant")
    if best.outcome == "no better than a constant":
        own = next(t for t in best.trials if t.lr == best.lr).record.evaluations[-1].loss
        assert f"loss, the mean over 3 folds, is {own:.4g}, an output" in best.advice()
        assert f"for every input gives {best.constant.loss:.4g}," in best.advice()
    assert best.cost <= 5.0
    assert best.trials[0].record.evaluations
    for trial in best.trials:
        steps = [e.step for e in trial.record.evaluations]
        assert steps == sorted(set(steps))


@pytest.mark.parametrize("folds", [0, 1.5, 91, -2])
def test_a_number_of_folds_that_cannot_be_is_refused(folds):
    with pytest.raises((BadValueError, BadTypeError), match=r"folds=|full runs"):
        quick(apart(), BASE, 1000.0, folds=folds)


def test_a_loader_with_an_order_of_its_own_has_no_folds():
    order = torch.utils.data.SubsetRandomSampler(range(8))
    loader = DataLoader(TensorDataset(*data()), 4, sampler=order)
    of = Task(mlp, loader, valid=data(), loss=cross_entropy)
    with pytest.raises(BadTypeError, match="it has a SubsetRandomSampler of its own: give tensors"):
        quick(of, Recipe(steps=64), 3.0, folds=3)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=5))
def test_the_mean_of_evaluations_is_the_mean(values):
    found = mean([Evaluation(8, v, None, (v, v)) for v in values])
    assert found.loss == pytest.approx(sum(values) / len(values))
    assert found.parts == tuple(v for v in values for _ in range(2))
