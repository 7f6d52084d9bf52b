"""Keras: the rate of `fit`; schedules to and from `LearningRateSchedule`; a callback to watch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from etude import optimizers
from etude.errors import BadTypeError, BadValueError
from etude.interop import _text
from etude.interop._keras_watch import KerasWatchHooks, refuse_other_backends
from etude.interop._peer import load
from etude.interop.loops.keras_fit import FitCall, ModelCopies, judge_of
from etude.interop.loops.keras_run import KerasDriver
from etude.interop.parity import keras as parity
from etude.optimizers.bounds import RATE
from etude.schedules import Clock, Schedule, parse
from etude.tasks.direction import direction_of, unknown_direction
from etude.tuning.loops.result import LoopResult
from etude.tuning.loops.search import LoopRequest, search_rates
from etude.tuning.loops.tune_loop import BUDGET, centre_for, checked_steps, goal_named
from etude.warning_filters import filters_kept

if TYPE_CHECKING:
    from etude.interop._keras_watch import KerasWatchHooks as WatchCallback

__all__ = ["WatchCallback", "from_keras", "to_keras", "tune"]

_CLASS = "EtudeSchedule"


def to_keras(schedule: Schedule | str) -> Any:
    """Return a schedule as Keras's `LearningRateSchedule`.

    It is registered as `etude>EtudeSchedule`, and its config holds the text of the schedule, so
    a model that uses it is saved and loaded as usual. Import this module before loading.

    Args:
        schedule: A bound schedule, or its text.

    Returns:
        A `LearningRateSchedule`, for the backends torch, jax and numpy.

    Raises:
        BadValueError: The schedule lacks a length, has a negative value, or reacts to a metric,
            which Keras does not report to a schedule.
        MissingExtraError: Keras or its backend is not installed.

    Examples:
        >>> import os
        >>> _ = os.environ.setdefault("KERAS_BACKEND", "torch")
        >>> from etude.schedules import cosine, warmup
        >>> s = to_keras(0.5 * (warmup(10) >> cosine(90)))
        >>> float(s(5)), s.get_config()
        (0.25, {'schedule': '0.5 * (warmup(10) >> cosine(90))'})
    """
    return _schedule_class()(_read(schedule))


def _read(schedule: Schedule | str) -> Schedule:
    """Return a schedule, after checking that Keras can use it as a rate."""
    found = _text.pure(
        schedule,
        "Keras",
        "Use keras.callbacks.ReduceLROnPlateau and a schedule without it, or a callback of your "
        "own that sets optimizer.learning_rate to schedule.record(step, metric)(step)",
    )
    _text.within(RATE, "schedule", found, "a rate is not negative: .clip(0.0) it")
    return found


def from_keras(source: Any) -> Schedule:
    """Convert a Keras schedule, or its config, to a schedule with the same values.

    Args:
        source: A `LearningRateSchedule`, or what `keras.optimizers.schedules.serialize` returns:
            a mapping with `class_name` and `config`.

    Returns:
        A schedule of the same values.

    Raises:
        BadValueError: Its class is not one of Keras's own, or an option has no equivalent here.
        BadTypeError: The source is neither of the two.

    Examples:
        >>> config = {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5}
        >>> from_keras({"class_name": "ExponentialDecay", "config": config})
        0.1 * exponential(0.5, every=10)
    """
    if isinstance(source, Mapping):
        name, config = source.get("class_name"), source.get("config")
    elif callable(getattr(source, "get_config", None)):
        name, config = type(source).__name__, _config(source)
    else:
        raise BadTypeError(
            f"a {type(source).__name__} is not a schedule of Keras: give a LearningRateSchedule, "
            "or what keras.optimizers.schedules.serialize(schedule) returns"
        )
    if not isinstance(name, str) or not isinstance(config, Mapping):
        raise BadValueError(
            "the mapping has no class_name and config: give what "
            "keras.optimizers.schedules.serialize(schedule) returns"
        )
    name = name.rpartition(">")[2]
    if name == _CLASS:
        return _text.read(config["schedule"])
    make = _READERS.get(name)
    if make is None:
        raise BadValueError(
            f"{name} is a class of your own, whose formula is unknown: write it as an expression, "
            f"or register the function. Of Keras's classes, {', '.join(_READERS)} can be converted"
        )
    try:
        return make(**{key: value for key, value in config.items() if key != "name"})
    except TypeError as error:
        raise BadValueError(f"the config of {name} cannot be read: {error}") from error


_READERS: dict[str, Callable[..., Schedule]] = {
    "ExponentialDecay": parity.ExponentialDecay,
    "PiecewiseConstantDecay": parity.PiecewiseConstantDecay,
    "PolynomialDecay": parity.PolynomialDecay,
    "InverseTimeDecay": parity.InverseTimeDecay,
    "CosineDecay": parity.CosineDecay,
    "CosineDecayRestarts": parity.CosineDecayRestarts,
}


def _config(source: Any) -> Any:
    try:
        return source.get_config()
    except NotImplementedError as error:
        raise BadValueError(
            f"{type(source).__name__} has no get_config, so its formula is unknown: write it as an "
            "expression"
        ) from error


@filters_kept()
def tune(
    model: Any,
    x: Any,
    y: Any = None,
    budget: float = BUDGET,
    *,
    schedule: Schedule | str | None = None,
    around: float | None = None,
    objective: str = "loss",
    maximize: bool | None = None,
    evaluations: int = 20,
    seed: int = 0,
    progress: bool | None = None,
    **fit: Any,
) -> LoopResult:
    """Find the learning rate at which `model.fit(x, y, ...)` trains a compiled model best.

    Every rate is a call of `fit` on a copy of the model, with a fresh optimizer: what `fit` is
    given is given on, callbacks are copied. It is held between two batches, the worse rates are
    dropped, and the best is finished; see `etude.tune_loop`. The model, its weights and its
    optimizer are left as they were. After `keras.utils.set_random_seed(seed)`, `fit` at the
    chosen rate gives the same weights.

    For the backends torch and jax. It runs in this process, and paused copies stay in memory.

    Args:
        model: A compiled model with weights.
        x: The inputs, or a dataset, as for `fit`.
        y: The targets.
        budget: In full calls of `fit`, the finished one included.
        schedule: The shape of the rate over the run, such as "warmup('5%') >> cosine()". None
            keeps that of the model's optimizer: constant, or its `LearningRateSchedule`, whose
            peak is then the rate that is looked for.
        around: A rate to begin around; None takes the usual one of the optimizer.
        objective: What is compared on the data held out: 'loss', or the name of a metric.
        maximize: Whether a larger value is better; None tells by the metric's name.
        evaluations: How often a run is evaluated, besides where it is paused and by `fit` itself.
        seed: Of the random numbers of `fit`.
        progress: Whether to draw a bar; None draws it at a terminal.
        fit: Arguments of `fit`: `epochs`, `batch_size`, `validation_split` or `validation_data`,
            `callbacks`, `sample_weight`, `class_weight`, `shuffle`, `steps_per_epoch`, ...

    Returns:
        What was found; `value` is the copy trained at the chosen rate.

    Raises:
        BadTypeError: If it is no Keras model, or the data can be gone through only once.
        BadValueError: If the model is not compiled or built, nothing is held out, a callback sets
            the rate, or a value is out of bounds.
        UnknownNameError: If `fit` has no such argument, or the model no such metric.
        MissingExtraError: If Keras or its backend is not installed.
    """
    keras = load("keras")
    if keras.backend.backend() not in ("torch", "jax"):
        raise BadValueError(
            f"Keras runs on {keras.backend.backend()!r}: set KERAS_BACKEND to torch or jax before "
            "Keras is imported"
        )
    copies, call = ModelCopies(model), FitCall.of(x, y, fit)
    per_epoch = call.updates_per_epoch()
    steps = checked_steps(per_epoch * call.epochs)
    shape = _shape(copies.optimizer, schedule, steps)
    judge = judge_of(copies, call, objective)
    better = direction_of(objective) if maximize is None else maximize
    if better is None:
        raise unknown_direction(objective)

    def start(lr: float, fold: int) -> KerasDriver:
        rate = lr if shape is None else to_keras(lr * shape)
        made = copies.made(rate)
        return KerasDriver(made, call, judge, per_epoch, seed, constant=shape is None)

    request = LoopRequest(
        name=str(model.name),
        steps=steps,
        budget=budget,
        centre=centre_for(around, _row_of(copies.optimizer)),
        goal=goal_named(objective, maximize=better),
        schedule=shape,
        seed=seed,
        evaluations=evaluations,
        progress=progress,
    )
    return search_rates(start, request)


def _shape(optimizer: Any, schedule: Schedule | str | None, steps: int) -> Schedule | None:
    """Return the shape of the rate over a run, with a peak of 1; None where it is constant."""
    if schedule is not None:
        given = schedule if isinstance(schedule, Schedule) else parse(schedule)
        return given.over(Clock(horizon=steps))
    config = optimizer.get_config()["learning_rate"]
    if isinstance(config, (int, float)):
        return None
    found = from_keras(config)
    peak = max(float(found(t)) for t in range(steps))
    if not peak > 0:
        raise BadValueError("the optimizer's schedule is 0 throughout: give schedule=")
    return (1 / peak) * found


def _row_of(optimizer: Any) -> str | None:
    """Return the name of an optimizer of Keras in `etude.optimizers`; None where it has none."""
    name = type(optimizer).__name__.lower()
    return name if name in optimizers.ROWS else None


@cache
def _schedule_class() -> type[Any]:
    """Create the class when Keras is loaded; pickle finds it as an attribute of this module."""
    keras = load("keras")

    class EtudeSchedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc, name-defined]
        """A schedule of Etude inside Keras."""

        def __init__(self, schedule: Schedule | str) -> None:
            super().__init__()
            self.schedule = _read(schedule)

        def __call__(self, step: Any) -> Any:
            steps = keras.ops.convert_to_tensor(step)
            return keras.ops.cast(self.schedule(steps), keras.backend.floatx())

        def get_config(self) -> dict[str, str]:
            return {"schedule": _text.write(self.schedule)}

    EtudeSchedule.__qualname__ = _CLASS
    registered: type[Any] = keras.saving.register_keras_serializable("etude", _CLASS)(EtudeSchedule)
    return registered


@cache
def _watch_class() -> type[Any]:
    """Create the class when Keras is loaded; Keras must run on torch."""
    keras = load("keras")
    refuse_other_backends(keras.backend.backend())
    made = type(
        "WatchCallback", (KerasWatchHooks, keras.callbacks.Callback), {"__module__": __name__}
    )
    made.__doc__ = KerasWatchHooks.__doc__
    return made


def __getattr__(name: str) -> Any:
    if name == "WatchCallback":
        return _watch_class()
    if name == _CLASS:
        return _schedule_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
