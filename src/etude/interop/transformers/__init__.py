"""The Hugging Face Trainer: its rate in two lines, schedules in it, callbacks that watch it.

    from etude.interop.transformers import tune
    print(tune(trainer))

| name | what it is |
|---|---|
| `tune` | looks for the rate of a Trainer; gives the `TrainingArguments` to paste |
| `task` | the task and the recipe of a Trainer |
| `scheduled`, `optimizers` | a Trainer with schedules of Etude |
| `FeedbackCallback`, `WatchCallback` | report metrics to schedules; watch a training |
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainerCallback as FeedbackCallback
    from transformers import TrainerCallback as WatchCallback

    from etude.interop.transformers.callbacks import optimizers, scheduled
    from etude.interop.transformers.trainer_task import task
    from etude.interop.transformers.tuning import TrainerTuning, tune

__all__ = [
    "FeedbackCallback",
    "TrainerTuning",
    "WatchCallback",
    "optimizers",
    "scheduled",
    "task",
    "tune",
]

_MODULES = {
    "FeedbackCallback": "callbacks",
    "TrainerTuning": "tuning",
    "WatchCallback": "callbacks",
    "optimizers": "callbacks",
    "scheduled": "callbacks",
    "task": "trainer_task",
    "tune": "tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
