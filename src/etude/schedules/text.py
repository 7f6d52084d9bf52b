"""The text form of schedules: Python expressions, parsed without running Python."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from typing import Any

from etude.errors import (
    BadTypeError,
    BadValueError,
    EtudeError,
    kind_of,
    shorten,
    shown,
    unknown_name,
)
from etude.schedules._base import Schedule
from etude.schedules.registry import KINDS

MAX_CHARACTERS = 10_000
MAX_DEPTH = 100
_MAX_DIGITS = 400

METHODS: dict[str, Callable[..., Schedule]] = {
    "clip": Schedule.clip,
    "repeat": Schedule.repeat,
    "stretch": Schedule.stretch,
    "fit": Schedule.fit,
    "shift": Schedule.shift,
    "take": Schedule.take,
}
"""The methods of the algebra that the text form allows."""


def parse(text: str) -> Schedule:
    """Read a schedule from its text form, which is Python: `parse(repr(s)) == s`.

    Only the names in the table of kinds, numbers, text, tuples, `True`, `False`, `None`, the
    operators `>> * / + -` and the methods of the algebra are allowed; no code is run.

    Args:
        text: At most 10,000 characters, nested at most 100 deep.

    Returns:
        The schedule.

    Raises:
        BadValueError: The text is not a schedule; the message shows the place and the fix.

    Examples:
        >>> parse("0.1 * (warmup(500) >> cosine(9_500, floor=0.01))")
        0.1 * (warmup(500) >> cosine(9_500, floor=0.01))
    """
    if not isinstance(text, str):
        raise _no_text(text)
    if len(text) > MAX_CHARACTERS:
        raise BadValueError(f"the text has {len(text)} characters; at most 10,000 are read")
    _check_nesting(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings on unusual literals, which are refused below
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "too complex"
        raise BadValueError(f"{shown(text)} is not a Python expression: {reason}") from None
    value = _Reader(text).read(tree.body, 0)
    if not isinstance(value, Schedule):
        raise BadValueError(
            f"{shown(text)} is {kind_of(value)}, not a schedule: "
            "write constant(0.1) for a fixed value"
        )
    return value


class _Reader:
    """Builds a schedule from a syntax tree; any form that is not allowed raises an error."""

    def __init__(self, text: str) -> None:
        self.text = text

    def read(self, node: ast.AST, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _too_deep(self.text)
        match node:
            case ast.Constant(value=value):
                return self.constant(node, value)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return tuple(self.read(item, depth + 1) for item in items)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                return self.signed(node, self.read(operand, depth + 1))
            case ast.BinOp():
                return self.operation(node, depth)
            case ast.Call():
                return self.call(node, depth)
            case ast.Name(id=name):
                if name in KINDS:
                    raise self.error(node, f"{name} is called with parentheses: {name}(...)")
                raise unknown_name("schedule", name, KINDS)
        raise self.error(node, "a schedule is made of kinds, numbers, >> * / + - and methods only")

    def constant(self, node: ast.Constant, value: object) -> Any:
        if value is None or isinstance(value, bool | float | str):
            return value
        if isinstance(value, int) and value.bit_length() <= 4 * _MAX_DIGITS:
            return value
        raise self.error(node, "only numbers of ordinary size, text, True, False and None are read")

    def signed(self, node: ast.UnaryOp, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float | Schedule):
            raise self.error(node, "a sign must be before a number or a schedule")
        return -value if isinstance(node.op, ast.USub) else value

    def operation(self, node: ast.BinOp, depth: int) -> Any:
        """Read a chain such as `a >> b >> c` from the left, without recursion for each operator."""
        chain: list[ast.BinOp] = []
        left: ast.AST = node
        while isinstance(left, ast.BinOp):
            chain.append(left)
            left = left.left
        value = self.read(left, depth + 1)
        joined = [value]
        for link in reversed(chain):
            right = self.read(link.right, depth + 1)
            if isinstance(link.op, ast.RShift):
                joined.append(right)
                continue
            value = self.apply(link, self.join(link, joined), right)
            joined = [value]
        return self.join(node, joined)

    def join(self, node: ast.AST, values: list[Any]) -> Any:
        if len(values) == 1:
            return values[0]
        from etude.schedules.algebra import Join

        if not all(isinstance(v, Schedule) for v in values):
            raise self.error(node, ">> joins schedules: write constant(0.1) for a fixed value")
        return Join(tuple(values))

    def apply(self, node: ast.BinOp, left: Any, right: Any) -> Any:
        for side in (left, right):
            if isinstance(side, bool) or not isinstance(side, int | float | Schedule):
                raise self.error(node, "an operator must be between numbers and schedules")
        try:
            match node.op:
                case ast.Mult():
                    return left * right
                case ast.Add():
                    return left + right
                case ast.Sub():
                    return left - right
                case ast.Div() if not isinstance(right, Schedule):
                    return left / right
        except EtudeError:
            raise
        except (ArithmeticError, TypeError) as error:
            raise self.error(node, str(error)) from None
        raise self.error(node, "the operators are >> * + - and division by a number")

    def call(self, node: ast.Call, depth: int) -> Schedule:
        if any(isinstance(a, ast.Starred) for a in node.args):
            raise self.error(node, "write the arguments out, without *")
        if any(k.arg is None for k in node.keywords):
            raise self.error(node, "write the arguments out, without **")
        args = [self.read(a, depth + 1) for a in node.args]
        named = {str(k.arg): self.read(k.value, depth + 1) for k in node.keywords}
        make: Callable[..., Schedule]
        match node.func:
            case ast.Name(id=name):
                if name not in KINDS:
                    raise unknown_name("schedule", name, KINDS)
                make = KINDS[name].make
            case ast.Attribute(value=body, attr=name):
                if name not in METHODS:
                    raise unknown_name("method of a schedule", name, METHODS)
                subject = self.read(body, depth + 1)
                if not isinstance(subject, Schedule):
                    raise self.error(node, f".{name}() must follow a schedule")
                args, make = [subject, *args], METHODS[name]
            case _:
                raise self.error(node, "only kinds and methods of the algebra can be called")
        try:
            return make(*args, **named)
        except EtudeError as error:
            if name in str(error):
                raise
            place = ast.get_source_segment(self.text.strip(), node) or name
            raise type(error)(f"{shorten(place)}: {error}") from None
        except TypeError as error:
            reason = str(error).partition("() ")[2] or str(error)
            raise self.error(node, f"{name} {reason}") from None

    def error(self, node: ast.AST, reason: str) -> BadValueError:
        place = ast.get_source_segment(self.text.strip(), node) or self.text
        return BadValueError(f"cannot read {shown(place)}: {reason}")


def _no_text(value: object) -> BadTypeError:
    for name, row in KINDS.items():
        if row.make is value:
            return BadTypeError(f"{name} is called with parentheses: {name}(...)")
    return BadTypeError(
        f"a schedule is read from text, not from {type(value).__name__}: "
        "parse('warmup(500) >> cosine(9_500)')"
    )


def _check_nesting(text: str) -> None:
    """Raise for deeply nested parentheses before Python's own parser reads them."""
    depth = signs = 0
    for character in text:
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        signs = signs + 1 if character in "-+~" else signs * (character == " ")
        if depth > MAX_DEPTH or signs > MAX_DEPTH:
            raise _too_deep(text)


def _too_deep(text: str) -> BadValueError:
    return BadValueError(f"{shown(text)} is nested more than {MAX_DEPTH} deep: make it flatter")
