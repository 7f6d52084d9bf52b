"""Schedules from the user's own functions, which are registered by name."""

# ruff: noqa: D102 - at, on, text and similar methods are documented on Schedule

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from etude.errors import BadTypeError, BadValueError, unknown_name
from etude.schedules._base import Schedule
from etude.schedules._kind import Kind
from etude.schedules._numbers import Duration, Steps
from etude.schedules.registry import kind

F = TypeVar("F", bound=Callable[[float], float])

FUNCTIONS: dict[str, tuple[Callable[[float], float], Callable[[Any, Any], Any] | None]] = {}
"""Name -> (function of one step, function of an array and its namespace)."""


def register(
    name: str,
    function: F | None = None,
    *,
    array: Callable[[Any, Any], Any] | None = None,
    replace: bool = False,
) -> Any:
    """Register a function of one step, for use as `function(name)` in a schedule.

    A schedule stores only the name, so that it can be written as text, pickled and compared. A
    process that reads the text must have registered the same function.

    Args:
        name: A Python identifier.
        function: f(t) → value for a step t ≥ 0; without it `register` is a decorator.
        array: The function for arrays: f(t, xp) with the array API namespace xp. Without it, arrays
            are evaluated one element at a time, which works neither under jit nor on a traced step.
        replace: Whether to replace another function of that name.

    Returns:
        The function.

    Raises:
        BadValueError: The name is not an identifier, or belongs to another function.

    Examples:
        >>> @register("halving")
        ... def halving(t):
        ...     return 0.5 ** (t // 10)
        >>> from etude.schedules import warmup
        >>> s = warmup(10) >> function("halving")
        >>> s, s(20)
        (warmup(10) >> function('halving'), 0.5)
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise BadValueError(f"name is {name!r}; it must be a Python identifier, such as 'mine'")

    def enter(f: F) -> F:
        if not callable(f):
            raise BadTypeError(f"function is {f!r}; it must be callable with one step")
        if name in FUNCTIONS and FUNCTIONS[name][0] is not f and not replace:
            raise BadValueError(
                f"{name!r} is registered already: take another name, or pass replace=True"
            )
        FUNCTIONS[name] = (f, array)
        return f

    return enter if function is None else enter(function)


@kind("function")
@dataclass(frozen=True, slots=True, repr=False)
class Function(Kind):
    """A registered function: s(t) = f(t).

    Args:
        of: The name that f was registered under.
        length: Steps, or a duration with a unit; None is endless, or fills the rest of the horizon.
            It only determines where the next segment starts.

    Raises:
        UnknownNameError: No function of that name is registered.
    """

    of: str
    length: Duration | None = None
    wanted: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if not isinstance(self.of, str) or self.of not in FUNCTIONS:
            raise unknown_name("registered function", self.of, FUNCTIONS)
        self.put_length()

    def at(self, t: float) -> float:
        if self.wanted is not None:
            raise TypeError  # the same error as arithmetic with a unit in the other kinds
        return float(FUNCTIONS[self.of][0](t))

    def on(self, t: Any, xp: Any) -> Any:
        of_step, of_array = FUNCTIONS[self.of]
        if of_array is not None:
            return of_array(t, xp)
        from array_api_compat import device

        try:
            values = [float(of_step(float(x))) for x in xp.reshape(t, (-1,))]
        except Exception as error:
            raise BadTypeError(
                f"function {self.of!r} cannot be evaluated on this array ({error}): register it "
                "with array=, a version that takes an array and its namespace"
            ) from error
        return xp.reshape(xp.asarray(values, dtype=t.dtype, device=device(t)), t.shape)

    @property
    def is_bound(self) -> bool:
        return self.wanted is None

    def fill(self, room: Steps) -> Schedule:
        return Function(self.of, room)


function = Function
