"""What one forward pass calls: each torch function, the module that calls it, what it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from etude.layerwise.flow import tensors_in
from etude.measure.held_still import held_still
from etude.tasks.sources.data import Cursor
from etude.tasks.task import Task
from etude.training.evaluation.evaluate import move

VIEWS = frozenset((
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute",
    "contiguous", "detach", "expand", "t", "movedim", "swapaxes", "size", "dim", "to", "type",
    "__get__", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "chunk", "split",
))  # fmt: skip
"""Calls that pass their first argument on as it is, or with another shape."""


@dataclass(frozen=True)
class FunctionCall:
    """One call of a torch function.

    Attributes:
        function: Its name.
        module: The name of the innermost module that calls it.
        reads: The values that it reads, each as a number; views share the number of their base.
        writes: The values that it returns.
    """

    function: str
    module: str
    reads: frozenset[int]
    writes: frozenset[int]


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module with one tensor in and one out.

    Attributes:
        name: The name of the module.
        reads: The value that it reads.
        writes: The value that it returns.
        shape_in: The shape of its input.
        shape_out: The shape of its output.
    """

    name: str
    reads: int
    writes: int
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]


@dataclass(frozen=True)
class ForwardCalls:
    """The calls of one forward pass.

    Attributes:
        functions: The calls of torch functions, in order.
        modules: The calls of modules with one tensor in and one out, in the order of their ends.
        output: The values that the model returned.
    """

    functions: tuple[FunctionCall, ...]
    modules: tuple[ModuleCall, ...]
    output: frozenset[int]

    def of(self, name: str) -> tuple[ModuleCall, ...]:
        """Return the calls of a module."""
        return tuple(call for call in self.modules if call.name == name)

    def readers(self, value: int) -> tuple[FunctionCall, ...]:
        """Return the calls that read a value and compute another from it."""
        return tuple(
            call
            for call in self.functions
            if value in call.reads and not call.writes <= {value} and call.writes
        )


class _Recorder(TorchFunctionMode):
    """Records the calls, and gives each value a number."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[FunctionCall] = []
        self.modules: list[ModuleCall] = []
        self.stack: list[str] = []
        self.reads: list[int | None] = []
        self.numbers: dict[int, int] = {}
        self.held: list[Tensor] = []  # keeps the tensors alive, since id() is reused otherwise
        self._next = 0

    def number(self, tensor: Tensor) -> int:
        """Return the number of a tensor's value."""
        if id(tensor) not in self.numbers:
            self.give(tensor, self._next)
            self._next += 1
        return self.numbers[id(tensor)]

    def give(self, tensor: Tensor, number: int) -> None:
        """Set the number of a tensor's value."""
        self.numbers[id(tensor)] = number
        self.held.append(tensor)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        given = [tensor for tensor in tensors_in((args, kwargs)) if isinstance(tensor, Tensor)]
        made = list(tensors_in(result))
        if not given or not made:
            return result
        reads = frozenset(self.number(tensor) for tensor in given)
        if name in VIEWS:
            for tensor in made:
                self.give(tensor, self.number(given[0]))
        elif any(tensor is given[0] for tensor in made):  # in place: a new value
            self.give(given[0], self._next)
            self._next += 1
        writes = frozenset(self.number(tensor) for tensor in made)
        module = self.stack[-1] if self.stack else ""
        self.functions.append(FunctionCall(name, module, reads, writes))
        return result


def forward_calls(task: Task, model: nn.Module) -> ForwardCalls:
    """Run a model on one training batch and return what it calls.

    Args:
        task: Its task, whose forward pass is run.
        model: The network. Neither it nor the random state is changed.
    """
    recorder = _Recorder()
    outputs: set[int] = set()
    device = next((p.device for p in model.parameters()), None)
    if device is not None:
        task = task.on(device)

    def entered(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            recorder.stack.append(name)
            read = list(tensors_in(inputs))
            recorder.reads.append(recorder.number(read[0]) if len(read) == 1 else None)

        return hook

    def left(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            recorder.stack.pop()
            read = recorder.reads.pop()
            if name == "":
                outputs.update(recorder.number(t) for t in tensors_in(output))
            if read is not None and isinstance(output, Tensor):
                shape = next(tuple(tensor.shape) for tensor in tensors_in(inputs))
                written = recorder.number(output)
                recorder.modules.append(ModuleCall(name, read, written, shape, tuple(output.shape)))

        return hook

    hooks = []
    for name, module in model.named_modules():
        hooks += [
            module.register_forward_pre_hook(entered(name)),
            module.register_forward_hook(left(name)),
        ]
    try:
        with held_still(model, task.train, 0, only=()), torch.no_grad(), recorder:
            batch = next(task.train.stream(task.train.check(None), 0, Cursor()))
            task.forward(model, move(batch, device))
    finally:
        for hook in hooks:
            hook.remove()
    return ForwardCalls(tuple(recorder.functions), tuple(recorder.modules), frozenset(outputs))
