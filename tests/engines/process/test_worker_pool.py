"""The pool's processes: they stay, learn of new runs, notice what changed, and leave when told."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from etude import Task
from etude.engines import LoopEngine, PoolEngine, VmapPoolEngine
from etude.engines.process.partition import SHORTEST, pieces
from etude.engines.process.state_transfer import StateTransfer, pack, room_for, unpack
from etude.training.machine.threads import use_threads
from etude.training.observer import named_functions
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState
from tests.engines.common import BASE, data, mlp, noisy, quarters, runs_of, same_bits, task

RECIPES = [BASE.replace(lr=0.1 / (i + 1), seed=i % 2, steps=60) for i in range(3)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def check(engine: PoolEngine, of: Task, recipes: Any = RECIPES, **more: Any) -> None:
    """Train by the pool, in two goes, and hold it against the loop."""
    ours, theirs = ([Run(of, recipe, **more) for recipe in recipes] for _ in range(2))
    engine.advance(ours, AdvanceRequest(23, evaluation_steps=quarters))
    engine.advance(ours, AdvanceRequest(evaluation_steps=quarters))
    LoopEngine().advance(theirs, AdvanceRequest(evaluation_steps=quarters))
    for one, other in zip(ours, theirs, strict=True):
        assert one.status == "finished"
        assert same_bits(one, other)


class TestStaying:
    @pytest.mark.parametrize("model", [mlp, noisy])
    def test_the_same_processes_take_runs_that_come_later(self, model: Any) -> None:
        with PoolEngine(2) as engine:
            of = task(model)
            check(engine, of)
            pids = engine.processes
            assert len(pids) == 2
            check(engine, of, [r.replace(lr=r.lr / 2, seed=9) for r in RECIPES])
            assert engine.processes == pids

    def test_no_more_are_started_than_there_are_runs(self) -> None:
        with PoolEngine(4) as engine:
            engine.advance(runs_of(task(), RECIPES[:2]))
            assert len(engine.processes) == 2

    def test_closing_and_forgetting_an_engine_end_them(self) -> None:
        engine = PoolEngine(2)
        for end in (engine.close, lambda: None):
            check(engine, task())
            pids = engine.processes
            assert all(map(alive, pids))
            end()
        del engine
        gc.collect()
        assert not any(map(alive, pids))

    def test_an_error_of_the_callers_ends_them_and_the_engine_goes_on(self) -> None:
        def on_step(state: RunState, step: int) -> None:
            pids[:] = engine.processes
            raise RuntimeError("of the caller's")

        pids: list[int] = []
        with PoolEngine(2) as engine:
            of = task()
            with pytest.raises(RuntimeError, match="of the caller's"):
                engine.advance(runs_of(of, RECIPES), AdvanceRequest(on_step=on_step))
            assert pids
            assert not any(map(alive, pids))
            check(engine, of)

    def test_the_end_of_the_program_ends_them(self, tmp_path: Path) -> None:
        script = """
            import torch
            from torch.nn.functional import cross_entropy
            from etude import Recipe, Task
            from etude.engines import PoolEngine
            from etude.training.run import Run
            x = torch.randn(80, 6)
            y = (x[:, 0] > 0).long()
            task = Task(lambda: torch.nn.Linear(6, 2), (x, y), loss=cross_entropy)
            engine = PoolEngine(2)
            engine.advance([Run(task, Recipe(lr=r, steps=20, batch_size=16)) for r in (0.1, 0.2)])
            print(*engine.processes)
        """
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(script))
        done = subprocess.run(
            [sys.executable, str(path)], capture_output=True, text=True, timeout=120, check=True
        )
        pids = [int(word) for word in done.stdout.split()]
        assert len(pids) == 2
        assert done.stderr == ""
        assert not any(map(alive, pids))

    def test_runs_that_are_no_more_are_forgotten(self) -> None:
        with PoolEngine(1) as engine:
            of = task()
            for _ in range(4):
                engine.advance(runs_of(of, RECIPES[:2]))
            assert engine._pool is not None
            gc.collect()
            engine.advance(runs_of(of, RECIPES[:1]))
            assert [len(worker.known) for worker in engine._pool.workers] == [1]


class TestNoticing:
    def test_an_idle_process_that_dies_is_replaced(self) -> None:
        with PoolEngine(2) as engine:
            of = task()
            check(engine, of)
            os.kill(engine.processes[0], signal.SIGKILL)
            check(engine, of)

    def test_data_that_was_changed(self) -> None:
        x, y = (t.clone() for t in data())
        of = Task(mlp, (x, y), valid=(x, y), loss=cross_entropy)
        with PoolEngine(2) as engine:
            check(engine, of)
            with torch.no_grad():
                of.train.tensors[0].mul_(2)
            check(engine, of)

    def test_other_observers_and_other_tasks(self) -> None:
        with PoolEngine(2) as engine:
            for factor in (1.0, 2.0):
                functions = {"step": lambda state, f=factor: f * state.step}
                check(engine, task(), observers=named_functions(functions))

    def test_what_happened_to_a_run_in_between(self) -> None:
        ours, theirs = runs_of(task(noisy), RECIPES), runs_of(task(noisy), RECIPES)
        with PoolEngine(2) as engine:
            for first, by in ((10, engine), (20, LoopEngine()), (40, engine)):
                by.advance(ours, AdvanceRequest(first, evaluation_steps=quarters))
                LoopEngine().advance(theirs, AdvanceRequest(first, evaluation_steps=quarters))
                for run in (*ours, *theirs):
                    run.model[0].bias.data.mul_(0.5)
        for one, other in zip(ours, theirs, strict=True):
            assert same_bits(one, other)


class Counting(nn.Module):
    """Notes how many threads it was computed with."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 4096), nn.Tanh(), nn.Linear(4096, 2))
        self.register_buffer("threads", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.threads.fill_(torch.get_num_threads())
        return self.net(x)


class TestThreads:
    @pytest.mark.parametrize("threads", [1, 2])
    def test_a_run_is_computed_with_its_own_number(self, threads: int) -> None:
        with use_threads(2):  # OpenMP's threads are there before anything is forked
            torch.ones(512, 512) @ torch.ones(512, 512)
        recipes = [RECIPES[0].replace(steps=6)]
        ours, theirs = runs_of(task(Counting), recipes), runs_of(task(Counting), recipes)
        for run in (*ours, *theirs):
            run.limit_threads(threads)
        begun = time.monotonic()

        def stop() -> bool:
            if time.monotonic() - begun > 20:  # for ever
                for pid in engine.processes:
                    os.kill(pid, signal.SIGKILL)
            return False

        with PoolEngine(2) as engine:
            engine.advance(ours, AdvanceRequest(evaluation_steps=quarters, stop=stop))
        LoopEngine().advance(theirs, AdvanceRequest(evaluation_steps=quarters))
        for one, other in zip(ours, theirs, strict=True):
            assert int(one.model.threads) == one.threads == threads
            assert same_bits(one, other)

    def test_processes_share_the_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("etude.engines.process.engine.cores", lambda: 4)
        runs = runs_of(task(), RECIPES * 2)
        for threads, expected in ((1, 4), (2, 2), (4, 1), (8, 1)):
            for run in runs:
                run.limit_threads(threads)
            assert PoolEngine().width(runs) == expected
        assert PoolEngine(3).width(runs) == 3


class TestPieces:
    @given(st.lists(st.integers(0, 500), max_size=12), st.integers(1, 6))
    def test_they_cover_every_run_and_end_together(self, lengths: list[int], count: int) -> None:
        found = pieces(lengths, count)
        done = dict.fromkeys(range(len(lengths)), 0)
        free, ready = [0] * count, dict(done)
        for run, end in found:
            assert end >= done[run]
            length, done[run] = end - done[run], end
            # The first process that is free takes it once its beginning is done.
            worker = min(range(count), key=free.__getitem__)
            ready[run] = free[worker] = max(free[worker], ready[run]) + length
        assert list(done.values()) == lengths
        assert len(found) <= len(lengths) + count - 1
        if count <= 2:
            best = max([*lengths, -(-sum(lengths) // count)])
            assert max(free) <= best + SHORTEST

    def test_an_odd_run_is_shared(self) -> None:
        assert sorted(pieces([100] * 5, 2)) == [
            (0, 100),
            (1, 100),
            (2, 50),
            (2, 100),
            (3, 100),
            (4, 100),
        ]


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=3),
    st.builds(
        lambda shape, kind: torch.arange(int(torch.Size(shape).numel())).reshape(shape).to(kind),
        st.lists(st.integers(0, 3), max_size=3),
        st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]),
    ),
)
states = st.dictionaries(st.text(max_size=3), st.lists(leaves, max_size=3), max_size=4)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class TestParcels:
    @given(st.lists(states, max_size=4), st.sampled_from([0, 500, 2**16]))
    def test_what_comes_is_what_was_sent_with_and_without_room(
        self, sent: list[dict[str, Any]], room: int
    ) -> None:
        transfer = StateTransfer(room)
        packed = transfer.put(sent)
        assert all(isinstance(one, bytes) for one in packed) or room
        assert same(list(transfer.get(packed)), sent)
        assert not transfer.taken
        for state in sent:
            assert same(unpack(pack(state)), state)

    def test_what_was_not_read_is_not_written_over(self) -> None:
        transfer = StateTransfer(2**16)
        (first,) = transfer.put([{"w": torch.ones(3)}])
        assert not isinstance(first, bytes)
        assert transfer.taken
        (second,) = transfer.put([{"w": torch.zeros(3)}])
        assert isinstance(second, bytes)
        assert [s["w"].sum().item() for s in transfer.get([first, second])] == [3.0, 0.0]
        assert not transfer.taken

    def test_a_runs_state_has_room(self) -> None:
        run = runs_of(task(noisy), [BASE.replace(optimizer="adamw", steps=500)])[0]
        run.advance()
        (one,) = StateTransfer(room_for([run], 1)).put([run.state_dict()])
        assert not isinstance(one, bytes)


