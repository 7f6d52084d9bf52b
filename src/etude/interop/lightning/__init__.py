"""Lightning: a module's rate in two lines, a finder of rates, schedules, callbacks that watch.

    from etude.interop.lightning import tune
    print(tune(module, datamodule, trainer=trainer))

| name | what it is |
|---|---|
| `tune` | looks for the rate of a module; gives the `configure_optimizers` to paste |
| `Tuner` | `lr_find` as Lightning's Tuner has it |
| `task` | the task and the recipe of a module |
| `configure`, `ScheduleCallback`, `clock` | schedules of Etude in a fit |
| `WatchCallback` | watches a fit |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from etude.lazy_names import lazy_names

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback as ScheduleCallback
    from lightning.pytorch.callbacks import Callback as WatchCallback

    from etude.interop.lightning.callbacks import clock, configure
    from etude.interop.lightning.finder import RateFinder, Tuner
    from etude.interop.lightning.module_task import task
    from etude.interop.lightning.tuning import ModuleTuning, tune

__all__ = [
    "ModuleTuning",
    "RateFinder",
    "ScheduleCallback",
    "Tuner",
    "WatchCallback",
    "clock",
    "configure",
    "task",
    "tune",
]

_MODULES = {
    "ModuleTuning": "etude.interop.lightning.tuning",
    "RateFinder": "etude.interop.lightning.finder",
    "ScheduleCallback": "etude.interop.lightning.callbacks",
    "Tuner": "etude.interop.lightning.finder",
    "WatchCallback": "etude.interop.lightning.callbacks",
    "clock": "etude.interop.lightning.callbacks",
    "configure": "etude.interop.lightning.callbacks",
    "task": "etude.interop.lightning.module_task",
    "tune": "etude.interop.lightning.tuning",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
