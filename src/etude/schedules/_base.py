"""The base class of all schedules: an immutable expression that maps a step to a value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NoReturn, TypeVar, overload

from etude.errors import BadTypeError, BadValueError, MovedError
from etude.schedules._arrays import evaluate
from etude.schedules._numbers import LAST_STEP, Duration, Steps, duration, number
from etude.schedules.clock import Clock, as_clock
from etude.schedules.feedback.log import EventLog

B = TypeVar("B", bound=Callable[..., Any])

_BUILDERS: dict[str, Callable[..., Any]] = {}


def operation(builder: B) -> B:
    """Register the function that builds the result of an operator or method of `Schedule`.

    The builders are defined in files that import this one. `Schedule` finds them by name, which
    avoids circular imports.
    """
    _BUILDERS[builder.__name__] = builder
    return builder


def build(name: str, *args: Any) -> Schedule:
    """Call a registered operation and return its schedule."""
    built: Schedule = _BUILDERS[name](*args)
    return built


class Schedule(ABC):
    """An immutable expression that maps step t, counted from 0, to the value used for update t.

    Called with an int or float, a schedule returns a float. Called with an array of NumPy, torch
    or JAX, it returns an array of the same library, in float64 if the library supports it. Before
    step 0 it has its first value, and after its end its last. Schedules are equal by value,
    hashable and picklable, and `parse(repr(s)) == s`.

    Algebra: `a >> b` joins, `a * b` multiplies, `0.1 * a` scales, `a + b` adds; see also `clip`,
    `repeat`, `stretch`, `shift` and `take`. A duration may have a unit or be left out; `over`
    converts both to steps for the length of a run.

    Examples:
        >>> from etude.schedules import cosine, warmup
        >>> s = 0.1 * (warmup(500) >> cosine(9_500, floor=0.01))
        >>> s
        0.1 * (warmup(500) >> cosine(9_500, floor=0.01))
        >>> s(0), s(250), s(500), s(10_000)
        (0.0, 0.05, 0.1, 0.001)
    """

    __slots__ = ("__weakref__",)  # jax.jit keeps weak references to what it compiles

    __array_ufunc__ = None  # so that `np.float64(0.1) * s` calls `Schedule.__rmul__`

    precedence: ClassVar[int] = 4
    """The precedence in the text form: join 1, sum 2, product 3, call 4."""

    durations: ClassVar[tuple[str, ...]] = ()
    """Fields that are durations, or tuples of them."""

    reacts: ClassVar[bool] = False
    """Whether its values depend on a log of events."""

    # ---- defined by each kind ------------------------------------------------------------

    @abstractmethod
    def at(self, t: float) -> float:
        """Return the value at one step t ≥ 0, in plain Python floats."""

    @abstractmethod
    def on(self, t: Any, xp: Any) -> Any:
        """Return the values at an array of steps t ≥ 0; `xp` is its array API namespace."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether the schedule has no fixed length: endless, or filling the rest of the horizon."""

    @property
    @abstractmethod
    def is_bound(self) -> bool:
        """Whether the schedule can be evaluated: all its durations are given in steps."""

    @property
    @abstractmethod
    def length(self) -> Any:
        """The schedule's length in steps; None if it is open, or not yet known in steps."""

    @abstractmethod
    def resolve(self, clock: Clock) -> Schedule:
        """Return the schedule with every duration in steps."""

    @abstractmethod
    def fill(self, room: Steps) -> Schedule:
        """Return the schedule with a length of exactly `room` steps, if it `is_open`."""

    @abstractmethod
    def text(self) -> str:
        """Return the schedule's canonical Python text."""

    def put(self, **values: object) -> None:
        """Set fields during construction, since the dataclass is frozen."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def put_length(self, above: float | None = None) -> None:
        """Check the field `length`; a length with a unit is moved to `wanted` until it is bound."""
        given = self.length
        value = None if given is None else duration("length", given, above=above)
        in_units = isinstance(value, str)
        self.put(length=None if in_units else value, wanted=value if in_units else None)

    def argument(self, name: str) -> Any:
        """Return the value of a field as it is written, a length with its unit if it has one."""
        value = getattr(self, name)
        return getattr(self, "wanted", None) if name == "length" and value is None else value

    # ---- evaluation ----------------------------------------------------------------------

    @overload
    def __call__(self, t: float) -> float: ...
    @overload
    def __call__(self, t: Any) -> Any: ...
    def __call__(self, t: Any) -> Any:
        """Return the value at step t, or the values at an array of steps."""
        kind = type(t)
        if (kind is int or kind is float) and 0 <= t <= LAST_STEP:
            try:
                return self.at(t)
            except TypeError:
                self._must_be_bound()
                raise
        return self._uncommon(t)

    def _uncommon(self, t: Any) -> Any:
        """Evaluate an array or a negative step, or raise for an invalid step."""
        self._must_be_bound()
        if isinstance(t, bool):
            raise BadTypeError(f"step is {t}; a step is a number: s(0), s(1)")
        if not isinstance(t, int | float) or type(t).__module__ == "numpy":
            return evaluate(self, t)
        if not t <= LAST_STEP:
            raise BadValueError(f"step is {t}; it must be a finite number of at most 2**53")
        return self.at(max(t, 0))

    def _must_be_bound(self) -> None:
        if not self.is_bound:
            raise BadValueError(
                f"{self!r} has no length in steps yet: give every segment a length in steps, "
                "or call .over(horizon), such as s.over(10_000)"
            )

    def over(self, horizon: Duration | Clock) -> Schedule:
        """Convert every duration to steps, and fill in missing lengths, for the length of a run.

        Args:
            horizon: Length of the run in steps, or a `Clock`, which also knows epochs, samples
                and tokens.

        Returns:
            The bound schedule; the same object if it is bound already.

        Raises:
            BadValueError: The horizon is too short for the segments, or the clock does not define a
                unit that is used.

        Examples:
            >>> from etude.schedules import cosine, warmup
            >>> (warmup("5%") >> cosine()).over(10_000)
            warmup(500) >> cosine(9_500)
        """
        clock = as_clock(horizon)
        if self.is_bound:
            return self
        bound = self.resolve(clock)
        if bound.is_bound:
            return bound
        if clock.horizon is None:
            raise BadValueError(
                f"{bound!r} fills the rest of the horizon, which is not known: "
                "give its length, or Clock(horizon=...)"
            )
        return bound.fill(clock.horizon)

    @property
    def has_units(self) -> bool:
        """Whether a duration in the schedule is not in steps yet."""
        return any(
            isinstance(value, str)
            for node in self.walk()
            for name in node.durations
            for value in _each(node.argument(name))
        )

    # ---- text ----------------------------------------------------------------------------

    def __repr__(self) -> str:
        return self.text()

    def inside(self, precedence: int) -> str:
        """Return the text for use as an operand, in parentheses if needed."""
        return self.text() if self.precedence >= precedence else f"({self.text()})"

    @property
    def parts(self) -> tuple[Schedule, ...]:
        """The direct parts of the schedule."""
        return ()

    def walk(self) -> Iterator[Schedule]:
        """Yield the schedule and all schedules inside it, outermost first."""
        waiting: list[Schedule] = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.parts))

    def _repr_html_(self) -> str:
        """Return the HTML for a notebook: a picture, or only the text if it cannot be drawn yet."""
        picture: str = _BUILDERS["picture"](self)
        return picture

    # ---- algebra -------------------------------------------------------------------------

    def __rshift__(self, other: Schedule) -> Schedule:
        return build("join", self, other)

    def __rrshift__(self, other: Any) -> Schedule:
        return build("join", other, self)

    def __mul__(self, other: Schedule | float) -> Schedule:
        if isinstance(other, Schedule):
            return build("product", self, other)
        return build("Scale", other, self)

    def __rmul__(self, other: float) -> Schedule:
        return self * other

    def __truediv__(self, other: float) -> Schedule:
        divisor = number("divisor", other)
        if divisor == 0.0:
            raise BadValueError("divisor is 0; a schedule is divided by a number other than 0")
        return self * (1.0 / divisor)

    def __neg__(self) -> Schedule:
        return self * -1.0

    def __add__(self, other: Schedule | float) -> Schedule:
        if isinstance(other, Schedule):
            return build("total", self, other)
        return build("Offset", self, other)

    def __radd__(self, other: float) -> Schedule:
        return self + other

    def __sub__(self, other: Schedule | float) -> Schedule:
        return self + (-other if isinstance(other, Schedule) else -number("value", other))

    def __rsub__(self, other: float) -> Schedule:
        return -self + other

    def clip(self, low: float | None = None, high: float | None = None) -> Schedule:
        """Return the schedule clipped to [low, high]: min(max(s(t), low), high).

        Examples:
            >>> from etude.schedules import exponential
            >>> exponential(0.5).clip(0.1)(10)
            0.1
        """
        return build("Clip", self, low, high)

    def repeat(self, times: int | None = None) -> Schedule:
        """Return the schedule restarted each time it ends: s(t mod L), `times` times or endlessly.

        Examples:
            >>> from etude.schedules import linear
            >>> s = linear(10).repeat(2)
            >>> s(9) == s(19), s(10), s(20)
            (True, 1.0, 0.0)
        """
        return build("Repeat", self, times)

    def stretch(self, factor: float) -> Schedule:
        """Return the schedule slowed down by the factor σ: s(t/σ).

        Examples:
            >>> from etude.schedules import linear
            >>> linear(10).stretch(2).length
            20
        """
        return build("Stretch", self, factor)

    def fit(self, length: Duration) -> Schedule:
        """Return the schedule stretched to last `length` steps: s(t·L/length) for its own length L.

        Examples:
            >>> from etude.schedules import linear, warmup
            >>> (warmup(1) >> linear(3)).fit(4_000)(1_000)
            1.0
        """
        return build("Fit", self, length)

    def shift(self, by: Duration) -> Schedule:
        """Return the schedule delayed: s(t − by), with s(0) before that.

        Examples:
            >>> from etude.schedules import linear
            >>> linear(10).shift(5)(10)
            0.5
        """
        return build("Shift", self, by)

    def take(self, length: Duration) -> Schedule:
        """Return the first `length` steps of the schedule; after them the last value is kept.

        Examples:
            >>> from etude.schedules import linear, step
            >>> s = step(30, 0.1).take(60) >> linear(40)
            >>> s.length
            100
        """
        return build("take", self, length)

    # ---- changes during a run ------------------------------------------------------------

    def cooldown(
        self, at: Steps, length: Duration, floor: float = 0.0, shape: str = "linear"
    ) -> Schedule:
        """Return the schedule up to step `at`, followed by a decay from the value reached there.

        Args:
            at: The step at which the decay starts, without a jump.
            length: Length of the decay.
            floor: Value at the end, relative to the value at `at`, in [0, 1].
            shape: 'linear', 'cosine' or 'sqrt'.

        Returns:
            A join that ends at step at + length.

        Raises:
            BadValueError: The schedule is not bound, or a number is out of bounds.

        Examples:
            >>> from etude.schedules import constant, warmup
            >>> (warmup(500) >> constant()).cooldown(at=2_000, length=100)
            warmup(500) >> constant(length=1_500) >> 1.0 * linear(100)
        """
        return build("cooldown", self, at, length, floor, shape)

    def extend(self, at: Steps, horizon: Duration) -> Schedule:
        """Return the schedule with a new end: the part after step `at` is stretched to reach it.

        Args:
            at: The step at which the change happens, without a jump; the values before it do not
                change.
            horizon: The new total length, which may be shorter.

        Returns:
            A join that ends at the new horizon; the same schedule if it is endless.

        Raises:
            BadValueError: The schedule is not bound, or `at` is not before both ends.

        Examples:
            >>> from etude.schedules import linear
            >>> s = linear(100).extend(at=50, horizon=150)
            >>> s(50), s(100), s(150)
            (0.5, 0.25, 0.0)
        """
        return build("extend", self, at, horizon)

    # ---- feedback ------------------------------------------------------------------------

    @property
    def has_feedback(self) -> bool:
        """Whether a schedule in it reacts to a metric."""
        return any(node.reacts for node in self.walk())

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that the schedule reacts to, of 'gradient', 'loss' and 'metric', sorted."""
        return tuple(sorted({getattr(n, "signal", "") for n in self.walk() if n.reacts}))

    def given(self, log: Any) -> Schedule:
        """Return the schedule after the events of a log, which replaces earlier events.

        Args:
            log: Pairs (step, metric) in the order of steps. A metric that is measured after t
                updates belongs to step t and takes effect from update t on.

        Returns:
            The schedule, with the events stored in the parts that react to them, each on its own
            clock. A part ignores events from before it begins.

        Raises:
            BadValueError: The schedule is not bound, or the steps are out of order.

        Examples:
            >>> from etude.schedules import plateau
            >>> s = plateau(factor=0.5, patience=0).given([(100, 1.0), (200, 1.0)])
            >>> s(199), s(200)
            (1.0, 0.5)
        """
        self._must_be_bound()
        return self.with_events(EventLog.of(log), add=False)

    def record(self, step: Steps, metric: float | None) -> Schedule:
        """Return the schedule after one more event; see `given`.

        Examples:
            >>> from etude.schedules import plateau, warmup
            >>> s = warmup(100) >> plateau(factor=0.5, patience=0)
            >>> s = s.record(200, 0.7).record(300, 0.7)
            >>> s(299), s(300)
            (1.0, 0.5)
        """
        self._must_be_bound()
        return self.with_events(EventLog.of([(step, metric)]), add=True)

    def with_events(self, log: EventLog, add: bool) -> Schedule:
        """Return the schedule with events on its own clock, added or in place of earlier ones."""
        return self

    @property
    def hears(self) -> NoReturn:
        """Moved: it is `signals`."""
        raise MovedError("Schedule.hears is now Schedule.signals")

    @property
    def hear(self) -> NoReturn:
        """Moved: it is `with_events`."""
        raise MovedError("Schedule.hear is now Schedule.with_events; call .given or .record")


def _each(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def is_steps(value: object) -> bool:
    return all(isinstance(item, int | float) for item in _each(value))
