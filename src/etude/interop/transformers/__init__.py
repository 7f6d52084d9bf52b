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

from typing import TYPE_CHECKING

from etude.lazy_names import lazy_names

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
    "FeedbackCallback": "etude.interop.transformers.callbacks",
    "TrainerTuning": "etude.interop.transformers.tuning",
    "WatchCallback": "etude.interop.transformers.callbacks",
    "optimizers": "etude.interop.transformers.callbacks",
    "scheduled": "etude.interop.transformers.callbacks",
    "task": "etude.interop.transformers.trainer_task",
    "tune": "etude.interop.transformers.tuning",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
