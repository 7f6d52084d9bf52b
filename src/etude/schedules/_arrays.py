"""Schedules on arrays of NumPy, torch and JAX, through the array API standard."""

from __future__ import annotations

from typing import Any, Protocol

from etude.errors import BadTypeError, kind_of
from etude.schedules._numbers import LAST_STEP

_CHUNK = 2**16
"""Number of steps that NumPy evaluates at once, so that intermediate results stay in cache."""


class OnArrays(Protocol):
    """Protocol for schedules that can be evaluated at an array of steps."""

    def on(self, t: Any, xp: Any) -> Any:
        """Return the values at an array of steps t ≥ 0; `xp` is its array API namespace."""


def evaluate(schedule: OnArrays, t: Any) -> Any:
    """Return the values of a bound schedule at an array of steps, as an array of the same library.

    Steps below 0 are evaluated as 0, as for a single step. If a step is NaN or beyond 2**53, its
    value is NaN, because under jit and compile an error cannot depend on data.
    """
    xp = namespace(t)
    if type(t).__module__ == "numpy" and t.size > _CHUNK and xp.isdtype(t.dtype, "numeric"):
        flat = t.reshape(-1)
        y = xp.empty(t.size, dtype=xp.float64)
        for i in range(0, t.size, _CHUNK):
            y[i : i + _CHUNK] = _values(schedule, flat[i : i + _CHUNK], xp)
        return y.reshape(t.shape)
    y = _values(schedule, t, xp)
    return y[()] if type(t).__module__ == "numpy" and not hasattr(t, "__setitem__") else y


def _values(schedule: OnArrays, t: Any, xp: Any) -> Any:
    if xp.isdtype(t.dtype, "real floating"):
        x = widest(t, xp)
        valid = x <= float(LAST_STEP)
        x = xp.clip(xp.where(valid, x, xp.zeros_like(x)), 0.0, float(LAST_STEP))
        y = schedule.on(x, xp)
        return xp.where(valid, y, xp.full_like(y, float("nan")))
    if not xp.isdtype(t.dtype, "integral"):
        raise BadTypeError(f"steps are an array of {t.dtype}; convert them to integers or floats")
    return schedule.on(xp.clip(widest(t, xp), 0.0, float(LAST_STEP)), xp)


def namespace(t: Any) -> Any:
    """Return the array API namespace of `t`, or raise if `t` is not an array."""
    from array_api_compat import array_namespace

    try:
        return array_namespace(t)
    except TypeError:
        raise BadTypeError(
            f"step is {kind_of(t)}; a schedule takes an int, a float or an array of "
            "NumPy, torch or JAX: s(5), s(7.5), s(np.arange(100))"
        ) from None


def widest(t: Any, xp: Any) -> Any:
    """Return `t` in float64, or in float32 under JAX without x64, its widest float type."""
    from array_api_compat import is_jax_namespace

    return xp.astype(t, xp.result_type(float) if is_jax_namespace(xp) else xp.float64)


def table(values: tuple[float, ...], like: Any, xp: Any) -> Any:
    """Return a constant one-dimensional array of the dtype and on the device of `like`."""
    from array_api_compat import device

    return xp.asarray(values, dtype=like.dtype, device=device(like))
