"""What a recipe was selected from, and whether the ranking held."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from etude.tuning.recipes.space import plain

HORIZONS = (1 / 8, 1 / 4, 1 / 2)
"""Where recipes are compared, in shares of their run."""

ASTRAY = 0.3
"""A rank correlation below which a ranking has not held."""


@dataclass(frozen=True)
class Tried:
    """One recipe that was tried.

    Attributes:
        values: What it has in place of the base recipe's.
        lr: Its rate.
        scores: What was compared at each horizon that it reached; less is better.
    """

    values: dict[str, Any]
    lr: float
    scores: tuple[float, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        values = {name: plain(value) for name, value in self.values.items()}
        scores = [s if math.isfinite(s) else str(s) for s in self.scores]
        return {"values": values, "lr": self.lr, "scores": scores}


@dataclass(frozen=True)
class Selection:
    """What was selected from.

    Attributes:
        values: Those of the chosen recipe.
        tried: Every recipe that was tried, the best first.
        held: Kendall's rank correlation between the order at the first horizon and that at the
            second, among those that reached both: 1 if the ranking held, 0 if the one says
            nothing of the other; None with fewer than three.
    """

    values: dict[str, Any]
    tried: tuple[Tried, ...]
    held: float | None

    def advice(self) -> str:
        """Return whether the ranking can be trusted; empty where it held."""
        if self.held is None or self.held >= ASTRAY:
            return ""
        return (
            f"The order of the recipes changed between {100 * HORIZONS[0]:g}% and "
            f"{100 * HORIZONS[1]:g}% of their runs (rank correlation {self.held:.2f}): what was "
            "dropped early may have been better. Fewer choices leave more of the budget for each."
        )

    def plain(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {
            "values": {name: plain(value) for name, value in self.values.items()},
            "held": self.held,
            "tried": [one.plain() for one in self.tried],
        }


def from_plain(table: dict[str, Any]) -> Selection:
    """Undo `Selection.plain`."""
    tried = tuple(
        Tried(row["values"], row["lr"], tuple(map(float, row["scores"]))) for row in table["tried"]
    )
    return Selection(table["values"], tried, table["held"])
