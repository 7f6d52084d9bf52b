"""Schedules: pure expressions that map a training step to a value."""

from typing import Any

from etude.schedules import changes as changes
from etude.schedules._base import Schedule
from etude.schedules.clock import Clock
from etude.schedules.differences import diff
from etude.schedules.feedback.hypergradient import hypergradient
from etude.schedules.feedback.log import EventLog
from etude.schedules.feedback.plateau import plateau
from etude.schedules.integral import area
from etude.schedules.kinds.constant import constant
from etude.schedules.kinds.cosine import cosine
from etude.schedules.kinds.cyclic import exp_range, triangular, triangular2
from etude.schedules.kinds.exponential import exponential, step
from etude.schedules.kinds.function import function, register
from etude.schedules.kinds.growing import growing
from etude.schedules.kinds.inverse import inverse_time, natural_exponential, noam, rsqrt
from etude.schedules.kinds.milestones import multi_step, piecewise_constant
from etude.schedules.kinds.one_cycle import one_cycle, one_cycle_momentum
from etude.schedules.kinds.piecewise_interpolate import piecewise_interpolate
from etude.schedules.kinds.polynomial import linear, polynomial
from etude.schedules.kinds.restarts import restarts
from etude.schedules.kinds.rex import rex
from etude.schedules.kinds.tanh import tanh
from etude.schedules.kinds.warmup import warmup
from etude.schedules.kinds.wsd import wsd
from etude.schedules.linting import Lint, lint
from etude.schedules.preview import Preview, preview, svg
from etude.schedules.registry import KINDS, discover
from etude.schedules.serial import from_json, to_json
from etude.schedules.text import parse

__all__ = [
    "KINDS",
    "Clock",
    "EventLog",
    "Lint",
    "Preview",
    "Schedule",
    "area",
    "constant",
    "cosine",
    "diff",
    "exp_range",
    "exponential",
    "from_json",
    "function",
    "growing",
    "hypergradient",
    "inverse_time",
    "linear",
    "lint",
    "multi_step",
    "natural_exponential",
    "noam",
    "one_cycle",
    "one_cycle_momentum",
    "parse",
    "piecewise_constant",
    "piecewise_interpolate",
    "plateau",
    "polynomial",
    "preview",
    "register",
    "restarts",
    "rex",
    "rsqrt",
    "step",
    "svg",
    "tanh",
    "to_json",
    "triangular",
    "triangular2",
    "warmup",
    "wsd",
]

discover("etude.schedules.kinds")


def __getattr__(name: str) -> Any:
    """Return a kind that no import above names: a file in `kinds/` is enough to add one."""
    if name in KINDS:
        return KINDS[name].make
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *KINDS})
