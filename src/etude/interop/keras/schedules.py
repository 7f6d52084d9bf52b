"""Schedules to and from `LearningRateSchedule` of Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from etude.errors import BadTypeError, BadValueError, kind_of
from etude.interop import _text
from etude.interop._peer import load
from etude.interop.parity import keras as parity
from etude.optimizers.bounds import RATE
from etude.schedules import Schedule

_CLASS = "EtudeSchedule"

HOME = "etude.interop.keras"
"""Where saved models and pickles look for the class."""


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
            f"{kind_of(source)} is not a schedule of Keras: give a LearningRateSchedule, "
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


@cache
def _schedule_class() -> type[Any]:
    """Create the class when Keras is loaded; pickle finds it as an attribute of the package."""
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

    EtudeSchedule.__qualname__, EtudeSchedule.__module__ = _CLASS, HOME
    registered: type[Any] = keras.saving.register_keras_serializable("etude", _CLASS)(EtudeSchedule)
    return registered


def __getattr__(name: str) -> Any:
    if name == _CLASS:
        return _schedule_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
