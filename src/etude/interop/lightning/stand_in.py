"""What a module sees in place of its Trainer and its logger while it is tuned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from etude.errors import TaskError
from etude.interop.lightning.library import lightning


class StandIn:
    """A Trainer to look at: what a module sets on it does not reach the Trainer itself.

    Args:
        trainer: The Trainer whose other attributes are read; None if there is none.
        known: Attributes that a fit would have set.
    """

    def __init__(self, trainer: Any, **known: Any) -> None:
        self._read_from = trainer
        logger = lightning("loggers.logger").DummyLogger()
        vars(self).update(
            {"logger": logger, "loggers": [logger], "sanity_checking": False, "training": True},
            current_epoch=0,
            global_step=0,
            **known,
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_read_from":
            raise AttributeError(name)
        if self._read_from is None:
            raise TaskError(
                f"the module reads self.trainer.{name}, and no Trainer was given: give trainer="
            )
        return getattr(self._read_from, name)


class LoggedValues:
    """What a step of a module logs.

    Attributes:
        values: For each name, the value and the number of samples that it counts for (None: those
            of the batch).
        reductions: For each name, how the values of batches become one: 'mean', 'sum', 'max', 'min'
            or the name of another function.
    """

    def __init__(self) -> None:
        self.values: dict[str, tuple[Any, int | None]] = {}
        self.reductions: dict[str, str] = {}

    def log(
        self,
        name: str,
        value: Any,
        *_: Any,
        batch_size: int | None = None,
        reduce_fx: Any = "mean",
        **__: Any,
    ) -> None:
        """Stand in for `LightningModule.log`."""
        self.values[name] = (value, batch_size)
        told = reduce_fx if isinstance(reduce_fx, str) else getattr(reduce_fx, "__name__", "")
        self.reductions[name] = told.removeprefix("a")  # torch.amax and torch.amin

    def log_dict(self, dictionary: Any, *_: Any, **options: Any) -> None:
        """Stand in for `LightningModule.log_dict`."""
        for name, value in dictionary.items():
            self.log(name, value, **options)


def _no_optimizers(*_: Any, **__: Any) -> Any:
    """Stand in for `LightningModule.optimizers`."""
    raise TaskError(
        "a step reads self.optimizers(), which it cannot while it is tuned: leave that out, and "
        "log the rate with the callback LearningRateMonitor"
    )


@contextmanager
def attached(module: nn.Module, trainer: Any) -> Iterator[LoggedValues]:
    """Let a module, and the modules of Lightning in it, see a Trainer and a log in a block."""
    logged = LoggedValues()
    seen = {
        "_trainer": trainer,
        "log": logged.log,
        "log_dict": logged.log_dict,
        "optimizers": _no_optimizers,
    }
    parts = [part for part in module.modules() if "_trainer" in vars(part)]
    before = [{name: vars(part).get(name) for name in seen} for part in parts]
    try:
        for part in parts:
            vars(part).update(seen)
        yield logged
    finally:
        for part, kept in zip(parts, before, strict=True):
            for name, value in kept.items():
                if value is None and name != "_trainer":
                    vars(part).pop(name, None)
                else:
                    vars(part)[name] = value
