"""A Record is what happened: values per step, evaluations, status, cost, environment."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.errors import StorageError, member, shown
from etude.recipe import Recipe
from etude.record_shape import refuse_other
from etude.storage.record_files import read_notes, read_record, read_series, write_record
from etude.tasks.references.ref import TaskRef

Series = Mapping[str, NDArray[np.float64]]


class Status(StrEnum):
    """How a run stands; each is equal to the word that files and JSON hold."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Evaluation:
    """How good the model was on the validation data after `step` updates.

    Attributes:
        step: Updates done.
        loss: Mean loss over all that the validation data answers.
        metric: The task's metric, None where it has none.
        parts: Mean loss of fixed slices of the validation data, in order: two evaluations of
            one task can be compared slice by slice. Where slices weigh differently, each is
            multiplied by its weight over their mean weight, so that the mean of the parts is the
            loss; a slice of weight 0 adds 0.
        metric_parts: The metric of each of these slices, empty where there is no metric, or one
            of the whole set alone; NaN for a slice that has no answer to score. Of a metric whose
            noise is told by leaving slices out, the pseudo-value of each.
        weight: What the loss is a mean over: the answered targets, or the sum of their weights;
            None where that is not known.
    """

    step: int
    loss: float
    metric: float | None = None
    parts: tuple[float, ...] = ()
    metric_parts: tuple[float, ...] = ()
    weight: float | None = None

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Evaluation:
        """Rebuild an evaluation from its fields; older ones lack the metric's parts.

        >>> Evaluation.of({"step": 3, "loss": 1.5, "metric": None, "parts": [1.0, 2.0]}).parts
        (1.0, 2.0)
        """
        parts, metric_parts = plain["parts"], plain.get("metric_parts", ())
        return cls(
            plain["step"],
            plain["loss"],
            plain["metric"],
            tuple(parts),
            tuple(metric_parts),
            plain.get("weight"),
        )


@dataclass(frozen=True)
class Cost:
    """What a run cost.

    Attributes:
        steps: Optimizer updates.
        gradients: Gradients of single samples.
        seconds: Wall-clock time of its updates and evaluations.
        evaluation_seconds: Of these, the time of evaluations, what observers did at them
            included; None in records of older versions of Etude.
    """

    steps: int
    gradients: int
    seconds: float
    evaluation_seconds: float | None = None

    @property
    def evaluation_share(self) -> float | None:
        """The share of the time that went into evaluations; None where it is not known.

        >>> Cost(100, 6_400, seconds=4.0, evaluation_seconds=1.0).evaluation_share
        0.25
        """
        return share_of_time(self.evaluation_seconds, self.seconds)


def share_of_time(part: float | None, whole: float | None) -> float | None:
    """Return part / whole of a time; None where either is unknown, or no time was measured."""
    return part / whole if part is not None and whole else None


