"""JAX: the learning rate of a pure training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.errors import BadTypeError, BadValueError, shown
from etude.interop._peer import load
from etude.interop.jax.run import JaxDriver, JaxStep
from etude.schedules import Schedule, parse
from etude.tuning.loops.result import LoopResult
from etude.tuning.loops.search import LoopRequest, search_rates, shape_over
from etude.tuning.loops.tune_loop import BUDGET, centre_for, checked_steps, goal_named
from etude.warning_filters import filters_kept


@filters_kept()
def tune(
    step: Callable[[Any, Any, Any], Any],
    state: Any,
    batches: Sequence[Any] | Callable[[int], Any],
    steps: int,
    budget: float = BUDGET,
    *,
    valid: Callable[[Any], Any],
    schedule: Schedule | str | None = None,
    around: float | None = None,
    optimizer: str | None = None,
    objective: str | None = None,
    maximize: bool = False,
    evaluations: int = 20,
    jit: bool = True,
    name: str | None = None,
    progress: bool | None = None,
) -> LoopResult:
    """Find the learning rate of a pure step `step(state, batch, lr) -> (state, loss)`.

    Step and validation are compiled once each: the rate is an argument, not a constant. States
    are any pytrees, with optax's inside or not; a paused rate is its state, which is kept. The
    state that is given is not changed, nor are its buffers donated.

    Args:
        step: One update. It takes a state, a batch and the rate, and returns the next state and
            the training loss.
        state: The state before training, the same for every rate.
        batches: The batch of update t: a sequence, which is gone through again and again, or a
            function of t.
        steps: Updates of a full run.
        budget: In full runs, the finished one included.
        valid: The validation loss of a state: a number, or an array of several, one for each part
            of the validation data, whose spread tells what ties.
        schedule: What the rate is multiplied by at each update, such as
            "warmup('5%') >> cosine()"; None leaves it constant, or to the step.
        around: As in `etude.tune_loop`.
        optimizer: As there.
        objective: As there.
        maximize: As there.
        evaluations: How often a run is evaluated, besides where it is paused.
        jit: Whether to compile; a step that has effects on the side cannot be. Without, every rate
            begins with a copy of the arrays in `state`, which the step may change or donate.
        name: What the loop is called in reports; None takes the step's name.
        progress: Whether to draw a bar; None draws it at a terminal.

    Returns:
        What was found; `value` is the state at the end of the run at the chosen rate.

    Raises:
        BadTypeError: If batches can be gone through only once, or a function is none.
        BadValueError: If a value is out of bounds.
        TaskError: If the step does not return a state and a loss, or donates a batch.
        MissingExtraError: If jax is not installed.

    Examples:
        >>> import jax.numpy as jnp
        >>> def step(w, x, lr):
        ...     return w - lr * 2 * (w - 1), (w - 1) ** 2
        >>> best = tune(step, jnp.array(3.0), [None], 80, valid=lambda w: (w - 1) ** 2,
        ...             progress=False)
        >>> 0.1 < best.lr < 1, round(float(best.value), 3)
        (True, 1.0)
    """
    jax = load("jax")
    for given, said in ((step, "step"), (valid, "valid")):
        if not callable(given):
            raise BadTypeError(f"{said}={shown(given)} is not a function")
    length = checked_steps(steps)
    shape = parse(schedule) if isinstance(schedule, str) else schedule
    compiled = JaxStep(
        jax.jit(step) if jit else step,
        jax.jit(valid) if jit else valid,
        batch_of(batches),
        _factors(shape, length),
    )
    request = LoopRequest(
        name=name or str(getattr(step, "__name__", "step")),
        steps=length,
        budget=budget,
        centre=centre_for(around, optimizer),
        goal=goal_named(objective, maximize=maximize),
        schedule=shape,
        evaluations=evaluations,
        progress=progress,
    )

    def start(lr: float, fold: int) -> JaxDriver:
        # A step that was compiled by the user may donate the state that it is given.
        return JaxDriver(compiled, state if jit else jax.tree.map(_copied, state), lr)

    return search_rates(start, request)


def _copied(leaf: Any) -> Any:
    """Return a leaf of a state with memory of its own."""
    arrays = (np.ndarray, load("jax").Array)
    return leaf.copy() if isinstance(leaf, arrays) else leaf


def _factors(shape: Schedule | None, length: int) -> NDArray[np.float64] | None:
    """Return what the rate is multiplied by at each update; None for 1.

    Raises:
        BadValueError: If the schedule reacts to a metric, or is negative somewhere.
    """
    if shape is not None and shape.has_feedback:
        raise BadValueError(
            f"schedule={shape!r} reacts to a metric, which no update of a pure step reports: give "
            "a schedule of the step alone, such as \"warmup('5%') >> cosine()\""
        )
    found = shape_over(shape, length)
    if found is not None and not (found >= 0).all():
        t = int(np.argmin(found))
        raise BadValueError(
            f"schedule={shape!r} is {found[t]:g} at update {t}, and a rate is not negative: "
            ".clip(0.0) it"
        )
    return found


def batch_of(batches: Any) -> Callable[[int], Any]:
    """Return a function that gives the batch of an update.

    Raises:
        BadTypeError: If every rate cannot see the same batches.
        BadValueError: If there are none.
    """
    if callable(batches):
        return batches  # type: ignore[no-any-return]
    if not hasattr(batches, "__getitem__") or not hasattr(batches, "__len__"):
        raise BadTypeError(
            f"batches={shown(batches)} can be gone through only once, and every rate needs the "
            "same: give a list of batches, or a function of the update, such as "
            "lambda t: (x[order[t]], y[order[t]])"
        )
    if isinstance(batches, (dict, str, bytes)):
        raise BadTypeError(f"batches={shown(batches)} is not a list of batches")
    count = len(batches)
    if not count:
        raise BadValueError("batches is empty: give at least one batch")
    return lambda t: batches[t % count]
