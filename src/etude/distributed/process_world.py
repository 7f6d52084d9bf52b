"""`World` over torch.distributed: shares of batches, means, decisions, one message at an end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer

from etude.distributed.communication import AGREED, Communication
from etude.distributed.exchange.check import refuse_exchange
from etude.distributed.exchange.table import exchange_of
from etude.distributed.failures import Failure, FailureNotes, is_lost
from etude.distributed.joint_gradient import DataParallelGradient
from etude.distributed.sharded_gradient import ShardedGradient
from etude.distributed.sharding import (
    explained,
    parted_state,
    refuse_sharding,
    shard,
    whole_state,
    whole_weights,
)
from etude.errors import BadValueError, EtudeError, TaskError, WorldError, shorten
from etude.optimizers import get as optimizer_row
from etude.recipe import Recipe
from etude.tasks.sources.shards import Slice, sharded_stream, sharded_sweep
from etude.tasks.sources.source import Batch, Cursor, Data
from etude.tasks.task import Task
from etude.training.objective import Context
from etude.training.regularisation import Penalty
from etude.training.world import Exchange, JointGradient, World

T = TypeVar("T")

PATIENCE = 3.0
"""Seconds to wait for the note of the process that failed, once the connection to it is lost."""


class ProcessWorld(World):
    """The processes of a group of torch.distributed; `etude.distributed.join` returns it.

    Args:
        device: The device of this process.
        control: The group over gloo for plain values.
        notes: Where processes leave why they failed.
        timeout: The seconds after which a process that does not answer counts as lost.
        find_unused: Whether parameters may get no gradient in some processes.
        shard: Whether each process keeps a part of every parameter, gradient and moment.
        owns: Whether leaving the world ends the process group.
    """

    def __init__(
        self,
        device: torch.device,
        control: dist.ProcessGroup,
        notes: FailureNotes,
        *,
        timeout: float,
        find_unused: bool = False,
        shard: bool = False,
        owns: bool = True,
    ) -> None:
        self.link = Communication(device, control)
        self.rank, self.size = self.link.rank, self.link.size
        self.timeout, self.find_unused = timeout, find_unused
        self._device, self._notes, self._owns = device, notes, owns
        self._shards = shard
        self._guarded = False
        self._exchanges: WeakSet[Exchange] = WeakSet()
        self._apart: dist.ProcessGroup | None = None

    def __repr__(self) -> str:
        return f"ProcessWorld(rank={self.rank}, size={self.size}, device='{self._device}')"

    def close(self) -> None:
        """End the process group, unless the caller made it; what is under way ends before."""
        for exchange in self._exchanges:
            exchange.settle()
        if self._owns and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self._device

    @property
    def shards(self) -> bool:
        """Whether each process keeps a part of every parameter instead of the whole model."""
        return self._shards

    @property
    def summary(self) -> dict[str, Any]:
        """The number of processes and how they communicate, as a note for a record."""
        found: dict[str, Any] = {"processes": self.size, "backend": str(dist.get_backend())}
        return {"world": {**found, "shard": True} if self._shards else found}

    # ---- what processes agree on -----------------------------------------------------------------

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is set in any process."""
        found = self.link.largest(torch.tensor([float(flag) for flag in flags]))
        return tuple(value > 0 for value in found.tolist())

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, in the order of their ranks."""
        return self.link.gather(value)

    def from_main(self, function: Callable[[], T]) -> T:
        """Return process 0's result of a function; its error is raised in every process."""
        outcome: tuple[T | None, BaseException | None] = None, None
        own: BaseException | None = None
        if self.is_main:
            try:
                outcome = function(), None
            except Exception as error:  # noqa: BLE001 - it is raised again, in every process
                own = error
                outcome = None, _portable(error)
        value, failure = self.link.from_first(outcome)
        if failure is not None:
            raise self.link.agreed(own or failure)
        return value  # type: ignore[no-any-return]

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.link.barrier()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """End every process at an error of one, with its message; only process 0 warns."""
        if self._guarded:
            yield
            return
        self._guarded = True
        self._notes.call += 1
        try:
            with warnings.catch_warnings():
                if not self.is_main:
                    warnings.simplefilter("ignore")
                yield
        except Exception as error:
            told = self._told(explained(error) if self._shards else error)
            if told is error:
                raise
            raise told from error
        finally:
            self._guarded = False

    def _told(self, error: Exception) -> Exception:
        """Return the error to raise here; if it is of this process, leave it to the others."""
        if getattr(error, AGREED, False):
            return error
        lost = is_lost(error)
        other = self._notes.read(PATIENCE if lost else 0.0)
        if lost and other is not None and other.rank != self.rank:
            return other.error(self.size)
        if lost:
            first = shorten(str(error).partition("\n")[0], 200)
            return WorldError(
                f"another process of {self.size} does not answer: it was killed, its machine has "
                f"no memory left, or the network was cut for longer than {self.timeout:g} s "
                f"({first})"
            )
        self._notes.write(Failure(self.rank, type(error).__name__, str(error)))
        return error

    # ---- what a run asks for ---------------------------------------------------------------------

    def stream(self, data: Data, batch_size: int, seed: int, cursor: Cursor) -> Iterator[Batch]:
        """Yield this process's share of the training batches; see `sharded_stream`."""
        return sharded_stream(data, batch_size, seed, cursor, rank=self.rank, size=self.size)

    def sweep(self, data: Data, batch_size: int, limit: int = 0) -> Iterator[list[Slice]]:
        """Yield this process's slices of a sweep; see `sharded_sweep`."""
        return sharded_sweep(data, batch_size, limit, rank=self.rank, size=self.size)

    def prepare(self, model: nn.Module) -> None:
        """Leave this process its part of every parameter, if the world shards them."""
        if self._shards:
            shard(model, self._device, self.size)

    def refuse(self, task: Task, recipe: Recipe, model: nn.Module, batch_size: int) -> None:
        """Raise for what several processes cannot train.

        Raises:
            BadValueError: If batches are smaller than the number of processes, or the optimizer
                needs the graph of the whole loss.
            TaskError: If the processes were given models that differ.
        """
        if batch_size < self.size:
            raise BadValueError(
                f"a batch of {batch_size} samples cannot be divided over {self.size} processes: "
                f"give batch_size >= {self.size}, or start fewer processes"
            )
        if self._shards:
            refuse_sharding(task, recipe, model)
        if optimizer_row(recipe.optimizer.name).closure == "graph":
            raise BadValueError(
                f"{recipe.optimizer.name} differentiates the gradient, which processes exchange "
                "without its graph: train it in one process, or choose another optimizer"
            )
        refuse_exchange(recipe, task, model, _default_group())
        shapes = [(name, tuple(p.shape), str(p.dtype)) for name, p in model.named_parameters()]
        everywhere = self.gather((shapes, recipe.digest))
        for rank, other in enumerate(everywhere):
            if other != everywhere[0]:
                what = "model" if other[0] != everywhere[0][0] else "recipe"
                raise self.link.agreed(
                    TaskError(
                        f"process {rank} of {self.size} has another {what} than process 0: start "
                        "every process with the same arguments"
                    )
                )

    def joint(
        self, task: Task, model: nn.Module, recipe: Recipe, penalty: Penalty, autocast: Context
    ) -> JointGradient:
        """Return what computes gradients with the other processes."""
        if self._shards:
            return ShardedGradient(task, model, penalty, autocast, self.link)
        return DataParallelGradient(
            task,
            model,
            penalty,
            autocast,
            self.link,
            find_unused=self.find_unused,
            exchange=self.exchange(recipe),
        )

    def exchange(self, recipe: Recipe) -> Exchange | None:
        """Return what replaces the plain mean of the gradients; None for the mean."""
        if recipe.compress is None:
            return None
        self._exchanges.add(found := exchange_of(recipe, self._exchange_group()))
        return found

    def _exchange_group(self) -> dist.ProcessGroup:
        """Return the group of an exchange.

        PowerSGD starts a collective where another has ended, in a thread of the group. With
        `find_unused` DDP starts one for the parameters that were used meanwhile. In one group their
        order could differ between processes, which would then wait for each other.
        """
        if not self.find_unused:
            return _default_group()
        if self._apart is None:
            self._apart = dist.new_group(timeout=timedelta(seconds=self.timeout))
        return self._apart

    def whole(self, state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
        """Return the state with the random state of every process."""
        random = self.gather(state["random"])
        if self._shards:
            state = whole_state(state, keeps=self.is_main)
        return {**state, "world": {"size": self.size, "random": random}}

    def parted(
        self, saved: Mapping[str, Any], model: nn.Module, optimizer: Optimizer
    ) -> Mapping[str, Any]:
        """Return a saved state with this process's part of every tensor."""
        return parted_state(saved, model, optimizer) if self._shards else saved

    def whole_weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Return the weights of a sharded model, whole in process 0; None if it is not sharded."""
        return whole_weights(model, keeps=self.is_main) if self._shards else None


def _default_group() -> dist.ProcessGroup:
    group = dist.group.WORLD
    assert group is not None
    return group


def _portable(error: Exception) -> Exception:
    """Return an error that can be sent to another process."""
    if isinstance(error, EtudeError):
        same = type(error)(error.said) if error.said else error
        return same
    return WorldError(f"process 0: {type(error).__name__}: {error}")
