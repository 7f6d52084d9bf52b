"""Policies by depth and kind: decay, discriminative, ends, kinds; and who is spared the decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from etude.errors import BadTypeError, BadValueError
from etude.layerwise.parts import Part
from etude.layerwise.policy import Factor, Policy, Setting, number
from etude.layerwise.selectors import Selector, near_misses


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

    @property
    def by_depth(self) -> bool:
        """Unless the layers are given."""
        return not self.layers

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

    @property
    def by_depth(self) -> bool:
        """Unless the layers are given."""
        return not self.layers

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return divisor^(depth − L + 1) for each part."""
        depths, count = given_depths(self.layers, parts, setting)
        return [Factor(self.divisor ** (depth - count + 1)) for depth in depths]


@dataclass(frozen=True, repr=False)
class Ends(Policy):
    """Input and output layer small, the layers between them large.

    Several heads are all output; an embedding tied to the head is both ends at once.

    Args:
        outer: Multiplier of the layers that read the input and of those that make the output.
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

    @property
    def by_role(self) -> bool:
        """Always: that is what it goes by."""
        return True

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return `outer` for what reads the input or makes the output, else `inner`."""
        middle = Selector.of("@middle")
        inside = [middle.covers(part, setting.depths) for part in parts]
        if not any(inside):
            raise BadValueError(
                f"{self!r}: the model has {setting.depths} layers and none between the first and "
                "the last: name the layers in a table instead"
            )
        return [Factor(self.inner if one else self.outer) for one in inside]


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
