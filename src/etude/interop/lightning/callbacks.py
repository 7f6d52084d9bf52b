"""Lightning: schedules in `configure_optimizers` or as a callback, and a callback that watches."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

from etude.diagnosis.watching.attachment import HOOKLESS, call_all
from etude.diagnosis.watching.hooks import Hook
from etude.errors import BadValueError, MissingExtraError
from etude.interop._peer import load
from etude.interop._watching import Watching
from etude.interop.torch import Scheduler
from etude.interop.trainers.horizon import all_over
from etude.schedules import Clock
from etude.schedules.clock import updates_per_epoch

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback as ScheduleCallback
    from lightning.pytorch.callbacks import Callback as WatchCallback

__all__ = ["ScheduleCallback", "WatchCallback", "clock", "configure"]


def clock(trainer: Any) -> Clock:
    """Return the clock of a Lightning run: its total number of updates, and that per epoch.

    A step is one update; Lightning accounts for accumulation and the number of devices.

    Args:
        trainer: The trainer, after its data were loaded.

    Returns:
        The clock; its horizon is None for a run without an end.

    Examples:
        >>> from types import SimpleNamespace
        >>> trainer = SimpleNamespace(
        ...     estimated_stepping_batches=15, num_training_batches=9, accumulate_grad_batches=2
        ... )
        >>> clock(trainer)
        Clock(horizon=15, steps_per_epoch=5, samples_per_step=None, tokens_per_step=None)
    """
    total = trainer.estimated_stepping_batches
    batches = trainer.num_training_batches
    accumulated = trainer.accumulate_grad_batches
    per_epoch = None
    if math.isfinite(batches) and batches:
        per_epoch = updates_per_epoch(int(batches), accumulated, across_epochs=False)
    horizon = int(total) if math.isfinite(total) and total > 0 else None
    return Clock(horizon=horizon, steps_per_epoch=per_epoch)


def configure(optimizer: Any, trainer: Any = None, **schedules: Any) -> dict[str, Any]:
    """Return what `configure_optimizers` returns: the optimizer, and a `Scheduler` per update.

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters())
            schedule = "1e-3 * (warmup('5%') >> cosine())"
            return configure(optimizer, self.trainer, lr=schedule)

    Args:
        optimizer: The optimizer.
        trainer: The trainer, to whose length the schedules are bound; None if they are already
            bound.
        schedules: The arguments of `etude.interop.torch.Scheduler`.

    Returns:
        A dictionary for Lightning.

    Raises:
        BadValueError: A schedule reacts to a metric: use `ScheduleCallback`, which reports it.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> configure(optimizer, lr="0.1 * cosine(100)")["lr_scheduler"]["interval"]
        'step'
    """
    bound = schedules if trainer is None else all_over(schedules, clock(trainer))
    scheduler = Scheduler(optimizer, **bound)
    if scheduler.has_feedback:
        raise BadValueError(
            "a schedule here reacts to a metric, which Lightning reports only to its own plateau: "
            "use Trainer(callbacks=[ScheduleCallback(..., monitor='val_loss')]), which reports it"
        )
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1},
    }


class _ScheduleHooks:
    """Sets the hyperparameters of a module's optimizer, without a change to the module.

        Trainer(callbacks=[ScheduleCallback(lr="1e-3 * (warmup('5%') >> cosine())")])

    Before each update it writes the values of step `trainer.global_step`, the number of
    updates so far, which does not count forward passes under accumulation. The module must not
    schedule the same hyperparameters itself.

    Args:
        monitor: A logged metric to report to schedules that react to one, after each
            validation.
        optimizer: The index of the optimizer, if the module has several.
        schedules: The arguments of `etude.interop.torch.Scheduler`; lengths may be left out.

    Raises:
        BadValueError: A schedule reacts to a metric, but no `monitor` is given.
    """

    def __init__(self, *, monitor: str | None = None, optimizer: int = 0, **schedules: Any) -> None:
        super().__init__()
        self.monitor, self.optimizer, self.schedules = monitor, optimizer, schedules
        self.scheduler: Scheduler | None = None
        self._saved: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}[optimizer={self.optimizer}]"

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        optimizer = trainer.optimizers[self.optimizer]
        self.scheduler = Scheduler(optimizer, **all_over(self.schedules, clock(trainer)))
        if self.scheduler.has_feedback and self.monitor is None:
            raise BadValueError(
                "a schedule here reacts to a metric: give its name, such as monitor='val_loss'"
            )
        if self._saved is not None:
            self.scheduler.load_state_dict(self._saved)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        scheduler = self.scheduler
        if scheduler is not None and scheduler.last_epoch != trainer.global_step:
            scheduler.seek(trainer.global_step)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        scheduler = self.scheduler
        if self.monitor is None or scheduler is None or trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            raise BadValueError(
                f"monitor is {self.monitor!r}, which was not logged; the logged metrics are "
                f"{', '.join(sorted(trainer.callback_metrics)) or 'none'}"
            )
        scheduler.seek(trainer.global_step)
        scheduler.record(trainer.callback_metrics[self.monitor])

    def state_dict(self) -> dict[str, Any]:
        return {} if self.scheduler is None else self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict or None


class _WatchHooks(Watching):
    """Watches a fit as `etude.watch` does a loop of your own.

        watching = WatchCallback()
        Trainer(callbacks=[watching]).fit(module)
        print(watching.report())

    Updates are counted as Lightning does, over a resumed fit too. An error in the fit ends the
    watch; nothing stays attached to the module or its optimizers.
    """

    __doc__ += Watching.__doc__.partition("\n\n")[2]  # type: ignore[union-attr]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        optimizers = trainer.optimizers
        watch = self.begin(
            {"": pl_module},
            optimizers,
            first=trainer.global_step // max(1, len(optimizers)),
            parts=trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1,
        )
        # A training step calls parts of the module, whose own forward pass is another.
        hook = Hook(watch, "begin_forward_of")
        self._removers = [
            module.register_forward_pre_hook(hook).remove
            for module in pl_module.children()
            if not isinstance(module, HOOKLESS)
        ]

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        if self.watch is not None:
            self.watch.end_forward(loss)

    def close(self) -> None:
        call_all(self.__dict__.pop("_removers", []))
        super().close()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.close()


@cache
def _callback_class(name: str) -> type[Any]:
    """Create a class when Lightning is loaded."""
    try:
        callbacks = load("lightning.pytorch.callbacks")
    except MissingExtraError:
        callbacks = load("pytorch_lightning.callbacks")
    hooks = {"ScheduleCallback": _ScheduleHooks, "WatchCallback": _WatchHooks}[name]
    made = type(name, (hooks, callbacks.Callback), {"__doc__": hooks.__doc__})
    made.__module__ = __name__
    return made


def __getattr__(name: str) -> Any:
    if name in ("ScheduleCallback", "WatchCallback"):
        return _callback_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
