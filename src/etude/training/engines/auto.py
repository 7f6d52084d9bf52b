"""Measures a few updates of every engine that fits, and takes the one that ends first."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from etude.training.engines.engine import (
    Engine,
    Marks,
    OnStep,
    check_runs,
    no_marks,
    pending,
    target,
)
from etude.training.engines.loop import LoopEngine
from etude.training.engines.pool import PoolEngine, cores
from etude.training.engines.team import usual_start
from etude.training.engines.vmap.drive import threads_for
from etude.training.engines.vmap.engine import VmapEngine
from etude.training.engines.vmap.execution import SECONDS_PER_NODE, SHARE
from etude.training.engines.vmap.fit import kind, misfit
from etude.training.engines.vmap.stack import Stack
from etude.training.engines.vmap.trial import copied
from etude.training.engines.vmap_pool import VmapPoolEngine
from etude.training.run import Run
from etude.training.threads import use_threads

WARM, TIMED = 3, 8
"""Updates of a trial: before the clock starts, and under it."""

CARE = 0.02
"""Share of the work that a trial of the pool may take."""

LONG = 0.15
"""Seconds of a trial of the pool, whose processes are slow at first."""

STARTING = 0.15
"""Seconds to fork the pool and bring its states home."""

NODES = 200
"""Operations in the graph of an update, before it is known: two hidden layers have 160."""

SHORT = 8.0
"""Seconds of work below which measuring would cost more than it gains."""

GAIN = 0.85
"""Another engine is taken if it is expected to need less than this share of the loop's time."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        engine: The engine's name.
        reason: One sentence.
        expected: Seconds that each engine was expected to need.
        measured: Seconds that an update of one member takes in each.
    """

    engine: str
    reason: str
    expected: dict[str, float]
    measured: dict[str, float]


class AutoEngine(Engine):
    """Takes the engine that is expected to end first, the time to compile included.

    The trials are made on copies: whichever engine is taken, the runs are what they would be had
    it been asked for by name. `choices` holds what was chosen at every call, and why.

    Args:
        workers: Processes of the pool; None for one per core.

    >>> AutoEngine().name
    'auto'
    """

    name: ClassVar[str] = "auto"

    def __init__(self, workers: int | None = None) -> None:
        super().__init__()
        self.workers = workers
        self.choices: list[Choice] = []
        self._pool = PoolEngine(workers)
        stacks = VmapEngine(fallback=self._pool)
        both = VmapPoolEngine(workers)
        both.inner = stacks  # what one has tried and compiled, the other uses
        self._engines: dict[str, Engine] = {
            "loop": LoopEngine(),
            "pool": self._pool,
            "vmap": stacks,
            "vmap pool": both,
        }
        self._measured: dict[Hashable, dict[str, float]] = {}

    def close(self) -> None:
        """Let every engine give back what it holds."""
        for engine in self._engines.values():
            engine.close()

    def advance(
        self,
        runs: Sequence[Run],
        until: int | None = None,
        *,
        marks: Marks = no_marks,
        stop: Callable[[], bool] = bool,
        on_step: OnStep | None = None,
    ) -> None:
        """Train every run in the engine that suits them; see `Engine.advance`."""
        check_runs(runs)
        chosen = [runs[i] for i in pending(runs, until, marks)]
        if not chosen or stop():
            return
        choice = self.choose(chosen, until)
        self.choices.append(choice)
        engine = self._engines[choice.engine]
        try:
            engine.advance(runs, until, marks=marks, stop=stop, on_step=on_step)
        finally:
            self.notes += [note for note in engine.notes if note not in self.notes]

    def choose(self, runs: list[Run], until: int | None = None) -> Choice:
        """Return what suits some runs that all have updates to do; they are left as they are."""
        steps = [target(run, until) - run.step for run in runs]
        if len(runs) == 1:
            return Choice("loop", "there is one run", {}, {})
        key = (frozenset(map(kind, runs)), len(runs))
        if key not in self._measured:
            self._measured[key] = {"loop": _time_loop(runs[0])}
        measured = self._measured[key]
        work = measured["loop"] * sum(steps)
        if work < SHORT:
            reason = f"all updates take the loop about {work:.2g} s, too little to measure more"
            return Choice("loop", reason, {"loop": work}, dict(measured))
        if len(measured) == 1:
            measured |= self._time_others(runs, measured["loop"], work)
        expected = self._expected(measured, steps)
        best = min(expected, key=lambda name: expected[name])
        if expected[best] > GAIN * expected["loop"]:
            best = "loop"
        listed = ", ".join(
            f"{name} {seconds:.3g} s" for name, seconds in sorted(expected.items(), key=_second)
        )
        return Choice(best, f"expected: {listed}", expected, dict(measured))

    def _expected(self, measured: dict[str, float], steps: list[int]) -> dict[str, float]:
        expected = {"loop": measured["loop"] * sum(steps)}
        if "pool" in measured:
            # The last round of runs may leave processes without work.
            processes = min(self.workers or cores(), len(steps))
            rounds = max(max(steps), sum(steps) / processes)
            expected["pool"] = measured["pool"] * rounds + STARTING
        if "vmap" in measured:
            plain, compiling = measured["vmap"] * sum(steps), NODES * SECONDS_PER_NODE
            expected["vmap"] = min(plain, plain * SHARE + compiling)
            processes = min(self.workers or cores(), len(steps) // 2)
            if "pool" in measured and processes > 1:
                # What processes lose to each other was seen in the pool.
                plain *= max(1.0, measured["pool"] / measured["loop"]) / processes
                expected["vmap pool"] = STARTING + min(plain, plain * SHARE + compiling)
        return expected

    def _time_others(self, runs: list[Run], loop: float, work: float) -> dict[str, float]:
        found = {}
        processes = min(self.workers or cores(), len(runs))
        if processes > 1 and usual_start() == "fork" and runs[0].device.type == "cpu":
            seconds = min(LONG, CARE * work)
            found["pool"] = _time_pool(runs[:processes], max(TIMED, round(seconds / loop)))
        engine = self._engines["vmap"]
        assert isinstance(engine, VmapEngine)
        kinds = {kind(run) for run in runs}
        if len(kinds) == 1 and not misfit(runs[0]):
            stacked = _time_vmap(engine, kinds.pop(), runs, 1.3 * loop)
            if stacked is not None:
                found["vmap"] = stacked
        return found


def _second(pair: tuple[str, float]) -> float:
    return pair[1]


def _time_loop(run: Run) -> float:
    trial = copied(run)
    trial.advance(min(trial.step + WARM, trial.length - 1))
    times = []
    for _ in range(2):
        first, before = trial.step, trial.seconds
        trial.advance(first + TIMED)
        if trial.step > first:
            times.append((trial.seconds - before) / (trial.step - first))
    return min(times, default=0.0)


def _time_pool(runs: list[Run], steps: int) -> float:
    """Return the seconds of an update in a process of the pool while all of them work."""
    trials = [copied(run) for run in runs]
    starts = [trial.step for trial in trials]
    before = [trial.seconds for trial in trials]
    PoolEngine(len(trials)).advance(trials, min(starts) + steps)
    each = [
        (trial.seconds - b) / max(1, trial.step - s)
        for trial, b, s in zip(trials, before, starts, strict=True)
    ]
    return max(each)


def _time_vmap(engine: VmapEngine, key: Hashable, runs: list[Run], hopeless: float) -> float | None:
    """Return the seconds of a member's update in a stack, soon if they are hopelessly many."""
    found = engine.fitted(key, runs)
    if isinstance(found, str):
        engine.explain(f"vmap: the model cannot be stacked: {found}")
        return None
    fitted, _ = found
    stack = Stack(fitted.program, runs[: engine.size(fitted, runs[0])], fitted.masks)
    times = []
    with use_threads(threads_for(stack)):
        for count in (1, 2, TIMED, TIMED):
            started = time.perf_counter()
            stack.advance(count, fitted.program.step)
            times.append((time.perf_counter() - started) / count / len(stack))
            if len(times) > 1 and times[-1] > hopeless:
                break
    return min(times)
