"""The base class of policies: named, pure functions from the parts of a model to factors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from etude.errors import BadTypeError, BadValueError
from etude.layerwise.multipliers import Multiplier, checked
from etude.layerwise.parts import Part


@dataclass(frozen=True)
class Factor:
    """The factors of a policy for one parameter.

    Attributes:
        rate: Multiplier of the learning rate.
        decay: Multiplier of the weight decay.
    """

    rate: Multiplier = 1.0
    decay: float = 1.0


@dataclass(frozen=True)
class Setting:
    """What a policy can read besides the parts.

    Attributes:
        depths: The number of layers of the model.
        optimizer: The optimizer's name, or its class in lower case.
    """

    depths: int
    optimizer: str


@dataclass(frozen=True)
class Named:
    """A frozen value with a name and numbers; `repr` is its text form, such as 'decay(0.8)'."""

    name: ClassVar[str]
    by_position: ClassVar[int] = 1

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


@dataclass(frozen=True, repr=False)
class Policy(Named, ABC):
    """A named policy of the rate's multipliers."""

    @property
    def moves(self) -> bool:
        """Whether a multiplier of the policy follows a schedule."""
        return False

    @property
    def by_role(self) -> bool:
        """Whether the policy depends on which layers read the input and produce the output."""
        return False

    @property
    def by_depth(self) -> bool:
        """Whether the policy depends on the order in which the layers are used."""
        return self.by_role

    @abstractmethod
    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return one factor for each part."""


def number(
    policy: str, name: str, value: object, *, low: float = 0.0, open_low: bool = False
) -> float:
    """Return a policy's number as a float >= low, or > low.

    Raises:
        BadTypeError: If it is not a number.
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
