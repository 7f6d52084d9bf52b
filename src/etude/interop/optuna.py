"""Studies in Optuna: written so that its own API, its dashboard and its samplers read them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from etude.errors import BadValueError, StorageError, shown
from etude.interop._peer import load
from etude.storage.study import StoredStudy, StoredTrial, TrialState
from etude.storage.study.columns import PARAMETER, ColumnKind, Scalar, columns_of, flat
from etude.warning_filters import logger_kept

__all__ = ["to_optuna"]

WIDE = 10
"""From which ratio of its largest to its smallest value on a positive parameter is logarithmic."""

GOALS = {"loss": "minimize", "metric": "maximize"}
"""What a trial can be judged by, and which way is better if nothing else is said."""


def to_optuna(
    study: StoredStudy,
    url: str,
    *,
    by: str = "loss",
    direction: str | None = None,
    curves: bool = False,
) -> int:
    """Write a study into an Optuna database, with every trial under its own number.

    Done trials are COMPLETE with their loss (or metric) as the value. One that diverged without a
    value has the worst: inf, or -inf where more is better. Failed trials are FAIL. Trials that are
    not finished are WAITING, with their parameters enqueued. A parameter is a number within the
    range of its values, logarithmic if they span a factor of 10, or else a choice among its values;
    tables in it are flattened, with dots in the names. What else is known is in `user_attrs`.

    Args:
        study: The study.
        url: Where Optuna keeps its studies, such as 'sqlite:///optuna.db'.
        by: 'loss' or 'metric'.
        direction: 'minimize' or 'maximize'; None for the usual one.
        curves: Whether to read each trial's Record and to write its evaluations as intermediate
            values.

    Returns:
        The number of trials.

    Raises:
        MissingExtraError: If Optuna is not installed.
        StorageError: If the database cannot be written, or has a study of this name.
        BadValueError: If `by` or `direction` is unknown.
    """
    if by not in GOALS:
        raise BadValueError(f"by={shown(by)}: give 'loss' or 'metric'")
    direction = GOALS[by] if direction is None else direction
    if direction not in GOALS.values():
        raise BadValueError(f"direction={shown(direction)}: give 'minimize' or 'maximize'")
    optuna = load("optuna")
    with logger_kept("optuna", logging.WARNING):  # it would announce the study
        try:
            target = optuna.create_study(
                storage=_storage(optuna, url), study_name=study.name, direction=direction
            )
        except optuna.exceptions.DuplicatedStudyError as error:
            raise StorageError(
                f"there is a study {study.name!r} in {_without_password(url)} already: delete it "
                "there, or give another database"
            ) from error
        except Exception as error:
            reason = " ".join(str(error).split())
            raise StorageError(
                f"cannot write to the Optuna database {_without_password(url)}: {reason}"
            ) from error
        target.set_user_attr("plan", dict(study.plan))
        target.set_user_attr("plan_digest", study.digest)
        target.set_user_attr("by", by)
        distributions = _distributions(optuna, study)
        count = 0
        for trial in _frozen(optuna, study, distributions, by, direction, curves):
            target.add_trial(trial)
            count += 1
    return count


def _frozen(
    optuna: Any,
    study: StoredStudy,
    distributions: dict[str, Any],
    by: str,
    direction: str,
    curves: bool,
) -> Iterator[Any]:
    states = optuna.trial.TrialState
    worst = math.inf if direction == "minimize" else -math.inf
    for trial in study.trials():
        params = {
            name: _choice(distributions[name], value)
            for name, value in flat(trial.parameters).items()
            if name in distributions
        }
        attributes = _attributes(trial)
        if trial.state in (TrialState.WAITING, TrialState.RUNNING):
            # Nothing in Optuna would ever end a trial that is RUNNING: it is enqueued instead.
            yield optuna.create_trial(
                state=states.WAITING, system_attrs={"fixed_params": params}, user_attrs=attributes
            )
            continue
        value = trial.loss if by == "loss" else trial.metric
        if trial.diverged and value is None:
            value = worst
        failed = trial.state == TrialState.FAILED or value is None
        stopped = trial.values.get("stopped_at") is not None
        made = optuna.create_trial(
            state=states.FAIL if failed else states.PRUNED if stopped else states.COMPLETE,
            value=None if failed else value,
            params=params,
            distributions={name: distributions[name] for name in params},
            user_attrs=attributes,
            intermediate_values=_curve(study, trial, by) if curves else {},
        )
        _set_times(made, trial)
        yield made


def _attributes(trial: StoredTrial) -> dict[str, Any]:
    known: dict[str, Any] = {
        "number": trial.number, "state": str(trial.state), "loss": trial.loss,
        "metric": trial.metric, "diverged": trial.diverged, "seconds": trial.seconds,
        "attempts": trial.attempts, "record": trial.record, "error": trial.error,
        "place": trial.place, **trial.values,
    }  # fmt: skip
    return {name: value for name, value in known.items() if value is not None}


def _curve(study: StoredStudy, trial: StoredTrial, by: str) -> dict[int, float]:
    """Return the evaluations of a trial's Record by their step; without one, none."""
    if trial.record is None:
        return {}
    evaluations = study.record(trial).evaluations
    values = {e.step: e.loss if by == "loss" else e.metric for e in evaluations}
    return {step: value for step, value in values.items() if value is not None}


