"""Aim: a sink for what a watch reads and finds, and for `log="aim"`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.diagnosis.finding import Finding
from etude.interop._peer import load


class AimSink:
    """Tracks what a watch reads in a run of Aim, and what it finds as text.

        etude.watch(model, optimizer, sink=AimSink(aim.Run()))

    The run is not closed: it is yours.

    Args:
        run: The run, as `aim.Run()` makes it.
    """

    def __init__(self, run: Any) -> None:
        self.run = run
        self._text: Any = load("aim").Text

    def readings(self, update: int, values: Mapping[str, float]) -> None:
        """Track each value, at the update."""
        for name, value in values.items():
            self.run.track(value, name=name, step=update)

    def settings(self, config: Mapping[str, Any]) -> None:
        """Keep the values of a recipe as the run's 'recipe'."""
        self.run["recipe"] = {name: str(value) for name, value in config.items()}

    def part(self, title: str, name: str) -> OwnAimRun:
        """Return a sink of a new run of the same experiment, whose 'tuning' is this run.

        Args:
            title: The name of the run.
            name: Not used.
        """
        run = load("aim").Run(repo=self.run.repo, experiment=self.run.experiment)
        run.name = title
        run["tuning"] = self.run.hash
        return OwnAimRun(run)

    def finding(self, finding: Finding) -> None:
        """Track a finding as text under 'watch/findings', at its update."""
        self.run.track(self._text(str(finding)), name="watch/findings", step=finding.step or 0)

    def close(self) -> None:
        """Do nothing: the run goes on."""


class OwnAimRun(AimSink):
    """Tracks in a run that was started for it, and closes it."""

    def close(self) -> None:
        """Close the run."""
        self.run.close()


def available() -> None:
    """Check that Aim can be imported.

    Raises:
        MissingExtraError: If it is not installed.
    """
    load("aim")


def open_log(title: str, folder: Path | None) -> AimSink:
    """Return a sink of a new run, in the repository that Aim is set to: `.aim` if nothing is said.

    Args:
        title: The name of the run.
        folder: Not used.
    """
    run = load("aim").Run(experiment="etude")
    run.name = title
    return OwnAimRun(run)
