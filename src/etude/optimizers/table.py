"""The table of optimizers: one frozen row each. To add an optimizer, add a row here.

A row names its factory as text, so that reading the table loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from etude.errors import BadTypeError, BadValueError, unknown_name


@dataclass(frozen=True)
class Number:
    """A number in [low, high), or [low, high] where `closed`.

    `once` says that the optimizer reads it when it is built: changing it later does nothing.
    """

    default: float
    low: float = 0.0
    high: float = math.inf
    closed: bool = False
    once: bool = False

    def check(self, name: str, value: object) -> float:
        """Return `value` as a float inside the bounds, or raise."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadTypeError(f"{name}={value!r} is not a number: give one {self.bounds}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        inside = self.low <= number and (number <= self.high if self.closed else number < self.high)
        if not inside or not math.isfinite(number):
            raise BadValueError(f"{name}={value!r} is out of bounds: give a number {self.bounds}")
        return number + 0.0  # turns -0.0 into 0.0: equal choices have equal texts

    @property
    def bounds(self) -> str:
        """The bounds in words."""
        if self.high == math.inf:
            return f">= {self.low:g}"
        return f"in [{self.low:g}, {self.high:g}{']' if self.closed else ')'}"


@dataclass(frozen=True)
class Flag:
    """True or false."""

    default: bool = False

    def check(self, name: str, value: object) -> bool:
        """Return `value` if it is a bool, or raise."""
        if not isinstance(value, bool):
            raise BadTypeError(f"{name}={value!r} is not a switch: give true or false")
        return value


@dataclass(frozen=True)
class Pair:
    """Two numbers, each within bounds of its own."""

    first: Number
    second: Number

    @property
    def default(self) -> tuple[float, float]:
        """Both defaults."""
        return (self.first.default, self.second.default)

    def check(self, name: str, value: object) -> tuple[float, float]:
        """Return `value` as two floats inside the bounds, or raise."""
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise BadTypeError(f"{name}={value!r} is not a pair: give two numbers")
        return (
            self.first.check(f"{name}[0]", value[0]),
            self.second.check(f"{name}[1]", value[1]),
        )


Hyperparameter = Number | Flag | Pair


@dataclass(frozen=True)
class OptimizerRow:
    """What is known of one optimizer.

    Attributes:
        name: What a recipe calls it.
        factory: 'module:attribute' of the torch Optimizer class.
        hyperparameters: Those a recipe may set, with bounds; the defaults are the factory's own.
        centre: log10 of the rate around which a search begins; a prior, never a bound.
        paper: Where it comes from.
        when: One line on when to choose it.
    """

    name: str
    factory: str
    hyperparameters: Mapping[str, Hyperparameter]
    centre: float
    paper: str
    when: str

    def check(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the hyperparameters, each checked against its bounds, by name.

        Raises:
            UnknownNameError: If the optimizer has no hyperparameter of a name.
            BadValueError: If a value is out of bounds.
        """
        checked = {}
        for name in sorted(hyperparameters):
            if name not in self.hyperparameters:
                raise unknown_name(f"hyperparameter of {self.name}", name, self.hyperparameters)
            checked[name] = self.hyperparameters[name].check(
                f"{self.name}.{name}", hyperparameters[name]
            )
        return checked

    def value(self, hyperparameters: Mapping[str, Any], name: str) -> Any:
        """Return the value in force: the one given, else the default."""
        return hyperparameters.get(name, self.hyperparameters[name].default)


def _row(
    name: str,
    attribute: str,
    centre: float,
    paper: str,
    when: str,
    **hyperparameters: Hyperparameter,
) -> OptimizerRow:
    factory = f"torch.optim:{attribute}"
    return OptimizerRow(name, factory, MappingProxyType(hyperparameters), centre, paper, when)


def _betas(first: float = 0.9, second: float = 0.999) -> Pair:
    return Pair(Number(first, high=1), Number(second, high=1))


_ADAM = "Kingma & Ba 2015, arXiv:1412.6980"

# The centres of sgd, adam, adamw, rmsprop and adagrad were fitted on 47 small tasks; the others
# stand where their rate has the same meaning (the size of a coordinate's step) as Adam's.
ROWS: Mapping[str, OptimizerRow] = MappingProxyType(
    {
        row.name: row
        for row in (
            _row(
                "sgd",
                "SGD",
                -0.9,
                "Robbins & Monro 1951; momentum: Sutskever et al. 2013",
                "convolutional networks with normalisation, and anything you tune by hand",
                momentum=Number(0.0, high=1),
                dampening=Number(0.0, high=1, closed=True),
                weight_decay=Number(0.0),
                nesterov=Flag(),
            ),
            _row(
                "adam",
                "Adam",
                -1.6,
                _ADAM,
                "a first try on almost anything without weight decay",
                betas=_betas(),
                eps=Number(1e-8),
                weight_decay=Number(0.0),
                amsgrad=Flag(),
            ),
            _row(
                "adamw",
                "AdamW",
                -1.6,
                "Loshchilov & Hutter 2019, arXiv:1711.05101",
                "transformers, and the default for anything new",
                betas=_betas(),
                eps=Number(1e-8),
                weight_decay=Number(1e-2),
                amsgrad=Flag(),
            ),
            _row(
                "rmsprop",
                "RMSprop",
                -1.7,
                "Tieleman & Hinton 2012, lecture 6.5",
                "recurrent networks and reinforcement learning",
                alpha=Number(0.99, high=1),
                eps=Number(1e-8),
                weight_decay=Number(0.0),
                momentum=Number(0.0, high=1),
                centered=Flag(),
            ),
            _row(
                "adagrad",
                "Adagrad",
                -0.6,
                "Duchi et al. 2011",
                "sparse features and convex problems",
                lr_decay=Number(0.0),
                weight_decay=Number(0.0),
                initial_accumulator_value=Number(0.0, once=True),
                eps=Number(1e-10),
            ),
            _row(
                "nadam",
                "NAdam",
                -1.6,
                "Dozat 2016",
                "Adam with a look ahead; recurrent networks",
                betas=_betas(),
                eps=Number(1e-8),
                weight_decay=Number(0.0),
                momentum_decay=Number(4e-3),
                decoupled_weight_decay=Flag(),
            ),
            _row(
                "radam",
                "RAdam",
                -1.6,
                "Liu et al. 2020, arXiv:1908.03265",
                "Adam where no warmup is wanted",
                betas=_betas(),
                eps=Number(1e-8),
                weight_decay=Number(0.0),
                decoupled_weight_decay=Flag(),
            ),
            _row(
                "adamax",
                "Adamax",
                -1.6,
                _ADAM + ", section 7",
                "sparse gradients with rare large entries",
                betas=_betas(),
                eps=Number(1e-8),
                weight_decay=Number(0.0),
            ),
            _row(
                "adadelta",
                "Adadelta",
                0.0,
                "Zeiler 2012, arXiv:1212.5701",
                "old recipes that name it; its rate multiplies a step it chooses itself",
                rho=Number(0.9, high=1, closed=True),
                eps=Number(1e-6),
                weight_decay=Number(0.0),
            ),
        )
    }
)


def get(name: str) -> OptimizerRow:
    """Return the row of an optimizer.

    Raises:
        UnknownNameError: If there is none of that name; the message offers near ones.

    >>> get("adamw").hyperparameters["weight_decay"].default
    0.01
    """
    if name not in ROWS:
        raise unknown_name("optimizer", name, ROWS)
    return ROWS[name]
