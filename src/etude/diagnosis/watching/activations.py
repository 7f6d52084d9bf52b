"""What a forward pass shows: the order of the layers, their outputs, dead and saturated units.

`ForwardReader` hears every call of a torch function during one forward pass, so that it makes no
difference whether an activation is a module or a function. It calls each function unchanged.

- A unit of a ReLU is *dead* if it gave 0 for every sample read in each of the last sampled updates:
  at least 5 updates and 128 samples. `DEAD` is the share of dead units.
- An entry of a tanh or sigmoid is *saturated* if the derivative there is less than 5% of its
  largest value: 1 - tanh² < .05, or 4σ(1 - σ) < .05. `SATURATED` is the share of such entries.
- `ACTIVATION_MEAN` and `ACTIVATION_VARIANCE` are those of the layer's own output, before the
  activation.

Of each tensor the first samples are read, up to about 8,000 numbers.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from etude.diagnosis.evidence.forward import ForwardEvidence
from etude.diagnosis.watching.layers import LayerTable
from etude.diagnosis.watching.statistics import variance_and_mean
from etude.layerwise.flow import CONTRACTIONS

MOST_READ = 2**13
"""How many numbers of an activation are read."""

DEAD_UPDATES, DEAD_SAMPLES = 5, 128
"""For how many sampled updates, and samples, a unit must give 0 to be dead."""

FLAT = 0.05
"""A derivative below this share of its largest value is flat."""

_TANH = (1 - FLAT) ** 0.5

RELUS = frozenset(("relu", "relu_", "relu6"))
SQUASHING = {"tanh": "tanh", "tanh_": "tanh", "sigmoid": "sigmoid", "sigmoid_": "sigmoid"}
NORMALISATIONS = frozenset(
    ("batch_norm", "layer_norm", "group_norm", "rms_norm", "instance_norm", "prelu")
)
PRODUCTS = frozenset(("mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply"))
ON_CHANNELS = frozenset(("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
                         "conv_transpose3d"))  # fmt: skip


class ActivationMemory:
    """For how many sampled updates each unit of each ReLU has given 0."""

    def __init__(self) -> None:
        self.silent: dict[tuple[int, int], Tensor] = {}

    def share_dead(self, key: tuple[int, int], active: Tensor, samples: int) -> Tensor:
        """Note which units are active now; return the share of dead ones."""
        silent = self.silent.get(key)
        if silent is None or silent.shape != active.shape or silent.device != active.device:
            silent = torch.zeros_like(active, dtype=torch.int32)
            self.silent[key] = silent
        silent.add_(1).masked_fill_(active, 0)
        needed = max(DEAD_UPDATES, -(-DEAD_SAMPLES // samples))
        return (silent >= needed).float().mean()


class _Activation:
    """One call of an activation function in this forward pass."""

    def __init__(self, layer: int, kind: str) -> None:
        self.layer, self.kind = layer, kind
        self.units = 0
        self.followed = self.gate = False
        self.share: Tensor | None = None


class ForwardReader(TorchFunctionMode):
    """Reads one forward pass.

    Args:
        table: The layers; learns their order and what follows them.
        memory: What is remembered from update to update.

    Attributes:
        values: (layer, quantity) -> a tensor with one number.
        seconds: The time spent on reading, not on the model's own functions.
        calls: How many functions were called.
        error: What reading failed with; None if it did not.
    """

    def __init__(self, table: LayerTable, memory: ActivationMemory) -> None:
        super().__init__()
        self._table, self._memory = table, memory
        self.values: dict[tuple[int, str], Tensor] = {}
        self.seconds, self.calls = 0.0, 0
        self.error: Exception | None = None
        self.activations: list[_Activation] = []
        self._layer: int | None = None
        self._channels = False
        self._followed: set[int] = set()
        self._used: list[int] = []
        self.evidence = ForwardEvidence()
        # Tensor -> the numbers of the activations it was computed from, by one bit each.
        self._sources: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call the function, then read what it returned."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        started = time.perf_counter()
        self.calls += 1
        try:
            if isinstance(result, (Tensor, tuple)):
                with torch.no_grad():
                    name = getattr(func, "__name__", "")
                    self._read(name, args, kwargs, result)
                    self.evidence.with_arguments(name, func, args, kwargs, self._layer, result)
        except Exception as error:  # noqa: BLE001 - the user's forward pass goes on
            self.error = self.error or error
        finally:
            self.seconds += time.perf_counter() - started
        return result

    def _read(self, name: str, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        if name == "__get__":
            return
        given = list(_tensors(args))
        if kwargs:
            given += _tensors(kwargs.values())
        if name in CONTRACTIONS or name in NORMALISATIONS:
            self._apply(name, given, result)
            return
        output = result[0] if isinstance(result, tuple) and result else result
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        mask = self._mask(given)
        if name in RELUS or name in SQUASHING or _clips_below(name, args, kwargs):
            if self._layer is not None:
                self._activate(name, output)
                mask |= 1 << (len(self.activations) - 1)
        elif name in PRODUCTS and mask and len(given) > 1:
            self._gates(given)
        if mask:
            self._sources[id(output)] = weakref.ref(output), mask

    def _mask(self, given: list[Tensor]) -> int:
        mask = 0
        if self._sources:
            for tensor in given:
                found = self._sources.get(id(tensor))
                if found is not None and found[0]() is tensor:
                    mask |= found[1]
        return mask

    def _apply(self, name: str, given: list[Tensor], result: Any) -> None:
        """Read a call that applies parameters."""
        numbers = [n for t in given if (n := self._table.layer_of.get(id(t))) is not None]
        mask = self._mask(given)
        for number, activation in enumerate(self.activations):
            if mask >> number & 1 and name in CONTRACTIONS:
                activation.followed = True
        for number in numbers:
            self._table.use(number)
        output = result[0] if isinstance(result, tuple) and result else result
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        if numbers:
            data = next((t for t in given if id(t) not in self._table.layer_of), None)
            self.evidence.called(name, numbers[-1], data, channels=name in ON_CHANNELS)
        if name in NORMALISATIONS:
            if mask:
                self._sources[id(output)] = weakref.ref(output), mask
            return
        if not numbers:
            if name != "__getitem__" and name not in ("matmul", "bmm", "__matmul__", "einsum"):
                self._layer = None  # its weight is computed: whose activation follows is unknown
            elif mask:
                self._sources[id(output)] = weakref.ref(output), mask
            return
        layer = numbers[-1]
        if self._layer is not None:
            self._followed.add(self._layer)
        self._layer, self._channels = layer, name in ON_CHANNELS
        self._used.append(layer)
        if (layer, "variance") not in self.values:
            variance, mean = variance_and_mean(first_samples(output).float())
            self.values[layer, "mean"], self.values[layer, "variance"] = mean, variance

    def _activate(self, name: str, output: Tensor) -> None:
        """Read the output of an activation function."""
        assert self._layer is not None
        kind = SQUASHING.get(name, "relu")
        record = _Activation(self._layer, kind)
        self.activations.append(record)
        read = first_samples(output)
        axis = 1 if self._channels and output.ndim > 2 else output.ndim - 1
        record.units = output.shape[axis] if output.ndim else 0
        if read.ndim < 2:
            return
        if kind == "relu":
            others = [place for place in range(read.ndim) if place != axis]
            active = ~(read.amax(others) <= 0)  # what is not a number is not 0
            key = (self._layer, len(self.activations))
            record.share = self._memory.share_dead(key, active, read.shape[0])
        elif kind == "tanh":
            record.share = (read.abs() > _TANH).float().mean()
        else:
            record.share = ((2 * read - 1).abs() > _TANH).float().mean()

    def _gates(self, given: list[Tensor]) -> None:
        """Mark activations that are multiplied with another tensor of the network."""
        for tensor in given:
            found = self._sources.get(id(tensor))
            if found is not None and found[0]() is tensor:
                for number, activation in enumerate(self.activations):
                    if found[1] >> number & 1:
                        activation.gate = True

    def finish(self) -> None:
        """Tell the table what was seen, and add the shares to `values`."""
        hidden = {one.layer for one in self.activations if one.followed} | self._followed
        last = set(self._used[-1:])
        self._table.set_outputs(hidden - last, last)
        for one in self.activations:
            self._table.describe(one.layer, units=one.units, activation=one.kind, gate=one.gate)
            if one.share is not None and one.followed and not one.gate:
                what = "dead" if one.kind == "relu" else "saturated"
                self.values.setdefault((one.layer, what), one.share)
        self._sources.clear()
        self.values.update(self.evidence.gates)


def first_samples(tensor: Tensor, most: int = MOST_READ) -> Tensor:
    """Return the first samples of a tensor, as a view of at most `most` numbers (one at least).

    >>> first_samples(torch.zeros(64, 1000), most=5_000).shape
    torch.Size([5, 1000])
    """
    tensor = tensor.detach()
    if tensor.ndim == 0 or tensor.numel() <= most:
        return tensor
    return tensor[: max(1, most * tensor.shape[0] // tensor.numel())]


def _clips_below(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Return whether a call is a ReLU written as another function."""
    if name == "hardtanh":  # ReLU6 calls it with (0, 6)
        lowest = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
        return bool(lowest == 0)
    if name in ("clamp", "clamp_", "clamp_min", "clamp_min_"):
        lowest = args[1] if len(args) > 1 else kwargs.get("min")
        highest = args[2] if len(args) > 2 else kwargs.get("max")
        return isinstance(lowest, (int, float)) and lowest == 0 and highest is None
    return False


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from (one for one in value if isinstance(one, Tensor))


def constant(tensor: Tensor) -> Tensor | None:
    """Return how much a batch of outputs differs, over its largest size; None if it cannot be told.

        max over features of (max over samples - min over samples) / max |output|

    Of three-dimensional outputs the first two dimensions are taken as samples, whichever of them
    is time.

    >>> float(constant(torch.ones(4, 2)))
    0.0
    >>> round(float(constant(torch.tensor([[1.0], [2.0]]))), 2)
    0.5
    """
    if not tensor.is_floating_point() or tensor.ndim == 0 or tensor.shape[0] < 2:
        return None
    if tensor.dtype not in (torch.float32, torch.float64) or tensor.numel() == 0:
        return None
    read = first_samples(tensor)
    if read.shape[0] < 2:
        return None
    rows = read.flatten(0, 1) if read.ndim == 3 else read
    spread = (rows.amax(0) - rows.amin(0)).amax()
    return spread / rows.abs().amax().clamp_min(torch.finfo(rows.dtype).tiny)
