"""The plain loop, one run after the other: the reference for every other engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from etude.engines.base import Engine, check_runs, pending, with_run
from etude.errors import EtudeError
from etude.training.request import AdvanceRequest
from etude.training.run import Run


class LoopEngine(Engine):
    """Trains the runs one after the other, in this process.

    >>> LoopEngine().name
    'loop'
    """

    name: ClassVar[str] = "loop"

    def advance(self, runs: Sequence[Run], request: AdvanceRequest | int | None = None) -> None:
        """Train every run as `Run.advance` does; see `Engine.advance`."""
        check_runs(runs)
        request = AdvanceRequest.of(request)
        for index in pending(runs, request):
            run = runs[index]
            if request.stop():
                return
            try:
                run.advance(request)
            except EtudeError as error:
                raise with_run(error, run) from error
