"""`Observer`: watches a run while it trains, without delaying it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TypeAlias

from torch import Tensor

from etude.record import Evaluation
from etude.training.state.state import RunState

Value: TypeAlias = Tensor | float
"""One number: a tensor with one element, or a number of Python's."""

Reading: TypeAlias = Value | Mapping[str, Value] | None
"""What a hook returns: one number, several by name, or nothing."""


class Observer:
    """Watches a run while it trains: a base class, whose hooks do nothing.

    The hooks are called in this order: `on_start` before the first update of the run; in each
    update `on_gradient`, between backward pass and optimizer step, and `on_update`, after the
    step; `on_evaluation` after each evaluation; `on_end` when the run has ended. `on_gradient` and
    `on_update` are called in updates 0, `every`, 2·`every` ..., and what they return becomes a
    series of the record, NaN in the updates between: one number under the observer's name,
    several under `name/key`.

    Return tensors as they are, without `.item()` or `float()`: they are read later, together with
    the losses, so that an accelerator need not wait. Gradients are off in a hook (turn them on
    with `torch.enable_grad()`). A hook has its own random numbers: they depend only on the seed of
    the run, the observer's name, the hook and the update. Do not change the model, the gradients
    or the optimizer.

    An observer that keeps values from hook to hook returns them from `state()` and takes them back
    in `load()`, so that it continues in a resumed run and in another process.

    Attributes:
        name: The name of its series; if empty, the class's name in lower case.
        every: The number of updates from one reading to the next.
        reads: What it reads: 'weights' (parameters and buffers), 'gradients', 'optimizer'.
        engines: The engines it can run in: always 'loop', the plain loop; 'pool', worker processes;
            'vmap', stacks of runs, which give weights after an update but no gradients.
        own_randomness: Whether a hook gets random numbers of its own. One that draws none can do
            without, and is called in less time.

    >>> import etude, torch
    >>> class WeightNorm(etude.Observer):
    ...     reads, engines = ("weights",), ("loop", "pool", "vmap")
    ...
    ...     def on_update(self, state):
    ...         return torch.nn.utils.get_total_norm(state.parameters)
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = etude.Task(torch.nn.Linear(1, 1), (x, 3 * x), loss=torch.nn.functional.mse_loss)
    >>> recipe = etude.Recipe(lr=0.1, steps=20, batch_size=16)
    >>> record = etude.train(task, recipe, observers=[WeightNorm(every=10)])
    >>> norms = record.series["weight_norm"]
    >>> len(norms), int(norms[norms > 0].size)
    (20, 2)
    """

    name: str = ""
    every: int = 1
    reads: ClassVar[Sequence[str]] = ("weights", "gradients", "optimizer")
    engines: ClassVar[Sequence[str]] = ("loop", "pool")
    own_randomness: ClassVar[bool] = True

    def __init__(self, *, name: str | None = None, every: int | None = None) -> None:
        if name is not None:
            self.name = name
        if every is not None:
            self.every = every

    def next_due(self, update: int) -> int | None:
        """Return the first update from `update` on after which `on_update` has work, or None."""
        return -(-update // self.every) * self.every

    def on_start(self, state: RunState) -> None:
        """Called before the first update of the run."""

    def on_gradient(self, state: RunState) -> Reading:
        """Called with the clipped gradients of update `state.step`, before the optimizer's step.

        If parts of the model are updated in turn, it is called in each turn, and the last value is
        kept.
        """
        return None

    def on_update(self, state: RunState) -> Reading:
        """Called after an update: `state.step` updates are done."""
        return None

    def on_evaluation(self, state: RunState, evaluation: Evaluation) -> None:
        """Called after an evaluation of the weights after `state.step` updates."""

    def on_end(self, state: RunState) -> None:
        """Called after the run has finished, stopped early or diverged."""

    def attached(self, state: RunState) -> AbstractContextManager[Any]:
        """Return a context that is open while updates are made, and closed at evaluations.

        Attach hooks to modules there, and remove them at its end. A stack of runs opens none.
        """
        return nullcontext()

    def note(self, state: RunState) -> Mapping[str, Any] | None:
        """Return plain values for `record.notes`, under its name; called for every record."""
        return None

    def arguments(self) -> Mapping[str, Any] | None:
        """Return plain arguments that build an equal one elsewhere, as for Ray; None for none."""
        return None

    def state(self) -> Any:
        """Return the state to save in a checkpoint: plain values and tensors, or None."""
        return None

    def load(self, state: Any) -> None:
        """Restore what `state` returned."""


class FunctionObserver(Observer):
    """Reads the result of a function of the run's state, at every update before the step.

    Args:
        name: The name of its series.
        function: Maps the state to one number, or several by name.
    """

    def __init__(self, name: str, function: Callable[[RunState], Reading]) -> None:
        super().__init__(name=name)
        self.function = function

    def on_gradient(self, state: RunState) -> Reading:
        """Return the result of the function."""
        return self.function(state)


def named_functions(functions: Mapping[str, Callable[[RunState], Reading]]) -> list[Observer]:
    """Return an observer for each function.

    >>> [observer.name for observer in named_functions({"step": lambda state: state.step})]
    ['step']
    """
    return [FunctionObserver(name, function) for name, function in functions.items()]
