"""Schedules in the Hugging Face Trainer: a subclass that makes them, or a pair for `optimizers`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, SupportsFloat, TypeVar

from etude.errors import BadValueError
from etude.interop._horizon import all_over
from etude.interop._peer import load
from etude.interop.torch import Scheduler
from etude.schedules import Clock

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import TrainerCallback as FeedbackCallback

__all__ = ["FeedbackCallback", "optimizers", "scheduled"]

T = TypeVar("T", bound=type[Any])


def optimizers(
    optimizer: Optimizer, steps: int | None = None, **schedules: Any
) -> tuple[Optimizer, Scheduler]:
    """Return the pair that the Trainer takes: `Trainer(..., optimizers=optimizers(...))`.

    Args:
        optimizer: The optimizer.
        steps: Updates of the run, to which the schedules are bound; None if they are bound.
        schedules: What `etude.interop.torch.Scheduler` takes.

    Returns:
        The optimizer and its `Scheduler`. Where a schedule reacts to a metric, it refuses to step
        without a `FeedbackCallback`, which reports one.

    Examples:
        >>> import torch
        >>> adamw = torch.optim.AdamW([torch.zeros(1)])
        >>> _, scheduler = optimizers(adamw, 100, lr="5e-5 * (warmup('6%') >> cosine())")
        >>> scheduler.get_last_lr()
        [0.0]
    """
    bound = schedules if steps is None else all_over(schedules, Clock(horizon=steps))
    return optimizer, _Scheduler(optimizer, **bound)


class _Scheduler(Scheduler):
    """A scheduler in the Trainer, which reports no metric to it unless a callback does."""

    is_told = False
    """Whether someone reports metrics to it."""

    def step(self, metric: SupportsFloat | None = None) -> None:
        """Go on to the next update.

        Raises:
            BadValueError: A schedule reacts to a metric, and nobody reports one.
        """
        self.is_told = self.is_told or metric is not None
        if self.has_feedback and not self.is_told:
            raise BadValueError(
                "a schedule here reacts to a metric, which the Trainer does not report to it: "
                "Trainer(..., callbacks=[FeedbackCallback('eval_loss')]) does"
            )
        super().step(metric)


def scheduled(trainer: T, **schedules: Any) -> T:
    """Return a Trainer class whose scheduler is made of these schedules, once the run is known.

        Trainer = scheduled(transformers.Trainer, lr="5e-5 * (warmup('6%') >> cosine())")

    Lengths may be left out or given in percent: they are bound to the updates of the run. A
    schedule that reacts to a metric also needs `FeedbackCallback`.

    Args:
        trainer: `transformers.Trainer`, or a subclass.
        schedules: What `etude.interop.torch.Scheduler` takes.

    Returns:
        A subclass of the same name.
    """

    def create_scheduler(self: Any, num_training_steps: int, optimizer: Any = None) -> Scheduler:
        if self.lr_scheduler is None:
            bound = all_over(schedules, Clock(horizon=num_training_steps))
            owner = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = _Scheduler(owner, **bound)
            self._created_lr_scheduler = True
        made: Scheduler = self.lr_scheduler
        return made

    namespace = {"create_scheduler": create_scheduler, "__module__": trainer.__module__}
    return type(trainer.__name__, (trainer,), namespace)  # type: ignore[return-value]


@cache
def _callback_class() -> type[Any]:
    """Make the class once transformers is there."""
    transformers = load("transformers")

    class FeedbackCallback(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        """Reports a metric of each evaluation to schedules that react to one.

            Trainer(..., callbacks=[FeedbackCallback("eval_loss")])

        Args:
            metric: The name of the metric, as evaluation reports it.
        """

        def __init__(self, metric: str = "eval_loss") -> None:
            self.metric = metric

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            scheduler = kwargs.get("lr_scheduler")
            if isinstance(scheduler, _Scheduler):
                scheduler.is_told = True

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            scheduler, metrics = kwargs.get("lr_scheduler"), kwargs.get("metrics") or {}
            if not isinstance(scheduler, Scheduler) or not scheduler.has_feedback:
                raise BadValueError(
                    f"lr_scheduler is {scheduler!r}, which reacts to no metric: make it with "
                    "scheduled(Trainer, lr=...) or optimizers(...), from a schedule with a plateau"
                )
            if self.metric not in metrics:
                raise BadValueError(
                    f"metric is {self.metric!r}, which the evaluation did not report; it reported "
                    f"{', '.join(sorted(metrics)) or 'nothing'}"
                )
            scheduler.record(metrics[self.metric])

    FeedbackCallback.__qualname__ = "FeedbackCallback"
    return FeedbackCallback


def __getattr__(name: str) -> Any:
    if name == "FeedbackCallback":
        return _callback_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
