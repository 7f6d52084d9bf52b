"""The folder of a grid: the request, the result, and a run folder for every trial."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from etude.storage import layout
from etude.storage.tuning_folder import TuningFolder


@dataclass(frozen=True)
class GridFolder(TuningFolder):
    """The folder of one grid. It is laid out as that of a tuning, but for the name of its file."""

    @property
    def file(self) -> Path:
        """The path of the grid's file, for messages."""
        return self.path / layout.GRID
