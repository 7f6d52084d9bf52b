"""How a value changes over training: pure expressions from step to value."""

from etude.schedules._base import Schedule
from etude.schedules.clock import Clock
from etude.schedules.kinds.constant import constant
from etude.schedules.kinds.cosine import cosine
from etude.schedules.kinds.exponential import exponential, step
from etude.schedules.kinds.polynomial import linear, polynomial
from etude.schedules.kinds.warmup import warmup
from etude.schedules.text import parse

__all__ = [
    "Clock",
    "Schedule",
    "constant",
    "cosine",
    "exponential",
    "linear",
    "parse",
    "polynomial",
    "step",
    "warmup",
]
