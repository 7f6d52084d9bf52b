"""Engines train several runs of one task.

`loop` trains one run after the other; `pool` uses one process per core; `vmap` stacks runs that
differ only in numeric values; `vmap pool` trains one such stack per core; `ray` trains them on a
cluster; `auto` measures the engines of this machine and chooses the fastest.
"""

from etude.engines.auto import AutoEngine, Choice
from etude.engines.base import Engine
from etude.engines.loop import LoopEngine
from etude.engines.process.engine import PoolEngine
from etude.engines.ray.engine import RayEngine
from etude.engines.train_many import ENGINES, engine_for, prepare_runs, train_many
from etude.engines.vmap.engine import VmapEngine
from etude.engines.vmap_pool import VmapPoolEngine
from etude.training.request import AdvanceRequest, EvaluationSteps, OnStep

__all__ = [
    "ENGINES",
    "AdvanceRequest",
    "AutoEngine",
    "Choice",
    "Engine",
    "EvaluationSteps",
    "LoopEngine",
    "OnStep",
    "PoolEngine",
    "RayEngine",
    "VmapEngine",
    "VmapPoolEngine",
    "engine_for",
    "prepare_runs",
    "train_many",
]
