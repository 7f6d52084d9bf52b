"""The gradient of one update over several processes, by torch's `DistributedDataParallel`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from inspect import signature
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from etude.distributed.batch_norm import LoneValueNorms, SynchronisedNorms
from etude.distributed.communication import Communication
from etude.errors import TaskError
from etude.tasks.loss.weighted import WeightedLoss
from etude.tasks.sources.shards import Shard
from etude.tasks.task import Task
from etude.torch_internals import BATCH_NORMS
from etude.training.objective import Context
from etude.training.regularisation import Penalty
from etude.training.state.snapshot import Snapshot
from etude.training.world import Exchange, JointGradient

_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel.__init__).parameters
)
"""The argument that says whether process 0 sends its buffers before each forward pass."""

FIX = (
    "give find_unused=True (--find-unused), which counts its gradient as 0 there, or set its "
    "requires_grad to False if no batch needs it"
)


LONE_VALUE = (
    "between two exchanges each process normalises its own share of a batch, and batch "
    "normalisation needs more than 1 value per channel there: give a larger batch_size, or a "
    "compress that exchanges gradients, such as 'powersgd'"
)


class LossOfShare(nn.Module):
    """The loss of a share as a module, which DDP can wrap whatever a task's step calls.

    Args:
        task: The task.
        model: The network.
        penalty: The recipe's penalty.
    """

    def __init__(self, task: Task, model: nn.Module, penalty: Penalty) -> None:
        super().__init__()
        self.model = model
        self._task, self._penalty = task, penalty
        self.found: tuple[WeightedLoss, Any] | None = None

    def forward(self, batch: Any) -> Tensor | tuple[Tensor, Tensor]:
        """Return the loss, and the penalty if there is one; the rest stands in `found`."""
        with self._penalty.watching():
            loss, output, _ = self._task.weighed(self.model, batch)
        self.found = loss, output
        return (loss.mean, self._penalty.value()) if self._penalty else loss.mean


class DataParallelGradient(JointGradient):
    """Averages the gradients of several processes.

    Args:
        task: The task, with the loss that is trained.
        model: The network.
        penalty: The recipe's penalty.
        autocast: A factory of the context of the forward pass.
        link: How this process talks to the others.
        find_unused: Whether parameters may get no gradient in some processes.
        wraps: Whether the gradients are averaged by DDP; else the model does it itself.
        exchange: What replaces the plain mean of the gradients.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        penalty: Penalty,
        autocast: Context,
        link: Communication,
        *,
        find_unused: bool = False,
        wraps: bool = True,
        exchange: Exchange | None = None,
    ) -> None:
        self.exchange = exchange
        self._model, self._autocast, self._link = model, autocast, link
        self._loss = LossOfShare(task, model, penalty)
        self._find_unused, self._wraps = find_unused, wraps
        self._draws = task.train.draws
        self._ddp: DistributedDataParallel | None = None
        self._named: dict[int, str] = {}
        self._reached: set[int] = set()
        self._handles: list[Any] = []

    # ---- losses ----------------------------------------------------------------------------------

    def forward(self, shard: Shard) -> tuple[WeightedLoss, Tensor | None]:
        """Return the loss and the penalty of a share, scaled so that their mean is the batch's."""
        apart = self.exchange is not None and self.exchange.apart
        with LoneValueNorms(LONE_VALUE) if apart else self.normalising(shard):
            found = (self._ddp or self._loss)(shard.batch)
        return self._scaled(found, shard)

    def own(self, shard: Shard) -> tuple[WeightedLoss, Tensor | None]:
        """Return the loss and the penalty of this process's share alone."""
        with self.alone():
            found = self._loss(shard.batch)
        loss, _ = self._taken()
        mean, penalty = found if isinstance(found, tuple) else (found, None)
        return replace(loss, mean=mean), penalty

    def alone(self) -> LoneValueNorms:
        """Return the context in which a share of one sample can be computed by itself."""
        return LoneValueNorms()

    def normalising(self, shard: Shard) -> SynchronisedNorms:
        """Return the context in which batch normalisation sees the whole batch."""
        return SynchronisedNorms(self._link.sum_in_graph, counts=shard.rows > 0)

    def joined(self, loss: WeightedLoss, shard: Shard, output: Any = None) -> WeightedLoss:
        """Return a loss such that the mean over the processes is that of the whole batch.

            L_r · w_r R / Σ_r w_r    with the weight Σ_r w_r

        It has a graph even if none of its targets counts, because every process must take part.

        Args:
            loss: The loss of a share.
            shard: The share.
            output: The model's output, if it is known.
        """
        known = loss.weight is not None
        weight = loss.weight if loss.weight is not None and shard.rows else float(0)
        mine, everyone = self._link.weights(weight, float(shard.rows), known or not shard.rows)
        if isinstance(mine, float) and mine == 0:
            return WeightedLoss(self._idle(loss.mean, output), everyone)
        factor = mine * self._link.size / _divisor(everyone)
        scaled = replace(loss, weight=mine).times(factor)
        return WeightedLoss(scaled, everyone)

    def _taken(self) -> tuple[WeightedLoss, Any]:
        assert self._loss.found is not None
        found, self._loss.found = self._loss.found, None
        return found

    def _scaled(self, found: Any, shard: Shard) -> tuple[WeightedLoss, Tensor | None]:
        loss, output = self._taken()
        mean, penalty = found if isinstance(found, tuple) else (found, None)
        whole = self.joined(replace(loss, mean=mean), shard, output)
        if penalty is not None:
            penalty = penalty * (shard.rows * self._link.size / shard.total)
        return whole, penalty

    def _idle(self, mean: Tensor, output: Any) -> Tensor:
        """Return a loss of 0 with a gradient of 0 for everything that the share reaches."""
        if bool(torch.isfinite(mean)) and mean.requires_grad:
            return mean * 0
        found = [t.sum() * 0 for t in floating(output) if t.requires_grad]
        found += [p.sum() * 0 for p in self._model.parameters() if p.requires_grad]
        return torch.stack([one.to(mean.dtype) for one in found]).sum()

    # ---- gradients -------------------------------------------------------------------------------

    def each(self, batches: Iterable[Shard], count: int, add: Callable[[Shard], None]) -> None:
        """Call `add`, which does a backward pass, on each batch; exchange gradients in the last.

        Raises:
            TaskError: If a parameter gets a gradient in some processes and none in others.
        """
        waiting = iter(batches)
        if self._ddp is None and self._wraps:
            first = next(waiting)
            self._wrap(first)
            waiting = chain([first], waiting)
        for index, batch in enumerate(waiting):
            with ExitStack() as stack:
                if index < count - 1 and self._ddp is not None:
                    stack.enter_context(self._ddp.no_sync())
                self._reached.clear()
                add(batch)
        if self._handles:
            self._refuse_unreached()

    def _wrap(self, first: Shard) -> None:
        """Wrap the model, after the parameters that a batch reaches were compared."""
        trained = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
        unreached = self._unreached(first, list(trained.values()))
        names = [name for name, missing in zip(trained, unreached, strict=True) if missing]
        everywhere = self._link.gather(names)
        find_unused = self._find_unused or bool(names)
        if not self._find_unused and any(one != everywhere[0] for one in everywhere):
            self._refuse_difference(everywhere)
        buffers: dict[str, Any] = {_SYNC_BUFFERS: has_other_buffers(self._model)}
        self._ddp = DistributedDataParallel(
            self._loss,
            find_unused_parameters=find_unused,
            **buffers,
        )
        if self.exchange is not None:
            self.exchange.attach(self._ddp)
        if not find_unused:
            self._named = {id(parameter): name for name, parameter in trained.items()}
            for parameter in trained.values():
                handle = parameter.register_post_accumulate_grad_hook(self._note)  # type: ignore[no-untyped-call]
                self._handles.append(handle)

    def _note(self, parameter: Tensor) -> None:
        self._reached.add(id(parameter))

    def _unreached(self, shard: Shard, parameters: list[nn.Parameter]) -> list[bool]:
        """Return for each parameter whether the loss of a share does not depend on it."""
        kept = Snapshot(self._model, self._draws)
        try:
            with self._autocast():
                loss, penalty = self.own(shard)
            total = loss.mean if penalty is None else loss.mean + penalty
            if not total.requires_grad:
                return [True] * len(parameters)
            found = torch.autograd.grad(total, parameters, allow_unused=True)
        finally:
            kept.restore()
        return [gradient is None for gradient in found]

    def _refuse_difference(self, everywhere: list[list[str]]) -> None:
        common = set(everywhere[0]).intersection(*everywhere)
        for rank, names in enumerate(everywhere):
            own = [name for name in names if name not in common]
            if own:
                error = TaskError(_unreached_text(own, rank, len(everywhere), "the first update"))
                raise self._link.agreed(error)

    def _refuse_unreached(self) -> None:
        missing = [name for key, name in self._named.items() if key not in self._reached]
        if missing:
            link = self._link
            raise TaskError(_unreached_text(missing, link.rank, link.size, "a later update"))

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace tensors by their mean over the processes."""
        self._link.average(gradients)

    def average_of(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradients of parameters by their mean; None counts as 0 where one has it."""
        flags = torch.tensor([float(p.grad is not None) for p in parameters], dtype=torch.float64)
        present = self._link.sums(flags).tolist()
        for parameter, count in zip(parameters, present, strict=True):
            if count and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._link.average([p.grad for p in parameters if p.grad is not None])

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean of each value over the processes, with the same bits on all of them."""
        stacked = torch.stack([value.detach().double() for value in values.values()])
        means = self._link.sums(stacked, on_device=True) / self._link.size
        return {
            name: mean.to(value.dtype)
            for (name, value), mean in zip(values.items(), means, strict=True)
        }

    def close(self) -> None:
        """Remove the hooks from the model's parameters."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._ddp = None


def _unreached_text(names: Sequence[str], rank: int, size: int, when: str) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"the parameter {names[0]!r}{more} got no gradient in process {rank} of {size} in {when}, "
        f"and got one in another: the loss of that share does not depend on it; {FIX}"
    )


def _divisor(weight: float | Tensor) -> float | Tensor:
    if isinstance(weight, Tensor):
        return torch.where(weight > 0, weight, torch.ones_like(weight))
    return weight or 1.0


def floating(value: Any) -> Iterable[Tensor]:
    """Yield the tensors of floating-point numbers in nested mappings, tuples and lists."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from floating(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from floating(part)


def has_other_buffers(model: nn.Module) -> bool:
    """Return whether a model has buffers other than the statistics of batch normalisation."""
    return any(
        not isinstance(module, BATCH_NORMS) and any(True for _ in module.buffers(recurse=False))
        for module in model.modules()
    )
