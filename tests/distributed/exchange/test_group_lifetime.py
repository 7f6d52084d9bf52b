"""A group is not freed by its own threads, whatever these still hold."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from weakref import ref

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from etude.distributed.exchange.counting import CountingGroup
from etude.errors import WorldError
from tests.distributed.exchange.common import Replica, in_ranks

ROOT = Path(__file__).parents[3]

PROGRAM = """
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import torch
import torch.distributed as dist

from etude.distributed.exchange.counting import CountingGroup

store = dist.HashStore()
with ThreadPoolExecutor(2) as pool:
    groups = list(pool.map(
        lambda rank: dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=30)), range(2)
    ))
counting, other = map(CountingGroup, groups)
done = dist.all_reduce(torch.ones(3), group=counting, async_op=True).get_future()

def after(future, held=counting):
    time.sleep(0.5)  # the main thread lets go of everything first
    return future.value()[0]

followed = done.then(after)
dist.all_reduce(torch.ones(3), group=other)
del counting, after, done, pool
groups.clear()
time.sleep(1.0)  # what the thread holds is freed in between
print("ended with", followed.value().tolist())
"""


@pytest.mark.slow
def test_a_callback_that_holds_a_counting_group_may_end_last():
    """A thread that frees its own group waits for itself, and C++ aborts the process."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True, text=True, timeout=60, env=variables,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ended with [2.0, 2.0, 2.0]\n"), done.stderr


def test_a_counting_group_does_not_keep_its_group():
    group = dist.ProcessGroup(0, 1)
    counting, seen = CountingGroup(group), ref(group)
    assert counting.inner is group
    del group
    gc.collect()
    assert seen() is None
    with pytest.raises(WorldError, match=r"has ended.*train inside `with etude\.distributed"):
        counting.allreduce([torch.ones(2)])


class FirstBucket:
    """The gradients of one parameter, after which others should follow."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter, self.gradient = parameter, torch.ones_like(parameter)

    def index(self) -> int:
        return 0

    def is_last(self) -> bool:
        return False

    def buffer(self) -> Tensor:
        return self.gradient.flatten()

    def gradients(self) -> list[Tensor]:
        return [self.gradient]

    def parameters(self) -> list[Tensor]:
        return [self.parameter]


def test_gradients_that_wait_for_others_end_with_the_update_that_was_cut_off():
    def run(group):
        replica = Replica(group, "powersgd").train(4)
        exchange = replica.exchange
        exchange.before_update(4)
        later = exchange.exchange(FirstBucket(next(replica.model.parameters())))
        assert not later.done()
        exchange.settle()
        with pytest.raises(RuntimeError, match="an error has cut off the update"):
            later.wait()
        exchange.settle()  # a second time, there is nothing left
        replica.train(6)
        return replica.losses

    first, second = in_ranks(2, run)
    assert len(first) == len(second) == 6
