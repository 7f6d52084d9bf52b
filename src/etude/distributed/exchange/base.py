"""What every way to exchange gradients has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future
from torch.optim import Optimizer

from etude.distributed.exchange.counting import CountingGroup
from etude.distributed.exchange.peak import peak_update
from etude.errors import StorageError, shown
from etude.randomness import derive_seed
from etude.recipe_exchange import NONE, Compression
from etude.training.state.state import RunState

C = TypeVar("C", bound=Compression | None)


@dataclass(frozen=True)
class ExchangeSetting:
    """The run for which gradients are exchanged.

    Attributes:
        model: The network, not wrapped.
        optimizer: Its optimizer, whose state differs between processes under a local method.
        length: The number of updates in the run.
        peak: The update at which the schedule reaches its largest rate: the end of the warmup.
        seed: Equal in all processes.
        scaled: Whether the loss is scaled, so that the gradient of an update may be taken again.
    """

    model: nn.Module
    optimizer: Optimizer
    length: int
    peak: int
    seed: int = 0
    scaled: bool = False


def setting_of(state: RunState) -> ExchangeSetting:
    """Return what an exchange needs to know of a run."""
    return ExchangeSetting(
        state.model,
        state.optimizer,
        length=state.length,
        peak=peak_update(state.lr_schedule, state.length),
        seed=derive_seed(state.recipe.seed, "exchange"),
        scaled=state.recipe.precision == "float16",
    )


class Bucket(Protocol):
    """Gradients that DDP exchanges together: what a hook reads of torch's `GradBucket`."""

    def index(self) -> int:
        """Return its number."""

    def is_last(self) -> bool:
        """Return whether it is the last one of an update."""

    def buffer(self) -> Tensor:
        """Return all gradients, flat."""

    def gradients(self) -> list[Tensor]:
        """Return the gradients, as views of the buffer."""

    def parameters(self) -> list[Tensor]:
        """Return the parameters, in the same order."""


