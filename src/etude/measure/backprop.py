"""One step of back-propagation, layer by layer: forward, loss, backward, update."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from etude.engines.loop import LoopEngine
from etude.errors import BadValueError, TaskError
from etude.measure.gradient_chain import ChainRecorder
from etude.model_copy import copy_model
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.record import to_json
from etude.tasks.sources.data import Batch, Cursor, Data, rows
from etude.tasks.task import Task
from etude.training.checks.validation import check_given
from etude.training.evaluation.evaluate import move
from etude.training.run import Run
from etude.warning_filters import filters_kept


class LayerPass(NamedTuple):
    """What one layer does in the step.

    Attributes:
        name: The layer's name; 'input' for what the network reads.
        kind: Its class.
        shape: The shape of its output.
        mean: The mean of its output.
        deviation: The standard deviation of its output.
        gradient: ‖dL/d(output)‖; None if no gradient comes to it.
        factor: ‖dL/d(what it reads)‖ / ‖dL/d(output)‖, where it reads the output of the row above
            that is on the trunk; None in a branch, for the first row, and where the gradient is 0.
        trunk: Whether every path from the input to the output goes through it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    mean: float
    deviation: float
    gradient: float | None
    factor: float | None
    trunk: bool


class ParameterUpdate(NamedTuple):
    """What the step does to one parameter.

    Attributes:
        name: Its name.
        shape: Its shape.
        weight: ‖w‖ before the update.
        gradient: ‖dL/dw‖, before any clipping; None if no gradient came to it.
        update: ‖Δw‖, the change that the optimizer made.
        ratio: ‖Δw‖ / ‖w‖; None if the weights were 0.
    """

    name: str
    shape: tuple[int, ...]
    weight: float
    gradient: float | None
    update: float
    ratio: float | None


@dataclass(frozen=True)
class Backprop:
    """One step of a run: forward, loss, backward, update.

    Attributes:
        task: The task's name.
        recipe: The recipe, with its rate constant.
        step: The number of updates before this one.
        samples: The number of samples in the batch.
        lr: The rate of the update.
        loss: The loss on the batch, before the update.
        loss_after: The loss on the same batch, with the same random numbers, after it.
        predicted: Σ dL/dw · Δw, by which the gradient predicts that the loss changes.
        layers: The layers, in the order of the forward pass.
        parameters: The parameters, in the model's order.
        unchained: Why there are no factors; empty if there are.
    """

    task: str
    recipe: Recipe
    step: int
    samples: int
    lr: float
    loss: float
    loss_after: float
    predicted: float
    layers: tuple[LayerPass, ...]
    parameters: tuple[ParameterUpdate, ...]
    unchained: str = ""

    @property
    def chain(self) -> tuple[LayerPass, ...]:
        """The layers that have a factor."""
        return tuple(layer for layer in self.layers if layer.factor is not None)

    @property
    def product(self) -> float | None:
        """The product of all factors: ‖dL/d(first)‖ / ‖dL/d(last)‖; None without factors."""
        factors = [layer.factor for layer in self.chain if layer.factor is not None]
        return math.prod(factors) if factors else None

    @property
    def ends(self) -> tuple[LayerPass, LayerPass] | None:
        """The first and the last layer of the trunk; None without factors."""
        trunk = [layer for layer in self.layers if layer.trunk]
        return (trunk[0], trunk[-1]) if self.chain else None

    def plain(self) -> dict[str, Any]:
        """Return the step as plain values for JSON."""
        numbers = ("lr", "loss", "loss_after", "predicted")
        return {
            "task": self.task,
            "step": self.step,
            "samples": self.samples,
            **{name: to_json(getattr(self, name)) for name in numbers},
            "product": None if self.product is None else to_json(self.product),
            "layers": [_plain(row._asdict()) for row in self.layers],
            "parameters": [_plain(row._asdict()) for row in self.parameters],
            "unchained": self.unchained,
        }


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: to_json(value) if isinstance(value, float)
        else list(value) if isinstance(value, tuple) else value
        for name, value in row.items()
    }  # fmt: skip


