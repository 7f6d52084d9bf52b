"""`plan`: applies rules and policies to a model; every parameter is matched exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from etude.errors import BadValueError
from etude.layerwise.model_parts import parts_of
from etude.layerwise.multipliers import Multiplier, times
from etude.layerwise.parts import Part, layer_count
from etude.layerwise.policies.hyperball import Hyperball
from etude.layerwise.policies.policy import Factor, Setting
from etude.layerwise.policies.trust import Trust
from etude.layerwise.roles import refuse_guess
from etude.layerwise.selectors import Selector, near_misses
from etude.layerwise.spec import LrMult
from etude.schedules import Clock, Schedule

if TYPE_CHECKING:
    from torch import nn

    from etude.layerwise.flow import Flow

DEFAULT_RULE = "–"
"""The text in the table for a parameter that no rule matches."""

REST = "[rest]"
"""The label of the rows that no slice of a tensor matches."""


@dataclass(frozen=True)
class PlanRow:
    """One parameter, or some rows of it, and its multiplier.

    Attributes:
        part: The parameter.
        label: '' for the whole tensor, else the slice: '[forget]', '[0:64]', '[rest]'.
        spans: Row ranges along axis 0: (first, one past the last).
        rule: The selector that matches it and the policies, as text.
        multiplier: Multiplier of the learning rate.
        decay: Multiplier of the weight decay.
    """

    part: Part
    label: str
    spans: tuple[tuple[int, int], ...]
    rule: str
    multiplier: Multiplier
    decay: float = 1.0

    @property
    def name(self) -> str:
        """The parameter's name, with the slice."""
        return self.part.name + self.label

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        rows = sum(last - first for first, last in self.spans)
        return self.part.count // self.part.rows * rows if self.part.rows else 0


@dataclass(frozen=True)
class Plan:
    """The multipliers of the rate, for every parameter.

    Attributes:
        rows: In the model's order; together they cover every trainable scalar exactly once.
        depths: The number of layers of the model.
        trust: What rescales the update of whole tensors: a trust ratio, a fixed norm, or None.
    """

    rows: tuple[PlanRow, ...]
    depths: int
    trust: Trust | Hyperball | None = None

    def of(self) -> dict[str, tuple[PlanRow, ...]]:
        """Return the rows of each parameter, by its name."""
        table: dict[str, list[PlanRow]] = {}
        for row in self.rows:
            table.setdefault(row.part.name, []).append(row)
        return {name: tuple(rows) for name, rows in table.items()}

    def over(self, clock: Clock | int) -> Plan:
        """Return the plan with its scheduled multipliers bound to the length of a run."""
        return replace(
            self,
            rows=tuple(
                replace(row, multiplier=row.multiplier.over(clock))
                if isinstance(row.multiplier, Schedule)
                else row
                for row in self.rows
            ),
        )

    @property
    def moves(self) -> bool:
        """Whether a multiplier follows a schedule."""
        return any(isinstance(row.multiplier, Schedule) for row in self.rows)


def plan(
    lr_mult: LrMult | Mapping[str, object] | str,
    model: nn.Module | Sequence[Part],
    *,
    optimizer: str = "adamw",
    flow: Flow | None = None,
) -> Plan:
    """Apply rules and policies to a model.

    Args:
        lr_mult: The multipliers, in any form that `LrMult.of` reads.
        model: The network, or its parts.
        optimizer: The optimizer's name, which muP depends on.
        flow: The result of `trace` for the network: the layers that read the input and produce
            the output, and their order. Without it, names and the module tree are used.

    Returns:
        A row for each parameter or slice, with the rule that matches it.

    Raises:
        BadValueError: If a rule matches nothing (the message lists near misses), or only what
            earlier rules match; if slices overlap; if a slice is of a tied tensor; or if a rule
            needs the input or output layers and names do not tell them.

    >>> from torch import nn
    >>> found = plan({"*[forget]": 3.0}, nn.LSTM(2, 4))
    >>> [(row.name, row.multiplier) for row in found.rows][:2]
    [('weight_ih_l0[forget]', 3.0), ('weight_ih_l0[rest]', 1.0)]
    """
    spec = LrMult.of(lr_mult)
    parts = tuple(model) if isinstance(model, Sequence) else parts_of(model, flow)
    _refuse_guess(spec, parts)
    depths = layer_count(parts)
    setting = Setting(depths, optimizer)
    policies = [(policy, policy.factors(parts, setting)) for policy in spec.policies]
    claims = _claims(spec, parts, depths)
    rows = []
    for index, part in enumerate(parts):
        factor, names = Factor(), []
        for policy, factors in policies:
            own = factors[index]
            factor = Factor(times(factor.rate, own.rate), factor.decay * own.decay)
            if own != Factor():
                names.append(policy.name)
        for claim in claims[index]:
            rule = " × ".join([*([claim.rule] if claim.rule else []), *names])
            rows.append(
                PlanRow(
                    part,
                    claim.label,
                    claim.spans,
                    rule or DEFAULT_RULE,
                    times(claim.multiplier, factor.rate),
                    factor.decay,
                )
            )
    scaling = [policy for policy in spec.policies if isinstance(policy, (Trust, Hyperball))]
    if len(scaling) > 1:
        raise BadValueError(
            f"{scaling[0]!r} and {scaling[1]!r} both set the length of an update: leave one out"
        )
    trust = scaling[0] if scaling else None
    _check_trust(trust, rows)
    return Plan(tuple(rows), depths, trust)


