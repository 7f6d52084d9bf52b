"""Weights & Biases: a sink for what a watch reads and finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etude.diagnosis.finding import Finding
from etude.errors import BadValueError
from etude.interop._peer import load

UPDATE = "watch/update"
"""The axis of the metrics: W&B's own step belongs to what you log yourself."""


class WandbSink:
    """Logs what a watch reads to a run of W&B, and what it finds in the summary of the run.

        wandb.init(project="mine")
        etude.watch(model, optimizer, sink=WandbSink())

    The metrics have the axis 'watch/update'. The run is not finished: it is yours.

    Args:
        run: The run, as `wandb.init` returns it; None takes the active one.

    Raises:
        BadValueError: If no run is given and none is active.
        MissingExtraError: If wandb is not installed.
    """

    def __init__(self, run: Any = None) -> None:
        wandb = load("wandb")
        self.run: Any = wandb.run if run is None else run
        if self.run is None:
            raise BadValueError("no run of W&B is active: call wandb.init() before, or give run=")
        self.run.define_metric(UPDATE, hidden=True)
        self.run.define_metric("watch/*", step_metric=UPDATE)
        self._findings: list[str] = []

    def readings(self, update: int, values: Mapping[str, float]) -> None:
        """Log the values, over the update."""
        self.run.log({**values, UPDATE: update})

    def finding(self, finding: Finding) -> None:
        """Add a finding to 'watch/findings' in the summary."""
        self._findings.append(str(finding))
        self.run.summary["watch/findings"] = "\n\n".join(self._findings)

    def close(self) -> None:
        """Do nothing: the run goes on."""