class _Remembering(Data):
    """Passes data through, and remembers the newest training batch.

    Args:
        data: The data.
    """

    def __init__(self, data: Data) -> None:
        self._data = data
        self.samples, self.draws = data.samples, data.draws
        self.newest: Batch = None

    def steps_per_epoch(self, batch_size: int) -> int | None:
        return self._data.steps_per_epoch(batch_size)

    def check(self, batch_size: int | None) -> int:
        return self._data.check(batch_size)

    def stream(self, batch_size: int, seed: int, cursor: Cursor) -> Iterator[Batch]:
        for batch in self._data.stream(batch_size, seed, cursor):
            self.newest = batch
            yield batch

    def sweep(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        return self._data.sweep(batch_size)

    def generators(self) -> list[torch.Generator]:
        return self._data.generators()

    def untouched(self) -> Any:
        return self._data.untouched()

    def targets(self) -> int | None:
        return self._data.targets()


@filters_kept()
def backprop(
    task: Task,
    recipe: Recipe | None = None,
    *,
    after: int = 0,
    device: str | torch.device | None = None,
) -> Backprop:
    """Take one step of a recipe on a copy of the task's network, and return all it computed.

    With h₀ the input, h₁ ... hₙ the outputs of the layers on the trunk, and L the loss:

        forward    hₖ = fₖ(hₖ₋₁),  L = loss(hₙ, target)
        backward   dL/dhₖ₋₁ = (dhₖ/dhₖ₋₁)ᵀ dL/dhₖ
        factor     ‖dL/dhₖ₋₁‖ / ‖dL/dhₖ‖, whose product is ‖dL/dh₀‖ / ‖dL/dhₙ‖
        update     w ← w + Δw, and L changes by about Σ dL/dw · Δw

    A layer is on the trunk if every path from the input to the output goes through its output; what
    is inside a residual branch is listed without a factor. Functions between two layers count to
    the lower one. The rate is the recipe's at its peak: with a warmup the first update would be 0.

    Args:
        task: The task, which is not changed.
        recipe: The recipe; None takes the task's defaults.
        after: The number of updates to do first.
        device: Where to compute; None takes the model's own device, else an accelerator.

    Raises:
        TaskError: If model, data and loss do not fit together, or parts of the model take turns.
        BadValueError: If a value of the recipe does not fit the task.

    >>> from torch.nn.functional import mse_loss
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = Task(nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    >>> step = backprop(task, Recipe(optimizer="sgd", lr=0.1, steps=10, batch_size=16))
    >>> [row.name for row in step.parameters], step.loss_after < step.loss
    (['weight', 'bias'], True)

    Source: Rumelhart, Hinton & Williams 1986.
    """
    check_given(task, recipe)
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise BadValueError(f"after={after!r}: give a whole number of updates, at least 0")
    if task.alternates:
        raise TaskError(
            "parts of the model take turns, each with a loss of its own: there is no one backward "
            "pass to show; give a task with loss=, or a step that returns one loss"
        )
    recipe = (recipe or Recipe(**task.defaults)).replace(schedule="constant()", accumulate=1)
    recipe = recipe.replace(steps=after + 1)
    remembering = _Remembering(task.train)
    watched = copy.copy(task)
    object.__setattr__(watched, "train", remembering)
    run = Run(watched, recipe, device=device)
    run.check()
    return _stepped(run, remembering, after)


def _stepped(run: Run, remembering: _Remembering, after: int) -> Backprop:
    """Return what one step of a run computes."""
    if after:
        LoopEngine().advance([run], after)
        if run.diverged:
            raise TaskError(f"the run diverged before update {after}: {run.reason}")
    model = run.model
    twin = copy_model(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    recorder = ChainRecorder(model, newest=run.recipe.precision == "float16")
    try:
        LoopEngine().advance([run], after + 1)
    finally:
        recorder.close()
    if len(run.series["loss"]) <= after:
        raise TaskError(f"the loss of this step is not finite: {run.reason}")
    if run.recipe.precision == "float16":
        recorder.divide(float(run.series["loss_scale"][after]))
    batch = move(remembering.newest, run.device)
    parameters, predicted = _updates(model, before, recorder.gradients)
    loss_after = _loss_after(run, twin, batch, recorder)
    run.release()
    layers = tuple(LayerPass(*row) for row in recorder.rows())
    return Backprop(
        run.task.name, run.recipe, after, rows(batch), run.series["lr"][after],
        run.series["loss"][after], loss_after, predicted, layers, parameters, recorder.unchained,
    )  # fmt: skip


def _updates(
    model: nn.Module, before: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> tuple[tuple[ParameterUpdate, ...], float]:
    """Return what happened to each parameter, and the change of the loss that it predicts."""
    found, predicted = [], 0.0
    for name, parameter in model.named_parameters():
        change = parameter.detach().double() - before[name].double()
        gradient = gradients.get(name)
        if gradient is not None:
            predicted += float((gradient.double() * change).sum())
        weight, update = norm(before[name]), norm(change)
        found.append(
            ParameterUpdate(
                name, tuple(parameter.shape), weight,
                None if gradient is None else norm(gradient), update,
                update / weight if weight else None,
            )
        )  # fmt: skip
    return tuple(found), predicted


def norm(tensor: Tensor) -> float:
    """Return the 2-norm of all entries, in double precision."""
    return float(tensor.detach().double().norm())


def _loss_after(run: Run, twin: nn.Module, batch: Batch, recorder: ChainRecorder) -> float:
    """Return the loss at the new weights, with the buffers and random numbers of the step."""
    with torch.no_grad():
        for mine, new in zip(twin.parameters(), run.model.parameters(), strict=True):
            mine.copy_(new)
    with random_state_kept(), torch.no_grad(), run.autocast():
        if recorder.random is not None:
            recorder.random.restore()
        return float(run.objective.task.forward(twin, batch)[0])
