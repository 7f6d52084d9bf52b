"""`tune`: the rate of a LightningModule, and the `configure_optimizers` to paste."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from etude import optimizers
from etude.errors import BadValueError
from etude.interop.lightning.module_task import task
from etude.interop.lightning.rate_attribute import attribute_of, rate_in, set_rate
from etude.interop.trainers.own_optimizer import NamedGroups
from etude.schedules import Schedule
from etude.tuning.result import TuneResult
from etude.tuning.tune import tune as tune_task


@dataclass(frozen=True, eq=False)
class ModuleTuning:
    """The rate that was found for a module.

    Attributes:
        result: Everything that the tuning found; `result.model` is the trained module.
        groups: The groups of the optimizer, by the names of their parameters.
        attribute: Where the module keeps its rate; empty if it has no such attribute.
        is_whole: Whether the groups hold every trainable parameter.
    """

    result: TuneResult
    groups: NamedGroups = field(repr=False)
    attribute: str = ""
    is_whole: bool = True

    @property
    def lr(self) -> float:
        """The rate."""
        return self.result.lr

    def code(self) -> str:
        """Return `configure_optimizers` as code to paste into the module."""
        recipe = self.result.recipe
        row = optimizers.get(recipe.optimizer.name)
        values = "".join(f", {k}={v!r}" for k, v in recipe.optimizer.hyperparameters.items())
        home = "torch.optim" if row.module == "torch.optim" else row.module
        lines = [
            "def configure_optimizers(self):",
            f"    import {home}",
            "    from etude.interop.lightning import configure\n",
        ]
        given = "self.parameters()"
        groups = self.groups.groups
        if len(groups) > 1 or _extra(groups[0][1]) or not self.is_whole:
            lines.append("    named = dict(self.named_parameters())")
            lines.append("    groups = [")
            for names, own in groups:
                lines.append(f"        {_group(names, own, recipe.lr)},")
            lines.append("    ]")
            given = "groups"
        lines.append(f"    optimizer = {home}.{row.attribute}({given}, lr={recipe.lr!r}{values})")
        schedules = ", ".join(f"{k}={repr(s)!r}" for k, s in recipe.schedules.items())
        told = f", {schedules}" if schedules else ""
        lines.append(
            f"    return configure(optimizer, self.trainer, scale={repr(recipe.schedule)!r}{told})"
        )
        return "\n".join(lines)

    def __str__(self) -> str:
        return "\n".join(filter(None, [repr(self.result), self.result.advice(), self.code()]))


def _doubled(module: Any, name: str) -> Any:
    """Return a copy of a module that keeps twice its rate."""
    rate = rate_in(module, name)
    if rate is None:
        raise BadValueError(
            f"train=True sets the rate that {type(module).__name__} keeps under {name!r}, which is "
            "no number above 0: give it one, from which the proportions of its groups are read"
        )
    twice = copy.deepcopy(module)
    set_rate(twice, name, 2 * rate)
    return twice


def _share(module: Any, name: str, lr: float, doubled: float) -> float:
    """Return the rate that a module keeps over that of its recipe.

    Args:
        module: The module.
        name: Where it keeps its rate.
        lr: The rate of its recipe.
        doubled: That of a copy that keeps twice its rate.

    Raises:
        BadValueError: If the recipe's rate does not follow the module's.
    """
    rate = rate_in(module, name)
    assert rate is not None
    if not math.isclose(doubled, 2 * lr):
        raise BadValueError(
            f"train=True, but {name}={rate:g} of {type(module).__name__} does not set the rate "
            f"{lr:g} that configure_optimizers gives: use self.{name} there, or call tune without "
            "train=True and paste what code() returns"
        )
    return 1.0 if rate == lr else rate / lr


def _extra(own: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in own.items() if not (k == "lr_mult" and v == 1.0)}


def _group(names: tuple[str, ...], own: Mapping[str, Any], lr: float) -> str:
    listed = ", ".join(map(repr, names))
    extra = {k: v for k, v in own.items() if k != "lr_mult"}
    if own.get("lr_mult", 1.0) != 1.0:
        extra["lr"] = lr * own["lr_mult"]
    told = "".join(f", {k!r}: {v!r}" for k, v in extra.items())
    return f"{{'params': [named[n] for n in ({listed},)]{told}}}"


def tune(
    module: Any,
    data: Any = None,
    valid: Any = None,
    budget: float = 3.0,
    *,
    trainer: Any = None,
    train: bool = False,
    steps: int | str | None = None,
    metric: str | None = None,
    schedule: Schedule | str | None = None,
    **options: Any,
) -> ModuleTuning:
    """Look for the learning rate of a module, and say what to paste into it.

        from etude.interop.lightning import tune
        print(tune(module, datamodule, trainer=trainer).code())

    Module, data and Trainer stay as they are, unless `train=True` asks to train the module.

    Args:
        module: The module.
        data: As in `task`.
        valid: As in `task`.
        budget: In full training runs, the finished model included.
        trainer: As in `task`.
        train: Whether to set the rate in the module (its `lr` or `learning_rate`), and then to call
            `trainer.fit`. Where a group, or the peak of a schedule, has a multiple of it, the
            module's rate is what gives that group the rate that was found.
        steps: As in `task`.
        metric: As in `task`.
        schedule: A schedule in place of the module's own.
        options: Of `etude.tune`, such as `folder=`, `engine=` or `objective='metric'`.

    Raises:
        BadValueError: If `train=True` without a Trainer, with `schedule=`, or where the module
            keeps its rate elsewhere, or `configure_optimizers` does not use it; or as `task` and
            `etude.tune` raise it.
    """
    if train and (trainer is None or schedule is not None or steps is not None):
        raise BadValueError(
            "train=True calls trainer.fit with the module's own scheduler and the Trainer's own "
            "length: give trainer=, and neither schedule= nor steps="
        )
    name = attribute_of(module) if train else ""
    found, recipe = task(
        module, data, valid, trainer=trainer, steps=steps, metric=metric, schedule=schedule
    )
    share = 1.0
    if train:
        twice = _doubled(module, name)
        other = task(twice, data, valid, trainer=trainer, metric=metric).recipe
        share = _share(module, name, recipe.lr, other.lr)
    result = tune_task(found, recipe, budget, **options)
    assert isinstance(found.param_groups, NamedGroups)
    if train:
        set_rate(module, name, result.lr * share)
        library_data = {"datamodule": data} if hasattr(data, "setup") else None
        if library_data is not None:
            trainer.fit(module, **library_data)
        else:
            trainer.fit(module, data, valid)
    assert isinstance(found.model, nn.Module)
    trained = {n for names, _ in found.param_groups.groups for n in names}
    wanted = {n for n, p in found.model.named_parameters() if p.requires_grad}
    return ModuleTuning(result, found.param_groups, name, wanted <= trained)
