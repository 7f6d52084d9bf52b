"""Which parameter of an estimator is its rate, how many epochs it trains, and how it is paused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

from etude.errors import BadTypeError, BadValueError, as_real

RATES = ("learning_rate_init", "eta0", "lr")
"""Names of the rate, in the order in which they are looked for."""

LENGTHS = ("max_iter", "max_epochs")
"""Names of the number of epochs."""


@dataclass(frozen=True)
class Epochs:
    """How an estimator trains.

    Attributes:
        estimator: The estimator; it is cloned for every run.
        param: The name of its rate.
        rate: The rate that it has.
        length_param: The name of its number of epochs.
        count: The number of epochs of a full fit.
        kind: 'skorch', 'partial_fit', or 'fit' where it cannot be paused.
    """

    estimator: Any
    param: str
    rate: float | None
    length_param: str
    count: int
    kind: str

    @property
    def pausable(self) -> bool:
        """Whether it goes on where it was left."""
        return self.kind != "fit"


def epochs_of(estimator: Any, param: str | None = None) -> Epochs:
    """Return how an estimator trains.

    Args:
        estimator: The estimator.
        param: The name of its rate; None finds it.

    Raises:
        BadValueError: If it has no rate, more than one, or one that it does not use.
    """
    given = estimator.get_params(deep=True)
    found = [name for name in given if name.rpartition("__")[2] in RATES]
    name = type(estimator).__name__
    if param is None:
        direct = [one for one in found if "__" not in one] or found
        if len(direct) != 1:
            told = f"{len(direct)} rates ({', '.join(sorted(direct))})" if direct else "no rate"
            raise BadValueError(
                f"{name} has {told} among its parameters: give param=, the name of the one that is "
                "looked for, as of set_params"
            )
        param = direct[0]
    if param not in given:
        raise BadValueError(
            f"param={param!r} is no parameter of {name}: those that look like a rate are "
            f"{', '.join(sorted(found)) or 'none'}"
        )
    prefix = param.rpartition("__")[0]
    inner = estimator if not prefix else given[prefix]
    _refuse_unused(inner, param)
    before = f"{prefix}__" if prefix else ""
    length = next((one for one in LENGTHS if f"{before}{one}" in given), None)
    if length is None:
        raise BadValueError(
            f"{type(inner).__name__} has no number of epochs ({' or '.join(LENGTHS)}), and rates "
            "are compared over its epochs: tune it by a loop of your own, with etude.tune_loop"
        )
    rate = as_real(given[param])
    return Epochs(
        estimator,
        param,
        rate if rate is not None and rate > 0 else None,
        f"{before}{length}",
        int(given[f"{before}{length}"]),
        _kind(estimator) if not prefix else "fit",
    )


def check_taken(epochs: Epochs, given: Mapping[str, Any]) -> None:
    """Check that an estimator takes some arguments of `fit`, also where it is trained in parts.

    Args:
        epochs: How it trains.
        given: The arguments.

    Raises:
        BadTypeError: If it does not.
    """
    name = type(epochs.estimator).__name__
    if given and epochs.kind == "skorch":
        raise BadTypeError(
            f"{name} hands {', '.join(given)} on to its module, not to its loss: give weights of "
            "samples as part of X, as a mapping, and weigh the loss in get_loss of the net"
        )
    for method in ("fit", *(["partial_fit"] if epochs.pausable else [])):
        taken = signature(getattr(epochs.estimator, method)).parameters
        others = any(one.kind == Parameter.VAR_KEYWORD for one in taken.values())
        for argument in given:
            if argument not in taken and not others:
                raise BadTypeError(
                    f"{argument}= is no argument of {name}.{method}, which takes "
                    f"{', '.join(taken)}: leave it out"
                )


def _refuse_unused(estimator: Any, param: str) -> None:
    """Raise where the rate has no effect, or is set by the estimator itself.

    Raises:
        BadValueError: If so.
    """
    values = estimator.get_params(deep=False)
    name = type(estimator).__name__
    if param.endswith("learning_rate_init") and values.get("solver") == "lbfgs":
        raise BadValueError(f"{name}(solver='lbfgs') has no learning rate: take 'adam' or 'sgd'")
    if param.endswith("eta0") and values.get("learning_rate") == "optimal":
        raise BadValueError(
            f"{name}(learning_rate='optimal') does not use eta0: give learning_rate='constant' or "
            "'invscaling'"
        )


def _kind(estimator: Any) -> str:
    """Return how an estimator goes on where it was left."""
    if is_skorch(estimator):
        return "skorch"
    values = estimator.get_params(deep=False)
    if not hasattr(estimator, "partial_fit") or values.get("early_stopping"):
        return "fit"
    if values.get("class_weight") == "balanced":  # which partial_fit refuses
        return "fit"
    return "fit" if values.get("learning_rate") == "adaptive" else "partial_fit"


def is_skorch(estimator: Any) -> bool:
    """Return whether it is a net of skorch, without loading skorch.

    >>> is_skorch(object())
    False
    """
    return any(
        f"{k.__module__}.{k.__name__}" == "skorch.net.NeuralNet" for k in type(estimator).__mro__
    )
