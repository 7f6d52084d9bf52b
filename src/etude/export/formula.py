"""Writes a schedule as a function of the step in the operations of another library.

A schedule computes its values at an array of steps through a namespace of the array API. Here the
array and the namespace are stand-ins that write down what is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any, NoReturn

from etude.errors import BadTypeError, BadValueError
from etude.schedules import Schedule
from etude.schedules.kinds.function import Function

ATOM, POWER, NEGATED, PRODUCT, SUM, LOGIC, COMPARED = 7, 6, 5, 4, 3, 2, 1
"""Precedences of Python's operators, from what binds most."""

INFIX = {
    "**": POWER,
    "*": PRODUCT,
    "/": PRODUCT,
    "//": PRODUCT,
    "%": PRODUCT,
    "+": SUM,
    "-": SUM,
    "&": LOGIC,
    "|": LOGIC,
    "<": COMPARED,
    "<=": COMPARED,
    ">": COMPARED,
    ">=": COMPARED,
}
"""The precedence of each operator that stands between two operands."""


@dataclass(frozen=True)
class Library:
    """The names of one library.

    Attributes:
        array: Turns a tuple of numbers into an array: a template of Python.
        cast: Turns an array of whole numbers into one of the type of the step `t`.
        module: The name of the module that holds its functions.
        constant: Turns a number into the value of a constant schedule.
    """

    array: str
    cast: str
    module: str
    constant: str


NUMPY = Library("np.asarray({})", "np.asarray({}, dtype=float)", "np", "{}")
JAX = Library("jnp.asarray({})", "jnp.asarray({}, dtype=float)", "jnp", "{} * jnp.ones_like(t)")
KERAS = Library(
    "ops.convert_to_tensor({}, t.dtype)", "ops.cast({}, t.dtype)", "ops", "{} * ops.ones_like(t)"
)


def formula(schedule: Schedule, library: Library) -> list[str]:
    r"""Return lines that compute a schedule at `t`, the last of which begins with `return`.

    Args:
        schedule: A bound schedule of the step alone.
        library: The library whose operations the lines use; `t` is one of its numbers or arrays, of
            a floating-point type.

    Raises:
        BadValueError: If the schedule reacts to a metric, or calls a function of the user's own.

    >>> from etude.schedules import cosine
    >>> print("\n".join(formula(0.1 * cosine(100), NUMPY)))
    a = np.sin(1.5707963267948966 * ((100 - np.minimum(t, 100)) / 100))
    return 0.1 * (a * a)

    With JAX and Keras a constant has the shape of `t`:

    >>> from etude.schedules import constant
    >>> formula(0.1 * constant(), JAX)
    ['return 0.1 * jnp.ones_like(t)']
    """
    refuse_impure(schedule)
    found = schedule.on(Term("t", bounds=(0.0, None)), Operations())
    return list(_lines(_merged(found, {}), library))


def refuse_impure(schedule: Schedule) -> None:
    """Check that a schedule depends on the step alone, by a formula that can be written down.

    Raises:
        BadValueError: If it does not; the message says what to do.
    """
    if schedule.has_feedback:
        raise BadValueError(
            f"schedule {schedule!r} reacts to a metric, so it is no formula of the step: export it "
            "as 'torch', or choose a schedule without feedback"
        )
    own = [node for node in schedule.walk() if isinstance(node, Function)]
    if own:
        raise BadValueError(
            f"schedule has {own[0]!r}, a function of your own that cannot be written as code: "
            "export it as 'torch', or choose another schedule"
        )


Bounds = tuple[float | None, float | None]


class Term:
    """A value that is known when the written function is called.

    Args:
        name: An operator, a function, or the name of the variable.
        parts: Its operands: terms, numbers, or a tuple of numbers.
        bounds: Numbers between which it is known to lie; None where none is known.
    """

    shape = ()
    device = None
    dtype = "float"

    __slots__ = ("bounds", "name", "parts")

    def __init__(self, name: str, *parts: Any, bounds: Bounds = (None, None)) -> None:
        self.name, self.parts, self.bounds = name, parts, bounds

    def __bool__(self) -> NoReturn:
        raise BadTypeError(f"{self.name} is known only when the code runs: use where")

    def __neg__(self) -> Term:
        return Term("neg", self)

    def __add__(self, other: Any) -> Term:
        return self if _is(other, 0.0) else Term("+", self, other)

    def __radd__(self, other: Any) -> Term:
        return self if _is(other, 0.0) else Term("+", other, self)

    def __sub__(self, other: Any) -> Term:
        return self if _is(other, 0.0) else Term("-", self, other)

    def __rsub__(self, other: Any) -> Term:
        return Term("-", other, self)

    def __mul__(self, other: Any) -> Term:
        return self if _is(other, 1.0) else Term("*", self, other)

    def __rmul__(self, other: Any) -> Term:
        return self if _is(other, 1.0) else Term("*", other, self)

    def __truediv__(self, other: Any) -> Term:
        return self if _is(other, 1.0) else Term("/", self, other)

    def __rtruediv__(self, other: Any) -> Term:
        return Term("/", other, self)

    def __floordiv__(self, other: Any) -> Term:
        return Term("//", self, other)

    def __mod__(self, other: Any) -> Term:
        return Term("%", self, other)

    def __pow__(self, other: Any) -> Term:
        return self if _is(other, 1.0) else Term("**", self, other)

    def __rpow__(self, other: Any) -> Term:
        return Term("**", other, self)

    def __lt__(self, other: Any) -> Term:
        return Term("<", self, other)

    def __le__(self, other: Any) -> Term:
        return Term("<=", self, other)

    def __gt__(self, other: Any) -> Term:
        return Term(">", self, other)

    def __ge__(self, other: Any) -> Term:
        return Term(">=", self, other)

    def __and__(self, other: Any) -> Term:
        return Term("&", self, other)


