"""Lists the trainable parameters of a model as `Part`s, in the model's own order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from etude.errors import TaskError
from etude.layerwise.parts import GATES, PROJECTION, Part, kind_of, owner_of
from etude.layerwise.roles import give_roles

if TYPE_CHECKING:
    from torch import Tensor, nn

    from etude.layerwise.flow import Flow

Place = Literal["new", "joins", "loose"]
"""Whether parameters start a layer, belong to the layer before, or belong to no submodule."""


def parts_of(model: nn.Module, flow: Flow | None = None) -> tuple[Part, ...]:
    """Return the trainable parameters of a model as parts, in the model's own order.

    Depth counts layers from the input. With a flow, layers are in the order in which the forward
    pass uses them, else in the order in which the model's modules were assigned. Containers
    (Sequential, ModuleList, ModuleDict) and modules with a list of compound modules are opened;
    any other module is one layer, for instance a transformer block. Each level of a stacked LSTM
    is one layer. A normalisation, an embedding that is not the first layer, or a module that the
    forward pass does not use belongs to the layer before it. A tied matrix belongs to the place
    of its first use, and is an embedding if it is one there. With a flow, parallel heads are one
    layer, and so is a matrix that belongs to no submodule.

    With a flow, roles come from the flow. Without one they are inferred from a matrix that is both
    embedding and head, from modules called `head`, `classifier`, `fc` and similar, or from a
    `Sequential`; otherwise the role is a guess and is marked as one.

    Args:
        model: Any network.
        flow: The result of `etude.layerwise.trace` for the model.

    Raises:
        TaskError: If a lazy parameter has no shape yet.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> [(p.name, p.kind, p.depth, p.role) for p in parts_of(net)][::2]
    [('0.weight', 'linear', 0, 'input'), ('2.weight', 'linear', 1, 'output')]
    """
    from torch import nn

    first: dict[int, str] = {}
    aliases: dict[str, list[str]] = {}
    parameters: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise TaskError(
                f"{name} has no shape yet (a lazy layer): run the model once on a batch first"
            )
        if id(parameter) in first:
            aliases[first[id(parameter)]].append(name)
            continue
        first[id(parameter)] = name
        aliases[name] = []
        if parameter.requires_grad:
            parameters[name] = parameter
    depths = _depths(model, frozenset(aliases), flow)
    parts = tuple(
        _part(model, name, tuple(parameter.shape), tuple(aliases[name]), depths[name])
        for name, parameter in parameters.items()
    )
    give_roles(parts, model, flow)
    return parts


def _part(
    model: nn.Module, name: str, shape: tuple[int, ...], aliases: tuple[str, ...], depth: int
) -> Part:
    owner, leaf = owner_of(model, name)
    kind = kind_of(owner)
    for alias in aliases:  # a table is one whichever of its modules was assigned first
        other, other_leaf = owner_of(model, alias)
        if kind != "embedding" and kind_of(other) == "embedding":
            owner, leaf, kind = other, other_leaf, "embedding"
    inward, outward = _axes(owner, kind, len(shape))
    return Part(
        name=name,
        shape=shape,
        kind=kind,
        layer=type(owner).__name__,
        bias=leaf.startswith("bias") or leaf.endswith("_bias"),
        depth=depth,
        gates=MappingProxyType(_gates(owner, leaf, shape)),
        aliases=aliases,
        inward=inward,
        outward=outward,
    )


def _axes(owner: nn.Module, kind: str, dimensions: int) -> tuple[int | None, int | None]:
    """Return the axis of the input features and the axis of the output features."""
    if dimensions == 0:
        return None, None
    if dimensions == 1:
        return None, 0
    if kind == "embedding" or getattr(owner, "transposed", False):
        return 0, 1
    if type(owner).__name__ == "Conv1D":
        return 0, 1
    return 1, 0


def _gates(owner: nn.Module, leaf: str, shape: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Return the named row ranges of one tensor of a layer."""
    from torch import nn

    if isinstance(owner, (nn.LSTM, nn.LSTMCell)):
        names = GATES["LSTM"]
        if leaf.startswith("weight_hr"):
            return {PROJECTION: (0, shape[0])}
    elif isinstance(owner, (nn.GRU, nn.GRUCell)):
        names = GATES["GRU"]
    elif isinstance(owner, nn.MultiheadAttention) and leaf.startswith("in_proj"):
        names = GATES["MultiheadAttention"]
    else:
        return {}
    if not shape or shape[0] % len(names):
        return {}
    size = shape[0] // len(names)
    return {name: (i * size, (i + 1) * size) for i, name in enumerate(names)}


