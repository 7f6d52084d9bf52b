"""Processes that train alone for a while: what is common to local SGD and DiLoCo."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future

from etude.distributed.exchange.base import (
    Bucket,
    C,
    GradientExchange,
    average,
    mean_of,
    unchanged,
)
from etude.distributed.exchange.gather import gathered, own_part
from etude.optimizers.state import restore
from etude.training.gradient.clipping import clips_by_history
from etude.training.state.state import RunState


class LocalExchange(GradientExchange[C]):
    """Leaves gradients as they are after an update, and brings the weights together at times.

    Attributes:
        start: The first update without an exchange of gradients.
        period: The updates between two times at which weights are brought together.
    """

    start: int
    period: int

    def __init__(self, policy: C, group: dist.ProcessGroup) -> None:
        super().__init__(policy, group)
        self._loaded: dict[str, Tensor] = {}
        self._together = True
        self._run: Callable[[], RunState | None] = lambda: None

    def bind(self, state: RunState) -> None:
        """Prepare for a run, whose series of gradient norms differ between the processes."""
        super().bind(state)
        self._run = weakref.ref(state)  # a circle would free the run's memory late

    @property
    def model(self) -> nn.Module:
        """The model, not wrapped."""
        return self.setting.model

    @property
    def apart(self) -> bool:
        """Whether each process trains weights of its own now."""
        return self.step >= self.start

    def attach(self, ddp: Any) -> None:
        """Take over the exchange; wrapping gave every process the first one's weights."""
        super().attach(ddp)
        self._put(self._loaded)
        self._loaded = {}

    def exchange(self, bucket: Bucket) -> Future[Tensor]:
        """Return the process's own gradients; before `start` the mean."""
        return mean_of(self.group, bucket) if self.step < self.start else unchanged(bucket)

    def is_due(self, step: int) -> bool:
        """Whether weights are brought together after an update: at the last one in any case."""
        done = step + 1 - self.start
        return done > 0 and (done % self.period == 0 or step + 1 == self.setting.length)

    @torch.no_grad()
    def after_update(self, step: int, model: nn.Module) -> None:
        """Bring the weights together, if it is time."""
        self._together = step < self.start or self.is_due(step)
        if self.is_due(step):
            self.bring_together()
            for buffer, mean in zip(
                _buffers(self.model), average(self.group, _buffers(self.model)), strict=True
            ):
                buffer.copy_(mean)

    @abstractmethod
    def bring_together(self) -> None:
        """Give the parameters the same values in all processes."""

    @contextmanager
    def judged(self, model: nn.Module) -> Iterator[None]:
        """Give the model the mean weights of all processes inside a block, for an evaluation.

        Every process must enter it at the same update. What it sends is not counted: it serves an
        evaluation, not the training.
        """
        if self._together:
            yield
            return
        uncounted: Any = self.group.inner
        with torch.no_grad():
            tensors = [*_floating(model.parameters()), *_buffers(model)]
            kept = [t.detach().clone() for t in tensors]
            for tensor, mean in zip(tensors, average(uncounted, tensors), strict=True):
                tensor.copy_(mean)
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, own in zip(tensors, kept, strict=True):
                    tensor.copy_(own)

    # ---- state ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return weights, buffers and the optimizer's state of all processes."""
        tensors = dict(self.model.state_dict())
        kept = _mapped(self.setting.optimizer.state_dict()["state"], self._gathered)
        return {
            "model": _mapped(tensors, self._gathered),
            "optimizer": kept,
            "together": self._together,
            "norms": {name: self._gathered(norms) for name, norms in self._norms().items()},
        }

    def _norms(self) -> dict[str, Tensor]:
        """Return the norms of this process's gradients so far, where later updates clip by them."""
        run = self._run()
        if run is None or not clips_by_history(run.recipe):
            return {}
        series = run.series
        named = sorted(name for name in series if name.startswith("grad_norm"))
        return {name: torch.tensor(series[name], dtype=torch.float64) for name in named}

    def load(self, saved: Mapping[str, Any], processes: int) -> None:
        """Restore this process's weights, buffers and optimizer state."""
        self._together = bool(saved["together"])
        self._loaded = {name: self._own(stacked) for name, stacked in saved["model"].items()}
        self._put(self._loaded)
        if self.attached:
            self._loaded = {}
        optimizer = self.setting.optimizer
        whole = optimizer.state_dict()
        restore(optimizer, {**whole, "state": _mapped(saved["optimizer"], self._own)})
        run, norms = self._run(), saved.get("norms", {})  # older checkpoints have none
        if run is not None:
            run.series |= {name: self._own(found).tolist() for name, found in norms.items()}

    @torch.no_grad()
    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        own = self.model.state_dict()
        for name, tensor in tensors.items():
            own[name].copy_(tensor)

    def _gathered(self, tensor: Tensor) -> Tensor:
        return gathered(self.group.inner, tensor, self.device)

    def _own(self, stacked: Tensor) -> Tensor:
        return own_part(stacked, self.group.rank(), self.size)


def _floating(tensors: Any) -> list[Tensor]:
    return [t for t in tensors if t.is_floating_point() or t.is_complex()]


def _buffers(model: nn.Module) -> list[Tensor]:
    """Return the buffers that can be averaged, such as running means."""
    return _floating(model.buffers())


def _mapped(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a tree of dicts, lists and tuples with a function applied to its tensors."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: _mapped(value, function) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_mapped(value, function) for value in tree)
    return tree
