"""`World`: the processes that train one run together, and everything that they agree on.

A run asks its world for its share of each batch, for means over all processes and for decisions.
By default the world is one process, whose answers are its own. `etude.distributed` implements it
for several.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etude.errors import BadTypeError, BadValueError, shown
from etude.recipe import Recipe
from etude.tasks.loss.weighted import WeightedLoss
from etude.tasks.sources.shards import Slice, sharded_sweep
from etude.tasks.sources.source import Batch, Cursor, Data
from etude.tasks.task import Task
from etude.training.regularisation import Penalty

T = TypeVar("T")


class Exchange(Protocol):
    """How processes exchange their gradients or weights, where that is not DDP's plain mean."""

    @property
    def bytes_sent(self) -> int:
        """The number of bytes that this process has sent so far."""

    @property
    def apart(self) -> bool:
        """Whether each process trains weights of its own now."""

    @property
    def told(self) -> str:
        """What a user should know of it; empty for nothing."""

    def bind(self, state: Any) -> None:
        """Prepare for a run, before a state is loaded; `state` is its `RunState`."""

    def attach(self, ddp: nn.Module) -> None:
        """Register the hook, after the model was wrapped in `DistributedDataParallel`."""

    def before_update(self, step: int) -> None:
        """Called before the gradient of update `step` is computed."""

    def after_update(self, step: int, model: nn.Module) -> None:
        """Called after the optimizer's step of update `step`, with the unwrapped model."""

    def go_back(self, factor: float) -> None:
        """Forget the gradient of an update, which is taken again with the loss `factor` times."""

    def rescale(self, factor: float) -> None:
        """Multiply what is kept of gradients: the loss is `factor` times as large from now on."""

    def settle(self) -> None:
        """Wait until nothing of an update that was cut off is under way."""

    def judged(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which the model has the weights to evaluate."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all processes, for a checkpoint; each of them must call it."""

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class JointGradient(ABC):
    """Computes the gradient of an update together with the other processes.

    The loss of a batch is the mean over the shares of all processes,

        L = Σ_r w_r L_r / Σ_r w_r

    with L_r the loss of a share and w_r its weight (the number of targets that count), or its
    number of samples if the weight is not known.

    Attributes:
        exchange: What replaces the plain mean of the gradients; None for the mean.
    """

    exchange: Exchange | None = None

    @abstractmethod
    def forward(self, shard: Any) -> tuple[WeightedLoss, Tensor | None]:
        """Return the loss and the penalty of a share, scaled so that their mean is the batch's."""

    @abstractmethod
    def own(self, shard: Any) -> tuple[WeightedLoss, Tensor | None]:
        """Return the loss and the penalty of this process's share alone."""

    @abstractmethod
    def each(self, batches: Iterable[Any], count: int, add: Callable[[Any], None]) -> None:
        """Call `add`, which does a backward pass, on each batch; exchange gradients in the last."""

    @abstractmethod
    def normalising(self, shard: Any) -> AbstractContextManager[Any]:
        """Return the context in which batch normalisation sees the whole batch."""

    @abstractmethod
    def alone(self) -> AbstractContextManager[Any]:
        """Return the context in which a share of one sample can be computed by itself."""

    @abstractmethod
    def joined(self, loss: WeightedLoss, shard: Any) -> WeightedLoss:
        """Return a loss such that the mean over the processes is that of the whole batch."""

    @abstractmethod
    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace tensors by their mean over the processes."""

    @abstractmethod
    def average_of(self, parameters: Sequence[Tensor]) -> None:
        """Replace gradients of parameters by their mean; None counts as 0 where one has it."""

    @abstractmethod
    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean of each value over the processes, with the same bits on all of them."""

    @abstractmethod
    def close(self) -> None:
        """Remove what was attached to the model."""


class World(ABC):
    """The processes that train one run together.

    Attributes:
        rank: The number of this process, from 0.
        size: The number of processes.
    """

    rank: int = 0
    size: int = 1

    def __deepcopy__(self, memo: dict[int, Any]) -> World:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027  (one process holds nothing)
        """Leave the other processes."""

    @property
    def is_main(self) -> bool:
        """Whether this process, alone, writes files and prints."""
        return self.rank == 0

    @property
    def device(self) -> torch.device | None:
        """The device of this process; None leaves the choice to the run."""
        return None

    @property
    def shards(self) -> bool:
        """Whether each process keeps a part of every parameter instead of the whole model."""
        return False

    @property
    def summary(self) -> dict[str, Any]:
        """What a record notes of it."""
        return {}

    # ---- what processes agree on -----------------------------------------------------------------

    @abstractmethod
    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is set in any process."""

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, in the order of their ranks."""

    @abstractmethod
    def from_main(self, function: Callable[[], T]) -> T:
        """Return the main process's result of a function, which only this process calls.

        An error that it raises is raised in every process.
        """

    @abstractmethod
    def barrier(self) -> None:
        """Wait until every process has come here."""

    @abstractmethod
    def guard(self) -> AbstractContextManager[None]:
        """Return a context in which an error of one process ends all of them, with its message."""

    # ---- what a run asks for ---------------------------------------------------------------------

    @abstractmethod
    def stream(self, data: Data, batch_size: int, seed: int, cursor: Cursor) -> Iterator[Batch]:
        """Yield this process's share of the training batches; see `Data.stream`."""

    @abstractmethod
    def sweep(self, data: Data, batch_size: int, limit: int = 0) -> Iterator[list[Slice]]:
        """Yield this process's slices of a sweep, in groups of at most `limit` samples."""

    @abstractmethod
    def prepare(self, model: nn.Module) -> None:
        """Change a new model as the processes need it, before its optimizer is built."""

    @abstractmethod
    def refuse(self, task: Task, recipe: Recipe, model: nn.Module, batch_size: int) -> None:
        """Raise for what several processes cannot train."""

    @abstractmethod
    def joint(
        self,
        task: Task,
        model: nn.Module,
        recipe: Recipe,
        penalty: Penalty,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> JointGradient | None:
        """Return what computes gradients together; None if there is one process."""

    @abstractmethod
    def whole(self, state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
        """Return a run's state with the whole of what the processes keep in parts.

        Every process must call it; only the main one needs to get whole tensors.
        """

    def parted(
        self, saved: Mapping[str, Any], model: nn.Module, optimizer: Optimizer
    ) -> Mapping[str, Any]:
        """Return a saved state as this process keeps it; the opposite of `whole`."""
        return saved

    def whole_weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Return the weights of a model that is kept in parts; None if it is whole.

        Every process must call it; only the main one needs to get whole tensors.
        """
        return None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Train every run that starts in the block in this world."""
        token = _CURRENT.set(self)
        try:
            with self.guard():
                yield
        finally:
            _CURRENT.reset(token)


class SingleProcess(World):
    """The world of one process: no communication, and the batches as they are.

    >>> SingleProcess().any(True, False), SingleProcess().gather("mine")
    ((True, False), ['mine'])
    """

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return the flags."""
        return flags

    def gather(self, value: Any) -> list[Any]:
        """Return the value, in a list."""
        return [value]

    def from_main(self, function: Callable[[], T]) -> T:
        """Call the function."""
        return function()

    def barrier(self) -> None:
        """Do nothing."""

    def guard(self) -> AbstractContextManager[None]:
        """Return an empty context."""
        return nullcontext()

    def stream(self, data: Data, batch_size: int, seed: int, cursor: Cursor) -> Iterator[Batch]:
        """Return the data's own stream."""
        return data.stream(batch_size, seed, cursor)

    def sweep(self, data: Data, batch_size: int, limit: int = 0) -> Iterator[list[Slice]]:
        """Yield every slice."""
        return sharded_sweep(data, batch_size, limit, rank=0, size=1)

    def prepare(self, model: nn.Module) -> None:
        """Do nothing."""

    def refuse(self, task: Task, recipe: Recipe, model: nn.Module, batch_size: int) -> None:
        """Raise for an exchange of gradients, for which there is no other process."""
        if recipe.compress is not None:
            raise BadValueError(
                f"compress={repr(recipe.compress)!r} says how processes exchange gradients, and "
                "this run has one process: train it in several, or leave compress out"
            )

    def joint(
        self,
        task: Task,
        model: nn.Module,
        recipe: Recipe,
        penalty: Penalty,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> JointGradient | None:
        """Return None."""
        return None

    def whole(self, state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
        """Return the state."""
        return state


def refuse_sharded(world: World, what: str) -> None:
    """Raise if the processes of a world keep parts of the model, for what needs the whole.

    Raises:
        BadValueError: If they do.
    """
    if world.shards:
        raise BadValueError(
            f"{what} needs whole weights, and shard leaves every process a part of them: only "
            "`train` works with shard, without observers and watch"
        )


SINGLE = SingleProcess()

_CURRENT: ContextVar[World] = ContextVar("world", default=SINGLE)


def current() -> World:
    """Return the world in which runs are trained now: one process, unless a call set another."""
    return _CURRENT.get()


def given(world: World | None) -> World:
    """Return the world that a caller gave, else the current one.

    Raises:
        BadTypeError: If it is something else.
    """
    if world is None:
        return current()
    if not isinstance(world, World):
        raise BadTypeError(
            f"world is {shown(world)}: give the result of etude.distributed.join(), or leave it "
            "out to train in one process"
        )
    return world