def _depths(model: nn.Module, own: frozenset[str], flow: Flow | None) -> dict[str, int]:
    """Return the depth of every parameter, by name.

    Args:
        model: The network.
        own: The first name of every parameter; a tied parameter has the depth of that name.
        flow: The flow of a forward pass, or None.
    """
    depths: dict[str, int] = {}
    loose: list[str] = []
    before: list[str] = []
    current = -1
    for place, found in _layers(model, "", flow):
        names = [name for name in found if name in own]
        if not names:
            continue
        if place == "loose" and current < 0:
            loose += names  # such as a class token: it stands with the first layer
            continue
        if current < 0 or (place == "new" and _begins(names, before, flow)):
            current += 1
            before = names
        depths.update({name: current for name in (*loose, *names) if name not in depths})
        loose = []
    depths.update(dict.fromkeys(loose, 0))
    return depths


def _begins(names: Sequence[str], before: Sequence[str], flow: Flow | None) -> bool:
    """Return whether parameters begin a layer: they are used, and are not a parallel head."""
    if flow is None:
        return True
    beside = all(not flow.outputs.isdisjoint(layer) for layer in (names, before))
    return not beside and any(name in flow.order for name in names)


def _layers(module: nn.Module, prefix: str, flow: Flow | None) -> Iterator[tuple[Place, list[str]]]:
    """Yield (place, names of parameters), from input to output."""
    from torch import nn

    names = [prefix + name for name, _ in module.named_parameters(remove_duplicate=False)]
    children = [(n, m) for n, m in module.named_children() if any(True for _ in m.parameters())]
    alone = [prefix + name for name, _ in module.named_parameters(recurse=False)]
    # Matrices directly in the module are layers, whose order only a forward pass shows.
    own = [n for n in alone if flow is not None and kind_of(module) == "other" and _used(n, flow)]
    if isinstance(module, nn.RNNBase):
        yield from _levels(names)
    elif (children or own) and (not prefix or _opens(module)):
        yield "loose", [name for name in alone if name not in own]
        for name, child in _by_use(children, own, prefix, flow):
            if child is not None:
                yield from _layers(child, f"{prefix}{name}.", flow)
            else:
                assert flow is not None
                yield "joins" if name in flow.inputs else "new", [name]
    else:
        yield "joins" if kind_of(module) in ("normalisation", "embedding") else "new", names


def _used(name: str, flow: Flow) -> bool:
    return name in flow.applied and name in flow.order


def _by_use(
    children: list[tuple[str, nn.Module]], own: Sequence[str], prefix: str, flow: Flow | None
) -> list[tuple[str, nn.Module | None]]:
    """Return modules and matrices in the order of first use; an unused module stays in place."""
    if flow is None:
        return [*children]
    order = flow.order
    keys, last = [], -1
    seen: set[int] = set()
    for name, child in children:
        # A tied matrix counts where it was assigned first; the other module has only its bias.
        places = [
            order[full]
            for inner, parameter in child.named_parameters()
            if id(parameter) not in seen and (full := f"{prefix}{name}.{inner}") in order
        ]
        seen.update(id(parameter) for parameter in child.parameters())
        last = min(places, default=last)
        keys.append(last)
    rows: list[tuple[str, nn.Module | None]] = [*children, *((name, None) for name in own)]
    keys += [order[name] for name in own]
    return [rows[place] for place in sorted(range(len(rows)), key=lambda place: keys[place])]


def _levels(names: list[str]) -> Iterator[tuple[Place, list[str]]]:
    """Yield the levels of a stacked recurrent layer: `_l0` is the first."""
    from etude.layerwise.flow import LEVEL

    levels: dict[int, list[str]] = {}
    for name in names:
        found = LEVEL.search(name)
        levels.setdefault(int(found[1]) if found else 0, []).append(name)
    for level in sorted(levels):
        yield "new", levels[level]


def _opens(module: nn.Module) -> bool:
    """Return whether a module is a sequence of layers rather than one layer."""
    from torch import nn

    rows = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    if isinstance(module, rows):
        return True
    return any(
        isinstance(inner, rows)
        and any(
            any(True for _ in item.children()) and any(True for _ in item.parameters())
            for item in inner.children()
        )
        for inner in module.modules()
    )
