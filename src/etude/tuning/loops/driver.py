"""What drives one run of a loop at one rate, as the trials ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from etude.tuning.loops.reports import RunReports


class LoopDriver(Protocol):
    """One run of a loop at one rate."""

    @property
    def resumable(self) -> bool:
        """Whether it goes on from its pause; one that does not repeats its updates, and pays."""

    @property
    def value(self) -> Any:
        """What the loop returned at its end; None before."""

    def drive(self, reports: RunReports) -> None:
        """Go on until a report says to pause, or the run ends, which `RunReports.end` is told."""

    def close(self) -> None:
        """Free what a paused run holds; it will not go on."""


StartDriver: TypeAlias = Callable[[float, int], LoopDriver]
"""(rate, fold) -> a run at its start."""
