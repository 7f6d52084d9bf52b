"""Engines: several runs of one task, taken further together.

`loop` is the plain loop, one run after the other; `pool` has a process per core; `vmap` stacks
runs that differ in numbers only; `vmap pool` has such a stack per core; `auto` measures and
takes the fastest.
"""

from etude.engines.auto import AutoEngine, Choice
from etude.engines.base import Engine
from etude.engines.loop import LoopEngine
from etude.engines.process.engine import PoolEngine
from etude.engines.train_many import ENGINES, engine_for, train_many
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
    "VmapEngine",
    "VmapPoolEngine",
    "engine_for",
    "train_many",
]
