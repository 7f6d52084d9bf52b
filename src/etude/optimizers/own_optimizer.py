"""An optimizer of one's own in a recipe: a class, or a function of parameter groups."""

from __future__ import annotations

import hashlib
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from types import CodeType, FunctionType
from typing import Any

from torch.optim import Optimizer

from etude.errors import BadTypeError
from etude.optimizers.hyperparameters import Hyperparameter, Number, Plain
from etude.optimizers.importable import importable
from etude.optimizers.row import OptimizerRow
from etude.optimizers.table import ROWS, keep_own

EXAMPLES = (
    "give a name of etude.optimizers, a subclass of torch.optim.Optimizer, or a function of "
    "parameter groups and the rate, such as lambda groups, lr: torch.optim.SGD(groups, lr=lr)"
)


def own(factory: Callable[..., Any]) -> OptimizerRow:
    """Return the row of an optimizer of your own, and remember it under its name.

    A recipe takes the class or the function itself and calls this. Call it yourself before you read
    a recipe that names your optimizer from a file: a file holds the name, and reading it imports
    and runs nothing.

    A search begins where it does for the nearest class of the table that yours derives from; else
    where it does for AdamW, as many times higher or lower as the default rate of your class is
    than AdamW's 0.001.

    Args:
        factory: A subclass of torch.optim.Optimizer that takes `params` and `lr`; or a function of
            parameter groups and the rate that returns an optimizer. The rates that it gives its
            groups stand in their proportion to that rate over the whole schedule.

    Raises:
        BadTypeError: If it is neither.

    >>> import torch
    >>> class Mine(torch.optim.SGD):
    ...     pass
    >>> own(Mine).family, own(torch.optim.Adam).name
    ('sgd', 'adam')
    """
    if isinstance(factory, type):
        row = _of_class(factory)
    elif callable(factory):
        row = _of_function(factory)
    else:
        raise BadTypeError(f"optimizer={factory!r}: {EXAMPLES}")
    return row if row.name in ROWS else keep_own(row, factory)


def _of_class(kind: type) -> OptimizerRow:
    if not issubclass(kind, Optimizer):
        raise BadTypeError(
            f"optimizer={kind.__qualname__} does not derive from torch.optim.Optimizer: {EXAMPLES}"
        )
    base = _nearest(kind)
    if base is not None and _names(base, kind):
        return base
    given = list(inspect.signature(kind).parameters.values())
    named = {p.name: p for p in given[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if "lr" not in named:
        raise BadTypeError(
            f"optimizer={kind.__qualname__} takes no lr={'' if named else ' and no other argument'}"
            ": let its constructor take (params, lr, ...), or give a function of parameter groups "
            "and the rate"
        )
    needed = [p.name for p in named.values() if p.default is p.empty and p.name != "lr"]
    if needed:
        raise BadTypeError(
            f"optimizer={kind.__qualname__} needs {' and '.join(needed)}: give it a default, or "
            "give a function of parameter groups and the rate that fills it in"
        )
    values = {name: _kind_of(p.default) for name, p in named.items() if name != "lr"}
    return _row(kind, base, values, named["lr"].default)


def _of_function(function: Callable[..., Any]) -> OptimizerRow:
    try:
        inspect.signature(function).bind([], 0.1)
    except (TypeError, ValueError):
        raise BadTypeError(
            f"optimizer={_title(function)} is no function of parameter groups and the rate: "
            f"{EXAMPLES}"
        ) from None
    return _row(function, None, {}, None)


def _row(
    factory: Any, base: OptimizerRow | None, values: dict[str, Hyperparameter], lr: object
) -> OptimizerRow:
    usual = ROWS["adamw"]
    known = isinstance(lr, (int, float)) and not isinstance(lr, bool) and 0 < lr < math.inf
    rate = float(lr) if known else (base or usual).lr  # type: ignore[arg-type]
    row = base or replace(
        usual,
        centre=usual.centre + math.log10(rate / usual.lr),
        decay="decoupled" if "weight_decay" in values else "none",
        family="",
        sparse="yes",
    )
    return replace(
        row,
        name=f"{factory.__module__}:{_title(factory)}{_mark(factory)}",
        factory=f"{factory.__module__}:{_title(factory)}",
        hyperparameters=values,
        lr=rate,
        paper="your own",
        when="your own",
        stacked="",
        stability="",
        why_no_threshold="it is an optimizer of your own",
        why_no_slices="it is not known to move each entry in proportion to its rate",
        centre_share=row.centre_share if "momentum" in values else None,
        decay_flag=row.decay_flag if row.decay_flag in values else "",
        suits={},
        advised={},
    )


def _nearest(kind: type) -> OptimizerRow | None:
    """Return the row of the nearest class of the table that a class is, or derives from."""
    for base in kind.__mro__:
        found = next((row for row in ROWS.values() if _names(row, base)), None)
        if found is not None:
            return found
    return None


def _names(row: OptimizerRow, kind: type) -> bool:
    """Return whether the factory of a row is a class."""
    module = sys.modules.get(row.module)
    return getattr(module, row.attribute, None) is kind


def _kind_of(default: object) -> Hyperparameter:
    """Return what a hyperparameter may be: a number where its default is one, else anything."""
    if isinstance(default, float) and math.isfinite(default):
        return Number(default, low=-math.inf)
    return Plain(default)


def _title(factory: Any) -> str:
    return str(getattr(factory, "__qualname__", type(factory).__qualname__))


def _mark(factory: Any) -> str:
    """Return a digest of the code of what cannot be imported: names such as '<lambda>' repeat."""
    if importable(factory):
        return ""
    return "#" + hashlib.sha256(repr(_code(factory)).encode()).hexdigest()[:8]


def _code(value: object, above: tuple[int, ...] = ()) -> object:
    """Return what a function or class does, as values with a stable text.

    Args:
        value: The function, the class, or a value that one of them refers to.
        above: What it is part of: the methods of a class refer to the class.
    """
    if id(value) in above:
        return "itself"
    inside = (*above, id(value))

    def code(one: object) -> object:
        return _code(one, inside)

    if isinstance(value, FunctionType):
        held = inspect.getclosurevars(value).nonlocals
        return code(value.__code__), code(value.__defaults__), code(list(held.values()))
    if isinstance(value, CodeType):
        return value.co_code, value.co_names, [code(one) for one in value.co_consts]
    if isinstance(value, type):
        if importable(value):
            return value.__module__, value.__qualname__
        own = [(k, code(v)) for k, v in sorted(vars(value).items()) if isinstance(v, FunctionType)]
        return own, [code(base) for base in value.__bases__]
    if isinstance(value, (tuple, list)):
        return [code(one) for one in value]
    if isinstance(value, (bool, int, float, str, bytes, type(None))):
        return value
    return type(value).__module__, type(value).__qualname__
