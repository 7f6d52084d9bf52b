"""Observers: what they see becomes series, nothing they do changes training."""

from __future__ import annotations

import math
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map

import etude
from etude import Observer, Recipe, Task, train
from etude.engines import (
    AutoEngine,
    LoopEngine,
    PoolEngine,
    VmapEngine,
    VmapPoolEngine,
    train_many,
)
from etude.errors import BadTypeError, BadValueError, ObserverError, StorageError
from etude.measure.gradient_norm import GradientNorm
from etude.training.observers import Observers, read_numbers
from etude.training.request import AdvanceRequest
from etude.training.run import Run

X = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
BASE = Recipe(optimizer="adamw", lr=0.01, steps=12, batch_size=16, evaluations=3)


def noisy() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def task(model: Any = noisy) -> Task:
    return Task(model, (X, (X[:, 0] > 0).long()), loss=cross_entropy)


class Weights(Observer):
    """Reads weights alone, so that every engine can carry it."""

    reads, engines = ("weights",), ("loop", "pool", "vmap")

    def on_update(self, state):
        first, *_, last = state.parameters
        return {"first": first.detach().norm(), "last": last.sum(), "step": float(state.step)}


class Drawing(Observer):
    """Draws random numbers of every kind."""

    engines = ("loop", "pool", "vmap")
    reads = ("weights",)

    def on_start(self, state):
        torch.rand(3)

    def on_update(self, state):
        return torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002

    def on_evaluation(self, state, evaluation):
        torch.rand(5)

    def on_end(self, state):
        torch.rand(7)


class Diary(Observer):
    """Keeps what happened, and carries it along."""

    def __init__(self, **options):
        super().__init__(**options)
        self.lines: list[str] = []
        self.total = torch.zeros(())

    def on_start(self, state):
        self.lines.append(f"start {state.step}")

    def on_gradient(self, state):
        self.total += state.parameters[0].grad.norm()
        self.lines.append(f"gradient {state.step}")
        return self.total

    def on_update(self, state):
        self.lines.append(f"update {state.step}")

    def on_evaluation(self, state, evaluation):
        assert evaluation.step == state.step
        self.lines.append(f"evaluation {state.step}")

    def on_end(self, state):
        self.lines.append(f"end {state.step} {state.status}")

    def state(self):
        return {"lines": list(self.lines), "total": self.total.clone()}

    def load(self, state):
        self.lines, self.total = list(state["lines"]), state["total"].clone()


def same(one: Any, other: Any) -> bool:
    """Whether two runs or records hold the same weights and evaluations, to the bit."""
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and list(one.evaluations) == list(
        other.evaluations
    )


def test_hooks_are_called_in_order():
    diary = Diary(every=5)
    train(task(), BASE.replace(evaluations=1), observers=[diary])
    assert diary.lines == [
        "evaluation 0", "start 0", "gradient 0", "update 1", "gradient 5", "update 6",
        "gradient 10", "update 11", "evaluation 12", "end 12 finished",
    ]  # fmt: skip


@settings(max_examples=6)
@given(every=st.integers(1, 20))
def test_values_stand_at_the_updates_that_were_read(every):
    record = train(task(mlp), BASE, observers=[Weights(every=every), GradientNorm(every=every)])
    read = [t % every == 0 for t in range(12)]
    for name in ("weights/first", "weights/last", "weights/step", "gradient_norm"):
        assert np.isfinite(record.series[name]).tolist() == read, name
    steps = record.series["weights/step"]
    assert steps[read].tolist() == [t + 1 for t in range(12) if t % every == 0]


@pytest.mark.parametrize(
    "engine",
    [
        LoopEngine,
        lambda: PoolEngine(2),
        lambda: VmapEngine(compile="never"),
        pytest.param(lambda: VmapPoolEngine(2, compile="never"), marks=pytest.mark.slow),
        pytest.param(lambda: AutoEngine(2, exact=True), marks=pytest.mark.slow),
    ],
)
def test_training_is_the_same_to_the_bit_with_observers_in_every_engine(engine):
    recipes = [BASE.replace(lr=lr, seed=i) for i, lr in enumerate((0.01, 0.02, 0.05))]
    seen = (Weights(every=4), Drawing(every=3))
    with engine() as one:
        plain = train_many(task(), recipes, one)
    with engine() as other:
        watched = train_many(task(), recipes, other, observers=seen)
        assert other.notes == []
    by_loop = train_many(task(), recipes, "loop", observers=seen)
    for a, b, c in zip(plain, watched, by_loop, strict=True):
        assert same(a, b)
        for name in ("loss", "lr"):
            assert a.series[name].tolist() == b.series[name].tolist()
        for name in ("weights/first", "weights/last", "weights/step", "drawing"):
            assert b.series[name] == pytest.approx(c.series[name], rel=1e-3, nan_ok=True), name
        assert b.series["drawing"].tolist() == pytest.approx(
            c.series["drawing"].tolist(), abs=0, nan_ok=True
        )


