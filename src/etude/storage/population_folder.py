"""The folder of a population: the request, the result, and a run folder for every member's line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from etude.storage import layout
from etude.storage.tuning_folder import TuningFolder


@dataclass(frozen=True)
class PopulationFolder(TuningFolder):
    """The folder of one population, laid out as that of a tuning but for the name of its file."""

    @property
    def file(self) -> Path:
        """The path of the population's file, for messages."""
        return self.path / layout.POPULATION
