"""An optimizer and its hyperparameters, as a field of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from etude.errors import BadTypeError, shown
from etude.optimizers.table import get


@dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer's name and the hyperparameters that differ from torch's defaults.

    >>> OptimizerChoice.of({"name": "sgd", "momentum": 0.9})
    OptimizerChoice('sgd', momentum=0.9)
    """

    name: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked = get(self.name).check(self.hyperparameters)
        object.__setattr__(self, "hyperparameters", MappingProxyType(checked))

    @classmethod
    def of(cls, value: object) -> OptimizerChoice:
        """Return the choice given by a name, or by a table of a name and hyperparameters.

        In place of a name stands a torch Optimizer class, or a function of parameter groups and
        the rate; see `etude.optimizers.own`.
        """
        if isinstance(value, OptimizerChoice):
            return value
        table = dict(value) if isinstance(value, Mapping) else {"name": value}
        name = table.pop("name", None)
        if callable(name):
            from etude.optimizers.own_optimizer import (
                own,
            )  # loads torch, which reading a name must not

            name = own(name).name
        if isinstance(name, str):
            return cls(name, table)
        raise BadTypeError(
            f"optimizer={shown(value)}: give a name, or a table such as "
            '{"name": "sgd", "momentum": 0.9}; or a torch Optimizer class, or a function of '
            "parameter groups and the rate"
        )

    def plain(self) -> str | dict[str, Any]:
        """Return the shortest form: only the name if no hyperparameter is set."""
        if not self.hyperparameters:
            return self.name
        values = {
            k: list(v) if isinstance(v, tuple) else v for k, v in self.hyperparameters.items()
        }
        return {"name": self.name, **values}

    def value(self, name: str) -> Any:
        """Return the value of a hyperparameter: the one that is set, or torch's default."""
        return get(self.name).value(self.hyperparameters, name)

    def __repr__(self) -> str:
        values = "".join(f", {k}={v!r}" for k, v in self.hyperparameters.items())
        return f"OptimizerChoice({self.name!r}{values})"

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.hyperparameters.items())))

    def __reduce__(self) -> tuple[Any, ...]:
        return OptimizerChoice, (self.name, dict(self.hyperparameters))
