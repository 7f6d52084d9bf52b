"""A simple probe of a run: gradients, weights, updates and activations of the layers.

It is what the rivals' published rules need, and is not built to be cheap. It reads about sixty
updates of a run, spread evenly, and the first ten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.doctor.case import Case, Outcome
from benchmarks.doctor.setup import Setup

READ = 60
"""Updates of a run that are read, about."""

EPOCHS = 20
"""How often the network is evaluated on training samples."""

RECTIFIERS = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU)
SQUASHERS = (nn.Tanh, nn.Sigmoid)


@dataclass(frozen=True)
class LayerReading:
    """One update of one layer with a weight matrix.

    Attributes:
        gradient: Norm of the weight's gradient; NaN where it has none.
        mean_gradient: Mean of its absolute values.
        zeros: Share of its entries that are 0.
        weight: Norm of the weight.
        variance: Variance of the weight.
        update: Norm of what the update changed.
    """

    gradient: float
    mean_gradient: float
    zeros: float
    weight: float
    variance: float
    update: float


@dataclass(frozen=True)
class UnitReading:
    """One update of one module's output.

    Attributes:
        kind: The module's class.
        positive: Share of outputs above 0.
        dead: Share of units that are above 0 in less than 1% of the samples.
        beyond_five: Share of outputs beyond 5.
        input_beyond: Share of inputs beyond 9.4999.
        variance: Variance of the output.
    """

    kind: str
    positive: float
    dead: float
    beyond_five: float
    input_beyond: float
    variance: float


@dataclass
class Readings:
    """What the probe saw of a run.

    Attributes:
        steps: The updates that were read.
        layers: By name, one reading an update, in the order of the model.
        units: By name, one reading an update, of activations and layers.
        epochs: (update, loss, accuracy or NaN) on training samples in evaluation mode.
        outcome: What the run ended with.
    """

    steps: list[int] = field(default_factory=list)
    layers: dict[str, list[LayerReading]] = field(default_factory=dict)
    units: dict[str, list[UnitReading]] = field(default_factory=dict)
    epochs: list[tuple[int, float, float]] = field(default_factory=list)
    outcome: Outcome | None = None


def readings(case: Case) -> Readings:
    """Run a case under the probe."""
    setup = case.setup()
    probe = Probe(setup)
    found = probe.found
    found.outcome = case.run(probe.watch)
    return found


class Probe:
    """Hooks on a model's modules and on its optimizers."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.found, self.step, self.quiet = setup, Readings(), 0, False
        self.period = max(setup.steps // READ, 1)
        self.epoch = max(setup.steps // EPOCHS, 1)
        self.before: dict[str, Tensor] = {}
        self.seen: dict[str, UnitReading] = {}

    @property
    def reads(self) -> bool:
        """Whether this update is read."""
        return not self.quiet and (self.step < 10 or self.step % self.period == 0)

    @contextmanager
    def watch(self, model: nn.Module, optimizer: Any) -> Iterator[None]:
        """Read a run until the block ends."""
        optimizers = optimizer if isinstance(optimizer, tuple) else (optimizer,)
        weights = {
            name.rpartition(".")[0]: p
            for name, p in model.named_parameters()
            if p.ndim > 1 and "weight" in name
        }
        hooks: list[Any] = [
            module.register_forward_hook(self.on_forward(name))
            for name, module in model.named_modules()
            if not list(module.children()) and not isinstance(module, nn.Dropout | nn.Identity)
        ]
        moved = 0  # optimizers that have done their part of this update, in whatever order

        def before_step(*_: Any) -> None:
            if moved == 0:
                self.on_step(weights)

        def after_step(*_: Any) -> None:
            nonlocal moved
            moved = (moved + 1) % len(optimizers)
            if moved == 0:
                self.after_step(model, weights)

        for one in optimizers:
            hooks.append(one.register_step_pre_hook(before_step))
            hooks.append(one.register_step_post_hook(after_step))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def on_forward(self, name: str) -> Callable[..., None]:
        """Return a hook that reads a module's output."""

        def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            if not self.reads or (not module.training and self.setup.train_mode):
                return
            value = output[0] if isinstance(output, tuple) else output
            if isinstance(value, Tensor) and value.is_floating_point():
                entered = given[0] if given and isinstance(given[0], Tensor) else value
                self.seen[name] = unit_reading(module, entered.detach().float(), value.detach())

        return hook

    def on_step(self, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights before an update."""
        if self.reads:
            self.before = {name: weight.detach().clone() for name, weight in weights.items()}

    def after_step(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Read gradients and updates, and evaluate where an epoch ends."""
        if self.reads:
            self.found.steps.append(self.step)
            for name, weight in weights.items():
                reading = layer_reading(weight, self.before[name])
                self.found.layers.setdefault(name, []).append(reading)
            for name, unit in self.seen.items():
                self.found.units.setdefault(name, []).append(unit)
            self.seen = {}
        if self.step % self.epoch == self.epoch - 1 and self.setup.kind != "points":
            self.found.epochs.append((self.step, *self.evaluated(model)))
        self.step += 1

    @torch.no_grad()
    def evaluated(self, model: nn.Module) -> tuple[float, float]:
        """Return loss and accuracy on the first training samples, in evaluation mode."""
        modes = [(module, module.training) for module in model.modules()]
        self.quiet = True
        model.eval()
        *inputs, target = (part[:200] for part in self.setup.train)
        output = model(*inputs)
        for module, mode in modes:
            module.training = mode
        self.quiet = False
        accuracy = float("nan")
        if self.setup.kind == "classes":
            accuracy = float((output.argmax(-1) == target).float().mean())
        elif self.setup.kind == "binary":
            right = (self.setup.decide(output) > 0).float() == target
            accuracy = float(right.float().mean())
        return float(self.setup.loss(output, target)), accuracy


def layer_reading(parameter: Tensor, before: Tensor) -> LayerReading:
    """Return one layer's numbers after an update."""
    weight, gradient, nothing = parameter.detach(), parameter.grad, float("nan")
    if gradient is not None and gradient.is_sparse:
        gradient = gradient.to_dense()
    return LayerReading(
        gradient=nothing if gradient is None else float(gradient.norm()),
        mean_gradient=nothing if gradient is None else float(gradient.abs().mean()),
        zeros=nothing if gradient is None else float((gradient == 0).float().mean()),
        weight=float(before.norm()),
        variance=float(before.var()),
        update=float((weight - before).norm()),
    )


def unit_reading(module: nn.Module, given: Tensor, output: Tensor) -> UnitReading:
    """Return the numbers of one module's output."""
    output = output.float()
    active = output > 0
    channel = 1 if active.ndim == 4 else active.ndim - 1
    per_unit = active.float().mean([axis for axis in range(active.ndim) if axis != channel])
    return UnitReading(
        kind=type(module).__name__,
        positive=float(active.float().mean()),
        dead=float((per_unit < 0.01).float().mean()),
        beyond_five=float((output.abs() >= 5).float().mean()),
        input_beyond=float((given.abs() > 9.4999).float().mean()),
        variance=float(output.var()),
    )
