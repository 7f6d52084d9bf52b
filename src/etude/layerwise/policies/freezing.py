"""Policies that freeze layers: permanently, for a time, or one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from etude.errors import BadTypeError, BadValueError
from etude.layerwise.multipliers import Multiplier
from etude.layerwise.parts import Part
from etude.layerwise.policies.policy import Factor, Policy, Setting
from etude.layerwise.selectors import Selector, near_misses
from etude.schedules import parse


@dataclass(frozen=True, repr=False)
class Freeze(Policy):
    """Freeze some layers for a time or for the whole run.

    The multiplier is 0 until `until`, then 1. A frozen layer takes no part in training, as with
    `requires_grad=False`: norms leave out its gradient, and the optimizer's averages and weight
    decay begin when it is unfrozen. For a layer that is frozen for the whole run, no gradient is
    computed. As in torch, batch normalisation in a frozen layer still uses the statistics of its
    batch and updates the running ones; call `eval()` on it in the model's own `train` method to
    keep them fixed.

    Args:
        selector: The layers to freeze, such as 'embedding*', '@convolution', 'layers.0'.
        until: A length in steps or with a unit ('10%', '2 epochs'); None freezes for the whole
            run.
    """

    name: ClassVar[str] = "freeze"
    by_position: ClassVar[int] = 2
    selector: str = "@input"
    until: str | int | float | None = None

    def __post_init__(self) -> None:
        if Selector.of(self.selector).slices:
            raise BadValueError(
                f"{self!r}: a policy applies to whole tensors; freeze a gate with a rule instead: "
                f'{{"{self.selector}": 0}}'
            )
        if self.until is not None:
            _schedule_of(self, self.until)

    @property
    def moves(self) -> bool:
        """Whether the freezing ends within the run."""
        return self.until is not None

    @property
    def by_role(self) -> bool:
        """Whether the selector is '@input', '@middle' or '@output'."""
        return Selector.of(self.selector).by_role

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return the factors: 0 until `until` for selected parts, else 1."""
        selector = Selector.of(self.selector)
        frozen: Multiplier = 0.0 if self.until is None else _schedule_of(self, self.until)
        chosen = [selector.covers(part, setting.depths) for part in parts]
        if not any(chosen):
            hint = near_misses(selector, parts, setting.depths)
            raise BadValueError(f"{self!r} matches no parameter: {hint}")
        if all(chosen) and self.until is None:
            raise BadValueError(f"{self!r} freezes every parameter: nothing is left to train")
        return [Factor(frozen if is_chosen else 1.0) for is_chosen in chosen]


@dataclass(frozen=True, repr=False)
class Unfreeze(Policy):
    """Gradual unfreezing: the last layer trains from the start, earlier layers start later.

    With L layers, the layer k places before the last starts after k · each, or, with `over`,
    after k / (L − 1) · over.

    Args:
        over: The share of the run after which the first layer starts ('50%').
        each: Instead of `over`, the time from one layer to the next ('1 epochs', 200).

    Source: Howard & Ruder 2018 (ULMFiT), arXiv:1801.06146, section 3.3.
    """

    name: ClassVar[str] = "unfreeze"
    over: str = "50%"
    each: str | int | float | None = None

    def __post_init__(self) -> None:
        if self.each is not None:
            if self.over != "50%":
                raise BadValueError(
                    f"unfreeze(over={self.over!r}, each={self.each!r}): give only one of the two"
                )
            _schedule_of(self, self.each)
        amount, unit = _amount(self, self.over)
        if unit != "%" or not 0 < amount <= 100:
            raise BadValueError(
                f"unfreeze: over={self.over!r} is out of bounds: give a share of the run such as "
                "'50%', at most '100%', or each= in another unit"
            )

    @property
    def moves(self) -> bool:
        """Always True: that is the policy's purpose."""
        return True

    @property
    def by_depth(self) -> bool:
        """Always True: layers are unfrozen from the last to the first."""
        return True

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return the factors: 0 until a layer starts to train, then 1."""
        last = setting.depths - 1
        found = []
        for part in parts:
            turns = last - part.depth
            if turns == 0:
                found.append(Factor())
            elif self.each is None:
                amount, _ = _amount(self, self.over)
                found.append(Factor(_schedule_of(self, f"{amount * turns / last:.6g}%")))
            else:
                amount, unit = _amount(self, self.each)
                wait = f"{amount * turns:g} {unit}" if unit not in ("", "%") else None
                steps = f"{amount * turns:g}%" if unit == "%" else amount * turns
                found.append(Factor(_schedule_of(self, wait or steps)))
        return found


def _schedule_of(policy: Policy, wait: object) -> Multiplier:
    """Return a multiplier that is 0 for a time, then 1."""
    if isinstance(wait, bool) or not isinstance(wait, (int, float, str)):
        raise BadTypeError(f"{policy!r}: {wait!r} is not a length: give steps, '10%' or '2 epochs'")
    return parse(f"constant(0, {wait!r}) >> constant(1)")


def _amount(policy: Policy, length: object) -> tuple[float, str]:
    """Split a length into a number and its unit."""
    if isinstance(length, (int, float)) and not isinstance(length, bool):
        return length, ""
    text = str(length).strip()
    bare = text.removesuffix("%").strip()
    amount, _, unit = (bare, "", "%") if text.endswith("%") else bare.partition(" ")
    try:
        return float(amount), unit.strip()
    except ValueError:
        raise BadValueError(f"{policy!r}: {length!r} is not a length: give '10%' or 200") from None
