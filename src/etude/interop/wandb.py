"""Weights & Biases: a sink for what a watch reads and finds, and for `log="wandb"`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.diagnosis.finding import Finding
from etude.diagnosis.watching.sink import TRIALS
from etude.errors import BadValueError
from etude.interop._peer import load

UPDATE = "watch/update"
"""The axis of a watch's metrics: W&B's own step belongs to what you log yourself."""

SEVERAL = (0, 19, 10)
"""The version of W&B from which on a process may have several runs."""

LOGGED = ("train/*", "valid/*", "trial/*", f"{TRIALS}/*", "answer/*")
"""What `log="wandb"` logs, over the axis 'update'."""


class WandbSink:
    """Logs what a watch reads to a run of W&B, and what it finds in the summary of the run.

        wandb.init(project="mine")
        etude.watch(model, optimizer, sink=WandbSink())

    The metrics have the axis 'watch/update'. The run is not finished: it is yours.

    Args:
        run: The run, as `wandb.init` returns it; None takes the active one.
        axis: The metric that is the axis of the others.
        groups: The metrics that have this axis, as patterns.

    Raises:
        BadValueError: If no run is given and none is active.
        MissingExtraError: If wandb is not installed.
    """

    def __init__(
        self, run: Any = None, *, axis: str = UPDATE, groups: tuple[str, ...] = ("watch/*",)
    ) -> None:
        wandb = load("wandb")
        self.run: Any = wandb.run if run is None else run
        if self.run is None:
            raise BadValueError("no run of W&B is active: call wandb.init() before, or give run=")
        self.axis, self.groups = axis, groups
        self.run.define_metric(axis, hidden=True)
        for group in groups:
            self.run.define_metric(group, step_metric=axis)
        self._findings: list[str] = []

    def readings(self, update: int, values: Mapping[str, float]) -> None:
        """Log the values, over the update."""
        self.run.log({**values, self.axis: update})

    def settings(self, config: Mapping[str, Any]) -> None:
        """Add the values of a recipe to the run's config, as 'recipe'."""
        self.run.config.update({"recipe": dict(config)}, allow_val_change=True)

    def part(self, title: str, name: str) -> OwnWandbRun | None:
        """Return a sink of a new run of the same project, in the group of this run.

        None for a run of a sweep, to which W&B would count the new one, and where W&B (before
        0.19.10) has one run at a time.

        Args:
            title: The name of the run.
            name: Not used.
        """
        wandb: Any = load("wandb")
        version = tuple(int(part) for part in wandb.__version__.split(".")[:3] if part.isdecimal())
        if self.run.sweep_id or version < SEVERAL:
            return None
        group = self.run.group or self.run.id
        named = {"project": self.run.project, "entity": self.run.entity or None, "group": group}
        kept = Path(self.run.settings.root_dir)
        run = wandb.init(**named, name=title, job_type="trial", dir=kept, reinit="create_new")
        return OwnWandbRun(run, axis=self.axis, groups=self.groups)

    def finding(self, finding: Finding) -> None:
        """Add a finding to 'watch/findings' in the summary."""
        self._findings.append(str(finding))
        self.run.summary["watch/findings"] = "\n\n".join(self._findings)

    def close(self) -> None:
        """Do nothing: the run goes on."""


class OwnWandbRun(WandbSink):
    """Logs to a run that was started for it, and finishes it."""

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


def available() -> None:
    """Check that wandb can be imported.

    Raises:
        MissingExtraError: If it is not installed.
    """
    load("wandb")


def open_log(title: str, folder: Path | None) -> WandbSink:
    """Return a sink of the active run; of a new one of the project 'etude' if none is active.

    Args:
        title: The name of a new run.
        folder: Where a new run keeps its files; None takes the current folder.
    """
    wandb: Any = load("wandb")
    told: dict[str, Any] = {"axis": "update", "groups": LOGGED}
    if wandb.run is not None:
        return WandbSink(wandb.run, **told)
    run = wandb.init(project="etude", name=title, dir=folder)
    return OwnWandbRun(run, **told)
