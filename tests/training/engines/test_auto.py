"""The choice of an engine: measured on copies, explained, and without a trace in the answer."""

from __future__ import annotations

import pytest
import torch

from etude.training.engines import AutoEngine, LoopEngine, train_many
from etude.training.engines import auto as module
from etude.training.engines.auto import GAIN, NODES
from etude.training.engines.vmap.execution import SECONDS_PER_NODE, SHARE
from etude.training.run import Run

from .common import BASE, assert_close, marks, noisy, numbers, runs_of, same_bits, task

RECIPES = [BASE.replace(lr=0.01 * (i + 1), seed=i % 2, steps=40) for i in range(4)]


def test_short_work_is_not_measured() -> None:
    engine = AutoEngine()
    runs = runs_of(task(), RECIPES)
    engine.advance(runs)
    (choice,) = engine.choices
    assert choice.engine == "loop"
    assert "too little to measure more" in choice.reason
    assert set(choice.measured) == {"loop"}


def test_one_run_is_for_the_loop() -> None:
    engine = AutoEngine()
    engine.advance(runs_of(task(), RECIPES[:1]))
    assert engine.choices[0].reason == "there is one run"


def test_measuring_leaves_the_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHORT", 0.0)
    runs, others = runs_of(task(noisy), RECIPES), runs_of(task(noisy), RECIPES)
    for run in runs + others:
        run.advance(5)
    engine = AutoEngine(workers=2)
    choice = engine.choose(runs)
    assert set(choice.measured) == {"loop", "pool", "vmap"}
    assert set(choice.expected) == {"loop", "pool", "vmap", "vmap pool"}
    assert all(seconds > 0 for seconds in choice.measured.values())
    assert choice.reason.startswith("expected: ")
    for one, other in zip(runs, others, strict=True):
        assert same_bits(one, other)
        assert torch.equal(numbers(one), numbers(other))


@pytest.mark.parametrize("name", ["loop", "pool", "vmap", "vmap pool"])
def test_the_answer_is_the_same_whichever_is_taken(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"loop": 1.0, "pool": 1.0 if name == "vmap pool" else 4.0, "vmap": 9.0}
    seconds |= {"vmap pool": {"vmap": 0.5}}.get(name, {name: 0.1})
    monkeypatch.setattr(module, "_time_loop", lambda run: seconds["loop"])
    monkeypatch.setattr(module, "_time_pool", lambda runs, steps: seconds["pool"])
    monkeypatch.setattr(module, "_time_vmap", lambda engine, key, runs, hopeless: seconds["vmap"])
    monkeypatch.setattr(module, "SHORT", 0.0)
    engine = AutoEngine(workers=2)
    ours, theirs = runs_of(task(noisy), RECIPES), runs_of(task(noisy), RECIPES)
    engine.advance(ours, 13, marks=marks)
    engine.advance(ours, marks=marks)
    assert [choice.engine for choice in engine.choices] == [name, name]
    LoopEngine().advance(theirs, marks=marks)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)


class TestExpectation:
    def test_the_last_round_of_the_pool_counts(self) -> None:
        expected = AutoEngine(workers=2)._expected({"loop": 1.0, "pool": 1.0}, [10, 10, 10])
        assert expected["loop"] == 30
        assert expected["pool"] == pytest.approx(15.15)
        uneven = AutoEngine(workers=2)._expected({"loop": 1.0, "pool": 1.0}, [100, 1])
        assert uneven["pool"] == pytest.approx(100.15)

    def test_compiling_is_counted(self) -> None:
        compiling = NODES * SECONDS_PER_NODE
        few = AutoEngine()._expected({"loop": 1e-3, "vmap": 1e-3}, [100])
        assert few["vmap"] == pytest.approx(0.1)
        both = AutoEngine(workers=2)._expected({"loop": 1.0, "pool": 1.2, "vmap": 0.1}, [100] * 4)
        assert both["vmap pool"] == pytest.approx(0.15 + 40 * 1.2 / 2 * SHARE + compiling)
        many = AutoEngine()._expected({"loop": 1e-3, "vmap": 1e-3}, [10**6])
        assert many["vmap"] == pytest.approx(1000 * SHARE + compiling)

    def test_a_small_gain_is_no_reason_to_leave_the_loop(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_time_loop", lambda run: 1.0)
        monkeypatch.setattr(module, "_time_pool", lambda runs, steps: 4.0)
        monkeypatch.setattr(module, "_time_vmap", lambda engine, key, runs, hopeless: GAIN + 0.05)
        engine = AutoEngine(workers=2)
        runs = runs_of(task(), [r.replace(steps=2) for r in RECIPES])
        assert engine.choose(runs).engine == "loop"


def test_what_does_not_fit_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHORT", 0.0)
    runs = [Run(task(), r.replace(optimizer="radam")) for r in RECIPES]
    choice = AutoEngine(workers=1).choose(runs)
    assert set(choice.expected) == {"loop"}
    assert choice.engine == "loop"


def test_train_many_takes_auto_by_itself() -> None:
    records = train_many(task(), RECIPES, evaluations=2)
    assert [record.recipe for record in records] == RECIPES
    assert [len(record.evaluations) for record in records] == [3] * 4
    assert len({record.valid_loss for record in records}) == 4
