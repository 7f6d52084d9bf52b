"""Chooses the engine that is expected to finish first, from timings of the first updates."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch

from etude.engines.base import Engine, check_runs
from etude.engines.loop import LoopEngine
from etude.engines.process.cost_model import (
    Call,
    CostModel,
    SpeedMonitor,
    cost_key,
    time_first_updates,
)
from etude.engines.process.engine import PoolEngine, cores
from etude.engines.process.worker_pool import usual_start
from etude.engines.vmap.eligibility import kind, why_not_stackable
from etude.engines.vmap.engine import VmapEngine
from etude.engines.vmap.execution import SECONDS_PER_NODE, SHARE
from etude.engines.vmap_pool import VmapPoolEngine
from etude.model_copy import copy_model
from etude.randomness import random_state_kept
from etude.tasks.sources.data import Cursor
from etude.tasks.task import Task
from etude.training.machine.threads import counted_work
from etude.training.observers import refusal
from etude.training.request import AdvanceRequest
from etude.training.run import Run

STARTING = {"fork": 0.04, "spawn": 5.0}
"""Seconds to start one process."""

SENDING = 0.005
"""Seconds to send a run to a process and to receive it again."""

SLOW, PATIENCE = 0.75, 2.0
"""The pool is abandoned if, after `PATIENCE` seconds, its speed relative to the loop is below
`SLOW`. In the first half second a process builds its first model and does its slow first updates:
measured by then, a pool that is 1.7 times as fast as the loop seems slower."""

MEASURED = 0.25
"""Seconds of training from which on a measured speed corrects the cost model."""

LIGHT = 1.5e7
"""Operations of a forward pass below which stacking can be faster on a CPU.

Measured on two cores: stacking is faster for dense networks of 4e5 to 3e6 operations and for a
convolutional one of 1e7; it is slower for a convolutional one of 4e7, a recurrent one of 2e7 and
a transformer of 1e8.
"""

SETUP_UPDATES, TEST_SHARE = 60, 0.04
"""The cost, in updates, of building and checking a stack; the largest share of all updates that
testing a stack may cost."""

FIRST, LATER = 3, (8, 8)
"""The number of slow first updates of a stack, and the numbers of updates that are timed."""

NODES = 200
"""The assumed number of operations in the graph of an update. With two hidden layers it is 160."""

GAIN = 0.85
"""Another engine is chosen if its expected time is below this share of the loop's time."""


@dataclass(frozen=True)
class Choice:
    """The chosen engine, and the reason.

    Attributes:
        engine: The engine's name.
        reason: One sentence.
        expected: The expected time of each engine, in seconds.
        measured: The measured time of one run's update in each engine, in seconds.
    """

    engine: str
    reason: str
    expected: dict[str, float]
    measured: dict[str, float]


