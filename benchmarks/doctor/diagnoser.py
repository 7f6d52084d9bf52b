"""What a diagnoser is: it runs a case and says what is wrong, in which layer, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from benchmarks.doctor.case import Case


@dataclass(frozen=True)
class Verdict:
    """What a diagnoser says of a case.

    Attributes:
        causes: Names from `causes.CAUSES`, the likeliest first; empty says "healthy", unless
            `flagged`.
        layer: The module at fault; empty where none is named.
        update: The update at which something was first said; None where nothing was.
        flagged: Whether anything was said, although no cause is named.
        text: What was said, in words.
    """

    causes: tuple[str, ...] = ()
    layer: str = ""
    update: int | None = None
    flagged: bool = False
    text: str = ""

    @property
    def faulty(self) -> bool:
        """Whether the verdict is anything but "healthy"."""
        return self.flagged or bool(self.causes)


class Diagnoser(Protocol):
    """Diagnoses cases: runs each and says what is wrong."""

    @property
    def name(self) -> str:
        """The name in tables."""
        ...

    def diagnose(self, case: Case) -> Verdict:
        """Run a case, with `case.run(watcher)` or by its task and recipe, and say what is wrong."""
        ...
