"""What is read of Keras's private parts; `tests/interop/test_keras_internals.py` tests each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from etude.interop._peer import load


def compile_arguments(model: Any) -> dict[str, Any]:
    """Return the arguments that a model was compiled with, by name.

    `get_compile_config` has them only as they are saved, without a loss of the user's own.
    """
    return dict(model._compile_config.config)


def thread_state() -> dict[str, Any]:
    """Return Keras's global state of this thread: names in use, the seed generator, scopes."""
    return dict(vars(load("keras.src.backend.common.global_state").GLOBAL_STATE_TRACKER))


def take_thread_state(state: dict[str, Any]) -> None:
    """Set the state of another thread in this one."""
    vars(load("keras.src.backend.common.global_state").GLOBAL_STATE_TRACKER).update(state)


def inner_of(optimizer: Any) -> Any:
    """Return the optimizer that updates the weights, out of one that scales the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def keep_exclusions(before: Any, after: Any, variables: Iterable[tuple[Any, Any]]) -> None:
    """Exclude from the weight decay of one optimizer what another one excludes.

    A config does not hold what `exclude_from_weight_decay` was told.

    Args:
        before: The optimizer that excludes.
        after: The other one, not built yet.
        variables: Each variable of the model of the first, and its like in that of the second.
    """
    known: set[Any] = getattr(before, "_exclude_from_weight_decay", set())
    pattern = getattr(before, "_exclude_from_weight_decay_pattern", None)
    if not known and pattern is None:
        return
    after.exclude_from_weight_decay(
        var_list=[new for old, new in variables if before._var_key(old) in known],
        var_names=None if pattern is None else [pattern.pattern],
    )


def final_weights(model: Any) -> list[Any]:
    """Return the weights that `fit` leaves if it ends here: with `use_ema`, the averages.

    They are those that Keras's callback `SwapEMAWeights` evaluates.
    """
    optimizer, weights = inner_of(model.optimizer), model.get_weights()
    if not optimizer.use_ema:
        return list(weights)
    pairs = zip(
        optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
    )
    averages = {id(variable): average for variable, average in pairs if average is not None}
    found = []
    for variable, weight in zip(model.weights, weights, strict=True):
        average = averages.get(id(variable))
        found.append(
            weight if average is None else np.array(load("keras").ops.convert_to_numpy(average))
        )
    return found
