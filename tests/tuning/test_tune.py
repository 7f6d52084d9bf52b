"""The tuner: within its budget, paired, honest about what it found."""

from __future__ import annotations

import math
import random
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from etude import Recipe, Task, TuneResult, tasks, train, tune
from etude.optimizers.prior import grid, log10_centre
from etude.randomness import random_state_kept
from etude.training.run import Run
from tests.tuning.common import (
    BASE,
    data,
    mlp,
    noisy,
    quick,
    said_of_a_constant,
    same,
    task,
    weights,
)
from tests.tuning.valleys import SGD, Valley, valley


@cache
def found() -> TuneResult:
    return quick(task(), BASE)


# ---- pairing -----------------------------------------------------------------------------


def loader() -> DataLoader:
    generator = torch.Generator().manual_seed(9)
    return DataLoader(TensorDataset(*data()), 16, shuffle=True, generator=generator)


class Jitter(TensorDataset):
    def __getitem__(self, index: Any) -> Any:
        x, y = super().__getitem__(index)
        return x + 0.1 * random.random() + 0.1 * torch.randn(6), y


TASKS = {
    "tensors": lambda: task(),
    "dropout": lambda: task(noisy),
    "loader": lambda: Task(noisy, loader(), valid=data(), loss=cross_entropy),
    "augmented": lambda: Task(
        noisy, DataLoader(Jitter(*data()), 16, shuffle=True), valid=data(), loss=cross_entropy
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_winner_is_the_run_that_train_would_give(name):
    make, recipe = TASKS[name], BASE.replace(steps=48)
    best = quick(make(), recipe, 2.0)
    alone = train(make(), best.recipe)
    assert weights(best.model) == weights(alone.model)
    for series in ("loss", "lr"):
        assert best.record.series[series].tolist() == alone.series[series].tolist()
    assert best.record.evaluations[-1] == alone.evaluations[-1]
    assert best.record.evaluations[0] == alone.evaluations[0] == best.untrained


@pytest.mark.slow
def test_trials_share_weights_and_batches():
    trials = found().trials
    assert len({t.record.series["loss"][0] for t in trials}) == 1
    assert {t.record.evaluations[0] for t in trials} == {found().untrained}
    # The warmup's first update has a rate of 0; from the second on they part.
    assert len({t.record.series["loss"][1] for t in trials}) == 1
    assert len({t.record.series["loss"][2] for t in trials}) == len(trials)


def test_every_trial_is_a_prefix_of_its_own_full_run():
    trial = min(found().trials, key=lambda t: t.record.cost.steps)
    whole = train(task(), BASE.replace(lr=trial.lr))
    count = trial.record.cost.steps
    assert 0 < count < 64
    assert trial.record.series["loss"].tolist() == whole.series["loss"][:count].tolist()


@pytest.mark.parametrize("steps", [61, 67, 90])
def test_a_share_that_is_no_whole_number_of_updates_is_still_compared(steps):
    best = quick(task(), BASE.replace(steps=steps))
    assert not {"after a divergence"} & {part.name for part in best.costs}
    assert sum(t.record.cost.steps > steps // 8 for t in best.trials) >= 3
    assert len(best.trials) < 12


def test_the_same_tuning_twice_is_the_same_and_another_seed_another():
    again, other = quick(task(), BASE), quick(task(), BASE.replace(seed=1))
    assert same(again, found())
    assert weights(again.model) == weights(found().model)
    assert not same(other, found())


def test_what_the_user_gave_is_left_as_it_was(tmp_path):
    network = noisy()
    network[1].eval()
    source = loader()
    before = weights(network), source.generator.get_state().tolist()
    modes = [module.training for module in network.modules()]

    def draws() -> tuple[float, ...]:
        return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002

    with random_state_kept(11):
        expected = draws()
    of = Task(network, source, valid=data(), loss=cross_entropy)
    for folder in (None, tmp_path / "run"):
        with random_state_kept(11):
            quick(of, BASE.replace(steps=32), 1.5, folder=folder)
            assert draws() == expected
        assert (weights(network), source.generator.get_state().tolist()) == before
        assert [module.training for module in network.modules()] == modes


# ---- what it finds -----------------------------------------------------------------------


def test_it_finds_a_rate_that_trains():
    best = found()
    assert best.outcome in ("found", "at an edge")
    assert best.loss < 0.6 * best.untrained.loss
    assert best.metric is not None
    assert best.metric > 0.85
    default = train(task(), BASE.replace(lr=1e-3))
    assert best.loss < default.valid_loss
    assert best.recipe == BASE.replace(lr=best.lr)
    if best.outcome == "found":
        assert best.advice() == ""


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_an_optimum_far_from_the_prior_is_reached_or_said_to_lie_beyond(optimizer, scale):
    """Scaling the loss by s moves SGD's best rate by 1/s; scaling inputs moves Adam's."""

    def scaled(output: Tensor, target: Tensor) -> Tensor:
        return scale * cross_entropy(output, target)

    x, y = data()
    of = (
        Task(mlp, (x, y), loss=scaled)
        if optimizer == "sgd"
        else Task(mlp, (x * scale, y), loss=cross_entropy)
    )
    for budget in (3.0, 10.0):
        best = quick(of, BASE.replace(optimizer=optimizer), budget)
        assert said_of_a_constant(best)
        assert best.outcome in ("found", "at an edge", "no better than a constant")
        assert optimizer == "adamw" or best.outcome != "no better than a constant"
        if best.outcome == "at an edge":
            assert re_edge(best)
        if best.outcome == "no better than a constant":
            assert_no_better_than_the_class_frequencies(of, best)
    if optimizer == "sgd":
        plain = quick(task(), BASE.replace(optimizer="sgd"), 10.0)
        moved = math.log10(best.lr * scale / plain.lr)
        assert best.outcome == "found"
        assert abs(moved) < 0.8
        assert best.loss / scale < 1.3 * plain.loss


def assert_no_better_than_the_class_frequencies(of: Task, best: TuneResult) -> None:
    """Train in full at the rate, and compare with the entropy of the training classes."""
    run = Run(of, best.recipe)
    (_, y), (_, seen) = (split.tensors for split in (run.task.train, run.task.valid))
    shares = y.bincount(minlength=2).double() / len(y)
    constant = -float(shares.log()[seen].mean())
    assert best.constant.loss == pytest.approx(constant, rel=0.01)
    whole = train(of, best.recipe).evaluations[-1]
    error = float(np.std(whole.parts, ddof=1)) / math.sqrt(len(whole.parts))
    assert whole.loss > constant - max(2 * error, 0.01 * constant)


def re_edge(best: TuneResult) -> bool:
    edge = best.lr in (best.trials[0].lr, best.trials[-1].lr)
    beyond, more = "the optimum may lie beyond. ", " A budget of "
    _, said, after = best.advice().partition(beyond)
    return edge and bool(said) and more in f" {after}"


@pytest.mark.parametrize(("scale", "side"), [(1e-4, "highest"), (1e4, "lowest")])
def test_the_field_grows_beyond_an_edge_on_either_side(scale, side):
    recipe = SGD.replace(steps=48)
    narrow, wide = (quick(valley(scale), recipe, budget) for budget in (1.25, 6.0))
    assert narrow.outcome in ("at an edge", "nothing trains")
    if narrow.outcome == "at an edge":
        assert re_edge(narrow)
    start = grid(log10_centre(recipe.optimizer, 1, 32), 5, 0.4)
    rates = [t.lr for t in wide.trials]
    if side == "highest":
        assert max(rates) > max(start)
    else:
        assert min(rates) < min(start)


class Frozen(nn.Module):
    """An output that does not depend on the weights, with gradients of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return 0.0 * self.inner(x)


class Nan(nn.Module):
    """Breaks at the second training batch, whatever the rate."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return self.inner(x) * (math.nan if self.training and self.calls > 1 else 1.0)


def anti(output: Tensor, target: Tensor) -> Tensor:
    """Trains on the wrong labels and is judged on the right ones."""
    return cross_entropy(output, 1 - target if output.requires_grad else target)


NOTHING = {
    "zero gradient": lambda: task(Frozen),
    "always nan": lambda: task(Nan),
    "against the answers": lambda: Task(mlp, data(), loss=anti),
}


SAID = {
    "zero gradient": "The training loss fell at none of them",
    "always nan": "ended in NaN or infinity, at update 1",
    "against the answers": "The training loss fell, at ",
}


@pytest.mark.parametrize("budget", [1.25, 3.0, 30.0])
@pytest.mark.parametrize("name", NOTHING)
def test_that_nothing_trains_is_said(name, budget, tmp_path):
    folder = tmp_path / "run" if budget == 3.0 else None
    best = quick(NOTHING[name](), BASE.replace(steps=16), budget, folder=folder)
    assert best.outcome == "nothing trains"
    assert best.advice().startswith("No rate from ")
    assert SAID[name] in best.advice() or best.cause
    if name == "always nan" and budget > 2:
        assert "Every rate that came to update 1 broke there" in best.advice()
        assert best.stable_below is None
    assert best.cost <= budget
    assert all(1e-16 < trial.lr < 1e16 for trial in best.trials)
    if folder is not None:
        again = TuneResult.load(folder)
        assert again.advice() == best.advice()
        assert again.plain() == best.plain()


class Cliff(Valley):
    """Breaks after 56 of 64 updates at every rate that has come as near the minimum as `near`."""

    def __init__(self, near: float) -> None:
        super().__init__()
        self.near = near
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            if self.calls > 56 and abs(float(self.w.detach()) - 1) < self.near:
                return super().forward(x) * math.nan
        return super().forward(x)


def cliff(near: float) -> Task:
    x = torch.zeros(40, 1)
    return Task(lambda: Cliff(near), (x, x), loss=mse_loss)


def test_a_divergence_at_the_finish_falls_back_on_a_rate_that_holds():
    recipe = SGD.replace(steps=64)
    plain, best = (quick(cliff(near), recipe, 4.0) for near in (0.0, 1e-4))
    assert "after a divergence" not in {part.name for part in plain.costs}
    assert "after a divergence" in {part.name for part in best.costs}
    assert best.record.status == "finished"
    assert best.outcome in ("found", "at an edge")
    assert best.cost <= 4.0
    assert best.lr < plain.lr
    assert {t.record.status for t in best.trials} >= {"finished", "diverged"}
    assert {t.lr for t in best.trials if t.unstable} >= {plain.lr}


def test_a_divergence_that_the_budget_cannot_mend_is_said(tmp_path):
    best = quick(cliff(1e-3), SGD.replace(steps=64), 3.0, folder=tmp_path / "run")
    assert best.outcome == "unfinished"
    assert best.record.status == "stopped"
    assert best.loss < best.untrained.loss
    assert "the budget of 3 runs held no second finish" in best.advice()
    assert f"{best.lr:g} is the best that was sound, after 32 of 64 updates" in best.advice()
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert TuneResult.load(tmp_path / "run").outcome == "unfinished"


def test_the_edge_of_stability_is_above_the_best():
    best = quick(valley(), SGD.replace(steps=64), 8.0)
    # (w - 1)^2 has the curvature 2: gradient descent breaks at a rate of 2 / 2.
    # A rate that was dropped before it overflowed proves no edge.
    assert best.lr < 1.0
    assert best.stable_below is not None
    assert best.stable_below > 1.0


def test_no_edge_is_claimed_of_rates_that_were_dropped_early():
    task = tasks.get("digits-mlp", width=32)
    best = tune(task, Recipe(**{**task.defaults, "steps": 600}), progress=False)
    for trial in best.trials:
        if trial.unstable and trial.record.status != "diverged":
            assert trial.record.status == "finished"
    assert best.stable_below is None or best.stable_below > best.lr


def test_over_folds_the_score_chooses_where_no_rate_beats_a_constant():
    """The training loss did, which is lowest at the rate that overfits most."""
    best = quick(task(), BASE, 8.0, folds=2, engine="loop")
    assert best.outcome == "no better than a constant"
    ends = {t.lr: t.record.evaluations[-1] for t in best.trials}
    last = ends[best.lr]
    others = [e.loss for lr, e in ends.items() if lr != best.lr and e.step == last.step]
    assert others
    assert last.loss < min(others)
