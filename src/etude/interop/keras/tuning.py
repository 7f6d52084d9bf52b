"""`tune`: the learning rate of `fit`."""

from __future__ import annotations

from typing import Any

from etude import optimizers
from etude.errors import BadValueError
from etude.interop._peer import load
from etude.interop.keras.fit import FitCall, ModelCopies, refuse_without_targets
from etude.interop.keras.internals import inner_of
from etude.interop.keras.judge import Judge
from etude.interop.keras.run import KerasDriver
from etude.interop.keras.schedules import from_keras, to_keras
from etude.schedules import Clock, Schedule, parse
from etude.tasks.direction import direction_of, unknown_direction
from etude.tuning.loops.result import LoopResult
from etude.tuning.loops.search import LoopRequest, search_rates
from etude.tuning.loops.tune_loop import BUDGET, SHORTEST, centre_for, goal_named
from etude.warning_filters import filters_kept


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
        BadValueError: If the model is not compiled or built, targets are missing, nothing is held
            out, a callback sets the rate, or a value is out of bounds.
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
    refuse_without_targets(model, call)
    steps = call.updates()
    if steps < SHORTEST:
        raise BadValueError(
            f"epochs={call.epochs} makes {steps} updates, too few to compare rates: give more "
            f"epochs=, or a smaller batch_size=, for at least {SHORTEST} updates"
        )
    shape = _shape(copies.optimizer, schedule, steps)
    judge = Judge(copies, call, objective)
    better = direction_of(objective) if maximize is None else maximize
    if better is None:
        raise unknown_direction(objective)

    def start(lr: float, fold: int) -> KerasDriver:
        rate = lr if shape is None else to_keras(lr * shape)
        made = copies.made(rate)
        return KerasDriver(made, call, judge, seed, constant=shape is None)

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
    config = inner_of(optimizer).get_config()["learning_rate"]
    if isinstance(config, (int, float)):
        return None
    found = from_keras(config)
    peak = max(float(found(t)) for t in range(steps))
    if not peak > 0:
        raise BadValueError("the optimizer's schedule is 0 throughout: give schedule=")
    return (1 / peak) * found


def _row_of(optimizer: Any) -> str | None:
    """Return the name of an optimizer of Keras in `etude.optimizers`; None where it has none."""
    name = type(inner_of(optimizer)).__name__.lower()
    return name if name in optimizers.ROWS else None