class AutoEngine(Engine):
    """Chooses the engine that is expected to finish first, including the time to compile.

    The updates that are timed are part of the training: the loop does the first updates of one
    run, and a stack does some updates of all runs. If the pool turns out to be slower than the
    loop, the loop continues. `choices` lists every choice with its reason.

    Args:
        workers: The number of processes of the pool; None for as many as the cores allow.
        exact: Whether to use only the engines whose results equal the loop's to the bit: the loop
            and the pool.

    >>> AutoEngine(exact=True).name
    'auto'
    """

    name: ClassVar[str] = "auto"

    def __init__(self, workers: int | None = None, *, exact: bool = False) -> None:
        super().__init__()
        self.workers, self.exact = workers, exact
        self.choices: list[Choice] = []
        self._loop = LoopEngine()
        self._pool = PoolEngine(workers)
        self._stacks = VmapEngine(fallback=self._pool)
        both = VmapPoolEngine(workers)
        both.inner = self._stacks  # the two share what was verified and compiled
        self._engines: dict[str, Engine] = {
            "loop": self._loop,
            "pool": self._pool,
            "vmap": self._stacks,
            "vmap pool": both,
        }
        self._paces: WeakKeyDictionary[Task, dict[Hashable, CostModel]] = WeakKeyDictionary()

    def parallel(self, runs: Sequence[Run]) -> int:
        """Return how many of some runs are trained at the same time, with the loop's bits."""
        return self._pool.parallel(runs) if self.exact else 1

    def close(self) -> None:
        """Free the resources of every engine."""
        for engine in self._engines.values():
            engine.close()

    def advance(self, runs: Sequence[Run], request: AdvanceRequest | int | None = None) -> None:
        """Train the runs in the engine that is expected to be fastest; see `Engine.advance`."""
        check_runs(runs)
        call = Call(runs, AdvanceRequest.of(request))
        if not call.waiting or call.request.stop():
            return
        try:
            self._train(call, self._decide(call))
        finally:
            for engine in self._engines.values():
                self.notes += [note for note in engine.notes if note not in self.notes]

    def _decide(self, call: Call) -> Choice:
        waiting = call.waiting
        if len(waiting) == 1:
            return Choice("loop", "there is one run", {}, {})
        if (size := waiting[0].state.world.size) > 1:  # a choice by timings would differ in each
            return Choice("loop", f"{size} processes train each run together", {}, {})
        self._explain_observers(waiting)
        known = self._paces.setdefault(waiting[0].task, {})
        key = cost_key(waiting[0])
        if key not in known:
            pace = time_first_updates(call, waiting[0])
            if pace is None:
                return Choice("loop", "there are no updates to do", {}, {})
            known[key] = pace
        if not self.exact:
            self._try_stack(call, known[key])
        return self._choose(call, known[key])

    def _explain_observers(self, runs: list[Run]) -> None:
        """Add a note for each engine that the runs' observers do not support."""
        for engine in ("pool",) if self.exact else ("pool", "vmap"):
            reason = next((r for run in runs if (r := refusal(run.observers, engine))), "")
            if reason:
                self.explain(f"{engine}: {reason}; another engine is used")

    def _choose(self, call: Call, pace: CostModel, without: str = "") -> Choice:
        expected = {n: s for n, s in self._expected(call, pace).items() if n != without}
        best = min(expected, key=lambda name: expected[name])
        if expected[best] > GAIN * expected["loop"]:
            best = "loop"
        pairs = sorted(expected.items(), key=lambda pair: pair[1])
        listed = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in pairs)
        measured = {"loop": pace.update}
        if "vmap" in expected:
            measured["vmap"] = pace.stacked[len(call.waiting)]
        lead = f"the {without} was slower than the loop; " if without else ""
        return Choice(best, f"{lead}expected: {listed}", expected, measured)

    def _expected(self, call: Call, pace: CostModel) -> dict[str, float]:
        runs = call.waiting
        if not runs:
            return {"loop": 0.0}
        left = [call.left(run) for run in runs]
        works = [pace.work(*one) for one in left]
        expected = {"loop": sum(works)}
        with self._threads(runs):
            width, fits = self._pool.width(runs), not self._pool.unfit(runs)
            begins = STARTING[usual_start()] * self._pool.missing(runs) + SENDING * len(runs)
        if width > 1 and fits:
            # With one thread an update takes longer, but by less than the number of threads: of two
            # by 1.14 to 1.17 for bundled convolutional networks.
            alone = 1.0 if self.exact else max(run.threads for run in runs) ** (1 / 3)
            busy = max(max(works), sum(works) / width)
            expected["pool"] = busy * alone / pace.efficiency + begins
        stacked = pace.stacked.get(len(runs), math.inf)
        if stacked < math.inf:
            updates, evaluations = (sum(column) for column in zip(*left, strict=True))
            evaluating, plain = evaluations * pace.evaluation, stacked * updates
            compiling = 0.0 if self._compiled(runs) else NODES * SECONDS_PER_NODE
            expected["vmap"] = min(plain, plain * SHARE + compiling) + evaluating
            processes = min(self.workers or cores(), len(runs) // 2)
            if processes > 1 and usual_start() == "fork" and runs[0].device.type == "cpu":
                each = min(plain, plain * SHARE + compiling * processes) + evaluating
                expected["vmap pool"] = (
                    each / processes / pace.efficiency + STARTING["fork"] * processes
                )
        return expected

    def _compiled(self, runs: list[Run]) -> bool:
        found = self._stacks.known_program(kind(runs[0]))
        return found is not None and not isinstance(found, str) and found[1].compiled

    def _train(self, call: Call, choice: Choice) -> None:
        """Train in the chosen engine; if the pool is too slow, choose again without it."""
        self.choices.append(choice)
        waiting = call.waiting
        if not waiting or call.request.stop():
            return
        pace = self._paces.get(waiting[0].task, {}).get(cost_key(waiting[0]))
        engine = self._engines[choice.engine]
        if pace is None or choice.engine.startswith("vmap"):
            engine.advance(call.runs, call.request)
            return
        begins, slowest, ideal = 0.0, 0.0, 1.0
        if engine is self._pool:
            works = [pace.work(*call.left(run)) for run in waiting]
            begins, slowest = STARTING[usual_start()] * self._pool.missing(waiting), SLOW
            ideal = sum(works) / max(max(works), sum(works) / self._pool.width(waiting), 1e-9)
        monitor = SpeedMonitor(call, pace, begins=begins, slowest=slowest, patience=PATIENCE)
        with self._threads(waiting if engine is self._pool else []):
            engine.advance(
                call.runs, replace(call.request, stop=monitor.stop, on_step=monitor.on_step)
            )
        known = monitor.slow or monitor.seconds > MEASURED
        if known and (monitor.done or engine is self._pool):
            self._update_cost_model(pace, monitor.speed, ideal, engine is self._pool)
        if monitor.slow:
            self._train(call, self._choose(call, pace, without="pool"))

    @staticmethod
    def _update_cost_model(pace: CostModel, speed: float, ideal: float, pooled: bool) -> None:
        """Correct the cost model by the measured speed."""
        if pooled:
            measured = min(1.0, max(0.2, speed / ideal))
            pace.efficiency = (pace.efficiency + measured) / 2
        else:
            root = speed**0.5
            pace.update, pace.evaluation = pace.update / root, pace.evaluation / root

    @contextmanager
    def _threads(self, runs: Sequence[Run]) -> Iterator[None]:
        """Give each run one thread inside a block, unless the results must equal the loop's."""
        before = [run.threads for run in runs]
        if not self.exact:
            for run in runs:
                run.limit_threads(1)
        try:
            yield
        finally:
            for run, threads in zip(runs, before, strict=True):
                run.limit_threads(threads)

    def _try_stack(self, call: Call, pace: CostModel) -> None:
        """Do some updates of all runs in a stack if it may be faster, and time them."""
        runs = call.waiting
        members = len(runs)
        if members in pace.stacked or members < 2 or len({kind(run) for run in runs}) > 1:
            return
        steps = [run.step for run in runs]
        last = max(steps) + FIRST + sum(LATER)
        updates = sum(call.left(run)[0] for run in runs)
        cost = SETUP_UPDATES + 0.3 * members * (FIRST + sum(LATER))
        short = any(call.left(run)[0] + run.step <= last for run in runs)
        if short or max(steps) - min(steps) > 64 or cost > TEST_SHARE * updates:
            return
        if why_not_stackable(runs[0]) or not _is_light(runs[0]):
            pace.stacked[members] = math.inf
            return
        refused = self._stacks.why_not_stacked(runs)
        if refused:
            self._stacks.explain(f"vmap: {refused}")
            pace.stacked[members] = math.inf
            return
        self._loop.advance(call.runs, replace(call.request, until=max(steps)))
        self._time_stack(call, pace, members)

    def _time_stack(self, call: Call, pace: CostModel, members: int) -> None:
        runs, times = call.waiting, []
        for count in (FIRST, *LATER):
            before = [(run.step, run.seconds) for run in runs]
            until = max(run.step for run in runs) + count
            evaluations = sum(
                run.step < step <= until
                for run in runs
                for step in call.request.steps_of(run.state)
            )
            self._stacks.advance(call.runs, replace(call.request, until=until))
            done = sum(run.step - step for run, (step, _) in zip(runs, before, strict=True))
            seconds = sum(run.seconds - spent for run, (_, spent) in zip(runs, before, strict=True))
            if not done or len(call.waiting) != members:
                return
            times.append(max(0.0, seconds - evaluations * pace.evaluation) / done)
            if len(times) > 1 and times[-1] > 2 * pace.update:
                break
        pace.stacked[members] = min(times)


def _is_light(run: Run) -> bool:
    """Return whether a forward pass is so small that stacking may be faster."""
    if run.device.type != "cpu":
        return True
    data = run.task.train
    with random_state_kept(0), data.untouched(), torch.no_grad():
        batch = next(data.stream(run.batch_size, run.recipe.seed, Cursor()))
        model = copy_model(run.model)
        with counted_work(model) as work:
            run.objective.task.forward(model, batch)
    return sum(work) <= LIGHT