def _refuse_guess(spec: LrMult, parts: Sequence[Part]) -> None:
    asking = [f"rule {rule.selector.text!r}" for rule in spec.rules if rule.selector.by_role]
    asking += [repr(policy) for policy in spec.policies if policy.by_role]
    if asking:
        refuse_guess(parts, asking[0])


@dataclass(frozen=True)
class _Claim:
    """Rows of one tensor that one rule matches."""

    spans: tuple[tuple[int, int], ...]
    label: str
    rule: str
    multiplier: Multiplier


def _claims(spec: LrMult, parts: Sequence[Part], depths: int) -> list[list[_Claim]]:
    """Return the claims on each part: those of the rules in order, then the remaining rows."""
    claims: list[list[_Claim]] = [[] for _ in parts]
    for rule in spec.rules:
        matched = won = 0
        owners: dict[str, None] = {}
        for part, own in zip(parts, claims, strict=True):
            for first, last, label in rule.selector.spans(part, depths):
                matched += 1
                new = _claim(rule.selector, part, own, (first, last), label)
                if new:
                    own.append(_Claim(new, label, rule.selector.text, rule.multiplier))
                    won += 1
                else:
                    owners.update({claim.rule: None for claim in own})
        if not matched:
            hint = near_misses(rule.selector, parts, depths)
            raise BadValueError(f"rule {rule.selector.text!r} matches no parameter: {hint}")
        if not won:
            earlier = " and ".join(map(repr, owners))
            raise BadValueError(
                f"rule {rule.selector.text!r} has no effect: {earlier} before it matches all that "
                "it matches; the first match wins, so put the narrower rule first"
            )
    for part, own in zip(parts, claims, strict=True):
        if left := _left(part.rows, own):
            own.append(_Claim(left, "", "", 1.0))
        for index, claim in enumerate(own):
            if not claim.label and len(own) > 1:
                own[index] = replace(claim, label=REST)
    return claims


def _claim(
    selector: Selector, part: Part, claims: list[_Claim], span: tuple[int, int], label: str
) -> tuple[tuple[int, int], ...]:
    """Return the row ranges of a part that a selector matches first; empty if none."""
    if not label:
        return _left(part.rows, claims)
    if part.aliases:
        raise BadValueError(
            f"selector {selector.text!r} takes a slice of {part.name}, which the model ties to "
            f"{', '.join(part.aliases)}: give the whole tensor a multiplier, or untie it"
        )
    for claim in claims:
        for first, last in claim.spans:
            if not claim.label and first <= span[0] and span[1] <= last:
                return ()
            if claim.label and (first, last) == span:
                return ()
            if first < span[1] and span[0] < last:
                raise BadValueError(
                    f"overlapping slices of {part.name}: {selector.text!r} takes rows "
                    f"{span[0]}:{span[1]} and {claim.rule!r} has {first}:{last} already: make "
                    "them equal or disjoint"
                )
    return (span,)


def _left(rows: int, claims: Sequence[_Claim]) -> tuple[tuple[int, int], ...]:
    """Return the row ranges without a claim."""
    taken = sorted(span for claim in claims for span in claim.spans)
    left, place = [], 0
    for first, last in [*taken, (rows, rows)]:
        if place < first:
            left.append((place, first))
        place = max(place, last)
    return tuple(left)


def _check_trust(trust: Trust | Hyperball | None, rows: Sequence[PlanRow]) -> None:
    for row in rows:
        if trust is not None and row.label and trust.scales(row.part):
            raise BadValueError(
                f"{row.name}: {trust.what} applies to a whole tensor, so its slices cannot have "
                f"separate multipliers: leave {trust.name}() or the slice out"
            )
