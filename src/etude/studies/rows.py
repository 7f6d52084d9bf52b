"""One row for each trial of a study: what it is, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from etude.optimizers.choice import OptimizerChoice
from etude.recipe import Recipe
from etude.storage.study import StoredTrial, TrialState
from etude.studies.axes import FIELDS
from etude.studies.trials import STOPPED_AT, PlannedTrial

Setting = str | int | float | bool | None


@dataclass(frozen=True)
class RunKind:
    """What a run is, besides its rate and seed.

    Attributes:
        task: The task's reference.
        settings: The options of the task, as pairs of name and value, by name; a value that is a
            list or a table is its JSON.
        optimizer: The optimizer, as text.
        schedule: The schedule, as text.
        batch_size: Samples per batch; None for the task's own.
        clip_norm: The largest norm of the gradient; None without clipping.
        steps: The run's length.
        recipe: Other fields of the recipe that are not the usual ones, as text; '' for none.
    """

    task: str
    settings: tuple[tuple[str, Setting], ...]
    optimizer: str
    schedule: str
    batch_size: int | str | None
    clip_norm: float | None
    steps: int | str
    recipe: str = ""

    @classmethod
    def of(cls, one: PlannedTrial) -> RunKind:
        """Return what a planned trial is."""
        recipe = one.recipe
        return cls(
            one.ref.reference,
            tuple((name, _setting(value)) for name, value in sorted(one.ref.options.items())),
            optimizer_text(recipe.optimizer),
            repr(recipe.schedule),
            recipe.batch_size,
            recipe.clip_norm,
            recipe.steps,
            _others(recipe),
        )

    @property
    def options(self) -> str:
        """The options of the task as text; '' for none.

        >>> RunKind("a", (("depth", 2), ("width", 8)), "sgd", "cosine()", 64, None, 10).options
        'depth=2, width=8'
        """
        return ", ".join(f"{name}={value}" for name, value in self.settings)

    def parts(self) -> dict[str, Setting]:
        """Return its parts by name, the options as one text."""
        return {name: getattr(self, name) for name in PARTS}


PARTS = ("task", "options", "optimizer", "schedule", "batch_size", "clip_norm", "steps", "recipe")
"""The parts of a kind, in order."""


def optimizer_text(choice: OptimizerChoice) -> str:
    """Return an optimizer as text.

    >>> optimizer_text(OptimizerChoice("sgd", {"momentum": 0.9}))
    'sgd (momentum 0.9)'
    """
    own = ", ".join(f"{k} {v}" for k, v in sorted(choice.hyperparameters.items()))
    return f"{choice.name} ({own})" if own else choice.name


_OWN = {*FIELDS.values(), "evaluations"}
_USUAL = {k: v for k, v in Recipe().plain().items() if k not in _OWN}


def _others(recipe: Recipe) -> str:
    """Return the fields of a recipe that no axis sets, where they are not the usual ones."""
    rest = {k: v for k, v in recipe.plain().items() if k not in _OWN}
    return ", ".join(f"{k}={v}" for k, v in rest.items() if v != _USUAL.get(k))


def _setting(value: Any) -> Setting:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return json.dumps(value, sort_keys=True)


@dataclass(frozen=True)
class StudyRow:
    """One trial of a study.

    Attributes:
        number: The trial's number; `StudyResult.record` returns its Record.
        kind: What it is, besides rate and seed.
        lr: The rate.
        seed: The seed.
        state: Waiting, running, done or failed.
        loss: The final validation loss; infinite if it diverged, None before it is done.
        metric: The final metric; None without one.
        diverged: Whether a NaN or Inf ended it.
        untrained_loss: The validation loss before training.
        half_loss: That of the last evaluation in the first half of the run.
        error: Why it failed.
        sharpness: The largest eigenvalue of the Hessian before training; None where it was not
            measured: it is for one trial of each network, optimizer and batch size.
        limit: The rate above which that curvature makes a step unstable; None if it is not known.
        record: The digest of its Record's file; None without one. It is not compared: a Record
            holds the time that a run took.
        stopped_at: The updates after which successive halving stopped it, and to which its loss
            belongs; None if it was trained to the end.
    """

    number: int
    kind: RunKind
    lr: float
    seed: int
    state: TrialState
    loss: float | None
    metric: float | None
    diverged: bool | None
    untrained_loss: float | None
    half_loss: float | None
    error: str | None
    sharpness: float | None = None
    limit: float | None = None
    record: str | None = field(default=None, repr=False, compare=False)
    stopped_at: float | None = None

    @classmethod
    def of(cls, stored: StoredTrial) -> StudyRow:
        """Return the row of a stored trial.

        Raises:
            StorageError: If its parameters are damaged.
        """
        one = PlannedTrial.from_plain(stored.parameters, f"trial {stored.number} of the study")
        values = stored.values
        return cls(
            stored.number,
            RunKind.of(one),
            one.recipe.lr,
            one.recipe.seed,
            stored.state,
            stored.loss,
            stored.metric,
            stored.diverged,
            values.get("untrained_loss"),
            values.get("half_loss"),
            stored.error,
            values.get("sharpness"),
            values.get("limit"),
            stored.record,
            values.get(STOPPED_AT),
        )


def table_of(rows: Sequence[StudyRow]) -> Iterator[Mapping[str, Any]]:
    """Yield each row as plain values, for tables."""
    for row in rows:
        names = (f.name for f in fields(row) if f.name not in ("kind", "record"))
        own = {name: getattr(row, name) for name in names}
        yield {"number": own.pop("number"), **row.kind.parts(), **own}
