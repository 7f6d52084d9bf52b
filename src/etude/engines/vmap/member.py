"""One run in a stack, and what was measured of it since its own state was last written."""

from __future__ import annotations

from dataclasses import dataclass

from etude.engines.vmap.inputs import Inputs
from etude.training.run import Run


@dataclass
class Member:
    """One run in a stack.

    Attributes:
        run: The run; its state lags behind until it is written back.
        inputs: Its samples, masks and numbers.
        series: What was measured since it was last written back.
        seconds: Its share of the time since then.
        idle: Whether only its row is left, because a stack of another size costs more.
    """

    run: Run
    inputs: Inputs
    series: dict[str, list[float]]
    seconds: float = 0.0
    idle: bool = False

    @property
    def step(self) -> int:
        """Updates done."""
        return self.inputs.step
