"""The tuner: within its budget, paired, honest about what it found."""

from __future__ import annotations

import dataclasses
import math
import random
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from etude import Recipe, Task, TuneResult, tasks, train, tune
from etude.errors import BadTypeError, BadValueError, EtudeError, StorageError
from etude.optimizers.prior import grid, log10_centre, nice
from etude.randomness import random_state_kept
from etude.record import Evaluation
from etude.training.loop import TrainingLoop
from etude.training.run import Run
from etude.tuning.result import tie
from etude.tuning.search.ladder import LADDERS, LEAST, NEEDED, ladder_for
from tests.tuning.common import data, mlp, quick, said_of_a_constant, task

BASE = Recipe(optimizer="adamw", steps=64, batch_size=16)


def weights(model: nn.Module) -> list[float]:
    return torch.cat([v.flatten().double() for v in model.state_dict().values()]).tolist()


@cache
def found() -> TuneResult:
    return quick(task(), BASE)


# ---- cost --------------------------------------------------------------------------------


class Valley(nn.Module):
    """One number, whose loss has its best rate where `scale` says."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0]))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (self.w - 1) + 0 * x


def valley(scale: float = 1.0) -> Task:
    x = torch.zeros(40, 1)
    return Task(lambda: Valley(scale), (x, x), loss=mse_loss)


SGD = Recipe(optimizer="sgd", schedule="constant()", batch_size=8)


@pytest.mark.slow
@settings(max_examples=25)
@given(
    budget=st.floats(LEAST, 8),
    steps=st.integers(16, 90),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 30.0, 1e3]),
    optimizer=st.sampled_from(["sgd", "adamw"]),
)
def test_the_cost_stays_within_the_budget_and_adds_up(budget, steps, scale, optimizer):
    recipe = SGD.replace(steps=steps, optimizer=optimizer)
    best = quick(valley(scale), recipe, budget)
    assert best.cost <= budget
    assert best.cost == pytest.approx(sum(part.runs for part in best.costs), abs=1e-9)
    updates = sum(trial.record.cost.steps for trial in best.trials)
    assert best.cost == pytest.approx(updates / steps, abs=1e-9)
    assert [t.lr for t in best.trials] == sorted({t.lr for t in best.trials})
    assert best.tied[0] <= best.lr <= best.tied[1]
    assert best.stable_below is None or best.stable_below > best.lr
    assert best.record.recipe == best.recipe == recipe.replace(lr=best.lr)
    if best.outcome != "nothing trains":
        assert best.record.status == "finished"
        assert best.loss < best.untrained.loss
        finished = [t for t in best.trials if t.record.status == "finished"]
        assert best.loss == min(t.record.valid_loss for t in finished)


def test_a_ladder_costs_no_more_than_the_budget_it_is_climbed_for():
    for ladder, need in zip(LADDERS, NEEDED, strict=True):
        assert ladder.cost() <= need
        assert ladder_for(need) == ladder
        shares = [rung.share for rung in ladder.rungs]
        assert shares == sorted(shares)
        assert shares[-1] == 1
        assert all((16 * share).is_integer() for share in shares)
    assert [r.keep for r in ladder_for(1.3).rungs] == [2, 1]
    assert [r.keep for r in ladder_for(1.5).rungs] == [3, 2, 1]
    assert [r.keep for r in ladder_for(3.0).rungs] == [6, 3, 2, 1]
    assert ladder_for(10.0) == ladder_for(3.0)


@pytest.mark.parametrize("budget", [0, 1, 1.19, -3, math.nan, math.inf])
def test_a_budget_that_compares_nothing_is_refused(budget):
    with pytest.raises(
        BadValueError, match=rf"budget={budget!r} is out of bounds: .*at least 1.2 "
    ):
        quick(task(), BASE, budget)


@pytest.mark.parametrize("budget", [True, "3", [3.0]])
def test_a_budget_that_is_no_number_is_refused(budget):
    with pytest.raises(BadTypeError, match=r"is not a number: give full runs, such as 3\.0"):
        quick(task(), BASE, budget)


def test_a_run_too_short_to_compare_is_refused(tmp_path):
    with pytest.raises(BadValueError, match=r"steps=15 is too short to compare .* at least 16"):
        quick(task(), BASE.replace(steps=15), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert quick(task(), BASE.replace(steps=16), 1.25).cost <= 1.25


# ---- pairing -----------------------------------------------------------------------------


def noisy() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2)
    )


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


def same(one: TuneResult, two: TuneResult) -> bool:
    return facts(one) == facts(two)


def facts(result: TuneResult) -> dict[str, Any]:
    plain = {k: v for k, v in result.plain().items() if k != "seconds"}
    series = [{n: s.tolist() for n, s in t.record.series.items()} for t in result.trials]
    evaluations = [[dataclasses.asdict(e) for e in t.record.evaluations] for t in result.trials]
    return {**plain, "series": series, "all": evaluations}


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
    return edge and "the optimum may lie beyond. Give a larger budget" in best.advice()


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


# ---- ties --------------------------------------------------------------------------------

losses = st.lists(st.floats(-10, 10), min_size=1, max_size=20)


def evaluation(parts: list[float]) -> Evaluation:
    return Evaluation(9, math.fsum(parts) / len(parts), None, tuple(parts))


@given(losses, st.floats(0, 10))
def test_a_rate_ties_with_itself(parts, drop):
    assert tie(evaluation(parts), evaluation(parts), drop)


@given(losses, st.floats(0, 10), st.floats(0, 5), st.floats(0, 5))
def test_the_better_ties_where_the_worse_does(parts, drop, shift, more):
    best = evaluation(parts)
    near, far = (evaluation([p + s for p in parts]) for s in (shift, shift + more))
    assert tie(near, best, drop) or not tie(far, best, drop)


@given(losses, st.floats(0.01, 10))
def test_a_hundredth_of_the_drop_is_a_tie_and_more_of_the_same_everywhere_is_none(parts, drop):
    best = evaluation(parts)
    assert tie(evaluation([p + 0.009 * drop for p in parts]), best, drop)
    assert not tie(evaluation([p + 0.012 * drop + 1e-6 for p in parts]), best, drop)


@given(st.integers(1, 20), st.floats(0.01, 3))
def test_two_standard_errors_are_the_bound(pairs, spread):
    """Differences m ± s in equal number: their standard error is s / sqrt(n - 1)."""
    error = spread / math.sqrt(2 * pairs - 1)
    best = evaluation([0.0] * (2 * pairs))
    for times, tied in ((1.99, True), (2.01, False)):
        mean = times * error
        other = evaluation([mean + spread, mean - spread] * pairs)
        assert tie(other, best, 0.0) == tied


@given(st.lists(st.floats(0, 1), min_size=4, max_size=16), st.integers(0, 3))
def test_the_order_of_the_slices_does_not_matter(parts, shift):
    other = [p + 0.1 * (i % 3) for i, p in enumerate(parts)]
    turned = parts[shift:] + parts[:shift], other[shift:] + other[:shift]
    assert tie(evaluation(other), evaluation(parts), 1.0) == tie(
        evaluation(turned[1]), evaluation(turned[0]), 1.0
    )


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_what_broke_ties_with_nothing(loss):
    assert not tie(Evaluation(9, loss, None, (loss, 1.0)), evaluation([1.0, 1.0]), 1.0)


# ---- where the search begins -------------------------------------------------------------


@given(st.floats(-6, 1), st.integers(1, 9), st.sampled_from([0.4, 0.45]))
def test_a_grid_is_even_and_readable(centre, count, spacing):
    rates = grid(centre, count, spacing)
    assert len(set(rates)) == count
    assert rates == sorted(rates)
    assert all(r == nice(r) for r in rates)
    for one, two in pairwise(rates):
        assert math.log10(two / one) == pytest.approx(spacing, abs=0.01)


@pytest.mark.parametrize(
    ("optimizer", "centre"),
    [
        ({"name": "sgd", "momentum": 0.9}, -0.9),
        ("adamw", -1.6),
        ("rmsprop", -1.7),
        ("adagrad", -0.6),
    ],
)
def test_the_centre_is_the_one_that_was_fitted(optimizer, centre):
    choice = Recipe(optimizer=optimizer).optimizer
    assert log10_centre(choice, 1000, 1000) == pytest.approx(centre)
    assert log10_centre(choice, 10_000, 1000) == pytest.approx(centre - 0.45)
    assert log10_centre(choice, 10**9, 1) == pytest.approx(centre - 0.9)
    assert log10_centre(choice, 1, 10**9) == pytest.approx(centre + 0.675)
    assert log10_centre(choice, 1000, None) == pytest.approx(centre)


# ---- the folder --------------------------------------------------------------------------


@cache
def in_memory() -> TuneResult:
    return quick(task(noisy), BASE, 3.0)


def test_a_result_is_saved_and_read_back(tmp_path):
    folder = tmp_path / "run"
    best = quick(task(noisy), BASE, 3.0, folder=folder)
    assert same(best, in_memory())
    again = TuneResult.load(folder)
    assert same(again, best)
    assert again.seconds == best.seconds
    assert again.model is None
    assert again.record.evaluations == best.record.evaluations
    names = {p.name for p in folder.iterdir()}
    assert names >= {"recipe.toml", "record.json", "series.safetensors", "model.safetensors"}
    kept = [len(list(place.glob("step-*.json"))) for place in folder.rglob("checkpoints")]
    assert set(kept) == {1}  # the newest of each: a larger budget goes on from there
    assert Recipe.load(folder / "recipe.toml") == best.recipe
    resumed = tune(task(noisy), folder=folder, resume=True, progress=False)
    assert same(resumed, best)
    assert weights(resumed.model) == weights(best.model)


class StopError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 40, 41, 80, 97, 128, 150])
def test_a_tuning_interrupted_anywhere_goes_on_to_the_same_result(tmp_path, monkeypatch, after):
    from etude.training.loop import TrainingLoop

    folder = tmp_path / "run"
    updates: list[int] = []
    update = TrainingLoop._update

    def counted(self: TrainingLoop, *args: Any) -> None:
        updates.append(1)
        if len(updates) > after:
            raise StopError("the power is gone")
        update(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_update", counted)
        with pytest.raises(StopError, match="the power is gone") as caught:
            quick(task(noisy), BASE, 3.0, folder=folder, engine="loop")
    call = f"etude.tune(task, folder={str(folder)!r}, resume=True)"
    assert f"The trials are saved. Go on with: {call}" in caught.value.__notes__[0]
    with pytest.raises(StorageError, match="holds a tuning that is not finished: resume it"):
        TuneResult.load(folder)
    again = tune(task(noisy), folder=folder, resume=True, progress=False)
    assert same(again, in_memory())
    assert weights(again.model) == weights(in_memory().model)


def test_a_kill_between_the_last_update_and_its_evaluation_loses_nothing(tmp_path, monkeypatch):
    """A trial may be saved on the very update at which trials are compared."""
    from etude.training.run import Run

    recipe = BASE.replace(steps=160)
    whole = quick(task(), recipe, 1.25)
    folder = tmp_path / "run"
    evaluate = Run.evaluate

    def die(self: Run) -> Evaluation:
        if self.step == 160:
            raise SystemExit("killed")
        return evaluate(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "evaluate", die)
        with pytest.raises(SystemExit, match="killed"):
            quick(task(), recipe, 1.25, folder=folder, engine="loop")
    again = tune(task(), folder=folder, resume=True, progress=False)
    assert same(again, whole)


def test_what_can_be_resumed_and_what_cannot(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(BadValueError, match="resume=True needs folder="):
        tune(task(), resume=True)
    with pytest.raises(StorageError, match=r"holds no tuning to resume: there is no tuning\.json"):
        tune(task(), folder=folder, resume=True)
    best = quick(task(), BASE.replace(steps=16), 1.25, folder=folder)
    with pytest.raises(StorageError, match="already holds a run: resume it, or choose another"):
        quick(task(), BASE, folder=folder)
    assert same(TuneResult.load(folder), best)
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(StorageError, match=r"model\.safetensors' is damaged"):
        tune(task(), folder=folder, resume=True)
    for content in ("{", "[]", '{"result": {}}', '{"result": 3}', ""):
        (folder / "tuning.json").write_text(content, encoding="utf-8")
        with pytest.raises(StorageError, match=r"tuning\.json' is damaged"):
            TuneResult.load(folder)
    (folder / "tuning.json").write_text('{"request": {"recipe": {}}}', encoding="utf-8")
    with pytest.raises(EtudeError, match=r"tuning\.json' is damaged"):
        tune(task(), folder=folder, resume=True)


def test_a_tuning_of_another_recipe_is_refused(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    text = '{"request": {"task": "task", "recipe": {"steps": 64}, "budget": 3.0}}'
    (folder / "tuning.json").write_text(text, encoding="utf-8")
    with pytest.raises(StorageError, match="holds a tuning of another recipe"):
        tune(task(), Recipe(steps=65), folder=folder, resume=True)
    with pytest.raises(StorageError, match="holds a tuning, which is not trained further as a run"):
        train(task(), folder=folder, resume=True)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot write to the folder"):
        quick(task(), BASE, folder=tmp_path / "file")
