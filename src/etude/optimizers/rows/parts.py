"""Helpers and texts that several rows share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from etude.optimizers.hyperparameters import Hyperparameter, Number, Pair
from etude.optimizers.row import OptimizerRow, Suits

OWN = "etude.optimizers.classes."


def row(
    name: str,
    factory: str,
    lr: float,
    centre: float,
    paper: str,
    when: str,
    can: Mapping[str, Any],
    suits: Suits,
    **hyperparameters: Hyperparameter,
) -> OptimizerRow:
    """Return a row; a factory without a module is a class of `torch.optim`.

    The factory is text, so that reading the table loads no torch.
    """
    return OptimizerRow(
        name=name,
        factory=factory if ":" in factory else f"torch.optim:{factory}",
        lr=lr,
        centre=centre,
        paper=paper,
        when=when,
        hyperparameters=MappingProxyType(hyperparameters),
        suits=MappingProxyType(dict(suits)),
        **can,
    )


def betas(first: float = 0.9, second: float = 0.999, *, above: bool = False) -> Pair:
    """Return the bounds of a pair of betas."""
    return Pair(Number(first, high=1, above=above), Number(second, high=1))


def share(default: float) -> Number:
    """Return the bounds of a number in [0, 1)."""
    return Number(default, high=1)


REAL: Mapping[str, Any] = {"complex_numbers": False}
ALONE: Mapping[str, Any] = {"rate_free": True, "in_turns": False}

WHOLE = "it preconditions a whole tensor"
TRUST = "its trust ratio is measured over the whole tensor"
AVERAGED = "its weights are an average that is not linear in the rate"
ESTIMATES = "it estimates one rate for all parameters together"
TOGETHER = "it solves for all parameters together, at one rate"

ONE_RATE: Suits = {
    "rare rows": (-1.0, "a rare row gets few gradients, and so changes little"),
    "curvature": (-1.0, "it has one rate for all directions"),
    "attention": (-1.0, "attention's heavy-tailed gradients need a rate per entry"),
    "deep without normalisation": (-1.0, ""),
}
SECOND_ORDER: Suits = {
    "rare rows": ONE_RATE["rare rows"],
    "curvature": (1.0, "it divides by the curvature"),
}
DIRECTIONS = "it rescales whole directions, not single entries"
EXACT = "with one layer and a clear gradient, long steps are exact"
IN_FULL = (-0.5, "its step grows with the gradient unless it is clipped")
IGNORED = (0.2, "its step size does not depend on the gradient's size")
LENGTH = (
    -0.4,
    "a step whose size ignores the gradient's size keeps all of that noise",
)
RECURRENT = (0.4, "recurrent networks are trained with it")
LARGE = (1.0, "designed for it")
SMALL_STATE = (0.5, "its state is small")
