"""Finds why a loss is not finite: the weights, the gradient of the last update, or a buffer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from etude.record import Status
from etude.training.gradient.clipping import bounds_gradient
from etude.training.state.state import RunState


def end(state: RunState, step: int, what: str, *, now: bool) -> None:
    """End a run at an update, and store the reason.

    Args:
        state: The state of the run.
        step: The number of updates done.
        what: The loss that is not finite, and its value, as text.
        now: Whether its weights are those at which the loss was computed.
    """
    state.step, state.status = step, Status.DIVERGED
    state.reason = at_update(state, what, now=now)


def at_update(state: RunState, what: str, *, now: bool) -> str:
    """Return why a run ends at an update.

    Args:
        state: The state of the run.
        what: The loss that is not finite, and its value, as text.
        now: Whether its weights are those at which the loss was computed.
    """
    found = cause(state, now=now and not state.task.alternates)
    said = f"{what} at update {state.step} (lr {state.lr:.3g})"
    return f"{said}: {found}" if found else said


def at_evaluation(state: RunState, loss: float) -> str:
    """Return why a run ends at an evaluation whose loss is not finite."""
    found = cause(state)
    said = f"the validation loss became {loss} after update {state.step}"
    return f"{found}; {said}" if found else said


def cause(state: RunState, *, now: bool = True) -> str:
    """Return what became NaN or Inf before the loss did; empty if that cannot be determined.

    This is called only when a loss is not finite, so it costs nothing while all losses are finite.

    Args:
        state: The state when the loss is not finite; all losses before it were finite.
        now: Whether its weights are those at which the loss was computed.
    """
    last = state.step - 1
    if last < 0:
        return ""
    norm = _first_not_finite_norm(state.series, state.step)
    if norm is not None:
        at, value = norm
        return f"the norm of the gradient became {value} at update {at}, {_finite(state, at)}"
    weight = _first_not_finite(state.model.named_parameters()) if now else None
    if weight is None:
        buffer = _first_not_finite(state.model.named_buffers()) if now else None
        if buffer is None:
            return ""
        return f"the buffer {buffer} at or before update {last}, at a finite loss"
    # Clipping by a norm that is NaN makes every gradient NaN: none of them is the cause.
    if state.gradient_step == last and not bounds_gradient(state.recipe):
        named = state.model.named_parameters()
        gradient = _first_not_finite((n, p.grad) for n, p in named if p.grad is not None)
        if gradient is not None:
            return f"the gradient of {gradient} at update {last}, {_finite(state, last)}"
    return f"the weights of {weight} at or before update {last}, {_finite(state, last)}"


def _finite(state: RunState, step: int) -> str:
    losses = state.series["loss"]
    return f"at a finite loss of {losses[step]:.4g}" if step < len(losses) else "at a finite loss"


def _first_not_finite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first tensor that contains a NaN or Inf, and which of them."""
    for name, tensor in named:
        values = tensor.detach()
        values = values.coalesce().values() if values.is_sparse else values
        if not (values.is_floating_point() or values.is_complex()):
            continue
        if not bool(torch.isfinite(values).all()):
            held = "nan" if bool(torch.isnan(values).any()) else "inf"
            return f"{name!r} became {held}"
    return None


def _first_not_finite_norm(
    series: Mapping[str, Sequence[float]], end: int
) -> tuple[int, float] | None:
    """Return the first update before `end` that was made with a norm that is not finite."""
    norms = enumerate(series.get("grad_norm", ())[:end])
    skipped = series.get("skipped", [0.0] * end)
    return next(((at, n) for at, n in norms if not math.isfinite(n) and not skipped[at]), None)
