"""What a run saves, restores and notes of the exchange between its processes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from etude.training.state.state import RunState
from etude.training.world import Exchange


def exchange_of_run(state: RunState) -> Exchange | None:
    """Return what replaces the plain mean of a run's gradients; None for the mean."""
    joint = None if state.objective is None else state.objective.joint
    return None if joint is None else joint.exchange


def whole_state(state: RunState, own: dict[str, Any]) -> dict[str, Any]:
    """Return the state of all processes; each of them must call it.

    Args:
        state: The state of the run in this process.
        own: What `Run.state_dict` returned.
    """
    whole, exchange = state.world.whole(own, state.model), exchange_of_run(state)
    return whole if exchange is None else {**whole, "exchange": exchange.state_dict()}


def load_exchange(state: RunState, saved: Mapping[str, Any]) -> None:
    """Restore the exchange from a saved state, and warn if it is of other processes."""
    exchange = exchange_of_run(state)
    if exchange is None or "exchange" not in saved:
        return
    exchange.load_state_dict(saved["exchange"])
    if exchange.told:
        warnings.warn(exchange.told, stacklevel=3)


def judged_weights(state: RunState) -> AbstractContextManager[None]:
    """Return a context in which the model has the weights to evaluate."""
    exchange = exchange_of_run(state)
    return nullcontext() if exchange is None else exchange.judged(state.model)


def world_notes(state: RunState) -> dict[str, Any]:
    """Return what a record notes of the processes, and of what they have exchanged."""
    notes, exchange = state.world.summary, exchange_of_run(state)
    if exchange is None:
        return notes
    return {**notes, "compress": repr(state.recipe.compress), "bytes_sent": exchange.bytes_sent}
