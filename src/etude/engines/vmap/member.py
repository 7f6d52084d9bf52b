"""One run in a stack, and the results since its state was last written back."""

from __future__ import annotations

from dataclasses import dataclass

from etude.engines.vmap.inputs import Inputs
from etude.training.run import Run


@dataclass
class Member:
    """One run in a stack.

    Attributes:
        run: The run. Its state is out of date until it is written back.
        inputs: Its samples, masks and scalars.
        series: The values measured since it was last written back.
        seconds: Its share of the time since then.
        idle: Whether it has ended and only its row remains, because a new size costs more.
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
