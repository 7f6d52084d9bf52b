"""Counts the bytes that a process sends, at the collective operations themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ref

import torch.distributed as dist
from torch import Tensor

from etude.errors import WorldError


class CountingGroup(dist.ProcessGroup):
    """A process group that counts what each collective of this process sends, and passes it on.

    Of a tensor of b bytes among n processes, in the ring algorithms that gloo and NCCL use for
    large tensors, a process sends

        all_reduce    2 b (n - 1) / n
        all_gather    b (n - 1)

    The tensors are those of the real calls, also of the calls in torch's own hooks. Headers of the
    network are not included. Other collectives are not passed on: torch raises an error for them.

    It does not keep the group alive. What follows a collective runs in a thread of the group, and
    holds what it works with until that thread lets go of it. If this were the last reference to the
    group, the thread would free the group, wait there for its own end, and abort the process.

    Args:
        inner: The group that does the work; whoever made it keeps it.

    Attributes:
        bytes_sent: What this process has sent, in bytes.
        calls: How many collectives it took part in.

    Source of the counts: Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms".
    """

    def __init__(self, inner: dist.ProcessGroup) -> None:
        super().__init__(inner.rank(), inner.size())  # type: ignore[call-arg]
        self._inner = ref(inner)
        self.bytes_sent = 0
        self.calls = 0

    @property
    def inner(self) -> dist.ProcessGroup:
        """The group that does the work.

        Raises:
            WorldError: If the process group has ended.
        """
        found = self._inner()
        if found is None:
            raise WorldError(
                "the process group has ended, and a run that exchanges gradients in it goes on: "
                "train inside `with etude.distributed.join() as world:`"
            )
        return found

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Any:  # type: ignore[override]
        """Sum tensors over the processes, in place."""
        self._count(2 * (self.size() - 1) / self.size(), tensors)
        return self.inner.allreduce(tensors, *_given(opts))

    def allgather(  # type: ignore[override]
        self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None
    ) -> Any:
        """Give every process the tensors of all."""
        self._count(self.size() - 1, inputs)
        return self.inner.allgather(outputs, inputs, *_given(opts))

    def getBackendName(self) -> str:  # noqa: N802 - torch's name
        """Return the name of the backend that does the work."""
        return backend_of(self.inner)

    def _count(self, factor: float, tensors: Sequence[Tensor]) -> None:
        self.bytes_sent += round(factor * sum(t.numel() * t.element_size() for t in tensors))
        self.calls += 1


def backend_of(group: Any) -> str:
    """Return the name of a group's backend, such as 'gloo'."""
    if isinstance(group, CountingGroup):
        return group.getBackendName()
    if not isinstance(group, dist.ProcessGroup):  # a backend itself, such as ProcessGroupGloo
        return str(group.name())
    return str(dist.get_backend(group))


def _given(opts: Any) -> tuple[Any, ...]:
    return () if opts is None else (opts,)
