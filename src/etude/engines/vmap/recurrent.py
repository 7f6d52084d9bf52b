"""Recurrent layers (LSTM, GRU, RNN) computed step by step, so that torch.func can stack them.

torch's own layers run as one fused operation, for which vmap has no rule. The formulas are those
of the documentation of torch.nn.LSTM, GRU and RNN. Weights, gates and their order are those of the
module.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from etude.errors import TaskError

State = tuple[Tensor, ...]


def layer_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Apply dropout between recurrent layers, drawn in the order (step, sample, unit)."""
    if has_torch_function_unary(x):
        result: Tensor = handle_torch_function(layer_dropout, (x,), x, p, training)
        return result
    return F.dropout(x, p, training)


def unroll(model: nn.Module) -> None:
    """Make every recurrent layer of a model compute step by step, in place.

    >>> net = nn.LSTM(3, 4)
    >>> x = torch.rand(5, 2, 3)
    >>> before = net(x)[0]
    >>> unroll(net)
    >>> bool(torch.allclose(net(x)[0], before, atol=1e-6))
    True
    """
    for module in model.modules():
        # A subclass may compute something else.
        if isinstance(module, nn.RNNBase) and type(module) in (nn.LSTM, nn.GRU, nn.RNN):
            module.forward = partial(_forward, module)


def _forward(layer: nn.RNNBase, x: Any, hx: Any = None) -> Any:
    if not isinstance(x, Tensor):
        raise TaskError("a packed sequence is not stacked")
    batched = x.dim() == 3
    if not batched:
        x = x.unsqueeze(0 if layer.batch_first else 1)
        if hx is not None:
            hx = tuple(h.unsqueeze(1) for h in hx) if isinstance(hx, tuple) else hx.unsqueeze(1)
    if layer.batch_first:
        x = x.transpose(0, 1)
    given = None if hx is None else (hx if isinstance(hx, tuple) else (hx,))
    sides = 2 if layer.bidirectional else 1
    lasts: list[State] = []
    for depth in range(layer.num_layers):
        if depth and layer.dropout:
            x = layer_dropout(x, layer.dropout, layer.training)
        outputs = []
        for side in range(sides):
            place = depth * sides + side
            start = _start(layer, x, place, given)
            y, last = _side(layer, x, depth, bool(side), start)
            outputs.append(y)
            lasts.append(last)
        x = outputs[0] if sides == 1 else torch.cat(outputs, -1)
    ends = tuple(torch.stack(parts) for parts in zip(*lasts, strict=True))
    if layer.batch_first:
        x = x.transpose(0, 1)
    if not batched:
        x = x.squeeze(0 if layer.batch_first else 1)
        ends = tuple(end.squeeze(1) for end in ends)
    return x, ends if layer.mode == "LSTM" else ends[0]


def _start(layer: nn.RNNBase, x: Tensor, place: int, given: State | None) -> State:
    if given is not None:
        return tuple(part[place] for part in given)
    zeros = torch.zeros(x.shape[1], layer.hidden_size, dtype=x.dtype, device=x.device)
    out = getattr(layer, "proj_size", 0)
    first = zeros[:, :out] if out else zeros
    return (first, zeros) if layer.mode == "LSTM" else (zeros,)


def _side(
    layer: nn.RNNBase, x: Tensor, depth: int, backwards: bool, state: State
) -> tuple[Tensor, State]:
    """Run one layer in one direction over (steps, samples, inputs)."""
    suffix = f"_l{depth}{'_reverse' if backwards else ''}"

    def weight(name: str) -> Tensor | None:
        return getattr(layer, name + suffix, None)

    own, other = weight("weight_ih"), weight("weight_hh")
    assert own is not None
    assert other is not None
    # One product for the inputs of all steps; only the recurrent product is computed step by step.
    gates = F.linear(x, own, weight("bias_ih"))
    steps = range(len(x))
    outputs: list[Tensor] = []
    for t in reversed(steps) if backwards else steps:
        recurrent = F.linear(state[0], other, weight("bias_hh"))
        state = _cell(layer.mode, gates[t], recurrent, state, weight("weight_hr"))
        outputs.append(state[0])
    if backwards:
        outputs.reverse()
    return torch.stack(outputs), state


def _cell(mode: str, x: Tensor, h: Tensor, state: State, project: Tensor | None) -> State:
    """Do one step, from the contributions of the input and of the state to the gates."""
    if mode == "LSTM":
        i, f, g, o = (x + h).chunk(4, -1)
        cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        out = torch.sigmoid(o) * torch.tanh(cell)
        return (out if project is None else F.linear(out, project)), cell
    if mode == "GRU":
        (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), h.chunk(3, -1)
        z = torch.sigmoid(xz + hz)
        new = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
        return ((1 - z) * new + z * state[0],)
    return (torch.relu(x + h) if mode == "RNN_RELU" else torch.tanh(x + h),)
