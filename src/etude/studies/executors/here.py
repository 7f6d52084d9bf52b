"""Trains groups in the calling process; its engine uses the cores of this machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from etude.engines import Engine
from etude.studies.executors.base import Executor
from etude.studies.groups import GroupTrainer, TrainedTrial
from etude.studies.trials import PlannedTrial


class HereExecutor(Executor):
    """Trains one group after the other in this process.

    Args:
        engine: The engine, by name, or an Engine.

    >>> HereExecutor("loop").slots
    1
    """

    def __init__(self, engine: str | Engine = "auto") -> None:
        self._trainer = GroupTrainer(engine)
        self._waiting: deque[tuple[int, Sequence[PlannedTrial]]] = deque()

    @property
    def slots(self) -> int:
        """One: the next group is claimed when this one is stored."""
        return 1

    def submit(self, key: int, trials: Sequence[PlannedTrial]) -> None:
        """Hand in a group; it is trained by `collect`."""
        self._waiting.append((key, trials))

    def collect(self, seconds: float) -> list[tuple[int, list[TrainedTrial]]]:
        """Train the next group, and return it."""
        if not self._waiting:
            return []
        key, trials = self._waiting.popleft()
        return [(key, self._trainer.train(trials))]

    def close(self) -> None:
        """Free the engine."""
        self._waiting.clear()
        self._trainer.close()
