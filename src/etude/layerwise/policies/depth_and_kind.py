"""Policies by depth and kind: decay, discriminative, ends, kinds and no_decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from etude.errors import BadTypeError, BadValueError
from etude.layerwise.parts import Part
from etude.layerwise.policies.policy import Factor, Policy, Setting, number
from etude.layerwise.selectors import Selector, near_misses


@dataclass(frozen=True, repr=False)
class Decay(Policy):
    """Layer-wise decay: each layer has `factor` times the rate of the next, the last has rate 1.

    m = factor^(L − 1 − depth) with L layers.

    Args:
        factor: In (0, 1] to slow early layers; above 1 slows late layers.
        layers: Name patterns from input to output, used instead of the model's depths. Every
            parameter must match a pattern; the first match counts.

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
        """Whether the model's depths are used: True unless `layers` is given."""
        return not self.layers

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return the factors: factor^(L − 1 − depth) for each part."""
        depths, count = given_depths(self.layers, parts, setting)
        return [Factor(self.factor ** (count - 1 - depth)) for depth in depths]


@dataclass(frozen=True, repr=False)
class Discriminative(Policy):
    """Discriminative fine-tuning: each layer has the rate of the next divided by `divisor`.

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
        """Whether the model's depths are used: True unless `layers` is given."""
        return not self.layers

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return the factors: divisor^(depth − L + 1) for each part."""
        depths, count = given_depths(self.layers, parts, setting)
        return [Factor(self.divisor ** (depth - count + 1)) for depth in depths]


@dataclass(frozen=True, repr=False)
class Ends(Policy):
    """A small multiplier for the input and output layers, a large one for those between.

    Several heads all count as output; an embedding tied to the head is both input and output.

    Args:
        outer: Multiplier of the layers that read the input or produce the output.
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
        """Always True: the policy depends on input and output."""
        return True

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return the factors: `outer` for input and output layers, else `inner`."""
        middle = Selector.of("@middle")
        inside = [middle.covers(part, setting.depths) for part in parts]
        if not any(inside):
            raise BadValueError(
                f"{self!r}: the model has {setting.depths} layers and none between the first and "
                "the last: give a table that names the layers instead"
            )
        return [Factor(self.inner if is_inner else self.outer) for is_inner in inside]


@dataclass(frozen=True, repr=False)
class Kinds(Policy):
    """A multiplier for each kind of layer, such as convolutions and linear layers.

    Args:
        convolution: Multiplier of the convolutions, weights and biases.
        linear: Multiplier of the linear layers.
        recurrent: Multiplier of the recurrent layers.
        embedding: Multiplier of the embedding tables.
        normalisation: Multiplier of the normalisations.
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
    """No weight decay for biases, normalisations and other parameters of one axis.

    Args:
        embedding: Whether embedding tables have no decay either.

    Source: He et al. 2019 ("Bag of tricks"), arXiv:1812.01187, section 3.1.
    """

    name: ClassVar[str] = "no_decay"
    embedding: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.embedding, bool):
            raise BadTypeError(f"no_decay: embedding={self.embedding!r}: give True or False")

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return the factors: decay 0 for biases, normalisations and vectors, else 1."""
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
    """Return each part's depth and the number of depths, from the patterns if they are given.

    Raises:
        BadValueError: If a part matches no pattern, or a pattern no part.
    """
    if not layers:
        return [part.depth for part in parts], setting.depths
    selectors = [Selector.of(text) for text in layers]
    depths = []
    for part in parts:
        found = [i for i, s in enumerate(selectors) if s.covers(part, setting.depths)]
        if not found:
            raise BadValueError(
                f"{part.name} matches none of layers={list(layers)}: every parameter must match a "
                "pattern; add one for it"
            )
        depths.append(found[0])
    for index, selector in enumerate(selectors):
        if index not in depths:
            raise BadValueError(
                f"layers: {selector.text!r} matches no parameter: "
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
