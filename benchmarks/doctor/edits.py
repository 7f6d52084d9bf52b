"""The changes that faults and healthy variants are made of: functions from a setup to a setup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.doctor.setup import Setup, Tensors

Change = Callable[[Setup], Setup]


def fields(**values: Any) -> Change:
    """Set fields of the setup."""
    return lambda setup: replace(setup, **values)


def rate(factor: float, **values: Any) -> Change:
    """Multiply the rate, and set further fields."""
    return lambda setup: replace(setup, lr=setup.lr * factor, **values)


def network(**options: Any) -> Change:
    """Build the network with other options."""
    return lambda setup: replace(setup, model=partial(setup.model, **options))


def both(*changes: Change) -> Change:
    """Make several changes, one after the other."""

    def change(setup: Setup) -> Setup:
        for one in changes:
            setup = one(setup)
        return setup

    return change


def options(**values: Any) -> Change:
    """Set options of the optimizer."""
    return lambda setup: replace(setup, options={**setup.options, **values})


def optimizer(name: str, lr: float, **values: Any) -> Change:
    """Take another optimizer."""
    return fields(optimizer=name, lr=lr, options=values)


def batches(size: int, *, same_samples: bool = False) -> Change:
    """Take another batch size, for as many updates or for as many samples."""

    def change(setup: Setup) -> Setup:
        found = min(size, len(setup.train[-1]))
        steps = max(setup.steps * setup.batch // found, 1) if same_samples else setup.steps
        return replace(setup, batch=found, steps=steps)

    return change


def touched(setup: Setup, touch: Callable[[nn.Module], None]) -> Setup:
    """Do something to the network after it is built."""
    build = setup.model

    def model() -> nn.Module:
        made = build()
        with torch.no_grad():
            touch(made)
        return made

    return replace(setup, model=model)


def weights(pattern: str, draw: Callable[[Tensor], object]) -> Change:
    """Draw the matrices and kernels whose names match a pattern anew."""

    def touch(model: nn.Module) -> None:
        found = [p for name, p in model.named_parameters() if fnmatch(name, pattern) and p.ndim > 1]
        assert found, pattern
        for parameter in found:
            draw(parameter)

    return lambda setup: touched(setup, touch)


def normal(deviation: float) -> Callable[[Tensor], object]:
    """Draw from a normal distribution."""
    return lambda parameter: nn.init.normal_(parameter, std=deviation)


def times(factor: float) -> Callable[[Tensor], object]:
    """Multiply what was drawn."""
    return lambda parameter: parameter.mul_(factor)


def same(value: float) -> Callable[[Tensor], object]:
    """Give every weight one value."""
    return lambda parameter: nn.init.constant_(parameter, value)


def frozen(*patterns: str) -> Change:
    """Take parameters out of the gradient."""

    def touch(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if any(fnmatch(name, pattern) for pattern in patterns):
                parameter.requires_grad_(False)

    return lambda setup: touched(setup, touch)


def not_given(*patterns: str) -> Change:
    """Keep parameters from the optimizer."""
    return fields(given=lambda name: not any(fnmatch(name, pattern) for pattern in patterns))


def followed_by(layer: Callable[[], nn.Module], name: str, **values: Any) -> Change:
    """Put a layer behind the network's output."""

    def change(setup: Setup) -> Setup:
        build = setup.model

        def model() -> nn.Module:
            made = build()
            made.add_module(name, layer())
            if not isinstance(made, nn.Sequential):
                made.register_forward_hook(lambda module, _, output: getattr(module, name)(output))
            return made

        return replace(setup, model=model, **values)

    return change


Rows = Callable[[Tensors], Tensors]


def data(train: Rows, valid: Rows | None = None) -> Change:
    """Change the training data, and the validation data where a second change is given."""
    return lambda setup: replace(
        setup, train=train(setup.train), valid=valid(setup.valid) if valid else setup.valid
    )


def inputs(change: Callable[[Tensor], Tensor]) -> Change:
    """Change the inputs of both parts."""
    return data(lambda t: (change(t[0]), *t[1:]), lambda t: (change(t[0]), *t[1:]))


def targets(change: Callable[[Tensor], Tensor]) -> Change:
    """Change the targets of both parts."""
    return data(lambda t: (*t[:-1], change(t[-1])), lambda t: (*t[:-1], change(t[-1])))


def training_targets(change: Callable[[Tensor], Tensor]) -> Change:
    """Change the targets of the training part."""
    return data(lambda t: (*t[:-1], change(t[-1])))


def stretched(x: Tensor, largest: float = 1000.0, shift: float = 0.0) -> Tensor:
    """Return inputs in units of their own, from 1 to the largest, column by column."""
    units = torch.logspace(0, torch.tensor(largest).log10().item(), x.shape[-1])
    return x * units[torch.randperm(len(units), generator=torch.Generator().manual_seed(0))] + shift


def mixed(y: Tensor) -> Tensor:
    """Return targets in another order, so that they belong to other inputs."""
    return y[torch.randperm(len(y))]


def mostly_mixed(y: Tensor, share: float = 0.8) -> Tensor:
    """Return targets of which a share was mixed."""
    chosen = torch.rand(len(y)) < share
    found = y.clone()
    found[chosen] = mixed(y[chosen])
    return found


def shifted(y: Tensor) -> Tensor:
    """Return targets that belong to the input before: an error of one row."""
    return y.roll(1, 0)


def all_the_same(y: Tensor) -> Tensor:
    """Return the first target everywhere."""
    return y[:1].expand_as(y).clone()


def with_gaps(x: Tensor, share: float = 0.01) -> Tensor:
    """Return inputs of which some samples have a missing value."""
    found = x.clone()
    rows = torch.rand(len(x)) < share
    rows[0] = True
    found.view(len(x), -1)[rows, 0] = float("nan")
    return found


def with_outliers(t: Tensors, share: float = 0.01, factor: float = 60.0) -> Tensors:
    """Return data of which a few targets are far too large."""
    found = t[-1].clone()
    found[torch.rand(len(found)) < share] *= factor
    return (*t[:-1], found)


def constant_but(x: Tensor, kept: int) -> Tensor:
    """Return inputs of which all columns but the last few are constant."""
    found = x.clone().flatten(1)
    found[:, : found.shape[1] - kept] = 0.5
    return found.view(x.shape)


def repeated_class(t: Tensors, share: float = 0.97) -> Tensors:
    """Return data of which a share are copies of a few samples of one class."""
    y = t[-1].flatten(1)[:, 0] if t[-1].ndim > 1 else t[-1]
    one = torch.where(y == y[0])[0][:5]
    rows = torch.arange(len(y))
    copied = torch.rand(len(y)) < share
    rows[copied] = one[torch.randint(0, len(one), (int(copied.sum()),))]
    return tuple(part[rows] for part in t)


def in_order(t: Tensors) -> Tensors:
    """Return data sorted by the target (of values: the first column)."""
    y = t[-1].flatten(1)[:, 0] if t[-1].ndim > 1 else t[-1]
    rows = y.argsort(stable=True)
    return tuple(part[rows] for part in t)


def first(count: int) -> Change:
    """Keep the first few training samples."""
    return data(lambda t: tuple(part[:count] for part in t))


UNSHUFFLED = both(data(in_order), fields(shuffle=False))
"""Samples sorted by the target, and batches in that order."""
