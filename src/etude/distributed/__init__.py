"""Data-parallel training: several processes train one run, each on its share of every batch."""

from etude.distributed.join import join
from etude.distributed.launch import launch

__all__ = ["join", "launch"]
