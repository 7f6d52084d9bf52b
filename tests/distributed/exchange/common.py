"""What the tests of the exchanges share: processes as threads over real gloo, and a small run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from etude.distributed.exchange.base import ExchangeSetting, GradientExchange
from etude.distributed.exchange.counting import CountingGroup
from etude.distributed.exchange.table import row_of
from etude.recipe_exchange import compression
from etude.storage.state_tree import flatten, unflatten
from tests.helpers import data

T = TypeVar("T")

LENGTH, PEAK, BATCH = 12, 2, 16

IDLE: dict[int, list[list[dist.ProcessGroup]]] = defaultdict(list)
"""The groups of all ranks that no test uses, by their number. A group has threads, sockets and
pipes of its own: making one for each test would use up what a process may open."""

ALIVE: list[list[dist.ProcessGroup]] = []
"""All groups, until this process ends: one that is freed while its own threads still let go of the
last callback aborts the process, and a rank may end while another still reads."""


class ThreadGroup(CountingGroup):
    """A rank in a thread: also passes on what DDP calls while it is built."""

    def getBackendName(self) -> str:  # noqa: N802 - DDP would look for gloo itself
        return "threads"

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> Any:
        return self.inner.broadcast(tensors, opts)

    def barrier(self, opts: Any = None) -> Any:
        return self.inner.barrier(opts)


def in_ranks(count: int, work: Callable[[dist.ProcessGroup], T]) -> list[T]:
    """Return what `work` returns in each of `count` ranks, which are threads of this process."""
    groups = IDLE[count].pop() if IDLE[count] else _met(count)
    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(lambda group: work(ThreadGroup(group)), groups))
    IDLE[count].append(groups)  # not where a rank has failed: others may still wait for it
    return found


def _met(count: int) -> list[dist.ProcessGroup]:
    """Return the groups of ranks that have just met."""
    store, seconds = dist.HashStore(), timedelta(seconds=30)
    with ThreadPoolExecutor(count) as pool:
        ranks = pool.map(
            lambda rank: dist.ProcessGroupGloo(store, rank, count, seconds), range(count)
        )
        groups = list(ranks)
    ALIVE.append(groups)
    return groups


def network(seed: int = 0, *, width: int = 48) -> nn.Module:
    with_bias = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
                              nn.Linear(width, 2))  # fmt: skip
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in with_bias.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) / max(1, p.shape[-1]) ** 0.5)
    return with_bias


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01),
}


@dataclass
class Replica:
    """A rank's run: a wrapped model, its optimizer, its exchange, and the losses so far."""

    group: dist.ProcessGroup
    compress: str | None
    optimizer_name: str = "adamw"
    length: int = LENGTH
    peak: int = PEAK
    step: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = network()
        self.optimizer = OPTIMIZERS[self.optimizer_name](self.model.parameters())
        policy = compression(self.compress)
        self.exchange: GradientExchange[Any] = row_of(policy).factory(policy, self.group)
        self.exchange.prepare(
            ExchangeSetting(self.model, self.optimizer, self.length, self.peak, seed=5)
        )
        self.ddp: DistributedDataParallel | None = None

    def train(self, until: int) -> Replica:
        if self.ddp is None:  # at the first update, after a state was loaded
            self.ddp = DistributedDataParallel(self.model, process_group=self.group)
            self.exchange.attach(self.ddp)
        x, y = data(400)
        size, rank = self.group.size(), self.group.rank()
        while self.step < until:
            first = (self.step * BATCH * size + rank * BATCH) % (400 - BATCH)
            batch = slice(first, first + BATCH)
            self.exchange.before_update(self.step)
            self.optimizer.zero_grad()
            loss = cross_entropy(self.ddp(x[batch]), y[batch])
            loss.backward()
            self.optimizer.step()
            self.exchange.after_update(self.step, self.model)
            self.losses.append(loss.item())
            self.step += 1
        return self

    def saved(self) -> dict[str, Any]:
        """Return the state as a checkpoint of the first rank gives it back."""
        tree = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "exchange": self.exchange.state_dict(),
        }
        copied: dict[str, Any] = unflatten(*flatten(tree))
        return copied

    def load(self, saved: dict[str, Any]) -> Replica:
        saved = unflatten(*flatten(saved))
        self.step = saved["step"]
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.exchange.load_state_dict(saved["exchange"])
        return self


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()
