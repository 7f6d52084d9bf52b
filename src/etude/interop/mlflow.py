"""MLflow: a sink for what a watch reads and finds, and for `log="mlflow"`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.diagnosis.finding import Finding
from etude.errors import BadValueError
from etude.interop._peer import load

MOST_METRICS = 1_000
"""The largest number of metrics that MLflow takes at once."""

MOST_PARAMETERS = 100
"""The largest number of parameters that it takes at once."""

PARENT = "mlflow.parentRunId"
"""The tag by which MLflow shows a run below another one."""

MOST_LETTERS = 5_000
"""The longest text of a tag."""


class MlflowSink:
    """Logs what a watch reads as metrics of an MLflow run, and what it finds as tags.

        with mlflow.start_run():
            etude.watch(model, optimizer, sink=MlflowSink())

    The run is not ended: it is yours. Characters that MLflow does not take in a name become '_'.

    Args:
        run_id: The run; None takes the active one.
        uri: Where runs are tracked; None takes what MLflow is set to.

    Raises:
        BadValueError: If no run is given and none is active.
        MissingExtraError: If MLflow is not installed.
    """

    def __init__(self, run_id: str | None = None, *, uri: str | None = None) -> None:
        mlflow: Any = load("mlflow")
        active: Any = mlflow.active_run() if run_id is None else None
        if run_id is None and active is None:
            raise BadValueError(
                "no run of MLflow is active: call mlflow.start_run() before, or give run_id="
            )
        self.run_id: str = run_id or active.info.run_id
        self._uri = uri
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
        self._entities: Any = mlflow.entities
        self._found = 0

    def readings(self, update: int, values: Mapping[str, float]) -> None:
        """Log each value as a metric, at the update."""
        self.many([(update, values)])

    def many(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log the values of many updates, as many as MLflow takes in each call."""
        now, metric = int(1000 * time.time()), self._entities.Metric
        metrics = [metric(_name(k), v, now, update) for update, one in rows for k, v in one.items()]
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self.run_id, metrics=metrics[first : first + MOST_METRICS])

    def part(self, title: str, name: str) -> OwnMlflowRun:
        """Return a sink of a new run below this one, in the same experiment.

        Args:
            title: The name of the run.
            name: Not used.
        """
        experiment = self._client.get_run(self.run_id).info.experiment_id
        run = self._client.create_run(experiment, tags={PARENT: self.run_id}, run_name=title)
        return OwnMlflowRun(run.info.run_id, uri=self._uri)

    def finding(self, finding: Finding) -> None:
        """Set a tag 'watch/finding/NUMBER' to the finding."""
        self._client.set_tag(
            self.run_id, f"watch/finding/{self._found}", str(finding)[:MOST_LETTERS]
        )
        self._found += 1

    def close(self) -> None:
        """Do nothing: the run goes on."""


class OwnMlflowRun(MlflowSink):
    """Logs to a run that was started for it, and ends it."""

    def settings(self, config: Mapping[str, Any]) -> None:
        """Log the values of a recipe as parameters."""
        param = self._entities.Param
        found = [param(f"recipe.{name}", str(v)[:MOST_LETTERS]) for name, v in config.items()]
        for first in range(0, len(found), MOST_PARAMETERS):
            self._client.log_batch(self.run_id, params=found[first : first + MOST_PARAMETERS])

    def close(self) -> None:
        """End the run, whichever thread started it."""
        self._client.set_terminated(self.run_id)


def available() -> None:
    """Check that MLflow can be imported.

    Raises:
        MissingExtraError: If it is not installed.
    """
    load("mlflow")


def open_log(title: str, folder: Path | None) -> MlflowSink:
    """Return a sink of the active run; of a new one if none is active.

    Args:
        title: The name of a new run.
        folder: Not used: MLflow keeps runs where it is set to.
    """
    mlflow: Any = load("mlflow")
    active = mlflow.active_run()
    if active is not None:
        return MlflowSink(active.info.run_id)
    client = mlflow.MlflowClient()
    named = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    experiment = None if named is None else client.get_experiment_by_name(named)
    number = "0" if experiment is None else experiment.experiment_id
    return OwnMlflowRun(client.create_run(number, run_name=title).info.run_id)


def _name(name: str) -> str:
    """Return a name with only the characters that MLflow takes.

    >>> _name("watch/dead/(model)")
    'watch/dead/_model_'
    """
    return re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII)
