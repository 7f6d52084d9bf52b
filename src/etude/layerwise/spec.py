"""`LrMult`: the multipliers of the learning rate in a recipe, as immutable plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etude.errors import BadTypeError, BadValueError, shown
from etude.layerwise.multipliers import Multiplier, multiplier, plain
from etude.layerwise.selectors import Selector
from etude.schedules import Schedule

if TYPE_CHECKING:
    from etude.layerwise.policies.policy import Policy

POLICY = "@policy"
"""The key under which a table of rules names its policies."""


@dataclass(frozen=True)
class Rule:
    """One selector and its multiplier."""

    selector: Selector
    multiplier: Multiplier


@dataclass(frozen=True)
class LrMult:
    """Multipliers of the learning rate: ordered rules, times policies.

    The first rule that matches a parameter, or rows of it, sets its multiplier; without a match it
    is 1. Policies apply to every parameter, and their factors multiply those of the rules.

    Attributes:
        rules: The rules, in order.
        policies: The policies as written; their order has no effect.

    >>> LrMult.of({"*[forget]": 3.0, "conv*": 2})
    LrMult({'*[forget]': 3.0, 'conv*': 2.0})
    >>> LrMult.of("decay(0.8) * no_decay()")
    LrMult('decay(0.8) * no_decay()')
    """

    rules: tuple[Rule, ...] = ()
    policies: tuple[Policy, ...] = ()

    @classmethod
    def of(cls, value: object) -> LrMult:
        """Return the multipliers given by a table of selectors or a policy's text.

        Args:
            value: A mapping selector -> number or schedule text, whose key '@policy' may give
                policies; or a policy's text; or an LrMult.

        Raises:
            BadTypeError: If it is of another type.
            BadValueError: If it is empty, or a selector, number or text in it is wrong.
        """
        from etude.layerwise.policies.text import parse_policies

        if isinstance(value, LrMult):
            return value
        if isinstance(value, str):
            return cls(policies=parse_policies(value))
        if not isinstance(value, Mapping):
            raise BadTypeError(
                f"lr_mult={shown(value)}: give a table such as {{'*[forget]': 3.0}} or a policy "
                "such as 'decay(0.75)'"
            )
        table = dict(value)
        policies = parse_policies(table.pop(POLICY)) if POLICY in table else ()
        if not table and not policies:
            raise BadValueError("lr_mult is an empty table: leave it out, or give a rule")
        rules: dict[str, Rule] = {}
        for text, factor in table.items():
            selector = Selector.of(text)
            if selector.text in rules:
                raise BadValueError(f"lr_mult names {shown(selector.text)} twice: give it once")
            rules[selector.text] = Rule(selector, multiplier(selector.text, factor))
        return cls(tuple(rules.values()), policies)

    @property
    def moves(self) -> bool:
        """Whether a multiplier follows a schedule."""
        return any(isinstance(rule.multiplier, Schedule) for rule in self.rules) or any(
            policy.moves for policy in self.policies
        )

    @property
    def needs_flow(self) -> bool:
        """Whether a rule or policy depends on the order or the roles of the layers."""
        return any(rule.selector.by_role for rule in self.rules) or any(
            policy.by_depth for policy in self.policies
        )

    def plain(self) -> str | dict[str, Any]:
        """Return the shortest form that JSON and TOML can hold."""
        text = " * ".join(map(repr, self.policies))
        if not self.rules:
            return text
        table = {rule.selector.text: plain(rule.multiplier) for rule in self.rules}
        return {POLICY: text, **table} if text else table

    def pairs(self) -> list[list[Any]] | str:
        """Return the plain form as ordered pairs, for digests: the order of rules matters."""
        value = self.plain()
        return value if isinstance(value, str) else [list(pair) for pair in value.items()]

    def __repr__(self) -> str:
        return f"LrMult({self.plain()!r})"
