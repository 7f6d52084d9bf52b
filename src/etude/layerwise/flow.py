"""The flow of one forward pass: which parameters read the input, and which produce the output.

Every call of a torch function is recorded. A matrix that is used without its module, such as
`F.linear(h, self.embedding.weight)`, or behind a parametrization, is thus found too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from etude.errors import TaskError
from etude.model_copy import copy_model
from etude.randomness import random_state_kept

CONTRACTIONS = frozenset((
    "linear", "bilinear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "dot", "inner",
    "einsum", "tensordot", "addmm", "addbmm", "baddbmm", "addmv", "chain_matmul", "multi_dot",
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "convolution", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell",
    "rnn_tanh_cell", "rnn_relu_cell", "embedding", "embedding_bag", "__getitem__", "index_select",
    "gather", "multi_head_attention_forward",
))  # fmt: skip
"""Calls that apply a parameter as a matrix, a kernel or a table; all others add or scale."""

LEVEL = re.compile(r"_l(\d+)(?:_reverse)?(?:\.|$)")
"""The level of a stacked recurrent layer, in the name of a parameter."""


@dataclass(frozen=True)
class Flow:
    """What a forward pass does with a model's parameters, by name.

    Attributes:
        order: Parameter -> its position in the order of first use; without unused parameters.
        inputs: Parameters that are applied to the data before any other matrix.
        outputs: Parameters after which no other matrix is applied on the way to the result, and
            that do not reach the result through another output.
        direct: Outputs that are applied only to the data itself.
        applied: Parameters that are applied as a matrix, a kernel or a table, not only added.
    """

    order: Mapping[str, int]
    inputs: frozenset[str]
    outputs: frozenset[str]
    direct: frozenset[str]
    applied: frozenset[str]


@dataclass(frozen=True)
class _Trail:
    """The parameters that a tensor was computed from.

    Attributes:
        weight: Whether it was computed from parameters and buffers alone.
        nearest: Parameters used since the last matrix, including that matrix.
        behind: Parameters used before that.
    """

    weight: bool
    nearest: frozenset[str]
    behind: frozenset[str] = frozenset()


class _Watch(TorchFunctionMode):
    """Follows tensors through every call of a torch function."""

    def __init__(self, model: nn.Module, batch: Any) -> None:
        super().__init__()
        self.trails: dict[int, _Trail] = {}
        self.held: list[Tensor] = []  # keeps the tensors alive, since id() is reused otherwise
        self.order: dict[str, int] = {}
        self.inputs: set[str] = set()
        self.applied: set[str] = set()
        self.before: dict[str, set[str]] = {}
        for tensor in tensors_in(batch):
            self._put(tensor, _Trail(False, frozenset()))
        for _, tensor in model.named_buffers():
            self._put(tensor, _Trail(True, frozenset()))
        for name, parameter in model.named_parameters():
            self._put(parameter, _Trail(True, frozenset([name])))
        self._own = {id(parameter) for parameter in model.parameters()}
        self._vectors = {name for name, p in model.named_parameters() if p.ndim < 2}

    def _put(self, tensor: Tensor, trail: _Trail) -> None:
        self.trails[id(tensor)] = trail
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
        trail = self._trail(name, list(tensors_in((args, kwargs))))
        if trail is not None:
            changed = args[0] if name == "__setitem__" else result
            for tensor in tensors_in(changed):
                if id(tensor) not in self._own:
                    self._put(tensor, trail)
        return result

    def _trail(self, name: str, given: list[Tensor]) -> _Trail | None:
        known = [self.trails[id(tensor)] for tensor in given if id(tensor) in self.trails]
        weights = frozenset().union(*(trail.nearest for trail in known if trail.weight))
        data = [trail for trail in known if not trail.weight]
        contracts = name in CONTRACTIONS
        if not data and not (contracts and weights and len(known) < len(given)):
            return _Trail(True, weights) if known else None
        for weight in sorted(weights):
            self.order.setdefault(weight, len(self.order))
        nearest = frozenset().union(*(trail.nearest for trail in data))
        behind = frozenset().union(*(trail.behind for trail in data))
        if not (contracts and weights):
            return _Trail(False, nearest | weights, behind)
        first, last = _sides(name, weights)
        behind |= nearest
        if not behind & self.applied:
            self.inputs |= first
        self.applied |= weights - self._vectors
        for weight in weights:
            self.before.setdefault(weight, set()).update(behind)
        return _Trail(False, last, behind | (weights - last))

    def flow(self, result: Any) -> Flow | None:
        """Return the flow, or None if the result could not be followed."""
        trails = [self.trails.get(id(tensor)) for tensor in tensors_in(result)]
        nearest = frozenset().union(*(t.nearest for t in trails if t is not None))
        matrices = nearest & self.applied
        outputs = {
            name
            for name in nearest
            if not any(name in self.before[other] for other in matrices if other != name)
        }
        if not matrices:
            return None
        last = outputs if outputs & matrices else set(nearest)
        direct = {name for name in last & self.inputs if not self.before[name] & self.applied}
        return Flow(
            dict(self.order),
            frozenset(self.inputs),
            frozenset(last),
            frozenset(direct),
            frozenset(self.applied),
        )


def _sides(name: str, weights: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the parameters of a call that read its input, and those that produce its output."""
    if name == "multi_head_attention_forward":
        last = frozenset(weight for weight in weights if ".out_proj." in f".{weight}")
        return (weights - last, last) if last else (weights, weights)
    levels = {weight: int(found[1]) for weight in weights if (found := LEVEL.search(weight))}
    if name in ("lstm", "gru", "rnn_tanh", "rnn_relu") and levels:
        top = max(levels.values())
        return (
            frozenset(weight for weight in weights if levels.get(weight, 0) == 0),
            frozenset(weight for weight in weights if levels.get(weight, top) == top),
        )
    return weights, weights


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested tuples, lists, mappings and plain objects.

    >>> import torch
    >>> len(list(tensors_in({"a": [torch.zeros(1), 2], "b": (torch.zeros(2),)})))
    2
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)
    elif hasattr(value, "__dataclass_fields__"):
        for part in list(vars(value).values()):
            yield from tensors_in(part)


def follow(model: nn.Module, forward: Callable[[nn.Module], Any], batch: Any) -> Flow | None:
    """Return the flow of a function of a model, run on a copy of the model.

    Args:
        model: The network. Neither it nor the random state is changed.
        forward: The function that computes the result, such as the loss, from the copy.
        batch: The tensors that `forward` reads.

    Returns:
        The flow; None if the result cannot be followed, for instance through a custom autograd
        function.
    """
    twin = copy_model(model)
    watch = _Watch(twin, batch)
    with random_state_kept(0), watch:
        result = forward(twin)
    return watch.flow(result)


def trace(model: nn.Module, *inputs: Any) -> Flow:
    """Find which of a model's parameters read the input and which produce the output.

    A forward pass shows this exactly. The module tree does not: modules may be used in another
    order than they were assigned, or a head may be an embedding's matrix. `optimizers.build`,
    `layerwise.apply` and `layerwise.plan` accept the result as `flow=`.

    Args:
        model: The network, which is not changed.
        *inputs: The arguments of its forward pass, such as one batch.

    Raises:
        TaskError: If the output cannot be followed back to a parameter.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    >>> sorted(trace(net, torch.zeros(1, 2)).outputs)
    ['2.bias', '2.weight']
    """
    found = follow(model, lambda twin: twin(*inputs), inputs)
    if found is None:
        raise TaskError(
            "the output of the model cannot be followed back to a parameter: name the layers in "
            "a table of multipliers instead"
        )
    return found
