"""What the callbacks of other libraries that watch a training share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch import nn
from torch.optim import Optimizer

from etude.diagnosis.finding import Diagnosis, Finding
from etude.diagnosis.history import History
from etude.diagnosis.watch import checked_period
from etude.diagnosis.watching.sink import Sink, listed_sinks
from etude.diagnosis.watching.training_watch import TrainingWatch


class Watching:
    """Keeps the watch of one training at a time.

    Args:
        every: Sample updates 0, every, 2·every ...; None chooses, see `etude.watch`.
        on_finding: Called once with each finding.
        logger: Each finding is logged there as a warning, once. Without both, each is printed to
            standard error.
        sink: Gets the readings and findings, such as `etude.interop.tensorboard.TensorBoardSink`;
            or several.

    Attributes:
        watch: The watch; None before the first training.
    """

    def __init__(
        self,
        *,
        every: int | None = None,
        on_finding: Callable[[Finding], object] | None = None,
        logger: logging.Logger | None = None,
        sink: Sink | Sequence[Sink] = (),
    ) -> None:
        super().__init__()
        self._options: dict[str, Any] = {
            "every": checked_period(every),
            "on_finding": on_finding,
            "logger": logger,
            "sinks": listed_sinks(sink),
        }
        self.watch: TrainingWatch | None = None

    def begin(
        self,
        models: Mapping[str, nn.Module],
        optimizers: Sequence[Optimizer],
        *,
        first: int = 0,
        parts: int = 1,
    ) -> TrainingWatch:
        """Begin a watch, in place of an earlier one.

        Args:
            models: The networks by prefix.
            optimizers: What updates them.
            first: The number of updates that were made before.
            parts: By how much the trainer divides the loss of each backward pass.
        """
        self.close()

        def arrange(history: History) -> History:
            return counted_from(history, first, parts)

        self.watch = TrainingWatch(
            dict(models), optimizers, arrange=arrange, close_on_error=True, **self._options
        )
        return self.watch

    def report(self) -> Diagnosis:
        """Return what was found until now."""
        if self.watch is None:
            return Diagnosis(unseen=("No training has begun.",))
        return self.watch.report()

    def close(self) -> None:
        """End the watch and remove its hooks; may be called twice."""
        if self.watch is not None:
            self.watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def counted_from(history: History, first: int, parts: int = 1) -> History:
    """Return a history whose updates are counted on, with losses that were divided by `parts`."""
    if not first and parts == 1:
        return history

    def later(values: Any) -> Any:
        return np.concatenate([np.full(first, np.nan), values])

    return replace(
        history,
        updates=history.updates + first,
        loss=later(history.loss * parts),
        lr=later(history.lr),
        steps=history.steps + first,
        broken_from=None if history.broken_from is None else history.broken_from + first,
    )
