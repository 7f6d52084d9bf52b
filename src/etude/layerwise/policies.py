"""Named policies: rules for a whole model in one word, each a pure function of its parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from etude.errors import BadTypeError, BadValueError
from etude.layerwise.multipliers import Multiplier, checked
from etude.layerwise.parts import Part
from etude.layerwise.selectors import Selector, near_misses
from etude.schedules import parse


@dataclass(frozen=True)
class Factor:
    """What a policy does to one parameter.

    Attributes:
        rate: What its rate is multiplied by.
        decay: What its weight decay is multiplied by.
    """

    rate: Multiplier = 1.0
    decay: float = 1.0


@dataclass(frozen=True)
class Setting:
    """What a policy may ask besides the parts.

    Attributes:
        depths: How many layers the model has.
        optimizer: The optimizer's name, or its class in lower case.
    """

    depths: int
    optimizer: str


@dataclass(frozen=True)
class Policy(ABC):
    """A named policy; `repr` is its text form."""

    name: ClassVar[str]
    by_position: ClassVar[int] = 1

    @property
    def moves(self) -> bool:
        """Whether its multipliers follow a schedule."""
        return False

    @abstractmethod
    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return one factor for each part."""

    def __repr__(self) -> str:
        shown: list[str] = []
        for index, field in enumerate(fields(self)):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            at_place = index < self.by_position and len(shown) == index
            shown.append(repr(value) if at_place else f"{field.name}={value!r}")
        return f"{self.name}({', '.join(shown)})"

    def put(self, **values: Any) -> None:
        """Set fields during construction."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def number(
    policy: str, name: str, value: object, *, low: float = 0.0, open_low: bool = False
) -> float:
    """Return a policy's number as a float >= low, or > low.

    Raises:
        BadTypeError: If it is no number.
        BadValueError: If it is out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadTypeError(f"{policy}: {name}={value!r} is not a number")
    result = checked(f"{policy}: {name}", float(value))
    if result < low or (open_low and result == low):
        sign = ">" if open_low else ">="
        raise BadValueError(
            f"{policy}: {name}={value!r} is out of bounds: give a number {sign} {low:g}"
        )
    return result


@dataclass(frozen=True, repr=False)
class Decay(Policy):
    """Layer-wise decay: the last layer keeps the rate, each one before has `factor` of the next.

    m = factor^(L − 1 − depth) with L layers.

    Args:
        factor: In (0, 1] to slow the early layers; above 1 slows the late ones.
        layers: Name patterns from input to output, in place of the depths found in the module
            tree; every parameter must match one, the first that does counts.

    Source: Clark et al. 2020 (ELECTRA), arXiv:2003.10555, section 3.1; Bao et al. 2021 (BEiT).
    """

    name: ClassVar[str] = "decay"
    factor: float = 0.75
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.put(
            factor=number("decay", "factor", self.factor, open_low=True),
            layers=_texts("decay", "layers", self.layers),
        )

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return factor^(L − 1 − depth) for each part."""
        depths, count = given_depths(self.layers, parts, setting)
        return [Factor(self.factor ** (count - 1 - depth)) for depth in depths]


@dataclass(frozen=True, repr=False)
class Discriminative(Policy):
    """Discriminative fine-tuning: each layer has the rate of the next one divided by 2.6.

    m = divisor^(depth − L + 1) with L layers.

    Args:
        divisor: At least 1.
        layers: As in `decay`.

    Source: Howard & Ruder 2018 (ULMFiT), arXiv:1801.06146, section 3.2.
    """

    name: ClassVar[str] = "discriminative"
    divisor: float = 2.6
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.put(
            divisor=number("discriminative", "divisor", self.divisor, low=1.0),
            layers=_texts("discriminative", "layers", self.layers),
        )

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return divisor^(depth − L + 1) for each part."""
        depths, count = given_depths(self.layers, parts, setting)
        return [Factor(self.divisor ** (depth - count + 1)) for depth in depths]