def test_states_come_home_while_the_parent_is_slow() -> None:
    """A process never writes over a state that was not read yet."""
    ours, theirs = runs_of(task(), RECIPES), runs_of(task(), RECIPES)
    with PoolEngine(2, keep=0.001) as engine:
        engine.advance(
            ours,
            AdvanceRequest(evaluation_steps=quarters, on_step=lambda run, step: time.sleep(0.02)),
        )
    LoopEngine().advance(theirs, AdvanceRequest(evaluation_steps=quarters))
    for one, other in zip(ours, theirs, strict=True):
        assert same_bits(one, other)


def test_what_a_stack_per_core_has_traced_stays_for_the_next_call():
    engine = VmapPoolEngine(2, compile="never")
    with engine:
        members = runs_of(task(), [BASE.replace(lr=0.1 / (i + 1)) for i in range(4)])
        engine.advance(members, 4)
        before = {key: id(found) for key, found in engine.inner._fitted.items()}
        engine.advance(members, 8)
        assert len(before) == 1
        assert {key: id(found) for key, found in engine.inner._fitted.items()} == before
    assert not engine.inner._fitted


def test_a_forked_process_makes_the_compilers_threads_anew():
    """Or the first new shape that it compiled would wait for a thread that was not forked along."""
    from torch._inductor.async_compile import AsyncCompile

    AsyncCompile.pool()
    child = os.fork()
    if child == 0:
        os._exit(AsyncCompile.pool.cache_info().currsize)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
