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

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    "ModuleTuning": "tuning",
    "RateFinder": "finder",
    "ScheduleCallback": "callbacks",
    "Tuner": "finder",
    "WatchCallback": "callbacks",
    "clock": "callbacks",
    "configure": "callbacks",
    "task": "module_task",
    "tune": "tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