@dataclass(frozen=True, repr=False)
class Ends(Policy):
    """Input and output layer small, the layers between them large.

    Args:
        outer: Multiplier of the first and the last layer.
        inner: Multiplier of the layers between.
    """

    name: ClassVar[str] = "ends"
    by_position: ClassVar[int] = 2
    outer: float = 0.5
    inner: float = 1.0

    def __post_init__(self) -> None:
        self.put(
            outer=number("ends", "outer", self.outer), inner=number("ends", "inner", self.inner)
        )

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return `outer` for depth 0 and L − 1, else `inner`."""
        if setting.depths < 3:
            raise BadValueError(
                f"{self!r}: the model has {setting.depths} layers and none between the first and "
                "the last: name the layers in a table instead"
            )
        last = setting.depths - 1
        return [Factor(self.outer if p.depth in (0, last) else self.inner) for p in parts]


@dataclass(frozen=True, repr=False)
class Kinds(Policy):
    """A multiplier for each kind of layer: convolutions against full layers, and so on.

    Args:
        convolution: Multiplier of the convolutions, weights and biases.
        linear: Of the full layers.
        recurrent: Of the recurrent layers.
        embedding: Of the embedding tables.
        normalisation: Of the normalisations.
    """

    name: ClassVar[str] = "kinds"
    by_position: ClassVar[int] = 0
    convolution: float = 1.0
    linear: float = 1.0
    recurrent: float = 1.0
    embedding: float = 1.0
    normalisation: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = number("kinds", field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return the multiplier of each part's kind."""
        for field in fields(self):
            given = getattr(self, field.name) != field.default
            if given and not any(part.kind == field.name for part in parts):
                have = ", ".join(sorted({part.kind for part in parts}))
                raise BadValueError(f"{self!r}: the model has no {field.name} layer; it has {have}")
        return [Factor(getattr(self, part.kind, 1.0)) for part in parts]


@dataclass(frozen=True, repr=False)
class Freeze(Policy):
    """Some layers keep their weights, for a while or for the whole run.

    Multiplier 0 until `until`, then 1. The optimizer's averages go on while a layer is frozen, so
    that it starts warm; its gradients are still computed.

    Args:
        selector: What to freeze, such as 'embedding*', '@convolution', 'layers.0'.
        until: A length in steps or with a unit ('10%', '2 epochs'); None freezes for good.
    """

    name: ClassVar[str] = "freeze"
    by_position: ClassVar[int] = 2
    selector: str = "@input"
    until: str | int | float | None = None

    def __post_init__(self) -> None:
        if Selector.of(self.selector).slices:
            raise BadValueError(
                f"{self!r}: a policy is about whole tensors; freeze a gate with a rule of its own: "
                f'{{"{self.selector}": 0}}'
            )
        if self.until is not None:
            _schedule_of(self, self.until)

    @property
    def moves(self) -> bool:
        """Whether it ends within the run."""
        return self.until is not None

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return 0 until `until` for what is selected, else 1."""
        selector = Selector.of(self.selector)
        frozen: Multiplier = 0.0 if self.until is None else _schedule_of(self, self.until)
        chosen = [selector.covers(part, setting.depths) for part in parts]
        if not any(chosen):
            hint = near_misses(selector, parts, setting.depths)
            raise BadValueError(f"{self!r} matches no parameter: {hint}")
        if all(chosen) and self.until is None:
            raise BadValueError(f"{self!r} freezes every parameter: nothing is left to train")
        return [Factor(frozen if one else 1.0) for one in chosen]


@dataclass(frozen=True, repr=False)
class Unfreeze(Policy):
    """Gradual unfreezing: the last layer trains from the start, each earlier one joins later.

    With L layers, the layer k places before the last joins after k · each, or, with `over`,
    after k / (L − 1) · over.

    Args:
        over: When the first layer joins, as a share of the run ('50%').
        each: In place of `over`, the time from one layer to the next ('1 epochs', 200).

    Source: Howard & Ruder 2018 (ULMFiT), arXiv:1801.06146, section 3.3.
    """

    name: ClassVar[str] = "unfreeze"
    over: str = "50%"
    each: str | int | float | None = None

    def __post_init__(self) -> None:
        if self.each is not None:
            if self.over != "50%":
                raise BadValueError(f"unfreeze(over={self.over!r}, each={self.each!r}): give one")
            _schedule_of(self, self.each)
        amount, unit = _amount(self, self.over)
        if unit != "%" or not 0 < amount <= 100:
            raise BadValueError(
                f"unfreeze: over={self.over!r} is out of bounds: give a share of the run such as "
                "'50%', at most '100%', or each= in another unit"
            )

    @property
    def moves(self) -> bool:
        """Always: that is its purpose."""
        return True

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return 0 until a layer's turn comes, then 1."""
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


