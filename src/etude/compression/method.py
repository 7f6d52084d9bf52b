"""What is asked for: one way of compressing, with its share or mode."""

from __future__ import annotations

import math
from dataclasses import dataclass

from etude.compression.linear_int8 import Int8Mode, torchao
from etude.compression.masks import Scope
from etude.errors import BadValueError, check_real, member, shown


@dataclass(frozen=True)
class CompressionMethod:
    """One way of compressing; exactly one of the first three is given.

    Attributes:
        prune: The share of single weights to set to zero, in [0, 1).
        structured: The share of channels and units to remove, in [0, 1).
        int8: How weights, and inputs of linear layers, become int8.
        scope: For `prune`, among which weights the smallest are looked for.

    Raises:
        BadValueError: If a share is out of bounds, or not exactly one way is given.
        BadTypeError: If a share is no number.
        MissingExtraError: If int8 is asked for and torchao is not installed.

    >>> str(CompressionMethod(prune=0.8, structured=None, int8=None, scope=Scope.GLOBAL))
    'prune 0.8'
    """

    prune: float | None
    structured: float | None
    int8: Int8Mode | None
    scope: Scope

    @classmethod
    def of(
        cls,
        prune: float | None,
        structured: float | None,
        int8: str | None,
        scope: str | None,
    ) -> CompressionMethod:
        """Check what a user gave."""
        given = {"prune": prune, "structured": structured, "int8": int8}
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            told = "nothing" if not names else " and ".join(names)
            raise BadValueError(
                f"{told} was given: give one of prune (a share, such as 0.8), structured (a "
                "share, such as 0.5) and int8 ('dynamic', 'static' or 'qat')"
            )
        if scope is not None and prune is None:
            raise BadValueError(
                f"scope={shown(scope)} belongs to prune: structured pruning removes the share in "
                "every layer, and int8 takes every layer"
            )
        mode = None if int8 is None else member(Int8Mode, int8, "int8 mode")
        if mode is not None:
            torchao()
        return cls(
            None if prune is None else _share("prune", prune),
            None if structured is None else _share("structured", structured),
            mode,
            member(Scope, Scope.GLOBAL if scope is None else scope, "scope"),
        )

    def __str__(self) -> str:
        if self.prune is not None:
            return f"prune {self.prune:g}" + (
                "" if self.scope == Scope.GLOBAL else " of each layer"
            )
        if self.structured is not None:
            return f"structured {self.structured:g}"
        return f"int8 {self.int8}"

    @property
    def trains(self) -> bool:
        """Whether fine-tuning belongs to it."""
        return self.int8 in (None, Int8Mode.QAT)


def _share(name: str, value: object) -> float:
    share = check_real(name, value, "a share in [0, 1)")
    if not (math.isfinite(share) and 0 <= share < 1):
        raise BadValueError(
            f"{name}={shown(value)} is out of bounds: give a share of at least 0 and below 1, such "
            "as 0.8 for 80%"
        )
    return share
