"""The Hugging Face Trainer: schedules in a subclass or as a pair, and a callback that watches."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, SupportsFloat, TypeVar

from etude.diagnosis.watch import torch_optimizer
from etude.errors import BadValueError
from etude.interop._peer import load
from etude.interop._watching import Watching
from etude.interop.torch import Scheduler
from etude.interop.trainers.horizon import all_over
from etude.schedules import Clock

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import TrainerCallback as FeedbackCallback
    from transformers import TrainerCallback as WatchCallback

__all__ = ["FeedbackCallback", "WatchCallback", "optimizers", "scheduled"]

T = TypeVar("T", bound=type[Any])


def optimizers(
    optimizer: Optimizer, steps: int | None = None, **schedules: Any
) -> tuple[Optimizer, Scheduler]:
    """Return the pair for the Trainer: `Trainer(..., optimizers=optimizers(...))`.

    Args:
        optimizer: The optimizer.
        steps: The number of updates of the run, to which the schedules are bound; None if they are
            already bound.
        schedules: The arguments of `etude.interop.torch.Scheduler`.

    Returns:
        The optimizer and its `Scheduler`. If a schedule reacts to a metric, the scheduler's `step`
        raises an error unless a `FeedbackCallback` reports the metric.

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
    """A scheduler for the Trainer, which reports a metric only through a callback."""

    gets_metrics = False
    """Whether metrics are reported to it."""

    def step(self, metric: SupportsFloat | None = None) -> None:
        """Go on to the next update.

        Raises:
            BadValueError: A schedule reacts to a metric, but none is reported.
        """
        self.gets_metrics = self.gets_metrics or metric is not None
        if self.has_feedback and not self.gets_metrics:
            raise BadValueError(
                "a schedule here reacts to a metric, which the Trainer does not report: use "
                "Trainer(..., callbacks=[FeedbackCallback('eval_loss')]), which does"
            )
        super().step(metric)


def scheduled(trainer: T, **schedules: Any) -> T:
    """Return a Trainer class that creates its scheduler from these schedules.

        Trainer = scheduled(transformers.Trainer, lr="5e-5 * (warmup('6%') >> cosine())")

    Lengths may be left out or given in percent: they are bound to the number of updates of the run
    when it starts. A schedule that reacts to a metric also needs `FeedbackCallback`.

    Args:
        trainer: `transformers.Trainer`, or a subclass.
        schedules: The arguments of `etude.interop.torch.Scheduler`.

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
    """Create the class when transformers is loaded."""
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
                scheduler.gets_metrics = True

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            scheduler, metrics = kwargs.get("lr_scheduler"), kwargs.get("metrics") or {}
            if not isinstance(scheduler, Scheduler) or not scheduler.has_feedback:
                raise BadValueError(
                    f"lr_scheduler is {scheduler!r}, which does not react to a metric: create it "
                    "with scheduled(Trainer, lr=...) or optimizers(...), from a plateau"
                )
            if self.metric not in metrics:
                raise BadValueError(
                    f"metric is {self.metric!r}, which the evaluation did not report; it reported "
                    f"{', '.join(sorted(metrics)) or 'nothing'}"
                )
            scheduler.record(metrics[self.metric])

    FeedbackCallback.__qualname__ = "FeedbackCallback"
    return FeedbackCallback


@cache
def _watch_class() -> type[Any]:
    """Create the class when transformers is loaded."""
    transformers = load("transformers")

    class WatchCallback(Watching, transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        """Watches a training as `etude.watch` does a loop of your own.

            with WatchCallback() as watching:
                Trainer(..., callbacks=[watching]).train()
            print(watching.report())

        Hooks are attached from the begin of each update to its end. An error in the forward or
        backward pass ends the watch. The Trainer tells its callbacks of no other error; the block
        removes the hooks after any. Updates are counted on where a training is resumed.
        """

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.begin(
                {"": kwargs["model"]},
                [torch_optimizer(kwargs["optimizer"])],
                first=state.global_step,
                parts=args.gradient_accumulation_steps,
            ).detach()

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.watch is not None:
                self.watch.attach()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.watch is not None:
                self.watch.detach()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.close()

    assert WatchCallback.__doc__ is not None
    assert Watching.__doc__ is not None
    WatchCallback.__doc__ += Watching.__doc__.partition("\n\n")[2]
    WatchCallback.__qualname__ = "WatchCallback"
    return WatchCallback


def __getattr__(name: str) -> Any:
    if name == "FeedbackCallback":
        return _callback_class()
    if name == "WatchCallback":
        return _watch_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
