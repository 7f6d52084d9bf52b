"""The optimizers' formulas on stacked weights: one row per member, one column per weight.

Each formula is that of torch (Lion: of pytorch_optimizer), split in two: the part that depends
only on the step is computed beforehand in double precision (`columns`), the rest is arithmetic on
tensors (`update`). Symbols: w weights, g gradient, c the columns, lr and wd the rate and the weight
decay of every weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from etude.engines.vmap.values import Numbers, Values
from etude.optimizers.choice import OptimizerChoice
from etude.optimizers.table import get

Moments = tuple[Tensor, ...]
Columns = Mapping[str, Tensor]
Flags = Mapping[str, bool]
Update = Callable[[Tensor, Tensor, Moments, Columns, Tensor, Tensor, Flags], tuple[Tensor, Moments]]


@dataclass(frozen=True)
class StackedOptimizer:
    """The formula of one optimizer.

    Attributes:
        columns: Computes the scalars of each update, from a run's values and the carried scalars.
        names: The names of the columns, in order.
        update: (w, g, moments, c, lr, wd, flags) -> (w, moments).
        moments: Returns the names of the state tensors, as in torch, for given flags.
        flags: Returns the options that change the formula, by name.
        step: Where torch counts the updates: with each parameter's moments, in the parameter
            group, or nowhere.
        begins: For a moment that does not start at 0, the hyperparameter with its start value.
        scalars: Carried scalars that torch stores with each parameter's moments.
        late: A moment that torch creates only when it is needed; the carried scalar 'begun' says
            whether it exists.
    """

    columns: Callable[[Values, dict[str, float]], dict[str, Numbers]]
    names: tuple[str, ...]
    update: Update
    moments: Callable[[Flags], tuple[str, ...]]
    flags: Callable[[OptimizerChoice, frozenset[str]], dict[str, bool]]
    step: Literal["parameter", "group", ""] = "parameter"
    begins: Mapping[str, str] = field(default_factory=dict)
    scalars: tuple[str, ...] = ()
    late: str = ""


def _switches(*names: str) -> Callable[[OptimizerChoice, frozenset[str]], dict[str, bool]]:
    def flags(choice: OptimizerChoice, scheduled: frozenset[str]) -> dict[str, bool]:
        found = {name: bool(choice.value(name)) for name in names if name != "momentum"}
        if "momentum" in names:
            found["momentum"] = "momentum" in scheduled or choice.value("momentum") > 0
        return found

    return flags


def _coupled(g: Tensor, w: Tensor, wd: Tensor) -> Tensor:
    return g + wd * w


# SGD: buffer ← a·buffer + b·g; the step is p·g + q·buffer. The four scalars encode whether there
# is momentum, whether the buffer exists, and whether the momentum is Nesterov's.


def _sgd_columns(values: Values, carried: dict[str, float]) -> dict[str, Numbers]:
    momentum, dampening = values("momentum"), values("dampening")
    moving = momentum != 0
    begun = np.maximum.accumulate(np.concatenate([[carried.get("begun", 0.0)], moving]))
    old = moving & (begun[:-1] > 0)
    first = moving & ~old
    carried["begun"] = float(begun[-1])
    nesterov = bool(values.run.recipe.optimizer.value("nesterov"))
    return {
        "a": np.where(old, momentum, np.where(first, 0.0, 1.0)),
        "b": np.where(old, 1 - dampening, np.where(first, 1.0, 0.0)),
        "p": np.where(moving & (not nesterov), 0.0, 1.0),
        "q": np.where(moving, momentum if nesterov else 1.0, 0.0),
    }


def _sgd(
    w: Tensor, g: Tensor, moments: Moments, c: Columns, lr: Tensor, wd: Tensor, flags: Flags
) -> tuple[Tensor, Moments]:
    g = _coupled(g, w, wd)
    if not flags["momentum"]:
        return w - lr * g, ()
    buffer = c["a"] * moments[0] + c["b"] * g
    return w - lr * (c["p"] * g + c["q"] * buffer), (buffer,)


def _adagrad_columns(values: Values, carried: dict[str, float]) -> dict[str, Numbers]:
    return {"slow": 1 / (1 + (values.number - 1) * values("lr_decay")), "eps": values("eps")}


def _adagrad(
    w: Tensor, g: Tensor, moments: Moments, c: Columns, lr: Tensor, wd: Tensor, flags: Flags
) -> tuple[Tensor, Moments]:
    g = _coupled(g, w, wd)
    total = moments[0] + g * g
    return w - lr * c["slow"] * (g / (total.sqrt() + c["eps"])), (total,)


def _rmsprop_columns(values: Values, carried: dict[str, float]) -> dict[str, Numbers]:
    return {name: values(name) for name in ("alpha", "eps", "momentum")}


def _rmsprop(
    w: Tensor, g: Tensor, moments: Moments, c: Columns, lr: Tensor, wd: Tensor, flags: Flags
) -> tuple[Tensor, Moments]:
    g = _coupled(g, w, wd)
    named = dict(zip(_rmsprop_moments(flags), moments, strict=True))
    square = c["alpha"] * named["square_avg"] + (1 - c["alpha"]) * (g * g)
    new = [square]
    scale = square
    if flags["centered"]:
        mean = torch.lerp(named["grad_avg"], g, 1 - c["alpha"])
        new.append(mean)
        scale = square - mean * mean
    along = g / (scale.sqrt() + c["eps"])
    if flags["momentum"]:
        along = c["momentum"] * named["momentum_buffer"] + along
        new.append(along)
    return w - lr * along, tuple(new)


def _rmsprop_moments(flags: Flags) -> tuple[str, ...]:
    return (
        "square_avg",
        *(("grad_avg",) if flags["centered"] else ()),
        *(("momentum_buffer",) if flags["momentum"] else ()),
    )


def _adam_columns(values: Values, carried: dict[str, float]) -> dict[str, Numbers]:
    beta1, beta2 = values.betas()
    return {
        "beta1": beta1,
        "beta2": beta2,
        "length": 1 / (1 - beta1**values.number),
        "root": np.sqrt(1 - beta2**values.number),
        "eps": values("eps"),
    }


def _moments(m: Tensor, v: Tensor, g: Tensor, c: Columns) -> tuple[Tensor, Tensor]:
    # Each is written as in torch: `lerp` rounds differently from a sum of two products.
    m = torch.lerp(m, g, 1 - c["beta1"])
    return m, c["beta2"] * v + (1 - c["beta2"]) * (g * g)


def _adam(decoupled: bool) -> Update:
    def update(
        w: Tensor, g: Tensor, moments: Moments, c: Columns, lr: Tensor, wd: Tensor, flags: Flags
    ) -> tuple[Tensor, Moments]:
        if decoupled:
            w = w * (1 - lr * wd)
        else:
            g = _coupled(g, w, wd)
        m, v = _moments(moments[0], moments[1], g, c)
        new: Moments = (m, v)
        if flags["amsgrad"]:
            v = torch.maximum(moments[2], v)
            new = (*new, v)
        return w - lr * c["length"] * (m / (v.sqrt() / c["root"] + c["eps"])), new

    return update


def _nadam_columns(values: Values, carried: dict[str, float]) -> dict[str, Numbers]:
    beta1, beta2 = values.betas()
    decay, number = values("momentum_decay"), values.number
    mu = beta1 * (1 - 0.5 * 0.96 ** (number * decay))
    after = beta1 * (1 - 0.5 * 0.96 ** ((number + 1) * decay))
    product = np.empty_like(mu)
    # torch keeps the product in single precision.
    last = np.float32(carried.get("mu_product", 1.0))
    for i, factor in enumerate(mu):
        last = np.float32(last * np.float32(factor))
        product[i] = last
    carried["mu_product"] = float(last)
    return {
        "beta1": beta1,
        "beta2": beta2,
        "root": np.sqrt(1 - beta2**number),
        "eps": values("eps"),
        "now": (1 - mu) / (1 - product),
        "ahead": after / (1 - product * after),
    }


def _nadam(
    w: Tensor, g: Tensor, moments: Moments, c: Columns, lr: Tensor, wd: Tensor, flags: Flags
) -> tuple[Tensor, Moments]:
    if flags["decoupled_weight_decay"]:
        w = w * (1 - lr * wd)
    else:
        g = _coupled(g, w, wd)
    m, v = _moments(moments[0], moments[1], g, c)
    scale = v.sqrt() / c["root"] + c["eps"]
    return w - lr * ((c["now"] * g + c["ahead"] * m) / scale), (m, v)


def _lion_columns(values: Values, carried: dict[str, float]) -> dict[str, Numbers]:
    beta1, beta2 = values.betas()
    return {"beta1": beta1, "beta2": beta2}


def _lion(
    w: Tensor, g: Tensor, moments: Moments, c: Columns, lr: Tensor, wd: Tensor, flags: Flags
) -> tuple[Tensor, Moments]:
    along = torch.sign(torch.lerp(moments[0], g, 1 - c["beta1"]))
    return w * (1 - lr * wd) - lr * along, (torch.lerp(moments[0], g, 1 - c["beta2"]),)


def _adam_moments(flags: Flags) -> tuple[str, ...]:
    names = ("exp_avg", "exp_avg_sq")
    return (*names, "max_exp_avg_sq") if flags["amsgrad"] else names


_ADAM_NAMES = ("beta1", "beta2", "length", "root", "eps")

RULES: Mapping[str, StackedOptimizer] = MappingProxyType(
    {
        "sgd": StackedOptimizer(
            _sgd_columns,
            ("a", "b", "p", "q"),
            _sgd,
            lambda flags: ("momentum_buffer",) if flags["momentum"] else (),
            _switches("momentum"),
            step="",
            late="momentum_buffer",
        ),
        "adagrad": StackedOptimizer(
            _adagrad_columns,
            ("slow", "eps"),
            _adagrad,
            lambda flags: ("sum",),
            _switches(),
            begins={"sum": "initial_accumulator_value"},
        ),
        "rmsprop": StackedOptimizer(
            _rmsprop_columns,
            ("alpha", "eps", "momentum"),
            _rmsprop,
            _rmsprop_moments,
            _switches("momentum", "centered"),
        ),
        "adam": StackedOptimizer(
            _adam_columns, _ADAM_NAMES, _adam(False), _adam_moments, _switches("amsgrad")
        ),
        "adamw": StackedOptimizer(
            _adam_columns, _ADAM_NAMES, _adam(True), _adam_moments, _switches("amsgrad")
        ),
        "nadam": StackedOptimizer(
            _nadam_columns,
            ("beta1", "beta2", "root", "eps", "now", "ahead"),
            _nadam,
            lambda flags: ("exp_avg", "exp_avg_sq"),
            _switches("decoupled_weight_decay"),
            scalars=("mu_product",),
        ),
        "lion": StackedOptimizer(
            _lion_columns,
            ("beta1", "beta2"),
            _lion,
            lambda flags: ("exp_avg",),
            _switches(),
            step="group",
        ),
    }
)
"""The formulas, by the name that an optimizer's row gives as `stacked`."""


def flags_of(choice: OptimizerChoice, others: Mapping[str, Any]) -> dict[str, bool]:
    """Return the options of an optimizer's formula for a run."""
    return RULES[get(choice.name).stacked].flags(choice, frozenset(others))
