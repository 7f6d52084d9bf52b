"""Data-parallel training: several processes train one run, each on its share of every batch."""

from etude.distributed.joining import join
from etude.distributed.launcher import launch

__all__ = ["join", "launch"]
