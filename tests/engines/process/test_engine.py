"""The pool: the loop's bits, whatever dies, fails or is interrupted on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from etude import Recipe, Task
from etude.engines import LoopEngine, PoolEngine, VmapPoolEngine, train_many
from etude.engines.process.dispatcher import DEATHS
from etude.errors import BadTypeError, BadValueError, ObserverError, TaskError
from etude.tasks.models import mlp as bundled_mlp
from etude.training.observer import named_functions
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState
from tests.engines.common import (
    BASE,
    assert_close,
    both,
    data,
    mlp,
    noisy,
    quarters,
    runs_of,
    same_bits,
    task,
)

RECIPES = [BASE.replace(lr=lr, seed=seed) for lr, seed in [(0.1, 0), (0.01, 1), (0.05, 0)]]


class Slow(nn.Module):
    """Takes a while, so that there is time to interfere."""

    def __init__(self, seconds: float = 0.004) -> None:
        super().__init__()
        self.net, self.seconds = mlp(), seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.net(x)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def after(seconds: float, do: Callable[[], None]) -> Callable[[], bool]:
    """Return a stop that is never true, and does something once some time has passed."""
    begun = time.monotonic()
    done = False

    def stop() -> bool:
        nonlocal done
        if not done and time.monotonic() - begun > seconds:
            done = True
            do()
        return False

    return stop


class TestBits:
    @pytest.mark.parametrize("model", [mlp, noisy])
    def test_they_are_those_of_the_loop_also_after_a_pause(self, model: Any) -> None:
        ours, theirs = both(task(model), RECIPES, PoolEngine(2, keep=0.01), (7, None))
        for one, other in zip(ours, theirs, strict=True):
            assert same_bits(one, other)
            assert one.status == "finished"

    def test_divergence_and_other_optimizers(self) -> None:
        wild = {"name": "sgd", "weight_decay": 1.0}
        recipes = [BASE.replace(lr=1e30, optimizer=wild), BASE.replace(optimizer="radam")]
        ours, theirs = both(task(), recipes, PoolEngine(2))
        assert [run.status for run in ours] == ["diverged", "finished"]
        for one, other in zip(ours, theirs, strict=True):
            assert same_bits(one, other)

    def test_a_loader_and_observers(self) -> None:
        loader = DataLoader(TensorDataset(*data()), batch_size=16, shuffle=True)
        of = Task(mlp, loader, valid=data(), loss=cross_entropy)
        functions = {"norm": lambda state: next(state.model.parameters()).norm()}
        ours, theirs = (
            [Run(of, r, observers=named_functions(functions)) for r in RECIPES] for _ in range(2)
        )
        PoolEngine(2).advance(ours, 9)
        PoolEngine(2).advance(ours)
        LoopEngine().advance(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert same_bits(one, other)

    @pytest.mark.slow
    def test_processes_that_are_not_forked(self) -> None:
        model = partial(bundled_mlp, inputs=6, outputs=2, width=8)  # a process can import it
        ours, theirs = both(task(model), RECIPES, PoolEngine(2, start="spawn"), (7, None))
        for one, other in zip(ours, theirs, strict=True):
            assert same_bits(one, other)

    def test_stop_keeps_what_was_computed(self) -> None:
        ours = runs_of(task(Slow), [r.replace(steps=500) for r in RECIPES[:2]])
        begun: set[int] = set()
        PoolEngine(2).advance(
            ours,
            AdvanceRequest(
                stop=lambda: len(begun) == 2,
                on_step=lambda run, step: begun.add(run.recipe.seed) if step else None,
            ),
        )
        assert all(0 < run.step < 500 and run.status == "stopped" for run in ours)
        theirs = runs_of(task(Slow), [r.replace(steps=500) for r in RECIPES[:2]])
        for one, other in zip(ours, theirs, strict=True):
            other.advance(one.step)
            assert same_bits(one, other)

    def test_progress_is_told(self) -> None:
        ours = runs_of(task(Slow), [BASE.replace(steps=60)])
        seen: list[tuple[int, int]] = []
        PoolEngine(1, keep=0.1).advance(
            ours, AdvanceRequest(on_step=lambda run, s: seen.append((run.step, s)))
        )
        assert seen[-1] == (60, 60)
        assert any(state < step for state, step in seen)  # told of more than has come home
        assert any(0 < state < 60 for state, _ in seen)  # and states come home on the way


class TestDeath:
    def test_a_killed_process_costs_only_its_unfinished_updates(self) -> None:
        of = task(lambda: Slow(0.01))  # a second and a half, of which the kill may use any part
        recipes = [r.replace(steps=150) for r in RECIPES[:2]]
        ours, theirs = runs_of(of, recipes), runs_of(of, recipes)
        engine = PoolEngine(2, keep=0.1)
        killed: list[int] = []

        def kill() -> None:
            killed.append(engine.processes[0])
            os.kill(killed[0], signal.SIGKILL)

        engine.advance(ours, AdvanceRequest(evaluation_steps=quarters, stop=after(0.4, kill)))
        assert killed
        LoopEngine().advance(theirs, AdvanceRequest(evaluation_steps=quarters))
        for one, other in zip(ours, theirs, strict=True):
            assert same_bits(one, other)

    def test_a_run_that_kills_every_process_is_given_up(self) -> None:
        parent = os.getpid()

        class Deadly(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = mlp()

            def forward(self, x: Tensor) -> Tensor:
                if os.getpid() != parent:
                    os.kill(os.getpid(), signal.SIGKILL)
                return self.net(x)

        runs = runs_of(task(Deadly), RECIPES[:1])
        message = rf"the run at lr 0.1, seed 0: its process died {DEATHS} times after update 0 .SIG"
        with pytest.raises(TaskError, match=message):
            PoolEngine(1).advance(runs)

    def test_no_process_is_left_behind(self) -> None:
        engine = PoolEngine(2)
        pids: set[int] = set()
        engine.advance(
            runs_of(task(Slow), RECIPES),
            AdvanceRequest(on_step=lambda run, step: pids.update(engine.processes)),
        )
        assert len(pids) == 2
        engine.close()
        assert not any(alive(pid) for pid in pids)


class Failing(nn.Module):
    """Fails at its tenth training batch."""

    def __init__(self, kind: type[Exception] = ValueError) -> None:
        super().__init__()
        self.net, self.kind, self.count = mlp(), kind, 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += self.training
        if self.count > 10:
            raise self.kind("it broke")
        return self.net(x)


class TestErrors:
    def test_an_error_names_the_member_and_keeps_the_rest(self) -> None:
        runs = [Run(task(Failing), r.replace(steps=30)) for r in RECIPES]
        with pytest.raises(
            TaskError, match=r"^the model failed on inputs .*: it broke \(test_engine.py:\d+\)"
        ) as caught:
            PoolEngine(1).advance(runs)
        first, *rest = caught.value.__notes__
        assert first == "in the run at lr 0.1, seed 0"
        assert "Traceback" in "".join(rest)
        assert runs[0].step == 10
        with pytest.raises(TaskError, match=r"^the model .*it broke") as caught:
            LoopEngine().advance([Run(task(Failing), BASE.replace(steps=30))])
        assert caught.value.__notes__ == ["in the run at lr 0.05, seed 0"]

    def test_an_error_of_an_observer_names_it_the_update_and_the_run(self) -> None:
        def inverse(state: RunState) -> float:
            return 1 / (state.step - 5)

        run = Run(task(), BASE, observers=named_functions({"inverse": inverse}))
        with pytest.raises(
            ObserverError, match="'inverse' failed at update 5: ZeroDivisionError: division by zero"
        ) as caught:
            PoolEngine(1).advance([run])
        assert "in the run at lr 0.05, seed 0" in caught.value.__notes__
        assert run.step == 5

    def test_an_error_of_the_callers_ends_every_process(self) -> None:
        engine = PoolEngine(2)
        pids: list[int] = []

        def on_step(state: RunState, step: int) -> None:
            pids[:] = engine.processes
            raise RuntimeError("of the caller's")

        with pytest.raises(RuntimeError, match="of the caller's"):
            engine.advance(runs_of(task(Slow), RECIPES), AdvanceRequest(on_step=on_step))
        assert pids
        assert not any(alive(pid) for pid in pids)

    def test_what_cannot_be_sent_is_trained_in_the_loop(self) -> None:
        engine = PoolEngine(2, start="spawn")
        local = task(lambda: mlp())
        with pytest.warns(UserWarning, match="pool: the task cannot be sent to another process"):
            ours, theirs = both(local, RECIPES, engine)
        for one, other in zip(ours, theirs, strict=True):
            assert same_bits(one, other)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"workers": 0}, "workers=0: give at least 1"),
            ({"workers": True}, "workers=True: give at least 1"),
            ({"keep": 0}, "keep=0: give seconds above 0"),
        ],
    )
    def test_bad_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(BadValueError, match=message):
            PoolEngine(**options)

    def test_a_run_listed_twice(self) -> None:
        run = Run(task(), BASE)
        with pytest.raises(BadValueError, match="run 1 is listed twice: give each run once"):
            PoolEngine(1).advance([run, run])


SCRIPT = """
    import signal, time, torch
    # Whoever runs the tests in the background may have had SIGINT ignored, which is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    from torch import nn
    from torch.nn.functional import cross_entropy
    from etude import Recipe, Task
    from etude.engines import AdvanceRequest, PoolEngine
    from etude.training.run import Run

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(6, 2)
        def forward(self, x):
            time.sleep(0.005)
            return self.net(x)

    x = torch.randn(80, 6)
    task = Task(Slow, (x, (x[:, 0] > 0).long()), loss=cross_entropy)
    runs = [Run(task, Recipe(lr=lr, steps=100_000, batch_size=16)) for lr in (0.1, 0.01)]
    engine = PoolEngine(2)
    told, begun = False, set()
    def on_step(run, step):
        global told
        begun.add(id(run))
        if not told and len(begun) == 2:
            told = True
            print(*engine.processes, flush=True)
    try:
        engine.advance(runs, AdvanceRequest(on_step=on_step))
    except KeyboardInterrupt:
        print("interrupted", *(run.step > 0 for run in runs), flush=True)
