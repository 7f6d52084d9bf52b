"""The vmap engine: stacks runs of one kind, and trains them as one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import ClassVar

from etude.engines.base import Engine, check_runs, pending
from etude.engines.loop import LoopEngine
from etude.engines.vmap.eligibility import kind, why_not_stackable
from etude.engines.vmap.execution import Execution, Mode
from etude.engines.vmap.loop import UpdateError, threads_for, train_stack
from etude.engines.vmap.memory import members_at_once
from etude.engines.vmap.stack import Stack
from etude.engines.vmap.verify import VerificationError, Verified, verify
from etude.errors import BadValueError
from etude.training.machine.threads import use_threads
from etude.training.request import AdvanceRequest
from etude.training.run import Run


class VmapEngine(Engine):
    """Trains runs of one kind as one, with stacked weights, under `torch.func.vmap`.

    Runs are of one kind if they differ only in numeric values: rates, momenta, weight decays,
    schedules, clipping bounds, seeds. The first updates are compared with the loop's. If the model
    cannot be stacked, or the results differ, another engine trains the runs and a note says why.

    Args:
        compile: 'auto' compiles if that saves time within the remaining updates; 'never';
            'always'.
        fallback: The engine for runs that cannot be stacked; None for the loop.
        largest: The largest number of members in one stack; None for as many as fit in memory.

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
        self._fitted: dict[Hashable, tuple[Verified, Execution] | str] = {}

    def close(self) -> None:
        """Free the traced and compiled programs, and the resources of the fallback."""
        self._fitted.clear()
        self.fallback.close()

    def advance(self, runs: Sequence[Run], request: AdvanceRequest | int | None = None) -> None:
        """Train the runs, each kind in stacks of its own; see `Engine.advance`."""
        check_runs(runs)
        request = AdvanceRequest.of(request)
        kinds: dict[Hashable, list[Run]] = {}
        others: list[Run] = []
        for run in (runs[i] for i in pending(runs, request)):
            reason = why_not_stackable(run)
            if reason:
                self.explain(f"vmap: {reason}; trained by the {self.fallback.name} engine instead")
                others.append(run)
            else:
                kinds.setdefault(kind(run), []).append(run)
        for key, members in kinds.items():
            found = self.verified_program(key, members)
            if isinstance(found, str):
                self.explain(
                    f"vmap: the model cannot be stacked: {found}; trained by the "
                    f"{self.fallback.name} engine instead"
                )
                others += members
                continue
            others += self._chunks(members, found, request)
        if others:  # all runs are passed on, so that an error gives the same index
            self.fallback.advance(runs, request)

    def verified_program(self, key: Hashable, runs: list[Run]) -> tuple[Verified, Execution] | str:
        """Return the verified program for runs of one kind, or why they cannot be stacked."""
        if key not in self._fitted:
            try:
                found = verify(runs)
                self._fitted[key] = (found, Execution(found.program, self.compile))
            except VerificationError as error:
                self._fitted[key] = str(error)
        return self._fitted[key]

    def known_program(self, key: Hashable) -> tuple[Verified, Execution] | str | None:
        """Return the program or the reason that was found for a kind; None if it was not tried."""
        return self._fitted.get(key)

    def why_not_stacked(self, runs: Sequence[Run]) -> str:
        """Return why runs cannot be trained as one stack; empty if they can."""
        kinds = {kind(run): run for run in runs if not run.ended}
        for run in kinds.values():
            if reason := why_not_stackable(run):
                return reason
        for key in kinds:
            found = self.verified_program(
                key, [run for run in runs if not run.ended and kind(run) == key]
            )
            if isinstance(found, str):
                return f"the model cannot be stacked: {found}"
        return ""

    def prepare(self, runs: list[Run], request: AdvanceRequest) -> None:
        """Trace and compile the program for training runs of one kind; the runs do not change."""
        found = self.verified_program(kind(runs[0]), runs)
        if isinstance(found, str) or len({kind(run) for run in runs}) > 1:
            return
        fitted, execution = found
        stack = Stack(fitted.program, runs[: self.size(fitted, runs[0])], fitted.masks)
        execution.expect_updates(max(request.target(run.state) - run.step for run in runs))
        with use_threads(threads_for(stack)):
            for _ in range(5):
                stack.advance(1, execution.step)

    def size(self, fitted: Verified, run: Run) -> int:
        """Return the largest number of members in one stack."""
        return self.largest or members_at_once(fitted.program, run)

    def _chunks(
        self,
        members: list[Run],
        found: tuple[Verified, Execution],
        request: AdvanceRequest,
    ) -> list[Run]:
        """Train in stacks that fit in memory; return the runs that could not be trained."""
        fitted, execution = found
        size = self.size(fitted, members[0])
        waiting = list(members)
        while waiting and not request.stop():
            chunk = waiting[:size]
            try:
                train_stack(Stack(fitted.program, chunk, fitted.masks), execution, request)
                waiting = waiting[size:]
            except UpdateError as error:
                if not error.out_of_memory:
                    self.explain(
                        f"vmap: a stacked update failed ({error}); trained by the "
                        f"{self.fallback.name} engine instead"
                    )
                    return waiting
                if len(chunk) == 1:
                    return waiting
                size = (len(chunk) + 1) // 2
                self.explain(f"vmap: out of memory with {len(chunk)} members; going on with {size}")
        return []