@dataclass(frozen=True, eq=False)
class Record:
    """What happened when a Recipe was run on a Task.

    Attributes:
        task: The task's name.
        recipe: The recipe that was run.
        status: Finished, diverged (a NaN or Inf ended it), or stopped before its end; its word
            will do.
        reason: Why it did not finish, with the step; empty if it did.
        length: Updates in the full run.
        metric: The name of the task's metric, None where it has none.
        series: Values per update: 'loss' and 'lr', 'grad_norm' where the norm was clipped, and
            one for each probe. Where parts take turns also 'loss/part' and 'grad_norm/part',
            NaN where a part had no turn. With `Recipe.spikes`, 'skipped' or 'clipped' (1 where it
            was), or 'rewound' (how many updates it went back first, mostly 0).
        evaluations: On the validation data, in order.
        cost: In updates, gradients and seconds.
        environment: Versions, device and threads.
        extended: After which updates the run was given another length: from there on its
            schedule is that of the new one.
        ref: What names the task outside this process; None for one that was put together in a
            program, and in records of older versions of Etude.
        notes: What observers noted, by their names; plain values.
        model: The trained network. In memory only; a run folder keeps it beside the record.
    """

    task: str
    recipe: Recipe
    status: Status
    reason: str
    length: int
    metric: str | None
    series: Series
    evaluations: tuple[Evaluation, ...]
    cost: Cost
    environment: Mapping[str, Any]
    extended: tuple[int, ...] = ()
    ref: TaskRef | None = None
    notes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    model: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse a status that is none.

        Raises:
            UnknownNameError: If there is no such status.
        """
        object.__setattr__(self, "status", member(Status, self.status, "status"))

    def __repr__(self) -> str:
        lines: list[str] = [
            self.status,
            f"lr {self.recipe.lr:g}",
            f"validation loss {self.valid_loss:.4g}",
        ]
        if self.valid_metric is not None:
            lines.append(f"{self.metric} {self.valid_metric:.4g}")
        lines.append(f"{self.cost.steps:,} of {self.length:,} updates")
        return f"<Record of {self.task!r}: {', '.join(lines)}>"

    @property
    def valid_loss(self) -> float:
        """The last validation loss; infinite if the run diverged or was never evaluated."""
        if self.status == Status.DIVERGED or not self.evaluations:
            return math.inf
        return self.evaluations[-1].loss

    @property
    def valid_metric(self) -> float | None:
        """The last value of the task's metric."""
        return self.evaluations[-1].metric if self.evaluations else None

    @property
    def not_as_planned(self) -> str:
        """Why a run that was trained further is not the one planned at its length, if it is not."""
        return str(self.notes.get("not_as_planned", ""))

    def plain(self) -> dict[str, Any]:
        """Return all but series, notes and model as plain values that JSON can hold."""
        return {
            "task": self.task,
            "recipe": self.recipe.plain(),
            "status": self.status,
            "reason": self.reason,
            "length": self.length,
            "metric": self.metric,
            "evaluations": [
                {
                    "step": e.step,
                    "loss": to_json(e.loss),
                    "metric": to_json(e.metric),
                    "weight": e.weight,
                }
                for e in self.evaluations
            ],
            "cost": asdict(self.cost),
            "environment": dict(self.environment),
            "extended": list(self.extended),
            "task_ref": None if self.ref is None else self.ref.plain(),
        }

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return the series, and the evaluations' parts as rows.

        'valid_parts' holds those of the loss, 'valid_metric_parts' those of the metric.
        """
        arrays = {name: np.ascontiguousarray(values) for name, values in self.series.items()}
        # An evaluation at the end may be on other samples, and have no parts to compare.
        for name, rows in (
            ("valid_parts", [e.parts for e in self.evaluations]),
            ("valid_metric_parts", [e.metric_parts for e in self.evaluations]),
        ):
            while rows and not rows[-1]:
                rows.pop()
            if rows and all(rows):
                arrays[name] = np.array(rows)
        return arrays

    @classmethod
    def from_plain(
        cls,
        plain: Mapping[str, Any],
        arrays: Mapping[str, NDArray[np.float64]],
        notes: Mapping[str, Any] | None = None,
    ) -> Record:
        """Rebuild a record from `plain()`, `arrays()` and its notes."""
        series = dict(arrays)
        count = len(plain["evaluations"])
        parts = _rows(series.pop("valid_parts", None), count)
        metric_parts = _rows(series.pop("valid_metric_parts", None), count)
        return cls(
            task=plain["task"],
            recipe=Recipe(**plain["recipe"]),
            status=plain["status"],
            reason=plain["reason"],
            length=plain["length"],
            metric=plain["metric"],
            series=series,
            evaluations=tuple(
                Evaluation(
                    e["step"],
                    from_json(e["loss"]),
                    _optional(e["metric"]),
                    p,
                    m,
                    _optional(e.get("weight")),
                )
                for e, p, m in zip(plain["evaluations"], parts, metric_parts, strict=True)
            ),
            cost=Cost(**plain["cost"]),
            environment=plain["environment"],
            extended=tuple(plain.get("extended", ())),
            ref=_ref(plain.get("task_ref")),
            notes=dict(notes or {}),
        )

    def save(self, folder: Path) -> None:
        """Write record, series and notes into a run folder, each atomically."""
        write_record(folder, self.plain(), self.arrays(), self.notes)

    @classmethod
    def load(cls, folder: str | Path) -> Record:
        """Read a record from a run folder.

        Raises:
            StorageError: If a file is missing or damaged; the message names it.
        """
        folder = Path(folder)
        plain, series = read_record(folder)
        return cls.checked(
            plain,
            lambda: read_series(series),
            f"the record in {str(folder)!r}",
            lambda: read_notes(folder),
        )

    @classmethod
    def checked(
        cls,
        plain: Mapping[str, Any],
        arrays: Callable[[], Mapping[str, NDArray[Any]]],
        where: str,
        notes: Callable[[], Mapping[str, Any]] = dict,
    ) -> Record:
        """Rebuild a record from what was read, which may come from an unknown source.

        Args:
            plain: What `plain()` returned, as far as is known.
            arrays: Reads what `arrays()` returned.
            where: What was read, for the error.
            notes: Reads the notes.

        Raises:
            StorageError: If it is not a record.
        """
        try:
            refuse_other(plain)
            return cls.from_plain(plain, _series(arrays()), notes())
        except Exception as error:
            raise StorageError(f"{where} is damaged: {type(error).__name__}: {error}") from error

    def without_model(self) -> Record:
        """Return the record alone, for keeping many."""
        return replace(self, model=None)


def _series(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """Return series as they were read, if that is what they are.

    Raises:
        StorageError: If an array is none of numbers, or has the wrong number of axes.
    """
    for name, array in arrays.items():
        axes = 2 if name in ("valid_parts", "valid_metric_parts") else 1
        if array.dtype != np.float64 or array.ndim != axes:
            raise StorageError(
                f"the series {shown(name)} has {array.ndim} axes of {array.dtype}, not {axes} of "
                "float64"
            )
    return dict(arrays)


def _ref(plain: Any) -> TaskRef | None:
    return None if plain is None else TaskRef.from_plain(plain, "its task_ref")


def to_json(value: float | None) -> float | str | None:
    """Return a number as JSON can hold it: 'nan', 'inf' and '-inf' as text."""
    return value if value is None or math.isfinite(value) else str(value)


def from_json(value: float | str) -> float:
    """Undo `to_json`."""
    return float(value)


def _rows(array: NDArray[np.float64] | None, count: int) -> list[tuple[float, ...]]:
    rows = [] if array is None else [tuple(row.tolist()) for row in array]
    return rows + [()] * (count - len(rows))


def _optional(value: float | str | None) -> float | None:
    return None if value is None else float(value)


@cache
def _own_version() -> str:
    """Return the version of Etude, which is read from a file."""
    try:
        return version("etude")
    except PackageNotFoundError:
        return "unknown"


def environment(device: str, threads: int) -> dict[str, Any]:
    """Return what a figure depends on besides the recipe: versions, device, threads."""
    import torch

    return {
        "etude": _own_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        "threads": threads,
        "cores": os.cpu_count(),
    }
