"""The flow of one forward pass: which parameters read the input, and which make the output.

Every call of torch is seen, so that a matrix that is used without its module counts too, such as
`F.linear(h, self.embedding.weight)`, and one behind a parametrization.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from etude.errors import TaskError
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
        order: Their places in the order of first use; what is not used is not there.
        inputs: Those that meet the data before any other matrix does.
        outputs: Those between which and the result no other matrix stands, and that reach the
            result through no other of them.
        direct: Those of the outputs that only ever meet the data itself.
        applied: Those that are applied as a matrix, a kernel or a table, and not only added.
    """

    order: Mapping[str, int]
    inputs: frozenset[str]
    outputs: frozenset[str]
    direct: frozenset[str]
    applied: frozenset[str]


@dataclass(frozen=True)
class _Trail:
    """How a tensor came to be.

    Attributes:
        weight: Whether it was made of parameters and buffers alone.
        nearest: Parameters met since the last matrix, that matrix included.
        behind: Parameters met before.
    """

    weight: bool
    nearest: frozenset[str]
    behind: frozenset[str] = frozenset()


class _Watch(TorchFunctionMode):
    """Follows tensors through every call of torch."""

    def __init__(self, model: nn.Module, batch: Any) -> None:
        super().__init__()
        self.trails: dict[int, _Trail] = {}
        self.held: list[Tensor] = []  # an identity is a tensor's own only while it lives
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
        for one in sorted(weights):
            self.order.setdefault(one, len(self.order))
        nearest = frozenset().union(*(trail.nearest for trail in data))
        behind = frozenset().union(*(trail.behind for trail in data))
        if not (contracts and weights):
            return _Trail(False, nearest | weights, behind)
        first, last = _sides(name, weights)
        behind |= nearest
        if not behind & self.applied:
            self.inputs |= first
        self.applied |= weights - self._vectors
        for one in weights:
            self.before.setdefault(one, set()).update(behind)
        return _Trail(False, last, behind | (weights - last))

    def flow(self, result: Any) -> Flow | None:
        """Return what was seen, None where the result could not be followed."""
        trails = [self.trails.get(id(tensor)) for tensor in tensors_in(result)]
        nearest = frozenset().union(*(t.nearest for t in trails if t is not None))
        matrices = nearest & self.applied
        outputs = {
            one
            for one in nearest
            if not any(one in self.before[other] for other in matrices if other != one)
        }
        if not matrices:
            return None
        last = outputs if outputs & matrices else set(nearest)
        direct = {one for one in last & self.inputs if not self.before[one] & self.applied}
        return Flow(
            dict(self.order),
            frozenset(self.inputs),
            frozenset(last),
            frozenset(direct),
            frozenset(self.applied),
        )


def _sides(name: str, weights: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Return which of the parameters of one call meet its input, and which make its output."""
    if name == "multi_head_attention_forward":
        last = frozenset(one for one in weights if ".out_proj." in f".{one}")
        return (weights - last, last) if last else (weights, weights)
    levels = {one: int(found[1]) for one in weights if (found := LEVEL.search(one))}
    if name in ("lstm", "gru", "rnn_tanh", "rnn_relu") and levels:
        top = max(levels.values())
        return (
            frozenset(one for one in weights if levels.get(one, 0) == 0),
            frozenset(one for one in weights if levels.get(one, top) == top),
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
    """Return the flow of a function of a model, tried on a copy of it.

    Args:
        model: The network; it and the random state are left as they are.
        forward: What computes the result, such as the loss, from the copy.
        batch: The tensors that `forward` reads.

    Returns:
        The flow; None where the result is made in a way that cannot be followed, such as by an
        autograd function of one's own.
    """
    twin = copy.deepcopy(model)
    watch = _Watch(twin, batch)
    with random_state_kept(0), watch:
        result = forward(twin)
    return watch.flow(result)


def trace(model: nn.Module, *inputs: Any) -> Flow:
    """Return which of a model's parameters read the input and which make the output.

    The forward pass tells this exactly; the module tree does not: modules may be used in another
    order than they were assigned in, or a head may be an embedding's matrix. `optimizers.build`,
    `layerwise.apply` and `layerwise.plan` take the result as `flow=`.

    Args:
        model: The network; it is left as it is.
        *inputs: What its forward pass takes, such as one batch.

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
