"""PowerSGD by torch's hook, with a state that is kept by parameter and survives a resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

from etude.distributed.exchange.base import ExchangeSetting, GradientExchange
from etude.distributed.exchange.gather import gathered, own_part
from etude.recipe_exchange import SMALLEST_START, PowerSGD

LEAST_RATE = 2
"""A matrix is sent whole unless P and Q together are less than half as large; torch's default."""

EPSILON = 1e-8
"""Added to the norm of a column: the gradient of a layer that is dead is 0, and 0/0 is NaN."""


class PowerSGDExchange(GradientExchange[PowerSGD]):
    """Sends each gradient matrix as the product of two thin ones.

    torch keeps the errors and the factors by bucket. DDP arranges its buckets anew after the first
    update, also after the first one of a resumed run, so here they are kept by parameter whenever
    the buckets change, and in checkpoints.

    Attributes:
        hook_state: The state of torch's hook.
        start: The first update that is compressed.
    """

    hook_state: PowerSGDState
    start: int

    def __init__(self, policy: PowerSGD, group: dist.ProcessGroup) -> None:
        super().__init__(policy, group)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._layouts: dict[int, tuple[str, ...]] = {}
        self._errors: dict[str, Tensor] = {}
        self._factors: dict[str, Tensor] = {}

    def prepare(self, setting: ExchangeSetting) -> None:
        """Make the state of torch's hook."""
        super().prepare(setting)
        self._shapes = {name: tuple(p.shape) for name, p in setting.model.named_parameters()}
        after_warmup = max(SMALLEST_START, setting.peak)
        self.start = after_warmup if self.policy.start is None else self.policy.start
        self.hook_state = PowerSGDState(
            self.group,
            matrix_approximation_rank=self.policy.rank,
            start_powerSGD_iter=self.start,
            min_compression_rate=LEAST_RATE,
            orthogonalization_epsilon=EPSILON,
            random_seed=setting.seed % 2**32,
        )

    def before_update(self, step: int) -> None:
        """Let torch's hook count as the run does."""
        super().before_update(step)
        self.hook_state.iter = step

    def exchange(self, bucket: dist.GradBucket) -> Future[Tensor]:
        """Return the mean of the compressed gradients; up to `start` of whole ones."""
        if self.hook_state.iter >= self.start:
            self._arrange(bucket)
        return powerSGD_hook(self.hook_state, bucket)

    # ---- buckets -------------------------------------------------------------------------------

    def _arrange(self, bucket: dist.GradBucket) -> None:
        """Give torch's hook the memory of the parameters that are in a bucket now."""
        index, names = bucket.index(), self.names_in(bucket)
        if self._layouts.get(index) == names:
            return
        for other, held in list(self._layouts.items()):
            # Another bucket of the same update may still be on its way: it shares no parameter.
            if other == index or not set(held).isdisjoint(names):
                self._take_out(other)
        self._layouts[index] = names
        buffer = bucket.buffer()
        if any(name in self._errors for name in names):
            parts = [self._errors.pop(n, None) for n in names]
            sizes = [_size(self._shapes[n]) for n in names]
            flat = [
                buffer.new_zeros(size) if part is None else part.reshape(-1).to(buffer)
                for part, size in zip(parts, sizes, strict=True)
            ]
            self.hook_state.error_dict[index] = torch.cat(flat)
        compressed = self.compressed(names)
        if self._factors.keys() >= set(compressed) and self._were_compressed(index):
            factors = [self._factors.pop(name).reshape(-1).to(buffer) for name in compressed]
            whole = torch.cat(factors) if factors else buffer.new_empty(0)
            rows = sum(self._shapes[n][0] * self.rank_of(n) for n in compressed)
            self.hook_state.q_memory_dict[index] = whole
            self.hook_state.p_memory_dict[index] = buffer.new_empty(rows)

    def _were_compressed(self, index: int) -> bool:
        """Whether a bucket's parameters were compressed before: only then there are errors."""
        return index in self.hook_state.error_dict

    def _take_out(self, index: int) -> None:
        """Keep a bucket's memory by parameter, and take it from torch's hook."""
        errors, factors = self._memory_of(index)
        self._errors |= errors
        self._factors |= factors
        del self._layouts[index]
        for held in (
            self.hook_state.error_dict,
            self.hook_state.p_memory_dict,
            self.hook_state.q_memory_dict,
        ):
            held.pop(index, None)

    def _memory_of(self, index: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the errors and the factors of a bucket by parameter."""
        names = self._layouts[index]
        errors = _split(self.hook_state.error_dict.get(index), names,
                        [_size(self._shapes[n]) for n in names])  # fmt: skip
        compressed = self.compressed(names)
        sizes = [
            _size(self._shapes[n]) // self._shapes[n][0] * self.rank_of(n) for n in compressed
        ]
        return errors, _split(self.hook_state.q_memory_dict.get(index), compressed, sizes)

    def compressed(self, names: Sequence[str]) -> list[str]:
        """Return which parameters of a bucket are compressed, in the order of torch's memory."""
        by_shape: dict[tuple[int, int], list[str]] = {}
        for name in names:
            shape = self._shapes[name]
            rows, columns = shape[0], _size(shape) // shape[0]
            if (rows + columns) * self.rank_of(name) * LEAST_RATE < rows * columns:
                by_shape.setdefault((rows, columns), []).append(name)
        return [name for alike in by_shape.values() for name in alike]

    def rank_of(self, name: str) -> int:
        """Return the number of columns of a parameter's factors."""
        shape = self._shapes[name]
        return min(shape[0], _size(shape) // shape[0], self.policy.rank)

    # ---- state ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the errors of all processes, the factors Q, and the generator of new factors."""
        errors, factors = dict(self._errors), dict(self._factors)
        for index in self._layouts:
            more_errors, more_factors = self._memory_of(index)
            errors |= more_errors
            factors |= more_factors
        kind, keys, place, has_gauss, gauss = self.hook_state.rng.get_state()
        group, device = self.group.inner, self.device
        return {
            "iteration": self.hook_state.iter,
            "errors": {n: gathered(group, errors[n], device) for n in sorted(errors)},
            "factors": {n: factors[n].detach().cpu().clone() for n in sorted(factors)},
            "generator": {
                "kind": kind,
                "keys": torch.from_numpy(keys.astype(np.int64)),
                "place": int(place),
                "has_gauss": int(has_gauss),
                "gauss": float(gauss),
            },
        }

    def load(self, saved: Mapping[str, Any], processes: int) -> None:
        """Restore errors, factors and the generator."""
        rank = self.group.rank()
        self._layouts.clear()
        for held in (
            self.hook_state.error_dict,
            self.hook_state.p_memory_dict,
            self.hook_state.q_memory_dict,
        ):
            held.clear()
        self._errors = {n: own_part(e, rank, self.size) for n, e in saved["errors"].items()}
        self._factors = {n: factor.clone() for n, factor in saved["factors"].items()}
        self.hook_state.iter = int(saved["iteration"])
        rng = saved["generator"]
        keys = rng["keys"].numpy().astype(np.uint32)
        self.hook_state.rng.set_state(
            (rng["kind"], keys, rng["place"], rng["has_gauss"], rng["gauss"])
        )


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _split(flat: Tensor | None, names: Sequence[str], sizes: Sequence[int]) -> dict[str, Tensor]:
    """Return the parts of a flat tensor by name; nothing for None."""
    if flat is None:
        return {}
    return dict(zip(names, (part.clone() for part in flat.split(list(sizes))), strict=True))
