"""Etude: the learning rate of neural networks. Choose it, schedule it, watch what it does."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from etude import _moved

if TYPE_CHECKING:
    from etude import compression as compression
    from etude import distributed as distributed
    from etude import layerwise as layerwise
    from etude import optimizers as optimizers
    from etude import report as report
    from etude import schedules as schedules
    from etude import tasks as tasks
    from etude.compression.compressing import compress
    from etude.diagnosis.check.checks import check
    from etude.diagnosis.diagnose import diagnose
    from etude.diagnosis.finding import Diagnosis, Finding
    from etude.diagnosis.health.observer import WatchObserver
    from etude.diagnosis.health.watched import train, tune
    from etude.diagnosis.remedies.repair import repair
    from etude.diagnosis.watch import watch
    from etude.measure.backprop import backprop
    from etude.measure.edge import edge
    from etude.methods.compare import compare_methods
    from etude.methods.grid import grid
    from etude.methods.population import population
    from etude.methods.range_test import range_test
    from etude.recipe import Recipe
    from etude.record import Record
    from etude.studies.study import study
    from etude.tasks.metrics import Metric
    from etude.tasks.task import Task
    from etude.training.observer import Observer
    from etude.tuning.loops.tune_loop import tune_loop
    from etude.tuning.result import TuneResult
    from etude.tuning.transfer.transfer import transfer

    __version__: str

_moved.install()

__all__ = [
    "Diagnosis",
    "Finding",
    "Metric",
    "Observer",
    "Recipe",
    "Record",
    "Task",
    "TuneResult",
    "WatchObserver",
    "backprop",
    "check",
    "compare_methods",
    "compress",
    "diagnose",
    "edge",
    "grid",
    "population",
    "range_test",
    "repair",
    "study",
    "train",
    "transfer",
    "tune",
    "tune_loop",
    "watch",
]

_HOMES = {
    "Diagnosis": "etude.diagnosis.finding",
    "Finding": "etude.diagnosis.finding",
    "Metric": "etude.tasks.metrics",
    "Observer": "etude.training.observer",
    "Recipe": "etude.recipe",
    "Record": "etude.record",
    "Task": "etude.tasks.task",
    "TuneResult": "etude.tuning.result",
    "WatchObserver": "etude.diagnosis.health.observer",
    "backprop": "etude.measure.backprop",
    "check": "etude.diagnosis.check.checks",
    "compare_methods": "etude.methods.compare",
    "compress": "etude.compression.compressing",
    "diagnose": "etude.diagnosis.diagnose",
    "edge": "etude.measure.edge",
    "grid": "etude.methods.grid",
    "population": "etude.methods.population",
    "range_test": "etude.methods.range_test",
    "repair": "etude.diagnosis.remedies.repair",
    "study": "etude.studies.study",
    "train": "etude.diagnosis.health.watched",
    "transfer": "etude.tuning.transfer.transfer",
    "tune": "etude.diagnosis.health.watched",
    "tune_loop": "etude.tuning.loops.tune_loop",
    "watch": "etude.diagnosis.watch",
}
"""Where each public name lives. It is loaded when first used: importing Etude loads no torch."""

_PACKAGES = (
    "compression",
    "distributed",
    "layerwise",
    "optimizers",
    "report",
    "schedules",
    "tasks",
)
"""Packages that are attributes too, such as `etude.tasks.get("digits-cnn")`."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("etude")
    if name in _PACKAGES:
        return import_module(f"etude.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES, "__version__"])
