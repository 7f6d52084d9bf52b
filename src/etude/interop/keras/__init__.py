"""Keras: the rate of `fit`; schedules to and from `LearningRateSchedule`; a callback to watch.

| name | what it is |
|---|---|
| `tune` | looks for the rate of `model.fit(x, y, ...)` |
| `to_keras`, `from_keras` | schedules as `LearningRateSchedule`, and back |
| `WatchCallback` | watches a fit |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from etude.lazy_names import lazy_names

if TYPE_CHECKING:
    from etude.interop.keras.schedules import from_keras, to_keras
    from etude.interop.keras.tuning import tune
    from etude.interop.keras.watch import KerasWatchHooks as WatchCallback

__all__ = ["WatchCallback", "from_keras", "to_keras", "tune"]

_MODULES = {
    "EtudeSchedule": "etude.interop.keras.schedules",
    "WatchCallback": "etude.interop.keras.watch",
    "from_keras": "etude.interop.keras.schedules",
    "to_keras": "etude.interop.keras.schedules",
    "tune": "etude.interop.keras.tuning",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
