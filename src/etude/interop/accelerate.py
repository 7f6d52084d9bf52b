"""Accelerate: the learning rate of a loop that trains with an `Accelerator`."""

from __future__ import annotations

import inspect
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from etude.errors import BadTypeError, BadValueError, shown
from etude.interop._peer import load
from etude.tuning.loops.function import LoopReport
from etude.tuning.loops.reports import Reported
from etude.tuning.loops.result import LoopResult
from etude.tuning.loops.tune_loop import tune_loop

__all__ = ["AcceleratorReport", "tune"]


@dataclass(frozen=True)
class SavedAccelerator:
    """What `Accelerator.save_state` wrote at a pause, and after how many updates."""

    folder: Path
    step: int


class AcceleratorReport:
    """What a loop reports to; it saves and restores the state of the loop's `Accelerator`.

    Args:
        report: What pauses the loop.
        saved: What was saved at the last pause; None at the start.
        place: The folder to save in.
    """

    def __init__(self, report: LoopReport, saved: SavedAccelerator | None, place: Path) -> None:
        self._report, self._saved, self._place = report, saved, place
        self._accelerator: Any = None

    def resume(self, accelerator: Any) -> int:
        """Load what was saved at a pause, and return how many updates were done by then.

        Args:
            accelerator: After `prepare`.

        Raises:
            BadTypeError: If it is no `Accelerator`.
            BadValueError: If it trains in several processes.
        """
        if not isinstance(accelerator, load("accelerate").Accelerator):
            raise BadTypeError(
                f"resume({shown(accelerator)}): give the Accelerator that prepared the model"
            )
        if accelerator.num_processes > 1:
            raise BadValueError(
                f"the loop runs in {accelerator.num_processes} processes, and each would pause at "
                "a rate of its own: tune in one process, without accelerate launch, and give the "
                "rate to the others"
            )
        self._accelerator = accelerator
        if self._saved is None:
            return 0
        accelerator.load_state(str(self._saved.folder))
        shutil.rmtree(self._saved.folder)
        return self._saved.step

    def __call__(self, step: int, loss: Reported, *, training: float | None = None) -> None:
        """LoopReport how good the model is after some updates; see `LoopReport`."""
        state = None if self._accelerator is None else lambda: self._save(step)
        self._report(step, loss, training=training, state=state)

    def _save(self, step: int) -> SavedAccelerator:
        folder = Path(tempfile.mkdtemp(dir=self._place))
        project = self._accelerator.project_configuration
        naming, iteration = project.automatic_checkpoint_naming, project.iteration
        project.automatic_checkpoint_naming = False  # it would write among the user's checkpoints
        try:
            self._accelerator.save_state(str(folder))
        finally:
            project.automatic_checkpoint_naming, project.iteration = naming, iteration
        return SavedAccelerator(folder, step)


def tune(
    train: Callable[[float, AcceleratorReport], Any],
    steps: int,
    budget: float = 3.0,
    *,
    folder: str | Path | None = None,
    **options: Any,
) -> LoopResult:
    """Find the learning rate of a loop that trains with an `Accelerator`; see `etude.tune_loop`.

    The loop keeps its form. It asks where to begin, after `prepare`, and reports::

        def train(lr, report):
            accelerator = Accelerator()
            model, optimizer, loader = accelerator.prepare(...)
            done = report.resume(accelerator)      # 0, or the updates done before a pause
            for step in range(done + 1, 1001):
                ...
                report(step, lambda: validation_loss(model))
            return accelerator.unwrap_model(model)

    At a pause the state is written by `accelerator.save_state`: model, optimizer, scheduler,
    sampler and random numbers. A loop that does not call `resume` starts over, and pays for it.

    Args:
        train: The loop, a function of the rate and of an `AcceleratorReport`.
        steps: The length of a full run, as the loop reports it.
        budget: In full runs.
        folder: Where a temporary folder for paused states is made; None takes the system's. It
            holds a state for each rate that may go on, and is removed at the end.
        options: As of `etude.tune_loop`.

    Returns:
        What was found; `value` is what the loop returned at the chosen rate.

    Raises:
        BadTypeError: If the loop does not take a rate and a report.
        BadValueError: If the loop runs in several processes, or a value is out of bounds.
        MissingExtraError: If accelerate is not installed.
    """
    load("accelerate")
    _check_arguments(train)
    with tempfile.TemporaryDirectory(prefix="etude-accelerate-", dir=folder) as place:

        @wraps(train)
        def loop(lr: float, report: LoopReport, resume: SavedAccelerator | None) -> Any:
            return train(lr, AcceleratorReport(report, resume, Path(place)))

        del loop.__wrapped__  # its signature is another
        return tune_loop(loop, steps, budget, **options)


def _check_arguments(train: Any) -> None:
    """Check that a loop can be called with a rate and a report.

    Raises:
        BadTypeError: If it cannot.
    """
    way = "give a function train(lr, report) that builds model and optimizer, and calls report"
    if not callable(train):
        raise BadTypeError(f"train={shown(train)} is not a function: {way}")
    try:
        signature = inspect.signature(train)
    except ValueError:  # written in C: nothing is known of its arguments
        return
    try:
        signature.bind(0.1, None)
    except TypeError:
        name = getattr(train, "__name__", "train")
        raise BadTypeError(f"{name}{signature} takes no rate and report: {way}") from None
