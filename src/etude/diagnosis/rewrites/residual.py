"""Adds residual connections to a model."""

from __future__ import annotations

from torch import Tensor, nn

from etude.diagnosis.rewrites.forward_calls import ForwardCalls, ModuleCall, forward_calls
from etude.diagnosis.rewrites.rewrite import Change, Rewrite
from etude.tasks.task import Task

SUMS = frozenset(("add", "__add__", "__radd__", "__iadd__", "add_", "cat", "concat"))
"""Calls that join a block's input with its output."""


class Residual(nn.Module):
    """Adds a block's input to its output: x + scale · block(x).

    Args:
        *modules: The modules of the block, applied one after the other.
        scale: What the block's output is multiplied by.

    Shape: the block must keep the shape of its input.

    Source: He et al. 2016, arXiv:1512.03385.

    >>> import torch
    >>> Residual(nn.Identity())(torch.ones(1))
    tensor([2.])
    """

    def __init__(self, *modules: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.block, self.scale = nn.Sequential(*modules), scale

    def forward(self, x: Tensor) -> Tensor:
        """Return x + scale · block(x)."""
        joined: Tensor = x + self.scale * self.block(x)
        return joined


def add_residuals(task: Task, model: nn.Module, *, scaled: bool = False) -> Rewrite:
    """Return a rewrite that adds the input of blocks to their output.

    A block is a layer of a `Sequential` with what follows it up to the next layer, or a compound
    module of a `Sequential`, if it keeps the shape of its input. Blocks that add or concatenate
    their input already, and the one that gives the model's output, stay as they are.

    Args:
        task: The task, whose forward pass is run once.
        model: The network, which does not change.
        scaled: Whether the outputs of n blocks are multiplied by 1/√n, so that the variance of
            their sum does not grow with the depth.

    Source of the scale: De and Smith 2020, arXiv:2002.10444.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> task = Task(net, (torch.rand(64, 8), torch.rand(64, 1)), loss=nn.functional.mse_loss)
    >>> rewrite = add_residuals(task, net)
    >>> [type(module).__name__ for module in rewrite.apply(net)]
    ['Residual', 'Residual', 'Linear']
    """
    calls = forward_calls(task, model)
    found: list[tuple[str, list[int], list[bool]]] = []
    for name, module in reversed(list(model.named_modules())):  # a name inside a block changes
        if type(module) is nn.Sequential and (groups := _groups(name, module)):
            wrapped = [_is_block(group, calls) for group in groups]
            if any(wrapped):
                found.append((name, [len(group) for group in groups], wrapped))
    blocks = sum(sum(wrapped) for _, _, wrapped in found)
    scale = blocks**-0.5 if scaled and blocks else 1.0
    told = f", times {scale:.3g}" if scaled else ""
    changes = tuple(
        Change(
            name,
            _Grouped(tuple(sizes), tuple(wrapped), scale),
            f"Sequential of {sum(sizes)} modules",
            f"{sum(wrapped)} of its blocks add their input to their output{told}",
        )
        for name, sizes, wrapped in found
    )
    reason = "" if changes else "no block of a Sequential keeps the shape of its input"
    return Rewrite("residual connections", changes, reason)


class _Grouped:
    """Groups the modules of a Sequential, some of the groups as residual blocks."""

    def __init__(self, sizes: tuple[int, ...], wrapped: tuple[bool, ...], scale: float) -> None:
        self.sizes, self.wrapped, self.scale = sizes, wrapped, scale

    def __call__(self, old: nn.Module) -> nn.Module:
        modules = list(old.children())
        made: list[nn.Module] = []
        for size, wrap in zip(self.sizes, self.wrapped, strict=True):
            group, modules = modules[:size], modules[size:]
            made += [Residual(*group, scale=self.scale)] if wrap else group
        return nn.Sequential(*made)


def _groups(name: str, module: nn.Sequential) -> list[list[str]]:
    """Return the names of a Sequential's modules, a new group at each that has a matrix."""
    groups: list[list[str]] = []
    for child, part in module.named_children():
        full = f"{name}.{child}" if name else child
        layer = any(p.ndim > 1 for p in part.parameters())
        if layer or not groups:
            groups.append([])
        groups[-1].append(full)
    return groups


def _is_block(group: list[str], calls: ForwardCalls) -> bool:
    first, last = _only(calls, group[0]), _only(calls, group[-1])
    if first is None or last is None or first.shape_in != last.shape_out:
        return False
    if last.writes in calls.output:
        return False
    joined = (call for call in calls.functions if call.function in SUMS)
    return not any(first.reads in call.reads for call in joined)


def _only(calls: ForwardCalls, name: str) -> ModuleCall | None:
    found = calls.of(name)
    return found[0] if len(found) == 1 else None