def test_loop_and_pool_give_the_same_series_and_the_same_state():
    recipes = [BASE.replace(lr=lr) for lr in (0.01, 0.02)]
    ours, theirs = (
        [Run(task(), r, observers=[Diary(), Weights(every=2)]) for r in recipes] for _ in range(2)
    )
    with PoolEngine(2) as pool:
        for until in (5, None):
            pool.advance(ours, AdvanceRequest(until, {0, 6, 12}))
    LoopEngine().advance(theirs, AdvanceRequest(None, {0, 6, 12}))
    for one, other in zip(ours, theirs, strict=True):
        assert same(one, other)
        assert one.series.keys() == other.series.keys()
        for name, values in one.series.items():
            assert values == pytest.approx(other.series[name], abs=0, nan_ok=True), name
        first, second = next(iter(one.observers)), next(iter(other.observers))
        assert first.lines == second.lines
        assert torch.equal(first.total, second.total)


@settings(max_examples=6)
@given(at=st.integers(0, 12), every=st.integers(1, 4))
def test_a_resumed_run_has_the_series_of_one_that_was_not_interrupted(at, every):
    def begin() -> Run:
        return Run(
            task(), BASE, observers=[Diary(every=every), Weights(every=3), Drawing(every=every)]
        )

    steps = {0, 6, 12}
    whole, first, second = begin(), begin(), begin()
    whole.advance(AdvanceRequest(None, steps))
    first.advance(AdvanceRequest(at, steps))
    second.load_state_dict(first.state_dict())
    second.advance(AdvanceRequest(None, steps))
    assert same(whole, second)
    for name, values in whole.series.items():
        assert second.series[name] == pytest.approx(values, abs=0, nan_ok=True), name
    assert next(iter(second.observers)).lines == next(iter(whole.observers)).lines


def test_an_observers_state_is_in_the_checkpoint(tmp_path):
    diary, whole = Diary(), Diary()
    train(task(), BASE, observers=[whole])

    def stop(state):
        if state.step == 7:
            raise KeyboardInterrupt("here")

    with pytest.raises(KeyboardInterrupt, match="here"):
        train(task(), BASE, folder=tmp_path, observers=[diary], on_step=stop)
    again = Diary()
    train(task(), folder=tmp_path, resume=True, observers=[again])
    assert again.lines == whole.lines
    assert torch.equal(again.total, whole.total)


def test_an_observer_that_comes_later_or_goes_leaves_nan():
    first = Run(task(), BASE, observers=[Weights()])
    first.advance(5)
    second = Run(task(), BASE, observers=[GradientNorm()])
    second.load_state_dict(first.state_dict())
    second.advance()
    assert [math.isnan(v) for v in second.series["weights/first"]] == [False] * 5 + [True] * 7
    assert [math.isnan(v) for v in second.series["gradient_norm"]] == [True] * 5 + [False] * 7


class Counted(Tensor):
    """A tensor that counts how often it is read."""

    reads = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ("item", "tolist", "__float__", "numpy"):
            Counted.reads += 1
        plain = tree_map(lambda a: a.as_subclass(Tensor) if isinstance(a, Counted) else a, args)
        found = function(*plain, **(kwargs or {}))
        if isinstance(found, Tensor) and function.__name__ in ("detach", "clone", "reshape"):
            return found.as_subclass(cls)
        return found


class Lazy(Observer):
    """Returns tensors that count."""

    def on_gradient(self, state):
        return torch.full((), float(state.step)).as_subclass(Counted)

    def on_update(self, state):
        return {"after": torch.full((), float(state.step)).as_subclass(Counted)}


def test_what_is_returned_is_read_with_the_losses_and_not_before():
    run = Run(task(), BASE, observers=[Lazy()])
    run.read_losses_every(8)
    seen = []
    Counted.reads = 0
    run.advance(AdvanceRequest(12, on_step=lambda state, step: seen.append(Counted.reads)))
    # The losses of updates 0 to 7 are read within update 7, before its own step.
    assert seen == [0] * 7 + [8 + 7] * 5
    assert Counted.reads == 24
    assert run.series["lazy"] == [float(t) for t in range(12)]
    assert run.series["lazy/after"] == [t + 1.0 for t in range(12)]


def test_a_run_that_breaks_keeps_what_was_read_before_and_tells_the_end():
    diary = Diary()
    wild = BASE.replace(optimizer="sgd", lr=1e30)
    run = Run(task(mlp), wild, observers=[diary, Weights()])
    run.read_losses_every(4)
    run.advance()
    assert run.diverged
    assert {len(values) for values in run.series.values()} == {run.step}
    assert diary.lines[-1] == f"end {run.step} diverged"


