"""PowerSGD by torch's hook, on all gradients at once, with a state that survives a resume."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import (
    PowerSGDState,
    powerSGD_hook,
)
from torch.futures import Future

from etude.distributed.exchange.base import Bucket, ExchangeSetting, GradientExchange, mean_of
from etude.distributed.exchange.gather import gathered, own_part
from etude.randomness import derive_seed
from etude.recipe_exchange import SMALLEST_START, PowerSGD

LEAST_RATE = 2
"""A matrix is sent whole unless P and Q together are less than half as large; torch's default."""

EPSILON = 1e-8
"""Added to the norm of a column: the gradient of a layer that is dead is 0, and 0/0 is NaN."""


WHOLE_SHARE = 200
"""By default at most one update in so many is sent whole: it costs as much as 20 to 30 others."""


def usual_start(peak: int, length: int) -> int:
    """Return the first update that is compressed by default: the end of a short warmup.

        max(2, min(peak, length / 200))

    Args:
        peak: The update at which the schedule's warmup ends.
        length: The updates of the run.

    >>> usual_start(60, 1200), usual_start(3, 1200), usual_start(0, 100)
    (6, 3, 2)
    """
    return max(SMALLEST_START, min(peak, length // WHOLE_SHARE))


def exchanged_type(types: Iterable[torch.dtype]) -> torch.dtype:
    """Return the type in which gradients of these types are sent: one that holds all of them.

    It is float32 for float16, in which `EPSILON` would be 0.

    >>> exchanged_type([torch.bfloat16, torch.float32]), exchanged_type([torch.float16])
    (torch.float32, torch.float32)
    """
    found = reduce(torch.promote_types, types)
    return torch.float32 if found == torch.float16 else found


class WholeGradient:
    """All gradients of an update as the one bucket that torch's hook sees.

    DDP arranges its buckets anew after the first update, also after the first one of a resumed run.
    Products of matrices depend on where these lie in memory, in the last bit. Here every parameter
    has its place in the order of the model, whatever DDP does. It also saves messages: torch's hook
    sends three for each bucket.

    Args:
        shapes: The shapes of the parameters, by name in their order.
        like: A gradient, for type and device.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], like: Tensor) -> None:
        self.shapes = dict(shapes)
        self.names = tuple(shapes)
        self._flat = like.new_zeros(sum(map(_size, shapes.values())))

    def buffer(self) -> Tensor:
        """Return all gradients, flat."""
        return self._flat

    def gradients(self) -> list[Tensor]:
        """Return the gradients, as views of the buffer."""
        parts = torch.split(self._flat, [_size(shape) for shape in self.shapes.values()])
        return [part.view(s) for part, s in zip(parts, self.shapes.values(), strict=True)]

    def index(self) -> int:
        """Return the number of the bucket."""
        return 0

    def is_last(self) -> bool:
        """Return that no other bucket follows."""
        return True

    def compressed(self, rank: int) -> dict[str, tuple[int, int]]:
        """Return rows and columns of the parameters that are compressed, in torch's order."""
        by_shape: dict[tuple[int, int], list[str]] = {}
        for name, shape in self.shapes.items():
            rows, columns = shape[0], _size(shape) // shape[0]
            if (rows + columns) * min(rows, columns, rank) * LEAST_RATE < rows * columns:
                by_shape.setdefault((rows, columns), []).append(name)
        return {name: shape for shape, names in by_shape.items() for name in names}


class PowerSGDExchange(GradientExchange[PowerSGD]):
    """Sends each gradient matrix as the product of two thin ones.

    Attributes:
        hook_state: The state of torch's hook.
        start: The first update that is compressed.
    """

    hook_state: PowerSGDState
    start: int

    def __init__(self, policy: PowerSGD, group: dist.ProcessGroup) -> None:
        super().__init__(policy, group)
        self._whole: WholeGradient | None = None
        self._waiting: list[tuple[Future[Tensor], Tensor]] = []
        self._views: dict[str, Tensor] = {}
        self._errors: dict[str, Tensor] = {}
        self._factors: dict[str, Tensor] = {}
        self._before: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}

    def prepare(self, setting: ExchangeSetting) -> None:
        """Make the state of torch's hook."""
        super().prepare(setting)
        self.start = self.policy.start or usual_start(setting.peak, setting.length)
        self.hook_state = PowerSGDState(
            self.group,
            matrix_approximation_rank=self.policy.rank,
            start_powerSGD_iter=self.start,
            min_compression_rate=LEAST_RATE,
            orthogonalization_epsilon=EPSILON,
        )

    def before_update(self, step: int) -> None:
        """Let torch's hook count as the run does."""
        super().before_update(step)
        self.hook_state.iter = step
        self._views.clear()
        self._waiting.clear()
        if self.setting.scaled:
            self._before = self._memory()

    def go_back(self, factor: float) -> None:
        """Keep errors and factors as they were before the update."""
        self._take_out()
        self._errors, self._factors = self._before
        super().go_back(factor)

    def rescale(self, factor: float) -> None:
        """Multiply the errors; the factors are orthogonalised, whatever their size."""
        self._errors = {name: error * factor for name, error in self._errors.items()}
        for error in self.hook_state.error_dict.values():
            error.mul_(factor)

    def settle(self) -> None:
        """Also end what waits for gradients that do not come any more."""
        for later, _ in self._waiting:
            later.set_exception(RuntimeError("an error has cut off the update"))  # type: ignore[arg-type]
        self._waiting.clear()
        super().settle()

    def exchange(self, bucket: Bucket) -> Future[Tensor]:
        """Return the mean of the compressed gradients, once all buckets are there."""
        if self.step < self.start:
            return mean_of(self.group, bucket)
        gradients = bucket.gradients()
        self._views |= dict(zip(self.names_in(bucket), gradients, strict=True))
        if not bucket.is_last():
            place = bucket.buffer().device
            devices: list[int | str | torch.device] = [] if place.type == "cpu" else [place]
            later: Future[Tensor] = Future(devices=devices)
            self._waiting.append((later, bucket.buffer()))
            return later
        return self._compress(bucket.buffer())

    def _compress(self, last: Tensor) -> Future[Tensor]:
        """Let torch's hook work on all gradients; its result goes back to DDP's buckets."""
        whole, views = self._gathered_from_buckets(last), dict(self._views)
        waiting, self._waiting = self._waiting, []

        def handed_back(done: Future[Tensor]) -> Tensor:
            try:
                done.value()
                for name, gradient in zip(whole.names, whole.gradients(), strict=True):
                    views[name].copy_(gradient)
            except Exception as error:
                for later, _ in waiting:
                    later.set_exception(error)  # type: ignore[arg-type]
                raise
            for later, buffer in waiting:
                later.set_result(buffer)
            return last

        return powerSGD_hook(self.hook_state, whole).then(handed_back)

    def _gathered_from_buckets(self, like: Tensor) -> WholeGradient:
        """Copy the gradients of all buckets into one, in the order of the model."""
        names = [name for name in self._names.values() if name in self._views]
        whole = self._whole
        if whole is None or whole.names != tuple(names):
            self._take_out()
            shapes = {name: tuple(self._views[name].shape) for name in names}
            kind = exchanged_type(self._views[name].dtype for name in names)
            whole = self._whole = WholeGradient(shapes, like.new_empty(0, dtype=kind))
            self._put_in(whole)
        for name, gradient in zip(whole.names, whole.gradients(), strict=True):
            gradient.copy_(self._views[name])
        return whole

    # ---- the memory of torch's hook ------------------------------------------------------------

    def _memory(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the errors and the factors Q by parameter."""
        if self._whole is None:
            return dict(self._errors), dict(self._factors)
        whole, state = self._whole, self.hook_state
        compressed = whole.compressed(self.policy.rank)
        sizes = [c * min(r, c, self.policy.rank) for r, c in compressed.values()]
        errors = _split(state.error_dict.get(0), whole.names, map(_size, whole.shapes.values()))
        return errors, _split(state.q_memory_dict.get(0), tuple(compressed), sizes)

    def _take_out(self) -> None:
        """Keep the memory by parameter, and take it from torch's hook."""
        self._errors, self._factors = self._memory()
        self._whole = None
        state = self.hook_state
        for held in (state.error_dict, state.p_memory_dict, state.q_memory_dict):
            held.clear()

    def _put_in(self, whole: WholeGradient) -> None:
        """Give torch's hook the memory that was kept."""
        flat, state = whole.buffer(), self.hook_state
        if self._errors:
            state.error_dict[0] = torch.cat(
                [
                    self._errors.get(name, flat.new_zeros(_size(shape))).to(flat)
                    for name, shape in whole.shapes.items()
                ]
            )
        compressed = whole.compressed(self.policy.rank)
        ranks = {n: min(r, c, self.policy.rank) for n, (r, c) in compressed.items()}
        factors = [
            self._factors[n] if n in self._factors else self._drawn(n, c * ranks[n])
            for n, (_, c) in compressed.items()
        ]
        state.q_memory_dict[0] = torch.cat([flat.new_empty(0), *(f.to(flat) for f in factors)])
        rows = sum(r * ranks[n] for n, (r, _) in compressed.items())
        state.p_memory_dict[0] = flat.new_empty(rows)
        self._errors, self._factors = {}, {}

    def _drawn(self, name: str, count: int) -> Tensor:
        """Return the first factor of a parameter, which depends on its name and the seed alone.

        torch would draw it from the global generator.
        """
        draw = torch.Generator().manual_seed(derive_seed(self.setting.seed, name))
        return torch.randn(count, generator=draw, dtype=torch.float64)

    # ---- state ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the errors of all processes, and the factors Q, which are equal in all."""
        errors, factors = self._memory()
        group, device = self.group.inner, self.device
        return {
            "iteration": self.hook_state.iter,
            "errors": {n: gathered(group, errors[n], device) for n in sorted(errors)},
            "factors": {n: factors[n].detach().cpu().clone() for n in sorted(factors)},
        }

    def load(self, saved: Mapping[str, Any], processes: int) -> None:
        """Restore errors and factors."""
        self._take_out()
        rank = self.group.rank()
        self._errors = {n: own_part(e, rank, self.size) for n, e in saved["errors"].items()}
        self._factors = {n: factor.clone() for n, factor in saved["factors"].items()}
        self.hook_state.iter = int(saved["iteration"])


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _split(flat: Tensor | None, names: Sequence[str], sizes: Any) -> dict[str, Tensor]:
    """Return the parts of a flat tensor by name; nothing for None."""
    if flat is None:
        return {}
    return dict(zip(names, (part.clone() for part in torch.split(flat, list(sizes))), strict=True))
