"""Which optimizers may have which multipliers, and why not: stated here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from etude.errors import BadValueError

LINEAR = frozenset(
    {
        "sgd", "adam", "adamw", "nadam", "radam", "adamax", "adadelta", "adagrad", "rmsprop",
        "lion", "sparseadam",
    }
)  # fmt: skip
"""Optimizers, by class in lower case, that move each number by rate × something that depends on
neither the rate nor on other numbers of its tensor, so that its rows can have their own rates."""

NO_SLICES: Mapping[str, str] = MappingProxyType(
    {
        "asgd": "its step size is not linear in the rate",
        "rprop": "it uses the rate at its first update only",
        "adafactor": "it clips a tensor's update as a whole and takes steps relative to the tensor",
        "lamb": "its trust ratio is measured over the whole tensor",
        "lars": "its trust ratio is measured over the whole tensor",
        "muon": "it makes a whole matrix orthogonal, which slices at rates of their own would undo",
        "shampoo": "it preconditions a whole tensor",
        "soap": "it preconditions a whole tensor",
    }
)
"""Why rows of a tensor cannot have rates of their own; the whole tensor can."""

NO_RATES: Mapping[str, str] = MappingProxyType(
    {
        "lbfgs": "its line search and its curvature mix all parameters, at one rate",
        "newton": "it solves for all parameters together, at one rate",
        "prodigy": "it estimates one rate for all parameters from how they move together",
        "dadapt": "it estimates one rate for all parameters from how they move together",
    }
)
"""Why an optimizer can have no multipliers at all; matched by the beginning of its class."""


def refuse(classes: tuple[str, ...], *, slices: bool) -> None:
    """Refuse multipliers that an optimizer would get wrong.

    Args:
        classes: The optimizer's class and its bases, in lower case.
        slices: Whether some tensor has slices or a trust ratio, which need an update that is
            linear in the rate, number by number.

    Raises:
        BadValueError: If it would; the message says why and what to do.

    >>> refuse(("adamw", "adam"), slices=True)
    """
    name = classes[0]
    for start, why in NO_RATES.items():
        if any(one.startswith(start) for one in classes):
            raise BadValueError(f"{name} refuses lr_mult: {why}; leave lr_mult out")
    if not slices or name in LINEAR:
        return
    for one in classes:
        if one in NO_SLICES or "schedulefree" in one:
            why = NO_SLICES.get(one, "its weights are an average that is not linear in the rate")
            raise BadValueError(
                f"{name} refuses multipliers of slices and trust ratios: {why}; give the whole "
                "tensor a multiplier, or use an optimizer such as adamw"
            )
    if not any(one in LINEAR for one in classes):
        raise BadValueError(
            f"{name} is not known to have an update that is linear in its rate, which slices and "
            f"trust ratios need; known: {', '.join(sorted(LINEAR))}. If it is, say linear=True"
        )
