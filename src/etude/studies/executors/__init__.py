"""Executors decide where the groups of a study are trained: here, in processes, or on Ray."""

from etude.studies.executors.base import Executor
from etude.studies.executors.choice import executor_for
from etude.studies.executors.here import HereExecutor
from etude.studies.executors.processes import ProcessExecutor
from etude.studies.executors.ray import RayExecutor

__all__ = ["Executor", "HereExecutor", "ProcessExecutor", "RayExecutor", "executor_for"]
