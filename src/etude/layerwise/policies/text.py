"""The text form of policies, `decay(0.75) * no_decay()`, parsed without running Python."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any, TypeVar

from etude.errors import BadTypeError, BadValueError, EtudeError, shown, unknown_name
from etude.layerwise.policies.depth_and_kind import Decay, Discriminative, Ends, Kinds, NoDecay
from etude.layerwise.policies.freezing import Freeze, Unfreeze
from etude.layerwise.policies.hyperball import Hyperball
from etude.layerwise.policies.lora import LoraPlus
from etude.layerwise.policies.mup import Mup
from etude.layerwise.policies.policy import Policy
from etude.layerwise.policies.trust import Trust

POLICIES: Mapping[str, type[Policy]] = MappingProxyType(
    {
        policy.name: policy
        for policy in (
            Decay,
            Discriminative,
            Ends,
            Kinds,
            Mup,
            Freeze,
            Unfreeze,
            NoDecay,
            Trust,
            Hyperball,
            LoraPlus,
        )
    }
)
"""The named policies. To add a policy, add its class here."""

T = TypeVar("T")

MAX_CHARACTERS = 1_000_000
"""The longest text that is read; muP's ratios of a large model need a line per tensor."""

MAX_DEPTH = 50


def parse_policies(text: str) -> tuple[Policy, ...]:
    """Read policies joined by `*` from their text.

    Only the names in the table, numbers, text, tuples, lists, dictionaries, `True`, `False` and
    `None` are allowed; no code is run.

    Args:
        text: Such as 'decay(0.75)' or 'mup(base_width=64) * no_decay()'.

    Returns:
        The policies; their factors are multiplied.

    Raises:
        BadValueError: If the text is not a policy; the message shows the place and the fix.
        UnknownNameError: If a policy or an argument is unknown.

    >>> parse_policies("decay(factor=0.75) * no_decay()")
    (decay(), no_decay())
    """
    if not isinstance(text, str):
        raise BadTypeError(f"a policy is text such as 'decay(0.75)', not {text!r}")
    tree = expression(text)
    policies = tuple(read_call(node, text, POLICIES) for node in _factors(tree))
    for policy in policies:
        if sum(type(other) is type(policy) for other in policies) > 1 and not isinstance(
            policy, Freeze
        ):
            raise BadValueError(f"{shown(text)} has {policy.name} twice: give it once")
    return policies


def expression(text: str) -> ast.expr:
    """Return the syntax tree of a text that is one Python expression.

    Raises:
        BadValueError: If it is none, or too long.
    """
    if len(text) > MAX_CHARACTERS:
        raise BadValueError(f"the policy has {len(text)} characters; at most 1,000,000 are read")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "too complex"
        raise BadValueError(f"{shown(text)} is not a policy: {reason}") from None


def _factors(tree: ast.expr) -> list[ast.expr]:
    """Return the factors of a product from left to right."""
    found = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Mult):
        found.append(tree.right)
        tree = tree.left
    return [tree, *reversed(found)]


def read_call(node: ast.expr, text: str, table: Mapping[str, type[T]], *, bare: bool = False) -> T:
    """Build the value that a call such as `decay(0.75)` names, without running Python.

    Args:
        node: The call.
        text: The whole text, for messages.
        table: The classes by name.
        bare: Whether a name without parentheses means a call without arguments.

    Raises:
        BadValueError: If it is not a call, or an argument is wrong.
        UnknownNameError: If the name or an argument is unknown.
    """
    args: list[Any] = []
    named: dict[str, Any] = {}
    if isinstance(node, ast.Name):
        name = node.id
        if name not in table:
            raise unknown_name("policy", name, table)
        if not bare:
            raise BadValueError(f"{name} is called with parentheses: {name}()")
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        if name not in table:
            raise unknown_name("policy", name, table)
        args, named = _arguments(node, name, text, list(signature(table[name]).parameters))
    else:
        example = "joined by *, such as 'decay(0.75) * no_decay()'"
        if bare:
            example = f"such as {' or '.join(repr(one) for one in table)}"
        raise BadValueError(f"{shown(text)} is not a policy: write policies {example}")
    try:
        return table[name](*args, **named)
    except EtudeError:
        raise
    except (TypeError, ValueError) as error:
        raise BadValueError(f"{shown(text)}: {error}") from None


def _arguments(
    node: ast.Call, name: str, text: str, known: list[str]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and the named arguments of a call."""
    args = [_value(item, text, 0) for item in node.args]
    named: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise BadValueError(f"{shown(text)}: write the arguments out, without **")
        if keyword.arg not in known:
            raise unknown_name(f"argument of {name}", keyword.arg, known)
        named[keyword.arg] = _value(keyword.value, text, 0)
    if len(args) > len(known):
        raise BadValueError(f"{name} takes {len(known)} arguments: {', '.join(known)}")
    return args, named


def _value(node: ast.expr, text: str, depth: int) -> Any:
    """Read an argument: a literal, or a tuple, list or dictionary of them."""
    if depth > MAX_DEPTH:
        raise BadValueError(f"{shown(text)} is nested too deep: make it flatter")
    match node:
        case ast.Constant(value=value) if value is None or isinstance(
            value, bool | int | float | str
        ):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_value(item, text, depth + 1) for item in items)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {
                _value(k, text, depth + 1): _value(v, text, depth + 1)
                for k, v in zip(keys, values, strict=True)
                if k is not None
            }
    place = ast.get_source_segment(text.strip(), node) or text
    raise BadValueError(
        f"cannot read {shown(place)}: arguments are numbers, text, True, False, None, and "
        "lists or tables of them"
    )