@dataclass(frozen=True, repr=False)
class NoDecay(Policy):
    """No weight decay for biases and normalisations, nor for anything else of one axis.

    Args:
        embedding: Whether embedding tables are spared too.

    Source: He et al. 2019 ("Bag of tricks"), arXiv:1812.01187, section 3.1.
    """

    name: ClassVar[str] = "no_decay"
    embedding: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.embedding, bool):
            raise BadTypeError(f"no_decay: embedding={self.embedding!r}: give True or False")

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return decay 0 for biases, normalisations and vectors, else 1."""
        return [
            Factor(
                decay=0.0
                if part.bias
                or len(part.shape) < 2
                or part.kind == "normalisation"
                or (self.embedding and part.kind == "embedding")
                else 1.0
            )
            for part in parts
        ]


@dataclass(frozen=True, repr=False)
class Trust(Policy):
    """A trust ratio on each tensor's update: LAMB around AdamW, LARS-like around SGD.

    With w the tensor, Δ the optimizer's own update at rate lr and u = −Δ / lr:
    r = coefficient · min(max(‖w‖, low), high) / ‖u‖, and Δ becomes r · Δ. Biases, normalisations
    and anything else of one axis keep Δ, and so does a tensor where ‖w‖ or ‖u‖ is 0.

    Args:
        coefficient: 1 for LAMB, about 0.001 for LARS.
        low: Least norm of w that counts.
        high: Largest norm of w that counts, None for no bound.

    Source: You et al. 2020 (LAMB), arXiv:1904.00962, algorithm 2; You et al. 2017 (LARS).
    """

    name: ClassVar[str] = "trust"
    coefficient: float = 1.0
    low: float = 0.0
    high: float | None = None

    def __post_init__(self) -> None:
        self.put(
            coefficient=number("trust", "coefficient", self.coefficient, open_low=True),
            low=number("trust", "low", self.low),
        )
        if self.high is not None:
            high = number("trust", "high", self.high, low=self.low, open_low=True)
            self.put(high=high)

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return 1 for each part: the ratio is measured at every update instead."""
        return [Factor() for _ in parts]

    def scales(self, part: Part) -> bool:
        """Say whether a part's update is scaled."""
        return len(part.shape) >= 2 and not part.bias and part.kind != "normalisation"


def given_depths(
    layers: tuple[str, ...], parts: Sequence[Part], setting: Setting
) -> tuple[list[int], int]:
    """Return each part's depth and how many there are, by the patterns where they are given.

    Raises:
        BadValueError: If a part matches no pattern, or a pattern no part.
    """
    if not layers:
        return [part.depth for part in parts], setting.depths
    selectors = [Selector.of(text) for text in layers]
    depths = []
    for part in parts:
        found = [i for i, one in enumerate(selectors) if one.covers(part, setting.depths)]
        if not found:
            raise BadValueError(
                f"{part.name} is in none of layers={list(layers)}: every parameter needs a place; "
                "add a pattern for it"
            )
        depths.append(found[0])
    for index, selector in enumerate(selectors):
        if index not in depths:
            raise BadValueError(
                f"layers: {selector.text!r} claims no parameter: "
                f"{near_misses(selector, parts, setting.depths)}"
            )
    return depths, len(layers)


def _texts(policy: str, name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (tuple, list)) or not all(isinstance(v, str) for v in value):
        raise BadTypeError(f"{policy}: {name}={value!r}: give name patterns, from input to output")
    for text in value:
        if Selector.of(text).slices:
            raise BadValueError(f"{policy}: {name}: {text!r} is a slice; a layer is a whole tensor")
    return tuple(value)


def _schedule_of(policy: Policy, wait: object) -> Multiplier:
    """Return 0 for a while, then 1."""
    if isinstance(wait, bool) or not isinstance(wait, (int, float, str)):
        raise BadTypeError(f"{policy!r}: {wait!r} is no length: give steps, '10%' or '2 epochs'")
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
        raise BadValueError(f"{policy!r}: {length!r} is no length: give '10%' or 200") from None


def mapping_of(policies: Sequence[type[Policy]]) -> Mapping[str, type[Policy]]:
    """Return policies by name."""
    return {policy.name: policy for policy in policies}