class GradientExchange(ABC, Generic[C]):
    """One way to exchange gradients, in one process of one run.

    `bind` or `prepare` comes first; then a state may be loaded, and `attach` registers the hook.

    Args:
        policy: The recipe's `compress`.
        group: The process group of the run.

    Attributes:
        group: Passes collectives on to the run's group, and counts what this process sends.
        step: The update whose gradients are computed next.
        told: What a user should know of the exchange, such as that its state is of another number
            of processes; empty for nothing.
        attached: Whether a wrapped model's gradients are exchanged by it.
    """

    setting: ExchangeSetting

    def __init__(self, policy: C, group: dist.ProcessGroup) -> None:
        self.policy = policy
        self.group = CountingGroup(group)
        self.step = 0
        self.told = ""
        self.attached = False
        self._names: dict[int, str] = {}
        self._under_way: list[Future[Tensor]] = []

    @property
    def size(self) -> int:
        """The number of processes."""
        return int(self.group.size())

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.setting.model.parameters()).device

    @property
    def bytes_sent(self) -> int:
        """What this process has sent for gradients and weights, in bytes."""
        return self.group.bytes_sent

    @property
    def apart(self) -> bool:
        """Whether each process trains weights of its own now."""
        return False

    def bind(self, state: RunState) -> None:
        """Prepare for a run, before its first update and before a state is loaded."""
        self.prepare(setting_of(state))

    def prepare(self, setting: ExchangeSetting) -> None:
        """Prepare for a run, whose weights are equal in all processes."""
        self.setting = setting
        self._names = {id(p): name for name, p in setting.model.named_parameters()}

    def attach(self, ddp: Any) -> None:
        """Take over the exchange of gradients of a model in `DistributedDataParallel`."""

        def exchanged(state: GradientExchange[C], bucket: Any) -> Any:
            state._under_way.append(future := state.exchange(bucket))
            return future

        exchanged.__annotations__.clear()  # torch compares them, and here they are texts
        ddp.register_comm_hook(self, exchanged)
        self.attached = True

    def names_in(self, bucket: Bucket) -> tuple[str, ...]:
        """Return the names of the parameters of a bucket, in its order."""
        return tuple(self._names[id(p)] for p in bucket.parameters())

    @abstractmethod
    def exchange(self, bucket: Bucket) -> Future[Tensor]:
        """Return the gradient to use for a bucket of this process's gradients."""

    def before_update(self, step: int) -> None:
        """Called before the gradients of an update are computed.

        Args:
            step: The update, counted from 0.
        """
        self.step = step
        self._under_way.clear()

    def go_back(self, factor: float) -> None:
        """Forget the gradient of an update, which overflowed in some process and is taken again.

        Args:
            factor: By what the scale of the loss was multiplied.
        """
        self.rescale(factor)
        self.before_update(self.step)

    def rescale(self, factor: float) -> None:
        """Multiply what was kept of gradients, as those that follow are scaled by that much more.

        Args:
            factor: A power of two.
        """

    def settle(self) -> None:
        """Wait until nothing of an update that an error has cut off is under way any more.

        A process group must not be freed before: what follows a collective would meet its end.
        """
        for future in self._under_way:
            with suppress(Exception):  # that of a process that has gone
                future.wait()
        self._under_way.clear()

    def after_update(self, step: int, model: nn.Module) -> None:
        """Called after an update.

        Args:
            step: The update, counted from 0.
            model: The model, not wrapped.
        """

    def judged(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which the model has the weights to evaluate."""
        return nullcontext()

    # ---- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all processes, from which a run continues to the bit.

        Every process must call it at the same update: the states are gathered.
        """
        return {
            "method": NONE if self.policy is None else repr(self.policy),
            "processes": self.size,
            "bytes": self.bytes_sent,
            "state": self.state(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore a state; one of another number of processes is shared out anew.

        Raises:
            StorageError: If it is of another method, or damaged.
        """
        own = NONE if self.policy is None else repr(self.policy)
        try:
            if saved["method"] != own:
                raise StorageError(
                    f"the checkpoint exchanged gradients by {shown(saved['method'])}, not {own}: "
                    "continue with the recipe that is saved with it"
                )
            before = int(saved["processes"])
            if before != self.size:
                self.told = (
                    f"the checkpoint is of {before} processes, this run has {self.size}: what each "
                    "had kept for itself is replaced by the mean over them"
                )
            self.group.bytes_sent = int(saved["bytes"])
            self.load(saved["state"], before)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise StorageError(
                f"the checkpoint is damaged: its exchange of gradients: {type(error).__name__}: "
                f"{error}"
            ) from error

    def state(self) -> dict[str, Any]:
        """Return what the method keeps, gathered from all processes."""
        return {}

    def load(self, saved: Mapping[str, Any], processes: int) -> None:
        """Restore what `state` returned in a run of so many processes."""


def mean_of(group: CountingGroup, bucket: Bucket) -> Future[Tensor]:
    """Return the mean of a bucket's gradients over the processes."""
    gradient = bucket.buffer().div_(group.size())
    work: Any = dist.all_reduce(gradient, group=group, async_op=True)
    return work.get_future().then(lambda done: done.value()[0])  # type: ignore[no-any-return]


def unchanged(bucket: Bucket) -> Future[Tensor]:
    """Return a bucket's own gradients: nothing is exchanged."""
    done: Future[Tensor] = Future()
    done.set_result(bucket.buffer())
    return done


def average(group: CountingGroup, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the means of tensors over the processes, by one collective for each type."""
    found: dict[int, Tensor] = {}
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        alike = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.detach().reshape(-1) for t in alike]).div_(group.size())
        dist.all_reduce(flat, group=group)
        parts = torch.split(flat, [t.numel() for t in alike])
        found |= {id(t): part.view_as(t) for t, part in zip(alike, parts, strict=True)}
    return [found[id(t)] for t in tensors]
