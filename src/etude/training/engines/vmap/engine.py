"""The vmap engine: runs of one kind are stacked, and trained as one."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar

import torch

from etude.errors import BadValueError
from etude.training.device import deterministic
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
from etude.training.engines.vmap.execution import Execution, Mode
from etude.training.engines.vmap.fit import kind, misfit
from etude.training.engines.vmap.memory import members_at_once
from etude.training.engines.vmap.stack import Stack
from etude.training.engines.vmap.trial import Fitted, UnfitError, fit
from etude.training.run import Run
from etude.training.threads import use_threads

BLOCK = 32
"""Updates between two looks at the losses."""

WIDE = 2e8
"""Operations of all members' forward passes below which one thread is used."""


class VmapEngine(Engine):
    """Trains runs of one kind as one, their weights stacked, under `torch.func.vmap`.

    Runs are of one kind if they differ only in numbers: rates, momenta, weight decays, schedules,
    bounds, seeds. The first updates are held against the loop's; where the model cannot be
    stacked, or something differs, the other engine takes over and a note says why.

    Args:
        compile: 'auto' compiles where it pays within the updates to come; 'never'; 'always'.
        fallback: Who trains what cannot be stacked; None for the loop.
        largest: Members in one stack at most; None for what memory allows.

    Raises:
        BadValueError: If `compile` or `largest` is out of bounds.

    >>> VmapEngine(compile="never").name
    'vmap'
    """

    name: ClassVar[str] = "vmap"

    def __init__(
        self,
        compile: Mode = "auto",
        *,
        fallback: Engine | None = None,
        largest: int | None = None,
    ) -> None:
        super().__init__()
        if compile not in ("auto", "never", "always"):
            raise BadValueError(f"compile={compile!r}: give 'auto', 'never' or 'always'")
        if largest is not None and (isinstance(largest, bool) or largest < 1):
            raise BadValueError(f"largest={largest!r}: give at least 1, or None")
        self.compile: Mode = compile
        self.fallback = fallback or LoopEngine()
        self.largest = largest
        self._fitted: dict[Hashable, tuple[Fitted, Execution] | str] = {}

    def close(self) -> None:
        """Forget what was traced and compiled."""
        self._fitted.clear()
        self.fallback.close()

    def advance(
        self,
        runs: Sequence[Run],
        until: int | None = None,
        *,
        marks: Marks = no_marks,
        stop: Callable[[], bool] = bool,
        on_step: OnStep | None = None,
    ) -> None:
        """Train every run, those of one kind together; see `Engine.advance`."""
        check_runs(runs)
        kinds: dict[Hashable, list[Run]] = {}
        others: list[Run] = []
        for run in (runs[i] for i in pending(runs, until, marks)):
            reason = misfit(run)
            if reason:
                self.explain(f"vmap: {reason}; trained by the {self.fallback.name} engine instead")
                others.append(run)
            else:
                kinds.setdefault(kind(run), []).append(run)
        for key, members in kinds.items():
            found = self.fitted(key, members)
            if isinstance(found, str):
                self.explain(
                    f"vmap: the model cannot be stacked: {found}; trained by the "
                    f"{self.fallback.name} engine instead"
                )
                others += members
                continue
            others += self._chunks(members, found, until, marks, stop, on_step)
        # In the caller's order, so that errors name the same place.
        rest = [run for run in runs if any(run is other for other in others)]
        if rest:
            self.fallback.advance(rest, until, marks=marks, stop=stop, on_step=on_step)

    def fitted(self, key: Hashable, runs: list[Run]) -> tuple[Fitted, Execution] | str:
        """Return the program of a kind of runs, or why there is none."""
        if key not in self._fitted:
            try:
                found = fit(runs)
                self._fitted[key] = (found, Execution(found.program, self.compile))
            except UnfitError as error:
                self._fitted[key] = str(error)
        return self._fitted[key]

    def size(self, fitted: Fitted, run: Run) -> int:
        """Return how many members one stack may have."""
        return self.largest or members_at_once(fitted.program, run)

    def _chunks(
        self,
        members: list[Run],
        found: tuple[Fitted, Execution],
        until: int | None,
        marks: Marks,
        stop: Callable[[], bool],
        on_step: OnStep | None,
    ) -> list[Run]:
        """Train in stacks that fit into memory; return the runs that failed in all sizes."""
        fitted, execution = found
        size = self.size(fitted, members[0])
        waiting = list(members)
        while waiting and not stop():
            chunk = waiting[:size]
            try:
                self._drive(Stack(fitted.program, chunk, fitted.masks), execution, until, marks,
                            stop, on_step)  # fmt: skip
                waiting = waiting[size:]
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    self.explain(
                        f"vmap: a stacked update failed ({str(error).partition(chr(10))[0]}); "
                        f"trained by the {self.fallback.name} engine instead"
                    )
                    return waiting
                if len(chunk) == 1:
                    return waiting
                size = (len(chunk) + 1) // 2
                self.explain(f"vmap: out of memory with {len(chunk)} members; going on with {size}")
        return []

    def _drive(
        self,
        stack: Stack,
        execution: Execution,
        until: int | None,
        marks: Marks,
        stop: Callable[[], bool],
        on_step: OnStep | None,
    ) -> None:
        """Train one stack, and bring every member home."""
        looks = {id(m.run): set(marks(m.run)) for m in stack.members}
        threads = threads_for(stack)
        try:
            while True:
                self._evaluate(stack, looks)
                self._dismiss(stack, execution, until)
                if not stack.active or stop():
                    return
                active = stack.active
                execution.plan(max(target(m.run, until) - m.step for m in active))
                count = min(BLOCK, *(_stretch(m.run, m.step, until, looks) for m in active))
                started = time.perf_counter()
                with deterministic(stack.state.rows.device), use_threads(threads):
                    broken = stack.advance(count, execution.step)
                share = (time.perf_counter() - started) / len(active)
                for member in active:
                    member.seconds += share
                for place, loss in broken.items():
                    stack.bring_home(place, loss)
                _leave(stack, execution, list(broken))
                if on_step is not None:
                    for member in stack.active:
                        on_step(member.run, member.step)
        finally:
            for place, member in enumerate(stack.members):
                if not member.idle:
                    stack.bring_home(place)

    def _evaluate(self, stack: Stack, looks: dict[int, set[int]]) -> None:
        for place, member in enumerate(stack.members):
            run = member.run
            if member.idle or member.step not in looks[id(run)]:
                continue
            if run.evaluations and run.evaluations[-1].step == member.step:
                continue
            if run.stopping is None:
                stack.show(place)
            else:  # it may end here, with other weights than those of the stack
                stack.bring_home(place)
            run.evaluate()

    def _dismiss(self, stack: Stack, execution: Execution, until: int | None) -> None:
        """Bring home those that have ended or stand where they are to stand."""
        done = [
            place
            for place, m in enumerate(stack.members)
            if not m.idle and (m.run.ended or m.step >= target(m.run, until))
        ]
        for place in done:
            stack.bring_home(place)
        _leave(stack, execution, done)


def _leave(stack: Stack, execution: Execution, places: list[int]) -> None:
    """Let members leave a stack, their runs being at home.

    A stack that was compiled keeps its size, with idle rows, until half of them are.
    """
    for place in places:
        stack.members[place].idle = True
    left = [place for place, member in enumerate(stack.members) if not member.idle]
    few = 2 * len(left) <= len(stack)
    if places and left and (few or not execution.is_compiled(stack.state)):
        stack.keep(left)


def _stretch(run: Run, step: int, until: int | None, looks: dict[int, set[int]]) -> int:
    """Return the updates to the next evaluation, or to where the run is to stand."""
    end = target(run, until)
    return min((mark for mark in looks[id(run)] if step < mark < end), default=end) - step


def threads_for(stack: Stack) -> int:
    """Return the threads that an update of all members is worth."""
    run = stack.members[0].run
    work = 2.0 * stack.program.layout.width * run.batch_size * len(stack)
    return 1 if run.threads == 1 and work < WIDE else max(run.threads, torch.get_num_threads())


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return "can't allocate memory" in text or "not enough memory" in text