def _is(value: Any, number: float) -> bool:
    return not isinstance(value, Term) and bool(value == number)


class Operations:
    """The operations of the array API that schedules use, on terms and numbers."""

    __name__ = "operations"  # array_api_compat asks for the name of a namespace

    def sin(self, x: Any) -> Term:
        """Return the sine."""
        return Term("sin", x)

    def exp(self, x: Any) -> Term:
        """Return e to the power of x."""
        return Term("exp", x)

    def sqrt(self, x: Any) -> Term:
        """Return the square root."""
        return Term("sqrt", x)

    def clip(self, x: Any, low: Any = None, high: Any = None) -> Any:
        """Return x between two bounds, of which one may be None."""
        if not isinstance(x, Term):
            y = x if low is None else max(x, low)
            return y if high is None else min(y, high)
        least, most = x.bounds
        if low is not None and (least is None or least < low):
            least = low
            x = Term("maximum", x, low, bounds=(least, most))
        if high is not None and (most is None or most > high):
            x = Term("minimum", x, high, bounds=(least, high))
        return x

    def where(self, condition: Term, yes: Any, no: Any) -> Term:
        """Return yes where the condition holds, and no elsewhere."""
        return Term("where", condition, yes, no)

    def ones_like(self, x: Any) -> float:
        """Return 1."""
        return 1.0

    def zeros_like(self, x: Any) -> float:
        """Return 0."""
        return 0.0

    def full_like(self, x: Any, value: float) -> float:
        """Return the value."""
        return value

    def asarray(self, values: tuple[float, ...], **options: Any) -> Term:
        """Return a table of numbers."""
        return Term("table", tuple(map(float, values)))

    def reshape(self, x: Any, shape: Any) -> Any:
        """Return x: there is only one step."""
        return x

    def astype(self, x: Any, dtype: Any) -> Term:
        """Return x as a number of the type of the step."""
        return Term("cast", x)

    def searchsorted(self, edges: Term, x: Any, side: str) -> Term:
        """Return the number of edges that are not above x."""
        return Term("count", edges, x)

    def take(self, values: Term, index: Any, axis: int) -> Term:
        """Return the value at an index."""
        return Term("take", values, index)


def _merged(term: Any, seen: dict[Any, Term]) -> Any:
    """Return a term in which equal parts are one object, so that each is computed once."""
    if not isinstance(term, Term):
        return term
    parts = tuple(_merged(part, seen) for part in term.parts)
    key = (term.name, *(("id", id(p)) if isinstance(p, Term) else (type(p), p) for p in parts))
    return seen.setdefault(key, Term(term.name, *parts))


def _lines(found: Any, library: Library) -> Iterator[str]:
    """Yield the lines: a variable for each term that is used more than once, then the result."""
    uses: Counter[int] = Counter()
    order: list[Term] = []

    def visit(term: Any) -> None:
        if not isinstance(term, Term):
            return
        uses[id(term)] += 1
        if uses[id(term)] == 1:
            for part in term.parts:
                visit(part)
            order.append(term)

    visit(found)
    names: dict[int, str] = {}
    free = _variables()
    for term in order:
        if uses[id(term)] > 1 and term.parts and term.name != "table":
            text = _text(term, library, names)[0]
            names[id(term)] = next(free)
            yield f"{names[id(term)]} = {text}"
    result = _text(found, library, names)[0]
    yield f"return {result if isinstance(found, Term) else library.constant.format(result)}"


def _variables() -> Iterator[str]:
    letters = [letter for letter in ascii_lowercase if letter != "t"]
    yield from letters
    number = 1
    while True:
        yield from (f"{letter}{number}" for letter in letters)
        number += 1


def _text(term: Any, library: Library, names: dict[int, str]) -> tuple[str, int]:
    """Return the text of a term, and its precedence."""
    if not isinstance(term, Term):
        return repr(term), NEGATED if term < 0 else ATOM
    if id(term) in names:
        return names[id(term)], ATOM
    if not term.parts:
        return term.name, ATOM
    if term.name == "table":
        return library.array.format(term.parts[0]), ATOM
    inner = [_text(part, library, names) for part in term.parts]
    if term.name == "neg":
        return f"-{_inside(*inner[0], NEGATED)}", NEGATED
    if term.name in INFIX:
        own = INFIX[term.name]
        left, right = inner
        least = own + 1 if own in (POWER, COMPARED) else own
        return f"{_inside(*left, least)} {term.name} {_inside(*right, own + 1)}", own
    listed = ", ".join(text for text, _ in inner)
    if term.name == "cast":
        return library.cast.format(listed), ATOM
    if term.name == "count":
        return f'{library.module}.searchsorted({listed}, side="right")', ATOM
    return f"{library.module}.{term.name}({listed})", ATOM


def _inside(text: str, precedence: int, least: int) -> str:
    return text if precedence >= least else f"({text})"
