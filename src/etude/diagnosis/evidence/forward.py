"""What a forward pass shows at its two ends, in batch normalisations and in recurrent layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from etude.diagnosis.history import RunQuantity
from etude.diagnosis.watching.statistics import variance_and_mean
from etude.training.observer import Value

SAMPLES, PLACES, NUMBERS = 16, 64, 2**13
"""How many samples of a recurrent layer's input are read, places in each, and numbers of the other
inputs."""

FLAT = 0.05
"""A derivative below this share of its largest value is flat."""

BEYOND = (1 - FLAT) ** 0.5
"""The size of a tanh from which on it is flat."""


class ForwardEvidence:
    """Collects, in one forward pass, what the first and the last layer read.

    Attributes:
        first_layer: The number of the first layer with parameters; None before it was called.
        gates: (layer, 'gates') -> the share of saturated gates of a recurrent layer.
    """

    def __init__(self) -> None:
        self.first_layer: int | None = None
        self.gates: dict[tuple[int, str], Tensor] = {}
        self._first: tuple[Tensor, bool] | None = None
        self._last: Tensor | None = None
        self._normalised = 0

    def called(self, name: str, layer: int, data: Tensor | None, *, channels: bool) -> None:
        """Note a call of a layer.

        Args:
            name: The function's name.
            layer: The layer's number.
            data: What it reads.
            channels: Whether the features stand on axis 1.
        """
        if self.first_layer is None:
            self.first_layer = layer
            if data is not None and data.is_floating_point():
                self._first = data, channels or name in ("batch_norm", "group_norm")
        if data is not None and data.is_floating_point() and name != "batch_norm":
            self._last = data

    def with_arguments(
        self,
        name: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        options: Mapping[str, Any],
        layer: int | None,
        result: Any,
    ) -> None:
        """Read what a call's arguments and its result show."""
        if name == "batch_norm" and options.get("training", args[5] if len(args) > 5 else False):
            count = len(args[0])
            self._normalised = min(self._normalised or count, count)
        if name in GATES and layer is not None and (layer, "gates") not in self.gates:
            share = saturated_gates(name, func, args, result)
            if share is not None:
                self.gates[layer, "gates"] = share

    def readings(self) -> Mapping[RunQuantity, Value]:
        """Return the readings of the pass."""
        found: dict[RunQuantity, Value] = {}
        if self._first is not None:
            found |= spread_of(*self._first)
        if self._last is not None:
            share = share_between(self._last)
            if share is not None:
                found[RunQuantity.HEAD_SPREAD] = share
        if self._normalised:
            found[RunQuantity.NORMALISED_SAMPLES] = float(self._normalised)
        self._first = self._last = None
        return found


def few(values: Tensor) -> Tensor:
    """Return the first samples of a tensor, about `NUMBERS` numbers of them."""
    return values.detach()[: max(2, NUMBERS * len(values) // max(1, values.numel()))]


def spread_of(values: Tensor, channels: bool) -> Mapping[RunQuantity, Tensor]:
    """Return the scale of an input, feature by feature: see `check.scale.Spread`."""
    if values.ndim == 0 or values.numel() == 0:
        return {}
    axis = 1 if channels and values.ndim > 1 else values.ndim - 1
    flat = few(values).double().movedim(axis, -1).reshape(-1, values.shape[axis])
    if len(flat) < 2:
        return {}
    variance, mean = variance_and_mean(flat, 0)
    deviation = variance.sqrt()
    moves = deviation > 1e-12 * flat.abs().amax(0)
    huge = torch.full_like(deviation, torch.inf)
    return {
        RunQuantity.INPUT_MEAN: mean.square().mean().sqrt(),
        RunQuantity.INPUT_DEVIATION: variance.mean().sqrt(),
        RunQuantity.INPUT_LOW: torch.where(moves, deviation, huge).min(),
        RunQuantity.INPUT_HIGH: deviation.max(),
        RunQuantity.INPUT_REACH: (flat - mean).abs().max(),
    }


def share_between(values: Tensor) -> Tensor | None:
    """Return how far samples differ, over their size; None for a single sample.

        (mean over features of the variance over samples / mean square)^(1/2)

    0 where all samples are alike, 1 where their mean is 0.

    >>> float(share_between(torch.tensor([[1.0], [-1.0]])))
    1.0
    """
    if values.ndim < 2 or values.shape[0] < 2:
        return None
    read = few(values).float()
    variance = variance_and_mean(read, 0, correction=0)[0].mean()
    return (variance / read.square().mean().clamp_min(torch.finfo(torch.float32).tiny)).sqrt()


GATES = ("lstm", "gru", "rnn_tanh")


def saturated_gates(
    name: str, func: Callable[..., Any], args: tuple[Any, ...], result: Any
) -> Tensor | None:
    """Return the share of saturated gates and states of a recurrent call's first layer.

    Of several layers, or directions, the first is computed again for a few samples. None for packed
    sequences and for projections.

    Args:
        name: 'lstm', 'gru' or 'rnn_tanh'.
        func: torch's function.
        args: Its arguments.
        result: What it returned.
    """
    if len(args) != 9 or not isinstance(args[0], Tensor) or args[0].ndim != 3:
        return None
    x, start, weights, biases, layers, _, _, both_ways, batch_first = args
    given = (x if batch_first else x.transpose(0, 1)).detach()[:SAMPLES, :PLACES]
    own = [w.detach() for w in weights[: 4 if biases else 2]]
    first = start[0] if name == "lstm" else start
    state = first.detach()[:1, :SAMPLES]
    begin: Any = (state, start[1].detach()[:1, :SAMPLES]) if name == "lstm" else state
    if state.shape[-1] != own[1].shape[1] or len(given) < 1:
        return None
    if layers == 1 and not both_ways:
        whole: Tensor = result[0].detach()
        outputs = (whole if batch_first else whole.transpose(0, 1))[:SAMPLES, :PLACES]
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cuDNN's, of weights that lie apart in memory
            outputs = func(given, begin, own, biases, 1, 0.0, False, False, True)[0]
    if name == "rnn_tanh":
        return _share_beyond(outputs)
    before = torch.cat([state.transpose(0, 1), outputs[:, :-1]], 1)
    inner: Tensor = torch.nn.functional.linear(given, own[0], own[2] if biases else None)
    outer: Tensor = torch.nn.functional.linear(before, own[1], own[3] if biases else None)
    if name == "lstm":
        i, f, g, o = (inner + outer).chunk(4, -1)
        sized = [torch.tanh(one / 2) for one in (i, f, o)] + [torch.tanh(g)]
    else:
        (r, z, n), (hr, hz, hn) = inner.chunk(3, -1), outer.chunk(3, -1)
        reset = torch.sigmoid(r + hr)
        sized = [torch.tanh((r + hr) / 2), torch.tanh((z + hz) / 2), torch.tanh(n + reset * hn)]
    return _share_beyond(torch.stack(sized))


def _share_beyond(values: Tensor) -> Tensor:
    share: Tensor = (values.abs() > BEYOND).float().mean()
    return share
