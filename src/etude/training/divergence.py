"""Why a loss is not finite: the weights, the gradient that spoilt them, or the forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from etude.training.run import Run


def at_update(run: Run, what: str, *, now: bool) -> str:
    """Say why a run ends at an update.

    Args:
        run: Where it stands.
        what: Which loss became what.
        now: Whether its weights are those at which the loss was computed.
    """
    found = cause(run, now=now and run.turns is None)
    said = f"{what} at update {run.step} (lr {run.recipe.lr * run.shape(run.step):.3g})"
    return f"{said}: {found}" if found else said


def at_evaluation(run: Run, loss: float) -> str:
    """Say why a run ends at an evaluation whose loss is not finite."""
    found = cause(run)
    said = f"the validation loss became {loss} after update {run.step}"
    return f"{found}; {said}" if found else said


def cause(run: Run, *, now: bool = True) -> str:
    """Say what broke before a loss did, as far as the run still shows; empty if nothing does.

    It is asked once, when a loss is not finite: nothing is measured while a run is healthy.

    Args:
        run: Where it stands when the loss is not finite; all losses before it were finite.
        now: Whether its weights are those at which the loss was computed.
    """
    last = run.step - 1
    if last < 0:
        return ""
    norm = _first_broken_norm(run.series, run.step)
    if norm is not None:
        at, value = norm
        return f"the norm of the gradient became {value} at update {at}, {_finite(run, at)}"
    weight = _first_broken(run.model.named_parameters()) if now else None
    if weight is None:
        buffer = _first_broken(run.model.named_buffers()) if now else None
        if buffer is None:
            return ""
        return f"the buffer {buffer} at or before update {last}, at a finite loss"
    # Clipping by a norm that is NaN makes every gradient NaN: none of them is to blame.
    if run.graded == last and not run.clipper:
        named = run.model.named_parameters()
        gradient = _first_broken((n, p.grad) for n, p in named if p.grad is not None)
        if gradient is not None:
            return f"the gradient of {gradient} at update {last}, {_finite(run, last)}"
    return f"the weights of {weight} at or before update {last}, {_finite(run, last)}"


def _finite(run: Run, step: int) -> str:
    losses = run.series["loss"]
    return f"at a finite loss of {losses[step]:.4g}" if step < len(losses) else "at a finite loss"


def _first_broken(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first tensor that holds a NaN or Inf, and which."""
    for name, tensor in named:
        values = tensor.detach()
        values = values.coalesce().values() if values.is_sparse else values
        if not (values.is_floating_point() or values.is_complex()):
            continue
        if not bool(torch.isfinite(values).all()):
            held = "nan" if bool(torch.isnan(values).any()) else "inf"
            return f"{name!r} became {held}"
    return None


def _first_broken_norm(series: Mapping[str, Sequence[float]], end: int) -> tuple[int, float] | None:
    """Return the first update before `end` whose gradient's norm was not finite, if measured."""
    norms = enumerate(series.get("grad_norm", ())[:end])
    return next(((at, norm) for at, norm in norms if not math.isfinite(norm)), None)
