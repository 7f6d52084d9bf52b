"""The plain loop, one run after the other: the reference for every other engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from etude.engines.base import (
    Engine,
    Marks,
    OnStep,
    blame,
    check_runs,
    no_marks,
    pending,
)
from etude.errors import EtudeError
from etude.training.run import Run


class LoopEngine(Engine):
    """Takes the runs further one after the other, in this process.

    >>> LoopEngine().name
    'loop'
    """

    name: ClassVar[str] = "loop"

    def advance(
        self,
        runs: Sequence[Run],
        until: int | None = None,
        *,
        marks: Marks = no_marks,
        stop: Callable[[], bool] = bool,
        on_step: OnStep | None = None,
    ) -> None:
        """Train every run as `Run.walk` does; see `Engine.advance`."""
        check_runs(runs)

        def told(run: Run) -> None:
            if on_step is not None:
                on_step(run, run.step)

        for index in pending(runs, until, marks):
            run = runs[index]
            if stop():
                return
            try:
                run.walk(set(marks(run)), until, stop=stop, on_step=told)
            except EtudeError as error:
                raise blame(error, run) from error
