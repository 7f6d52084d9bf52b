"""Trains one stack as far as requested: updates, evaluations, removal of finished members."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from etude.engines.base import with_run
from etude.engines.vmap.evaluate import BatchedEvaluation, UnstackedError, is_faster_together
from etude.engines.vmap.execution import Execution
from etude.engines.vmap.member import Member
from etude.engines.vmap.stack import Stack
from etude.errors import EtudeError
from etude.training.machine.device import deterministic
from etude.training.machine.threads import use_threads
from etude.training.request import AdvanceRequest
from etude.training.run import Run

BLOCK = 32
"""The number of updates between two readings of the losses. A reading waits for the device. If a
loss is not finite, the block is repeated up to the update before it."""

WIDE = 2e8
"""The number of operations of all members' forward passes below which one thread is used."""


class UpdateError(Exception):
    """A stacked update failed, and was not applied; the loop may succeed or raise a clearer error.

    Args:
        cause: The error.
    """

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause).strip().partition("\n")[0] or type(cause).__name__)
        self.out_of_memory = _out_of_memory(cause)


def train_stack(stack: Stack, execution: Execution, request: AdvanceRequest) -> None:
    """Train one stack, and write every member back to its run, also after an error.

    Raises:
        UpdateError: If an update failed; the members have their state before it.
        EtudeError: If an evaluation failed; the message names the run.
    """
    steps = {id(m.run): request.steps_of(m.run.state) for m in stack.members}
    threads = threads_for(stack)
    try:
        for member in stack.members:
            member.run.observers.start(member.run.state)
        while True:
            _evaluate(stack, steps)
            _release_finished(stack, execution, request)
            active = stack.active
            if not active or request.stop():
                return
            execution.expect_updates(max(request.target(m.run.state) - m.step for m in active))
            count = min(BLOCK, *(_updates_until_stop(m, request, steps[id(m.run)]) for m in active))
            started = time.perf_counter()
            with deterministic(stack.state.rows.device), use_threads(threads):
                try:
                    broken = stack.advance(count, execution.step)
                except Exception as error:
                    raise UpdateError(error) from error
            share = max(0.0, time.perf_counter() - started) / len(active)
            for member in active:
                member.seconds += share
            for place, loss in broken.items():
                stack.write_back(place, loss)
                stack.members[place].run.observers.end(stack.members[place].run.state)
            _remove(stack, execution, list(broken))
            _observe(stack, count)
            if request.on_step is not None:
                for member in stack.active:
                    request.on_step(member.run.state, member.step)
    finally:
        for place, member in enumerate(stack.members):
            if not member.idle:
                stack.write_back(place)


def _evaluate(stack: Stack, steps: dict[int, set[int]]) -> None:
    due = []
    for place, member in enumerate(stack.members):
        run = member.run
        if member.idle or member.step not in steps[id(run)]:
            continue
        if not run.evaluations or run.evaluations[-1].step != member.step:
            due.append(place)
    # A run with early stopping may end here and restore other weights than those of the stack. A
    # member without an update in this stack is evaluated by its run, to the bit.
    together = [
        place
        for place in due
        if stack.members[place].run.state.early_stopping is None and stack.members[place].series
    ]
    if together and is_faster_together(
        stack.program, stack.members[together[0]].run, len(together)
    ):
        try:
            _evaluate_together(stack, together)
        except UnstackedError:
            stack.program.stacks_evaluations = False
    for place in due:
        run = stack.members[place].run
        if run.evaluations and run.evaluations[-1].step == stack.members[place].step:
            continue
        if run.state.early_stopping is None:
            stack.write_weights(place)
        else:
            stack.write_back(place)
        with _naming(run):
            run.evaluate()


def _evaluate_together(stack: Stack, due: list[int]) -> None:
    """Evaluate members with one forward pass for all.

    Raises:
        UnstackedError: If that is impossible; then no member was evaluated.
    """
    together = BatchedEvaluation(stack, due)
    runs = [stack.members[place].run for place in due]
    begun = [(run.seconds, run.state.evaluation_seconds) for run in runs]
    for index, (place, run) in enumerate(zip(due, runs, strict=True)):
        if run.observers.has("on_evaluation"):
            stack.write_weights(place)
        run.adopt_step(stack.members[place].step)
        with _naming(run):
            run.evaluate(together.of(index))
        if run.ended:  # it diverged, and keeps the weights it has here
            stack.write_weights(place)
    # The first that was asked computed the forward passes of all.
    spent = sum(run.seconds - before for run, (before, _) in zip(runs, begun, strict=True))
    for run, (seconds, evaluating) in zip(runs, begun, strict=True):
        run.state.seconds = seconds + spent / len(runs)
        run.state.evaluation_seconds = evaluating + spent / len(runs)


def _observe(stack: Stack, count: int) -> None:
    """Call the observers of members after an update at which they are due.

    A block of updates ends with such an update.
    """
    for place, member in enumerate(stack.members):
        run = member.run
        if (
            not member.idle
            and count
            and run.observers.next_update(member.step - 1) == (member.step - 1)
        ):
            stack.write_weights(place)
            with _naming(run):
                run.observers.update(run.state)


@contextmanager
def _naming(run: Run) -> Iterator[None]:
    try:
        yield
    except EtudeError as error:
        raise with_run(error, run) from error


def _release_finished(stack: Stack, execution: Execution, request: AdvanceRequest) -> None:
    """Write back the members that have ended or have reached the requested step."""
    done = [
        place
        for place, m in enumerate(stack.members)
        if not m.idle and (m.run.ended or m.step >= request.target(m.run.state))
    ]
    for place in done:
        stack.write_back(place)
        run = stack.members[place].run
        with _naming(run):
            run.observers.end(run.state)
    _remove(stack, execution, done)


def _remove(stack: Stack, execution: Execution, places: list[int]) -> None:
    """Remove members from a stack, after they were written back to their runs.

    A compiled stack keeps its size, with idle rows, until half of the rows are idle: an update of
    another size would have to be compiled again.
    """
    for place in places:
        stack.members[place].idle = True
    left = [place for place, member in enumerate(stack.members) if not member.idle]
    few = 2 * len(left) <= len(stack)
    if places and left and (few or not execution.is_compiled(stack.state)):
        stack.keep_only(left)


def _updates_until_stop(member: Member, request: AdvanceRequest, steps: set[int]) -> int:
    """Return the number of updates to the next evaluation, observation or the requested step."""
    stops = {request.target(member.run.state), *(step for step in steps if member.step < step)}
    observed = member.run.observers.next_update(member.step)
    if observed is not None:
        stops.add(observed + 1)
    return min(stops) - member.step


def threads_for(stack: Stack) -> int:
    """Return the number of threads to use for an update of all members."""
    run = stack.members[0].run
    work = 2.0 * stack.program.layout.width * run.batch_size * len(stack)
    return 1 if run.threads == 1 and work < WIDE else max(run.threads, torch.get_num_threads())


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return "can't allocate memory" in text or "not enough memory" in text
