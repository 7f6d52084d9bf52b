"""The choice of an engine: by the runs' own updates, explained, and leaving the answer alone."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import pytest
from torch import Tensor, nn

from etude.engines import AutoEngine, Engine, LoopEngine, train_many
from etude.engines import auto as module
from etude.engines.auto import GAIN, NODES, SENDING, STARTING
from etude.engines.process import cost_model
from etude.engines.process.cost_model import (
    TIMED,
    WARM,
    Call,
    CostModel,
    SpeedMonitor,
    cost_key,
    time_first_updates,
)
from etude.engines.vmap.execution import SECONDS_PER_NODE, SHARE
from etude.errors import TaskError
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from tests.engines.common import (
    BASE,
    assert_close,
    counting,
    mlp,
    noisy,
    quarters,
    runs_of,
    same_bits,
    task,
)

RECIPES = [BASE.replace(lr=0.01 * (i + 1), seed=i % 2, steps=100) for i in range(4)]


def call_of(runs: list[Run], until: int | None = None, **more: Any) -> Call:
    return Call(runs, AdvanceRequest(until, quarters, **more))


def knowing(engine: AutoEngine, runs: list[Run], pace: CostModel) -> AutoEngine:
    """Let an engine believe that it has measured runs like these."""
    engine._paces.setdefault(runs[0].task, {})[cost_key(runs[0])] = pace
    return engine


class Away(nn.Module):
    """Takes its time in other processes only, where it should be faster."""

    parent = os.getpid()

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self.parent:
            time.sleep(0.01)
        return self.net(x)


class TestPace:
    def test_the_first_updates_are_the_runs_own(self) -> None:
        run, other = runs_of(task(noisy), RECIPES[:1] * 2)
        told: list[int] = []
        call = call_of([run], on_step=lambda run, step: told.append(step))
        pace = time_first_updates(call, run)
        assert pace is not None
        assert 0 < pace.update < 1
        assert 0 < pace.evaluation < 1
        assert told == list(range(1, WARM + TIMED + 1))
        other.advance(AdvanceRequest(WARM + TIMED, evaluation_steps=quarters))
        assert same_bits(run, other)

    def test_the_cost_is_what_is_usual_without_the_first(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (run,) = runs_of(task(), RECIPES[:1])
        seconds = iter([50.0, 30.0, 2.0, 0.1, 4.0, 3.0, 0.2, 6.0, 5.0])

        def scripted(run: Run, request: AdvanceRequest) -> float:
            run.advance(request)
            return next(seconds, 0.0)

        monkeypatch.setattr(cost_model, "_spent", scripted)
        request = AdvanceRequest(evaluation_steps=lambda state: frozenset({0, 3, 5, 7}))
        pace = time_first_updates(Call([run], request), run)
        assert pace == CostModel(update=1.5, evaluation=2.0)

    def test_what_was_asked_for_is_not_exceeded(self) -> None:
        (run,) = runs_of(task(), RECIPES[:1])
        time_first_updates(call_of([run], 5), run)
        assert run.step == 5
        assert time_first_updates(call_of([run], 5), run) is None
        time_first_updates(call_of([run], stop=counting(3)), run)
        assert run.step < 9

    def test_a_failure_names_the_run(self) -> None:
        class Broken(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = mlp()

            def forward(self, x: Tensor) -> Tensor:
                raise ValueError("it broke")

        runs = [Run(task(Broken), recipe) for recipe in RECIPES[:2]]
        with pytest.raises(TaskError, match=r"^the model failed .*it broke") as caught:
            AutoEngine().advance(runs)
        assert "in the run at lr 0.01, seed 0" in caught.value.__notes__

    def test_a_watch_stops_what_is_slower_than_the_loop(self) -> None:
        runs = runs_of(task(), RECIPES[:2])
        pace = CostModel(update=1.0, evaluation=0.0)  # so slow that whatever is done is faster
        watch = SpeedMonitor(call_of(runs), pace, begins=0.0, slowest=0.9, patience=0.0)
        watch.on_step(runs[0].state, 50)
        assert not watch.stop()
        assert watch.done == 50
        pace.update = 1e-9
        assert watch.stop()
        assert watch.slow
        patient = SpeedMonitor(call_of(runs), pace, begins=0.0, slowest=0.9, patience=60.0)
        assert not patient.stop()

    def test_evaluations_are_work(self) -> None:
        (run,) = runs_of(task(), RECIPES[:1])
        assert call_of([run]).left(run) == (100, 4)
        assert call_of([run], 50).left(run) == (50, 2)
        assert CostModel(1.0, 10.0).work(50, 2) == 70


class TestChoice:
    def test_short_work_stays_in_the_loop(self) -> None:
        """Fewer seconds than it takes to start the processes; on any machine, so it is given."""
        for exact in (True, False):
            runs = runs_of(task(), [r.replace(steps=30) for r in RECIPES])
            pace = CostModel(1e-5, 1e-5, stacked={} if exact else {4: math.inf})
            with knowing(AutoEngine(exact=exact), runs, pace) as engine:
                engine.advance(runs)
                assert [choice.engine for choice in engine.choices] == ["loop"]

    def test_one_run_is_for_the_loop(self) -> None:
        engine = AutoEngine()
        engine.advance(runs_of(task(), RECIPES[:1]))
        assert engine.choices[0].reason == "there is one run"

    def test_measured_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        begun: list[Run] = []

        def noted(call: Call, run: Run) -> CostModel | None:
            begun.append(run)
            return time_first_updates(call, run)

        monkeypatch.setattr(module, "time_first_updates", noted)
        of = task()
        with AutoEngine(2, exact=True) as engine:
            for _ in range(3):
                engine.advance(runs_of(of, RECIPES))
            assert len(begun) == 1
            engine.advance(runs_of(of, [r.replace(optimizer="adamw") for r in RECIPES]))
            assert len(begun) == 2

    @pytest.mark.parametrize(
        ("exact", "pace", "name"),
        [
            (True, CostModel(1e-6, 1e-6), "loop"),
            (True, CostModel(0.05, 0.05), "pool"),
            (True, CostModel(0.05, 0.05, stacked={4: 1e-9}), "pool"),
            (True, CostModel(0.05, 0.05, efficiency=0.4), "loop"),
            (False, CostModel(0.05, 0.05, stacked={4: math.inf}), "pool"),
            (False, CostModel(0.05, 0.0, stacked={4: 1e-4}), "vmap"),
            (False, CostModel(0.5, 0.0, stacked={4: 0.05}), "vmap pool"),
        ],
    )
    def test_the_answer_is_the_same_whichever_is_taken(
        self, exact: bool, pace: CostModel, name: str
    ) -> None:
        ours, theirs = runs_of(task(noisy), RECIPES), runs_of(task(noisy), RECIPES)
        if exact:
            pace.stacked.clear()
        with knowing(AutoEngine(2, exact=exact), ours, pace) as engine:
            engine.advance(ours, AdvanceRequest(evaluation_steps=quarters))
            assert [choice.engine for choice in engine.choices] == [name]
        LoopEngine().advance(theirs, AdvanceRequest(evaluation_steps=quarters))
        for one, other in zip(ours, theirs, strict=True):
            assert same_bits(one, other) if name in ("loop", "pool") else True
            assert_close(one, other)

    def test_exact_is_to_the_bit_with_nothing_known(self) -> None:
        ours, theirs = runs_of(task(noisy), RECIPES), runs_of(task(noisy), RECIPES)
        with AutoEngine(2, exact=True) as engine:
            for until in (7, 40, 90, None):
                engine.advance(ours, AdvanceRequest(until, evaluation_steps=quarters))
        LoopEngine().advance(theirs, AdvanceRequest(evaluation_steps=quarters))
        for one, other in zip(ours, theirs, strict=True):
            assert same_bits(one, other)

    def test_a_pool_that_is_slower_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "PATIENCE", 0.1)
        of = task(Away)
        ours, theirs = runs_of(of, RECIPES), runs_of(of, RECIPES)
        pace = CostModel(0.002, 0.002)
        with knowing(AutoEngine(2, exact=True), ours, pace) as engine:
            engine.advance(ours, AdvanceRequest(evaluation_steps=quarters))
            assert [choice.engine for choice in engine.choices] == ["pool", "loop"]
            assert engine.choices[1].reason.startswith("the pool was slower than the loop; ")
        assert pace.efficiency < 0.6
        LoopEngine().advance(theirs, AdvanceRequest(evaluation_steps=quarters))
        for one, other in zip(ours, theirs, strict=True):
            assert same_bits(one, other)

    def test_stop_is_the_callers(self) -> None:
        runs = runs_of(task(), RECIPES)
        with knowing(AutoEngine(2, exact=True), runs, CostModel(0.05, 0.05)) as engine:
            engine.advance(runs, AdvanceRequest(stop=counting(2)))
            assert [choice.engine for choice in engine.choices] == ["pool"]
        assert {run.status for run in runs} == {"stopped"}

    @pytest.mark.parametrize("exact", [True, False])
    def test_threads_are_the_runs_own_where_the_bits_are(self, exact: bool) -> None:
        runs = runs_of(task(), RECIPES)
        for run in runs:
            run.limit_threads(2)
        seen: set[int] = set()
        pace = CostModel(0.05, 0.05, efficiency=1.0, stacked={4: math.inf})
        with knowing(AutoEngine(2, exact=exact), runs, pace) as engine:
            engine.advance(
                runs, AdvanceRequest(30, on_step=lambda run, step: seen.add(run.threads))
            )
            assert engine.choices[0].engine == "pool"
        assert seen == {2 if exact else 1}
        assert {run.threads for run in runs} == {2}


class TestStacks:
    def test_a_trial_is_work_done(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "TEST_SHARE", math.inf)
        ours, theirs = runs_of(task(noisy), RECIPES), runs_of(task(noisy), RECIPES)
        with AutoEngine(2) as engine:
            engine.advance(ours, AdvanceRequest(60, evaluation_steps=quarters))
            (choice,) = engine.choices
            assert {"loop", "vmap"} == set(choice.measured)
            assert {"loop", "vmap"} <= set(choice.expected)
            assert choice.reason.startswith("expected: ")
            engine.advance(ours, AdvanceRequest(evaluation_steps=quarters))
        LoopEngine().advance(theirs, AdvanceRequest(evaluation_steps=quarters))
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)
            assert [e.step for e in one.evaluations] == [0, 25, 50, 75, 100]

    @pytest.mark.parametrize(
        ("field", "value", "recipes"),
        [
            ("LIGHT", 1.0, RECIPES),
            ("TEST_SHARE", 1e-9, RECIPES),
            ("LIGHT", math.inf, [r.replace(optimizer="radam") for r in RECIPES]),
            ("LIGHT", math.inf, [*RECIPES[:2], BASE.replace(batch_size=8, steps=100)]),
        ],
    )
    def test_where_it_cannot_pay_none_is_tried(
        self, field: str, value: float, recipes: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("it was tried")

        monkeypatch.setattr(module, "TEST_SHARE", math.inf)
        monkeypatch.setattr(module, field, value)
        engine = AutoEngine(1)
        monkeypatch.setattr(engine._stacks, "advance", refuse)
        monkeypatch.setattr(engine._stacks, "verified_program", refuse)
        engine.advance(runs_of(task(), recipes))
        assert {choice.engine for choice in engine.choices} == {"loop"}

    def test_looking_whether_it_is_light_leaves_the_run_alone(self) -> None:
        one, other = runs_of(task(noisy), RECIPES[:1] * 2)
        assert module._is_light(one)
        for run in (one, other):
            run.advance(5)
        assert same_bits(one, other)


class TestExpectation:
    def expect(self, pace: CostModel, steps: list[int], workers: int = 2) -> dict[str, float]:
        runs = runs_of(task(), [BASE.replace(steps=count) for count in steps])
        call = Call(runs, AdvanceRequest())
        return AutoEngine(workers)._expected(call, pace)

    def test_the_longest_run_and_the_start_count(self) -> None:
        begins = 2 * STARTING["fork"]
        even = self.expect(CostModel(1.0, 0.0, efficiency=1.0), [10, 10, 10])
        assert even["loop"] == 30
        assert even["pool"] == pytest.approx(15 + begins + 3 * SENDING)
        uneven = self.expect(CostModel(1.0, 0.0, efficiency=0.5), [100, 1])
        assert uneven["pool"] == pytest.approx(200 + begins + 2 * SENDING)

    def test_compiling_is_counted(self) -> None:
        compiling = NODES * SECONDS_PER_NODE
        few = self.expect(CostModel(1e-3, 0.0, stacked={2: 1e-3}), [50, 50])
        assert few["vmap"] == pytest.approx(0.1)
        both = self.expect(CostModel(1.0, 0.0, efficiency=0.5, stacked={4: 0.2}), [100] * 4)
        assert both["vmap"] == pytest.approx(80 * SHARE + compiling)
        assert both["vmap pool"] == pytest.approx(
            (80 * SHARE + 2 * compiling) / 2 / 0.5 + 2 * STARTING["fork"]
        )

    def test_a_small_gain_is_no_reason_to_leave_the_loop(self) -> None:
        runs = runs_of(task(), RECIPES[:2])
        pace = CostModel(1.0, 0.0, efficiency=0.5, stacked={2: GAIN + 0.05})
        call = Call(runs, AdvanceRequest(2))
        assert AutoEngine(2)._choose(call, pace).engine == "loop"


def test_it_is_an_engine_that_leaves_nothing_behind() -> None:
    runs = runs_of(task(), RECIPES)
    engine: Engine = knowing(AutoEngine(2, exact=True), runs, CostModel(0.05, 0.05))
    engine.advance(runs)
    assert isinstance(engine, AutoEngine)
    pids = engine._pool.processes
    assert len(pids) == 2
    engine.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError, match="No such process"):
            os.kill(pid, 0)


def test_train_many_takes_auto_by_itself() -> None:
    records = train_many(task(), RECIPES, evaluations=2)
    assert [record.recipe for record in records] == RECIPES
    assert [len(record.evaluations) for record in records] == [3] * 4
    assert len({record.valid_loss for record in records}) == 4
