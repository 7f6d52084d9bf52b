"""Random schedules for property tests; needs hypothesis.

Adapters' tests draw from here too, so a new kind is tested everywhere once it has a row.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from etude.errors import BadValueError
from etude.schedules._base import Schedule
from etude.schedules.arguments import (
    FACTOR,
    LENGTH,
    POWER,
    SHARE,
    SPAN,
    WHOLE,
    Arguments,
    AsMany,
    Domain,
    Either,
    Events,
    OneOf,
    RealIn,
    Rising,
    WholeIn,
)
from etude.schedules.registry import KINDS


def strategy(domain: Domain) -> st.SearchStrategy[Any]:
    """Return hypothesis' strategy for the values of one argument."""
    match domain:
        case WholeIn(low, high):
            return st.integers(low, high)
        case RealIn(low, high, digits, above):
            plain = st.floats(low, high, exclude_min=above)
            return plain if digits is None else plain.map(lambda x: round(x, digits))
        case OneOf(values):
            return st.sampled_from(values)
        case Either(domains):
            return st.one_of(*map(strategy, domains))
        case Rising(least):
            steps = st.lists(st.integers(0, 5_000), min_size=least, max_size=6)
            return steps.map(lambda found: tuple(sorted(found)))
        case Events():
            return _log()
        case AsMany():
            raise BadValueError("as many as another argument: draw both together, by `arguments`")


def _log() -> st.SearchStrategy[tuple[tuple[int, float | None], ...]]:
    metric = st.one_of(st.none(), st.floats(-2.0, 2.0).map(lambda x: round(x, 3)))
    return st.lists(st.tuples(st.integers(0, 5_000), metric), max_size=12).map(
        lambda events: tuple(sorted(events, key=lambda e: e[0]))
    )


@st.composite
def _table(draw: st.DrawFn, table: Arguments) -> dict[str, Any]:
    found = {
        name: draw(strategy(domain))
        for name, domain in table.items()
        if not isinstance(domain, AsMany)
    }
    for name, domain in table.items():
        if isinstance(domain, AsMany):
            count = len(found[domain.other]) + domain.more
            values = st.lists(strategy(domain.domain), min_size=count, max_size=count)
            found[name] = tuple(draw(values))
    return found


def arguments(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return valid arguments for a row of the table of kinds, all durations in steps."""
    return st.one_of(*map(_table, KINDS[name].arguments))


def drawn() -> tuple[str, ...]:
    """Return the kinds that name the domains of their arguments, and so can be drawn."""
    return tuple(name for name, row in KINDS.items() if row.arguments)


def kinds(*names: str) -> st.SearchStrategy[Schedule]:
    """Return bound schedules of these kinds; of all kinds without names."""
    return st.sampled_from(names or drawn()).flatmap(
        lambda name: arguments(name).map(lambda given: KINDS[name].make(**given))
    )


def schedules(depth: int = 3) -> st.SearchStrategy[Schedule]:
    """Return bound schedules of any kind, combined by the whole algebra."""
    return st.recursive(kinds(), _combined, max_leaves=2**depth)


def _combined(inner: st.SearchStrategy[Schedule]) -> st.SearchStrategy[Schedule]:
    factor, length, power = strategy(FACTOR), strategy(LENGTH), strategy(POWER)
    share, span, whole = strategy(SHARE), strategy(SPAN), strategy(WHOLE)
    closed = st.builds(lambda s, n: s.take(n) if s.is_open else s, inner, whole)
    long = closed.filter(lambda s: s.length > 0)
    return st.one_of(
        st.builds(lambda a, b: a >> b, closed, inner),
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda k, s: k * s, factor, inner),
        st.builds(lambda s, c: s + c, inner, factor),
        st.builds(lambda s, low, width: s.clip(low, low + width), inner, factor, share),
        st.builds(lambda s, n: s.repeat(n), long, st.none() | st.integers(1, 5)),
        st.builds(lambda s, k: s.stretch(k), inner, power),
        st.builds(lambda s, n: s.fit(n), long, span),
        st.builds(lambda s, d: s.shift(d), inner, st.integers(-500, 500)),
        st.builds(lambda s, n: s.take(n), inner, length),
    )
