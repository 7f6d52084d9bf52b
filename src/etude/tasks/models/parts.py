"""The parts that all families of models are built from: activations, normalisations, dropout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from etude.errors import BadValueError, unknown_name
from etude.tasks.checks import share

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "identity": nn.Identity,
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
        "softsign": nn.Softsign,
        "softplus": nn.Softplus,
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "elu": nn.ELU,
        "selu": nn.SELU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "mish": nn.Mish,
    }
)
"""Activations without parameters: name -> factory, each with torch's own constants."""

NORMALISATIONS = ("none", "batch", "layer", "group")
"""The names of the normalisations; not every family supports all of them."""


def activation(name: str) -> nn.Module:
    """Return the activation called `name`.

    Raises:
        UnknownNameError: If the name is unknown.

    >>> activation("relu")
    ReLU()
    """
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def normalisation(name: str, width: int, *, axes: int = 0) -> nn.Module:
    """Return the normalisation called `name` for `width` features.

    batch: over the samples (and pixels) of a batch, per feature (Ioffe and Szegedy 2015).
    layer: over all features (and pixels) of one sample (Ba et al. 2016).
    group: over groups of at least 4 features, at most 8 groups (Wu and He 2018).

    Args:
        name: One of `NORMALISATIONS`.
        width: The number of features, on axis 1.
        axes: The number of axes after axis 1: 0 for (N, width), 2 for images (N, width, H, W).

    Raises:
        UnknownNameError: If the name is unknown.
        BadValueError: If it would normalise a single number, which always gives 0.

    >>> normalisation("group", 16, axes=2).num_groups
    4
    """
    if name not in NORMALISATIONS:
        raise unknown_name("normalisation", name, NORMALISATIONS)
    if name == "none":
        return nn.Identity()
    if name == "batch":
        return nn.BatchNorm2d(width) if axes == 2 else nn.BatchNorm1d(width)
    if width < 2 and axes == 0:
        raise BadValueError(
            f"normalisation={name!r} of width={width} would turn every value into 0: "
            "give width >= 2, or normalisation='none'"
        )
    if name == "group":
        return nn.GroupNorm(_groups(width), width)
    return nn.GroupNorm(1, width) if axes == 2 else nn.LayerNorm(width)


def _groups(width: int) -> int:
    """Return the largest number of groups up to 8 that leaves at least 4 features in each."""
    return max((g for g in (2, 4, 8) if width % g == 0 and width // g >= 4), default=1)


def only(option: str, value: str, allowed: tuple[str, ...], why: str) -> str:
    """Return `value` if a family supports it, else raise an error with the reason and the fix.

    Args:
        option: The option's name.
        value: The option's value.
        allowed: The values that the family supports.
        why: The reason why it does not support others.

    Raises:
        BadValueError: If `value` is not among `allowed`.

    >>> only("normalisation", "layer", ("none", "layer"), "it reads one step at a time")
    'layer'
    """
    if value not in allowed:
        fix = " or ".join(f"{option}={choice!r}" for choice in allowed)
        raise BadValueError(f"{option}={value!r} has no meaning here: {why}; give {fix}")
    return value


def check_source(inputs: int | None, vocabulary: int | None) -> None:
    """Raise unless exactly one of `inputs` and `vocabulary` is given for a sequence model.

    Raises:
        BadValueError: If both or neither are given.

    >>> check_source(8, None)
    """
    if (inputs is None) == (vocabulary is None):
        given = "neither" if inputs is None else "both"
        raise BadValueError(
            f"{given} of inputs= and vocabulary= given: give inputs= for sequences of numbers, "
            "or vocabulary= for sequences of symbols"
        )


def dropout(rate: float) -> nn.Module:
    """Return dropout at `rate`, drawn from torch's global generator; nothing at rate 0.

    Raises:
        BadValueError: If `rate` is outside [0, 1).

    >>> dropout(0.1), dropout(0)
    (Dropout(p=0.1, inplace=False), Identity())
    """
    rate = share("dropout", rate)
    return nn.Dropout(rate) if rate else nn.Identity()
