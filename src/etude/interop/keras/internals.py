"""What is read of Keras's private parts; `tests/interop/test_keras_internals.py` tests each."""

from __future__ import annotations

from typing import Any

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