@pytest.mark.parametrize("hook", ["on_start", "on_gradient", "on_update", "on_evaluation"])
def test_an_observer_that_fails_is_named_and_nothing_is_lost(tmp_path, hook):
    class Failing(Observer):
        armed = True

    def fail(self, state, *rest):
        if self.armed and (hook == "on_start" or state.step >= 4):
            raise KeyError("gone")

    setattr(Failing, hook, fail)
    failing = Failing()
    with pytest.raises(ObserverError, match=rf"{hook} of the observer 'failing' failed .*'gone'"):
        train(task(), BASE, folder=tmp_path, observers=[failing, Weights()])
    failing.armed = False
    again = train(task(), folder=tmp_path, resume=True, observers=[failing, Weights()])
    whole = train(task(), BASE, observers=[Weights()])
    assert same(again, whole)
    assert again.series["loss"].tolist() == whole.series["loss"].tolist()


class Wrong(Observer):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def on_gradient(self, state):
        return self.value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.ones(3), "is a tensor of shape (3,) at update 0: return one number"),
        ("much", "is a str at update 0: return one number"),
        ({"a": [1.0]}, "'wrong/a' is a list at update 0"),
    ],
)
def test_what_is_no_number_is_refused(value, said):
    with pytest.raises(ObserverError, match=re.escape(said)):
        train(task(), BASE, observers=[Wrong(value)])


@pytest.mark.parametrize("value", [1, True, 1.5, np.float32(1.5), torch.ones(1, 1), {"a": 2}])
def test_every_kind_of_number_is_taken(value):
    record = train(task(), BASE, observers=[Wrong(value)])
    (name,) = {*record.series} - {"loss", "lr"}
    number = value["a"] if isinstance(value, dict) else value
    assert record.series[name].tolist() == [float(number)] * 12


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return x * self.w


def test_a_weight_that_is_returned_as_it_is_keeps_the_value_it_had():
    one = Task(Scaled, (X, X), loss=nn.functional.mse_loss)
    run = Run(one, BASE.replace(schedule="constant()"), observers=[Wrong(None)])
    next(iter(run.observers)).value = next(iter(run.model.parameters()))
    run.read_losses_every(6)
    run.advance()
    values = run.series["wrong"]
    assert values[0] == 0.5
    assert len(set(values)) == 12


class Stacked(Observer):
    """Has on_gradient, and says that it reads weights alone."""

    reads = ("weights",)

    def on_gradient(self, state):
        return 0.0


@pytest.mark.parametrize(
    ("observers", "kind", "said"),
    [
        ([Weights], BadTypeError, "observers[0] is Weights, not an etude.Observer: give Weights()"),
        ([3], BadTypeError, "observers[0] is int, not an etude.Observer"),
        ([Weights(every=0)], BadValueError, "every=0 of the observer 'weights': give a whole"),
        ([Weights(every=1.5)], BadValueError, "every=1.5 of the observer"),
        ([Weights(), Weights()], BadValueError, "two observers have the name 'weights'"),
        ([Weights(name="loss")], BadValueError, "observer 'loss': the record already has a series"),
        ([Weights(name=" ")], BadTypeError, "an observer's name is ' '"),
        ([Stacked()], BadValueError, "has on_gradient, and its reads ('weights',) do not"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(observers, kind, said):
    with pytest.raises(kind, match=re.escape(said)):
        Run(task(), BASE, observers=observers)


@pytest.mark.parametrize("field", ["reads", "engines"])
def test_what_is_declared_wrongly_is_refused(field):
    for wrong in (("everything",), "weights"):
        kind = type("Odd", (Observer,), {field: wrong})
        with pytest.raises(BadValueError, match=f"{field}=.* of the observer 'odd': give some of"):
            Observers([kind()])


def test_an_engine_that_cannot_carry_an_observer_gives_way_with_a_note():
    class Alone(Weights):
        engines = ("loop",)

    recipes = [BASE.replace(lr=lr) for lr in (0.01, 0.02)]
    want = train_many(task(), recipes, "loop", observers=[Weights()])
    for observer, engine, said in (
        (Alone(), PoolEngine(2), "pool: the observer 'alone' does not list 'pool' among its"),
        (GradientNorm(), VmapEngine(compile="never"), "'gradient_norm' does not list 'vmap'"),
        (Alone(), AutoEngine(2), "vmap: the observer 'alone' does not list 'vmap'"),
    ):
        with engine, pytest.warns(UserWarning, match=re.escape(said)):
            found = train_many(task(), recipes, engine, observers=[observer])
        for one, other in zip(found, want, strict=True):
            assert same(one, other)


def test_numbers_are_read_in_their_order():
    values = [torch.tensor(1.5), 2, torch.tensor(3, dtype=torch.int64), True]
    assert read_numbers(values) == [1.5, 2.0, 3.0, 1.0]


def test_half_an_update_is_kept_by_nobody():
    class Breaking(Observer):
        def on_update(self, state):
            return float(state.step)

    run = Run(task(), BASE, observers=[Breaking()])
    run.advance(3)
    step = run.optimizer.step
    run.optimizer.step = lambda *a: (_ for _ in ()).throw(RuntimeError("broke"))
    with pytest.raises(RuntimeError, match="broke"):
        run.advance(4)
    with pytest.raises(StorageError, match="half done"):
        run.state_dict()
    run.optimizer.step = step


def test_the_class_is_public():
    assert etude.Observer is Observer