def _set_times(made: Any, trial: StoredTrial) -> None:
    """Let a trial have begun and ended when it did; Optuna's times are naive local times."""
    if trial.finished is None:
        return
    end = datetime.fromtimestamp(trial.finished, UTC).astimezone().replace(tzinfo=None)
    made.datetime_complete = end
    made.datetime_start = end - timedelta(seconds=trial.seconds or 0.0)


def _distributions(optuna: Any, study: StoredStudy) -> dict[str, Any]:
    """Return a distribution for each parameter that holds all of its values in the study."""
    kinds = optuna.distributions
    columns = columns_of(study)
    values: dict[str, dict[tuple[type, Scalar], None]] = {}
    for trial in study.trials():
        for name, value in flat(trial.parameters).items():
            values.setdefault(name, {})[type(value), value] = None
    found: dict[str, Any] = {}
    for name, seen in values.items():
        kind = columns.get(PARAMETER + name)
        given = [value for _, value in seen]
        numbers = [v for v in given if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if kind == ColumnKind.FLOAT and len(numbers) == len(given):
            low, high = float(min(numbers)), float(max(numbers))
            found[name] = kinds.FloatDistribution(low, high, log=0 < low * WIDE <= high)
        elif kind == ColumnKind.INT and len(numbers) == len(given):
            found[name] = kinds.IntDistribution(int(min(numbers)), int(max(numbers)))
        else:
            found[name] = kinds.CategoricalDistribution(_choices(given))
    return found


def _choices(values: list[Scalar]) -> list[Scalar]:
    """Return values as choices; where two are equal to Python, such as 1 and True, as texts."""
    return values if len(set(values)) == len(values) else [repr(value) for value in values]


def _choice(distribution: Any, value: Scalar) -> Scalar:
    choices = getattr(distribution, "choices", None)
    if choices is None:
        return value
    known = any(type(one) is type(value) and one == value for one in choices)
    return value if known else repr(value)


def _storage(optuna: Any, url: str) -> Any:
    """Return Optuna's storage. A copy on SQLite does not wait for the disk at every trial."""
    storage = optuna.storages.RDBStorage(url)
    if storage.engine.dialect.name == "sqlite":
        from sqlalchemy import event

        def opened(connection: Any, _: object) -> None:
            connection.execute("PRAGMA synchronous=OFF")

        event.listen(storage.engine, "connect", opened)
        storage.engine.dispose()
    return storage


def _without_password(url: str) -> str:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return shown(make_url(url).render_as_string(hide_password=True), 200)
    except ArgumentError:
        return "of this URL"
