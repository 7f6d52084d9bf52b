"""The text form: what it reads, what it refuses, and that no input hangs or harms it."""

from __future__ import annotations

import contextlib
import json
import string
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etude.errors import BadTypeError, BadValueError, EtudeError
from etude.schedules import (
    KINDS,
    Clock,
    Schedule,
    constant,
    cosine,
    exponential,
    from_json,
    function,
    linear,
    parse,
    register,
    step,
    to_json,
    warmup,
)
from etude.schedules.testing import schedules
from etude.schedules.text import METHODS

CLOCK = Clock(horizon=10_000, steps_per_epoch=100, samples_per_step=64, tokens_per_step=4_096)
EXAMPLES = [text for row in KINDS.values() for text in row.examples]


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_of_the_table_reads_writes_and_runs(text: str) -> None:
    s = parse(text)
    assert parse(repr(s)) == s
    assert from_json(to_json(s)) == s
    bound = s.over(CLOCK)
    assert bound.is_bound
    assert bound.over(7) is bound
    assert isinstance(bound(5_000), float)
    assert parse(repr(bound)) == bound


def test_every_row_has_an_example() -> None:
    assert [name for name, row in KINDS.items() if not row.examples and name != "function"] == []


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("warmup(500)>>cosine(9500,floor=.01)", "warmup(500) >> cosine(9_500, floor=0.01)"),
        ("cosine(length=100, floor=0)", "cosine(100)"),
        ("cosine(100.0) * 0.1", "0.1 * cosine(100)"),
        ("cosine(100) / 10", "0.1 * cosine(100)"),
        ("-cosine(100)", "-1.0 * cosine(100)"),
        ("1 - cosine(100)", "-1.0 * cosine(100) + 1.0"),
        ("cosine('500 steps')", "cosine(500)"),
        ("cosine('2 epoch')", "cosine('2 epochs')"),
        ("cosine('1e6 samples')", "cosine('1_000_000 samples')"),
        ("cosine('5 percent')", "cosine('5%')"),
        ("a", None),
        ("exponential(0.5, every=10, staircase=True)", "step(10, 0.5)"),
        ("multi_step([30, 60])", "multi_step((30, 60))"),
        ("(warmup(1) >> cosine(2)) >> linear(3)", "warmup(1) >> cosine(2) >> linear(3)"),
        ("0.1 * warmup(5) >> cosine(5)", "0.1 * warmup(5) >> cosine(5)"),
        ("(cosine(5) + 0.1).clip(high=1)", "(cosine(5) + 0.1).clip(high=1.0)"),
        ("  cosine(5)\n", "cosine(5)"),
    ],
)
def test_the_text_is_canonical(text: str, canonical: str | None) -> None:
    if canonical is None:
        with pytest.raises(BadValueError, match="unknown schedule 'a'"):
            parse(text)
    else:
        assert repr(parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin(5)", "did you mean 'cosine'"),
        ("cosine(5).clop(1)", "did you mean 'clip'"),
        ("cosine(5, flor=1)", "unknown argument of cosine 'flor': did you mean 'floor'"),
        ("cosine(5, 0.1, 1.0, 2)", "positional arguments"),
        ("cosine", "called with parentheses"),
        ("0.1", "not a schedule"),
        ("cosine('5 parsecs')", "unknown unit 'parsecs'"),
        ("cosine('5')", r"length is '5'; it has no unit: did you mean 5 or '5 steps'"),
        ("cosine(1e999)", "finite number"),
        ("cosine(-5)", "at least 0"),
        ("cosine(True)", "must be a number of steps"),
        ("cosine(5) >> 0.1", r"constant\(0.1\)"),
        ("cosine(5) ** 2", "the operators are"),
        ("cosine(5) / 0", "divisor is 0"),
        ("1 / 0 * cosine(5)", "division by zero"),
        ("cosine(5).repeat(10**9)", "the operators are"),
        ("cosine(5).repeat(-1)", "times is -1"),
        ("cosine(5).repeat(1e300)", "at most"),
        ("cosine(*[5])", r"without \*"),
        ("cosine(**{'length': 5})", r"without \*\*"),
        ("__import__('os').system('true')", "unknown method"),
        ("().__class__", "made of kinds"),
        ("cosine.__class__()", "unknown method"),
        ("(lambda: cosine(5))()", "only kinds and methods"),
        ("[cosine(5) for _ in (1,)]", "made of kinds"),
        ("cosine(5) if True else cosine(6)", "made of kinds"),
        ("x := cosine(5)", "not a Python expression"),
        ("f'{cosine(5)}'", "made of kinds"),
        ("cosine(5j)", "only numbers of ordinary size"),
        ("cosine(b'5')", "only numbers of ordinary size"),
        ("cosine(" + "9" * 5_000 + ")", "not a Python expression|ordinary size"),
        ("cosine(0x" + "f" * 5_000 + ")", "ordinary size"),
        ("(" * 5_000 + ")" * 5_000, "nested more than 100 deep"),
        ("-" * 5_000 + "cosine(5)", "nested more than 100 deep"),
        ("- " * 4_000 + "cosine(5)", "nested more than 100 deep"),
        ("-\t" * 4_000 + "cosine(5)", "nested more than 100 deep|not a Python expression"),
        ("not " * 2_000 + "x", "made of kinds|not a Python expression"),
        ("cosine(5)" + ".clip(0)" * 1_000, "nested more than 100 deep|not a Python expression"),
        ("cosine(" * 99 + ")" * 99, "must be a number|length is"),
        ("x" * 10_001, "at most 10,000"),
        ("", "not a Python expression"),
        ("cosine(5)\x00", "not a Python expression"),
        ("cosine('\ud800')", "not a Python expression|a duration reads like"),
        ("cosine() >> linear()", "at most one segment"),
        ("constant() >> cosine()", "both constant.. and cosine.. have no length"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(EtudeError, match=message):
        parse(text)


def test_only_text_is_parsed() -> None:
    with pytest.raises(BadTypeError, match="read from text, not from int"):
        parse(5)  # type: ignore[arg-type]


def test_a_long_chain_is_no_deep_nesting() -> None:
    s = parse(" >> ".join(["warmup(1)"] * 700))
    assert s.length == 700
    assert parse(" + ".join(["cosine(1)"] * 700))(0) == 700.0


WORDS = st.sampled_from(
    [
        *KINDS,
        *METHODS,
        *("__import__", "eval", "x", "None", "True", "inf", "nan", "lambda", "for"),
        *"()[]{},.=+-*/>><:'\"%\n\t 0123456789",
        *("5%", "'2 epochs'", "1e999", "9" * 40, "**"),
    ]
)


def read_or_refuse(read: Callable[[], Schedule]) -> Schedule | None:
    """Any other error than ours fails the test."""
    with contextlib.suppress(EtudeError):
        return read()
    return None


@given(st.text(max_size=200))
@example("cosine('" + "9" * 60 + " steps')")
def test_any_text_is_a_schedule_or_an_error_of_ours(text: str) -> None:
    s = read_or_refuse(lambda: parse(text))
    assert s is None or parse(repr(s)) == s


@given(st.lists(WORDS, max_size=40).map("".join))
def test_any_words_are_a_schedule_or_an_error_of_ours(text: str) -> None:
    s = read_or_refuse(lambda: parse(text))
    assert s is None or parse(repr(s)) == s


@given(schedules(2), st.integers(0, 400), st.sampled_from(string.printable), st.booleans())
def test_a_slip_of_the_keyboard_is_a_schedule_or_an_error_of_ours(
    s: Schedule, where: int, typed: str, replaced: bool
) -> None:
    text = repr(s)
    where %= len(text)
    changed = text[:where] + typed + text[where + replaced :]
    read = read_or_refuse(lambda: parse(changed))
    assert read is None or parse(repr(read)) == read


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(list(KINDS)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "length", "body", "segments", "factor", "log", "floor"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(JSON)
def test_any_json_is_a_schedule_or_an_error_of_ours(data: object) -> None:
    s = read_or_refuse(lambda: from_json(json.dumps(data)))
    assert s is None or from_json(to_json(s)) == s


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this is not JSON"),
        ("[]", "is not a schedule"),
        ('{"kind": "cosin"}', "did you mean 'cosine'"),
        (
            '{"kind": "cosine", "lenght": 5}',
            "unknown argument of cosine 'lenght': did you mean 'length'",
        ),
        ('{"kind": "cosine", "length": NaN}', "finite number"),
        ('{"kind": "join", "segments": 5}', "must be a tuple of schedules"),
        ('{"kind": "join", "segments": [5, 6]}', "must be a schedule"),
        ('{"kind": "scale", "factor": 1, "body": ' * 150 + "1" + "}" * 150, "more than 100 deep"),
        ("[" * 200_000, "nested more than 100 deep"),
    ],
)
def test_json_that_is_no_schedule_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(EtudeError, match=message):
        from_json(text)
    with pytest.raises(BadTypeError, match="JSON must be text"):
        from_json(5)  # type: ignore[arg-type]
    with pytest.raises(BadTypeError, match="must be a schedule"):
        to_json(5)  # type: ignore[arg-type]


def test_a_user_function_joins_by_its_name() -> None:
    @register("test_halving", replace=True)
    def halving(t: float) -> float:
        return 0.5 ** (t // 10)

    s = parse("warmup(10) >> function('test_halving')")
    assert s == warmup(10) >> function("test_halving")
    assert from_json(to_json(s)) == s
    assert (s(5), s(10), s(20)) == (0.5, 1.0, 0.5)
    with pytest.raises(BadValueError, match="registered already"):
        register("test_halving", lambda t: 1.0)
    with pytest.raises(BadValueError, match="unknown registered function 'test_halvin'"):
        parse("function('test_halvin')")
    with pytest.raises(BadValueError, match="Python identifier"):
        register("not a name", halving)
    with pytest.raises(BadTypeError, match="must be callable"):
        register("test_number", 5)  # type: ignore[type-var]


def test_values_are_equal_where_texts_are() -> None:
    assert cosine(100) == cosine(100.0) == cosine("100 steps")
    assert cosine(100) != cosine(101)
    assert constant(1) == constant(1.0) != linear(1)
    assert step(10, 0.5) == exponential(0.5, every=10, staircase=True)
    assert len({cosine(100), cosine(100.0), 1 * cosine(100)}) == 2