"""


class TestSignals:
    def start(self, tmp_path: Path) -> tuple[subprocess.Popen[str], list[int]]:
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(SCRIPT))
        process = subprocess.Popen(
            [sys.executable, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        return process, [int(word) for word in line.split()]

    def gone(self, pids: list[int], seconds: float = 60) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(alive(pid) for pid in pids):
            time.sleep(0.05)
        return not any(alive(pid) for pid in pids)

    def test_ctrl_c_ends_every_process_and_keeps_the_states(self, tmp_path: Path) -> None:
        process, pids = self.start(tmp_path)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        out, error = process.communicate(timeout=120)
        assert out.strip() == "interrupted True True", error
        assert error == ""
        assert self.gone(pids)

    def test_processes_whose_parent_is_killed_leave(self, tmp_path: Path) -> None:
        process, pids = self.start(tmp_path)
        process.kill()
        process.communicate(timeout=120)
        assert self.gone(pids)


STACKED = [BASE.replace(lr=0.02 * (i + 1), seed=i % 2) for i in range(5)]


class TestStacksInProcesses:
    def test_a_member_is_a_run_also_after_a_pause(self) -> None:
        engine = VmapPoolEngine(2, compile="never")
        ours, theirs = both(task(noisy), STACKED, engine, (7, None))
        assert engine.notes == []
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)

    def test_they_are_compiled_before_they_are_forked(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        graphs: list[int] = []

        def compiled(graph: Any, leaves: Any) -> Any:
            graphs.append(os.getpid())
            return graph

        monkeypatch.setattr("etude.engines.vmap.execution.compiled", compiled)
        ours, theirs = both(task(noisy), STACKED, VmapPoolEngine(2, compile="always"))
        assert graphs[:2] == [os.getpid()] * 2  # a stack of three and one of two
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)

    @pytest.mark.slow
    def test_a_killed_process_costs_only_its_unfinished_updates(self) -> None:
        recipes = [recipe.replace(steps=2_000) for recipe in STACKED[:4]]
        ours, theirs = runs_of(task(), recipes), runs_of(task(), recipes)
        engine = VmapPoolEngine(2, compile="never", keep=0.1)
        killed: list[int] = []

        def kill() -> None:
            killed.append(engine.processes[0])
            os.kill(killed[0], signal.SIGKILL)

        home: list[int] = []
        engine.advance(
            ours,
            AdvanceRequest(stop=after(0.6, kill), on_step=lambda run, step: home.append(run.step)),
        )
        assert killed
        assert any(0 < step < 2_000 for step in home)
        VmapPoolEngine(2, compile="never").advance(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other, 1e-2)

    def test_what_cannot_be_stacked_goes_to_the_pool(self) -> None:
        recipes = [recipe.replace(optimizer="radam") for recipe in STACKED[:2]]
        engine = VmapPoolEngine(2)
        with pytest.warns(UserWarning, match="vmap pool: the optimizer radam has no stacked"):
            ours, theirs = both(task(), recipes, engine)
        for one, other in zip(ours, theirs, strict=True):
            assert same_bits(one, other)

    def test_an_error_names_the_member_by_its_place_among_all(self) -> None:
        def metric(output: Tensor, target: Tensor) -> float:
            if float(output.abs().max()) > 50:
                raise ValueError("it broke")
            return 0.0

        of = Task(mlp, data(), loss=cross_entropy, metric=metric)
        recipes = [BASE, BASE, BASE, BASE.replace(lr=300.0)]
        runs = [Run(of, recipe) for recipe in recipes]
        with pytest.raises(TaskError, match=r"^metric .*it broke") as caught:
            VmapPoolEngine(2, compile="never").advance(
                runs,
                AdvanceRequest(evaluation_steps=quarters),
            )
        assert caught.value.__notes__[0] == "in the run at lr 300, seed 0"


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_without_shared_memory_files_runs_are_trained_and_told_where_not_in_processes(
    monkeypatch: pytest.MonkeyPatch, start: Any
) -> None:
    """Where /dev/shm is missing, which some sandboxes do."""

    def missing(*given: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/dev/shm")

    monkeypatch.setattr("multiprocessing.sharedctypes.RawValue", missing)
    runs, alone = runs_of(task(), RECIPES), runs_of(task(), RECIPES)
    LoopEngine().advance(alone)
    with PoolEngine(2, start=start) as engine:
        if start == "fork":
            engine.advance(runs)
            assert len(engine.processes) == 2
        else:
            with pytest.warns(UserWarning, match="pool: no process can be started .*/dev/shm"):
                engine.advance(runs)
    assert all(same_bits(one, other) for one, other in zip(runs, alone, strict=True))


def test_train_many_by_the_pool_is_the_loop() -> None:
    ours = train_many(task(), RECIPES, PoolEngine(2), evaluations=4)
    theirs = train_many(task(), RECIPES, "loop", evaluations=4)
    for one, other in zip(ours, theirs, strict=True):
        assert one.evaluations == other.evaluations
        assert torch.equal(one.model[0].weight, other.model[0].weight)
        assert one.recipe == other.recipe


@pytest.mark.parametrize(
    ("recipes", "kind", "message"),
    [
        ([], BadValueError, "recipes is empty: give at least one Recipe"),
        (["adam"], BadTypeError, r"recipes\[0\] is a str: give a Recipe"),
    ],
)
def test_bad_recipes(recipes: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        train_many(task(), recipes)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"engine": "vmp"}, BadValueError, "unknown engine 'vmp': did you mean 'vmap'"),
        ({"engine": 3}, BadTypeError, "engine=3: give a name"),
        ({"evaluations": 0}, BadValueError, "evaluations=0: give at least 1"),
    ],
)
def test_bad_options(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        train_many(task(), [Recipe(steps=2, batch_size=16)], **options)
